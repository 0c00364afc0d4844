//! The instants at which what is used changes: a B+ tree whose nodes know the levels, not only the times.
//!
//! A leaf has up to 15 changes, as times and the levels after them; an inner node has up to 15 children, and of each the time from which on
//! its changes are, the level before them, and the highest and the lowest level after any of them. All levels are *seen from the level
//! before the node's first change*. So a change at an instant moves what follows in one leaf, and in one node of each height above it what
//! is known of later children: no other node is touched, however many commitments there are later. The highest and the lowest level of any
//! interval come from the nodes on the ways to its two ends. Each node but the root has 4 entries at least: heights are O(log n).
//!
//! Nodes are a few hundred bytes in flat arrays, since at hundreds of thousands of changes much of the time goes into waiting for memory:
//! a way down is 6 nodes where a binary tree has 19, and the lines of one node are fetched at the same time.

mod arena;
mod edit;
mod node;
mod search;
#[cfg(test)]
mod tests;

use crate::calendar::level::{Extreme, Level, Range};
use crate::name::Nanos;
use arena::Arena;
use node::{Child, Inner};

pub(super) use search::Wanted;

/// Changes by time, none of them nothing. The level before the first is 0.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    leaves: Arena<()>,
    inners: Arena<Child>,
    /// Of an empty tree there is none.
    root: u32,
    /// Of leaves 0.
    root_height: u8,
    /// How many changes there are.
    len: usize,
    /// The levels at all times.
    whole: Range,
}

/// A subtree as it is come to on the way down: a node, its height, and the level before its first change.
#[derive(Clone, Copy)]
struct Below {
    node: u32,
    height: u8,
    origin: Level,
}

impl Below {
    fn child(self, inner: &Inner, index: usize) -> Self {
        let origin = self.origin.plus(inner.levels()[index]);
        Self { node: inner.rest()[index].node, height: self.height - 1, origin }
    }
}

impl Tree {
    pub(super) const fn new() -> Self {
        Self { leaves: Arena::new(), inners: Arena::new(), root: 0, root_height: 0, len: 0, whole: Range::ZERO }
    }

    /// How many instants there are at which something changes.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// The highest and the lowest level of all of time, each dimension for itself.
    pub(super) const fn whole(&self) -> Range {
        self.whole
    }

    pub(super) fn level_at(&self, time: Nanos) -> Level {
        let Some(mut below) = self.top() else { return Level::ZERO };
        while below.height > 0 {
            let inner = self.inners.get(below.node);
            below = below.child(inner, inner.until(time) - 1);
        }
        let leaf = self.leaves.get(below.node);
        below.origin.plus(leaf.level_after(leaf.until(time)))
    }

    /// The highest or the lowest level before a time.
    pub(super) fn extreme_before<E: Extreme>(&self, to: Nanos) -> Level {
        self.top().map_or(Level::ZERO, |top| self.extreme_to::<E>(top, to, Level::ZERO))
    }

    /// The highest or the lowest level in [from, to), which is not empty.
    pub(super) fn extreme<E: Extreme>(&self, from: Nanos, to: Nanos) -> Level {
        let Some(mut below) = self.top() else { return Level::ZERO };
        while below.height > 0 {
            let inner = self.inners.get(below.node);
            let (first, last) = (inner.until(from) - 1, inner.before(to) - 1);
            if first < last {
                let start = self.extreme_from::<E>(below.child(inner, first), from);
                let between = inner.extreme::<E>(first + 1..last, below.origin, start);
                return self.extreme_to::<E>(below.child(inner, last), to, between);
            }
            below = below.child(inner, first);
        }
        let leaf = self.leaves.get(below.node);
        let first = leaf.until(from);
        leaf.extreme::<E>(first..leaf.before(to), below.origin, below.origin.plus(leaf.level_after(first)))
    }

    /// Of the levels in a subtree from a time on, that at this time included.
    fn extreme_from<E: Extreme>(&self, mut below: Below, from: Nanos) -> Level {
        let mut later = E::NONE;
        while below.height > 0 {
            let inner = self.inners.get(below.node);
            let first = inner.until(from) - 1;
            later = inner.extreme::<E>(first + 1..inner.len(), below.origin, later);
            below = below.child(inner, first);
        }
        let leaf = self.leaves.get(below.node);
        let first = leaf.until(from);
        let later = E::either(later, below.origin.plus(leaf.level_after(first)));
        leaf.extreme::<E>(first..leaf.len(), below.origin, later)
    }

    /// Of the levels after the changes of a subtree that are before a time; and of `others`.
    fn extreme_to<E: Extreme>(&self, mut below: Below, to: Nanos, mut others: Level) -> Level {
        while below.height > 0 {
            let inner = self.inners.get(below.node);
            let last = inner.before(to) - 1;
            others = inner.extreme::<E>(0..last, below.origin, others);
            below = below.child(inner, last);
        }
        let leaf = self.leaves.get(below.node);
        leaf.extreme::<E>(0..leaf.before(to), below.origin, others)
    }

    fn top(&self) -> Option<Below> {
        (self.len > 0).then_some(Below { node: self.root, height: self.root_height, origin: Level::ZERO })
    }
}
