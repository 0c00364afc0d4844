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

use crate::entry::{
    Aggregate, AggregateShare, Colour, Config, Detail, EXACT_CLOCK, EXCESS, FlowRate, INTERIM, Interim, Pool,
};
use crate::tables::Tables;
use crate::verdict::{Detour, Reason, Stop};
use core::sync::atomic::AtomicU64;

/// Fraction bits of [`FlowRate::byte_cost`].
pub const BYTE_COST_BITS: u32 = 24;

/// Fraction bits of a flow's schedule: sixteenths of a nanosecond, so that rounding a packet's cost up does not slow fast flows. With
/// [`INTERIM`] above them that leaves 18 years of uptime.
pub const DUE_BITS: u32 = 4;

/// Bits of a byte's cost that a schedule does not have.
const COST_SHIFT: u32 = BYTE_COST_BITS - DUE_BITS;

/// Tries of a compare-and-swap. Each failure means that another CPU's packet got through, or that user space changed the meter.
/// `docs/life-of-a-packet.md` says how many packets lose so many.
const TRIES: u32 = 6;

/// What became of a packet at a meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charge {
    /// It conforms, and was charged.
    Conforms,
    /// It is too much.
    Exceeds,
    /// Other CPUs' packets came first at each try.
    Contended,
    /// The meter goes by its interim numbers, which are not looked at here.
    Interim,
}

/// Charges `bytes` to a flow by the numbers of its own entry.
#[inline(always)]
pub fn charge_flow<T: Tables>(
    tables: &T,
    rate: &FlowRate,
    due: &AtomicU64,
    flags: u16,
    coarse_ns: u64,
    bytes: u64,
) -> Charge {
    let now_ns = if flags & EXACT_CLOCK == 0 { coarse_ns } else { tables.exact_ns() };
    let now = now_ns << DUE_BITS;
    let limit = (now_ns + rate.burst_ns) << DUE_BITS;
    let cost = cost(rate, bytes);
    for _ in 0..TRIES {
        let old = tables.load(due);
        let start = if old > now { old } else { now };
        let next = start + cost;
        // The bit is there if other numbers count now, and is far above any limit.
        if next > limit {
            return if old & INTERIM == 0 { Charge::Exceeds } else { Charge::Interim };
        }
        if tables.replace(due, old, next) {
            return Charge::Conforms;
        }
    }
    Charge::Contended
}

/// What bytes cost, as a schedule has it.
#[inline(always)]
const fn cost(rate: &FlowRate, bytes: u64) -> u64 {
    (bytes * rate.byte_cost + ((1 << COST_SHIFT) - 1)) >> COST_SHIFT
}

/// What a flow's packet counts.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// IP bytes, which count as the smallest packet's at least.
    pub length: u16,
    /// Bytes on top of that.
    pub extra_bytes: u64,
}

impl Size {
    #[inline(always)]
    fn counted(self, packet_bytes_min: u16) -> u64 {
        u64::from(self.length.max(packet_bytes_min)) + self.extra_bytes
    }
}

/// Charges a packet to a flow by the interim numbers of its rate or, where `excess`, of its excess.
///
/// If the entry's own numbers count again meanwhile, they are the same: between two changes of what counts there is a grace period. Unless the
/// change was taken back because it did not read back: then this packet is the last one that is charged by what was wanted.
#[inline(always)]
fn charge_interim<T: Tables>(tables: &T, due: &AtomicU64, excess: bool, coarse_ns: u64, size: Size) -> Charge {
    let Some(Config { interim, .. }) = tables.config() else { return Charge::Exceeds };
    let rate = if excess { &interim.excess } else { &interim.rate };
    let now_ns = if interim.flags & EXACT_CLOCK == 0 { coarse_ns } else { tables.exact_ns() };
    let now = now_ns << DUE_BITS;
    let limit = (now_ns + rate.burst_ns) << DUE_BITS;
    let cost = cost(rate, size.counted(interim.packet_bytes_min));
    let mut tries = tables.opaque(TRIES.into());
    while tries > 0 {
        tries -= 1;
        let old = tables.load(due);
        let next = (old & !INTERIM).max(now) + cost;
        if next > limit {
            return Charge::Exceeds;
        }
        if tables.replace(due, old, next | (old & INTERIM)) {
            return Charge::Conforms;
        }
    }
    Charge::Contended
}

/// The meter of a flow or a label.
#[derive(Debug, Clone, Copy)]
pub struct FlowMeter<'t> {
    /// What it may send.
    pub rate: &'t FlowRate,
    /// State of the meter.
    pub due: &'t AtomicU64,
    /// Of the entry: [`EXACT_CLOCK`] and [`EXCESS`].
    pub flags: u16,
    /// A smaller packet is counted as this many bytes.
    pub packet_bytes_min: u16,
}

impl FlowMeter<'_> {
    /// Charges a packet by the numbers that are in force.
    #[inline(always)]
    fn charge<T: Tables>(self, tables: &T, excess: bool, coarse_ns: u64, size: Size) -> Charge {
        let Self { rate, due, flags, packet_bytes_min } = self;
        match charge_flow(tables, rate, due, flags, coarse_ns, size.counted(packet_bytes_min)) {
            Charge::Interim => charge_interim(tables, due, excess, coarse_ns, size),
            charge @ (Charge::Conforms | Charge::Exceeds | Charge::Contended) => charge,
        }
    }
}

/// Charges a packet of a flow to the flow; its colour if it may go.
///
/// # Errors
/// Why it may not.
#[inline(always)]
pub fn colour<'t, T: Tables>(
    tables: &T,
    meter: FlowMeter<'_>,
    detail: impl FnOnce() -> Option<&'t Detail>,
    coarse_ns: u64,
    size: Size,
) -> Result<Colour, Reason> {
    let mut yellow = 0;
    match meter.charge(tables, false, coarse_ns, size) {
        Charge::Conforms => {}
        Charge::Contended => return Err(Reason::Contended),
        Charge::Exceeds | Charge::Interim if meter.flags & EXCESS == 0 => return Err(Reason::FlowOverRate),
        Charge::Exceeds | Charge::Interim => {
            let Some(Detail { excess, excess_due, .. }) = detail() else { return Err(Reason::Internal) };
            let meter = FlowMeter { rate: excess, due: excess_due, ..meter };
            if meter.charge(tables, true, coarse_ns, size) != Charge::Conforms {
                return Err(Reason::FlowOverRate);
            }
            yellow = 1;
        }
    }
    Ok(if tables.unknown(yellow) == 0 { Colour::Green } else { Colour::Yellow })
}

/// The same colour, of which the verifier does not know any more which it is: it need not follow what comes next for each.
#[inline(always)]
pub(crate) fn forgotten<T: Tables>(tables: &T, colour: Colour) -> Colour {
    if tables.unknown(colour as u64) == Colour::Green as u64 { Colour::Green } else { Colour::Yellow }
}

/// The same for a packet of `bytes` bytes that goes on to where all of this is looked at, unless it is plainly green or plainly too much.
#[inline(always)]
pub(crate) fn plain_colour<T: Tables>(
    tables: &T,
    meter: FlowMeter<'_>,
    coarse_ns: u64,
    bytes: u64,
    detour: Detour,
) -> Result<Colour, Stop> {
    let FlowMeter { rate, due, flags, .. } = meter;
    match charge_flow(tables, rate, due, flags, coarse_ns, bytes) {
        Charge::Conforms => Ok(Colour::Green),
        Charge::Exceeds if flags & EXCESS == 0 => Err(Stop::Reason(Reason::FlowOverRate)),
        Charge::Exceeds | Charge::Contended | Charge::Interim => Err(Stop::Detour(detour)),
    }
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
    charge_share(tables, aggregate, index, share, colour, bytes, over_rate)?;
    Ok(share)
}

/// The same where this CPU's share is known.
#[inline(always)]
pub(crate) fn charge_share<T: Tables>(
    tables: &T,
    aggregate: &Aggregate,
    index: u32,
    share: &AggregateShare,
    colour: Colour,
    bytes: u64,
    over_rate: Reason,
) -> Result<(), Reason> {
    share.tally.offer(bytes);
    let charge = match colour {
        Colour::Green => charge_aggregate(tables, aggregate, || tables.pool(index), share, bytes),
        Colour::Yellow => match tables.pool(index) {
            Some(pool) => charge_idle(tables, aggregate, pool, bytes),
            None => Charge::Exceeds,
        },
    };
    if charge == Charge::Conforms {
        return Ok(());
    }
    share.tally.drop(bytes);
    Err(if charge == Charge::Contended { Reason::Contended } else { over_rate })
}

/// Charges a yellow packet to what the pool has beyond its reserve; whether there is so much.
#[inline(always)]
pub fn charge_idle<T: Tables>(tables: &T, aggregate: &Aggregate, pool: &Pool, bytes: u64) -> Charge {
    let price = Price {
        cost_ns: idle_cost_ns(pool.byte_cost, bytes),
        depth_ns: aggregate.depth_ns,
        reserve_ns: pool.reserve_ns,
    };
    match spend(tables, pool, price) {
        Charge::Interim if spend_interim(tables, pool, None, bytes) > 0 => Charge::Conforms,
        Charge::Interim => Charge::Exceeds,
        charge @ (Charge::Conforms | Charge::Exceeds | Charge::Contended) => charge,
    }
}

/// What a yellow packet's bytes cost.
#[inline(always)]
const fn idle_cost_ns(byte_cost: u64, bytes: u64) -> u64 {
    (bytes * byte_cost + ((1 << BYTE_COST_BITS) - 1)) >> BYTE_COST_BITS
}

/// Charges `bytes` to an aggregate; whether they conform. The pool is looked up only when it is needed.
#[inline(always)]
pub fn charge_aggregate<'t, T: Tables>(
    tables: &T,
    aggregate: &Aggregate,
    pool: impl FnOnce() -> Option<&'t Pool>,
    share: &AggregateShare,
    bytes: u64,
) -> Charge {
    let mut credit = share.credit_bytes.get();
    if credit < bytes {
        let Aggregate { quantum_bytes, quantum_ns, depth_ns, .. } = *aggregate;
        // A quantum is at least the longest packet, so one is enough, but for an aggregate that has no rate.
        if credit + quantum_bytes < bytes {
            return Charge::Exceeds;
        }
        let Some(pool) = pool() else { return Charge::Exceeds };
        credit += match spend(tables, pool, Price { cost_ns: quantum_ns, depth_ns, reserve_ns: 0 }) {
            Charge::Conforms => quantum_bytes,
            Charge::Interim => match spend_interim(tables, pool, Some(credit), bytes) {
                0 => return Charge::Exceeds,
                bought => bought,
            },
            charge @ (Charge::Exceeds | Charge::Contended) => return charge,
        };
    }
    share.credit_bytes.set(credit - bytes);
    Charge::Conforms
}

/// What is to be taken from a pool.
#[derive(Clone, Copy)]
struct Price {
    cost_ns: u64,
    depth_ns: u64,
    /// What must be left.
    reserve_ns: u64,
}

/// Moves the time up to which a pool is spent by a price in the entry's own numbers.
#[inline(always)]
fn spend<T: Tables>(tables: &T, pool: &Pool, price: Price) -> Charge {
    let now_ns = tables.exact_ns();
    for _ in 0..TRIES {
        let old = tables.load(&pool.spent_ns);
        let next = price.next(old, now_ns);
        // The bit is there if other numbers count now, and is far above any time.
        if next + price.reserve_ns > now_ns {
            return if old & INTERIM == 0 { Charge::Exceeds } else { Charge::Interim };
        }
        if tables.replace(&pool.spent_ns, old, next) {
            return Charge::Conforms;
        }
    }
    Charge::Contended
}

impl Price {
    /// Up to when the pool is spent then. As sums, which cannot fall below zero soon after the clock's start.
    #[inline(always)]
    const fn next(self, spent_ns: u64, now_ns: u64) -> u64 {
        let from = if spent_ns + self.depth_ns > now_ns { spent_ns } else { now_ns - self.depth_ns };
        from + self.cost_ns
    }
}

/// Takes from a pool by the interim numbers: a quantum for a green packet, whose CPU has some `credit`, or what a yellow one costs; the bytes
/// that this bought, 0 if it did not.
///
/// If the entry's own numbers count again meanwhile, they are the same.
#[inline(always)]
fn spend_interim<T: Tables>(tables: &T, pool: &Pool, credit: Option<u64>, bytes: u64) -> u64 {
    let Some(Config { interim, .. }) = tables.config() else { return 0 };
    let Interim { quantum_bytes, quantum_ns, depth_ns, byte_cost, reserve_ns, .. } = *interim;
    let (bought, price) = match credit {
        Some(credit) if credit + quantum_bytes < bytes => return 0,
        Some(_) => (quantum_bytes, Price { cost_ns: quantum_ns, depth_ns, reserve_ns: 0 }),
        None => (bytes, Price { cost_ns: idle_cost_ns(byte_cost, bytes), depth_ns, reserve_ns }),
    };
    let now_ns = tables.exact_ns();
    let mut tries = tables.opaque(TRIES.into());
    while tries > 0 {
        tries -= 1;
        let old = tables.load(&pool.spent_ns);
        let next = price.next(old & !INTERIM, now_ns);
        if next + price.reserve_ns > now_ns {
            return 0;
        }
        if tables.replace(&pool.spent_ns, old, next | (old & INTERIM)) {
            return bought;
        }
    }
    0
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
