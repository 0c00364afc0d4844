//! The instants at which what is used changes: a balanced tree (AVL) in one allocation, each node of which knows how high and how low its
//! subtree goes.
//!
//! A node holds the change and not the level, so that a commitment touches the two ends of its interval and nothing between them.

mod search;
#[cfg(test)]
mod tests;

use crate::calendar::level::{Level, Stretch};
use crate::name::Nanos;

pub(super) use search::Wanted;

/// No node.
const NIL: u32 = u32::MAX;
/// Nodes that an empty tree keeps room for.
const ROOM_KEPT: usize = 1_024;

#[derive(Debug, Clone)]
struct Node {
    time: Nanos,
    change: Level,
    /// The left subtree, this node and the right subtree.
    whole: Stretch,
    left: u32,
    right: u32,
    height: u8,
}

/// Changes by time, none of them nothing. The level before the first is 0.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    root: u32,
    /// The first unused node; the next one is its `left`.
    unused: u32,
    len: usize,
}

impl Tree {
    pub(super) const fn new() -> Self {
        Self { nodes: Vec::new(), root: NIL, unused: NIL, len: 0 }
    }

    /// How many instants there are at which something changes.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// All of time.
    pub(super) fn whole(&self) -> Stretch {
        self.stretch(self.root)
    }

    /// Enters a change. An instant at which nothing changes any more is removed.
    pub(super) fn add(&mut self, time: Nanos, change: Level) {
        if change != Level::ZERO {
            self.root = self.add_below(self.root, time, change);
        }
    }

    /// Takes the first change out if it is not after `time`.
    pub(super) fn take_first_until(&mut self, time: Nanos) -> Option<Level> {
        let mut first = self.get(self.root)?;
        while let Some(left) = self.get(first.left) {
            first = left;
        }
        if first.time > time {
            return None;
        }
        let change = first.change;
        let (first, rest) = self.unlink_first(self.root);
        self.root = rest;
        self.free(first);
        Some(change)
    }

    pub(super) fn level_at(&self, time: Nanos) -> Level {
        let (mut level, mut at) = (Level::ZERO, self.root);
        while let Some(node) = self.get(at) {
            if node.time <= time {
                level = level.plus(self.stretch(node.left).sum).plus(node.change);
                at = node.right;
            } else {
                at = node.left;
            }
        }
        level
    }

    /// The highest and the lowest level in [from, to), each dimension for itself.
    pub(super) fn extremes(&self, from: Nanos, to: Nanos) -> (Level, Level) {
        let (mut level, mut at) = (Level::ZERO, self.root);
        // Down to the topmost node within.
        let top = loop {
            let Some(node) = self.get(at) else { return (level, level) };
            if node.time <= from {
                level = level.plus(self.stretch(node.left).sum).plus(node.change);
                at = node.right;
            } else if node.time >= to {
                at = node.left;
            } else {
                break node;
            }
        };
        let mut within = Stretch::of(top.change);
        at = top.left;
        while let Some(node) = self.get(at) {
            if node.time <= from {
                level = level.plus(self.stretch(node.left).sum).plus(node.change);
                at = node.right;
            } else {
                within = Stretch::of(node.change).then(self.stretch(node.right)).then(within);
                at = node.left;
            }
        }
        at = top.right;
        while let Some(node) = self.get(at) {
            if node.time < to {
                within = within.then(self.stretch(node.left)).then(Stretch::of(node.change));
                at = node.right;
            } else {
                at = node.left;
            }
        }
        within.above(level)
    }

    fn get(&self, at: u32) -> Option<&Node> {
        // `NIL` is no index of a vector that `allocate` lets grow.
        self.nodes.get(at as usize)
    }

    fn stretch(&self, at: u32) -> Stretch {
        self.get(at).map_or(Stretch::EMPTY, |node| node.whole)
    }

    fn height(&self, at: u32) -> u8 {
        self.get(at).map_or(0, |node| node.height)
    }

    fn node(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }

    fn allocate(&mut self, time: Nanos, change: Level) -> u32 {
        self.len += 1;
        let node = Node { time, change, whole: Stretch::of(change), left: NIL, right: NIL, height: 1 };
        let at = self.unused;
        if at != NIL {
            self.unused = self.node(at).left;
            *self.node(at) = node;
            return at;
        }
        let at = u32::try_from(self.nodes.len()).unwrap_or(NIL);
        assert!(at != NIL, "a calendar refuses commitments long before it has 2^32 changes");
        self.nodes.push(node);
        at
    }

    fn free(&mut self, at: u32) {
        self.len -= 1;
        if self.len == 0 {
            self.nodes.clear();
            self.nodes.shrink_to(ROOM_KEPT);
            self.unused = NIL;
            return;
        }
        self.node(at).left = self.unused;
        self.unused = at;
    }

    fn add_below(&mut self, at: u32, time: Nanos, change: Level) -> u32 {
        if at == NIL {
            return self.allocate(time, change);
        }
        let Node { time: own, left, right, .. } = *self.node(at);
        if time < own {
            let left = self.add_below(left, time, change);
            self.node(at).left = left;
        } else if time > own {
            let right = self.add_below(right, time, change);
            self.node(at).right = right;
        } else {
            let node = self.node(at);
            node.change = node.change.plus(change);
            if node.change == Level::ZERO {
                let rest = self.join(left, right);
                self.free(at);
                return rest;
            }
        }
        self.balance(at)
    }

    /// Two subtrees of which all of the left one is earlier, and whose heights are those of siblings.
    fn join(&mut self, left: u32, right: u32) -> u32 {
        if left == NIL || right == NIL {
            return if left == NIL { right } else { left };
        }
        let (first, right) = self.unlink_first(right);
        let node = self.node(first);
        (node.left, node.right) = (left, right);
        self.balance(first)
    }

    /// The first node of a subtree, and the rest of it.
    fn unlink_first(&mut self, at: u32) -> (u32, u32) {
        let Node { left, right, .. } = *self.node(at);
        if left == NIL {
            return (at, right);
        }
        let (first, left) = self.unlink_first(left);
        self.node(at).left = left;
        (first, self.balance(at))
    }

    /// Makes a subtree right whose children are right and differ in height by two at most.
    fn balance(&mut self, at: u32) -> u32 {
        let Node { left, right, .. } = *self.node(at);
        let (left_height, right_height) = (self.height(left), self.height(right));
        if left_height > right_height + 1 {
            let Node { left: outer, right: inner, .. } = *self.node(left);
            if self.height(outer) < self.height(inner) {
                let left = self.rotate_left(left);
                self.node(at).left = left;
            }
            return self.rotate_right(at);
        }
        if right_height > left_height + 1 {
            let Node { left: inner, right: outer, .. } = *self.node(right);
            if self.height(outer) < self.height(inner) {
                let right = self.rotate_right(right);
                self.node(at).right = right;
            }
            return self.rotate_left(at);
        }
        self.update(at);
        at
    }

    fn rotate_left(&mut self, at: u32) -> u32 {
        let top = self.node(at).right;
        self.node(at).right = self.node(top).left;
        self.node(top).left = at;
        self.update(at);
        self.update(top);
        top
    }

    fn rotate_right(&mut self, at: u32) -> u32 {
        let top = self.node(at).left;
        self.node(at).left = self.node(top).right;
        self.node(top).right = at;
        self.update(at);
        self.update(top);
        top
    }

    fn update(&mut self, at: u32) {
        let Node { change, left, right, .. } = *self.node(at);
        let whole = self.stretch(left).then(Stretch::of(change)).then(self.stretch(right));
        let height = self.height(left).max(self.height(right)) + 1;
        let node = self.node(at);
        (node.whole, node.height) = (whole, height);
    }
}
