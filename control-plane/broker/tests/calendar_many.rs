//! A calendar with thousands of changes against an array with one place for each instant: as `calendar_model.rs`, which has few changes
//! and more to do with them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what is not expected is a failed test")]

use proptest::prelude::*;
use turnpike_broker::Cost;
use turnpike_broker::calendar::{Calendar, Interval};
use turnpike_broker::name::Nanos;

const INSTANTS: usize = 6_000;
const CAPACITY: Cost = Cost { rate_bps: 4_000, burst_bytes: 3_000 };

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }

    fn cost(&mut self) -> Cost {
        Cost { rate_bps: 1 + self.below(9) as u64, burst_bytes: self.below(7) as u64 }
    }
}

struct Both {
    calendar: Calendar,
    begin: usize,
    used: Vec<Cost>,
    live: Vec<(usize, usize, Cost)>,
}

fn interval(start: usize, end: usize) -> Interval {
    Interval::new(Nanos(start as u64), Nanos(end as u64)).unwrap()
}

impl Both {
    fn peak(&self, start: usize, end: usize) -> Cost {
        self.used[start..end].iter().fold(Cost::default(), |peak, used| Cost {
            rate_bps: peak.rate_bps.max(used.rate_bps),
            burst_bytes: peak.burst_bytes.max(used.burst_bytes),
        })
    }

    fn fits(&self, start: usize, end: usize, cost: Cost) -> bool {
        let peak = self.peak(start, end);
        peak.rate_bps + cost.rate_bps <= CAPACITY.rate_bps
            && peak.burst_bytes + cost.burst_bytes <= CAPACITY.burst_bytes
    }

    fn enter(&mut self, start: usize, end: usize, from: Cost, to: Cost) {
        for used in &mut self.used[start.max(self.begin)..end.max(self.begin)] {
            used.rate_bps = used.rate_bps + to.rate_bps - from.rate_bps;
            used.burst_bytes = used.burst_bytes + to.burst_bytes - from.burst_bytes;
        }
    }

    fn commit(&mut self, start: usize, end: usize, cost: Cost) {
        let fits = self.fits(start, end, cost);
        assert_eq!(self.calendar.commit(interval(start, end), cost).is_ok(), fits);
        if fits {
            self.enter(start, end, Cost::default(), cost);
            self.live.push((start, end, cost));
        }
    }

    fn release(&mut self, index: usize) {
        let (start, end, cost) = self.live.swap_remove(index);
        self.calendar.release(interval(start, end), cost);
        self.enter(start, end, cost, Cost::default());
    }

    /// The end of one moves, and another takes another part.
    fn change(&mut self, random: &mut Random) {
        let index = random.below(self.live.len());
        let (start, end, cost) = self.live[index];
        let moved = start + 1 + random.below(INSTANTS - start);
        let (first, last) = (end.max(self.begin), moved.max(self.begin));
        let fits = moved <= end || first == last || self.fits(first, last, cost);
        assert_eq!(self.calendar.change_end(interval(start, end), Nanos(moved as u64), cost).is_ok(), fits);
        if fits {
            self.enter(start, end, cost, Cost::default());
            self.enter(start, moved, Cost::default(), cost);
            self.live[index].1 = moved;
        }
        let index = random.below(self.live.len());
        let ((start, end, cost), less) = (self.live[index], Cost { rate_bps: 1, burst_bytes: 0 });
        self.calendar.resize(interval(start, end), cost, less).unwrap();
        self.enter(start, end, cost, less);
        self.live[index].2 = less;
    }

    fn compare(&self, random: &mut Random) {
        let changes = (self.begin + 1..INSTANTS).filter(|at| self.used[*at] != self.used[at - 1]).count();
        let last = usize::from(self.used[INSTANTS - 1] != Cost::default());
        assert_eq!(self.calendar.changes(), changes + last);
        assert_eq!(self.calendar.overloaded(), None);
        for _ in 0..30 {
            let start = self.begin + random.below(INSTANTS - self.begin);
            let end = start + 1 + random.below(INSTANTS - start);
            assert_eq!(self.calendar.peak(interval(start, end)), self.peak(start, end), "{start}..{end}");
            assert_eq!(self.calendar.used_at(Nanos(start as u64)), self.used[start], "at {start}");
        }
        let top = self.peak(self.begin, INSTANTS);
        let cost = Cost { rate_bps: CAPACITY.rate_bps - top.rate_bps * 9 / 10, burst_bytes: 1 };
        let length = 1 + random.below(INSTANTS / 10);
        let start = self.begin + random.below(INSTANTS - self.begin);
        let latest = INSTANTS - length;
        let expected = (start..=latest).find(|start| self.fits(*start, start + length, cost));
        let found = self.calendar.earliest(cost, Some(Nanos(length as u64)), Nanos(start as u64), Nanos(latest as u64));
        assert_eq!(found, expected.map(|start| Nanos(start as u64)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn a_calendar_with_thousands_of_changes_does_as_its_model(seed in 1u64..u64::MAX, rounds in 1usize..5) {
        let mut random = Random(seed);
        let mut both =
            Both { calendar: Calendar::new(CAPACITY), begin: 0, used: vec![Cost::default(); INSTANTS], live: Vec::new() };
        for _ in 0..rounds {
            for _ in 0..500 + random.below(3_000) {
                let start = both.begin + random.below(INSTANTS - both.begin);
                let length = (1 + random.below(INSTANTS / 2)).min(INSTANTS - start);
                both.commit(start, start + length, random.cost());
            }
            both.compare(&mut random);
            for _ in 0..200 {
                both.change(&mut random);
            }
            both.compare(&mut random);
            // Much of a part of time goes, so that its nodes are merged.
            let (from, to) = (random.below(INSTANTS / 2), INSTANTS / 2 + random.below(INSTANTS / 2));
            for index in (0..both.live.len()).rev() {
                if (from..to).contains(&both.live[index].0) && random.below(20) > 0 {
                    both.release(index);
                }
            }
            both.compare(&mut random);
            both.begin += random.below(INSTANTS / 8);
            both.calendar.forget(Nanos(both.begin as u64));
            let begin = both.begin;
            both.used[..begin].fill(Cost::default());
            both.compare(&mut random);
        }
        while !both.live.is_empty() {
            both.release(both.live.len() - 1);
        }
        prop_assert_eq!(both.calendar.changes(), 0);
    }
}
