//! Aggregates: reserved at both ends by their sender before any session, and given up by it (R-003-1, R-003-3).

use crate::address::Family;
use crate::broker::{Broker, TableName};
use crate::cost::{self, Cost, overhead_bytes};
use crate::degrade::WhenFull;
use crate::event::{AggregateRequest, Answer};
use crate::fence::Subject;
use crate::flow::is_label;
use crate::marking::check_marking;
use crate::message::{Offer, PeerAnswer, PeerRequest};
use crate::name::{AggregateName, Label, Nanos, NodeName, PolicyId};
use crate::notice::Notice;
use crate::policy::{Endpoints, InstallError, Marking, Meter, Policy, Tag};
use crate::pool::Pool;
use crate::record::{AggregateRecord, AggregateState, Change, Direction, FlowRecord};
use crate::refusal::{PoolState, Reason, Refusal};
use crate::shares::{Share, check_percent, ordinary};
use crate::withdrawal::Undoing;

/// The smallest rate of an aggregate.
pub(crate) const RATE_BPS_MIN: u64 = 1_000;
/// Two full packets, so that half of the burst is at least one.
pub(crate) const BURST_BYTES_MIN: u32 = 2 * 1_500;

/// An aggregate on this node. It stays in the table, and holds its part of the link, until both ends are rid of it.
pub(crate) struct Aggregate {
    pub(crate) record: AggregateRecord,
    pub(crate) pool: Pool,
    /// What flows that are no emergency may have together, where a part is kept for emergencies.
    pub(crate) ordinary: Option<Pool>,
    /// Of what tagged packets have around them.
    tag_family: Family,
    /// The sender's, that the receiver knows it by; 0 if that was before a restart.
    pub(crate) attempt: u64,
    pub(crate) phase: Phase,
}

pub(crate) enum Phase {
    /// Being installed here; the client or the peers to answer.
    Installing { install: u64, asker: Asker },
    /// Installed here, offered to the receiver.
    Offering { ask: u64, client: u64 },
    /// Installed and confirmed.
    Active,
    /// Was active before a restart, and what is missing of it is being installed again; `None` while waiting to try once more.
    Restoring { install: Option<u64>, missing: Vec<PolicyId> },
    /// Being given up.
    Undoing(Box<Undoing>),
}

pub(crate) enum Asker {
    Client(u64),
    Peers(Vec<u64>),
}

impl Aggregate {
    pub(crate) fn new(record: AggregateRecord, tag_family: Family, attempt: u64, phase: Phase) -> Self {
        // The other half of the burst pays for credit that the data plane caches per CPU.
        let burst_bytes = u64::from(record.burst_bytes / 2);
        let capacity = Cost { rate_bps: record.rate_bps, burst_bytes };
        let ordinary = ordinary(capacity, record.emergency_percent);
        Self { record, pool: Pool::new(capacity), ordinary, tag_family, attempt, phase }
    }

    /// Bytes by which this makes a flow's packets longer.
    pub(crate) const fn overhead_bytes(&self, endpoints: &Endpoints) -> i32 {
        overhead_bytes(endpoints.family(), self.tag_family, self.record.tag)
    }

    /// What a flow takes from the pool.
    pub(crate) fn cost(&self, flow: &FlowRecord) -> Cost {
        // A record's meter has passed `check_meter`, or was lowered from one that did.
        Cost::of(&flow.meter, self.overhead_bytes(&flow.endpoints)).unwrap_or_default()
    }

    pub(crate) fn pool_state(&self, node: &NodeName, now: Nanos) -> PoolState {
        self.pool.state(self.share_name(Share::Whole), node, now)
    }
}

/// What the data plane is to do for an aggregate, in the order of installation.
fn policies(record: &AggregateRecord) -> Vec<(PolicyId, Policy)> {
    let AggregateRecord { peer, rate_bps, burst_bytes, .. } = record.clone();
    let Marking { dscp, excess_dscp, deliver_dscp } = record.marking;
    let policy = match record.direction {
        Direction::Out => Policy::AggregateOut { peer, rate_bps, burst_bytes, dscp, excess_dscp },
        Direction::In => Policy::AggregateIn { peer, rate_bps, burst_bytes, dscp: deliver_dscp },
    };
    let mut policies = vec![(record.policy, policy)];
    if let (Some(id), Some(label)) = (record.terminals_policy, record.label) {
        // It counts restored packets, which are smaller than those on the wire: the aggregate's own meter decides.
        let packet_bytes_min = cost::packet_bytes_min(Family::Ipv4);
        let meter = Meter { rate_bps, burst_bytes, packet_bytes_min, excess: None };
        policies.push((id, Policy::TerminalsIn { aggregate: record.policy, label, meter }));
    }
    policies
}

/// Whether a receiver's answer has a label where it must, and only there.
fn check_label(tag: Tag, label: Option<Label>) -> Result<(), String> {
    match (tag, label) {
        (Tag::Label, None) => Ok(()),
        (Tag::Terminals, Some(label)) if is_label(label) => Ok(()),
        (Tag::Label, Some(label)) => Err(format!("a label, {}, though each flow has its own", label.0)),
        (Tag::Terminals, label) => {
            Err(format!("{label:?} for the label of all flows; a receiver of an earlier version has none"))
        }
    }
}

fn check_values(rate_bps: u64, rate_bps_max: u64, burst_bytes: u32) -> Result<(), Refusal> {
    if !(RATE_BPS_MIN..=rate_bps_max).contains(&rate_bps) {
        let allowed = format!("{RATE_BPS_MIN} to {rate_bps_max}, the rate of the link");
        return Err(Refusal::invalid("rate_bps", rate_bps, allowed));
    }
    if burst_bytes < BURST_BYTES_MIN {
        let allowed = format!("{BURST_BYTES_MIN} or more, two packets of 1500 bytes");
        return Err(Refusal::invalid("burst_bytes", burst_bytes, allowed));
    }
    Ok(())
}

pub(crate) fn busy(name: &AggregateName) -> Refusal {
    Refusal::new(Reason::Busy, format!("aggregate {name} is being established or released; try again"))
}

fn reused(record: &AggregateRecord, node: &NodeName) -> Refusal {
    let AggregateRecord { name, peer, direction, rate_bps, burst_bytes, marking, class, tag, .. } = record;
    let (when_full, emergency_percent) = (record.when_full, record.emergency_percent);
    let class = class.as_ref().map(|class| format!("class {}, ", class.name)).unwrap_or_default();
    let way = match direction {
        Direction::Out => "to",
        Direction::In => "from",
    };
    let detail = format!(
        "{name} at {node} is an aggregate {way} {peer} with {rate_bps} bit/s, {burst_bytes} bytes, {class}{marking}, {tag}{}, {emergency_percent} % for emergencies; take another name",
        if when_full == WhenFull::Degrade { ", degrade" } else { "" }
    );
    Refusal::new(Reason::AggregateNameReused, detail).at("name")
}

impl Broker {
    pub(crate) fn persist_aggregate(&mut self, name: &AggregateName) {
        if let Some(aggregate) = self.aggregates.get(name) {
            let record = aggregate.record.clone();
            self.persist(Change::PutAggregate(record));
        }
    }

    /// At the sender.
    pub(crate) fn create_aggregate(
        &mut self,
        ticket: u64,
        request: AggregateRequest,
        now: Nanos,
    ) -> Result<(), Refusal> {
        let class = request.class.as_ref().map(|name| self.class_of_request(&request.name, name)).transpose()?;
        let (marking, burst_bytes) = request.values(class.as_ref())?;
        let AggregateRequest { name, peer, rate_bps, tag, when_full, emergency_percent, .. } = request;
        if let Some(Aggregate { record, phase, .. }) = self.aggregates.get(&name) {
            let same = record.direction == Direction::Out
                && (&record.peer, record.rate_bps, record.burst_bytes, record.marking, record.tag, &record.class)
                    == (&peer, rate_bps, burst_bytes, marking, tag, &class)
                && (record.when_full, record.emergency_percent) == (when_full, emergency_percent);
            return match phase {
                _ if !same => Err(reused(record, &self.config.node)),
                Phase::Active => {
                    let answer = Answer::Aggregate { record: record.clone(), created: false };
                    self.answer(ticket, answer);
                    Ok(())
                }
                Phase::Installing { .. } | Phase::Offering { .. } | Phase::Restoring { .. } | Phase::Undoing(_) => {
                    Err(busy(&name))
                }
            };
        }
        let policy = self.next_policy();
        let record = AggregateRecord {
            name,
            peer,
            direction: Direction::Out,
            rate_bps,
            burst_bytes,
            marking,
            class,
            tag,
            when_full,
            emergency_percent,
            policy,
            label: None,
            terminals_policy: None,
            state: AggregateState::Establishing,
        };
        self.establish(record, policy.0, Asker::Client(ticket), now)
    }

    /// Holds the link and installs: the same at both ends.
    fn establish(
        &mut self,
        mut record: AggregateRecord,
        attempt: u64,
        asker: Asker,
        now: Nanos,
    ) -> Result<(), Refusal> {
        let (_, rate_bps_max) = self.link_to(&record.peer, record.direction)?;
        let tag_family = self.tag_family(&record.peer);
        check_values(record.rate_bps, rate_bps_max, record.burst_bytes)?;
        check_percent(record.emergency_percent)?;
        if self.aggregates.len() >= self.config.limits.aggregates_max {
            return Err(self.full(TableName::Aggregates));
        }
        self.hold_link(&record, now)?;
        if record.terminals_policy.is_some() {
            record.label = self.labels.allocate();
            if record.label.is_none() {
                self.give_back_link(&record);
                return Err(self.full(TableName::Labels));
            }
        }
        let name = record.name.clone();
        self.persist(Change::PutAggregate(record.clone()));
        let install = self.install(Subject::Aggregate(name.clone()), policies(&record), Vec::new());
        let phase = Phase::Installing { install, asker };
        self.aggregates.insert(name, Aggregate::new(record, tag_family, attempt, phase));
        Ok(())
    }

    /// At the receiver.
    pub(crate) fn offer_received(
        &mut self,
        ticket: u64,
        peer: NodeName,
        offer: Offer,
        now: Nanos,
    ) -> Result<(), Refusal> {
        let Offer {
            name,
            rate_bps,
            burst_bytes,
            marking,
            class,
            tag,
            when_full,
            emergency_percent,
            tag_family,
            attempt,
        } = offer;
        if !self.is_open(&peer, Subject::Aggregate(name.clone()), attempt) {
            let detail = format!("this offer of aggregate {name} was withdrawn");
            return Err(Refusal::new(Reason::StaleEpoch, detail));
        }
        if let Some(Aggregate { record, phase, attempt: known, .. }) = self.aggregates.get_mut(&name) {
            let same = record.direction == Direction::In
                && (&record.peer, record.rate_bps, record.burst_bytes, record.marking, record.tag, &record.class)
                    == (&peer, rate_bps, burst_bytes, marking, tag, &class)
                && (record.when_full, record.emergency_percent) == (when_full, emergency_percent);
            if !same {
                return Err(reused(record, &self.config.node));
            }
            return match phase {
                Phase::Active => {
                    *known = attempt.max(*known);
                    let label = record.label;
                    self.answer_peer(ticket, PeerAnswer::AggregateAccepted { label });
                    Ok(())
                }
                Phase::Installing { asker: Asker::Peers(tickets), .. } => {
                    *known = attempt.max(*known);
                    tickets.push(ticket);
                    Ok(())
                }
                Phase::Installing { .. } | Phase::Offering { .. } | Phase::Restoring { .. } | Phase::Undoing(_) => {
                    Err(busy(&name))
                }
            };
        }
        self.check_tag_family(&peer, tag_family)?;
        self.check_class(&peer, class.as_ref())?;
        check_marking(&marking)?;
        let policy = self.next_policy();
        let terminals_policy = (tag == Tag::Terminals).then(|| self.next_policy());
        let record = AggregateRecord {
            name,
            peer,
            direction: Direction::In,
            rate_bps,
            burst_bytes,
            marking,
            class,
            tag,
            when_full,
            emergency_percent,
            policy,
            label: None,
            terminals_policy,
            state: AggregateState::Establishing,
        };
        self.establish(record, attempt, Asker::Peers(vec![ticket]), now)
    }

    pub(crate) fn aggregate_installed(
        &mut self,
        name: &AggregateName,
        ticket: u64,
        outcome: Result<(), InstallError>,
        now: Nanos,
    ) {
        let Some(aggregate) = self.aggregates.get_mut(name) else {
            return;
        };
        match &mut aggregate.phase {
            Phase::Installing { install, asker } if *install == ticket => {
                let asker = std::mem::replace(asker, Asker::Peers(Vec::new()));
                match outcome {
                    Ok(()) => self.aggregate_confirmed(name, asker, now),
                    Err(error) => self.aggregate_not_installed(name, asker, &error, now),
                }
            }
            Phase::Restoring { install, .. } if *install == Some(ticket) => match outcome {
                Ok(()) => {
                    aggregate.phase = Phase::Active;
                    aggregate.record.state = AggregateState::Active;
                    self.room = true;
                }
                Err(error) => {
                    tracing::error!(aggregate = %name, %error, "an aggregate could not be installed again; will retry");
                    *install = None;
                    let at = now.plus(self.config.timers.retry_max);
                    self.set_timer(Subject::Aggregate(name.clone()), at);
                }
            },
            Phase::Installing { .. }
            | Phase::Restoring { .. }
            | Phase::Offering { .. }
            | Phase::Active
            | Phase::Undoing(_) => {}
        }
    }

    fn aggregate_confirmed(&mut self, name: &AggregateName, asker: Asker, now: Nanos) {
        let Some(aggregate) = self.aggregates.get_mut(name) else {
            return;
        };
        match asker {
            Asker::Client(client) => {
                let AggregateRecord {
                    name: own,
                    peer,
                    rate_bps,
                    burst_bytes,
                    marking,
                    class,
                    tag,
                    when_full,
                    emergency_percent,
                    ..
                } = aggregate.record.clone();
                let (tag_family, attempt) = (aggregate.tag_family, aggregate.attempt);
                let offer = Offer {
                    name: own,
                    rate_bps,
                    burst_bytes,
                    marking,
                    class,
                    tag,
                    when_full,
                    emergency_percent,
                    tag_family,
                    attempt,
                };
                let request = PeerRequest::OfferAggregate(offer);
                let ask = self.send(Subject::Aggregate(name.clone()), peer, request, now);
                if let Some(aggregate) = self.aggregates.get_mut(name) {
                    aggregate.phase = Phase::Offering { ask, client };
                }
            }
            Asker::Peers(tickets) => {
                let label = aggregate.record.label;
                self.activate_aggregate(name);
                for ticket in tickets {
                    self.answer_peer(ticket, PeerAnswer::AggregateAccepted { label });
                }
            }
        }
    }

    fn activate_aggregate(&mut self, name: &AggregateName) {
        if let Some(aggregate) = self.aggregates.get_mut(name) {
            aggregate.phase = Phase::Active;
            aggregate.record.state = AggregateState::Active;
            self.room = true;
        }
        self.persist_aggregate(name);
    }

    fn aggregate_not_installed(&mut self, name: &AggregateName, asker: Asker, error: &InstallError, now: Nanos) {
        let detail = format!("the data plane of {} did not take aggregate {name}: {error}", self.config.node);
        let refusal = Refusal::new(error.reason(), detail);
        let undoing = match asker {
            Asker::Client(client) => Undoing::refusing(Notice::SETTLED, client, refusal),
            Asker::Peers(tickets) => {
                if let Some(Aggregate { record, attempt, .. }) = self.aggregates.get(name) {
                    self.fences.close(&record.peer, Subject::Aggregate(name.clone()), *attempt);
                }
                for ticket in tickets {
                    self.refuse_peer(ticket, refusal.clone());
                }
                Undoing::new(Notice::SETTLED)
            }
        };
        self.undo(name, undoing, false, now);
    }

    pub(crate) fn aggregate_answered(
        &mut self,
        name: &AggregateName,
        ticket: u64,
        answer: Result<PeerAnswer, String>,
        now: Nanos,
    ) {
        let Some(aggregate) = self.aggregates.get_mut(name) else {
            return;
        };
        match &mut aggregate.phase {
            Phase::Offering { ask, client } if *ask == ticket => {
                let client = *client;
                self.offer_answered(name, client, answer, now);
            }
            Phase::Undoing(undoing) if undoing.notice.is_asked_by(ticket) => {
                if answer == Ok(PeerAnswer::AggregateWithdrawn) {
                    undoing.notice.settle();
                } else {
                    let wait = undoing.notice.failed(&self.config.timers);
                    self.set_timer(Subject::Aggregate(name.clone()), now.plus(wait));
                }
                self.undo_next(name, now);
            }
            Phase::Offering { .. }
            | Phase::Undoing(_)
            | Phase::Installing { .. }
            | Phase::Active
            | Phase::Restoring { .. } => {}
        }
    }

    fn offer_answered(&mut self, name: &AggregateName, client: u64, answer: Result<PeerAnswer, String>, now: Nanos) {
        let (notice, refusal) = match answer {
            Ok(PeerAnswer::AggregateAccepted { label }) => {
                let Some(aggregate) = self.aggregates.get_mut(name) else { return };
                match check_label(aggregate.record.tag, label) {
                    Ok(()) => {
                        aggregate.record.label = label;
                        return self.aggregate_accepted(name, client);
                    }
                    Err(why) => (Notice::DUE, unreachable(name, &format!("its answer has {why}"))),
                }
            }
            // It may be busy with this very aggregate: one that it took before it was started again.
            Ok(PeerAnswer::Refused { refusal }) if refusal.reason == Reason::Busy => (Notice::DUE, refusal),
            Ok(PeerAnswer::Refused { refusal }) => (Notice::SETTLED, refusal),
            Ok(other) => (Notice::DUE, unreachable(name, &format!("an answer that does not fit: {other:?}"))),
            Err(why) => (Notice::DUE, unreachable(name, &why)),
        };
        self.undo(name, Undoing::refusing(notice, client, refusal), true, now);
    }

    fn aggregate_accepted(&mut self, name: &AggregateName, client: u64) {
        self.activate_aggregate(name);
        if let Some(aggregate) = self.aggregates.get(name) {
            let answer = Answer::Aggregate { record: aggregate.record.clone(), created: true };
            self.answer(client, answer);
        }
    }

    /// Puts in force again what is missing of an aggregate that was active before a restart.
    pub(crate) fn reinstall_aggregate(&mut self, name: &AggregateName, missing: Vec<PolicyId>) {
        let Some(aggregate) = self.aggregates.get_mut(name) else {
            return;
        };
        aggregate.record.state = AggregateState::Establishing;
        let mut wanted = policies(&aggregate.record);
        wanted.retain(|(id, _)| missing.contains(id));
        let install = Some(self.install(Subject::Aggregate(name.clone()), wanted, Vec::new()));
        if let Some(aggregate) = self.aggregates.get_mut(name) {
            aggregate.phase = Phase::Restoring { install, missing };
        }
    }

    pub(crate) fn aggregate_timer(&mut self, name: &AggregateName, now: Nanos) {
        let Some(aggregate) = self.aggregates.get_mut(name) else {
            return;
        };
        match &mut aggregate.phase {
            Phase::Undoing(undoing) => {
                undoing.notice.again();
                self.undo_next(name, now);
            }
            Phase::Restoring { install: None, missing } => {
                let missing = std::mem::take(missing);
                self.reinstall_aggregate(name, missing);
            }
            Phase::Restoring { .. } | Phase::Installing { .. } | Phase::Offering { .. } | Phase::Active => {}
        }
    }
}

fn unreachable(name: &AggregateName, why: &str) -> Refusal {
    let detail = format!("the receiver of aggregate {name} did not confirm: {why}");
    Refusal::new(Reason::PeerUnreachable, detail)
}
