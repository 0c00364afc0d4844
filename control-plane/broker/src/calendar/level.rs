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

/// The highest and the lowest of some levels, each dimension for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) high: Level,
    pub(super) low: Level,
}

impl Range {
    /// Of the level 0.
    pub(super) const ZERO: Self = Self { high: Level::ZERO, low: Level::ZERO };

    /// The same levels as seen from 0, if they were seen from `origin`.
    pub(super) const fn from(self, origin: Level) -> Self {
        Self { high: origin.plus(self.high), low: origin.plus(self.low) }
    }
}

/// The highest or the lowest of levels, each dimension for itself: who needs one of them does not pay for both.
pub(super) trait Extreme {
    /// Of no level at all. It cannot be added to.
    const NONE: Level;
    fn of(range: Range) -> Level;
    fn either(one: Level, other: Level) -> Level;
}

pub(super) struct Highest;
pub(super) struct Lowest;

impl Extreme for Highest {
    const NONE: Level = Level { rate_bps: i64::MIN, burst_bytes: i64::MIN };

    fn of(range: Range) -> Level {
        range.high
    }

    fn either(one: Level, other: Level) -> Level {
        one.max(other)
    }
}

impl Extreme for Lowest {
    const NONE: Level = Level { rate_bps: i64::MAX, burst_bytes: i64::MAX };

    fn of(range: Range) -> Level {
        range.low
    }

    fn either(one: Level, other: Level) -> Level {
        one.min(other)
    }
}
