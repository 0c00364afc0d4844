//! A pool: a capacity over time and what is held and committed of it.

#[cfg(test)]
mod bookings;

use crate::calendar::{Calendar, Interval, OPEN, Shortage};
use crate::cost::Cost;
use crate::name::{Nanos, NodeName};
use crate::refusal::PoolState;

/// Bandwidth that is given out in parts. At every instant the parts are together at most the whole: asserted at every hold.
///
/// Aggregates hold their parts from [now](Self::forget) on without end, sessions for what is to come of their interval.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    calendar: Calendar,
}

impl Pool {
    pub(crate) const fn new(capacity: Cost) -> Self {
        Self { calendar: Calendar::new(capacity) }
    }

    /// Lets what is before `now` be past: the first thing to do for a decision.
    pub(crate) fn forget(&mut self, now: Nanos) {
        self.calendar.forget(now);
    }

    /// What is left throughout what is to come of an interval.
    pub(crate) fn free(&self, interval: Interval) -> Cost {
        self.calendar.free(interval)
    }

    /// What is held at a time that is not past.
    pub(crate) fn used_at(&self, time: Nanos) -> Cost {
        self.calendar.used_at(time)
    }

    /// Takes a part from now on without end, or changes nothing.
    pub(crate) fn hold(&mut self, cost: Cost) -> Result<(), Shortage> {
        self.hold_for(Interval::ALWAYS, cost)
    }

    /// Takes a part for what is to come of an interval, or changes nothing.
    pub(crate) fn hold_for(&mut self, interval: Interval, cost: Cost) -> Result<(), Shortage> {
        let before = self.calendar.free(interval);
        self.calendar.commit(interval, cost)?;
        if interval.end() <= self.calendar.begin() {
            return Ok(());
        }
        let after = self.calendar.free(interval);
        let given = |before: u64, after: u64| before.checked_sub(after);
        let rate_bps = given(before.rate_bps, after.rate_bps);
        assert_eq!(rate_bps, Some(cost.rate_bps), "a pool never gives more rate than it has");
        let burst_bytes = given(before.burst_bytes, after.burst_bytes);
        assert_eq!(burst_bytes, Some(cost.burst_bytes), "a pool never gives more burst than it has");
        Ok(())
    }

    /// The most that is used in what is to come of an interval, and what is free throughout.
    pub(crate) fn state_throughout(&self, interval: Interval, state: PoolState) -> PoolState {
        let (used, free) = (self.calendar.peak(interval), self.free(interval));
        PoolState { used_bps: used.rate_bps, free_bps: free.rate_bps, burst_free_bytes: free.burst_bytes, ..state }
    }

    /// Takes a part that was given by an earlier life of this node, whatever the capacity is now. A pool that was made
    /// smaller meanwhile gives nothing until enough has come back.
    pub(crate) fn adopt(&mut self, cost: Cost) {
        self.adopt_for(Interval::ALWAYS, cost);
    }

    /// The same for what is to come of an interval.
    pub(crate) fn adopt_for(&mut self, interval: Interval, cost: Cost) {
        let adopted = self.calendar.adopt(interval, cost);
        assert!(adopted.is_ok(), "what was given of a pool can be counted; the kept records cannot be right");
    }

    /// Gives back what was held or adopted without end.
    pub(crate) fn give_back(&mut self, cost: Cost) {
        self.give_back_for(Interval::ALWAYS, cost);
    }

    /// Gives back what was held or adopted for an interval.
    pub(crate) fn give_back_for(&mut self, interval: Interval, cost: Cost) {
        self.calendar.release(interval, cost);
    }

    /// What there is at a time that is not past.
    pub(crate) fn capacity_at(&self, time: Nanos) -> Cost {
        self.calendar.capacity_at(time)
    }

    /// Changes what there is over an interval, whatever was given of it.
    pub(crate) fn set_capacity(&mut self, interval: Interval, capacity: Cost) {
        let set = self.calendar.set_capacity(interval, capacity);
        assert!(set.is_ok(), "changes of a capacity are counted before they get here");
    }

    /// Whether at some time more was given than there is.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.calendar.overloaded().is_some()
    }

    /// From when on, and not before `not_before`, a part could be held for as long as that, or without end.
    pub(crate) fn fits_at(&self, cost: Cost, duration: Option<Nanos>, not_before: Nanos) -> Option<Nanos> {
        self.calendar.earliest(cost, duration, not_before, OPEN)
    }

    /// As it is now, and what is free without end.
    pub(crate) fn state(&self, name: String, node: &NodeName, now: Nanos) -> PoolState {
        let now = now.max(self.calendar.begin());
        let free = self.free(Interval::from(now).unwrap_or(Interval::ALWAYS));
        let (capacity, used) = (self.calendar.capacity_at(now), self.used_at(now));
        PoolState {
            name,
            node: node.as_str().to_owned(),
            capacity_bps: capacity.rate_bps,
            used_bps: used.rate_bps,
            free_bps: free.rate_bps,
            burst_capacity_bytes: capacity.burst_bytes,
            burst_free_bytes: free.burst_bytes,
            fits_at: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn cost(rate_bps: u64, burst_bytes: u64) -> Cost {
        Cost { rate_bps, burst_bytes }
    }

    #[test]
    fn a_pool_gives_all_it_has_and_no_more() {
        let mut pool = Pool::new(cost(100, 10));
        assert_eq!(pool.hold(cost(60, 5)), Ok(()));
        assert_eq!(pool.hold(cost(41, 1)), Err(Shortage::Rate));
        assert_eq!(pool.hold(cost(40, 6)), Err(Shortage::Burst));
        assert_eq!(pool.free(Interval::ALWAYS), cost(40, 5));
        assert_eq!(pool.hold(cost(40, 5)), Ok(()));
        assert_eq!(pool.free(Interval::ALWAYS), cost(0, 0));
    }

    #[test]
    fn what_comes_back_can_be_taken_again() {
        let mut pool = Pool::new(cost(100, 10));
        assert_eq!(pool.hold(cost(100, 10)), Ok(()));
        pool.give_back(cost(100, 10));
        assert_eq!(pool.hold(cost(100, 10)), Ok(()));
    }

    #[test]
    fn a_pool_that_shrank_gives_nothing_until_enough_came_back() {
        let mut pool = Pool::new(cost(50, 10));
        pool.adopt(cost(80, 4));
        assert_eq!(pool.hold(cost(1, 1)), Err(Shortage::Rate));
        pool.give_back(cost(80, 4));
        assert_eq!(pool.hold(cost(50, 10)), Ok(()));
    }

    #[test]
    fn a_part_without_end_leaves_what_is_held_for_later() {
        let interval = |start, end| Interval::new(Nanos(start), Nanos(end)).unwrap();
        let mut pool = Pool::new(cost(100, 10));
        assert_eq!(pool.hold_for(interval(50, 60), cost(70, 5)), Ok(()));
        assert_eq!(pool.hold(cost(31, 1)), Err(Shortage::Rate));
        let fits_at = |rate_bps, duration| pool.fits_at(cost(rate_bps, 1), duration, Nanos(0));
        assert_eq!((fits_at(31, None), fits_at(30, None)), (Some(Nanos(60)), Some(Nanos(0))));
        assert_eq!((fits_at(31, Some(Nanos(50))), fits_at(31, Some(Nanos(51)))), (Some(Nanos(0)), Some(Nanos(60))));
        assert_eq!(fits_at(101, None), None);
        assert_eq!(pool.hold(cost(30, 1)), Ok(()));
        assert_eq!(pool.hold_for(interval(59, 61), cost(1, 0)), Err(Shortage::Rate));
        let state = pool.state(String::new(), &"a".parse().unwrap(), Nanos(0));
        assert_eq!((state.capacity_bps, state.used_bps, state.free_bps), (100, 30, 0));
        pool.forget(Nanos(59));
        assert_eq!(pool.free(Interval::ALWAYS), cost(0, 4));
        pool.forget(Nanos(60));
        assert_eq!(pool.free(Interval::ALWAYS), cost(70, 9));
        assert_eq!(pool.hold_for(interval(50, 60), cost(100, 10)), Ok(()));
        pool.adopt_for(interval(70, 80), cost(90, 1));
        assert_eq!(pool.hold(cost(1, 1)), Err(Shortage::Rate));
        pool.give_back_for(interval(70, 80), cost(90, 1));
        pool.give_back(cost(30, 1));
        assert_eq!(pool.free(Interval::ALWAYS), cost(100, 10));
    }

    #[test]
    #[should_panic(expected = "was taken from it")]
    fn giving_back_what_was_not_taken_stops_the_broker() {
        Pool::new(cost(50, 10)).give_back(cost(1, 0));
    }
}
