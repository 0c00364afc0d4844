//! Clocks that jump, and CPUs whose clocks differ: what they gain, which is nothing, and what they lose.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod world;

use std::sync::atomic::AtomicU64;

use proptest::prelude::*;
use turnpike_fastpath::entry::EXACT_CLOCK;
use turnpike_fastpath::meter::{Charge, charge_flow, flow_rate};
use world::host::World;
use world::meter::{START_NS, Shared, bytes_in};

const HOUR_NS: u64 = 3_600_000_000_000;

/// Time that goes by before a packet: mostly little, sometimes hours, and sometimes backwards.
fn steps() -> impl Strategy<Value = i64> {
    prop_oneof![
        8 => 0_i64..30_000_000,
        1 => 0_i64..5 * HOUR_NS as i64,
        1 => -(HOUR_NS as i64) / 100..0,
    ]
}

proptest! {
    /// Whatever the clock does: no more than the latest time that it showed brings, and the burst.
    #[test]
    fn a_clock_that_jumps_brings_nothing(
        rate_bps in 8_000_u64..10_000_000_000,
        cpus in 1_u32..5,
        packets in proptest::collection::vec((steps(), 28_u64..1_508, 0_usize..4), 1..300),
    ) {
        let world = World::new();
        let tables = world.tables();
        let rate = flow_rate(rate_bps, 3_016, 0).unwrap();
        let (due, shared) = (AtomicU64::new(0), Shared::new(rate_bps, 4 * 1_508 * cpus, cpus));
        let (mut now_ns, mut latest_ns, mut passed) = (START_NS, START_NS, [0, 0]);
        for (step, bytes, cpu) in packets {
            now_ns = now_ns.saturating_add_signed(step).max(START_NS);
            latest_ns = latest_ns.max(now_ns);
            tables.exact_ns.set(now_ns);
            if charge_flow(&tables, &rate, &due, EXACT_CLOCK, 0, bytes) == Charge::Conforms {
                passed[0] += bytes;
            }
            if shared.green(&tables, cpu % cpus as usize, bytes) {
                passed[1] += bytes;
            }
            let earned = bytes_in(rate_bps, latest_ns - START_NS) + 1;
            prop_assert!(passed[0] <= earned + 3_016, "flow: {} > {earned}", passed[0]);
            prop_assert!(passed[1] + shared.credit_bytes() <= earned + u64::from(4 * 1_508 * cpus), "aggregate: {passed:?}");
        }
    }

    /// A CPU whose clock is behind loses what its lateness is worth at the rate, and nothing more.
    #[test]
    fn a_cpu_that_is_behind_loses_its_lateness_and_nothing_more(
        rate_bps in 64_000_u64..10_000_000_000,
        cpus in 1_u32..5,
        behind_ns in proptest::collection::vec(0_u64..2_000_000, 4),
        packets in proptest::collection::vec((0_u64..30_000_000, 28_u64..1_508, 0_usize..4), 1..300),
    ) {
        let late = bytes_in(rate_bps, behind_ns.iter().copied().max().unwrap_or(0)) + 1;
        let world = World::new();
        let tables = world.tables();
        // Each has room for that beyond what the sender keeps to.
        let burst_bytes = u64::from(8 * 1_508 * cpus) + 2 * late;
        let rate = flow_rate(rate_bps, (6_032 + late) as u32, 0).unwrap();
        let (due, shared) = (AtomicU64::new(0), Shared::new(rate_bps, burst_bytes as u32, cpus));
        // The sender's own bucket, in bytes times 8e9.
        let full = 6_032 * 8_000_000_000_u128;
        let (mut now_ns, mut bucket) = (START_NS, full);
        for (gap_ns, bytes, cpu) in packets {
            now_ns += gap_ns;
            bucket = (bucket + u128::from(gap_ns) * u128::from(rate_bps)).min(full);
            // With what rounding costs: a byte in a quantum.
            let cost = u128::from(bytes) * 8_008_000_000;
            if cost <= bucket {
                bucket -= cost;
                let cpu = cpu % cpus as usize;
                tables.exact_ns.set(now_ns - behind_ns[cpu]);
                let charge = charge_flow(&tables, &rate, &due, EXACT_CLOCK, 0, bytes);
                prop_assert!(charge == Charge::Conforms, "flow: refused {bytes} at {}", now_ns - START_NS);
                prop_assert!(shared.green(&tables, cpu, bytes), "aggregate: refused {bytes} at {}", now_ns - START_NS);
            }
        }
    }
}

#[test]
fn a_clock_that_went_back_refuses_until_it_is_there_again() {
    let world = World::new();
    let tables = world.tables();
    let rate = flow_rate(80_000, 1_600, 0).unwrap();
    let due = AtomicU64::new(0);
    let passed = |now_ns, packets: u64| {
        tables.exact_ns.set(now_ns);
        let conforms = |_: &u64| charge_flow(&tables, &rate, &due, EXACT_CLOCK, 0, 200) == Charge::Conforms;
        (0..packets).filter(conforms).count()
    };
    assert_eq!(passed(START_NS + HOUR_NS, 20), 8);
    // Back by an hour: nothing for that hour, but for what the clock shows again.
    assert_eq!(passed(START_NS, 20), 0);
    assert_eq!(passed(START_NS + HOUR_NS - 1, 20), 0);
    assert_eq!(passed(START_NS + HOUR_NS + 100_000_000, 20), 5);
}
