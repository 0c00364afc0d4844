//! Why a calendar did not take something.

use crate::calendar::interval::IntervalError;
use crate::calendar::{CHANGES_MAX, STEPS_MAX};

/// What there is not enough of at some instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    /// Bits per second.
    #[error("there is not that much rate left throughout the interval; ask for less or another time")]
    Rate,
    /// Bytes at once.
    #[error("there is not that much burst left throughout the interval; ask for less or another time")]
    Burst,
    /// Places for changes.
    #[error("the calendar has {CHANGES_MAX} changes, and room for no more; try again when some of them are past")]
    Changes,
}

/// Why a commitment keeps its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The new end is not after the start.
    #[error(transparent)]
    Interval(#[from] IntervalError),
    /// It does not fit up to the new end.
    #[error(transparent)]
    Shortage(#[from] Shortage),
}

/// The capacity would change too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a capacity has at most {STEPS_MAX} changes to come; merge some or enter them later")]
pub struct TooManySteps;
