//! What arrives of a flow is counted the same when another table goes on with it in the middle.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod world;

use std::sync::atomic::Ordering;

use proptest::prelude::*;
use turnpike_fastpath::reception::{Reception, ReceptionCounters, join, observe};
use turnpike_fastpath::wire::rtp::Header;
use world::host::World;
use zerocopy::network_endian::{U16, U32};

fn observe_all(reception: &Reception, numbers: &[u16]) {
    let world = World::new();
    let tables = world.tables();
    for number in numbers {
        let rtp = Header {
            flags: 0x80,
            marker_type: 0,
            sequence: U16::new(*number),
            timestamp: U32::new(0),
            source: U32::new(0x1122_3344),
        };
        observe(&tables, reception, Some(&rtp), 0, false);
    }
}

fn figures(counters: &ReceptionCounters) -> [u64; 4] {
    let ReceptionCounters { lost_packets, duplicated_packets, gaps, restarts, .. } = *counters;
    [lost_packets, duplicated_packets, gaps, restarts]
}

/// One table counts up to `handover`, another from there on, and they are joined after `delay` packets more.
fn in_two_tables(numbers: &[u16], handover: usize, delay: usize) -> [u64; 4] {
    let (old, new) = (Reception::default(), Reception::default());
    let (before, after) = numbers.split_at(handover);
    let (unaware, rest) = after.split_at(delay.min(after.len()));
    observe_all(&old, before);
    observe_all(&new, unaware);
    let joined = join(old.window.swap(0, Ordering::Relaxed), new.window.load(Ordering::Relaxed));
    new.window.store(joined.window, Ordering::Relaxed);
    observe_all(&new, rest);
    let mut sum = [joined.lost, 0, joined.gaps, joined.restarts];
    for part in [figures(&old.counters(0)), figures(&new.final_counters(0))] {
        sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    sum
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    /// Losses and late packets anywhere but in the very moment of the handover, where nobody can know what was on its way.
    #[test]
    fn loss_is_the_same_in_one_table_and_in_two(
        start in any::<u16>(),
        kept in prop::collection::vec(prop::bool::weighted(0.9), 60..200),
        swaps in prop::collection::vec((0_usize..200, 1_usize..12), 0..8),
        handover in 20_usize..160,
        delay in 0_usize..70,
    ) {
        let handover = handover.min(kept.len() - 10);
        let near = |place: usize| place.abs_diff(handover) < 3;
        let mut numbers: Vec<u16> = (0..kept.len()).map(|place| start.wrapping_add(place as u16)).collect();
        for (place, late) in swaps {
            // A packet comes late, on the same side of the handover.
            let (from, to) = (place, place + late);
            if to + 3 < numbers.len() && (to + 3 < handover || from > handover + 3) {
                numbers[from..=to].rotate_left(1);
            }
        }
        let mut arrived = Vec::new();
        let mut handed_over = 0;
        for (place, number) in numbers.into_iter().enumerate() {
            if place == handover {
                handed_over = arrived.len();
            }
            if kept[place] || near(place) || place == 0 {
                arrived.push(number);
            }
        }
        let whole = Reception::default();
        observe_all(&whole, &arrived);
        prop_assert_eq!(in_two_tables(&arrived, handed_over, delay), figures(&whole.final_counters(0)));
    }
}

#[test]
fn a_window_joins_nothing_and_nothing_joins_it() {
    let reception = Reception::default();
    observe_all(&reception, &[1, 2, 4]);
    let window = reception.window.load(Ordering::Relaxed);
    for (old, new) in [(window, 0), (0, window)] {
        let joined = join(old, new);
        assert_eq!((joined.window, joined.lost, joined.gaps, joined.restarts), (window, 0, 0, 0));
    }
    assert_eq!(join(0, 0).window, 0);
}

#[test]
fn what_was_missing_before_may_come_after() {
    // 3 comes in the second table; 5 never does.
    assert_eq!(in_two_tables(&[1, 2, 4, 6, 7, 8, 3, 9, 10], 4, 2), [1, 0, 1, 0]);
    // Only late packets have come since.
    assert_eq!(in_two_tables(&[1, 2, 5, 6, 4], 4, 1), [1, 0, 1, 0]);
    // It is joined long after: what was missing is lost.
    let numbers: Vec<u16> = [1, 2, 4].into_iter().chain(5..100).collect();
    assert_eq!(in_two_tables(&numbers, 3, 90), [1, 0, 1, 0]);
}
