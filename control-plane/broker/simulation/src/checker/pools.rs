//! At every step: what a broker says of its pools is at most what they have at every instant to come, and is what its sessions and aggregates
//! take. What is past was checked when it was to come.
//!
//! All is counted anew from the records, without the broker's calendar: at every instant at which an interval starts or ends, and at the one
//! before it. Between these neither the records nor a calendar that has their ends right changes.

use std::collections::{BTreeMap, BTreeSet};

use turnpike_broker::calendar::OPEN;
use turnpike_broker::media_slots::SlotCounts;
use turnpike_broker::name::{AggregateName, Nanos, SessionId, SlotName};
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

/// What a flow takes of its pool: the larger of both while its rate is being changed.
pub(super) fn cost(record: &SessionRecord, flow: &FlowRecord) -> Cost {
    let overhead = overhead_bytes(flow.endpoints.family(), TAG_FAMILY, flow.tag);
    Cost::of(&record.held_meter(flow), overhead).unwrap_or_default()
}

/// What sessions take of: as the broker's own pools, which are not public.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pool<'a> {
    Aggregate(&'a AggregateName),
    /// What the node can forward.
    Node,
    Slots(&'a SlotName),
}

/// What a session takes on a node of each pool, one part for each flow and each kind of slots.
pub(super) fn parts<'a>(
    record: &'a SessionRecord,
    slots: &'a SlotCounts,
    node: &Node,
) -> impl Iterator<Item = (Pool<'a>, Cost)> {
    let forwards = node.config.capacity.rate_bps.is_some();
    let of_flows = record.flows.iter().flat_map(move |flow| {
        let cost = cost(record, flow);
        let of_node = forwards.then_some((Pool::Node, Cost { burst_bytes: 0, ..cost }));
        std::iter::once((Pool::Aggregate(&flow.aggregate), cost)).chain(of_node)
    });
    let of_slots =
        slots.iter().map(|(name, count)| (Pool::Slots(name), Cost { rate_bps: u64::from(*count), burst_bytes: 0 }));
    of_flows.chain(of_slots)
}

/// What sessions take of a node's pools: start, end and cost of each part.
pub(super) struct Taken<'a>(BTreeMap<Pool<'a>, Vec<(Nanos, Nanos, Cost)>>);

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
            for (pool, cost) in parts(record, record.own_slots(), node) {
                taken.entry(pool).or_default().push((start, end, cost));
            }
        }
        Self(taken)
    }

    /// What is taken of a pool, from `now` on, at each instant at which it may change and at the one before.
    pub(super) fn levels(&self, pool: Pool<'a>, now: Nanos) -> Vec<(Nanos, Cost)> {
        let parts = self.0.get(&pool).map(Vec::as_slice).unwrap_or_default();
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
            for (at, used) in taken.levels(Pool::Aggregate(&record.name), node.shown) {
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
            taken.0.remove(&Pool::Aggregate(&record.name));
        }
        self.node_pools_hold(node, &mut taken)?;
        let taken = taken.0;
        hold(Rule::Capacity, taken.is_empty(), || format!("sessions take of pools that are not there: {taken:?}"))?;
        for state in node.config.links.keys().filter_map(|name| node.broker.link(name)) {
            Self::link_is_so(node, &state, Direction::Out, out_bps)?;
            Self::link_is_so(node, &state, Direction::In, into_bps)?;
        }
        self.links.worked(index, node);
        Self::enforces_what_is_held(node)?;
        for table in node.broker.tables() {
            hold(Rule::Capacity, table.used <= table.max, || format!("{table:?}"))?;
        }
        Ok(())
    }

    /// The same for what the node can forward and for its media slots; what these have is told for now only.
    fn node_pools_hold<'a>(&mut self, node: &'a Node, taken: &mut Taken<'a>) -> Held {
        let of_node = node.broker.node_capacity().map(|state| (Pool::Node, state.capacity_bps, state.used_bps));
        let slots: Vec<_> = node.broker.media_slots().collect();
        let names = node.config.capacity.media_slots.keys();
        hold(Rule::Capacity, slots.iter().map(|state| &state.name).eq(names), || format!("told of slots: {slots:?}"))?;
        let of_slots = node.config.capacity.media_slots.keys().zip(&slots);
        let of_slots = of_slots.map(|(name, state)| (Pool::Slots(name), state.capacity_slots, state.used_slots));
        for (pool, capacity, told) in of_node.into_iter().chain(of_slots) {
            for (at, used) in taken.levels(pool, node.shown) {
                self.instants += 1;
                hold(Rule::Capacity, used.rate_bps <= capacity, || {
                    format!("sessions take {used:?} at {at} of {capacity} of {pool:?}")
                })?;
                hold(Rule::Capacity, at > node.shown || used.rate_bps == told, || {
                    format!("sessions take {used:?} of {pool:?}, and {told} is told")
                })?;
            }
            taken.0.remove(&pool);
        }
        Ok(())
    }
}
