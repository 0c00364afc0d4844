//! At every step: what a broker says of its pools is at most what they have at every instant to come, and is what its sessions and aggregates
//! take. What is past was checked when it was to come.
//!
//! All is counted anew from the records, without the broker's calendar: at every instant at which an interval starts or ends, and at the one
//! before it. Between these neither the records nor a calendar that has their ends right changes.

use std::collections::{BTreeMap, BTreeSet};

use turnpike_broker::calendar::OPEN;
use turnpike_broker::name::{AggregateName, Nanos, SessionId};
use turnpike_broker::record::{Direction, FlowRecord, SessionRecord, SessionState, Side};
use turnpike_broker::{Cost, overhead_bytes};

use super::{Checker, EndAsked, Held, Rule, hold};
use crate::node::Node;
use crate::plane::TAG_FAMILY;

/// It has given everything back: it is being ended, and all of it is counted.
fn is_clean(record: &SessionRecord, node: &Node) -> bool {
    let ending = matches!(record.state, SessionState::Releasing | SessionState::Ended);
    ending && record.usage.iter().filter(|usage| usage.node == node.config.node).count() == record.flows.len()
}

/// What a flow takes of its pool.
pub(super) fn cost(flow: &FlowRecord) -> Cost {
    let overhead = overhead_bytes(flow.endpoints.family(), TAG_FAMILY, flow.tag);
    Cost::of(&flow.meter, overhead).unwrap_or_default()
}

/// What sessions take of a node's aggregates: start, end and cost of each flow.
pub(super) struct Taken<'a>(BTreeMap<&'a AggregateName, Vec<(Nanos, Nanos, Cost)>>);

impl<'a> Taken<'a> {
    /// By a node's records, and by changes of ends that are under way: a later end is held while the second side is asked.
    pub(super) fn of(node: &'a Node, ends_asked: &BTreeMap<(usize, SessionId), EndAsked>, index: usize) -> Self {
        let mut taken: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for record in node.broker.sessions().filter(|record| !is_clean(record, node)) {
            let interval = record.schedule.interval();
            let (start, mut end) = (interval.start(), interval.end());
            if !ends_asked.is_empty()
                && !matches!(record.state, SessionState::Releasing | SessionState::Ended)
                && let Some(asked) = ends_asked.get(&(index, record.id.clone()))
                && record.flows.first().is_some_and(|flow| flow.policy.0 == asked.attempt)
            {
                end = end.max(asked.ends_at.unwrap_or(OPEN));
            }
            for flow in &record.flows {
                taken.entry(&flow.aggregate).or_default().push((start, end, cost(flow)));
            }
        }
        Self(taken)
    }

    /// What is taken of an aggregate, from `now` on, at each instant at which it may change and at the one before.
    pub(super) fn levels(&self, name: &AggregateName, now: Nanos) -> Vec<(Nanos, Cost)> {
        let parts = self.0.get(name).map(Vec::as_slice).unwrap_or_default();
        let mut instants: BTreeSet<Nanos> = [now].into();
        for (start, end, _) in parts {
            let around = [start.0.saturating_sub(1), start.0, end.0.saturating_sub(1), end.0];
            instants.extend(around.map(Nanos).into_iter().filter(|at| now < *at && *at < OPEN));
        }
        let used = |at: Nanos| {
            let mut used = Cost::default();
            for (_, _, cost) in parts.iter().filter(|(start, end, _)| *start <= at && at < *end) {
                used.rate_bps += cost.rate_bps;
                used.burst_bytes += cost.burst_bytes;
            }
            used
        };
        instants.into_iter().map(|at| (at, used(at))).collect()
    }
}

impl Checker {
    /// After its answers have left it: a hold is over at its end, by its owner's clock.
    pub(crate) fn holds_end(&self, index: usize, node: &Node) -> Held {
        let held = |record: &&SessionRecord| record.side == Side::Second && record.state == SessionState::Held;
        for record in node.broker.sessions().filter(held) {
            if let Some((_, since, is_offer)) = self.holds.get(&(index, record.peer.clone(), record.id.clone())) {
                let timers = &node.config.timers;
                let end = since.plus(timers.hold).plus(if *is_offer { timers.offer } else { Nanos(0) });
                hold(Rule::Lapse, node.shown < end, || {
                    format!("session {} is held until {} ns, and it is {}", record.id, end.0, node.shown.0)
                })?;
            }
        }
        self.few_are_called(index, node)
    }

    /// After a node has worked.
    pub(crate) fn worked(&mut self, index: usize, node: &Node) -> Held {
        self.checks += 1;
        let mut taken = Taken::of(node, &self.ends_asked, index);
        let (mut out_bps, mut into_bps) = (0, 0);
        for record in node.broker.aggregates() {
            match record.direction {
                Direction::Out => out_bps += record.rate_bps,
                Direction::In => into_bps += record.rate_bps,
            }
            let Some(pool) = node.broker.pool(&record.name) else {
                return Err((Rule::Capacity, format!("aggregate {} has no pool", record.name)));
            };
            for (at, used) in taken.levels(&record.name, node.shown) {
                self.instants += 1;
                let fits = used.rate_bps <= pool.capacity_bps && used.burst_bytes <= pool.burst_capacity_bytes;
                hold(Rule::Capacity, fits, || format!("sessions take {used:?} at {at} of {pool:?}"))?;
                let told = node.broker.used_at(&record.name, at).unwrap_or_default();
                hold(Rule::Capacity, told == used, || {
                    format!("sessions take {used:?} at {at} of {}, and {told:?} is told", record.name)
                })?;
            }
            let now = node.broker.used_at(&record.name, node.shown).unwrap_or_default();
            hold(Rule::Capacity, pool.used_bps == now.rate_bps, || format!("{now:?} is used of {pool:?}"))?;
            taken.0.remove(&record.name);
        }
        let taken = taken.0;
        hold(Rule::Capacity, taken.is_empty(), || format!("sessions take of aggregates that are gone: {taken:?}"))?;
        for (_, out, into) in node.broker.links() {
            for (pool, rate_bps) in [(out, out_bps), (into, into_bps)] {
                hold(Rule::Capacity, pool.used_bps <= pool.capacity_bps, || format!("{pool:?}"))?;
                hold(Rule::Capacity, pool.used_bps == rate_bps, || {
                    format!("aggregates take {rate_bps} bit/s of {pool:?}")
                })?;
            }
        }
        for table in node.broker.tables() {
            hold(Rule::Capacity, table.used <= table.max, || format!("{table:?}"))?;
        }
        Ok(())
    }
}
