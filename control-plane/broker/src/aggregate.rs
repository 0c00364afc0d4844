//! Aggregates: reserved at both ends by their sender before any session, and given up by it (R-003-1, R-003-3).

use crate::broker::{Broker, TableName};
use crate::cost::Cost;
use crate::event::{AggregateRequest, Answer};
use crate::fence::Subject;
use crate::message::{PeerAnswer, PeerRequest};
use crate::name::{AggregateName, Nanos, NodeName, PolicyId};
use crate::notice::Notice;
use crate::policy::{InstallError, Policy};
use crate::pool::Pool;
use crate::record::{AggregateRecord, AggregateState, Change, Direction};
use crate::refusal::{PoolState, Reason, Refusal};

/// The smallest rate of an aggregate.
pub(crate) const RATE_BPS_MIN: u64 = 1_000;
/// Two full packets, so that half of the burst is at least one.
const BURST_BYTES_MIN: u32 = 2 * 1_500;
const DSCP_MAX: u8 = 63;

/// An aggregate on this node. It stays in the table, and holds its part of the link, until both ends are rid of it.
pub(crate) struct Aggregate {
    pub(crate) record: AggregateRecord,
    pub(crate) pool: Pool,
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
    /// Was active before a restart and is being installed again; `None` while waiting to try once more.
    Restoring { install: Option<u64> },
    /// Being given up.
    Undoing(Box<Undoing>),
}

pub(crate) enum Asker {
    Client(u64),
    Peers(Vec<u64>),
}

/// Giving an aggregate up: first here, then at the receiver.
pub(crate) struct Undoing {
    deinstall: Option<u64>,
    notice: Notice,
    /// Waits for both ends.
    client: Option<u64>,
    /// Is refused with this as soon as this end is clean.
    refused: Option<(u64, Refusal)>,
    /// Peers that asked for it.
    peers: Vec<u64>,
}

impl Aggregate {
    pub(crate) fn new(record: AggregateRecord, attempt: u64, phase: Phase) -> Self {
        // The other half of the burst pays for credit that the data plane caches per CPU.
        let burst_bytes = u64::from(record.burst_bytes / 2);
        let pool = Pool::new(Cost {
            rate_bps: record.rate_bps,
            burst_bytes,
        });
        Self {
            record,
            pool,
            attempt,
            phase,
        }
    }

    pub(crate) fn pool_state(&self, node: &NodeName) -> PoolState {
        self.pool.state(format!("aggregate {}", self.record.name), node)
    }
}

fn policy(record: &AggregateRecord) -> (PolicyId, Policy) {
    let AggregateRecord {
        peer,
        rate_bps,
        burst_bytes,
        dscp,
        ..
    } = record.clone();
    let policy = match record.direction {
        Direction::Out => Policy::AggregateOut {
            peer,
            rate_bps,
            burst_bytes,
            dscp,
        },
        Direction::In => Policy::AggregateIn {
            peer,
            rate_bps,
            burst_bytes,
        },
    };
    (record.policy, policy)
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

fn busy(name: &AggregateName) -> Refusal {
    Refusal::new(
        Reason::Busy,
        format!("aggregate {name} is being established or released; try again"),
    )
}

fn reused(record: &AggregateRecord, node: &NodeName) -> Refusal {
    let AggregateRecord {
        name,
        peer,
        direction,
        rate_bps,
        burst_bytes,
        dscp,
        ..
    } = record;
    let way = match direction {
        Direction::Out => "to",
        Direction::In => "from",
    };
    let detail = format!(
        "{name} at {node} is an aggregate {way} {peer} with {rate_bps} bit/s, {burst_bytes} bytes, DSCP {dscp}; take another name"
    );
    Refusal::new(Reason::AggregateNameReused, detail).at("name")
}

impl Broker {
    fn persist_aggregate(&mut self, name: &AggregateName) {
        if let Some(aggregate) = self.aggregates.get(name) {
            let record = aggregate.record.clone();
            self.persist(Change::PutAggregate(record));
        }
    }

    /// At the sender.
    pub(crate) fn create_aggregate(&mut self, ticket: u64, request: AggregateRequest) -> Result<(), Refusal> {
        let AggregateRequest {
            name,
            peer,
            rate_bps,
            burst_bytes,
            dscp,
        } = request;
        if let Some(Aggregate { record, phase, .. }) = self.aggregates.get(&name) {
            let same = record.direction == Direction::Out
                && (&record.peer, record.rate_bps, record.burst_bytes, record.dscp)
                    == (&peer, rate_bps, burst_bytes, dscp);
            return match phase {
                _ if !same => Err(reused(record, &self.config.node)),
                Phase::Active => {
                    let answer = Answer::Aggregate {
                        record: record.clone(),
                        created: false,
                    };
                    self.answer(ticket, answer);
                    Ok(())
                }
                Phase::Installing { .. } | Phase::Offering { .. } | Phase::Restoring { .. } | Phase::Undoing(_) => {
                    Err(busy(&name))
                }
            };
        }
        if dscp > DSCP_MAX {
            return Err(Refusal::invalid("dscp", dscp, format!("0 to {DSCP_MAX}")));
        }
        let policy = self.next_policy();
        let (direction, state) = (Direction::Out, AggregateState::Establishing);
        let record = AggregateRecord {
            name,
            peer,
            direction,
            rate_bps,
            burst_bytes,
            dscp,
            policy,
            state,
        };
        self.establish(record, policy.0, Asker::Client(ticket))
    }

    /// Holds the link and installs: the same at both ends.
    fn establish(&mut self, record: AggregateRecord, attempt: u64, asker: Asker) -> Result<(), Refusal> {
        let (_, rate_bps_max) = self.link_to(&record.peer, record.direction)?;
        check_values(record.rate_bps, rate_bps_max, record.burst_bytes)?;
        if self.aggregates.len() >= self.config.limits.aggregates_max {
            return Err(self.full(TableName::Aggregates));
        }
        self.hold_link(&record)?;
        let name = record.name.clone();
        self.persist(Change::PutAggregate(record.clone()));
        let install = self.install(Subject::Aggregate(name.clone()), vec![policy(&record)]);
        let phase = Phase::Installing { install, asker };
        self.aggregates.insert(name, Aggregate::new(record, attempt, phase));
        Ok(())
    }

    /// At the sender; only without sessions.
    pub(crate) fn delete_aggregate(&mut self, ticket: u64, name: &AggregateName, now: Nanos) -> Result<(), Refusal> {
        let Some(Aggregate { record, phase, .. }) = self.aggregates.get(name) else {
            let detail = format!("node {} has no aggregate {name}", self.config.node);
            return Err(Refusal::new(Reason::UnknownAggregate, detail).at("name"));
        };
        if record.direction == Direction::In {
            let allowed = format!(
                "an aggregate that this node sends; {name} is given up at {}",
                record.peer
            );
            return Err(Refusal::invalid("name", name, allowed));
        }
        if !matches!(phase, Phase::Active | Phase::Restoring { install: None }) {
            return Err(busy(name));
        }
        self.check_unused(name)?;
        let undoing = Undoing {
            deinstall: None,
            notice: Notice::DUE,
            client: Some(ticket),
            refused: None,
            peers: Vec::new(),
        };
        self.undo(name, undoing, true, now);
        Ok(())
    }

    fn check_unused(&self, name: &AggregateName) -> Result<(), Refusal> {
        let carries = |flows: &[crate::record::FlowRecord]| flows.iter().any(|flow| flow.aggregate == *name);
        let used = self
            .sessions
            .values()
            .filter(|session| carries(&session.record.flows))
            .count();
        if used == 0 {
            return Ok(());
        }
        let detail = format!("aggregate {name} carries {used} sessions; end them first");
        Err(Refusal::new(Reason::AggregateInUse, detail).at("name"))
    }

    /// At the receiver: `values` are the rate and the burst.
    pub(crate) fn offer_received(
        &mut self,
        ticket: u64,
        peer: NodeName,
        name: AggregateName,
        (rate_bps, burst_bytes): (u64, u32),
        attempt: u64,
    ) -> Result<(), Refusal> {
        if !self.fences.is_open(&peer, Subject::Aggregate(name.clone()), attempt) {
            let detail = format!("this offer of aggregate {name} was withdrawn");
            return Err(Refusal::new(Reason::StaleEpoch, detail));
        }
        if let Some(Aggregate {
            record,
            phase,
            attempt: known,
            ..
        }) = self.aggregates.get_mut(&name)
        {
            let same = record.direction == Direction::In
                && (&record.peer, record.rate_bps, record.burst_bytes) == (&peer, rate_bps, burst_bytes);
            if !same {
                return Err(reused(record, &self.config.node));
            }
            return match phase {
                Phase::Active => {
                    *known = attempt.max(*known);
                    self.answer_peer(ticket, PeerAnswer::AggregateAccepted);
                    Ok(())
                }
                Phase::Installing {
                    asker: Asker::Peers(tickets),
                    ..
                } => {
                    *known = attempt.max(*known);
                    tickets.push(ticket);
                    Ok(())
                }
                Phase::Installing { .. } | Phase::Offering { .. } | Phase::Restoring { .. } | Phase::Undoing(_) => {
                    Err(busy(&name))
                }
            };
        }
        let policy = self.next_policy();
        let (direction, state) = (Direction::In, AggregateState::Establishing);
        let record = AggregateRecord {
            name,
            peer,
            direction,
            rate_bps,
            burst_bytes,
            dscp: 0,
            policy,
            state,
        };
        self.establish(record, attempt, Asker::Peers(vec![ticket]))
    }

    /// At the receiver. What it does not know, or knows from somebody else, is withdrawn already.
    pub(crate) fn withdrawal_received(
        &mut self,
        ticket: u64,
        peer: &NodeName,
        name: AggregateName,
        attempt: u64,
        now: Nanos,
    ) -> Result<(), Refusal> {
        self.fences.close(peer, Subject::Aggregate(name.clone()), attempt);
        let meant = self.aggregates.get_mut(&name).filter(|aggregate| {
            let record = &aggregate.record;
            record.direction == Direction::In && record.peer == *peer && attempt >= aggregate.attempt
        });
        let Some(aggregate) = meant else {
            self.answer_peer(ticket, PeerAnswer::AggregateWithdrawn);
            return Ok(());
        };
        match &mut aggregate.phase {
            Phase::Undoing(undoing) => undoing.peers.push(ticket),
            // The sender asks again; until then the installation has come to its end.
            Phase::Installing { .. } | Phase::Offering { .. } | Phase::Restoring { install: Some(_) } => {
                return Err(busy(&name));
            }
            Phase::Active | Phase::Restoring { install: None } => {
                self.check_unused(&name)?;
                let notice = Notice::SETTLED;
                let undoing = Undoing {
                    deinstall: None,
                    notice,
                    client: None,
                    refused: None,
                    peers: vec![ticket],
                };
                self.undo(&name, undoing, true, now);
            }
        }
        Ok(())
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
            Phase::Restoring { install } if *install == Some(ticket) => match outcome {
                Ok(()) => {
                    aggregate.phase = Phase::Active;
                    aggregate.record.state = AggregateState::Active;
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
                    peer,
                    rate_bps,
                    burst_bytes,
                    ..
                } = aggregate.record.clone();
                let attempt = aggregate.attempt;
                let request = PeerRequest::OfferAggregate {
                    name: name.clone(),
                    rate_bps,
                    burst_bytes,
                    attempt,
                };
                let ask = self.send(Subject::Aggregate(name.clone()), peer, request, now);
                if let Some(aggregate) = self.aggregates.get_mut(name) {
                    aggregate.phase = Phase::Offering { ask, client };
                }
            }
            Asker::Peers(tickets) => {
                self.activate_aggregate(name);
                for ticket in tickets {
                    self.answer_peer(ticket, PeerAnswer::AggregateAccepted);
                }
            }
        }
    }

    fn activate_aggregate(&mut self, name: &AggregateName) {
        if let Some(aggregate) = self.aggregates.get_mut(name) {
            aggregate.phase = Phase::Active;
            aggregate.record.state = AggregateState::Active;
        }
        self.persist_aggregate(name);
    }

    fn aggregate_not_installed(&mut self, name: &AggregateName, asker: Asker, error: &InstallError, now: Nanos) {
        let detail = format!(
            "the data plane of {} did not take aggregate {name}: {error}",
            self.config.node
        );
        let refusal = Refusal::new(Reason::InstallFailed, detail);
        let mut undoing = Undoing {
            deinstall: None,
            notice: Notice::SETTLED,
            client: None,
            refused: None,
            peers: Vec::new(),
        };
        match asker {
            Asker::Client(client) => undoing.refused = Some((client, refusal)),
            Asker::Peers(tickets) => {
                for ticket in tickets {
                    self.refuse_peer(ticket, refusal.clone());
                }
            }
        }
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
            Ok(PeerAnswer::AggregateAccepted) => {
                self.activate_aggregate(name);
                if let Some(aggregate) = self.aggregates.get(name) {
                    let answer = Answer::Aggregate {
                        record: aggregate.record.clone(),
                        created: true,
                    };
                    self.answer(client, answer);
                }
                return;
            }
            Ok(PeerAnswer::Refused { refusal }) => (Notice::SETTLED, refusal),
            Ok(other) => (
                Notice::DUE,
                unreachable(name, &format!("an answer that does not fit: {other:?}")),
            ),
            Err(why) => (Notice::DUE, unreachable(name, &why)),
        };
        let refused = Some((client, refusal));
        let undoing = Undoing {
            deinstall: None,
            notice,
            client: None,
            refused,
            peers: Vec::new(),
        };
        self.undo(name, undoing, true, now);
    }

    /// Starts giving an aggregate up. `installed` says whether its policy may be in force here.
    fn undo(&mut self, name: &AggregateName, mut undoing: Undoing, installed: bool, now: Nanos) {
        let Some(aggregate) = self.aggregates.get_mut(name) else {
            return;
        };
        aggregate.record.state = AggregateState::Releasing;
        let policy = aggregate.record.policy;
        self.persist_aggregate(name);
        if installed {
            undoing.deinstall = Some(self.deinstall(Subject::Aggregate(name.clone()), vec![policy]));
        }
        if let Some(aggregate) = self.aggregates.get_mut(name) {
            aggregate.phase = Phase::Undoing(Box::new(undoing));
        }
        self.undo_next(name, now);
    }

    /// Gives up what a restart found half done.
    pub(crate) fn undo_restored(&mut self, name: &AggregateName, installed: bool, now: Nanos) {
        let Some(aggregate) = self.aggregates.get(name) else {
            return;
        };
        let notice = match aggregate.record.direction {
            Direction::Out => Notice::DUE,
            Direction::In => Notice::SETTLED,
        };
        let undoing = Undoing {
            deinstall: None,
            notice,
            client: None,
            refused: None,
            peers: Vec::new(),
        };
        self.undo(name, undoing, installed, now);
    }

    /// Puts an aggregate in force again that was active before a restart.
    pub(crate) fn reinstall_aggregate(&mut self, name: &AggregateName) {
        let Some(aggregate) = self.aggregates.get_mut(name) else {
            return;
        };
        aggregate.record.state = AggregateState::Establishing;
        let policy = policy(&aggregate.record);
        let install = Some(self.install(Subject::Aggregate(name.clone()), vec![policy]));
        if let Some(aggregate) = self.aggregates.get_mut(name) {
            aggregate.phase = Phase::Restoring { install };
        }
    }

    pub(crate) fn aggregate_deinstalled(&mut self, name: &AggregateName, ticket: u64, now: Nanos) {
        if let Some(Aggregate {
            phase: Phase::Undoing(undoing),
            ..
        }) = self.aggregates.get_mut(name)
            && undoing.deinstall == Some(ticket)
        {
            undoing.deinstall = None;
            self.undo_next(name, now);
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
            Phase::Restoring { install: None } => self.reinstall_aggregate(name),
            Phase::Restoring { .. } | Phase::Installing { .. } | Phase::Offering { .. } | Phase::Active => {}
        }
    }

    fn undo_next(&mut self, name: &AggregateName, now: Nanos) {
        let Some(aggregate) = self.aggregates.get_mut(name) else {
            return;
        };
        let (record, attempt) = (aggregate.record.clone(), aggregate.attempt);
        let Phase::Undoing(undoing) = &mut aggregate.phase else {
            return;
        };
        if undoing.deinstall.is_some() {
            return;
        }
        let refused = undoing.refused.take();
        let unconfirmed = if undoing.notice.has_failed() {
            undoing.client.take()
        } else {
            None
        };
        let settled = undoing.notice.is_settled();
        let (client, peers) = if settled {
            (undoing.client.take(), std::mem::take(&mut undoing.peers))
        } else {
            (None, Vec::new())
        };
        if undoing.notice.is_due() {
            let request = PeerRequest::WithdrawAggregate {
                name: name.clone(),
                attempt,
            };
            let ask = self.send(Subject::Aggregate(name.clone()), record.peer.clone(), request, now);
            if let Some(Aggregate {
                phase: Phase::Undoing(undoing),
                ..
            }) = self.aggregates.get_mut(name)
            {
                undoing.notice.asked(ask);
            }
        }
        if settled {
            self.clear_timer(&Subject::Aggregate(name.clone()));
            self.aggregates.remove(name);
            self.give_back_link(&record);
            self.persist(Change::DeleteAggregate(name.clone()));
        }
        if let Some((client, refusal)) = refused {
            self.refuse(client, refusal);
        }
        if let Some(client) = unconfirmed {
            let detail = format!(
                "aggregate {name} is given up here, but {} has not confirmed; it is asked until it does",
                record.peer
            );
            self.refuse(client, Refusal::new(Reason::PeerUnreachable, detail));
        }
        if let Some(client) = client {
            self.answer(client, Answer::AggregateDeleted);
        }
        for peer in peers {
            self.answer_peer(peer, PeerAnswer::AggregateWithdrawn);
        }
    }
}

fn unreachable(name: &AggregateName, why: &str) -> Refusal {
    let detail = format!("the receiver of aggregate {name} did not confirm: {why}");
    Refusal::new(Reason::PeerUnreachable, detail)
}
