//! New headers before a payload that stays where it is.

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::Change;
use crate::entry::{NextHop, Port, mac_of_bits};
use crate::frame::{Frame, Wire};
use crate::parse::Network;
use crate::verdict::Reason;
use crate::wire::{ethernet, ipv4, ipv6, tag, udp, vlan};

/// Hops that a packet gets which carries another whole.
pub(crate) const HOPS: u8 = 64;

/// Network and UDP header.
#[derive(Clone, Copy, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Headers<N> {
    pub(crate) network: N,
    pub(crate) udp: udp::Header,
}

/// Bytes of the link header of frames that leave by this port.
#[inline(always)]
pub(crate) const fn link_bytes(port: &Port) -> usize {
    ethernet::HEADER_BYTES + (port.vlans_count & 3) as usize * vlan::HEADER_BYTES
}

/// Moves the beginning of the frame so that `new_bytes` bytes stand where `old_bytes` stood.
#[inline(always)]
pub(crate) fn make_room<F: Frame>(frame: &mut F, old_bytes: usize, new_bytes: usize) -> Result<(), Reason> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "headers are short")]
    let growth = new_bytes as i32 - old_bytes as i32;
    frame.grow_head(growth).map_err(|_| Reason::Internal)
}

/// Writes the link header of frames to this next hop.
#[inline(always)]
pub(crate) fn write_link<F: Frame>(
    frame: &mut F,
    port: &Port,
    next_hop: NextHop,
    ether_type: [u8; 2],
) -> Result<(), Reason> {
    let first = if port.vlans_count == 0 { ether_type } else { [port.vlans[0][0], port.vlans[0][1]] };
    let (destination, source) = (next_hop.mac(), mac_of_bits(port.mac_bits));
    put(frame, 0, ethernet::Header { destination, source, ether_type: first })?;
    if port.vlans_count == 0 {
        return Ok(());
    }
    let [[_, _, a, b], [c, d, e, f]] = port.vlans;
    let last = port.vlans_count == 1;
    let next = if last { ether_type } else { [c, d] };
    put(frame, ethernet::HEADER_BYTES, vlan::Header { control: [a, b], ether_type: next })?;
    if last {
        return Ok(());
    }
    put(frame, ethernet::HEADER_BYTES + vlan::HEADER_BYTES, vlan::Header { control: [e, f], ether_type })
}

/// What a network header becomes on its way.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    /// DSCP and ECN.
    pub(crate) class: u8,
    /// Bytes from the new network header to the end of the packet.
    pub(crate) total_length: u16,
    /// Folded change of the IP checksum, or the sum of what is always the same of a new header.
    pub(crate) ip_change: u16,
    pub(crate) hops: u8,
}

/// An IPv4 header: the old one changed, or a new one with the identification, flags and fragment offset of `word`.
#[inline(always)]
pub(crate) fn ipv4_from(
    old: Option<&ipv4::Header>,
    step: Step,
    word: u32,
    source: [u8; 4],
    destination: [u8; 4],
) -> ipv4::Header {
    let Step { class, total_length, ip_change, hops } = step;
    if let Some(old) = old {
        // Growth, hop and addresses are in `ip_change`.
        let change = Change::folded(ip_change).minus([old.version_ihl, old.tos]).plus([old.version_ihl, class]);
        return ipv4::Header {
            tos: class,
            total_length: U16::new(total_length),
            time_to_live: hops,
            checksum: change.apply(old.checksum),
            source,
            destination,
            ..*old
        };
    }
    let identification = ((word >> 16) as u16).to_be_bytes();
    #[allow(clippy::cast_possible_truncation, reason = "the lower half")]
    let fragment = U16::new(word as u16);
    let sum = Change::folded(ip_change)
        .plus([0, class])
        .plus(total_length.to_be_bytes())
        .plus(identification)
        .plus(fragment.to_bytes())
        .plus([hops, 0]);
    ipv4::Header {
        version_ihl: ipv4::VERSION_IHL,
        tos: class,
        total_length: U16::new(total_length),
        identification,
        fragment,
        time_to_live: hops,
        protocol: ipv4::UDP,
        checksum: sum.checksum(),
        source,
        destination,
    }
}

/// An IPv6 header. `flow_label` is the old one, or what stands for it.
#[inline(always)]
pub(crate) fn ipv6_from(step: Step, flow_label: u32, source: [u8; 16], destination: [u8; 16]) -> ipv6::Header {
    ipv6::Header {
        first: U32::new(ipv6::first(step.class, flow_label)),
        payload_length: U16::new(step.total_length.wrapping_sub(ipv6::HEADER_LENGTH)),
        next_header: ipv4::UDP,
        hop_limit: step.hops,
        source,
        destination,
    }
}

/// A network header whose packet is changed where it stands.
pub(crate) trait Rewrite: Network {
    /// Gives the packet at `at`, which has this header, another class and other hops.
    fn rewrite<F: Frame>(&self, frame: &mut F, at: usize, class: u8, hops: u8) -> Result<(), Reason>;

    /// Writes the packet's ends behind a tag.
    fn write_terminals<F: Frame>(
        &self,
        frame: &mut F,
        at: usize,
        word: tag::HeaderWord,
        udp: &udp::Header,
    ) -> Result<(), Reason>;
}

impl Rewrite for ipv4::Header {
    #[inline(always)]
    fn rewrite<F: Frame>(&self, frame: &mut F, at: usize, class: u8, hops: u8) -> Result<(), Reason> {
        let change = Change::NONE
            .minus([self.version_ihl, self.tos])
            .plus([self.version_ihl, class])
            .minus([self.time_to_live, self.protocol])
            .plus([hops, self.protocol]);
        let checksum = change.apply(self.checksum);
        put(frame, at, Self { tos: class, time_to_live: hops, checksum, ..*self })
    }

    #[inline(always)]
    fn write_terminals<F: Frame>(
        &self,
        frame: &mut F,
        at: usize,
        word: tag::HeaderWord,
        udp: &udp::Header,
    ) -> Result<(), Reason> {
        let Self { source, destination, .. } = *self;
        let udp::Header { source_port, destination_port, .. } = *udp;
        put(frame, at, tag::TerminalsV4 { word, source, destination, source_port, destination_port })
    }
}

impl Rewrite for ipv6::Header {
    #[inline(always)]
    fn rewrite<F: Frame>(&self, frame: &mut F, at: usize, class: u8, hops: u8) -> Result<(), Reason> {
        put(frame, at, Self { first: U32::new(ipv6::first(class, self.word())), hop_limit: hops, ..*self })
    }

    #[inline(always)]
    fn write_terminals<F: Frame>(
        &self,
        frame: &mut F,
        at: usize,
        word: tag::HeaderWord,
        udp: &udp::Header,
    ) -> Result<(), Reason> {
        let Self { source, destination, .. } = *self;
        let udp::Header { source_port, destination_port, .. } = *udp;
        put(frame, at, tag::TerminalsV6 { word, source, destination, source_port, destination_port })
    }
}

/// Writes a header where there must be room for it.
#[inline(always)]
pub(crate) fn put<F: Frame, W: Wire>(frame: &mut F, at: usize, header: W) -> Result<(), Reason> {
    *frame.at_mut(at).ok_or(Reason::Internal)? = header;
    Ok(())
}
