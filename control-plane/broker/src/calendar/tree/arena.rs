//! Nodes of one kind in one allocation, each known by its place.

use super::node::{FULL, MERGED, Node, Rest};
use crate::calendar::level::Level;
use crate::name::Nanos;

/// Nodes that an empty arena keeps room for.
const ROOM_KEPT: usize = 32;

#[derive(Debug, Clone)]
pub(super) struct Arena<R> {
    nodes: Vec<Node<R>>,
    /// Places to use again.
    unused: Vec<u32>,
}

impl<R: Rest> Arena<R> {
    pub(super) const fn new() -> Self {
        Self { nodes: Vec::new(), unused: Vec::new() }
    }

    pub(super) fn get(&self, at: u32) -> &Node<R> {
        &self.nodes[at as usize]
    }

    pub(super) fn get_mut(&mut self, at: u32) -> &mut Node<R> {
        &mut self.nodes[at as usize]
    }

    /// An empty node.
    pub(super) fn allocate(&mut self) -> u32 {
        if let Some(at) = self.unused.pop() {
            *self.get_mut(at) = Node::new();
            return at;
        }
        let at = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        assert!(at < u32::MAX, "a calendar refuses commitments long before it has 2^32 changes");
        self.nodes.push(Node::new());
        at
    }

    pub(super) fn free(&mut self, at: u32) {
        self.unused.push(at);
        if self.unused.len() == self.nodes.len() {
            self.nodes.clear();
            self.nodes.shrink_to(ROOM_KEPT);
            self.unused = Vec::new();
        }
    }

    /// Moves the later half of a node to a new one: its place, its first time, and how far the level before it is above that before `left`.
    pub(super) fn split(&mut self, left: u32) -> (u32, Nanos, Level) {
        let right = self.allocate();
        let (time, gap) = self.share(left, right, Level::ZERO, FULL / 2);
        (right, time, gap)
    }

    /// Lets two neighbours have half of their entries each, or all of them the first one, if that is not too many; then the second one is
    /// free. `gap` is how far the level before `right` is above that before `left`. Returns the first time and the gap of `right`.
    pub(super) fn level_out(&mut self, left: u32, right: u32, gap: Level) -> Option<(Nanos, Level)> {
        let together = self.get(left).len() + self.get(right).len();
        if together <= MERGED {
            self.share(left, right, gap, together);
            self.free(right);
            return None;
        }
        Some(self.share(left, right, gap, together / 2))
    }

    fn share(&mut self, left: u32, right: u32, gap: Level, keep: usize) -> (Nanos, Level) {
        let Ok([left, right]) = self.nodes.get_disjoint_mut([left as usize, right as usize]) else {
            unreachable!("neighbours are two nodes");
        };
        let gap = Node::share(left, right, gap, keep);
        (right.times().first().copied().unwrap_or_default(), gap)
    }
}

#[cfg(test)]
impl<R> Arena<R> {
    pub(super) const fn used(&self) -> usize {
        self.nodes.len() - self.unused.len()
    }

    pub(super) const fn room(&self) -> usize {
        self.nodes.len()
    }
}
