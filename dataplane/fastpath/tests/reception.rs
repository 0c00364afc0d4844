//! What is counted of an incoming flow's RTP packets, against a plain model and against RFC 3550's own arithmetic.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a test")]

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use proptest::prelude::*;
use turnpike_fastpath::reception::{Reception, ReceptionCounters, clock_factor, clock_rate_hz, observe};
use turnpike_fastpath::wire::rtp::Header;
use world::host::World;
use zerocopy::network_endian::{U16, U32};

const SOURCE: u32 = 0x1122_3344;
const OTHER: u32 = 0x5566_7788;

fn rtp(source: u32, sequence: u16, timestamp: u32) -> Header {
    Header {
        flags: 0x80,
        marker_type: 0,
        sequence: U16::new(sequence),
        timestamp: U32::new(timestamp),
        source: U32::new(source),
    }
}

/// One flow's packets, without jitter.
fn observed(packets: impl IntoIterator<Item = (u32, u16)>) -> Reception {
    let world = World::new();
    let tables = world.tables();
    let reception = Reception::default();
    for (source, sequence) in packets {
        observe(&tables, &reception, Some(&rtp(source, sequence, 0)), 0, false);
    }
    reception
}

/// Of one run of these numbers: lost, duplicated, reordered, unplaced, gaps, restarts, at the end.
fn run(sequences: impl IntoIterator<Item = u16>) -> [u64; 6] {
    figures(&observed(sequences.into_iter().map(|sequence| (SOURCE, sequence))).final_counters(0))
}

fn figures(counters: &ReceptionCounters) -> [u64; 6] {
    let ReceptionCounters {
        lost_packets, duplicated_packets, reordered_packets, unplaced_packets, gaps, restarts, ..
    } = *counters;
    [lost_packets, duplicated_packets, reordered_packets, unplaced_packets, gaps, restarts]
}

#[test]
fn in_order_nothing_is_counted_across_the_wrap() {
    assert_eq!(run((0..200_000_u32).map(|number| (number + 65_000) as u16)), [0; 6]);
    assert_eq!(run([]), [0; 6]);
    assert_eq!(run([7]), [0; 6]);
    assert_eq!(run([0, 1, 2]), [0; 6]);
}

#[test]
fn loss_is_counted_when_it_leaves_the_window_and_each_run_of_it_is_one_gap() {
    let with_gaps = |last: u16| (0..=last).filter(|number| !matches!(number, 10 | 20..=24 | 26));
    // 57 moves 25 out of the window and leaves 26 in it.
    let reception = observed(with_gaps(57).map(|number| (SOURCE, number)));
    assert_eq!(figures(&reception.counters(0)), [6, 0, 0, 0, 2, 0]);
    assert_eq!(figures(&reception.final_counters(0)), [7, 0, 0, 0, 3, 0]);
    let reception = observed(with_gaps(58).map(|number| (SOURCE, number)));
    assert_eq!(figures(&reception.counters(0)), [7, 0, 0, 0, 3, 0]);
    assert_eq!(figures(&reception.final_counters(0)), [7, 0, 0, 0, 3, 0]);
}

#[test]
fn jumps_within_at_the_edge_of_and_beyond_the_window_lose_what_they_skip() {
    for jump in [2_u16, 3, 31, 32, 33, 34, 64, 65, 2_999] {
        for start in [0_u16, 65_500] {
            let skipped = u64::from(jump - 1);
            assert_eq!(run([start, start.wrapping_add(jump)]), [skipped, 0, 0, 0, 1, 0], "{jump}");
            // The gap goes on where another begins right behind the first.
            let on = start.wrapping_add(jump).wrapping_add(1);
            assert_eq!(run([start, start.wrapping_add(jump), on]), [skipped, 0, 0, 0, 1, 0], "{jump}");
        }
    }
    // Two jumps with one packet between them: two gaps, whichever of them is beyond the window.
    for (first, second) in [(5, 5), (5, 50), (50, 5), (50, 50), (33, 33), (32, 32), (32, 33), (33, 32)] {
        let lost = u64::from(first - 1 + second - 1);
        assert_eq!(run([9, 9 + first, 9 + first + second]), [lost, 0, 0, 0, 2, 0], "{first} {second}");
    }
}

#[test]
fn a_late_packet_is_reordered_and_no_loss_and_the_same_again_a_duplicate() {
    assert_eq!(run([1, 2, 4, 3, 5]), [0, 0, 1, 0, 0, 0]);
    assert_eq!(run([1, 2, 4, 3, 3, 4, 5, 5, 1]), [0, 4, 1, 0, 0, 0]);
    assert_eq!(run([65_534, 1, 65_535, 0]), [0, 0, 2, 0, 0, 0]);
    // Of a gap of three the middle one comes: two gaps are left.
    assert_eq!(run([1, 5, 3]), [2, 0, 1, 0, 2, 0]);
    // The oldest place of the window, and the one behind it.
    assert_eq!(run([1, 34, 3]), [31, 0, 1, 0, 2, 0]);
    assert_eq!(run([1, 34, 2]), [32, 0, 0, 1, 1, 0]);
    // Before the run's first, nothing tells a packet from a duplicate.
    assert_eq!(run([10, 9, 11]), [0, 1, 0, 0, 0, 0]);
}

#[test]
fn another_source_or_a_jump_too_far_is_a_restart_and_closes_the_run() {
    assert_eq!(run([100, 3_099]), [2_998, 0, 0, 0, 1, 0]);
    assert_eq!(run([100, 3_100]), [0, 0, 0, 0, 0, 1]);
    assert_eq!(run([200, 101]), [0, 0, 0, 1, 0, 0]);
    assert_eq!(run([200, 100]), [0, 0, 0, 0, 0, 1]);
    let sources = [(SOURCE, 1), (SOURCE, 3), (OTHER, 3), (OTHER, 4), (SOURCE, 4)];
    assert_eq!(figures(&observed(sources).counters(0)), [1, 0, 0, 0, 1, 2]);
    // A source and a number that are zero are a start like any other.
    assert_eq!(figures(&observed([(0, 0), (0, 0)]).final_counters(0)), [0, 1, 0, 0, 0, 0]);
}

#[test]
fn what_is_no_rtp_is_counted_apart_and_leaves_the_run_alone() {
    let world = World::new();
    let tables = world.tables();
    let reception = Reception::default();
    observe(&tables, &reception, Some(&rtp(SOURCE, 1, 0)), 0, false);
    observe(&tables, &reception, None, 0, false);
    observe(&tables, &reception, Some(&Header { flags: 0x16, ..rtp(OTHER, 1, 0) }), 0, false);
    observe(&tables, &reception, Some(&Header { marker_type: 200, ..rtp(OTHER, 1, 0) }), 0, false);
    observe(&tables, &reception, Some(&rtp(SOURCE, 2, 0)), 0, false);
    let counters = reception.final_counters(0);
    assert_eq!(counters, ReceptionCounters { not_rtp_packets: 3, ..ReceptionCounters::default() });
}

#[test]
fn two_cpus_count_every_packet_once() {
    const ROUNDS: u32 = 20_000;
    const PACKETS: u32 = 8;
    const OTHERS: u32 = 64;
    // Which packets are lost and which come twice is decided by their number alone.
    let lost = |number: u32| number % 17 == 5 || number % 101 < 2;
    let twice = |number: u32| !lost(number) && number % 13 == 3;
    let reception = Reception::default();
    let arrived = AtomicU32::new(0);
    // The first is nobody's, so that the run begins with the lowest number.
    let last = 3 + ROUNDS * 2 * PACKETS;
    let observe_here = |number: u32| {
        let world = World::new();
        observe(&world.tables(), &reception, Some(&rtp(SOURCE, number as u16, 0)), 0, false);
    };
    observe_here(2);
    thread::scope(|scope| {
        for cpu in 0..2 {
            let (reception, arrived) = (&reception, &arrived);
            scope.spawn(move || {
                let world = World::new();
                let tables = world.tables();
                for round in 0..ROUNDS {
                    // Numbers of a round lie within half the window, so that none comes too late.
                    // A barrier that sleeps would let one run after the other.
                    arrived.fetch_add(1, Ordering::AcqRel);
                    let mut spins = 0_u32;
                    while arrived.load(Ordering::Acquire) < 2 * (round + 1) {
                        spins += 1;
                        if spins.is_multiple_of(10_000) {
                            thread::yield_now();
                        }
                        std::hint::spin_loop();
                    }
                    for _ in 0..OTHERS {
                        observe(&tables, reception, None, 0, false);
                    }
                    for packet in 0..PACKETS {
                        let number = 3 + round * 2 * PACKETS + 2 * packet + cpu;
                        for _ in 0..u32::from(!lost(number)) + u32::from(twice(number)) {
                            observe(&tables, reception, Some(&rtp(SOURCE, number as u16, 0)), 0, false);
                        }
                    }
                }
            });
        }
    });
    observe_here(last);
    let count = |is: &dyn Fn(u32) -> bool| (3..last).filter(|number| is(*number)).count() as u64;
    let (expected, missing, again) = (u64::from(last - 2 + 1), count(&lost), count(&twice));
    let counters = reception.final_counters(0);
    // Each packet has moved the window, or was a duplicate, or could not be placed because the other CPU was always faster: seldom.
    let sent = expected - missing + again;
    let placed = expected - counters.lost_packets;
    assert_eq!(placed + counters.duplicated_packets + counters.unplaced_packets, sent, "{counters:?}");
    assert!(counters.unplaced_packets < sent / 1_000, "{counters:?}");
    let more = counters.lost_packets - missing;
    let fewer = again - counters.duplicated_packets;
    assert_eq!(more + fewer, counters.unplaced_packets, "{counters:?}");
    assert_eq!(counters.restarts, 0);
    let gaps = count(&|number| lost(number) && !lost(number - 1));
    assert!(counters.gaps.abs_diff(gaps) <= more, "{counters:?}");
    assert_eq!(counters.not_rtp_packets, u64::from(2 * ROUNDS * OTHERS));
}

/// The same in plain words: sets of sequence numbers without wrap.
#[derive(Default)]
struct Model {
    /// Source, first and highest number, and what was seen, of the run in progress.
    run: Option<(u32, i64, i64, BTreeSet<i64>)>,
    counters: ReceptionCounters,
}

impl Model {
    fn observe(&mut self, source: u32, sequence: u16) {
        if let Some((of, first, highest, seen)) = &mut self.run
            && *of == source
        {
            let distance = i64::from(sequence.wrapping_sub(*highest as u16).cast_signed());
            let number = *highest + distance;
            match distance {
                1..3_000 => {
                    *highest = number;
                    seen.insert(number);
                    return;
                }
                -31..=0 if number < *first || seen.contains(&number) => {
                    self.counters.duplicated_packets += 1;
                    return;
                }
                -31..=0 => {
                    seen.insert(number);
                    self.counters.reordered_packets += 1;
                    return;
                }
                -99..-31 => {
                    self.counters.unplaced_packets += 1;
                    return;
                }
                _ => {}
            }
        }
        if self.close() {
            self.counters.restarts += 1;
        }
        let number = i64::from(sequence);
        self.run = Some((source, number, number, BTreeSet::from([number])));
    }

    /// Ends the run, if there is one.
    fn close(&mut self) -> bool {
        let Some((_, first, highest, seen)) = self.run.take() else { return false };
        self.counters.lost_packets += (first..=highest).filter(|number| !seen.contains(number)).count() as u64;
        self.counters.gaps +=
            (first..=highest).filter(|number| !seen.contains(number) && seen.contains(&(number - 1))).count() as u64;
        true
    }
}

/// What happens to a stream, packet by packet.
#[derive(Debug, Clone)]
enum Event {
    Packets(u16),
    Skip(u16),
    Back(u16),
    Source(u32),
    Jump(u16),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (1_u16..60).prop_map(Event::Packets),
        4 => (1_u16..70).prop_map(Event::Skip),
        1 => (1_u16..3_100).prop_map(Event::Skip),
        6 => (0_u16..34).prop_map(Event::Back),
        1 => (0_u16..120).prop_map(Event::Back),
        1 => prop_oneof![Just(SOURCE), Just(OTHER), Just(0)].prop_map(Event::Source),
        1 => any::<u16>().prop_map(Event::Jump),
    ]
}

/// The packets of these events: each is the source and the number.
fn packets(start: u16, events: &[Event]) -> Vec<(u32, u16)> {
    let (mut source, mut next) = (SOURCE, start);
    let mut packets = Vec::new();
    for event in events {
        match event {
            Event::Packets(count) => {
                for _ in 0..*count {
                    packets.push((source, next));
                    next = next.wrapping_add(1);
                }
            }
            Event::Skip(count) => next = next.wrapping_add(*count),
            Event::Back(count) => packets.push((source, next.wrapping_sub(1).wrapping_sub(*count))),
            Event::Source(other) => source = *other,
            Event::Jump(to) => next = *to,
        }
    }
    packets
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Any loss, duplication, order, wrap and restart: what is counted is what sets of numbers say.
    #[test]
    fn the_window_counts_what_the_model_counts(
        start in prop_oneof![any::<u16>(), 65_400_u16..=65_535],
        events in proptest::collection::vec(event(), 1..80),
    ) {
        let packets = packets(start, &events);
        let mut model = Model::default();
        for (source, sequence) in &packets {
            model.observe(*source, *sequence);
        }
        model.close();
        prop_assert_eq!(observed(packets).final_counters(0), model.counters);
    }

    /// Shuffled within the window, lost and doubled at random: nothing is unplaced, and every loss is counted.
    #[test]
    fn whatever_the_order_within_the_window_loss_and_duplicates_are_exact(
        start: u16,
        packets in proptest::collection::vec((0_u8..10, 0_u16..31, 0_u16..31), 32..300),
    ) {
        let (mut arrivals, mut lost, mut duplicated) = (BTreeMap::new(), 0, 0);
        for (number, (fate, delay, again)) in (0_u16..).zip(&packets) {
            // The first and the last come, and in their places.
            let ends = number == 0 || usize::from(number) == packets.len() - 1;
            let delay = if ends { 0 } else { *delay };
            match fate {
                0 if !ends => lost += 1,
                1 if !ends => {
                    duplicated += 1;
                    arrivals.insert((number + delay, number, 0), number);
                    arrivals.insert((number + again, number, 1), number);
                }
                _ => { arrivals.insert((number + delay, number, 0), number); }
            }
        }
        let counters = observed(arrivals.into_values().map(|number| (SOURCE, start.wrapping_add(number)))).final_counters(0);
        prop_assert_eq!((counters.lost_packets, counters.duplicated_packets), (lost, duplicated));
        prop_assert_eq!((counters.unplaced_packets, counters.restarts), (0, 0));
    }
}

/// Jitter of packets (sequence number, timestamp, arrival) and the estimate of RFC 3550 A.8's own lines, 16 × in ticks.
fn jitter(clock_rate_hz: u32, every_packet: bool, packets: &[(u16, u32, u64)]) -> (ReceptionCounters, u64) {
    let world = World::new();
    let tables = world.tables();
    let reception = Reception::default();
    let factor = clock_factor(clock_rate_hz);
    let (mut last, mut estimate) = (None, 0_i64);
    for (sequence, timestamp, arrival_ns) in packets {
        tables.exact_ns.set(*arrival_ns);
        observe(&tables, &reception, Some(&rtp(SOURCE, *sequence, *timestamp)), factor, every_packet);
        let arrival = ((u128::from(*arrival_ns) * u128::from(factor)) >> 32) as u32;
        let transit = arrival.wrapping_sub(*timestamp);
        if let Some(last) = last.replace(transit) {
            let change = i64::from(transit.wrapping_sub(last).cast_signed()).abs();
            estimate += change - ((estimate + 8) >> 4);
        }
    }
    (reception.final_counters(clock_rate_hz), estimate as u64)
}

fn in_ns(estimate: u64, clock_rate_hz: u32) -> u64 {
    (u128::from(estimate) * 1_000_000_000 / 16 / u128::from(clock_rate_hz)) as u64
}

/// 20 ms packets with these delays.
fn delayed(clock_rate_hz: u32, start_ns: u64, delays_ns: &[u64]) -> Vec<(u16, u32, u64)> {
    let samples = clock_rate_hz / 50;
    (0_u32..)
        .zip(delays_ns)
        .map(|(number, delay_ns)| {
            let timestamp = number.wrapping_mul(samples).wrapping_add(0xffff_f000);
            (number as u16, timestamp, start_ns + u64::from(number) * 20_000_000 + delay_ns)
        })
        .collect()
}

#[test]
fn a_factor_is_the_rate_in_ticks_per_nanosecond() {
    assert_eq!(clock_factor(0), 0);
    assert_eq!(clock_factor(8_000), 34_360);
    assert_eq!(clock_factor(90_000), 386_547);
    assert_eq!(clock_factor(999_999_999), 4_294_967_292);
    assert_eq!(clock_factor(1_000_000_000), 0);
}

#[test]
fn jitter_is_that_of_a_known_stream() {
    // Every other packet 5 ms late: all differences are 5 ms, and so is the mean.
    let delays: Vec<_> = (0..2_000).map(|number| if number % 2 == 0 { 0 } else { 5_000_000 }).collect();
    let (counters, _) = jitter(8_000, true, &delayed(8_000, 1 << 40, &delays));
    assert_eq!(counters.jitter_ns.map(|jitter_ns| jitter_ns.abs_diff(5_000_000) < 125_000), Some(true), "{counters:?}");
    // Without a clock rate there is none, and what was not measured is not zero.
    assert_eq!(jitter(0, true, &delayed(8_000, 1 << 40, &delays)).0.jitter_ns, None);
    assert_eq!(jitter(8_000, false, &delayed(8_000, 1 << 40, &delays)[1..9]).0.jitter_ns, None);
}

#[test]
fn sampled_jitter_estimates_the_same_where_delays_are_independent() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let delays: Vec<_> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % 12_000_000
    })
    .take(20_000)
    .collect();
    // Two numbers from 0 to 12 differ by 4 in the mean. The estimate's own deviation is an eighth of that.
    let packets = delayed(8_000, 1 << 40, &delays);
    for every_packet in [true, false] {
        let measured: Vec<_> = (8_000..20_000)
            .step_by(500)
            .map(|count| jitter(8_000, every_packet, &packets[..count]).0.jitter_ns.unwrap())
            .collect();
        let mean_ns = measured.iter().sum::<u64>() / measured.len() as u64;
        assert!(mean_ns.abs_diff(4_000_000) < 400_000, "every packet: {every_packet}, {mean_ns} ns");
    }
}

#[test]
fn a_new_source_or_another_media_clock_is_no_jitter() {
    let world = World::new();
    let tables = world.tables();
    let reception = Reception::default();
    for (number, source, clock) in
        [(0, SOURCE, 0), (1, SOURCE, 0), (2, OTHER, 100_000), (3, OTHER, 100_000), (4, OTHER, 0x7000_0000)]
    {
        tables.exact_ns.set((1 << 40) + u64::from(number) * 20_000_000);
        let header = rtp(source, number as u16, clock + number * 160);
        observe(&tables, &reception, Some(&header), clock_factor(8_000), true);
    }
    // One tick is what rounding may make.
    assert!(reception.counters(8_000).jitter_ns.is_some_and(|jitter_ns| jitter_ns <= 125_000));
}

proptest! {
    #[test]
    fn a_factor_knows_its_rate(rate in 0..=turnpike_fastpath::reception::CLOCK_RATE_HZ_MAX) {
        prop_assert_eq!(clock_rate_hz(clock_factor(rate)), rate);
    }

    /// With sampling off, RFC 3550's own arithmetic, at any uptime and across the wrap of either clock.
    #[test]
    fn jitter_is_that_of_the_rfc(
        clock_rate_hz in prop_oneof![Just(8_000_u32), Just(48_000), Just(90_000), 1_000_u32..1_000_000],
        start_ns in prop_oneof![0_u64..1 << 62, Just((1 << 62) - 7)],
        delays_ns in proptest::collection::vec(0_u64..300_000_000, 1..300),
    ) {
        let packets = delayed(clock_rate_hz, start_ns, &delays_ns);
        let (counters, expected) = jitter(clock_rate_hz, true, &packets);
        prop_assert_eq!(counters.jitter_ns, Some(in_ns(expected, clock_rate_hz)));
        prop_assert_eq!(counters.lost_packets, 0);
    }
}
