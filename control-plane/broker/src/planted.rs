//! Bugs on purpose, so that tests can show that the simulation's checker finds such. Without the feature `planted-bugs`, which only tests
//! ask for, there is none.

use crate::broker::Broker;
use crate::calendar::Interval;
use crate::fence::Subject;
use crate::name::{Nanos, NodeName};
use crate::schedule::Schedule;

/// A bug that a broker can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "planted-bugs"), allow(unreachable_pub, reason = "only tests name it from outside"))]
pub enum PlantedBug {
    /// A first side that gives a session up does not tell the second side.
    ReleaseSkipped,
    /// A client is told that its session is up once the second side was asked to commit, not once it has.
    AnsweredEarly,
    /// The share of a hold goes back to its pools at the hold's end, and the hold itself a tick later: a commit in between is taken.
    HoldEndsTwice,
    /// The attempt that was given up last is heard again: an interval that should have its end in it has not.
    FenceEndsEarly,
    /// A session's share of a pool ends a tick before the session: an interval without its last instant.
    IntervalEndsEarly,
    /// What was offered to one that waited and is not taken in time is not given back.
    OfferKept,
}

impl Broker {
    /// Gives it a bug. Only with the feature `planted-bugs`.
    #[cfg(feature = "planted-bugs")]
    #[doc(hidden)]
    pub const fn plant(&mut self, bug: PlantedBug) {
        self.planted = Some(bug);
    }

    /// Whether this attempt is still to be heard.
    pub(crate) fn is_open(&self, peer: &NodeName, subject: Subject, attempt: u64) -> bool {
        let attempt = if self.has_bug(PlantedBug::FenceEndsEarly) { attempt + 1 } else { attempt };
        self.fences.is_open(peer, subject, attempt)
    }

    /// What a session holds of its pools.
    pub(crate) fn held_interval(&self, schedule: Schedule) -> Interval {
        let interval = schedule.interval();
        let early = Nanos(interval.end().0 - u64::from(self.has_bug(PlantedBug::IntervalEndsEarly)));
        Interval::new(interval.start(), early).unwrap_or(interval)
    }

    #[cfg(feature = "planted-bugs")]
    pub(crate) fn has_bug(&self, bug: PlantedBug) -> bool {
        self.planted == Some(bug)
    }

    #[cfg(not(feature = "planted-bugs"))]
    #[allow(clippy::unused_self, reason = "with the feature it looks")]
    pub(crate) const fn has_bug(&self, _: PlantedBug) -> bool {
        false
    }
}
