//! What is used at an instant, and how that goes up and down over a stretch of time.

use crate::cost::Cost;

/// The most that can be counted of either dimension: half of what an `i64` holds, so that the difference of two levels always fits, even
/// while one of a change's two ends is entered and the other is not yet.
pub const LEVEL_MAX: u64 = (1 << 62) - 1;

/// What is used, or by how much that changes: signed [`Cost`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Level {
    pub(super) rate_bps: i64,
    pub(super) burst_bytes: i64,
}

const fn counted(value: u64) -> i64 {
    if value < LEVEL_MAX { value.cast_signed() } else { LEVEL_MAX.cast_signed() }
}

impl Level {
    pub(super) const ZERO: Self = Self { rate_bps: 0, burst_bytes: 0 };
    pub(super) const MAX: Self = Self::counted(Cost { rate_bps: u64::MAX, burst_bytes: u64::MAX });

    /// A cost, or as much of it as can be counted.
    pub(super) const fn counted(cost: Cost) -> Self {
        Self { rate_bps: counted(cost.rate_bps), burst_bytes: counted(cost.burst_bytes) }
    }

    /// What is below 0 counts as 0.
    pub(super) fn cost(self) -> Cost {
        let unsigned = |value: i64| u64::try_from(value).unwrap_or(0);
        Cost { rate_bps: unsigned(self.rate_bps), burst_bytes: unsigned(self.burst_bytes) }
    }

    pub(super) const fn plus(self, other: Self) -> Self {
        Self { rate_bps: self.rate_bps + other.rate_bps, burst_bytes: self.burst_bytes + other.burst_bytes }
    }

    pub(super) const fn minus(self, other: Self) -> Self {
        Self { rate_bps: self.rate_bps - other.rate_bps, burst_bytes: self.burst_bytes - other.burst_bytes }
    }

    /// The higher of each dimension.
    pub(super) fn max(self, other: Self) -> Self {
        Self { rate_bps: self.rate_bps.max(other.rate_bps), burst_bytes: self.burst_bytes.max(other.burst_bytes) }
    }

    /// The lower of each dimension.
    pub(super) fn min(self, other: Self) -> Self {
        Self { rate_bps: self.rate_bps.min(other.rate_bps), burst_bytes: self.burst_bytes.min(other.burst_bytes) }
    }

    /// Whether this is more in at least one dimension.
    pub(super) const fn exceeds(self, limit: Self) -> bool {
        self.rate_bps > limit.rate_bps || self.burst_bytes > limit.burst_bytes
    }
}

/// A stretch of time with any number of changes in it, as seen from the level before the first of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Stretch {
    /// From before the first change to after the last one.
    pub(super) sum: Level,
    /// To the highest level, the one before the first change included; each dimension for itself.
    pub(super) high: Level,
    /// To the lowest level, likewise.
    pub(super) low: Level,
}

impl Stretch {
    /// Without a change in it.
    pub(super) const EMPTY: Self = Self { sum: Level::ZERO, high: Level::ZERO, low: Level::ZERO };

    /// With a single change in it.
    pub(super) fn of(change: Level) -> Self {
        Self { sum: change, high: change.max(Level::ZERO), low: change.min(Level::ZERO) }
    }

    /// This one, and after it `later`.
    pub(super) fn then(self, later: Self) -> Self {
        Self {
            sum: self.sum.plus(later.sum),
            high: self.high.max(self.sum.plus(later.high)),
            low: self.low.min(self.sum.plus(later.low)),
        }
    }

    /// The same stretch from a level instead of from 0: its highest and its lowest.
    pub(super) const fn above(self, level: Level) -> (Level, Level) {
        (level.plus(self.high), level.plus(self.low))
    }
}
