//! Bookings that recur: a rule becomes intervals, all of which are committed or none.

use crate::calendar::interval::{Interval, IntervalError, OPEN};
use crate::name::Nanos;

/// The most occurrences of one rule.
pub const OCCURRENCES_MAX: u32 = 1_000;

/// When a rule ends, as in RFC 5545 section 3.3.10.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// After that many occurrences, the first included.
    Count(u32),
    /// After the last occurrence that starts at this time or before.
    Time(Nanos),
}

/// The same interval again and again. The period is a fixed time: a change to summer time does not move an occurrence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recurrence {
    /// The first occurrence.
    pub first: Interval,
    /// From the start of one to the start of the next.
    pub period: Nanos,
    /// When it ends.
    pub until: Until,
}

/// Why a rule does not give intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecurrenceError {
    /// The first occurrence has no end.
    #[error("an interval without end cannot recur; give it an end")]
    Open,
    /// An occurrence would start before the one before it ends.
    #[error("occurrences of {} ns each {} ns would overlap; take a period that is as long, or longer", duration.0, period.0)]
    Overlapping {
        /// How long an occurrence is.
        duration: Nanos,
        /// From one start to the next.
        period: Nanos,
    },
    /// Not a single occurrence.
    #[error("the rule has no occurrence; count from 1, or let it end when it first starts or later")]
    Empty,
    /// More than [`OCCURRENCES_MAX`].
    #[error("the rule has more than {OCCURRENCES_MAX} occurrences; let it end earlier")]
    TooMany,
    /// An occurrence ends after the end of time.
    #[error(transparent)]
    Interval(#[from] IntervalError),
}

impl Recurrence {
    /// All occurrences, the earliest first; none overlaps another.
    ///
    /// # Errors
    /// The rule has no occurrence, too many, or some that cannot be.
    pub fn expand(&self) -> Result<Vec<Interval>, RecurrenceError> {
        let (start, period) = (self.first.start(), self.period);
        let duration = self.first.duration().ok_or(RecurrenceError::Open)?;
        if period < duration {
            return Err(RecurrenceError::Overlapping { duration, period });
        }
        let count = match self.until {
            Until::Count(count) => u64::from(count),
            Until::Time(last) if last < start => 0,
            // A period is at least a duration, and that is not 0.
            Until::Time(last) => ((last.0 - start.0) / period.0).saturating_add(1),
        };
        if count == 0 {
            return Err(RecurrenceError::Empty);
        }
        if count > u64::from(OCCURRENCES_MAX) {
            return Err(RecurrenceError::TooMany);
        }
        let occurrence = |index: u64| {
            let start = period.0.checked_mul(index).and_then(|after| start.0.checked_add(after)).map_or(OPEN, Nanos);
            Interval::lasting(start, duration).map_err(RecurrenceError::from)
        };
        (0..count).map(occurrence).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::{Calendar, Shortage};
    use crate::cost::Cost;

    fn interval(start: u64, end: u64) -> Interval {
        Interval::new(Nanos(start), Nanos(end)).unwrap()
    }

    fn rule(period: u64, until: Until) -> Recurrence {
        Recurrence { first: interval(100, 110), period: Nanos(period), until }
    }

    #[test]
    fn a_rule_gives_its_occurrences() {
        let three = vec![interval(100, 110), interval(125, 135), interval(150, 160)];
        assert_eq!(rule(25, Until::Count(3)).expand(), Ok(three.clone()));
        assert_eq!(rule(25, Until::Time(Nanos(150))).expand(), Ok(three.clone()));
        assert_eq!(rule(25, Until::Time(Nanos(174))).expand(), Ok(three.clone()));
        assert_eq!(rule(25, Until::Time(Nanos(149))).expand(), Ok(three[..2].to_vec()));
        assert_eq!(rule(10, Until::Count(2)).expand(), Ok(vec![interval(100, 110), interval(110, 120)]));
    }

    #[test]
    fn a_rule_that_cannot_be_says_why() {
        let overlapping = RecurrenceError::Overlapping { duration: Nanos(10), period: Nanos(9) };
        assert_eq!(rule(9, Until::Count(1)).expand(), Err(overlapping));
        assert_eq!(rule(25, Until::Count(0)).expand(), Err(RecurrenceError::Empty));
        assert_eq!(rule(25, Until::Time(Nanos(99))).expand(), Err(RecurrenceError::Empty));
        assert_eq!(rule(25, Until::Count(OCCURRENCES_MAX)).expand().map(|all| all.len()), Ok(1_000));
        assert_eq!(rule(25, Until::Count(OCCURRENCES_MAX + 1)).expand(), Err(RecurrenceError::TooMany));
        assert_eq!(rule(25, Until::Time(OPEN)).expand(), Err(RecurrenceError::TooMany));
        let open = Recurrence { first: Interval::ALWAYS, ..rule(25, Until::Count(2)) };
        assert_eq!(open.expand(), Err(RecurrenceError::Open));
        for period in [u64::MAX - 105, u64::MAX / 2] {
            let beyond = rule(period, Until::Count(3)).expand();
            assert!(matches!(beyond, Err(RecurrenceError::Interval(IntervalError::Beyond { .. }))), "{beyond:?}");
        }
    }

    #[test]
    fn all_occurrences_are_committed_or_none() {
        let mut calendar = Calendar::new(Cost { rate_bps: 10, burst_bytes: 10 });
        let cost = |rate_bps| Cost { rate_bps, burst_bytes: 1 };
        calendar.commit(interval(155, 156), cost(5)).unwrap();
        let occurrences = rule(25, Until::Count(3)).expand().unwrap();
        assert_eq!(calendar.commit_all(&occurrences, cost(6)), Err((interval(150, 160), Shortage::Rate)));
        assert_eq!(calendar.changes(), 2);
        assert_eq!(calendar.peak(interval(0, 155)), Cost::default());
        assert_eq!(calendar.commit_all(&occurrences, cost(5)), Ok(()));
        assert_eq!(calendar.peak(Interval::ALWAYS), Cost { rate_bps: 10, burst_bytes: 2 });
    }
}
