//! Meters on the host: tables whose clocks, compare-and-swap and interim numbers a test has in its hand, and CPUs that share a pool.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use turnpike_fastpath::entry::{
    Aggregate, AggregateShare, Bucket, Colour, Config, Detail, EXACT_CLOCK, EXCESS, Flow, FlowRate, FlowShare, Interim,
    LabelEntry, NextHop, Pool, Port, ReasonShare,
};
use turnpike_fastpath::memory::MemoryTables;
use turnpike_fastpath::meter::{
    Charge, FlowMeter, PoolRate, Size, charge_aggregate, charge_idle, colour, flow_rate, pool_rate,
};
use turnpike_fastpath::reception::Reception;
use turnpike_fastpath::{Route, Tables};

/// Some time after the start.
pub const START_NS: u64 = 1_000_000_000_000;

/// Bytes that a rate brings.
pub fn bytes_in(rate_bps: u64, duration_ns: u64) -> u64 {
    (u128::from(rate_bps) * u128::from(duration_ns) / 8_000_000_000) as u64
}

/// Tables in memory, but that so many tries of a compare-and-swap are lost, and that something happens before each.
pub struct Hooked<'m, B: Fn()> {
    pub inner: MemoryTables<'m>,
    pub lost: Cell<u32>,
    pub before: B,
}

macro_rules! forwarded {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $result:ty;)*) => {
        $(fn $name(&self $(, $argument: $kind)*) -> $result { self.inner.$name($($argument),*) })*
    };
}

impl<B: Fn()> Tables for Hooked<'_, B> {
    forwarded! {
        config() -> Option<&Config>;
        bucket(index: u32) -> Option<&Bucket>;
        flow(index: u32) -> Option<&Flow>;
        flow_detail(index: u32) -> Option<&Detail>;
        flow_share(index: u32) -> Option<&FlowShare>;
        label(index: u32) -> Option<&LabelEntry>;
        label_detail(index: u32) -> Option<&Detail>;
        label_share(index: u32) -> Option<&FlowShare>;
        reception(index: u32) -> Option<&Reception>;
        aggregate(index: u32) -> Option<&Aggregate>;
        pool(index: u32) -> Option<&Pool>;
        aggregate_share(index: u32) -> Option<&AggregateShare>;
        reason_share(row: u32) -> Option<&ReasonShare>;
        next_hop(index: u32) -> Option<NextHop>;
        port(index: u32) -> Option<&Port>;
        route(route: &Route<'_>) -> Option<NextHop>;
        exact_ns() -> u64;
        ticks() -> u64;
        load(word: &AtomicU64) -> u64;
        add(word: &AtomicU64, value: u64) -> ();
        opaque(value: u64) -> u64;
        unknown(value: u64) -> u64;
    }

    fn touch<E>(&self, entry: &E) {
        self.inner.touch(entry);
    }

    fn replace(&self, word: &AtomicU64, old: u64, new: u64) -> bool {
        (self.before)();
        if let Some(lost) = self.lost.get().checked_sub(1) {
            self.lost.set(lost);
            return false;
        }
        self.inner.replace(word, old, new)
    }
}

/// CPUs that take turns at one pool.
pub struct Shared {
    pub aggregate: Aggregate,
    pub pool: Pool,
    pub shares: Vec<AggregateShare>,
    pub rate: PoolRate,
}

impl Shared {
    pub fn new(rate_bps: u64, burst_bytes: u32, cpus: u32) -> Self {
        let rate = pool_rate(rate_bps, burst_bytes, cpus, 1_508).unwrap();
        Self {
            aggregate: Aggregate {
                quantum_bytes: rate.quantum_bytes,
                quantum_ns: rate.quantum_ns,
                depth_ns: rate.depth_ns,
                ..Aggregate::default()
            },
            pool: rate.pool(),
            shares: (0..cpus).map(|_| AggregateShare::default()).collect(),
            rate,
        }
    }

    /// Whether a green packet conforms by the exact clock of the tables.
    pub fn green<T: Tables>(&self, tables: &T, cpu: usize, bytes: u64) -> bool {
        charge_aggregate(tables, &self.aggregate, || Some(&self.pool), &self.shares[cpu], bytes) == Charge::Conforms
    }

    /// The same of a yellow one.
    pub fn yellow<T: Tables>(&self, tables: &T, bytes: u64) -> bool {
        charge_idle(tables, &self.aggregate, &self.pool, bytes) == Charge::Conforms
    }

    pub fn charge<T: Tables>(&self, tables: &T, cpu: usize, colour: Colour, bytes: u64) -> bool {
        match colour {
            Colour::Green => self.green(tables, cpu, bytes),
            Colour::Yellow => self.yellow(tables, bytes),
        }
    }

    pub fn credit_bytes(&self) -> u64 {
        self.shares.iter().map(|share| share.credit_bytes.get()).sum()
    }
}

/// A flow's two meters on the exact clock.
pub struct Meters {
    pub rate: FlowRate,
    pub due: AtomicU64,
    pub flags: u16,
    pub packet_bytes_min: u16,
    pub detail: Detail,
}

impl Meters {
    /// Rates in bits per second with bursts in bytes.
    pub fn new((rate_bps, burst_bytes): (u64, u32), excess: Option<(u64, u32)>) -> Self {
        let of = |(rate_bps, burst_bytes)| flow_rate(rate_bps, burst_bytes, 0).unwrap();
        Self {
            rate: of((rate_bps, burst_bytes)),
            due: AtomicU64::new(0),
            flags: EXACT_CLOCK | if excess.is_some() { EXCESS } else { 0 },
            packet_bytes_min: 28,
            detail: Detail {
                source: [0; 16],
                destination: [0; 16],
                excess: excess.map(of).unwrap_or_default(),
                excess_due: AtomicU64::new(0),
                reserved: 0,
            },
        }
    }

    pub fn colour<T: Tables>(&self, tables: &T, bytes: u64) -> Option<Colour> {
        let Self { rate, due, flags, packet_bytes_min, detail } = self;
        let meter = FlowMeter { rate, due, flags: *flags, packet_bytes_min: *packet_bytes_min };
        let size = Size { length: bytes as u16, extra_bytes: 0 };
        colour(tables, meter, || Some(detail), 0, size).ok()
    }

    /// The interim numbers of these meters.
    pub fn interim(&self) -> Interim {
        let Self { rate, flags, packet_bytes_min, .. } = *self;
        Interim { rate, excess: self.detail.excess, flags, packet_bytes_min, ..Interim::default() }
    }

    pub fn due(&self) -> u64 {
        self.due.load(Ordering::Relaxed)
    }
}

/// A small generator, so that a seed names all of a run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
