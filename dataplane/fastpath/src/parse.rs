//! From the first byte of a frame to its UDP header.

use core::ops::Deref;

use crate::classify::Addressed;
use crate::entry::mapped;
use crate::frame::Frame;
use crate::tables::Tables;
use crate::verdict::Reason;
use crate::wire::{ethernet, ipv4, ipv6, udp, vlan};

/// What stands before the network header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    /// Bytes of it, VLAN tags included.
    pub(crate) bytes: usize,
    pub(crate) ether_type: [u8; 2],
}

/// The link header of a frame; none if it ends before that.
#[inline(always)]
pub(crate) fn link<F: Frame, T: Tables>(frame: &F, tables: &T) -> Option<Link> {
    let mut ether_type = frame.at::<ethernet::Header>(0)?.ether_type;
    let mut bytes = ethernet::HEADER_BYTES;
    for _ in 0..vlan::TAGS_MAX {
        if ether_type != vlan::CUSTOMER && ether_type != vlan::SERVICE {
            break;
        }
        ether_type = frame.at::<vlan::Header>(bytes)?.ether_type;
        bytes += vlan::HEADER_BYTES;
    }
    // The ways without and with tags become one.
    #[allow(clippy::cast_possible_truncation, reason = "it was one")]
    let bytes = tables.unknown(bytes as u64) as usize;
    Some(Link { bytes, ether_type })
}

/// A network header, whichever its family.
pub(crate) trait Network: Addressed + Copy {
    /// Bytes of the header without options.
    const BYTES: u16;
    const V6: bool;

    /// DSCP and ECN.
    fn class(&self) -> u8;
    /// Hops left.
    fn hops(&self) -> u8;
    /// What headers of the other family cannot say; see [`crate::wire::tag::HeaderWord`].
    fn word(&self) -> u32;
    /// The source in sixteen bytes.
    fn source(&self) -> [u8; 16];
    /// The destination in sixteen bytes.
    fn destination(&self) -> [u8; 16];
    /// The header, if it is IPv4.
    fn as_v4(&self) -> Option<&ipv4::Header>;
    /// Whether the header is as its sender wrote it, as far as it says.
    fn is_intact(&self) -> bool;
}

impl Network for ipv4::Header {
    const BYTES: u16 = ipv4::HEADER_LENGTH;
    const V6: bool = false;

    #[inline(always)]
    fn class(&self) -> u8 {
        self.tos
    }

    #[inline(always)]
    fn hops(&self) -> u8 {
        self.time_to_live
    }

    #[inline(always)]
    fn word(&self) -> u32 {
        u32::from(u16::from_be_bytes(self.identification)) << 16 | u32::from(self.fragment.get())
    }

    #[inline(always)]
    fn source(&self) -> [u8; 16] {
        mapped(self.source)
    }

    #[inline(always)]
    fn destination(&self) -> [u8; 16] {
        mapped(self.destination)
    }

    #[inline(always)]
    fn as_v4(&self) -> Option<&ipv4::Header> {
        Some(self)
    }

    #[inline(always)]
    fn is_intact(&self) -> bool {
        self.sum().fold() == 0xffff
    }
}

impl Network for ipv6::Header {
    const BYTES: u16 = ipv6::HEADER_LENGTH;
    const V6: bool = true;

    #[inline(always)]
    fn class(&self) -> u8 {
        ipv6::traffic_class(self.first.get())
    }

    #[inline(always)]
    fn hops(&self) -> u8 {
        self.hop_limit
    }

    #[inline(always)]
    fn word(&self) -> u32 {
        self.first.get() & ipv6::FLOW_LABEL_MASK
    }

    #[inline(always)]
    fn source(&self) -> [u8; 16] {
        self.source
    }

    #[inline(always)]
    fn destination(&self) -> [u8; 16] {
        self.destination
    }

    #[inline(always)]
    fn as_v4(&self) -> Option<&ipv4::Header> {
        None
    }

    #[inline(always)]
    fn is_intact(&self) -> bool {
        true
    }
}

/// A copy of a header. Aligned, because the eBPF verifier takes no misaligned access to the stack.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Copied<H>(pub(crate) H);

impl<H> Deref for Copied<H> {
    type Target = H;

    #[inline(always)]
    fn deref(&self) -> &H {
        &self.0
    }
}

/// A whole UDP packet.
#[derive(Clone, Copy)]
pub(crate) struct Packet<H> {
    pub(crate) header: Copied<H>,
    pub(crate) udp: Copied<udp::Header>,
    /// Where the network header stands.
    pub(crate) at: usize,
    /// Where the UDP header stands.
    pub(crate) udp_at: usize,
    /// Bytes from the network header to the end of the packet.
    pub(crate) total_length: u16,
}

impl<H: Network> Packet<H> {
    /// Whether nothing stands between the headers.
    #[inline(always)]
    pub(crate) fn is_plain(&self) -> bool {
        self.udp_at == self.at + usize::from(H::BYTES)
    }
}

/// What a network header begins.
pub(crate) enum Parsed<H> {
    /// A whole UDP packet.
    Udp(Packet<H>),
    /// A fragment of any packet.
    Fragment(Copied<H>),
    /// Something else.
    Other(Copied<H>),
}

/// A network header that knows how to go on to the UDP header.
pub(crate) trait Parse: Network {
    /// What stands at `at`.
    fn parse<F: Frame, T: Tables>(frame: &F, tables: &T, at: usize) -> Result<Parsed<Self>, Reason>;
}

impl Parse for ipv4::Header {
    #[inline(always)]
    fn parse<F: Frame, T: Tables>(frame: &F, _: &T, at: usize) -> Result<Parsed<Self>, Reason> {
        let ip = Copied(*frame.at::<Self>(at).ok_or(Reason::Truncated)?);
        let total_length = ip.total_length.get();
        let header_bytes = u16::from(ip.version_ihl & 0xf) * 4;
        if ip.version_ihl >> 4 != 4 || header_bytes < ipv4::HEADER_LENGTH || total_length < header_bytes {
            return Err(Reason::BadLength);
        }
        if at + usize::from(total_length) > frame.len() {
            return Err(Reason::Truncated);
        }
        if ip.fragment.get() & ipv4::FRAGMENT_MASK != 0 {
            return Ok(Parsed::Fragment(ip));
        }
        if ip.protocol != ipv4::UDP {
            return Ok(Parsed::Other(ip));
        }
        datagram(frame, ip, at, at + usize::from(header_bytes), total_length, total_length - header_bytes)
    }
}

impl Parse for ipv6::Header {
    #[inline(always)]
    fn parse<F: Frame, T: Tables>(frame: &F, tables: &T, at: usize) -> Result<Parsed<Self>, Reason> {
        let ip = Copied(*frame.at::<Self>(at).ok_or(Reason::Truncated)?);
        if ip.first.get() >> 28 != 6 {
            return Err(Reason::BadLength);
        }
        let payload_length = ip.payload_length.get();
        let total_length = payload_length.checked_add(ipv6::HEADER_LENGTH).ok_or(Reason::Truncated)?;
        if at + usize::from(total_length) > frame.len() {
            return Err(Reason::Truncated);
        }
        let mut next_header = ip.next_header;
        let mut extension_bytes = 0_u16;
        for _ in 0..ipv6::EXTENSIONS_MAX {
            match next_header {
                ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::DESTINATION_OPTIONS => {}
                ipv6::FRAGMENT => return Ok(Parsed::Fragment(ip)),
                _ => break,
            }
            let place = at + ipv6::HEADER_BYTES + usize::from(extension_bytes);
            let extension = *frame.at::<ipv6::Extension>(place).ok_or(Reason::Truncated)?;
            next_header = extension.next_header;
            extension_bytes += (u16::from(extension.length) + 1) * 8;
            if extension_bytes > ipv6::EXTENSION_BYTES_MAX {
                return Ok(Parsed::Other(ip));
            }
        }
        if next_header != ipv4::UDP {
            return Ok(Parsed::Other(ip));
        }
        // Each number of headers came by a way of its own.
        #[allow(clippy::cast_possible_truncation, reason = "it was one")]
        let extension_bytes = tables.unknown(u64::from(extension_bytes)) as u16;
        let udp_length = payload_length.checked_sub(extension_bytes).ok_or(Reason::BadLength)?;
        datagram(frame, ip, at, at + ipv6::HEADER_BYTES + usize::from(extension_bytes), total_length, udp_length)
    }
}

#[inline(always)]
fn datagram<F: Frame, H>(
    frame: &F,
    header: Copied<H>,
    at: usize,
    udp_at: usize,
    total_length: u16,
    udp_length: u16,
) -> Result<Parsed<H>, Reason> {
    let udp = Copied(*frame.at::<udp::Header>(udp_at).ok_or(Reason::Truncated)?);
    if udp.length.get() != udp_length || udp_length < udp::HEADER_LENGTH {
        return Err(Reason::BadLength);
    }
    Ok(Parsed::Udp(Packet { header, udp, at, udp_at, total_length }))
}
