//! Capacity and commitments over time: what an admission is decided on (R-000-8, R-002-1).
//!
//! What is used of a capacity changes where a commitment starts and where it ends. These changes are kept, by time, in a balanced tree; the
//! past is merged into one level. So a session from now on without end is an addition, and any other commitment two ways down a tree.

mod error;
mod interval;
mod level;
mod recurrence;
mod search;
mod tree;

#[cfg(test)]
mod tests;

use crate::cost::Cost;
use crate::name::Nanos;
use level::{Extreme, Highest, Level, Lowest};
use tree::Tree;

pub use error::{ChangeError, Shortage, TooManySteps};
pub use interval::{Interval, IntervalError, OPEN};
pub use level::LEVEL_MAX;
pub use recurrence::{OCCURRENCES_MAX, Recurrence, RecurrenceError, Until};
pub use search::ATTEMPTS_MAX;

/// The most instants at which something changes; beyond, commitments are refused. About 45 bytes each.
pub const CHANGES_MAX: usize = 4_000_000;
/// The most instants to come at which a capacity changes.
pub const STEPS_MAX: usize = 1_000;

/// A capacity that may change over time, and commitments, each over an interval.
///
/// The calendar knows how much is committed at any instant, not by whom: who commits keeps interval and cost, and releases the same. In
/// what [is past](Self::forget) nothing is committed any more, and the capacity is that of the beginning: of an interval that has begun only
/// the rest counts, and of one that is over nothing is taken.
///
/// n being the changes to come: each operation takes O(log n) steps for each part of its interval over which the capacity is the same,
/// where it does not say otherwise.
#[derive(Debug, Clone)]
pub struct Calendar {
    /// What is before is past.
    begin: Nanos,
    /// What is used at `begin`.
    base: Level,
    /// How that changes after `begin`.
    changes: Tree,
    /// The capacity at `begin`.
    capacity: Cost,
    /// The capacity from an instant after `begin` on, up to the next; sorted.
    steps: Vec<(Nanos, Cost)>,
}

impl Calendar {
    /// With the same capacity at all times and nothing committed. Of more than [`LEVEL_MAX`] only that much can be committed.
    #[must_use]
    pub const fn new(capacity: Cost) -> Self {
        Self { begin: Nanos(0), base: Level::ZERO, changes: Tree::new(), capacity, steps: Vec::new() }
    }

    /// The first instant that is not past.
    #[must_use]
    pub const fn begin(&self) -> Nanos {
        self.begin
    }

    /// How many instants there are to come at which what is committed changes.
    #[must_use]
    pub const fn changes(&self) -> usize {
        self.changes.len()
    }

    /// The capacity at an instant.
    #[must_use]
    pub fn capacity_at(&self, time: Nanos) -> Cost {
        self.capacity_of_part(self.steps.partition_point(|step| step.0 <= time))
    }

    /// What is committed at an instant.
    #[must_use]
    pub fn used_at(&self, time: Nanos) -> Cost {
        if time < self.begin { Cost::default() } else { self.base.plus(self.changes.level_at(time)).cost() }
    }

    /// The most that is committed in an interval, each dimension for itself.
    #[must_use]
    pub fn peak(&self, interval: Interval) -> Cost {
        self.ahead(interval).map_or(Level::ZERO, |(start, end)| self.extreme::<Highest>(start, end)).cost()
    }

    /// What is left throughout an interval, each dimension for itself; 0 where more is committed than there is. It is the largest cost that
    /// can be committed there: the counter-offer to one that cannot.
    #[must_use]
    pub fn free(&self, interval: Interval) -> Cost {
        self.left(interval).cost()
    }

    /// Takes a part for an interval, or changes nothing.
    ///
    /// # Errors
    /// What there is not enough of at an instant of the interval.
    pub fn commit(&mut self, interval: Interval, cost: Cost) -> Result<(), Shortage> {
        check_against(self.left(interval), cost)?;
        self.check_places(interval)?;
        self.enter(interval, Level::counted(cost));
        Ok(())
    }

    /// Takes the same part for each interval, or changes nothing. O(log n) for each.
    ///
    /// # Errors
    /// The first interval that does not fit, and what there is not enough of.
    pub fn commit_all(&mut self, intervals: &[Interval], cost: Cost) -> Result<(), (Interval, Shortage)> {
        for (index, interval) in intervals.iter().enumerate() {
            if let Err(shortage) = self.commit(*interval, cost) {
                for committed in &intervals[..index] {
                    self.release(*committed, cost);
                }
                return Err((*interval, shortage));
            }
        }
        Ok(())
    }

    /// Takes a part that was committed in an earlier life, whatever the capacity is now. Where more is committed than there is, nothing can
    /// be until enough was released.
    ///
    /// # Errors
    /// More than [`LEVEL_MAX`] together, or more than [`CHANGES_MAX`]; then nothing is changed.
    pub fn adopt(&mut self, interval: Interval, cost: Cost) -> Result<(), Shortage> {
        if let Some((start, end)) = self.ahead(interval) {
            let countable = Level::MAX.minus(self.extreme::<Highest>(start, end));
            check_against(countable, cost)?;
            self.check_places(interval)?;
            self.enter(interval, Level::counted(cost));
        }
        Ok(())
    }

    /// Gives back what was taken for an interval.
    ///
    /// # Panics
    /// If less than that is committed at an instant of the interval.
    pub fn release(&mut self, interval: Interval, cost: Cost) {
        self.assert_committed(interval, cost);
        self.enter(interval, Level::ZERO.minus(Level::counted(cost)));
    }

    /// Takes another part for the same interval, or changes nothing. Taking less of a dimension always works.
    ///
    /// # Errors
    /// What there is not enough of at an instant of the interval.
    ///
    /// # Panics
    /// If less than `from` is committed at an instant of the interval.
    pub fn resize(&mut self, interval: Interval, from: Cost, to: Cost) -> Result<(), Shortage> {
        self.assert_committed(interval, from);
        let more = Cost {
            rate_bps: to.rate_bps.saturating_sub(from.rate_bps),
            burst_bytes: to.burst_bytes.saturating_sub(from.burst_bytes),
        };
        check_against(self.left(interval), more)?;
        self.enter(interval, Level::counted(to).minus(Level::counted(from)));
        Ok(())
    }

    /// Lets a commitment end earlier, which always works, or later, if that fits: then it is that of the interval returned. Or changes
    /// nothing.
    ///
    /// # Errors
    /// The new end is not after the start, or what there is not enough of up to the new end.
    ///
    /// # Panics
    /// If less than `cost` is committed at an instant of the interval.
    pub fn change_end(&mut self, interval: Interval, end: Nanos, cost: Cost) -> Result<Interval, ChangeError> {
        let changed = Interval::new(interval.start(), end)?;
        self.assert_committed(interval, cost);
        if let Ok(extension) = Interval::new(interval.end(), end) {
            self.commit(extension, cost)?;
        } else if let Ok(rest) = Interval::new(end, interval.end()) {
            self.release(rest, cost);
        }
        Ok(changed)
    }

    /// Changes the capacity over an interval, whatever is committed there: see [`Self::overloaded`]. O([`STEPS_MAX`]).
    ///
    /// # Errors
    /// More than [`STEPS_MAX`] changes of it to come; then nothing is changed.
    pub fn set_capacity(&mut self, interval: Interval, capacity: Cost) -> Result<(), TooManySteps> {
        let Some((start, end)) = self.ahead(interval) else { return Ok(()) };
        let after = self.capacity_at(end);
        let mut steps = Vec::with_capacity(self.steps.len() + 2);
        steps.push((self.begin, self.capacity));
        steps.extend_from_slice(&self.steps);
        steps.retain(|step| step.0 < start || step.0 > end);
        let at = steps.partition_point(|step| step.0 < start);
        steps.insert(at, (start, capacity));
        if end < OPEN {
            steps.insert(at + 1, (end, after));
        }
        steps.dedup_by_key(|step| step.1);
        if steps.len() > STEPS_MAX + 1 {
            return Err(TooManySteps);
        }
        self.capacity = steps.remove(0).1;
        self.steps = steps;
        Ok(())
    }

    /// Lets what is before `now` be past. O(log n) for each change that is past by it, which is once in its life.
    pub fn forget(&mut self, now: Nanos) {
        let now = now.min(Nanos(OPEN.0 - 1));
        if now <= self.begin {
            return;
        }
        self.begin = now;
        self.base = self.base.plus(self.changes.take_until(now));
        let past = self.steps.partition_point(|step| step.0 <= now);
        if let Some((_, capacity)) = self.steps.drain(..past).next_back() {
            self.capacity = capacity;
        }
    }

    /// The part of an interval that is not past.
    fn ahead(&self, interval: Interval) -> Option<(Nanos, Nanos)> {
        let start = interval.start().max(self.begin);
        (start < interval.end()).then_some((start, interval.end()))
    }

    /// The capacity after that many steps.
    fn capacity_of_part(&self, steps: usize) -> Cost {
        steps.checked_sub(1).map_or(self.capacity, |last| self.steps[last].1)
    }

    /// [from, to) in parts of one capacity each, as it is counted.
    fn parts(&self, from: Nanos, to: Nanos) -> impl DoubleEndedIterator<Item = (Nanos, Nanos, Level)> {
        let first = self.steps.partition_point(|step| step.0 <= from);
        let last = self.steps.partition_point(|step| step.0 < to);
        (first..=last).map(move |part| {
            let start = if part == first { from } else { self.steps[part - 1].0 };
            let end = if part == last { to } else { self.steps[part].0 };
            (start, end, Level::counted(self.capacity_of_part(part)))
        })
    }

    /// The highest or the lowest level in [from, to).
    fn extreme<E: Extreme>(&self, from: Nanos, to: Nanos) -> Level {
        // What begins now is all from the beginning on: there is only one end to look for, or none.
        let level = match (from <= self.begin, to == OPEN) {
            (true, true) => E::of(self.changes.whole()),
            (true, false) => self.changes.extreme_before::<E>(to),
            (false, _) => self.changes.extreme::<E>(from, to),
        };
        self.base.plus(level)
    }

    /// Like [`Self::free`], but less than 0 where more is committed than there is.
    fn left(&self, interval: Interval) -> Level {
        let Some((start, end)) = self.ahead(interval) else { return Level::counted(self.capacity) };
        let left = |(from, to, capacity): (Nanos, Nanos, Level)| capacity.minus(self.extreme::<Highest>(from, to));
        self.parts(start, end).map(left).fold(Level::MAX, Level::min)
    }

    fn check_places(&self, interval: Interval) -> Result<(), Shortage> {
        let needed = usize::from(interval.start() > self.begin) + usize::from(interval.end() < OPEN);
        if needed > 0 && self.changes.len() + needed > CHANGES_MAX { Err(Shortage::Changes) } else { Ok(()) }
    }

    fn assert_committed(&self, interval: Interval, cost: Cost) {
        if let Some((start, end)) = self.ahead(interval) {
            let low = self.extreme::<Lowest>(start, end);
            assert!(check_against(low, cost).is_ok(), "what comes back to a calendar was taken from it");
        }
    }

    fn enter(&mut self, interval: Interval, change: Level) {
        let Some((start, end)) = self.ahead(interval) else { return };
        if start <= self.begin {
            self.base = self.base.plus(change);
        } else {
            self.changes.add(start, change);
        }
        if end < OPEN {
            self.changes.add(end, Level::ZERO.minus(change));
        }
    }
}

/// Whether a cost is in what is left. Nothing of a dimension always is.
fn check_against(left: Level, cost: Cost) -> Result<(), Shortage> {
    let Cost { rate_bps, burst_bytes } = left.cost();
    if cost.rate_bps > rate_bps {
        return Err(Shortage::Rate);
    }
    if cost.burst_bytes > burst_bytes {
        return Err(Shortage::Burst);
    }
    Ok(())
}
