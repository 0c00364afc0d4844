//! Flows: what may be asked, and what they take of the node's pools, labels and tables.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;

use crate::aggregate::Aggregate;
use crate::broker::{Broker, TableName};
use crate::cost::{Cost, rate_that_fits};
use crate::event::FlowRequest;
use crate::message::HoldFlow;
use crate::name::{Label, NodeName};
use crate::policy::{Endpoints, Meter, Policy};
use crate::pool::Shortage;
use crate::record::{AggregateState, Direction, FlowRecord, SessionRecord, Side};
use crate::refusal::{Reason, Refusal};

/// Smallest and largest `packet_bytes_min`: a bare IPv4 and UDP header, and a jumbo frame.
const PACKET_BYTES: std::ops::RangeInclusive<u16> = 28..=9000;

impl FlowRequest {
    pub(crate) fn to_hold(&self) -> HoldFlow {
        HoldFlow {
            id: self.id.clone(),
            aggregate: self.aggregate.clone(),
            endpoints: self.endpoints,
            meter: self.meter,
            rate_bps_min: self.rate_bps_min,
            label: None,
            media: self.media.clone(),
        }
    }
}

impl FlowRecord {
    /// What it takes from its aggregate's pool.
    pub(crate) fn cost(&self) -> Cost {
        // A record's meter has passed `check_meter`, or was lowered from one that did.
        Cost::of(&self.meter).unwrap_or_default()
    }

    /// Whether this is what `asked` asks for; the label only counts where the asking side gives it.
    pub(crate) fn is_answer_to(&self, asked: &HoldFlow, from: Side) -> bool {
        let meter = Meter { rate_bps: self.asked_rate_bps, ..self.meter };
        let label = match (from, self.direction) {
            (Side::First, Direction::Out) => self.label,
            (Side::First, Direction::In) | (Side::Second, _) => None,
        };
        self.id == asked.id
            && self.aggregate == asked.aggregate
            && self.endpoints == asked.endpoints
            && meter == asked.meter
            && self.rate_bps_min == asked.rate_bps_min
            && label == asked.label
            && self.media == asked.media
    }
}

/// Whether a session's flows are exactly what `asked` asks for. `from` is [`Side::First`] for another node's hold and
/// [`Side::Second`] for a client's request, which has no labels.
pub(crate) fn are_answer_to(flows: &[FlowRecord], asked: &[HoldFlow], from: Side) -> bool {
    flows.len() == asked.len() && flows.iter().zip(asked).all(|(flow, asked)| flow.is_answer_to(asked, from))
}

fn check_end(field: &str, end: SocketAddrV4) -> Result<(), Refusal> {
    let ip = end.ip();
    if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() {
        return Err(Refusal::invalid(field, end, "a unicast IPv4 address"));
    }
    if end.port() == 0 {
        return Err(Refusal::invalid(field, end, "a port from 1 to 65535"));
    }
    Ok(())
}

fn check_endpoints(field: &str, endpoints: &Endpoints) -> Result<(), Refusal> {
    check_end(&format!("{field}.source"), endpoints.source)?;
    check_end(&format!("{field}.destination"), endpoints.destination)?;
    if endpoints.source == endpoints.destination {
        return Err(Refusal::invalid(format!("{field}.destination"), endpoints.destination, "another than the source"));
    }
    Ok(())
}

fn check_meter(field: &str, asked: &HoldFlow, aggregate_rate_bps: u64) -> Result<Cost, Refusal> {
    let Meter { rate_bps, burst_bytes, packet_bytes_min } = asked.meter;
    if !(1..=aggregate_rate_bps).contains(&rate_bps) {
        let allowed = format!("1 to {aggregate_rate_bps}, the rate of aggregate {}", asked.aggregate);
        return Err(Refusal::invalid(format!("{field}.rate_bps"), rate_bps, allowed));
    }
    if !(1..=rate_bps).contains(&asked.rate_bps_min) {
        let allowed = format!("1 to {rate_bps}, the flow's rate_bps");
        return Err(Refusal::invalid(format!("{field}.rate_bps_min"), asked.rate_bps_min, allowed));
    }
    if !PACKET_BYTES.contains(&packet_bytes_min) {
        let allowed = format!("{} to {}", PACKET_BYTES.start(), PACKET_BYTES.end());
        return Err(Refusal::invalid(format!("{field}.packet_bytes_min"), packet_bytes_min, allowed));
    }
    if burst_bytes < u32::from(packet_bytes_min) {
        let allowed = format!("{packet_bytes_min} or more, one packet of packet_bytes_min");
        return Err(Refusal::invalid(format!("{field}.burst_bytes"), burst_bytes, allowed));
    }
    Cost::of(&asked.meter).ok_or_else(|| {
        Refusal::invalid(format!("{field}.rate_bps"), rate_bps, "a rate that with the tag is below 2^64")
    })
}

fn check_label(field: &str, label: Option<Label>, expected: bool) -> Result<(), Refusal> {
    let field = format!("{field}.label");
    match (label, expected) {
        (None, false) => Ok(()),
        (Some(label), true) if is_label(label) => Ok(()),
        (Some(label), true) => Err(Refusal::invalid(field, label.0, "1 to 2^40 - 1")),
        (Some(label), false) => Err(Refusal::invalid(field, label.0, "none: the receiver of a flow gives its label")),
        (None, true) => Err(Refusal::invalid(field, "missing", "the asking node's label, which receives this flow")),
    }
}

/// Whether a number from a peer can be a label at all.
pub(crate) const fn is_label(label: Label) -> bool {
    label.0 != 0 && label.0 < 1 << Label::BITS
}

/// The endpoints of all flows on this node: the data plane finds a flow by them.
#[derive(Default)]
pub(crate) struct Carried {
    pub(crate) out: BTreeSet<Endpoints>,
    pub(crate) into: BTreeSet<Endpoints>,
}

impl Carried {
    pub(crate) const fn of(&mut self, direction: Direction) -> &mut BTreeSet<Endpoints> {
        match direction {
            Direction::Out => &mut self.out,
            Direction::In => &mut self.into,
        }
    }

    fn has(&self, direction: Direction, endpoints: &Endpoints) -> bool {
        match direction {
            Direction::Out => self.out.contains(endpoints),
            Direction::In => self.into.contains(endpoints),
        }
    }
}

/// Everything about a session's flows that can be judged without taking anything.
struct Checked {
    peer: NodeName,
    directions: Vec<Direction>,
}

impl Broker {
    /// Takes what a session's flows need, all or nothing: pools, labels, endpoints, places in tables (R-003-11).
    /// `asker` is the peer where it asks; a client asks otherwise. The second side's own values are applied (R-001-1).
    pub(crate) fn admit(
        &mut self,
        asker: Option<&NodeName>,
        asked: &[HoldFlow],
    ) -> Result<(NodeName, Vec<FlowRecord>), Refusal> {
        let checked = self.check_flows(asker, asked)?;
        self.check_places(&checked.directions)?;
        let mut flows = Vec::with_capacity(asked.len());
        for (index, (asked, direction)) in asked.iter().zip(checked.directions).enumerate() {
            let taken = self
                .grant(&format!("flows[{index}]"), asked, asker.is_some())
                .and_then(|meter| self.take(asked, direction, meter));
            match taken {
                Ok(flow) => {
                    self.carried.of(direction).insert(flow.endpoints);
                    flows.push(flow);
                }
                Err(refusal) => {
                    self.give_back(&flows);
                    return Err(refusal);
                }
            }
        }
        Ok((checked.peer, flows))
    }

    fn check_flows(&self, asker: Option<&NodeName>, asked: &[HoldFlow]) -> Result<Checked, Refusal> {
        let flows_max = self.config.limits.flows_per_session_max;
        if !(1..=flows_max).contains(&asked.len()) {
            return Err(Refusal::invalid("flows", format!("{} flows", asked.len()), format!("1 to {flows_max}")));
        }
        let mut peer: Option<NodeName> = asker.cloned();
        let mut directions = Vec::with_capacity(asked.len());
        let mut ids = BTreeSet::new();
        let mut endpoints = BTreeSet::new();
        for (index, flow) in asked.iter().enumerate() {
            let field = format!("flows[{index}]");
            if !ids.insert(&flow.id) {
                return Err(Refusal::invalid(format!("{field}.id"), &flow.id, "an id that no other flow has"));
            }
            let aggregate = self.usable_aggregate(&field, flow, peer.as_ref())?;
            let direction = aggregate.record.direction;
            check_endpoints(&field, &flow.endpoints)?;
            check_meter(&field, flow, aggregate.record.rate_bps)?;
            flow.media.check(&field)?;
            check_label(&field, flow.label, asker.is_some() && direction == Direction::Out)?;
            let key = (direction, flow.endpoints);
            if self.carried.has(direction, &flow.endpoints) || !endpoints.insert(key) {
                let Endpoints { source, destination } = flow.endpoints;
                let detail = format!("{field}: {source} to {destination} is carried by another flow already");
                return Err(Refusal::new(Reason::EndpointsInUse, detail).at(format!("{field}.source")));
            }
            peer.get_or_insert_with(|| aggregate.record.peer.clone());
            directions.push(direction);
        }
        let peer = peer.ok_or_else(|| Refusal::invalid("flows", "empty", "at least one flow"))?;
        Ok(Checked { peer, directions })
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

    fn check_places(&mut self, directions: &[Direction]) -> Result<(), Refusal> {
        let out = directions.iter().filter(|&&d| d == Direction::Out).count();
        let flows_max = self.flows_max();
        if self.carried.out.len() + out > flows_max {
            return Err(self.full(TableName::Flows));
        }
        if self.labels.used() + (directions.len() - out) > flows_max {
            return Err(self.full(TableName::Labels));
        }
        Ok(())
    }

    /// What a flow gets: at the first side what it asks for, at the second side what that side wants to give.
    fn grant(&self, field: &str, asked: &HoldFlow, second: bool) -> Result<Meter, Refusal> {
        let settings = self.config.second_side;
        if !second {
            return Ok(asked.meter);
        }
        let mut rate_bps = asked.meter.rate_bps.min(settings.flow_rate_bps_max.unwrap_or(u64::MAX));
        if rate_bps < asked.rate_bps_min {
            let detail = format!(
                "{field}.rate_bps_min is {}; node {} takes flows up to {rate_bps}",
                asked.rate_bps_min, self.config.node
            );
            let mut refusal = Refusal::new(Reason::SecondSideRefused, detail).at(format!("{field}.rate_bps_min"));
            refusal.counter_offer_rate_bps = (rate_bps > 0).then_some(rate_bps);
            return Err(refusal);
        }
        if settings.lower_to_fit
            && let Some(aggregate) = self.aggregates.get(&asked.aggregate)
        {
            let fits = rate_that_fits(aggregate.pool.free().rate_bps, asked.meter.packet_bytes_min);
            if fits >= asked.rate_bps_min {
                rate_bps = rate_bps.min(fits);
            }
        }
        Ok(Meter { rate_bps, ..asked.meter })
    }

    fn take(&mut self, asked: &HoldFlow, direction: Direction, meter: Meter) -> Result<FlowRecord, Refusal> {
        let policy = self.next_policy();
        let mut flow = FlowRecord {
            id: asked.id.clone(),
            aggregate: asked.aggregate.clone(),
            direction,
            endpoints: asked.endpoints,
            asked_rate_bps: asked.meter.rate_bps,
            rate_bps_min: asked.rate_bps_min,
            meter,
            label: asked.label,
            policy,
            media: asked.media.clone(),
        };
        let Some(aggregate) = self.aggregates.get_mut(&flow.aggregate) else {
            return Err(Refusal::new(Reason::UnknownAggregate, format!("no aggregate {}", flow.aggregate)));
        };
        let cost = flow.cost();
        if let Err(shortage) = aggregate.pool.hold(cost) {
            return Err(aggregate.shortage(&self.config.node, &flow, cost, shortage));
        }
        if direction == Direction::In {
            flow.label = self.labels.allocate();
        }
        Ok(flow)
    }

    /// The reverse of [`Self::admit`].
    pub(crate) fn give_back(&mut self, flows: &[FlowRecord]) {
        for flow in flows {
            if let Some(aggregate) = self.aggregates.get_mut(&flow.aggregate) {
                aggregate.pool.give_back(flow.cost());
            }
            self.carried.of(flow.direction).remove(&flow.endpoints);
            if let (Direction::In, Some(label)) = (flow.direction, flow.label) {
                self.labels.give_back(label);
            }
        }
    }

    /// Takes what an earlier life of this node gave to a session.
    pub(crate) fn adopt_flows(&mut self, record: &SessionRecord) {
        for flow in &record.flows {
            if let Some(aggregate) = self.aggregates.get_mut(&flow.aggregate) {
                aggregate.pool.adopt(flow.cost());
            }
            self.carried.of(flow.direction).insert(flow.endpoints);
            if let (Direction::In, Some(label)) = (flow.direction, flow.label)
                && !self.labels.adopt(label)
            {
                tracing::error!(session = %record.id, flow = %flow.id, "a kept label does not fit in this node's table");
            }
        }
    }

    /// Keeps of a flow's part only what the second side's value needs.
    pub(crate) fn shrink(&mut self, flow: &mut FlowRecord, rate_bps: u64) {
        let before = flow.cost();
        flow.meter.rate_bps = rate_bps;
        let after = flow.cost();
        if let Some(aggregate) = self.aggregates.get_mut(&flow.aggregate) {
            aggregate.pool.give_back(before);
            aggregate.pool.adopt(after);
        }
    }

    /// What the data plane is to do for a flow. `None` if its label or its aggregate is not known.
    pub(crate) fn flow_policy(&self, flow: &FlowRecord) -> Option<Policy> {
        let aggregate = self.aggregates.get(&flow.aggregate)?.record.policy;
        let (endpoints, label, meter) = (flow.endpoints, flow.label?, flow.meter);
        Some(match flow.direction {
            Direction::Out => Policy::FlowOut { aggregate, endpoints, label, meter },
            Direction::In => Policy::FlowIn { aggregate, endpoints, label, meter, media: flow.media.clone() },
        })
    }
}

impl Aggregate {
    fn shortage(&self, node: &NodeName, flow: &FlowRecord, cost: Cost, shortage: Shortage) -> Refusal {
        let (id, name, free) = (&flow.id, &self.record.name, self.pool.free());
        let fits = rate_that_fits(free.rate_bps, flow.meter.packet_bytes_min).min(flow.asked_rate_bps);
        let (reason, detail) = match shortage {
            Shortage::Rate => (
                Reason::PoolRateExhausted,
                format!(
                    "flow {id} needs {} bit/s on the wire; aggregate {name} at {node} has {} left; a flow of {fits} fits",
                    cost.rate_bps, free.rate_bps
                ),
            ),
            Shortage::Burst => (
                Reason::PoolBurstExhausted,
                format!(
                    "flow {id} needs {} bytes of burst on the wire; aggregate {name} at {node} has {} of {} left",
                    cost.burst_bytes,
                    free.burst_bytes,
                    self.pool_state(node).burst_capacity_bytes
                ),
            ),
        };
        let mut refusal = Refusal::new(reason, detail);
        refusal.pool = Some(self.pool_state(node));
        let offer = shortage == Shortage::Rate && fits > 0 && cost.burst_bytes <= free.burst_bytes;
        refusal.counter_offer_rate_bps = offer.then_some(fits);
        refusal
    }
}
