//! Looking for a time: when something would fit, and when more is committed than there is.

use crate::calendar::Calendar;
use crate::calendar::interval::{Interval, OPEN};
use crate::calendar::level::{LEVEL_MAX, Level};
use crate::calendar::tree::Wanted;
use crate::cost::Cost;
use crate::name::Nanos;

/// The most times that [`Calendar::earliest`] tries.
pub const ATTEMPTS_MAX: u32 = 10_000;

impl Calendar {
    /// The earliest start, from `not_before` to `horizon`, both included, from which on a cost fits for as long as `duration`, or without
    /// end. `None` if there is none, or if it was not found in [`ATTEMPTS_MAX`] attempts.
    ///
    /// A time that is tried and does not do is followed by the end of the last obstacle that was in its way. So two attempts lead further
    /// than a duration, and without end one does: attempts are at most the gaps that are too short, and 2 × (horizon - `not_before`) /
    /// duration. An attempt is three searches in a tree: O(log n), or longer where rate and burst are low at different times.
    #[must_use]
    pub fn earliest(&self, cost: Cost, duration: Option<Nanos>, not_before: Nanos, horizon: Nanos) -> Option<Nanos> {
        if cost.rate_bps > LEVEL_MAX || cost.burst_bytes > LEVEL_MAX {
            return None;
        }
        let limit = |capacity| self.limit(capacity, cost);
        let mut start = not_before.max(self.begin);
        for _ in 0..ATTEMPTS_MAX {
            if start > horizon {
                return None;
            }
            let tried = match duration {
                Some(duration) => Interval::lasting(start, duration),
                None => Interval::from(start),
            };
            let Some(obstacle) = self.last_above(tried.ok()?, limit) else { return Some(start) };
            start = self.first_within(obstacle, limit)?;
        }
        None
    }

    /// The first interval, as long as it can be, in which at every instant more is committed than there is: of a link that became smaller,
    /// or after [`Self::adopt`]. Longer than O(log n) where rate and burst are too much at different times.
    #[must_use]
    pub fn overloaded(&self) -> Option<Interval> {
        let limit = |capacity: Level| capacity.minus(self.base);
        let start = self
            .parts(self.begin, OPEN)
            .find_map(|(from, to, capacity)| self.changes.first(from, to, Wanted::Above(limit(capacity))))?;
        Interval::new(start, self.first_within(start, limit).unwrap_or(OPEN)).ok()
    }

    /// The last instant of an interval from which on what is used is above the limit that the capacity sets.
    fn last_above(&self, interval: Interval, limit: impl Fn(Level) -> Level) -> Option<Nanos> {
        self.parts(interval.start(), interval.end())
            .rev()
            .find_map(|(from, to, capacity)| self.changes.last(from, to, Wanted::Above(limit(capacity))))
    }

    /// The first instant from `time` on at which it is not.
    fn first_within(&self, time: Nanos, limit: impl Fn(Level) -> Level) -> Option<Nanos> {
        self.parts(time, OPEN)
            .find_map(|(from, to, capacity)| self.changes.first(from, to, Wanted::Within(limit(capacity))))
    }

    /// How far the changes since `begin` may go for a cost to fit. Nothing of a dimension fits everywhere.
    fn limit(&self, capacity: Level, cost: Cost) -> Level {
        let Level { rate_bps, burst_bytes } = capacity.minus(self.base).minus(Level::counted(cost));
        Level {
            rate_bps: if cost.rate_bps == 0 { i64::MAX } else { rate_bps },
            burst_bytes: if cost.burst_bytes == 0 { i64::MAX } else { burst_bytes },
        }
    }
}
