//! The two levels of meters. `docs/life-of-a-packet.md` states their bounds.
//!
//! A **flow** has a virtual schedule (GCRA, ITU-T I.371; equal to a token bucket): a packet costs time, and may be ahead of
//! the clock by the burst. Its state is one word in the flow's own cache line, moved by compare-and-swap.
//!
//! An **aggregate** is shared by all CPUs, so each CPU borrows a quantum of bytes from the shared pool and spends it alone: the
//! common packet reads no clock and touches no shared line. What CPUs may hold in credit was taken off the pool's depth, so
//! the sum never exceeds rate × time + burst.
//!
//! Both levels know **colours** (RFC 4115). What a flow's own rate does not admit its excess rate may, as yellow; a yellow packet is charged
//! to the pool at once, and only as long as it leaves there what green packets may need. So a flow borrows what its aggregate
//! has idle, and cannot take what another was promised.

use crate::entry::{Aggregate, AggregateShare, Colour, Detail, EXACT_CLOCK, EXCESS, FlowRate, Pool};
use crate::tables::Tables;
use crate::verdict::{Detour, Reason, Stop};
use core::sync::atomic::AtomicU64;

/// Fraction bits of [`FlowRate::byte_cost`].
pub const BYTE_COST_BITS: u32 = 24;

/// Fraction bits of a flow's schedule: sixteenths of a nanosecond, so that rounding a packet's cost up does not slow fast flows. Leaves
/// 36 years of uptime.
pub const DUE_BITS: u32 = 4;

/// Tries of a compare-and-swap before the packet is refused. Each failure means that another CPU's packet got through.
const TRIES: u32 = 4;

/// The same for a flow, whose packets are not to suffer from each other while they conform.
const FLOW_TRIES: u32 = 8;

/// Charges `bytes` to a flow; whether they conform.
#[inline(always)]
pub fn charge_flow<T: Tables>(
    tables: &T,
    rate: &FlowRate,
    due: &AtomicU64,
    flags: u16,
    coarse_ns: u64,
    bytes: u64,
) -> bool {
    const SHIFT: u32 = BYTE_COST_BITS - DUE_BITS;
    let now_ns = if flags & EXACT_CLOCK == 0 { coarse_ns } else { tables.exact_ns() };
    let now = now_ns << DUE_BITS;
    let limit = (now_ns + rate.burst_ns) << DUE_BITS;
    let cost = (bytes * rate.byte_cost + ((1 << SHIFT) - 1)) >> SHIFT;
    for _ in 0..FLOW_TRIES {
        let old = tables.load(due);
        let start = if old > now { old } else { now };
        let next = start + cost;
        if next > limit {
            return false;
        }
        if tables.replace(due, old, next) {
            return true;
        }
    }
    false
}

/// Charges a packet of a flow to the flow; its colour if it may go.
#[inline(always)]
pub(crate) fn colour<'t, T: Tables>(
    tables: &T,
    meter: FlowMeter<'_>,
    detail: impl FnOnce() -> Option<&'t Detail>,
    coarse_ns: u64,
    bytes: u64,
) -> Option<Colour> {
    let FlowMeter { rate, due, flags } = meter;
    let mut yellow = 0;
    if !charge_flow(tables, rate, due, flags, coarse_ns, bytes) {
        if flags & EXCESS == 0 {
            return None;
        }
        let Detail { excess, excess_due, .. } = detail()?;
        if !charge_flow(tables, excess, excess_due, flags, coarse_ns, bytes) {
            return None;
        }
        yellow = 1;
    }
    Some(if tables.unknown(yellow) == 0 { Colour::Green } else { Colour::Yellow })
}

/// The same for a packet that goes on to where it can be yellow if it is not green.
#[inline(always)]
pub(crate) fn plain_colour<T: Tables>(
    tables: &T,
    meter: FlowMeter<'_>,
    coarse_ns: u64,
    bytes: u64,
    detour: Detour,
) -> Result<Colour, Stop> {
    let FlowMeter { rate, due, flags } = meter;
    if charge_flow(tables, rate, due, flags, coarse_ns, bytes) {
        return Ok(Colour::Green);
    }
    Err(if flags & EXCESS == 0 { Stop::Reason(Reason::FlowOverRate) } else { Stop::Detour(detour) })
}

/// The meter of a flow or a label.
#[derive(Clone, Copy)]
pub(crate) struct FlowMeter<'t> {
    pub(crate) rate: &'t FlowRate,
    pub(crate) due: &'t AtomicU64,
    pub(crate) flags: u16,
}

/// Offers a packet of `bytes` bytes to an aggregate and charges it. Where it conforms, the share's tally is still to be settled; where not,
/// that is done, and the packet is refused for `over_rate`.
#[inline(always)]
pub(crate) fn charge_carrier<'t, T: Tables>(
    tables: &'t T,
    aggregate: &Aggregate,
    index: u32,
    colour: Colour,
    bytes: u64,
    over_rate: Reason,
) -> Result<&'t AggregateShare, Reason> {
    let share = tables.aggregate_share(index).ok_or(Reason::Internal)?;
    charge_share(tables, aggregate, index, share, colour, bytes).map_err(|()| over_rate)?;
    Ok(share)
}

/// The same where this CPU's share is known; an error if the packet does not conform.
#[inline(always)]
pub(crate) fn charge_share<T: Tables>(
    tables: &T,
    aggregate: &Aggregate,
    index: u32,
    share: &AggregateShare,
    colour: Colour,
    bytes: u64,
) -> Result<(), ()> {
    share.tally.offer(bytes);
    let conforms = match colour {
        Colour::Green => charge_aggregate(tables, aggregate, || tables.pool(index), share, bytes),
        Colour::Yellow => tables.pool(index).is_some_and(|pool| charge_idle(tables, aggregate, pool, bytes)),
    };
    if conforms {
        return Ok(());
    }
    share.tally.drop(bytes);
    Err(())
}

/// Charges a yellow packet to what the pool has beyond its reserve; whether there is so much.
#[inline(always)]
pub fn charge_idle<T: Tables>(tables: &T, aggregate: &Aggregate, pool: &Pool, bytes: u64) -> bool {
    let cost_ns = (bytes * pool.byte_cost + ((1 << BYTE_COST_BITS) - 1)) >> BYTE_COST_BITS;
    let now_ns = tables.exact_ns();
    let full_ns = now_ns.saturating_sub(aggregate.depth_ns);
    spend(tables, pool, full_ns, cost_ns, now_ns.saturating_sub(pool.reserve_ns))
}

/// Charges `bytes` to an aggregate; whether they conform. The pool is looked up only when it is needed.
#[inline(always)]
pub fn charge_aggregate<'t, T: Tables>(
    tables: &T,
    aggregate: &Aggregate,
    pool: impl FnOnce() -> Option<&'t Pool>,
    share: &AggregateShare,
    bytes: u64,
) -> bool {
    let credit = share.credit_bytes.get();
    if credit >= bytes {
        share.credit_bytes.set(credit - bytes);
        return true;
    }
    // Credit is below `bytes` and a quantum is at least the longest packet, so one quantum is enough.
    let credit = credit + aggregate.quantum_bytes;
    if credit < bytes || !pool().is_some_and(|pool| borrow(tables, aggregate, pool)) {
        return false;
    }
    share.credit_bytes.set(credit - bytes);
    true
}

/// Takes one quantum from the pool.
#[inline(always)]
fn borrow<T: Tables>(tables: &T, aggregate: &Aggregate, pool: &Pool) -> bool {
    let now_ns = tables.exact_ns();
    let full_ns = now_ns.saturating_sub(aggregate.depth_ns);
    spend(tables, pool, full_ns, aggregate.quantum_ns, now_ns)
}

/// Moves the time up to which a pool is spent, which counts from `full_ns` at least, but not past `limit_ns`.
#[inline(always)]
fn spend<T: Tables>(tables: &T, pool: &Pool, full_ns: u64, cost_ns: u64, limit_ns: u64) -> bool {
    for _ in 0..TRIES {
        let spent = tables.load(&pool.spent_ns);
        let from = if spent > full_ns { spent } else { full_ns };
        let next = from + cost_ns;
        if next > limit_ns {
            return false;
        }
        if tables.replace(&pool.spent_ns, spent, next) {
            return true;
        }
    }
    false
}

/// Nanoseconds of a byte, times 2^24, rounded up. A packet has at most 2^16 bytes, so it must stay below 2^48.
fn byte_cost(rate_bps: u64) -> Option<u64> {
    let cost = (8_000_000_000_u64 << BYTE_COST_BITS).div_ceil(Some(rate_bps).filter(|rate| *rate > 0)?);
    (cost < 1 << 48).then_some(cost)
}

/// How a flow's rate and burst are written for [`charge_flow`]. `allowance_ns` is added to the burst: the tick by which the
/// coarse clock may be late, or what the path's jitter may clump. None if the rate is zero or the numbers leave 64 bits.
#[must_use]
pub fn flow_rate(rate_bps: u64, burst_bytes: u32, allowance_ns: u64) -> Option<FlowRate> {
    let byte_cost = byte_cost(rate_bps)?;
    let burst_ns = (u128::from(burst_bytes) * u128::from(byte_cost)).div_ceil(1 << BYTE_COST_BITS);
    let burst_ns = u64::try_from(burst_ns).ok()?;
    Some(FlowRate { byte_cost, burst_ns: burst_ns.checked_add(allowance_ns)? })
}

/// The part of an [`Aggregate`] that its meter reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolRate {
    /// [`Aggregate::quantum_bytes`]
    pub quantum_bytes: u64,
    /// [`Aggregate::quantum_ns`]
    pub quantum_ns: u64,
    /// [`Aggregate::depth_ns`]
    pub depth_ns: u64,
    /// [`Pool::byte_cost`]
    pub byte_cost: u64,
    /// [`Pool::reserve_ns`]
    pub reserve_ns: u64,
    /// Most that yellow packets can have at once; 0 if the burst is too small for any.
    pub idle_bytes: u64,
}

impl PoolRate {
    /// The pool, full.
    #[must_use]
    pub fn pool(&self) -> Pool {
        Pool { byte_cost: self.byte_cost, reserve_ns: self.reserve_ns, ..Pool::default() }
    }
}

/// Largest quantum: above it a refill is no rarer in any way that counts.
const QUANTUM_BYTES_MAX: u64 = 16_384;

/// Smallest burst of an aggregate on `cpus` CPUs whose longest packet has `packet_bytes_max` bytes.
#[must_use]
pub const fn aggregate_burst_bytes_min(cpus: u32, packet_bytes_max: u32) -> u64 {
    4 * cpus as u64 * packet_bytes_max as u64
}

/// How an aggregate's rate and burst are written for [`charge_aggregate`]: the quantum is burst / (8 × CPUs), but at least a packet, which is at
/// most burst / (4 × CPUs); the pool's depth is what is left of the burst when every CPU holds a quantum. Green packets may need half of
/// the burst and that credit once more; yellow ones get what is beyond. None if the burst is below [`aggregate_burst_bytes_min`] or the
/// rate is zero or above 1 Tbit/s.
#[must_use]
pub fn pool_rate(rate_bps: u64, burst_bytes: u32, cpus: u32, packet_bytes_max: u32) -> Option<PoolRate> {
    let burst_bytes = u64::from(burst_bytes);
    if rate_bps == 0
        || rate_bps > 1_000_000_000_000
        || cpus == 0
        || burst_bytes < aggregate_burst_bytes_min(cpus, packet_bytes_max)
    {
        return None;
    }
    let cpus = u64::from(cpus);
    let most = burst_bytes / (4 * cpus);
    let wanted = (burst_bytes / (8 * cpus)).min(QUANTUM_BYTES_MAX).max(u64::from(packet_bytes_max)).min(most);
    // Whole nanoseconds, rounded up, then the bytes that they buy, rounded down, unless that is less than a packet: never above the
    // rate, and below it by at most one byte in a quantum.
    let quantum_ns = (wanted * 8_000_000_000).div_ceil(rate_bps);
    let bought = u128::from(quantum_ns) * u128::from(rate_bps) / 8_000_000_000;
    let quantum_bytes = u64::try_from(bought).ok()?.min(most).max(wanted);
    let ns = |bytes: u64| u64::try_from(u128::from(bytes) * 8_000_000_000 / u128::from(rate_bps)).ok();
    let depth_bytes = burst_bytes - cpus * quantum_bytes;
    let reserve_bytes = (burst_bytes / 2 + cpus * quantum_bytes).min(depth_bytes);
    let rate = PoolRate {
        quantum_bytes,
        quantum_ns,
        depth_ns: ns(depth_bytes)?,
        byte_cost: byte_cost(rate_bps)?,
        // Rounded up: the reserve is a promise.
        reserve_ns: ns(reserve_bytes)?.checked_add(1)?,
        idle_bytes: depth_bytes - reserve_bytes,
    };
    Some(rate)
}
