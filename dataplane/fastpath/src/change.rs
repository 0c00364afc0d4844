//! What a meter's state becomes when its numbers change. User space's part of a change of rate; `docs/life-of-a-packet.md` states what holds.
//!
//! A state is a time, and what it is worth in bytes depends on the rate. Bytes are what is carried over.

use crate::entry::FlowRate;
use crate::meter::{DUE_BITS, PoolRate};

/// A flow's numbers, and what its clock shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowNumbers {
    /// What it may send.
    pub rate: FlowRate,
    /// Of the clock that its meter reads.
    pub now_ns: u64,
}

/// Where a flow's schedule stands under new numbers: it may send as many bytes at once as before, but no more than the new burst.
#[must_use]
pub fn carried_due(due: u64, from: &FlowNumbers, to: &FlowNumbers) -> u64 {
    let time = |numbers: &FlowNumbers| i128::from(numbers.now_ns) << DUE_BITS;
    let burst = |numbers: &FlowNumbers| i128::from(numbers.rate.burst_ns) << DUE_BITS;
    let ahead = (i128::from(due) - time(from)).max(0);
    // Below zero if packets have moved the schedule since the clock was read. Rounded down.
    let left = burst(from) - ahead;
    let left = (left * i128::from(to.rate.byte_cost)).div_euclid(i128::from(from.rate.byte_cost.max(1)));
    saturated(time(to) + burst(to) - left.min(burst(to)))
}

/// Where the schedule of a flow stands that may send nothing yet.
#[must_use]
pub fn empty_due(numbers: &FlowNumbers) -> u64 {
    (numbers.now_ns + numbers.rate.burst_ns) << DUE_BITS
}

/// Up to when a pool is spent under new numbers. It has as many bytes as before, and if it can hold more now, it is given the difference,
/// because the flows that are admitted to that start with full bursts; if less, what is too much is gone.
#[must_use]
pub fn carried_spent_ns(spent_ns: u64, now_ns: u64, from: &PoolRate, to: &PoolRate) -> u64 {
    let rescaled = |ns: i128| (ns * i128::from(to.byte_cost)).div_euclid(i128::from(from.byte_cost.max(1)));
    let left = (i128::from(now_ns) - i128::from(spent_ns)).min(from.depth_ns.into());
    let depth = i128::from(to.depth_ns);
    let more = (depth - rescaled(from.depth_ns.into())).max(0);
    saturated(i128::from(now_ns) - (rescaled(left) + more).min(depth))
}

fn saturated(value: i128) -> u64 {
    u64::try_from(value.max(0)).unwrap_or(u64::MAX) & !crate::entry::INTERIM
}
