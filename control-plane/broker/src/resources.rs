//! What sessions take on a node: parts of pools, all of them for a session's interval or none (R-000-2, R-002-14).
//!
//! Of each flow its aggregate's pool and, where the node has a capacity of its own, the node's; and the media slots of this side. What
//! is held, adopted, extended and given back is always the same list of parts.

use std::collections::{BTreeMap, BTreeSet};

use crate::aggregate::Aggregate;
use crate::broker::Broker;
use crate::calendar::{Interval, Shortage};
use crate::config::Capacity;
use crate::cost::{Cost, rate_that_fits};
use crate::media_slots::{SlotCounts, SlotState};
use crate::name::{AggregateName, Nanos, SlotName};
use crate::pool::Pool;
use crate::record::{FlowRecord, SessionRecord, Side};
use crate::refusal::{PoolState, Reason, Refusal};
use crate::schedule::Schedule;
use crate::shares::Share;

/// A pool that sessions take of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PoolName {
    Aggregate(AggregateName),
    /// Of an aggregate that keeps a part for emergencies: what flows that are none may have together.
    Ordinary(AggregateName),
    /// What the node can forward.
    Node,
    Slots(SlotName),
}

/// What a session takes of one pool.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pool: PoolName,
    cost: Cost,
    /// The flow that it is for, by its place; none for slots.
    flow: Option<usize>,
}

/// The node's own pools; those of aggregates are with the aggregates.
pub(crate) struct NodePools {
    /// What it can forward, if that is limited.
    rate: Option<Pool>,
    slots: BTreeMap<SlotName, Pool>,
}

/// Slots are counted where other pools count bits per second.
const fn slots(count: u64) -> Cost {
    Cost { rate_bps: count, burst_bytes: 0 }
}

impl NodePools {
    pub(crate) fn new(capacity: &Capacity) -> Self {
        let of_slots =
            capacity.media_slots.iter().map(|(name, count)| (name.clone(), Pool::new(slots((*count).into()))));
        let rate = capacity.rate_bps.map(|rate_bps| Pool::new(Cost { rate_bps, burst_bytes: 0 }));
        Self { rate, slots: of_slots.collect() }
    }
}

/// Whose turn it is, which pools does it want? Those of its own; the node's only if it is what it was short of, because all want that.
pub(crate) fn wanted(record: &SessionRecord, node: bool) -> BTreeSet<PoolName> {
    let aggregates = record.flows.iter().map(|flow| PoolName::Aggregate(flow.aggregate.clone()));
    let slots = record.own_slots().keys().map(|name| PoolName::Slots(name.clone()));
    aggregates.chain(slots).chain(node.then_some(PoolName::Node)).collect()
}

fn slot_state(name: &SlotName, state: PoolState) -> SlotState {
    let PoolState { node, capacity_bps, used_bps, free_bps, fits_at, .. } = state;
    SlotState {
        name: name.clone(),
        node,
        capacity_slots: capacity_bps,
        used_slots: used_bps,
        free_slots: free_bps,
        fits_at,
    }
}

impl Broker {
    /// What the node as a whole can forward and what sessions have of it, bits per second on the wire; none if that is not limited.
    #[must_use]
    pub fn node_capacity(&self) -> Option<PoolState> {
        let pool = self.node_pools.rate.as_ref()?;
        Some(pool.state("node".to_owned(), &self.config.node, self.now))
    }

    /// The media slots of this node, by name.
    pub fn media_slots(&self) -> impl Iterator<Item = SlotState> {
        let pools = self.node_pools.slots.iter();
        pools.map(|(name, pool)| slot_state(name, pool.state(String::new(), &self.config.node, self.now)))
    }

    fn parts(&self, flows: &[FlowRecord], slot_counts: &SlotCounts) -> Vec<Part> {
        let mut parts = Vec::with_capacity(2 * flows.len() + slot_counts.len());
        for (index, record) in flows.iter().enumerate() {
            let Some(aggregate) = self.aggregates.get(&record.aggregate) else { continue };
            let (cost, flow) = (aggregate.cost(record), Some(index));
            parts.push(Part { pool: PoolName::Aggregate(record.aggregate.clone()), cost, flow });
            if aggregate.share_of(record.emergency) == Share::Ordinary {
                parts.push(Part { pool: PoolName::Ordinary(record.aggregate.clone()), cost, flow });
            }
            if self.node_pools.rate.is_some() {
                parts.push(Part { pool: PoolName::Node, cost: Cost { burst_bytes: 0, ..cost }, flow });
            }
        }
        let of_slots = slot_counts.iter();
        parts.extend(of_slots.map(|(name, count)| Part {
            pool: PoolName::Slots(name.clone()),
            cost: slots((*count).into()),
            flow: None,
        }));
        parts
    }

    fn pool_of(&self, name: &PoolName) -> Option<&Pool> {
        match name {
            PoolName::Aggregate(name) => self.aggregates.get(name).map(|aggregate| &aggregate.pool),
            PoolName::Ordinary(name) => self.aggregates.get(name).and_then(|aggregate| aggregate.ordinary.as_ref()),
            PoolName::Node => self.node_pools.rate.as_ref(),
            PoolName::Slots(name) => self.node_pools.slots.get(name),
        }
    }

    fn pool_mut(&mut self, name: &PoolName) -> Option<&mut Pool> {
        match name {
            PoolName::Aggregate(name) => self.aggregates.get_mut(name).map(|aggregate| &mut aggregate.pool),
            PoolName::Ordinary(name) => self.aggregates.get_mut(name).and_then(|aggregate| aggregate.ordinary.as_mut()),
            PoolName::Node => self.node_pools.rate.as_mut(),
            PoolName::Slots(name) => self.node_pools.slots.get_mut(name),
        }
    }

    /// Lets what is before `now` be past in the pools of a flow: the first thing to do for a decision.
    pub(crate) fn forget_past(&mut self, aggregate: &AggregateName, now: Nanos) {
        for name in [PoolName::Aggregate(aggregate.clone()), PoolName::Ordinary(aggregate.clone()), PoolName::Node] {
            if let Some(pool) = self.pool_mut(&name) {
                pool.forget(now);
            }
        }
    }

    /// Takes what flows and slots need, all or nothing.
    pub(crate) fn take_parts(
        &mut self,
        flows: &[FlowRecord],
        (slot_counts, side): (&SlotCounts, Side),
        schedule: Schedule,
        now: Nanos,
    ) -> Result<(), Refusal> {
        let parts = self.parts(flows, slot_counts);
        self.take(&parts, (flows, side), schedule, now)
    }

    /// What a flow needs as `wanted` beyond what it has as `own`.
    fn parts_beyond(&self, own: &FlowRecord, wanted: &FlowRecord) -> Vec<Part> {
        let none = SlotCounts::new();
        let (own, wanted) =
            (self.parts(std::slice::from_ref(own), &none), self.parts(std::slice::from_ref(wanted), &none));
        let beyond = |(own, wanted): (Part, Part)| Part { cost: less(wanted.cost, own.cost), ..wanted };
        own.into_iter().zip(wanted).map(beyond).collect()
    }

    /// Takes what a flow needs beyond what it has, all or nothing.
    pub(crate) fn take_beyond(
        &mut self,
        own: &FlowRecord,
        wanted: &FlowRecord,
        schedule: Schedule,
        now: Nanos,
    ) -> Result<(), Refusal> {
        let parts = self.parts_beyond(own, wanted);
        self.take(&parts, (std::slice::from_ref(wanted), Side::First), schedule, now)
    }

    /// Gives back what a flow does not need any more.
    pub(crate) fn give_back_beyond(&mut self, held: &FlowRecord, kept: &FlowRecord, interval: Interval) {
        let parts = self.parts_beyond(kept, held);
        self.give_parts_back(&parts, interval);
    }

    fn take(
        &mut self,
        parts: &[Part],
        (flows, side): (&[FlowRecord], Side),
        schedule: Schedule,
        now: Nanos,
    ) -> Result<(), Refusal> {
        let interval = self.held_interval(schedule);
        for (index, part) in parts.iter().enumerate() {
            let Some(pool) = self.pool_mut(&part.pool) else { continue };
            pool.forget(now);
            let Err(shortage) = pool.hold_for(interval, part.cost) else { continue };
            // What is told of the flow that does not fit is without the flow, and with those before it.
            let of_flow = |earlier: &&Part| part.flow.is_some() && earlier.flow == part.flow;
            let own = parts[..index].iter().rev().take_while(of_flow).count();
            let (before, own) = parts[..index].split_at(index - own);
            self.give_parts_back(own, interval);
            let flow = part.flow.map(|flow| &flows[flow]);
            let refusal = self.shortage(part, (flow, side), shortage, schedule, now);
            self.give_parts_back(before, interval);
            return Err(refusal);
        }
        Ok(())
    }

    /// Takes what an earlier life of this node, or this one, gave: whatever the capacity is now.
    pub(crate) fn adopt_parts(&mut self, flows: &[FlowRecord], slot_counts: &SlotCounts, interval: Interval) {
        for part in self.parts(flows, slot_counts) {
            if let Some(pool) = self.pool_mut(&part.pool) {
                pool.adopt_for(interval, part.cost);
            }
        }
    }

    /// The reverse of [`Self::take_parts`] and [`Self::adopt_parts`].
    pub(crate) fn give_back_parts(&mut self, flows: &[FlowRecord], slot_counts: &SlotCounts, interval: Interval) {
        let parts = self.parts(flows, slot_counts);
        self.give_parts_back(&parts, interval);
    }

    /// What flows and slots take of each pool together.
    pub(crate) fn sums(&self, flows: &[FlowRecord], slot_counts: &SlotCounts) -> BTreeMap<PoolName, Cost> {
        let mut sums: BTreeMap<PoolName, Cost> = BTreeMap::new();
        for Part { pool, cost, .. } in self.parts(flows, slot_counts) {
            let sum = sums.entry(pool).or_default();
            *sum = sum.plus(cost);
        }
        sums
    }

    /// Takes some of one pool for an interval; false if there is not enough, and then nothing is changed.
    pub(crate) fn hold_some(&mut self, pool: &PoolName, interval: Interval, cost: Cost, now: Nanos) -> bool {
        self.pool_mut(pool).is_some_and(|pool| {
            pool.forget(now);
            pool.hold_for(interval, cost).is_ok()
        })
    }

    /// The reverse of [`Self::hold_some`].
    pub(crate) fn give_some_back(&mut self, pool: &PoolName, interval: Interval, cost: Cost) {
        if let Some(pool) = self.pool_mut(pool) {
            pool.give_back_for(interval, cost);
        }
    }

    /// Whether a pool has not that much left throughout an interval.
    pub(crate) fn is_short(&self, pool: &PoolName, interval: Interval, cost: Cost) -> bool {
        let free = self.pool_of(pool).map(|pool| pool.free(interval)).unwrap_or_default();
        free.rate_bps < cost.rate_bps || free.burst_bytes < cost.burst_bytes
    }

    fn give_parts_back(&mut self, parts: &[Part], interval: Interval) {
        for part in parts {
            if let Some(pool) = self.pool_mut(&part.pool) {
                pool.give_back_for(interval, part.cost);
            }
        }
    }

    /// Whether flows and slots would fit into empty pools.
    pub(crate) fn fits_empty(&self, flows: &[FlowRecord], slot_counts: &SlotCounts, now: Nanos) -> bool {
        self.sums(flows, slot_counts).iter().all(|(name, needed)| {
            let capacity = self.pool_of(name).map(|pool| pool.capacity_at(now)).unwrap_or_default();
            needed.rate_bps <= capacity.rate_bps && needed.burst_bytes <= capacity.burst_bytes
        })
    }

    /// Whether this node has slots of these names, and some of each are asked for.
    pub(crate) fn check_slots(&self, slot_counts: &SlotCounts, side: Side) -> Result<(), Refusal> {
        for (name, count) in slot_counts {
            let field = slot_field(name, side);
            if !self.node_pools.slots.contains_key(name) {
                let known: Vec<&str> = self.node_pools.slots.keys().map(SlotName::as_str).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let detail = format!(
                    "{field}: node {} has no media slots {name}; those in its configuration: {known}",
                    self.config.node
                );
                return Err(Refusal::new(Reason::UnknownMediaSlots, detail).at(field));
            }
            if *count == 0 {
                return Err(Refusal::invalid(field, 0, "1 or more; leave it out for none"));
            }
        }
        Ok(())
    }

    /// The largest rate of a flow that its aggregate and the node have room for throughout an interval.
    pub(crate) fn rate_that_fits(&self, flow: &FlowRecord, interval: Interval) -> u64 {
        let Some(aggregate) = self.aggregates.get(&flow.aggregate) else { return 0 };
        let free_bps = self.free_bps(aggregate, interval, flow.emergency);
        rate_that_fits(free_bps, flow.meter.packet_bytes_min, aggregate.overhead_bytes(&flow.endpoints))
    }

    /// What an aggregate and the node have left throughout an interval for flows that are an emergency, or are none.
    pub(crate) fn free_bps(&self, aggregate: &Aggregate, interval: Interval, emergency: bool) -> u64 {
        let narrowest = aggregate.share(aggregate.share_of(emergency)).free(interval).rate_bps;
        let of_node = self.node_pools.rate.as_ref().map_or(u64::MAX, |pool| pool.free(interval).rate_bps);
        aggregate.pool.free(interval).rate_bps.min(narrowest).min(of_node)
    }

    /// The same for a flow that has parts of them already.
    pub(crate) fn rate_that_fits_beside(&self, flow: &FlowRecord, interval: Interval) -> u64 {
        let parts = self.parts(std::slice::from_ref(flow), &SlotCounts::new());
        let free = parts.iter().filter_map(|part| {
            let free = self.pool_of(&part.pool)?.free(interval);
            Some(free.rate_bps.saturating_add(part.cost.rate_bps))
        });
        let overhead = self.aggregates.get(&flow.aggregate).map(|aggregate| aggregate.overhead_bytes(&flow.endpoints));
        let Some((free_bps, overhead_bytes)) = free.min().zip(overhead) else { return 0 };
        rate_that_fits(free_bps, flow.meter.packet_bytes_min, overhead_bytes)
    }

    /// Why a part does not fit, what would, and when this would.
    fn shortage(
        &self,
        part: &Part,
        (flow, side): (Option<&FlowRecord>, Side),
        shortage: Shortage,
        schedule: Schedule,
        now: Nanos,
    ) -> Refusal {
        let (node, interval) = (&self.config.node, schedule.interval());
        let fits = flow.map_or(0, |flow| {
            let fits = self.rate_that_fits(flow, interval);
            fits.min(flow.asked_rate_bps)
        });
        let state = |pool: &Pool, name: String| {
            let state = pool.state(name, node, now);
            let state = if schedule == Schedule::OPEN { state } else { pool.state_throughout(interval, state) };
            let fits_at = pool.fits_at(part.cost, schedule.duration(now), schedule.begin(now));
            PoolState { fits_at, ..state }
        };
        match (&part.pool, flow, self.pool_of(&part.pool)) {
            (PoolName::Node, Some(flow), Some(pool)) => {
                let state = state(pool, "node".to_owned());
                let detail = format!(
                    "flow {} needs {} bit/s on the wire; node {node} has {} of {} left for all that it forwards; a flow of {fits} fits",
                    flow.id, part.cost.rate_bps, state.free_bps, state.capacity_bps
                );
                let reason =
                    if shortage == Shortage::Changes { Reason::LimitReached } else { Reason::NodeCapacityExhausted };
                let mut refusal = Refusal::new(reason, detail);
                refusal.counter_offer_rate_bps = (reason != Reason::LimitReached && fits > 0).then_some(fits);
                refusal.pool = Some(state);
                refusal
            }
            (PoolName::Slots(name), _, Some(pool)) => {
                let state = slot_state(name, state(pool, String::new()));
                let detail = format!(
                    "the session needs {} media slots {name}; node {node} has {} of {} left",
                    part.cost.rate_bps, state.free_slots, state.capacity_slots
                );
                let reason =
                    if shortage == Shortage::Changes { Reason::LimitReached } else { Reason::MediaSlotsExhausted };
                let mut refusal = Refusal::new(reason, detail).at(slot_field(name, side));
                refusal.media_slots = Some(Box::new(state));
                refusal
            }
            (PoolName::Aggregate(name), Some(flow), _) if let Some(aggregate) = self.aggregates.get(name) => {
                aggregate.shortage(node, (flow, fits), (Share::Whole, shortage), schedule, now)
            }
            (PoolName::Ordinary(name), Some(flow), _) if let Some(aggregate) = self.aggregates.get(name) => {
                aggregate.shortage(node, (flow, fits), (Share::Ordinary, shortage), schedule, now)
            }
            (name, ..) => Refusal::new(Reason::Busy, format!("{name:?} of {node} is not there at present; try again")),
        }
    }
}

/// What is needed beyond.
const fn less(cost: Cost, own: Cost) -> Cost {
    Cost {
        rate_bps: cost.rate_bps.saturating_sub(own.rate_bps),
        burst_bytes: cost.burst_bytes.saturating_sub(own.burst_bytes),
    }
}

fn slot_field(name: &SlotName, side: Side) -> String {
    let side = match side {
        Side::First => "first",
        Side::Second => "second",
    };
    format!("media_slots.{side}.{name}")
}
