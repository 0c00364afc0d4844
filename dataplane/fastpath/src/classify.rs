//! Which flow a packet belongs to.
//!
//! A flow stands in one of two buckets of eight slots. A slot holds 32 bits of the hash and the flow's index, so a bucket is one
//! cache line and is compared without a branch; the full key is in the flow's own entry. User space sees to it that no two
//! flows in a bucket have the same 32 bits.

use crate::entry::{Bucket, Flow, Inner};
use crate::tables::Tables;

/// The 5-tuple of a UDP packet, in the bytes of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowKey {
    addresses: u64,
    ports: u64,
}

impl FlowKey {
    /// Of these ends.
    #[must_use]
    #[inline(always)]
    pub const fn new(ends: &Inner) -> Self {
        let addresses = (u32::from_ne_bytes(ends.source) as u64) << 32 | u32::from_ne_bytes(ends.destination) as u64;
        let ports =
            (u16::from_ne_bytes(ends.source_port) as u64) << 16 | u16::from_ne_bytes(ends.destination_port) as u64;
        Self { addresses, ports }
    }
}

/// Where to look for a key. Addresses and ports of a site follow one another, so all of their bits have to reach all of the hash: with
/// one round less, 16 ports on each of 65,536 neighbouring addresses fall into a quarter of the buckets.
#[must_use]
#[inline(always)]
pub const fn flow_hash(seed: u64, key: &FlowKey) -> u64 {
    let mixed = (key.addresses ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 32)).wrapping_add(key.ports).wrapping_mul(0xff51_afd7_ed55_8ccd);
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

/// The flow of these ends and its index.
#[inline(always)]
pub(crate) fn find_flow<'t, T: Tables>(
    tables: &'t T,
    seed: u64,
    bucket_mask: u32,
    ends: &Inner,
) -> Option<(u32, &'t Flow)> {
    let hash = flow_hash(seed, &FlowKey::new(ends));
    let fingerprint = fingerprint(hash);
    let first = bucket_of(hash, bucket_mask);
    let mut found = select(tables, tables.bucket(first)?, fingerprint);
    if found == 0 {
        found = select(tables, tables.bucket(alternative(first, fingerprint, bucket_mask))?, fingerprint);
    }
    let index = found.checked_sub(1)?;
    let flow = tables.flow(index)?;
    let same = flow.source == ends.source
        && flow.destination == ends.destination
        && flow.source_port == ends.source_port
        && flow.destination_port == ends.destination_port;
    same.then_some((index, flow))
}

/// The index plus one in the slot with this fingerprint; 0 if there is none.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the lower half of 64 bits")]
fn select<T: Tables>(tables: &T, bucket: &Bucket, fingerprint: u32) -> u32 {
    let mut found = 0;
    for slot in bucket.slots {
        let differs = (slot >> 32) ^ u64::from(fingerprint);
        // All ones where nothing differs: zero less one borrows from the top, and no other 32-bit number does.
        let mask = tables.opaque(differs.wrapping_sub(1) >> 32);
        found |= slot & mask;
    }
    found as u32
}
