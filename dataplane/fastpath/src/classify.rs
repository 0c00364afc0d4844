//! Which flow a packet belongs to.
//!
//! A flow stands in one of two buckets of eight slots. A slot holds 32 bits of the hash and the flow's index, so a bucket is one
//! cache line and is compared without a branch; the full key is in the flow's own entry. User space sees to it that no two
//! flows in a bucket have the same 32 bits.

#[cfg(not(target_arch = "bpf"))]
use core::net::SocketAddr;

use crate::entry::{Bucket, Detail, Flow, INNER_V6, RTCP_NEXT_PORT};
#[cfg(not(target_arch = "bpf"))]
use crate::plan::Ends;
use crate::tables::Tables;
use crate::wire::{ipv4, ipv6, udp};

/// The 5-tuple of a UDP packet, in the bytes of the packet: what a flow is looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowKey {
    /// See [`Flow::addresses`].
    pub addresses: u64,
    /// See [`Flow::ports`].
    pub ports: u32,
}

impl FlowKey {
    /// Of these ends.
    #[cfg(not(target_arch = "bpf"))]
    #[must_use]
    pub fn new(seed: u64, ends: &Ends) -> Self {
        let ports = ports_of(ends.source.port().to_be_bytes(), ends.destination.port().to_be_bytes());
        let addresses = match (ends.source, ends.destination) {
            (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
                v4_addresses(source.ip().octets(), destination.ip().octets())
            }
            (SocketAddr::V6(source), SocketAddr::V6(destination)) => {
                digest(seed, &source.ip().octets(), &destination.ip().octets())
            }
            // No packet has such ends.
            _ => 0,
        };
        Self { addresses, ports }
    }

    /// Of an IPv4 packet with these headers.
    #[inline(always)]
    pub(crate) const fn of(ip: &ipv4::Header, udp: &udp::Header) -> Self {
        let addresses = v4_addresses(ip.source, ip.destination);
        Self { addresses, ports: ports_of(udp.source_port, udp.destination_port) }
    }
}

#[inline(always)]
const fn v4_addresses(source: [u8; 4], destination: [u8; 4]) -> u64 {
    // In words: put together byte by byte, they would be taken apart first.
    (u32::from_ne_bytes(destination) as u64) << 32 | u32::from_ne_bytes(source) as u64
}

#[inline(always)]
const fn ports_of(source: [u8; 2], destination: [u8; 2]) -> u32 {
    (u16::from_ne_bytes(destination) as u32) << 16 | u16::from_ne_bytes(source) as u32
}

/// The ports one below, where a packet to the next ports has its flow.
#[inline(always)]
const fn previous_ports(udp: &udp::Header) -> u32 {
    let source = u16::from_be_bytes(udp.source_port).wrapping_sub(1);
    let destination = u16::from_be_bytes(udp.destination_port).wrapping_sub(1);
    ports_of(source.to_be_bytes(), destination.to_be_bytes())
}

/// Two IPv6 addresses in 64 bits, in a way that nobody outside can foresee. Two pairs may have the same: the full addresses are compared too.
#[inline(always)]
fn digest(seed: u64, source: &[u8; 16], destination: &[u8; 16]) -> u64 {
    let mut mixed = seed;
    for half in [source, destination] {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *half;
        mixed = (mixed ^ u64::from_ne_bytes([a, b, c, d, e, f, g, h])).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^= mixed >> 29;
        mixed = (mixed ^ u64::from_ne_bytes([i, j, k, l, m, n, o, p])).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^= mixed >> 32;
    }
    mixed
}

/// A network header that says which flow its packet may be of.
pub(crate) trait Addressed {
    /// [`INNER_V6`] or 0.
    const FAMILY: u16;

    /// [`FlowKey::addresses`]
    fn addresses(&self, seed: u64) -> u64;

    /// Whether the addresses that the key stands for are this header's.
    fn are_of(&self, detail: Option<&Detail>) -> bool;
}

impl Addressed for ipv4::Header {
    const FAMILY: u16 = 0;

    #[inline(always)]
    fn addresses(&self, _: u64) -> u64 {
        v4_addresses(self.source, self.destination)
    }

    #[inline(always)]
    fn are_of(&self, _: Option<&Detail>) -> bool {
        true
    }
}

impl Addressed for ipv6::Header {
    const FAMILY: u16 = INNER_V6;

    #[inline(always)]
    fn addresses(&self, seed: u64) -> u64 {
        digest(seed, &self.source, &self.destination)
    }

    #[inline(always)]
    fn are_of(&self, detail: Option<&Detail>) -> bool {
        detail.is_some_and(|detail| detail.source == self.source && detail.destination == self.destination)
    }
}

/// A flow that a packet is of.
pub(crate) struct Found<'t> {
    pub(crate) index: u32,
    pub(crate) flow: &'t Flow,
    /// The packet is on the flow's next ports.
    pub(crate) next_port: bool,
}

/// Where to look for a key. Addresses and ports of a site follow one another, so all of their bits have to reach all of the hash: with
/// one round less, 16 ports on each of 65,536 neighbouring addresses fall into a quarter of the buckets.
#[must_use]
#[inline(always)]
pub const fn flow_hash(seed: u64, key: &FlowKey) -> u64 {
    let mixed = (key.addresses ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 32)).wrapping_add(key.ports as u64).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
}

/// What a slot remembers of a hash. Never zero.
#[must_use]
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the upper half of 64 bits")]
pub const fn fingerprint(hash: u64) -> u32 {
    (hash >> 32) as u32 | 1
}

/// The first bucket of a hash.
#[must_use]
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the lower half of 64 bits")]
pub const fn bucket_of(hash: u64, bucket_mask: u32) -> u32 {
    hash as u32 & bucket_mask
}

/// The other bucket of a fingerprint. The other bucket of that is the first again.
#[must_use]
#[inline(always)]
pub const fn alternative(bucket: u32, fingerprint: u32, bucket_mask: u32) -> u32 {
    (bucket ^ (fingerprint.wrapping_mul(0x5bd1_e995) >> 7 | 1)) & bucket_mask
}

/// The flow of a packet with these headers: on its own ports, or on the next ones of a flow that has its RTCP there.
#[inline(always)]
pub(crate) fn find_flow<'t, T: Tables, H: Addressed>(
    tables: &'t T,
    seed: u64,
    bucket_mask: u32,
    header: &H,
    udp: &udp::Header,
) -> Option<Found<'t>> {
    let addresses = header.addresses(seed);
    let mut ports = ports_of(udp.source_port, udp.destination_port);
    let mut next_port = false;
    loop {
        let key = FlowKey { addresses, ports };
        if let Some((index, flow)) = look_up(tables, seed, bucket_mask, &key) {
            let wanted = if next_port { H::FAMILY | RTCP_NEXT_PORT } else { H::FAMILY };
            let same = flow.addresses == addresses
                && flow.ports == ports
                && flow.flags & (INNER_V6 | wanted) == wanted
                && (H::FAMILY == 0 || header.are_of(tables.flow_detail(index)));
            if same {
                return Some(Found { index, flow, next_port });
            }
        }
        // RTP has the even port, so its RTCP an odd one (RFC 3550, section 11).
        if next_port || udp.destination_port[1] & 1 == 0 {
            return None;
        }
        ports = previous_ports(udp);
        next_port = true;
    }
}

#[inline(always)]
pub(crate) fn look_up<'t, T: Tables>(
    tables: &'t T,
    seed: u64,
    bucket_mask: u32,
    key: &FlowKey,
) -> Option<(u32, &'t Flow)> {
    let hash = flow_hash(seed, key);
    let fingerprint = fingerprint(hash);
    let first = bucket_of(hash, bucket_mask);
    let mut found = select(tables, tables.bucket(first)?, fingerprint);
    if found == 0 {
        found = select(tables, tables.bucket(alternative(first, fingerprint, bucket_mask))?, fingerprint);
    }
    let index = found.checked_sub(1)?;
    Some((index, tables.flow(index)?))
}

/// The index plus one in the slot with this fingerprint; 0 if there is none.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the lower half of 64 bits")]
fn select<T: Tables>(tables: &T, bucket: &Bucket, fingerprint: u32) -> u32 {
    // What the compiler knows to have 32 bits it would compare, and then branch.
    let wanted = tables.opaque(u64::from(fingerprint));
    let mut found = 0;
    for slot in bucket.slots {
        let differs = (slot >> 32) ^ wanted;
        // All ones where nothing differs: zero less one borrows from the top, and no other 32-bit number does.
        found |= slot & (differs.wrapping_sub(1) >> 32);
    }
    found as u32
}
