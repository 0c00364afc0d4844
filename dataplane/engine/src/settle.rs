//! Brings a new generation of tables to where the old one got.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::Ordering;

use turnpike_fastpath::contract::{BEST_EFFORT_ENTRIES, table};
use turnpike_fastpath::entry::{AggregateShare, Pool};

use crate::generation::Generation;
use crate::layout::{Kept, LAYOUTS, Layout, Lines, Per, Shape};
use crate::table::Noted;

/// Words of the credit that a CPU holds, and of the time up to which a pool is spent.
const CREDIT: usize = std::mem::offset_of!(AggregateShare, credit_bytes) / 8;
const SPENT: usize = std::mem::offset_of!(Pool, spent_ns) / 8;

type Pairs = Vec<(u32, u32)>;

/// Two generations with the same policies in force.
#[derive(Debug)]
pub(crate) struct Settlement<'g> {
    old: &'g Generation,
    new: &'g Generation,
    flows: Pairs,
    labels: Pairs,
    aggregates: Pairs,
    reasons: Pairs,
}

impl<'g> Settlement<'g> {
    /// Finds out what is where by the notes of both.
    pub(crate) fn new(old: &'g Generation, new: &'g Generation) -> Self {
        let mut aggregates = pairs(old, new, Noted::Aggregate, Per::Aggregate);
        aggregates.extend((0..BEST_EFFORT_ENTRIES).map(|index| (index, index)));
        Self {
            old,
            new,
            flows: pairs(old, new, Noted::Flow, Per::Flow),
            labels: pairs(old, new, Noted::Label, Per::Label),
            aggregates,
            reasons: (0..new.shape.count(Per::Reason)).map(|row| (row, row)).collect(),
        }
    }

    /// Has what packets move go on from where it is in the old tables. Packets may use both.
    pub(crate) fn advance(&self) {
        for layout in LAYOUTS {
            let Some(pairs) = self.pairs(layout.per).filter(|_| !layout.moving.is_empty()) else { continue };
            let words = layout.entry_bytes / 8;
            let (from, to) = (self.old.raw(layout), self.new.raw(layout));
            for (source, target) in pairs {
                let (source, target) = (from.entry(*source, words), to.entry(*target, words));
                for (word, go_on) in layout.moving {
                    let old = source[*word].load(Ordering::Acquire);
                    let go_on = |new| Some(go_on(old, new)).filter(|moved| *moved != new);
                    // Nothing to do where it is there already.
                    let _ = target[*word].fetch_update(Ordering::AcqRel, Ordering::Acquire, go_on);
                }
            }
        }
    }

    /// Takes over what was counted. To be called when no packet uses the old tables any more; may be repeated.
    pub(crate) fn finish(&self) {
        self.advance();
        for layout in LAYOUTS {
            if let (Some(hand_over), Some(pairs)) = (layout.hand_over, self.pairs(layout.per)) {
                let words = layout.entry_bytes / 8;
                let (from, to) = (self.old.raw(layout), self.new.raw(layout));
                for (source, target) in pairs {
                    hand_over(from.entry(*source, words), to.entry(*target, words));
                }
            }
        }
        for layout in LAYOUTS {
            if let (Kept::Counted { lines, first, words }, Some(pairs)) = (layout.kept, self.pairs(layout.per)) {
                self.carry_over(layout, lines, first..first + words, pairs);
            }
        }
        if let (Some(shares), Some(pools)) = (find(table::AGG_SHARES), find(table::POOLS)) {
            self.return_credit(shares, pools);
        }
    }

    fn pairs(&self, per: Per) -> Option<&Pairs> {
        match per {
            Per::Flow => Some(&self.flows),
            Per::Label => Some(&self.labels),
            Per::Aggregate => Some(&self.aggregates),
            Per::Reason => Some(&self.reasons),
            Per::Node | Per::Bucket | Per::NextHop | Per::Port | Per::Note => None,
        }
    }

    /// Makes the sum of all lines of the old table the last line of the new one, which no packet writes.
    fn carry_over(&self, layout: &Layout, lines: Lines, counters: Range<usize>, pairs: &Pairs) {
        let words = layout.entry_bytes / 8;
        let (from, to) = (self.old.raw(layout), self.new.raw(layout));
        for (source, target) in pairs {
            let last = to.entry(line(self.new.shape, layout, self.new.shape.lines(lines) - 1, *target), words);
            for word in counters.clone() {
                let all = (0..self.old.shape.lines(lines)).map(|number| line(self.old.shape, layout, number, *source));
                let counted = all.map(|line| from.entry(line, words)[word].load(Ordering::Acquire)).sum();
                last[word].store(counted, Ordering::Release);
            }
        }
    }

    /// Gives what CPUs had borrowed from pools and not spent back to the new pools.
    fn return_credit(&self, shares: &Layout, pools: &Layout) {
        let (from, to) = (self.old.raw(shares), self.new.raw(pools));
        for (source, target) in &self.aggregates {
            let cpus = (0..self.old.shape.cpus).map(|cpu| line(self.old.shape, shares, cpu, *source));
            // Taken first: what is cut off here gives a little less, and never something twice.
            let words = shares.entry_bytes / 8;
            let credit: u64 = cpus.map(|line| from.entry(line, words)[CREDIT].swap(0, Ordering::AcqRel)).sum();
            let rate = self.old.tables.aggregate(*source);
            let Some(worth_ns) = (u128::from(credit) * u128::from(rate.quantum_ns))
                .checked_div(u128::from(rate.quantum_bytes))
                .and_then(|ns| u64::try_from(ns).ok())
            else {
                continue;
            };
            let spent = &to.entry(*target, pools.entry_bytes / 8)[SPENT];
            let less = |spent: u64| Some(spent.saturating_sub(worth_ns));
            let _ = spent.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        }
    }
}

fn find(name: &str) -> Option<&'static Layout> {
    LAYOUTS.iter().find(|layout| layout.name == name)
}

/// Entry of a table of counters in this line.
fn line(shape: Shape, layout: &Layout, number: u32, index: u32) -> u32 {
    number * shape.count(layout.per) + index
}

/// Old and new index of what has the same policy in both.
fn pairs(old: &Generation, new: &Generation, noted: Noted, per: Per) -> Pairs {
    let (before, after) = (old.shape.count(per), new.shape.count(per));
    let policy = |generation: &Generation, index| generation.tables.note(noted, index).policy;
    let mut by_policy = None;
    let mut elsewhere = |wanted| -> Option<u32> {
        let all = by_policy
            .get_or_insert_with(|| (0..after).map(|index| (policy(new, index), index)).collect::<BTreeMap<_, _>>());
        all.get(&wanted).copied()
    };
    let found = (0..before).filter_map(|index| match policy(old, index) {
        0 => None,
        same if index < after && policy(new, index) == same => Some((index, index)),
        other => Some((index, elsewhere(other)?)),
    });
    found.collect()
}
