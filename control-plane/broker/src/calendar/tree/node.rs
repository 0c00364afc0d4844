//! A node: a short sorted list in flat arrays, and the two things that are done with lists: an entry more, and entries moved to a neighbour.

use std::fmt::Debug;
use std::ops;

use crate::calendar::level::{Extreme, Highest, Level, Lowest, Range};
use crate::name::Nanos;

/// A node with so many entries is split at once, so there is always room for one more.
pub(super) const FULL: usize = 16;
/// A node with fewer gets some of a neighbour, or is merged with it.
pub(super) const FEW: usize = FULL / 4;
/// Two neighbours with so many together become one. Less than `FULL`, so that after a node was split, merged or filled up `FULL` / 8
/// entries come or go until that happens again.
pub(super) const MERGED: usize = FULL * 3 / 4;

/// What an entry has beside its time and its level.
pub(super) trait Rest: Copy + Debug {
    /// Fills the places that are not used.
    const UNUSED: Self;
    /// Whether the level of an entry is the one after its time, or the one before.
    const LEVEL_IS_AFTER: bool;

    /// The levels after the entry's changes, if its own level is `level`.
    fn extreme<E: Extreme>(&self, level: Level) -> Level;
}

/// An entry of a leaf: a change, with the level after it.
impl Rest for () {
    const UNUSED: Self = ();
    const LEVEL_IS_AFTER: bool = true;

    fn extreme<E: Extreme>(&self, level: Level) -> Level {
        level
    }
}

/// An entry of an inner node: a child, with the level before its first change. All its changes are at the entry's time or later.
#[derive(Debug, Clone, Copy)]
pub(super) struct Child {
    /// After each of its changes, as seen from the level before the first.
    pub(super) range: Range,
    pub(super) node: u32,
}

impl Rest for Child {
    const UNUSED: Self = Self { range: Range::ZERO, node: u32::MAX };
    const LEVEL_IS_AFTER: bool = false;

    fn extreme<E: Extreme>(&self, level: Level) -> Level {
        level.plus(E::of(self.range))
    }
}

/// Entries by time. Levels are seen from the level before the node's first change.
#[derive(Debug, Clone)]
pub(super) struct Node<R> {
    len: u32,
    times: [Nanos; FULL],
    levels: [Level; FULL],
    rest: [R; FULL],
}

pub(super) type Leaf = Node<()>;
pub(super) type Inner = Node<Child>;

impl<R: Rest> Node<R> {
    pub(super) const fn new() -> Self {
        Self { len: 0, times: [Nanos(0); FULL], levels: [Level::ZERO; FULL], rest: [R::UNUSED; FULL] }
    }

    pub(super) const fn len(&self) -> usize {
        self.len as usize
    }

    #[allow(clippy::cast_possible_truncation, reason = "FULL at most")]
    fn set_len(&mut self, len: usize) {
        self.len = len as u32;
    }

    pub(super) fn times(&self) -> &[Nanos] {
        &self.times[..self.len()]
    }

    pub(super) fn levels(&self) -> &[Level] {
        &self.levels[..self.len()]
    }

    pub(super) fn rest(&self) -> &[R] {
        &self.rest[..self.len()]
    }

    /// How many entries are not after a time. All are looked at, which is faster than to wait for one after the other.
    pub(super) fn until(&self, time: Nanos) -> usize {
        self.times().iter().map(|entry| usize::from(*entry <= time)).sum()
    }

    /// How many entries are before a time.
    pub(super) fn before(&self, time: Nanos) -> usize {
        self.times().iter().map(|entry| usize::from(*entry < time)).sum()
    }

    /// Of the levels after the changes of some entries, as seen from 0 if the node's are seen from `origin`; and of `others`.
    pub(super) fn extreme<E: Extreme>(&self, entries: ops::Range<usize>, origin: Level, others: Level) -> Level {
        if entries.is_empty() {
            return others;
        }
        let entries = self.levels[entries.clone()].iter().zip(&self.rest[entries]);
        let extreme = entries.fold(E::NONE, |extreme, (level, rest)| E::either(extreme, rest.extreme::<E>(*level)));
        E::either(others, origin.plus(extreme))
    }

    /// The levels after all changes of a node that is not empty.
    pub(super) fn range(&self) -> Range {
        let all = 0..self.len();
        Range {
            high: self.extreme::<Highest>(all.clone(), Level::ZERO, Highest::NONE),
            low: self.extreme::<Lowest>(all, Level::ZERO, Lowest::NONE),
        }
    }

    /// Moves that entry and all that follow by a level.
    pub(super) fn shift(&mut self, index: usize, change: Level) {
        let len = self.len();
        for level in &mut self.levels[index..len] {
            *level = level.plus(change);
        }
    }

    pub(super) fn set(&mut self, index: usize, time: Nanos, level: Level) {
        (self.times[index], self.levels[index]) = (time, level);
    }

    pub(super) fn set_rest(&mut self, index: usize, rest: R) {
        self.rest[index] = rest;
    }

    pub(super) fn insert(&mut self, index: usize, time: Nanos, level: Level, rest: R) {
        let len = self.len();
        self.times.copy_within(index..len, index + 1);
        self.levels.copy_within(index..len, index + 1);
        self.rest.copy_within(index..len, index + 1);
        self.set(index, time, level);
        self.set_rest(index, rest);
        self.set_len(len + 1);
    }

    /// Levels of the others stay.
    pub(super) fn remove(&mut self, entries: ops::Range<usize>) {
        let len = self.len();
        self.times.copy_within(entries.end..len, entries.start);
        self.levels.copy_within(entries.end..len, entries.start);
        self.rest.copy_within(entries.end..len, entries.start);
        self.set_len(len - entries.len());
    }

    /// Moves entries between two neighbours so that the first one has `keep`. `gap` is how far the level before `right` is above that
    /// before `left`; how far it is then is returned. Nothing to move to is an empty neighbour, and to move all empties one.
    pub(super) fn share(left: &mut Self, right: &mut Self, gap: Level, keep: usize) -> Level {
        // First all as seen from the level before `left`.
        right.shift(0, gap);
        let (len, old) = (left.len(), right.len());
        if keep > len {
            let moved = keep - len;
            left.times[len..keep].copy_from_slice(&right.times[..moved]);
            left.levels[len..keep].copy_from_slice(&right.levels[..moved]);
            left.rest[len..keep].copy_from_slice(&right.rest[..moved]);
            right.remove(0..moved);
        } else {
            let moved = len - keep;
            right.times.copy_within(..old, moved);
            right.levels.copy_within(..old, moved);
            right.rest.copy_within(..old, moved);
            right.times[..moved].copy_from_slice(&left.times[keep..len]);
            right.levels[..moved].copy_from_slice(&left.levels[keep..len]);
            right.rest[..moved].copy_from_slice(&left.rest[keep..len]);
            right.set_len(old + moved);
        }
        left.set_len(keep);
        let before_right = if R::LEVEL_IS_AFTER { left.levels().last() } else { right.levels().first() };
        let gap = before_right.copied().unwrap_or(Level::ZERO);
        right.shift(0, Level::ZERO.minus(gap));
        gap
    }
}

impl Leaf {
    /// The level after so many changes.
    pub(super) fn level_after(&self, changes: usize) -> Level {
        changes.checked_sub(1).map_or(Level::ZERO, |last| self.levels[last])
    }
}
