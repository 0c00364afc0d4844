//! Flows: what may be asked, and what they take of the node's pools, labels and tables.

use std::collections::BTreeSet;

use crate::aggregate::Aggregate;
use crate::broker::{Broker, TableName};
use crate::calendar::{Interval, Shortage};
use crate::class::Quality;
use crate::cost::{self, Cost};
use crate::endpoints::{check_endpoints, occupied};
use crate::event::FlowRequest;
use crate::media_slots::SlotCounts;
use crate::message::HoldFlow;
use crate::name::{Label, Nanos, NodeName, PolicyId};
use crate::policy::{Endpoints, Excess, Meter, Policy, Rtcp, Tag};
use crate::priority::Priority;
use crate::record::{AggregateRecord, AggregateState, Direction, FlowRecord, SessionRecord, Side};
use crate::refusal::{PoolState, Reason, Refusal};
use crate::schedule::Schedule;
use crate::shares::Share;

/// Largest `packet_bytes_min`: a jumbo frame.
const PACKET_BYTES_MAX: u16 = 9000;

impl FlowRequest {
    pub(crate) fn to_hold(&self) -> HoldFlow {
        HoldFlow {
            id: self.id.clone(),
            aggregate: self.aggregate.clone(),
            endpoints: self.endpoints,
            rtcp: self.rtcp,
            meter: self.meter,
            rate_bps_min: self.rate_bps_min,
            rate_bps_max: None,
            label: None,
            media: self.media.clone(),
            quality: self.quality.clone(),
        }
    }
}

impl FlowRecord {
    /// What is asked for, with what is granted of it. It has no policy yet, and no label of this node.
    pub(crate) fn asked(asked: &HoldFlow, (direction, tag): Way, meter: Meter, terms: Terms) -> Self {
        Self {
            id: asked.id.clone(),
            aggregate: asked.aggregate.clone(),
            direction,
            endpoints: asked.endpoints,
            rtcp: asked.rtcp,
            asked_rate_bps: asked.meter.rate_bps,
            asked_excess: asked.meter.excess,
            rate_bps_min: asked.rate_bps_min,
            meter,
            label: asked.label,
            policy: PolicyId(0),
            tag,
            emergency: terms.priority.emergency,
            media: asked.media.clone(),
            asked_quality: asked.quality.clone(),
            quality: asked.quality.clone(),
        }
    }

    /// The wish that it came from.
    pub(crate) fn to_hold(&self) -> HoldFlow {
        HoldFlow {
            id: self.id.clone(),
            aggregate: self.aggregate.clone(),
            endpoints: self.endpoints,
            rtcp: self.rtcp,
            meter: Meter { rate_bps: self.asked_rate_bps, excess: self.asked_excess, ..self.meter },
            rate_bps_min: self.rate_bps_min,
            rate_bps_max: None,
            label: None,
            media: self.media.clone(),
            quality: self.asked_quality.clone(),
        }
    }

    /// Whether this is what `asked` asks for; the label only counts where the asking side gives it.
    pub(crate) fn is_answer_to(&self, asked: &HoldFlow, from: Side) -> bool {
        let meter = Meter { rate_bps: self.asked_rate_bps, excess: self.asked_excess, ..self.meter };
        let label = match (from, self.direction) {
            (Side::First, Direction::Out) => self.label,
            (Side::First, Direction::In) | (Side::Second, _) => None,
        };
        self.id == asked.id
            && self.aggregate == asked.aggregate
            && self.endpoints == asked.endpoints
            && self.rtcp == asked.rtcp
            && meter == asked.meter
            && self.rate_bps_min == asked.rate_bps_min
            && label == asked.label
            && self.media == asked.media
            && self.asked_quality == asked.quality
    }
}

/// Whether a session's flows are exactly what `asked` asks for. `from` is [`Side::First`] for another node's hold and
/// [`Side::Second`] for a client's request, which has no labels.
pub(crate) fn are_answer_to(flows: &[FlowRecord], asked: &[HoldFlow], from: Side) -> bool {
    flows.len() == asked.len() && flows.iter().zip(asked).all(|(flow, asked)| flow.is_answer_to(asked, from))
}

pub(crate) fn check_meter(field: &str, asked: &HoldFlow, aggregate: &Aggregate) -> Result<(), Refusal> {
    let AggregateRecord { name, rate_bps: rate_bps_max, .. } = &aggregate.record;
    let Meter { rate_bps, burst_bytes, packet_bytes_min, excess } = asked.meter;
    if !(1..=*rate_bps_max).contains(&rate_bps) {
        let allowed = format!("1 to {rate_bps_max}, the rate of aggregate {name}");
        return Err(Refusal::invalid(format!("{field}.rate_bps"), rate_bps, allowed));
    }
    if !(1..=rate_bps).contains(&asked.rate_bps_min) {
        let allowed = format!("1 to {rate_bps}, the flow's rate_bps");
        return Err(Refusal::invalid(format!("{field}.rate_bps_min"), asked.rate_bps_min, allowed));
    }
    let packet_bytes = cost::packet_bytes_min(asked.endpoints.family())..=PACKET_BYTES_MAX;
    if !packet_bytes.contains(&packet_bytes_min) {
        let allowed = format!("{} to {}", packet_bytes.start(), packet_bytes.end());
        return Err(Refusal::invalid(format!("{field}.packet_bytes_min"), packet_bytes_min, allowed));
    }
    if burst_bytes < u32::from(packet_bytes_min) {
        let allowed = format!("{packet_bytes_min} or more, one packet of packet_bytes_min");
        return Err(Refusal::invalid(format!("{field}.burst_bytes"), burst_bytes, allowed));
    }
    if let Some(excess) = excess {
        check_excess(&format!("{field}.excess"), excess, packet_bytes_min, &aggregate.record)?;
    }
    if Cost::of(&asked.meter, aggregate.overhead_bytes(&asked.endpoints)).is_none() {
        let allowed = "a rate that with the tag is below 2^64";
        return Err(Refusal::invalid(format!("{field}.rate_bps"), rate_bps, allowed));
    }
    Ok(())
}

/// Nothing is reserved for excess, but more than the aggregate has can never pass.
fn check_excess(
    field: &str,
    excess: Excess,
    packet_bytes_min: u16,
    aggregate: &AggregateRecord,
) -> Result<(), Refusal> {
    let Excess { rate_bps, burst_bytes } = excess;
    let AggregateRecord { name, rate_bps: rate_bps_max, burst_bytes: burst_bytes_max, .. } = aggregate;
    if !(1..=*rate_bps_max).contains(&rate_bps) {
        let allowed = format!("1 to {rate_bps_max}, the rate of aggregate {name}");
        return Err(Refusal::invalid(format!("{field}.rate_bps"), rate_bps, allowed));
    }
    if !(u32::from(packet_bytes_min)..=*burst_bytes_max).contains(&burst_bytes) {
        let allowed = format!(
            "{packet_bytes_min}, one packet of packet_bytes_min, to {burst_bytes_max}, the burst of aggregate {name}"
        );
        return Err(Refusal::invalid(format!("{field}.burst_bytes"), burst_bytes, allowed));
    }
    Ok(())
}

fn check_label(field: &str, label: Option<Label>, expected: bool) -> Result<(), Refusal> {
    let field = format!("{field}.label");
    match (label, expected) {
        (None, false) => Ok(()),
        (Some(label), true) if is_label(label) => Ok(()),
        (Some(label), true) => Err(Refusal::invalid(field, label.0, "1 to 2^40 - 1")),
        (Some(label), false) => Err(Refusal::invalid(
            field,
            label.0,
            "none: the receiver of a flow gives its label, or has one for all of the aggregate",
        )),
        (None, true) => Err(Refusal::invalid(field, "missing", "the asking node's label, which receives this flow")),
    }
}

/// `taken` are the flow's or those of its RTCP.
pub(crate) fn in_use(field: &str, endpoints: Endpoints, taken: Endpoints) -> Refusal {
    let Endpoints { source, destination } = taken;
    let what = if taken == endpoints { "" } else { " (its RTCP)" };
    let detail = format!("{field}: {source} to {destination}{what} is carried by another flow at that time");
    Refusal::new(Reason::EndpointsInUse, detail).at(format!("{field}.source"))
}

/// Whether a number from a peer can be a label at all.
pub(crate) const fn is_label(label: Label) -> bool {
    label.0 != 0 && label.0 < 1 << Label::BITS
}

/// Whether the receiver's labels come with what is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Labels {
    OfReceiver,
    /// It is a question.
    None,
}

/// What a flow may have at most.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    pub(crate) meter: Meter,
    quality: Quality,
}

/// Tells the other side what this one has: the labels of what it receives, and rates that are lower than asked.
pub(crate) fn note_granted(asked: &mut [HoldFlow], flows: &[FlowRecord]) {
    for (asked, flow) in asked.iter_mut().zip(flows) {
        asked.label = flow.label;
        asked.rate_bps_max = Some(flow.meter.rate_bps).filter(|rate_bps| *rate_bps < asked.meter.rate_bps);
    }
}

/// Everything about a session's flows that can be judged without taking anything.
pub(crate) struct Checked {
    pub(crate) peer: NodeName,
    /// Of each flow.
    pub(crate) ways: Vec<Way>,
}

/// A flow's direction, and what its tags tell.
pub(crate) type Way = (Direction, Tag);

/// What a session asks for beside its flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) schedule: Schedule,
    pub(crate) priority: Priority,
}

impl SessionRecord {
    /// What it was asked with.
    pub(crate) const fn terms(&self) -> Terms {
        Terms { schedule: self.schedule, priority: self.priority }
    }
}

/// Which side this node is when it is asked so.
const fn side(asker: Option<&NodeName>) -> Side {
    if asker.is_some() { Side::Second } else { Side::First }
}

impl Broker {
    /// Takes what a session's flows need, all or nothing: pools, media slots of this side, labels, endpoints, places in tables (R-003-11).
    /// `asker` is the peer where it asks; a client asks otherwise. The second side's own values are applied (R-001-1).
    pub(crate) fn admit(
        &mut self,
        asker: Option<&NodeName>,
        asked: &[HoldFlow],
        slots: &SlotCounts,
        terms: Terms,
        now: Nanos,
    ) -> Result<(NodeName, Vec<FlowRecord>), Refusal> {
        let checked = self.check_flows(asker, asked, Labels::OfReceiver, terms.schedule.ahead(now))?;
        self.check_slots(slots, side(asker))?;
        self.check_places(&checked.ways).map_err(|table| self.full(table))?;
        let mut flows = self.hold_pools(asker, (asked, slots), &checked.ways, terms, now)?;
        self.take_places(&mut flows, terms.schedule.interval());
        Ok((checked.peer, flows))
    }

    /// Labels, endpoints and places in tables, of which there are enough.
    pub(crate) fn take_places(&mut self, flows: &mut [FlowRecord], interval: Interval) {
        for flow in flows {
            flow.policy = self.next_policy();
            if (flow.direction, flow.tag) == (Direction::In, Tag::Label) {
                flow.label = self.labels.allocate();
            }
            self.carried.insert(flow, interval);
        }
    }

    /// What [`Self::admit`] would give now, or why it would refuse; flows have neither labels nor policies. Changes nothing.
    pub(crate) fn would_admit(
        &mut self,
        asker: Option<&NodeName>,
        asked: &[HoldFlow],
        slots: &SlotCounts,
        terms: Terms,
        now: Nanos,
    ) -> Result<(NodeName, Vec<FlowRecord>), Refusal> {
        let checked = self.check_flows(asker, asked, Labels::None, terms.schedule.ahead(now))?;
        self.check_slots(slots, side(asker))?;
        self.check_places(&checked.ways).map_err(|table| self.no_place(table))?;
        let flows = self.hold_pools(asker, (asked, slots), &checked.ways, terms, now)?;
        self.give_back_parts(&flows, slots, terms.schedule.interval());
        Ok((checked.peer, flows))
    }

    /// The flows of a session that waits: nothing is taken. None if even empty pools would not do.
    pub(crate) fn flows_of_watch(
        &self,
        asked: &[HoldFlow],
        slots: &SlotCounts,
        terms: Terms,
        now: Nanos,
    ) -> Result<Option<(NodeName, Vec<FlowRecord>)>, Refusal> {
        let Checked { peer, ways } = self.check_flows(None, asked, Labels::None, terms.schedule.ahead(now))?;
        self.check_slots(slots, Side::First)?;
        let flows = asked.iter().zip(ways).map(|(asked, way)| FlowRecord::asked(asked, way, asked.meter, terms));
        let flows: Vec<FlowRecord> = flows.collect();
        let least: Vec<FlowRecord> = flows.iter().map(|flow| self.least(flow)).collect();
        Ok(self.fits_empty(&least, slots, now).then_some((peer, flows)))
    }

    /// Takes what flows and slots need of their pools, all or nothing.
    pub(crate) fn hold_pools(
        &mut self,
        asker: Option<&NodeName>,
        (asked, slots): (&[HoldFlow], &SlotCounts),
        ways: &[Way],
        terms: Terms,
        now: Nanos,
    ) -> Result<Vec<FlowRecord>, Refusal> {
        let (none, side, interval) = (SlotCounts::new(), side(asker), terms.schedule.interval());
        let grants = asked
            .iter()
            .enumerate()
            .map(|(index, asked)| self.grant(&format!("flows[{index}]"), asked, asker.is_some()));
        let mut grants = grants.collect::<Result<Vec<Grant>, Refusal>>()?;
        let mut flows: Vec<FlowRecord> = Vec::with_capacity(asked.len());
        let mut places: Vec<usize> = Vec::with_capacity(asked.len());
        let mut taken = Ok(());
        // One aggregate after the other: what flows are granted depends on what those before them have left.
        'aggregates: for (first, flow) in asked.iter().enumerate() {
            let name = &flow.aggregate;
            if asked[..first].iter().any(|earlier| earlier.aggregate == *name) {
                continue;
            }
            self.forget_past(name, now);
            self.lower_to_fit(name, asked, &mut grants, terms, asker.is_some());
            let of_this = (first..asked.len()).filter(|place| asked[*place].aggregate == *name);
            for place in of_this {
                let Grant { meter, quality } = grants[place].clone();
                let record = FlowRecord::asked(&asked[place], ways[place], meter, terms);
                let record = FlowRecord { quality, ..record };
                let one = self
                    .check_carried(name, terms.schedule, now)
                    .and_then(|()| self.take_parts(std::slice::from_ref(&record), (&none, side), terms.schedule, now));
                if one.is_err() {
                    taken = one;
                    break 'aggregates;
                }
                flows.push(record);
                places.push(place);
            }
        }
        match taken.and_then(|()| self.take_parts(&[], (slots, side), terms.schedule, now)) {
            Ok(()) => {
                let mut placed: Vec<(usize, FlowRecord)> = places.into_iter().zip(flows).collect();
                placed.sort_by_key(|(place, _)| *place);
                Ok(placed.into_iter().map(|(_, flow)| flow).collect())
            }
            Err(refusal) => {
                self.give_back_parts(&flows, &none, interval);
                Err(refusal)
            }
        }
    }

    pub(crate) fn check_flows(
        &self,
        asker: Option<&NodeName>,
        asked: &[HoldFlow],
        labels: Labels,
        interval: Interval,
    ) -> Result<Checked, Refusal> {
        let flows_max = self.config.limits.flows_per_session_max;
        if !(1..=flows_max).contains(&asked.len()) {
            return Err(Refusal::invalid("flows", format!("{} flows", asked.len()), format!("1 to {flows_max}")));
        }
        let mut peer: Option<NodeName> = asker.cloned();
        let mut ways = Vec::with_capacity(asked.len());
        let mut ids = BTreeSet::new();
        let mut endpoints = BTreeSet::new();
        for (index, flow) in asked.iter().enumerate() {
            let field = format!("flows[{index}]");
            if !ids.insert(&flow.id) {
                return Err(Refusal::invalid(format!("{field}.id"), &flow.id, "an id that no other flow has"));
            }
            let aggregate = self.usable_aggregate(&field, flow, peer.as_ref())?;
            let AggregateRecord { direction, tag, .. } = aggregate.record;
            check_endpoints(&field, &flow.endpoints, flow.rtcp)?;
            check_meter(&field, flow, aggregate)?;
            flow.media.check(&field)?;
            flow.quality.check(&field, &self.config.node, &aggregate.record)?;
            let from_peer = asker.is_some() && labels == Labels::OfReceiver;
            check_label(&field, flow.label, from_peer && direction == Direction::Out && tag == Tag::Label)?;
            for ends in occupied(flow.endpoints, flow.rtcp) {
                let taken = self.carried.has(direction, &ends, interval)
                    || (interval.contains(self.now) && self.is_still_sent(direction, ends, Rtcp::SamePort));
                if taken || !endpoints.insert((direction, ends)) {
                    return Err(in_use(&field, flow.endpoints, ends));
                }
            }
            peer.get_or_insert_with(|| aggregate.record.peer.clone());
            ways.push((direction, tag));
        }
        let peer = peer.ok_or_else(|| Refusal::invalid("flows", "empty", "at least one flow"))?;
        Ok(Checked { peer, ways })
    }

    fn usable_aggregate(&self, field: &str, flow: &HoldFlow, peer: Option<&NodeName>) -> Result<&Aggregate, Refusal> {
        let field = format!("{field}.aggregate");
        let name = &flow.aggregate;
        let Some(aggregate) = self.aggregates.get(name) else {
            let detail = format!("{field}: node {} has no aggregate {name}", self.config.node);
            return Err(Refusal::new(Reason::UnknownAggregate, detail).at(field));
        };
        if let Some(peer) = peer
            && *peer != aggregate.record.peer
        {
            return Err(Refusal::invalid(field, name, format!("an aggregate with peer {peer}, all flows to one peer")));
        }
        match aggregate.record.state {
            AggregateState::Active => Ok(aggregate),
            AggregateState::Establishing | AggregateState::Releasing => {
                let detail = format!("{field}: {name} is not active at present; try again once it is");
                Err(Refusal::new(Reason::Busy, detail).at(field))
            }
        }
    }

    pub(crate) fn check_places(&self, ways: &[Way]) -> Result<(), TableName> {
        let out = ways.iter().filter(|(direction, _)| *direction == Direction::Out).count();
        let labels = ways.iter().filter(|way| **way == (Direction::In, Tag::Label)).count();
        let flows_max = self.flows_max();
        if self.carried.flows_out() + out > flows_max {
            return Err(TableName::Flows);
        }
        if self.labels.used() + labels > flows_max {
            return Err(TableName::Labels);
        }
        Ok(())
    }

    /// What a flow gets where there is room: at the first side what it asks for, at the second side what that side wants to give.
    pub(crate) fn grant(&self, field: &str, asked: &HoldFlow, second: bool) -> Result<Grant, Refusal> {
        let settings = self.config.second_side;
        let rate_bps = asked.meter.rate_bps.min(asked.rate_bps_max.unwrap_or(u64::MAX));
        if !second {
            let meter = Meter { rate_bps, ..asked.meter };
            return Ok(Grant { meter, quality: asked.quality.clone() });
        }
        let quality = asked.quality.granted(field, &self.config.node, settings.quality_floors)?;
        let rate_bps = rate_bps.min(settings.flow_rate_bps_max.unwrap_or(u64::MAX));
        if rate_bps < asked.rate_bps_min {
            let detail = format!(
                "{field}.rate_bps_min is {}; node {} takes flows up to {rate_bps}",
                asked.rate_bps_min, self.config.node
            );
            let mut refusal = Refusal::new(Reason::SecondSideRefused, detail).at(format!("{field}.rate_bps_min"));
            refusal.counter_offer_rate_bps = (rate_bps > 0).then_some(rate_bps);
            return Err(refusal);
        }
        let excess_rate_bps_max = settings.flow_excess_rate_bps_max.unwrap_or(u64::MAX);
        let excess = asked.meter.excess.filter(|_| excess_rate_bps_max > 0);
        let excess = excess.map(|excess| Excess { rate_bps: excess.rate_bps.min(excess_rate_bps_max), ..excess });
        Ok(Grant { meter: Meter { rate_bps, excess, ..asked.meter }, quality })
    }

    /// The reverse of [`Self::admit`].
    pub(crate) fn give_back(&mut self, record: &SessionRecord) {
        self.room = true;
        self.give_back_parts(&record.held_flows(), record.own_slots(), record.schedule.interval());
        self.give_places_back(&record.flows, record.schedule.interval());
    }

    /// Labels, endpoints and places in tables.
    pub(crate) fn give_places_back(&mut self, flows: &[FlowRecord], interval: Interval) {
        for flow in flows {
            self.carried.remove(flow, interval);
            if let (Direction::In, Some(label)) = (flow.direction, flow.label) {
                self.labels.give_back(label);
            }
        }
    }

    /// Takes what an earlier life of this node gave to a session.
    pub(crate) fn adopt_flows(&mut self, record: &SessionRecord) {
        let interval = record.schedule.interval();
        self.adopt_parts(&record.held_flows(), record.own_slots(), interval);
        for flow in &record.flows {
            self.carried.insert(flow, interval);
            if let (Direction::In, Some(label)) = (flow.direction, flow.label)
                && !self.labels.adopt(label)
            {
                tracing::error!(session = %record.id, flow = %flow.id, "a kept label does not fit in this node's table");
            }
        }
    }

    /// Keeps of a flow's part only what the second side's values need.
    pub(crate) fn shrink(&mut self, flow: &mut FlowRecord, meter: Meter, interval: Interval) {
        self.room = true;
        let none = SlotCounts::new();
        self.give_back_parts(std::slice::from_ref(flow), &none, interval);
        flow.meter = meter;
        self.adopt_parts(std::slice::from_ref(flow), &none, interval);
    }

    /// What the data plane is to do for a flow that [has a policy](FlowRecord::has_policy). `None` if its label or its aggregate is not known.
    pub(crate) fn flow_policy(&self, flow: &FlowRecord) -> Option<Policy> {
        let carrier = &self.aggregates.get(&flow.aggregate)?.record;
        let label = match flow.tag {
            Tag::Label => flow.label?,
            Tag::Terminals => carrier.label?,
        };
        let (aggregate, endpoints, meter, rtcp) = (carrier.policy, flow.endpoints, flow.meter, flow.rtcp);
        Some(match flow.direction {
            Direction::Out => Policy::FlowOut { aggregate, endpoints, label, meter, rtcp, tag: flow.tag },
            Direction::In => Policy::FlowIn { aggregate, endpoints, label, meter, rtcp, media: flow.media.clone() },
        })
    }
}

impl Aggregate {
    /// Why a flow does not fit into one of its aggregate's pools, what would, and when this would. `fits` is the largest rate of it that does.
    pub(crate) fn shortage(
        &self,
        node: &NodeName,
        (flow, fits): (&FlowRecord, u64),
        (share, shortage): (Share, Shortage),
        schedule: Schedule,
        now: Nanos,
    ) -> Refusal {
        let (interval, cost, pool) = (schedule.interval(), self.cost(flow), self.share(share));
        let (id, free) = (&flow.id, pool.free(interval));
        let state = pool.state(self.share_name(share), node, now);
        let name = &state.name;
        let (reason, detail) = match shortage {
            Shortage::Rate => (
                Reason::PoolRateExhausted,
                format!(
                    "flow {id} needs {} bit/s on the wire; {name} at {node} has {} left; a flow of {fits} fits",
                    cost.rate_bps, free.rate_bps
                ),
            ),
            Shortage::Burst => (
                Reason::PoolBurstExhausted,
                format!(
                    "flow {id} needs {} bytes of burst on the wire; {name} at {node} has {} of {} left",
                    cost.burst_bytes, free.burst_bytes, state.burst_capacity_bytes
                ),
            ),
            Shortage::Changes => (Reason::LimitReached, format!("flow {id} in {name} at {node}: {shortage}")),
        };
        let mut refusal = Refusal::new(reason, detail);
        let state = if schedule == Schedule::OPEN { state } else { pool.state_throughout(interval, state) };
        let fits_at = pool.fits_at(cost, schedule.duration(now), schedule.begin(now));
        refusal.pool = Some(PoolState { fits_at, ..state });
        let offer = shortage == Shortage::Rate && fits > 0 && cost.burst_bytes <= free.burst_bytes;
        refusal.counter_offer_rate_bps = offer.then_some(fits);
        refusal
    }
}
