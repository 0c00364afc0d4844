//! Places flows in the buckets of the flow table. Packets look on meanwhile.

use turnpike_fastpath::entry::Bucket;
use turnpike_fastpath::plan::Ends;
use turnpike_fastpath::{FlowKey, alternative, bucket_of, fingerprint, flow_hash};

use crate::error::EngineError;
use crate::sys::grace_period;
use crate::table::Tables;

/// Where a flow's slot can be.
#[derive(Debug, Clone, Copy)]
struct Place {
    buckets: [u32; 2],
    fingerprint: u32,
}

fn place(tables: &Tables, seed: u64, ends: &Ends) -> Place {
    let mask = tables.bucket_mask();
    let hash = flow_hash(seed, &FlowKey::new(seed, ends));
    let fingerprint = fingerprint(hash);
    let first = bucket_of(hash, mask);
    Place { buckets: [first, alternative(first, fingerprint, mask)], fingerprint }
}

const fn slot_value(fingerprint: u32, index: u32) -> u64 {
    (fingerprint as u64) << 32 | (index as u64 + 1)
}

fn free_slot(bucket: &Bucket) -> Option<usize> {
    bucket.slots.iter().position(|slot| *slot == 0)
}

fn has_fingerprint(bucket: &Bucket, fingerprint: u32) -> bool {
    bucket.slots.iter().any(|slot| *slot >> 32 == u64::from(fingerprint))
}

/// Makes the flow of these ends known to packets.
pub(crate) fn publish(tables: &Tables, seed: u64, ends: &Ends, index: u32) -> Result<(), EngineError> {
    put(tables, seed, ends, index, grace_period)
}

/// Does the same in tables that no packet uses yet.
pub(crate) fn publish_unseen(tables: &Tables, seed: u64, ends: &Ends, index: u32) -> Result<(), EngineError> {
    put(tables, seed, ends, index, || {})
}

fn put(tables: &Tables, seed: u64, ends: &Ends, index: u32, wait: impl Fn()) -> Result<(), EngineError> {
    let place = place(tables, seed, ends);
    let contents = place.buckets.map(|bucket| tables.bucket(bucket));
    if contents.iter().any(|bucket| has_fingerprint(bucket, place.fingerprint)) {
        return Err(EngineError::HashCollision);
    }
    for (bucket, content) in place.buckets.iter().zip(&contents) {
        if let Some(slot) = free_slot(content) {
            tables.set_slot(*bucket, slot, slot_value(place.fingerprint, index));
            return Ok(());
        }
    }
    for (bucket, content) in place.buckets.iter().zip(&contents) {
        if let Some(slot) = displace(tables, *bucket, content, &wait) {
            tables.set_slot(*bucket, slot, slot_value(place.fingerprint, index));
            return Ok(());
        }
    }
    Err(EngineError::TableFull { table: "flow bucket", max: 16 })
}

/// Moves one flow of a full bucket to its other bucket and returns the slot that became free.
fn displace(tables: &Tables, bucket: u32, content: &Bucket, wait: &impl Fn()) -> Option<usize> {
    for (slot, value) in content.slots.into_iter().enumerate() {
        let fingerprint = u32::try_from(value >> 32).ok()?;
        let other = alternative(bucket, fingerprint, tables.bucket_mask());
        let there = tables.bucket(other);
        if other == bucket || has_fingerprint(&there, fingerprint) {
            continue;
        }
        if let Some(free) = free_slot(&there) {
            tables.set_slot(other, free, value);
            // A packet that looked there before it came must not find it gone here.
            wait();
            tables.set_slot(bucket, slot, 0);
            return Some(slot);
        }
    }
    None
}

/// Hides the flow of these ends from packets; whether it was to be found.
pub(crate) fn withdraw(tables: &Tables, seed: u64, ends: &Ends, index: u32) -> bool {
    let place = place(tables, seed, ends);
    let value = slot_value(place.fingerprint, index);
    let mut found = false;
    for bucket in place.buckets {
        for (slot, content) in tables.bucket(bucket).slots.into_iter().enumerate() {
            if content == value {
                tables.set_slot(bucket, slot, 0);
                found = true;
            }
        }
    }
    found
}

/// Whether packets find the flow of these ends at this index.
pub(crate) fn is_published(tables: &Tables, seed: u64, ends: &Ends, index: u32) -> bool {
    let place = place(tables, seed, ends);
    let value = slot_value(place.fingerprint, index);
    place.buckets.iter().any(|bucket| tables.bucket(*bucket).slots.contains(&value))
}
