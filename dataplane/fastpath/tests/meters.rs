//! What meters let through: never above rate × time + burst, and all of what conforms.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod world;

use proptest::prelude::*;
use std::sync::atomic::AtomicU64;
use turnpike_fastpath::entry::EXACT_CLOCK;
use turnpike_fastpath::memory::MemoryTables;
use turnpike_fastpath::meter::{Charge, charge_flow, flow_rate, pool_rate};
use world::host::World;
use world::meter::{START_NS, Shared, bytes_in};

/// Offers packets of these sizes with these gaps to a flow; bytes that passed, and time that went by. With a tick, the clock is the coarse
/// one, late by up to that much.
fn offer_flow(rate_bps: u64, burst_bytes: u32, tick_ns: Option<u64>, packets: &[(u64, u64)]) -> (u64, u64) {
    let world = World::new();
    let tables = world.tables();
    let rate = flow_rate(rate_bps, burst_bytes, tick_ns.unwrap_or(0)).unwrap();
    let due = AtomicU64::new(0);
    let (mut now_ns, mut passed) = (START_NS, 0);
    for (gap_ns, bytes) in packets {
        now_ns += gap_ns;
        tables.exact_ns.set(now_ns);
        let (flags, coarse_ns) = tick_ns.map_or((EXACT_CLOCK, 0), |tick_ns| (0, now_ns / tick_ns * tick_ns));
        if charge_flow(&tables, &rate, &due, flags, coarse_ns, *bytes) == Charge::Conforms {
            passed += bytes;
        }
    }
    (passed, now_ns - START_NS)
}

#[test]
fn a_flow_at_its_rate_loses_nothing_and_one_at_ten_times_its_rate_gets_its_rate() {
    for (rate_bps, bytes) in [(8_000, 60), (80_000, 200), (10_000_000, 1_400), (1_000_000_000, 1_400)] {
        let gap_ns = bytes * 8_000_000_000 / rate_bps;
        let conforming = vec![(gap_ns, bytes); 2_000];
        let (passed, _) = offer_flow(rate_bps, 8 * bytes as u32, None, &conforming);
        assert_eq!(passed, 2_000 * bytes, "{rate_bps} bit/s");
        let greedy = vec![(gap_ns / 10, bytes); 20_000];
        let (passed, duration_ns) = offer_flow(rate_bps, 8 * bytes as u32, None, &greedy);
        let allowed = bytes_in(rate_bps, duration_ns) + 8 * bytes;
        assert!(passed <= allowed, "{rate_bps} bit/s: {passed} > {allowed}");
        assert!(passed + bytes >= allowed - allowed / 1_000, "{rate_bps} bit/s: {passed} < {allowed}");
    }
}

#[test]
fn small_packets_of_a_fast_flow_get_their_rate() {
    for (rate_bps, bytes) in [(10_000_000_000, 64), (10_000_000_000, 1_400), (1_000_000_000, 64)] {
        let packets = vec![(5, bytes); 2_000_000];
        let (passed, duration_ns) = offer_flow(rate_bps, 100_000, None, &packets);
        let allowed = bytes_in(rate_bps, duration_ns) + 100_000;
        assert!(
            passed <= allowed && passed >= allowed - allowed / 500,
            "{rate_bps} bit/s, {bytes} bytes: {passed} of {allowed}"
        );
    }
}

#[test]
fn an_hour_of_silence_buys_one_burst_and_no_more() {
    let mut packets = vec![(3_600_000_000_000, 200)];
    packets.extend([(0, 200); 100]);
    let (passed, _) = offer_flow(80_000, 1_600, None, &packets);
    assert_eq!(passed, 1_600);
}

#[test]
fn rates_that_cannot_be_kept_are_refused() {
    assert_eq!(flow_rate(0, 1_000, 0), None);
    assert!(flow_rate(8_000, u32::MAX, 0).is_some());
    assert!(flow_rate(400_000_000_000, 1 << 20, 0).is_some());
    assert_eq!(pool_rate(0, 1 << 20, 2, 1_508), None);
    assert_eq!(pool_rate(1_000_000, 12_063, 2, 1_508), None);
    assert!(pool_rate(1_000_000, 12_064, 2, 1_508).is_some());
}

/// Whether a packet conforms that comes to this CPU then.
fn charge(tables: &MemoryTables<'_>, shared: &Shared, cpu: usize, now_ns: u64, bytes: u64) -> bool {
    tables.exact_ns.set(now_ns);
    shared.green(tables, cpu, bytes)
}

proptest! {
    /// The stated bound of a flow: in any time, rate × time + burst.
    #[test]
    fn a_flow_never_exceeds_its_rate_and_burst(
        rate_bps in 8_000_u64..10_000_000_000,
        packets in proptest::collection::vec((0_u64..50_000_000, 28_u64..1_500), 1..300),
    ) {
        let (passed, duration_ns) = offer_flow(rate_bps, 3_000, None, &packets);
        prop_assert!(passed <= bytes_in(rate_bps, duration_ns) + 3_000 + 1);
    }

    /// With the coarse clock the bound is larger by two ticks: one by which the clock is late, and one that is allowed for it.
    #[test]
    fn a_flow_with_the_coarse_clock_exceeds_its_rate_and_burst_by_two_ticks_at_most(
        rate_bps in 8_000_u64..10_000_000_000,
        packets in proptest::collection::vec((0_u64..50_000_000, 28_u64..1_500), 1..300),
    ) {
        let tick_ns = 4_000_000;
        let (passed, duration_ns) = offer_flow(rate_bps, 3_000, Some(tick_ns), &packets);
        prop_assert!(passed <= bytes_in(rate_bps, duration_ns + 2 * tick_ns) + 3_000 + 2);
    }

    /// What conforms by the exact clock passes by the coarse one.
    #[test]
    fn a_conforming_flow_does_not_suffer_from_the_coarse_clock(
        rate_bps in 8_000_u64..1_000_000_000,
        packets in proptest::collection::vec((0_u64..50_000_000, 28_u64..1_500), 1..300),
    ) {
        let world = World::new();
        let tables = world.tables();
        let (exact, coarse) = (flow_rate(rate_bps, 3_000, 0).unwrap(), flow_rate(rate_bps, 3_000, 4_000_000).unwrap());
        let (exact_due, coarse_due) = (AtomicU64::new(0), AtomicU64::new(0));
        let mut now_ns = START_NS;
        for (gap_ns, bytes) in packets {
            now_ns += gap_ns;
            tables.exact_ns.set(now_ns);
            if charge_flow(&tables, &exact, &exact_due, EXACT_CLOCK, 0, bytes) == Charge::Conforms {
                let coarse_ns = now_ns / 4_000_000 * 4_000_000;
                let charge = charge_flow(&tables, &coarse, &coarse_due, 0, coarse_ns, bytes);
                prop_assert!(charge == Charge::Conforms, "refused {bytes} at {now_ns}");
            }
        }
    }

    /// The stated bound of an aggregate on any number of CPUs: in any time, rate × time + burst, credit of all CPUs included.
    #[test]
    fn an_aggregate_never_exceeds_its_rate_and_burst(
        rate_bps in 64_000_u64..400_000_000_000,
        cpus in 1_u32..9,
        spare in 0_u32..200_000,
        packets in proptest::collection::vec((0_u64..20_000_000, 28_u64..1_508, 0_usize..8), 1..600),
    ) {
        let burst_bytes = 4 * cpus * 1_508 + spare;
        let (world, shared) = (World::new(), Shared::new(rate_bps, burst_bytes, cpus));
        let tables = world.tables();
        let (mut now_ns, mut passed) = (START_NS, 0);
        for (gap_ns, bytes, cpu) in packets {
            now_ns += gap_ns;
            if charge(&tables, &shared, cpu % cpus as usize, now_ns, bytes) {
                passed += bytes;
            }
        }
        let allowed = bytes_in(rate_bps, now_ns - START_NS) + u64::from(burst_bytes);
        prop_assert!(passed <= allowed + 1, "{passed} > {allowed}");
    }

    /// What admission relies on: traffic that keeps to the rate and half of the burst is never refused, wherever its packets land.
    #[test]
    fn an_aggregate_passes_all_that_conforms_to_half_its_burst(
        rate_bps in 64_000_u64..1_000_000_000,
        cpus in 1_u32..9,
        spare in 0_u32..200_000,
        packets in proptest::collection::vec((0_u64..20_000_000, 28_u64..1_508, 0_usize..8), 1..600),
    ) {
        let burst_bytes = 4 * cpus * 1_508 + spare;
        let (world, shared) = (World::new(), Shared::new(rate_bps, burst_bytes, cpus));
        let tables = world.tables();
        // The sender's own bucket, in bytes times 8e9 so that it is exact.
        let full = u128::from(burst_bytes / 2) * 8_000_000_000;
        let (mut now_ns, mut bucket) = (START_NS, full);
        for (gap_ns, bytes, cpu) in packets {
            now_ns += gap_ns;
            bucket = (bucket + u128::from(gap_ns) * u128::from(rate_bps)).min(full);
            let cost = u128::from(bytes) * 8_000_000_000;
            if cost <= bucket {
                bucket -= cost;
                // What rounding a quantum to whole nanoseconds may cost is a byte in a quantum.
                bucket = bucket.saturating_sub(cost / 1_000);
                prop_assert!(charge(&tables, &shared, cpu % cpus as usize, now_ns, bytes), "refused {bytes} at {now_ns}");
            }
        }
    }
}

#[test]
fn the_common_packet_takes_from_the_cpus_own_credit() {
    let (world, shared) = (World::new(), Shared::new(1_000_000_000, 1 << 20, 2));
    let tables = world.tables();
    assert!(charge(&tables, &shared, 0, START_NS, 200));
    let spent = shared.pool.spent_ns.load(std::sync::atomic::Ordering::Relaxed);
    for _ in 0..50 {
        assert!(charge(&tables, &shared, 0, START_NS, 200));
    }
    assert_eq!(shared.pool.spent_ns.load(std::sync::atomic::Ordering::Relaxed), spent, "the pool was touched again");
}
