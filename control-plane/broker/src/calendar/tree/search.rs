//! Finding the instant at which a level passes a limit, by what is known of each subtree.

use super::{Below, Tree};
use crate::calendar::level::{Level, Range};
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

    /// Whether it may be among some levels.
    const fn may_be_in(self, range: Range) -> bool {
        match self {
            Self::Above(limit) => range.high.exceeds(limit),
            Self::Within(limit) => !range.low.exceeds(limit),
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
        self.first_below(self.top()?, Between { from, to }, wanted)
    }

    /// The last instant in [from, to) from which on the level is as wanted: `from`, or one at which something changes.
    pub(in crate::calendar) fn last(&self, from: Nanos, to: Nanos, wanted: Wanted) -> Option<Nanos> {
        let last = self.top().and_then(|top| self.last_below(top, Between { from, to }, wanted));
        last.or_else(|| wanted.is(self.level_at(from)).then_some(from))
    }

    fn first_below(&self, below: Below, between: Between, wanted: Wanted) -> Option<Nanos> {
        let Between { from, to } = between;
        if below.height == 0 {
            let leaf = self.leaves.get(below.node);
            let found = (leaf.until(from)..leaf.before(to)).find(|at| wanted.is(below.origin.plus(leaf.levels()[*at])));
            return found.map(|at| leaf.times()[at]);
        }
        let inner = self.inners.get(below.node);
        (inner.until(from).saturating_sub(1)..inner.before(to))
            .filter(|at| wanted.may_be_in(inner.rest()[*at].range.from(below.child(inner, *at).origin)))
            .find_map(|at| self.first_below(below.child(inner, at), between, wanted))
    }

    fn last_below(&self, below: Below, between: Between, wanted: Wanted) -> Option<Nanos> {
        let Between { from, to } = between;
        if below.height == 0 {
            let leaf = self.leaves.get(below.node);
            let found =
                (leaf.until(from)..leaf.before(to)).rfind(|at| wanted.is(below.origin.plus(leaf.levels()[*at])));
            return found.map(|at| leaf.times()[at]);
        }
        let inner = self.inners.get(below.node);
        (inner.until(from).saturating_sub(1)..inner.before(to))
            .rev()
            .filter(|at| wanted.may_be_in(inner.rest()[*at].range.from(below.child(inner, *at).origin)))
            .find_map(|at| self.last_below(below.child(inner, at), between, wanted))
    }
}
