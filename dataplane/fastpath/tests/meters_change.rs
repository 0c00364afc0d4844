//! Meters whose numbers change: each packet is charged by the old ones or by the new ones, and no change makes tokens.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod world;

use std::cell::Cell;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use turnpike_fastpath::change::{FlowNumbers, carried_due, carried_spent_ns, empty_due};
use turnpike_fastpath::entry::{Colour, EXACT_CLOCK, EXCESS, INTERIM, Interim};
use turnpike_fastpath::memory::MemoryTables;
use turnpike_fastpath::meter::{PoolRate, pool_rate};
use world::host::World;
use world::meter::{Hooked, Meters, START_NS, Shared, bytes_in};

const PACKET_BYTES_MAX: u32 = 1_508;

/// Rate and burst.
type Spec = (u64, u32);

/// A change as user space makes it, step by step: numbers aside, over to them, numbers in place, over to those.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Rest,
    Aside,
    InForce,
    Written,
}

/// A flow that changes, and the sender's own bucket, which keeps to the smaller specification.
struct Changing {
    world: World,
    meters: Meters,
    now_ns: u64,
    step: Step,
    next: Option<Spec>,
}

fn numbers(meters: &Meters, now_ns: u64) -> FlowNumbers {
    FlowNumbers { rate: meters.rate, now_ns }
}

impl Changing {
    fn new(spec: Spec) -> Self {
        let meters = Meters::new(spec, None);
        Self { world: World::new(), meters, now_ns: START_NS, step: Step::Rest, next: None }
    }

    fn conforms(&self, bytes: u64) -> bool {
        let tables = self.world.tables();
        tables.exact_ns.set(self.now_ns);
        self.meters.colour(&tables, bytes) == Some(Colour::Green)
    }

    /// Takes the next step of a change to these numbers.
    fn step(&mut self, spec: Spec) {
        let spec = *self.next.get_or_insert(spec);
        let like = Meters::new(spec, None);
        self.step = match self.step {
            Step::Rest => {
                self.world.config.interim = like.interim();
                Step::Aside
            }
            Step::Aside => {
                let to = numbers(&like, self.now_ns);
                let due = carried_due(self.meters.due(), &numbers(&self.meters, self.now_ns), &to) | INTERIM;
                self.meters.due.store(due, Ordering::Relaxed);
                Step::InForce
            }
            Step::InForce => {
                // In this order or another: nobody goes by them.
                self.meters.rate = like.rate;
                Step::Written
            }
            Step::Written => {
                self.meters.due.fetch_and(!INTERIM, Ordering::Relaxed);
                // The next change's; what stood there must not matter.
                self.world.config.interim = Meters::new((1_000_000_000_000, u32::MAX), None).interim();
                self.next = None;
                Step::Rest
            }
        };
    }
}

fn spec() -> impl Strategy<Value = Spec> {
    prop_oneof![(8_000_u64..1_000_000, 1_508_u32..8_000), (1_000_000_u64..400_000_000_000, 1_508_u32..2_000_000),]
}

proptest! {
    /// A sender that keeps to the smaller of two specifications loses nothing, however often and whenever one becomes the other, and however
    /// long a change stands still between its steps.
    #[test]
    fn what_conforms_to_the_smaller_specification_passes_all_changes(
        specs in (spec(), spec()),
        events in proptest::collection::vec((0_u64..100, 28_u64..1_508, 0_u8..4), 1..300),
    ) {
        let (one, other) = specs;
        let (rate_bps, burst_bytes) = (one.0.min(other.0), one.1.min(other.1));
        let mut changing = Changing::new(one);
        let full = u128::from(burst_bytes) * 8_000_000_000;
        let gap_ns = u64::from(burst_bytes) * 8_000_000_000 / rate_bps / 100;
        let (mut bucket, mut changes) = (full, 0);
        for (gap, bytes, steps) in events {
            let gap_ns = gap * gap_ns / 10;
            changing.now_ns += gap_ns;
            bucket = (bucket + u128::from(gap_ns) * u128::from(rate_bps)).min(full);
            // A packet's time is rounded up to a sixteenth of a nanosecond.
            let cost = u128::from(bytes) * 8_000_000_000 + u128::from(rate_bps) / 8 + 8_000_000_000;
            if cost <= bucket {
                bucket -= cost;
                prop_assert!(changing.conforms(bytes), "refused {bytes} after {changes} steps, in {:?}", changing.step);
            }
            for _ in 0..steps {
                changes += 1;
                changing.step(if (changes / 4) % 2 == 0 { other } else { one });
            }
        }
    }

    /// A greedy sender gets the integral of the rate that is in force, and one burst.
    #[test]
    fn a_greedy_flow_gets_the_integral_of_its_rates_and_one_burst(
        specs in proptest::collection::vec(spec(), 2..5),
        events in proptest::collection::vec((0_u64..100, 28_u64..1_508, 1_usize..30, 0_u8..4), 1..200),
    ) {
        let mut changing = Changing::new(specs[0]);
        let mut in_force = specs[0];
        let (mut earned, mut passed, mut changes) = (0_u128, 0_u64, 0_usize);
        // The most that any window may add to what the rate brings: the burst at its start. All windows that start with a full bucket.
        let mut window = (0_u128, 0_u64, in_force.1);
        for (gap, bytes, count, steps) in events {
            let gap_ns = gap * gap * 40_000;
            changing.now_ns += gap_ns;
            earned += u128::from(gap_ns) * u128::from(in_force.0);
            for _ in 0..count {
                passed += if changing.conforms(bytes) { bytes } else { 0 };
            }
            let since = ((earned - window.0) / 8_000_000_000) as u64;
            prop_assert!(passed - window.1 <= since + u64::from(window.2) + 1, "{passed} > {since} + {window:?}");
            for _ in 0..steps {
                let spec = specs[(1 + changes / 4) % specs.len()];
                changes += 1;
                changing.step(spec);
                if changing.step == Step::InForce {
                    in_force = spec;
                }
            }
            // A window that starts here has at most the burst that is in force, whatever there was before.
            if gap % 7 == 0 {
                window = (earned, passed, in_force.1);
            }
        }
    }

    /// Tokens are carried over in bytes, up to the new burst, between clocks as well.
    #[test]
    fn tokens_are_carried_over_in_bytes(from in spec(), to in spec(), spent in 0_u64..3_000_000, other_clock in 0_u64..1 << 56) {
        let (old, new) = (Meters::new(from, None), Meters::new(to, None));
        let spent = spent % u64::from(from.1);
        // A schedule that is so many bytes ahead of the clock.
        let due = (START_NS << 4) + ((u128::from(spent) * u128::from(old.rate.byte_cost)) >> 20) as u64;
        let (before, after) = (numbers(&old, START_NS), FlowNumbers { rate: new.rate, now_ns: other_clock });
        let carried = carried_due(due, &before, &after);
        prop_assert_eq!(carried & INTERIM, 0);
        let left_ns = other_clock + new.rate.burst_ns - (carried >> 4);
        let left = ((u128::from(left_ns) << 24) / u128::from(new.rate.byte_cost)) as u64;
        let wanted = u64::from(from.1 - spent as u32).min(to.1.into());
        // A nanosecond at either rate, and rounding.
        let slack = 2 + (from.0.max(to.0) / 4_000_000_000);
        prop_assert!(left <= wanted + slack && left + slack >= wanted, "{left} bytes, not {wanted}");
        // One that may send nothing yet waits for all of its burst.
        prop_assert_eq!(empty_due(&after) >> 4, other_clock + new.rate.burst_ns);
    }
}

/// An aggregate that changes.
struct Carrier {
    shared: Shared,
    interim: Interim,
    step: Step,
    next: Option<Spec>,
}

fn pool_interim(rate: &PoolRate) -> Interim {
    let PoolRate { quantum_bytes, quantum_ns, depth_ns, byte_cost, reserve_ns, .. } = *rate;
    Interim { quantum_bytes, quantum_ns, depth_ns, byte_cost, reserve_ns, ..Interim::default() }
}

impl Carrier {
    fn new((rate_bps, burst_bytes): Spec, cpus: u32) -> Self {
        let shared = Shared::new(rate_bps, burst_bytes, cpus);
        Self { shared, interim: Interim::default(), step: Step::Rest, next: None }
    }

    fn step(&mut self, spec: Spec, now_ns: u64) {
        let (rate_bps, burst_bytes) = *self.next.get_or_insert(spec);
        let to = pool_rate(rate_bps, burst_bytes, self.shared.shares.len() as u32, PACKET_BYTES_MAX).unwrap();
        self.step = match self.step {
            Step::Rest => {
                self.interim = pool_interim(&to);
                Step::Aside
            }
            Step::Aside => {
                let spent_ns = self.shared.pool.spent_ns.load(Ordering::Relaxed);
                let spent_ns = carried_spent_ns(spent_ns, now_ns, &self.shared.rate, &to) | INTERIM;
                self.shared.pool.spent_ns.store(spent_ns, Ordering::Relaxed);
                self.shared.rate = to;
                Step::InForce
            }
            Step::InForce => {
                let Shared { aggregate, pool, .. } = &mut self.shared;
                (aggregate.quantum_bytes, aggregate.quantum_ns) = (to.quantum_bytes, to.quantum_ns);
                (aggregate.depth_ns, pool.byte_cost, pool.reserve_ns) = (to.depth_ns, to.byte_cost, to.reserve_ns);
                Step::Written
            }
            Step::Written => {
                self.shared.pool.spent_ns.fetch_and(!INTERIM, Ordering::Relaxed);
                self.next = None;
                Step::Rest
            }
        };
    }
}

/// Tables at a moment in the midst of a change.
fn tables_of<'w>(world: &'w mut World, interim: Interim, now_ns: u64) -> MemoryTables<'w> {
    world.config.interim = interim;
    let tables = world.tables();
    tables.exact_ns.set(now_ns);
    tables
}

fn carrier_spec(cpus: u32) -> impl Strategy<Value = Spec> {
    (1_000_000_u64..10_000_000_000, 4 * PACKET_BYTES_MAX * cpus..400_000)
}

proptest! {
    /// Traffic that keeps to the smaller rate and half of the smaller burst is not refused by an aggregate that changes, wherever its packets
    /// land.
    #[test]
    fn an_aggregate_that_changes_passes_what_conforms_to_the_smaller_specification(
        (cpus, specs) in (1_u32..5).prop_flat_map(|cpus| (Just(cpus), (carrier_spec(cpus), carrier_spec(cpus)))),
        events in proptest::collection::vec((0_u64..100, 28_u64..1_508, 0_usize..4, 0_u8..4), 1..400),
    ) {
        let (one, other) = specs;
        let (rate_bps, burst_bytes) = (one.0.min(other.0), one.1.min(other.1));
        let (mut carrier, mut world) = (Carrier::new(one, cpus), World::new());
        let full = u128::from(burst_bytes / 2) * 8_000_000_000;
        let gap_ns = u64::from(burst_bytes) * 8_000_000_000 / rate_bps / 1_000;
        let (mut now_ns, mut bucket, mut changes) = (START_NS, full, 0);
        for (gap, bytes, cpu, steps) in events {
            now_ns += gap * gap_ns;
            bucket = (bucket + u128::from(gap * gap_ns) * u128::from(rate_bps)).min(full);
            let cost = u128::from(bytes) * 8_008_000_000;
            if cost <= bucket {
                bucket -= cost;
                let tables = tables_of(&mut world, carrier.interim, now_ns);
                let conforms = carrier.shared.green(&tables, cpu % cpus as usize, bytes);
                prop_assert!(conforms, "refused {bytes} after {changes} steps, in {:?}", carrier.step);
            }
            for _ in 0..steps {
                changes += 1;
                carrier.step(if (changes / 4) % 2 == 0 { other } else { one }, now_ns);
            }
        }
    }

    /// It passes the integral of its rates, its burst, and what each raise lets its pool hold more; and once its CPUs had larger quanta than
    /// now, what they still hold of them.
    #[test]
    fn an_aggregate_that_changes_passes_its_rates_its_burst_and_what_raises_give(
        (cpus, specs) in (1_u32..5).prop_flat_map(|cpus| (Just(cpus), proptest::collection::vec(carrier_spec(cpus), 2..5))),
        events in proptest::collection::vec((0_u64..100, 28_u64..1_508, 0_usize..4, 0_u8..4), 1..100),
    ) {
        let (mut carrier, mut world) = (Carrier::new(specs[0], cpus), World::new());
        let (mut in_force, mut now_ns) = (specs[0], START_NS);
        let (mut earned, mut passed, mut given, mut changes) = (0_u128, 0_u64, 0_u64, 0_usize);
        for (gap, bytes, cpu, steps) in events {
            // Up to the time in which the burst comes back, and mostly far less.
            let gap_ns = gap * gap * gap * u64::from(in_force.1) / in_force.0 * 8_000;
            now_ns += gap_ns;
            earned += u128::from(gap_ns) * u128::from(in_force.0);
            let tables = tables_of(&mut world, carrier.interim, now_ns);
            // On each CPU in turn until nothing is left.
            for packet in 0.. {
                let yellow = packet % 5 == 0 && carrier.shared.yellow(&tables, bytes);
                let green = carrier.shared.green(&tables, (cpu + packet / 40) % cpus as usize, bytes);
                passed += bytes * (u64::from(yellow) + u64::from(green));
                if !green && packet % 40 == 0 && packet > 160 {
                    break;
                }
            }
            let most = (earned / 8_000_000_000) as u64 + u64::from(specs[0].1) + given;
            prop_assert!(passed + carrier.shared.credit_bytes() <= most + 1 + changes as u64, "{passed} > {most}");
            for _ in 0..steps {
                let spec = specs[(1 + changes / 4) % specs.len()];
                changes += 1;
                let before = carrier.shared.rate;
                carrier.step(spec, now_ns);
                if carrier.step == Step::InForce {
                    let depth = |rate: &PoolRate, rate_bps| bytes_in(rate_bps, rate.depth_ns);
                    given += depth(&carrier.shared.rate, spec.0).saturating_sub(depth(&before, in_force.0)) + 4;
                    in_force = spec;
                }
            }
        }
    }
}

#[test]
fn a_packet_that_meets_a_change_is_charged_once_and_by_the_new_numbers() {
    // The old rate has room for one packet of 200 bytes, the new one for many.
    for (from, to, passes) in [((8_000, 200), (8_000_000, 20_000), true), ((8_000_000, 20_000), (8_000, 200), true)] {
        let (old, new) = (Meters::new(from, None), Meters::new(to, None));
        let mut world = World::new();
        world.config.interim = new.interim();
        let inner = world.tables();
        inner.exact_ns.set(START_NS);
        let done = Cell::new(false);
        // Between the packet's reading of the word and its compare-and-swap.
        let change = || {
            if !done.replace(true) {
                let due = carried_due(old.due(), &numbers(&old, START_NS), &numbers(&new, START_NS));
                old.due.store(due | INTERIM, Ordering::Relaxed);
            }
        };
        let tables = Hooked { inner, lost: Cell::new(0), before: change };
        assert_eq!(old.colour(&tables, 200).is_some(), passes, "{from:?} to {to:?}");
        assert!(done.get());
        let after = old.due();
        assert_eq!(after & INTERIM, INTERIM);
        // By the new numbers: the next state of a bucket of the smaller burst that one packet has left.
        let left_ns = START_NS + new.rate.burst_ns - ((after & !INTERIM) >> 4);
        let left = (u128::from(left_ns) << 24) / u128::from(new.rate.byte_cost);
        assert!(left <= 1, "{left} bytes are left of {from:?} to {to:?}");
    }
}

#[test]
fn interim_numbers_count_as_a_whole() {
    let own = (8_000_000, 20_000);
    let (green, yellow) = (Some(Colour::Green), Some(Colour::Yellow));
    let colours = |interim_flags| {
        let meters = Meters::new(own, Some(own));
        let interim = Meters::new((8_000_000, 400), Some((8_000_000, 200))).interim();
        let mut world = World::new();
        world.config.interim = Interim { flags: interim_flags, packet_bytes_min: 200, ..interim };
        for due in [&meters.due, &meters.detail.excess_due] {
            due.store(START_NS << 4 | INTERIM, Ordering::Relaxed);
        }
        let tables = world.tables();
        tables.exact_ns.set(START_NS);
        [(); 4].map(|()| meters.colour(&tables, 100))
    };
    // Bursts of two packets and of one, each counted as 200 bytes.
    assert_eq!(colours(EXACT_CLOCK | EXCESS), [green, green, yellow, None]);
    // The coarse clock stands at zero, when the meter is spent for long.
    assert_eq!(colours(EXCESS), [None; 4]);
}
