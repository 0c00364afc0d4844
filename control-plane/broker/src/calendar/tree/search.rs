//! Finding the instant at which a level passes a limit, by what each subtree knows of itself.

use super::Tree;
use crate::calendar::level::{Level, Stretch};
use crate::name::Nanos;

/// The level that is looked for.
#[derive(Debug, Clone, Copy)]
pub(in crate::calendar) enum Wanted {
    /// More than this in at least one dimension. A subtree knows whether it has such a level: found in O(log n).
    Above(Level),
    /// At most this in both. A subtree whose lowest rate and lowest burst are low enough, but at different instants, is searched in vain.
    Within(Level),
}

impl Wanted {
    const fn is(self, level: Level) -> bool {
        match self {
            Self::Above(limit) => level.exceeds(limit),
            Self::Within(limit) => !level.exceeds(limit),
        }
    }

    /// Whether a stretch that begins at a level may have what is wanted.
    const fn may_be_in(self, stretch: Stretch, level: Level) -> bool {
        let (high, low) = stretch.above(level);
        match self {
            Self::Above(limit) => high.exceeds(limit),
            Self::Within(limit) => !low.exceeds(limit),
        }
    }
}

/// Between two instants, neither of them included.
#[derive(Clone, Copy)]
struct Between {
    from: Nanos,
    to: Nanos,
}

impl Tree {
    /// The first instant in [from, to) at which the level is as wanted.
    pub(in crate::calendar) fn first(&self, from: Nanos, to: Nanos, wanted: Wanted) -> Option<Nanos> {
        if wanted.is(self.level_at(from)) {
            return Some(from);
        }
        self.first_below(self.root, Level::ZERO, Between { from, to }, wanted)
    }

    /// The last instant in [from, to) from which on the level is as wanted: `from`, or one at which something changes.
    pub(in crate::calendar) fn last(&self, from: Nanos, to: Nanos, wanted: Wanted) -> Option<Nanos> {
        let last = self.last_below(self.root, Level::ZERO, Between { from, to }, wanted);
        last.or_else(|| wanted.is(self.level_at(from)).then_some(from))
    }

    fn first_below(&self, at: u32, before: Level, between: Between, wanted: Wanted) -> Option<Nanos> {
        let node = self.get(at)?;
        if !wanted.may_be_in(node.whole, before) {
            return None;
        }
        let level = before.plus(self.stretch(node.left).sum).plus(node.change);
        if node.time > between.from {
            let earlier = self.first_below(node.left, before, between, wanted);
            if earlier.is_some() {
                return earlier;
            }
            if node.time < between.to && wanted.is(level) {
                return Some(node.time);
            }
        }
        if node.time < between.to { self.first_below(node.right, level, between, wanted) } else { None }
    }

    fn last_below(&self, at: u32, before: Level, between: Between, wanted: Wanted) -> Option<Nanos> {
        let node = self.get(at)?;
        if !wanted.may_be_in(node.whole, before) {
            return None;
        }
        let level = before.plus(self.stretch(node.left).sum).plus(node.change);
        if node.time < between.to {
            let later = self.last_below(node.right, level, between, wanted);
            if later.is_some() {
                return later;
            }
            if node.time > between.from && wanted.is(level) {
                return Some(node.time);
            }
        }
        if node.time > between.from { self.last_below(node.left, before, between, wanted) } else { None }
    }
}
