//! What flows take of their aggregate: its pool, and of those that are no emergency the share of it that is for them, too.
//!
//! An aggregate may keep a part for emergencies. That is a pool of its own beside the whole: the whole counts every flow, the other only flows
//! that are no emergency, up to the capacity without that part. So it holds at every instant, for bookings as well. A flow takes of all
//! its pools or of none.

use crate::aggregate::Aggregate;
use crate::calendar::{Interval, Shortage};
use crate::cost::Cost;
use crate::name::{Nanos, NodeName};
use crate::pool::Pool;
use crate::record::{AggregateRecord, FlowRecord};
use crate::refusal::{PoolState, Refusal};

/// One of an aggregate's pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Share {
    /// All of it.
    Whole,
    /// What flows that are no emergency may have together.
    Ordinary,
}

/// An aggregate's pools.
pub(crate) struct Shares {
    whole: Pool,
    ordinary: Option<Pool>,
}

/// What is left of `value` without that many per cent, rounded down.
fn without(value: u64, percent: u8) -> u64 {
    let rest = u128::from(value) * u128::from(100u8.saturating_sub(percent)) / 100;
    u64::try_from(rest).unwrap_or(u64::MAX)
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
pub(crate) const fn is_no_percent(percent: &u8) -> bool {
    *percent == 0
}

/// `emergency_percent` is one.
pub(crate) fn check_percent(emergency_percent: u8) -> Result<(), Refusal> {
    if emergency_percent > 100 {
        return Err(Refusal::invalid("emergency_percent", emergency_percent, "0 to 100"));
    }
    Ok(())
}

impl Shares {
    pub(crate) fn new(capacity: Cost, emergency_percent: u8) -> Self {
        let rest = Cost {
            rate_bps: without(capacity.rate_bps, emergency_percent),
            burst_bytes: without(capacity.burst_bytes, emergency_percent),
        };
        Self { whole: Pool::new(capacity), ordinary: (emergency_percent > 0).then(|| Pool::new(rest)) }
    }

    pub(crate) const fn whole(&self) -> &Pool {
        &self.whole
    }

    /// Those that count a flow. The narrowest is last.
    fn of(&self, emergency: bool) -> impl Iterator<Item = Share> + use<> {
        let ordinary = self.ordinary.is_some() && !emergency;
        std::iter::once(Share::Whole).chain(ordinary.then_some(Share::Ordinary))
    }

    pub(crate) fn pool(&self, share: Share) -> &Pool {
        match share {
            Share::Whole => &self.whole,
            Share::Ordinary => self.ordinary.as_ref().unwrap_or(&self.whole),
        }
    }

    fn pool_mut(&mut self, share: Share) -> &mut Pool {
        match share {
            Share::Whole => &mut self.whole,
            Share::Ordinary => self.ordinary.as_mut().unwrap_or(&mut self.whole),
        }
    }

    /// Lets what is before `now` be past: the first thing to do for a decision.
    pub(crate) fn forget(&mut self, now: Nanos) {
        self.whole.forget(now);
        if let Some(pool) = &mut self.ordinary {
            pool.forget(now);
        }
    }
}

impl Aggregate {
    /// What is left throughout an interval for a flow that is an emergency, or is none.
    pub(crate) fn free(&self, interval: Interval, emergency: bool) -> Cost {
        let free = self.shares.of(emergency).map(|share| self.shares.pool(share).free(interval));
        free.fold(Cost { rate_bps: u64::MAX, burst_bytes: u64::MAX }, |least, free| Cost {
            rate_bps: least.rate_bps.min(free.rate_bps),
            burst_bytes: least.burst_bytes.min(free.burst_bytes),
        })
    }

    /// The most that such flows can have together.
    pub(crate) fn capacity(&self, emergency: bool, node: &NodeName, now: Nanos) -> Cost {
        let narrowest = self.shares.of(emergency).last().unwrap_or(Share::Whole);
        let PoolState { capacity_bps, burst_capacity_bytes, .. } = self.share_state(narrowest, node, now);
        Cost { rate_bps: capacity_bps, burst_bytes: burst_capacity_bytes }
    }

    /// Takes a flow's part for an interval, or changes nothing; says which pool has not enough.
    pub(crate) fn hold(&mut self, flow: &FlowRecord, interval: Interval) -> Result<(), (Share, Shortage)> {
        self.hold_more(flow, self.cost(flow), interval)
    }

    /// Takes more for a flow that has a part, likewise.
    pub(crate) fn hold_more(
        &mut self,
        flow: &FlowRecord,
        cost: Cost,
        interval: Interval,
    ) -> Result<(), (Share, Shortage)> {
        let mut held = Vec::new();
        for share in self.shares.of(flow.emergency) {
            if let Err(shortage) = self.shares.pool_mut(share).hold_for(interval, cost) {
                for share in held {
                    self.shares.pool_mut(share).give_back_for(interval, cost);
                }
                return Err((share, shortage));
            }
            held.push(share);
        }
        Ok(())
    }

    /// Takes the part that a flow had in an earlier life of this node, or a moment ago.
    pub(crate) fn adopt(&mut self, flow: &FlowRecord, interval: Interval) {
        let cost = self.cost(flow);
        for share in self.shares.of(flow.emergency) {
            self.shares.pool_mut(share).adopt_for(interval, cost);
        }
    }

    /// Gives a flow's part back.
    pub(crate) fn give_back(&mut self, flow: &FlowRecord, interval: Interval) {
        self.give_less_back(flow, self.cost(flow), interval);
    }

    /// Gives some of a flow's part back.
    pub(crate) fn give_less_back(&mut self, flow: &FlowRecord, cost: Cost, interval: Interval) {
        for share in self.shares.of(flow.emergency) {
            self.shares.pool_mut(share).give_back_for(interval, cost);
        }
    }

    /// What a flow takes of one of the pools.
    pub(crate) fn cost_of_share(&self, flow: &FlowRecord, share: Share) -> Cost {
        let counts = self.shares.of(flow.emergency).any(|of| of == share);
        if counts { self.cost(flow) } else { Cost::default() }
    }

    /// The pools that count such flows.
    pub(crate) fn shares_of(&self, emergency: bool) -> impl Iterator<Item = Share> + use<> {
        self.shares.of(emergency)
    }

    /// Takes a part of one pool for itself; false if there is not enough, and then nothing is changed.
    pub(crate) fn hold_part(&mut self, share: Share, interval: Interval, cost: Cost) -> bool {
        self.shares.pool_mut(share).hold_for(interval, cost).is_ok()
    }

    /// The reverse of [`Self::hold_part`].
    pub(crate) fn give_part_back(&mut self, share: Share, interval: Interval, cost: Cost) {
        self.shares.pool_mut(share).give_back_for(interval, cost);
    }

    /// One of the pools as it is now.
    pub(crate) fn share_state(&self, share: Share, node: &NodeName, now: Nanos) -> PoolState {
        let AggregateRecord { name, emergency_percent, .. } = &self.record;
        let name = match share {
            Share::Whole => format!("aggregate {name}"),
            Share::Ordinary => format!("aggregate {name} but for {emergency_percent} % for emergencies"),
        };
        self.shares.pool(share).state(name, node, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_rounded_down_and_never_wraps() {
        let rest = |value, percent| without(value, percent);
        assert_eq!([rest(1_000, 0), rest(1_000, 1), rest(999, 10), rest(1_000, 100)], [1_000, 990, 899, 0]);
        assert_eq!(rest(u64::MAX, 50), u64::MAX / 2);
        assert_eq!((check_percent(100), check_percent(101).is_err()), (Ok(()), true));
    }
}
