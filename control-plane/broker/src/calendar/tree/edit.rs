//! Changes that come and go.

use super::Tree;
use super::node::{Child, FEW, FULL, Leaf};
use crate::calendar::level::{Level, Range};
use crate::name::Nanos;

/// What is done to a leaf.
#[derive(Clone, Copy)]
enum Edit {
    /// Something changes by so much more.
    Add(Level),
    /// What is not after the time is taken out, and does not count any more.
    TakeUntil,
}

impl Tree {
    /// Enters a change. An instant at which nothing changes any more is removed.
    pub(in crate::calendar) fn add(&mut self, time: Nanos, change: Level) {
        if change == Level::ZERO {
            return;
        }
        if self.len == 0 {
            (self.root, self.root_height) = (self.leaves.allocate(), 0);
        }
        self.edit(self.root, self.root_height, time, Edit::Add(change));
        self.mend_root();
    }

    /// Takes out all changes that are not after `time`, and returns them together. O(log n) for each leaf that they are in.
    pub(in crate::calendar) fn take_until(&mut self, time: Nanos) -> Level {
        let mut taken = Level::ZERO;
        loop {
            let before = self.len;
            if before > 0 {
                taken = taken.minus(self.edit(self.root, self.root_height, time, Edit::TakeUntil));
                self.mend_root();
            }
            if self.len == before {
                return taken;
            }
        }
    }

    /// Edits the leaf of a subtree in which a time is, or the first one. Returns by how much the level after this leaf changes.
    fn edit(&mut self, at: u32, height: u8, time: Nanos, edit: Edit) -> Level {
        if height == 0 {
            let leaf = self.leaves.get_mut(at);
            let before = leaf.len();
            let change = match edit {
                Edit::Add(change) => add(leaf, time, change),
                Edit::TakeUntil => take_until(leaf, time),
            };
            self.len = self.len + leaf.len() - before;
            return change;
        }
        let inner = self.inners.get(at);
        let index = match edit {
            Edit::Add(_) => inner.until(time) - 1,
            Edit::TakeUntil => 0,
        };
        let change = self.edit(inner.rest()[index].node, height - 1, time, edit);
        self.inners.get_mut(at).shift(index + 1, change);
        self.mend(at, height, index);
        change
    }

    /// Makes right what an inner node has of a child that was edited, and the number of the child's entries.
    fn mend(&mut self, at: u32, height: u8, index: usize) {
        let inner = self.inners.get(at);
        let child = inner.rest()[index].node;
        let len = if height == 1 { self.leaves.get(child).len() } else { self.inners.get(child).len() };
        if len == FULL {
            let (right, time, gap) = if height == 1 { self.leaves.split(child) } else { self.inners.split(child) };
            let inner = self.inners.get_mut(at);
            let level = inner.levels()[index].plus(gap);
            inner.insert(index + 1, time, level, Child { range: Range::ZERO, node: right });
            self.look_at(at, height, index + 1);
        } else if len < FEW && inner.len() > 1 {
            let left = index.min(inner.len() - 2);
            let [(left_level, left_node), (right_level, right_node)] =
                [left, left + 1].map(|index| (inner.levels()[index], inner.rest()[index].node));
            let gap = right_level.minus(left_level);
            let right = if height == 1 {
                self.leaves.level_out(left_node, right_node, gap)
            } else {
                self.inners.level_out(left_node, right_node, gap)
            };
            let inner = self.inners.get_mut(at);
            if let Some((time, gap)) = right {
                inner.set(left + 1, time, left_level.plus(gap));
                self.look_at(at, height, left + 1);
            } else {
                inner.remove(left + 1..left + 2);
            }
            return self.look_at(at, height, left);
        }
        self.look_at(at, height, index);
    }

    /// Lets an inner node know the levels of a child.
    fn look_at(&mut self, at: u32, height: u8, index: usize) {
        let node = self.inners.get(at).rest()[index].node;
        let range = self.range_of(node, height - 1);
        self.inners.get_mut(at).set_rest(index, Child { range, node });
    }

    fn range_of(&self, at: u32, height: u8) -> Range {
        if height == 0 { self.leaves.get(at).range() } else { self.inners.get(at).range() }
    }

    /// A root is split like any other node, and is no inner node with a single child, and no empty leaf.
    fn mend_root(&mut self) {
        if self.len == 0 {
            // All inner nodes above the last leaf went with their other children.
            self.leaves.free(self.root);
            self.whole = Range::ZERO;
            return;
        }
        let len =
            if self.root_height == 0 { self.leaves.get(self.root).len() } else { self.inners.get(self.root).len() };
        if len == FULL {
            let above = self.inners.allocate();
            let child = Child { range: Range::ZERO, node: self.root };
            // Before the first time of all there may still come one.
            self.inners.get_mut(above).insert(0, Nanos(0), Level::ZERO, child);
            (self.root, self.root_height) = (above, self.root_height + 1);
            self.mend(above, self.root_height, 0);
        } else if len == 1 && self.root_height > 0 {
            let child = self.inners.get(self.root).rest()[0].node;
            self.inners.free(self.root);
            (self.root, self.root_height) = (child, self.root_height - 1);
        }
        let Range { high, low } = self.range_of(self.root, self.root_height);
        self.whole = Range { high: high.max(Level::ZERO), low: low.min(Level::ZERO) };
    }
}

fn add(leaf: &mut Leaf, time: Nanos, change: Level) -> Level {
    let until = leaf.until(time);
    let level = leaf.level_after(until).plus(change);
    if until == 0 || leaf.times()[until - 1] < time {
        leaf.shift(until, change);
        leaf.insert(until, time, level, ());
    } else if level == leaf.level_after(until - 1) {
        leaf.shift(until, change);
        leaf.remove(until - 1..until);
    } else {
        leaf.shift(until - 1, change);
    }
    change
}

fn take_until(leaf: &mut Leaf, time: Nanos) -> Level {
    let until = leaf.until(time);
    let change = Level::ZERO.minus(leaf.level_after(until));
    leaf.remove(0..until);
    leaf.shift(0, change);
    change
}
