//! A pool: a capacity and what is held and committed of it.

use crate::cost::Cost;
use crate::name::NodeName;
use crate::refusal::PoolState;

/// Bandwidth that is given out in parts. The parts are together at most the whole: asserted at every hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pool {
    capacity: Cost,
    used: Cost,
}

/// What a pool has not enough of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shortage {
    Rate,
    Burst,
}

impl Pool {
    pub(crate) const fn new(capacity: Cost) -> Self {
        Self { capacity, used: Cost { rate_bps: 0, burst_bytes: 0 } }
    }

    /// What is left.
    pub(crate) const fn free(&self) -> Cost {
        Cost {
            rate_bps: self.capacity.rate_bps.saturating_sub(self.used.rate_bps),
            burst_bytes: self.capacity.burst_bytes.saturating_sub(self.used.burst_bytes),
        }
    }

    /// Takes a part, or changes nothing.
    pub(crate) fn hold(&mut self, cost: Cost) -> Result<(), Shortage> {
        let free = self.free();
        if cost.rate_bps > free.rate_bps {
            return Err(Shortage::Rate);
        }
        if cost.burst_bytes > free.burst_bytes {
            return Err(Shortage::Burst);
        }
        self.adopt(cost);
        assert!(self.used.rate_bps <= self.capacity.rate_bps, "a pool never gives more rate than it has");
        assert!(self.used.burst_bytes <= self.capacity.burst_bytes, "a pool never gives more burst than it has");
        Ok(())
    }

    /// Takes a part that was given by an earlier life of this node, whatever the capacity is now. A pool that was made
    /// smaller meanwhile gives nothing until enough has come back.
    pub(crate) fn adopt(&mut self, cost: Cost) {
        self.used.rate_bps = self.used.rate_bps.saturating_add(cost.rate_bps);
        self.used.burst_bytes = self.used.burst_bytes.saturating_add(cost.burst_bytes);
    }

    /// Gives a part back.
    pub(crate) fn give_back(&mut self, cost: Cost) {
        assert!(self.used.rate_bps >= cost.rate_bps, "what comes back to a pool was taken from it");
        assert!(self.used.burst_bytes >= cost.burst_bytes, "what comes back to a pool was taken from it");
        self.used.rate_bps -= cost.rate_bps;
        self.used.burst_bytes -= cost.burst_bytes;
    }

    pub(crate) fn state(&self, name: String, node: &NodeName) -> PoolState {
        let free = self.free();
        PoolState {
            name,
            node: node.as_str().to_owned(),
            capacity_bps: self.capacity.rate_bps,
            used_bps: self.used.rate_bps,
            free_bps: free.rate_bps,
            burst_capacity_bytes: self.capacity.burst_bytes,
            burst_free_bytes: free.burst_bytes,
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
        assert_eq!(pool.free(), cost(40, 5));
        assert_eq!(pool.hold(cost(40, 5)), Ok(()));
        assert_eq!(pool.free(), cost(0, 0));
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
    #[should_panic(expected = "was taken from it")]
    fn giving_back_what_was_not_taken_stops_the_broker() {
        Pool::new(cost(50, 10)).give_back(cost(1, 0));
    }
}
