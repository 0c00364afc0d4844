use std::collections::BTreeMap;

use proptest::prelude::*;

use super::node::{FEW, FULL, Rest};
use super::{Tree, Wanted};
use crate::calendar::level::{Extreme, Highest, Level, Lowest, Range};
use crate::name::Nanos;

type Model = BTreeMap<Nanos, Level>;

const END: u64 = 1_000_000;

impl Tree {
    /// Checks a subtree and returns how many leaves and inner nodes it has.
    fn check(&self, at: u32, height: u8, changes: &mut Vec<(Nanos, Level)>, origin: Level) -> [usize; 2] {
        let len = if height == 0 { self.leaves.get(at).len() } else { self.inners.get(at).len() };
        let least = if at == self.root && height == self.root_height { 1 } else { FEW };
        assert!((least..FULL).contains(&len), "{len} entries of a node at height {height}");
        if height == 0 {
            let leaf = self.leaves.get(at);
            changes.extend(leaf.times().iter().zip(leaf.levels()).map(|(time, level)| (*time, origin.plus(*level))));
            return [1, 0];
        }
        assert!(len > 1, "an inner node has two children at least");
        let (inner, mut nodes) = (self.inners.get(at), [0, 1]);
        for index in 0..len {
            let (first, level, child) = (changes.len(), inner.levels()[index], inner.rest()[index]);
            let before = changes.last().map_or(Level::ZERO, |last| last.1);
            assert_eq!(origin.plus(level), before, "the level before child {index}");
            let below = self.check(child.node, height - 1, changes, before);
            nodes = [nodes[0] + below[0], nodes[1] + below[1]];
            let levels = changes[first..].iter().map(|change| change.1.minus(before));
            let (high, low) =
                levels.fold((Highest::NONE, Lowest::NONE), |(high, low), level| (high.max(level), low.min(level)));
            assert_eq!(child.range, Range { high, low }, "levels of child {index}");
            assert_eq!(child.extreme::<Highest>(level), level.plus(high));
            let from = inner.times()[index];
            assert!(
                from <= changes[first].0 && (first == 0 || changes[first - 1].0 < from),
                "where child {index} begins"
            );
        }
        nodes
    }

    /// The changes, after a check of everything that is known of them.
    fn changes(&self) -> Vec<(Nanos, Level)> {
        let mut levels = Vec::new();
        let nodes =
            if self.len == 0 { [0, 0] } else { self.check(self.root, self.root_height, &mut levels, Level::ZERO) };
        assert!(levels.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(levels.len(), self.len());
        assert_eq!([self.leaves.used(), self.inners.used()], nodes, "no node is lost");
        let all = || levels.iter().map(|(_, level)| *level);
        assert_eq!(self.whole().high, all().fold(Level::ZERO, Level::max));
        assert_eq!(self.whole().low, all().fold(Level::ZERO, Level::min));
        let before = std::iter::once(Level::ZERO).chain(all());
        levels.iter().zip(before).map(|((time, level), before)| (*time, level.minus(before))).collect()
    }
}

const fn level(rate_bps: i64, burst_bytes: i64) -> Level {
    Level { rate_bps, burst_bytes }
}

fn add(tree: &mut Tree, model: &mut Model, time: u64, change: Level) {
    tree.add(Nanos(time), change);
    let entry = model.entry(Nanos(time)).or_default();
    *entry = entry.plus(change);
    if *entry == Level::ZERO {
        model.remove(&Nanos(time));
    }
}

/// Many changes at once, so that nodes of more than one height are split, filled up and merged.
#[derive(Debug, Clone)]
enum Phase {
    /// So many changes in a part of time: at random times, rising, or falling.
    Add {
        count: u64,
        from: u64,
        to: u64,
        order: u8,
    },
    /// The changes of a part of time are undone, but for each so many-th.
    Undo {
        from: u64,
        to: u64,
        but: usize,
        backwards: bool,
    },
    TakeUntil(u64),
}

fn phase() -> impl Strategy<Value = Phase> {
    let part = || (0..END, 0..END).prop_map(|(a, b)| (a.min(b), a.max(b) + 1));
    prop_oneof![
        4 => (1u64..2_500, part(), 0u8..3).prop_map(|(count, (from, to), order)| Phase::Add { count, from, to, order }),
        3 => (part(), 1usize..40, any::<bool>()).prop_map(|((from, to), but, backwards)| Phase::Undo { from, to, but, backwards }),
        1 => (0..END / 3).prop_map(Phase::TakeUntil),
    ]
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn change(&mut self) -> Level {
        let any = |random: u64, most: i64| i64::try_from(random).unwrap() - most;
        level(any(self.below(7), 3), any(self.below(5), 2))
    }
}

fn apply(phase: &Phase, tree: &mut Tree, model: &mut Model, random: &mut Random) {
    match *phase {
        Phase::Add { count, from, to, order } => {
            for number in 0..count {
                let step = (to - from) * number / count;
                let time = match order {
                    0 => from + random.below(to - from),
                    1 => from + step,
                    _ => to - 1 - step,
                };
                add(tree, model, time, random.change());
            }
        }
        Phase::Undo { from, to, but, backwards } => {
            let undone = model.range(Nanos(from)..Nanos(to)).enumerate().filter(|(at, _)| at % but != but - 1);
            let mut undone: Vec<(Nanos, Level)> = undone.map(|(_, (time, change))| (*time, *change)).collect();
            if backwards {
                undone.reverse();
            }
            for (time, change) in undone {
                add(tree, model, time.0, Level::ZERO.minus(change));
            }
        }
        Phase::TakeUntil(time) => {
            let mut expected = Level::ZERO;
            while let Some(first) = model.first_entry().filter(|first| first.key().0 <= time) {
                expected = expected.plus(first.remove());
            }
            assert_eq!(tree.take_until(Nanos(time)), expected);
        }
    }
}

/// What a tree is asked about [from, to), looked up change by change.
fn ask(tree: &Tree, model: &Model, from: Nanos, to: Nanos, limit: Level) {
    let start = model.range(..=from).fold(Level::ZERO, |level, (_, change)| level.plus(*change));
    assert_eq!(tree.level_at(from), start);
    let mut levels = vec![(from, start)];
    for (time, change) in model.range((std::ops::Bound::Excluded(from), std::ops::Bound::Excluded(to))) {
        levels.push((*time, levels[levels.len() - 1].1.plus(*change)));
    }
    let all = || levels.iter().map(|(_, level)| *level);
    assert_eq!(tree.extreme::<Highest>(from, to), all().fold(Highest::NONE, Level::max), "{from:?} to {to:?}");
    assert_eq!(tree.extreme::<Lowest>(from, to), all().fold(Lowest::NONE, Level::min), "{from:?} to {to:?}");
    let before = model.range(..to).scan(Level::ZERO, |level, (_, change)| {
        *level = level.plus(*change);
        Some(*level)
    });
    assert_eq!(tree.extreme_before::<Highest>(to), before.fold(Level::ZERO, Level::max), "before {to:?}");
    let above = |(_, level): &&(Nanos, Level)| level.exceeds(limit);
    let within = |(_, level): &&(Nanos, Level)| !level.exceeds(limit);
    let time = |found: Option<&(Nanos, Level)>| found.map(|found| found.0);
    assert_eq!(tree.first(from, to, Wanted::Above(limit)), time(levels.iter().find(above)));
    assert_eq!(tree.first(from, to, Wanted::Within(limit)), time(levels.iter().find(within)));
    assert_eq!(tree.last(from, to, Wanted::Above(limit)), time(levels.iter().rfind(above)));
    assert_eq!(tree.last(from, to, Wanted::Within(limit)), time(levels.iter().rfind(within)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_has_the_changes_that_were_entered(phases in prop::collection::vec(phase(), 1..12), seed in 1u64..u64::MAX) {
        let (mut tree, mut model, mut random) = (Tree::new(), Model::new(), Random(seed));
        for phase in phases {
            apply(&phase, &mut tree, &mut model, &mut random);
            prop_assert_eq!(tree.changes(), model.iter().map(|(time, change)| (*time, *change)).collect::<Vec<_>>());
            for _ in 0..20 {
                let (from, to) = (random.below(END + 2), random.below(END + 2));
                let high = tree.whole().high;
                let limit = level(high.rate_bps - random.change().rate_bps.abs(), high.burst_bytes / 2);
                ask(&tree, &model, Nanos(from.min(to)), Nanos(from.max(to) + 1), limit);
            }
        }
        for (time, change) in model {
            tree.add(time, Level::ZERO.minus(change));
        }
        prop_assert!(tree.changes().is_empty());
    }
}

#[test]
fn a_tree_stays_low_and_uses_its_nodes_again() {
    let (mut tree, mut model) = (Tree::new(), Model::new());
    for time in 0..100_000 {
        add(&mut tree, &mut model, time, level(1, 1));
    }
    // Rising times leave nodes behind that are half full.
    let lowest = (100_000_f64.log2() / (f64::from(u32::try_from(FULL).unwrap()) / 2.0).log2()).ceil();
    assert!(f64::from(tree.root_height) < lowest, "{} heights", tree.root_height);
    let room = [tree.leaves.room(), tree.inners.room()];
    for time in 0..100_000 {
        add(&mut tree, &mut model, time, level(-1, -1));
        add(&mut tree, &mut model, 1_000_000 - time, level(1, 1));
    }
    assert_eq!(tree.changes().len(), 100_000);
    assert!(tree.leaves.room() < room[0] * 11 / 10 && tree.inners.room() < room[1] * 11 / 10);
    assert_eq!(tree.take_until(Nanos(u64::MAX - 1)), level(100_000, 100_000));
    assert_eq!((tree.changes().len(), tree.leaves.room(), tree.inners.room()), (0, 0, 0));
}
