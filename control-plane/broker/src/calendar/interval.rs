//! Intervals of time: their start belongs to them, their end does not.

use crate::name::Nanos;

/// The time that is never reached: an interval that ends here has no end.
pub const OPEN: Nanos = Nanos(u64::MAX);

/// Why two times are not an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IntervalError {
    /// It would contain no instant.
    #[error("an interval that ends at {} ns, when it starts, is empty; let it end later", .0.0)]
    Empty(Nanos),
    /// It would end before it starts.
    #[error("an interval cannot start at {} ns and end before, at {} ns; exchange start and end", start.0, end.0)]
    Inverted {
        /// The start.
        start: Nanos,
        /// The end, which is before.
        end: Nanos,
    },
    /// The end of time is before its end.
    #[error("an interval that starts at {} ns and lasts {} ns ends after the end of time; take a shorter one or one without end", start.0, duration.0)]
    Beyond {
        /// The start.
        start: Nanos,
        /// How long it would last.
        duration: Nanos,
    },
}

/// All instants from `start` on that are before `end`; at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval {
    start: Nanos,
    end: Nanos,
}

impl Interval {
    /// All of time.
    pub const ALWAYS: Self = Self { start: Nanos(0), end: OPEN };

    /// No other is less.
    pub(crate) const FIRST: Self = Self { start: Nanos(0), end: Nanos(1) };
    /// No other is more.
    pub(crate) const LAST: Self = Self { start: Nanos(OPEN.0 - 1), end: OPEN };

    /// From `start` up to, and without, `end`; [`OPEN`] is no end.
    ///
    /// # Errors
    /// [`IntervalError::Empty`] and [`IntervalError::Inverted`].
    pub const fn new(start: Nanos, end: Nanos) -> Result<Self, IntervalError> {
        if start.0 == end.0 {
            return Err(IntervalError::Empty(start));
        }
        if start.0 > end.0 {
            return Err(IntervalError::Inverted { start, end });
        }
        Ok(Self { start, end })
    }

    /// From `start` on, as long as `duration`.
    ///
    /// # Errors
    /// [`IntervalError::Empty`] for no duration, [`IntervalError::Beyond`] where it would end at [`OPEN`] or later.
    pub const fn lasting(start: Nanos, duration: Nanos) -> Result<Self, IntervalError> {
        match start.0.checked_add(duration.0) {
            Some(end) if end < OPEN.0 => Self::new(start, Nanos(end)),
            Some(_) | None => Err(IntervalError::Beyond { start, duration }),
        }
    }

    /// From `start` on, without end.
    ///
    /// # Errors
    /// [`IntervalError::Empty`] if `start` is [`OPEN`].
    pub const fn from(start: Nanos) -> Result<Self, IntervalError> {
        Self::new(start, OPEN)
    }

    /// Whether they have an instant in common.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start.0 < other.end.0 && other.start.0 < self.end.0
    }

    /// Whether an instant is in it.
    #[must_use]
    pub const fn contains(self, time: Nanos) -> bool {
        self.start.0 <= time.0 && time.0 < self.end.0
    }

    /// Its first instant.
    #[must_use]
    pub const fn start(self) -> Nanos {
        self.start
    }

    /// The first instant after it; [`OPEN`] if it has no end.
    #[must_use]
    pub const fn end(self) -> Nanos {
        self.end
    }

    /// How long it lasts; `None` if it has no end.
    #[must_use]
    pub const fn duration(self) -> Option<Nanos> {
        if self.end.0 == OPEN.0 { None } else { Some(Nanos(self.end.0 - self.start.0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_has_an_instant_at_least() {
        assert_eq!(Interval::new(Nanos(5), Nanos(5)), Err(IntervalError::Empty(Nanos(5))));
        let (start, end) = (Nanos(6), Nanos(5));
        assert_eq!(Interval::new(start, end), Err(IntervalError::Inverted { start, end }));
        assert_eq!(Interval::new(Nanos(5), Nanos(6)).map(Interval::duration), Ok(Some(Nanos(1))));
        assert_eq!(Interval::from(OPEN), Err(IntervalError::Empty(OPEN)));
        assert_eq!(Interval::from(Nanos(5)).map(Interval::duration), Ok(None));
    }

    #[test]
    fn a_duration_ends_before_the_end_of_time() {
        let start = Nanos(u64::MAX - 10);
        assert_eq!(Interval::lasting(start, Nanos(9)).map(Interval::end), Ok(Nanos(u64::MAX - 1)));
        for duration in [10, 11, u64::MAX].map(Nanos) {
            assert_eq!(Interval::lasting(start, duration), Err(IntervalError::Beyond { start, duration }));
        }
        assert_eq!(Interval::lasting(start, Nanos(0)), Err(IntervalError::Empty(start)));
    }
}
