//! What a flow takes of its aggregate, and gives back.

use crate::aggregate::Aggregate;
use crate::calendar::{Interval, Shortage};
use crate::cost::Cost;
use crate::record::FlowRecord;

impl Aggregate {
    /// What is left of it throughout an interval.
    pub(crate) fn free(&self, interval: Interval) -> Cost {
        self.pool.free(interval)
    }

    /// Takes a flow's part for an interval, or changes nothing.
    pub(crate) fn hold(&mut self, flow: &FlowRecord, interval: Interval) -> Result<(), Shortage> {
        self.pool.hold_for(interval, self.cost(flow))
    }

    /// Takes the part that a flow had in an earlier life of this node, or a moment ago.
    pub(crate) fn adopt(&mut self, flow: &FlowRecord, interval: Interval) {
        self.pool.adopt_for(interval, self.cost(flow));
    }

    /// Gives a flow's part back.
    pub(crate) fn give_back(&mut self, flow: &FlowRecord, interval: Interval) {
        self.pool.give_back_for(interval, self.cost(flow));
    }
}
