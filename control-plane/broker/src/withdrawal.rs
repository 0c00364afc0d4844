//! Withdrawal: an aggregate is given up at both ends, by its sender or because it could not be established.

use crate::aggregate::{Aggregate, Phase, busy};
use crate::broker::Broker;
use crate::event::Answer;
use crate::fence::Subject;
use crate::message::{PeerAnswer, PeerRequest};
use crate::name::{AggregateName, Nanos, NodeName};
use crate::notice::Notice;
use crate::record::{AggregateState, Change, Direction, FlowRecord};
use crate::refusal::{Reason, Refusal};

/// Giving an aggregate up: first here, then at the receiver.
pub(crate) struct Undoing {
    deinstall: Option<u64>,
    pub(crate) notice: Notice,
    /// Waits for both ends.
    client: Option<u64>,
    /// Is refused with this as soon as this end is clean.
    refused: Option<(u64, Refusal)>,
    /// Peers that asked for it.
    peers: Vec<u64>,
}

impl Undoing {
    pub(crate) const fn new(notice: Notice) -> Self {
        Self { deinstall: None, notice, client: None, refused: None, peers: Vec::new() }
    }

    /// Refuses a client as soon as this end is clean.
    pub(crate) fn refusing(notice: Notice, client: u64, refusal: Refusal) -> Self {
        Self { refused: Some((client, refusal)), ..Self::new(notice) }
    }
}

impl Broker {
    /// At the sender; only without sessions.
    pub(crate) fn delete_aggregate(&mut self, ticket: u64, name: &AggregateName, now: Nanos) -> Result<(), Refusal> {
        let Some(Aggregate { record, phase, .. }) = self.aggregates.get(name) else {
            let detail = format!("node {} has no aggregate {name}", self.config.node);
            return Err(Refusal::new(Reason::UnknownAggregate, detail).at("name"));
        };
        if record.direction == Direction::In {
            let allowed = format!("an aggregate that this node sends; {name} is given up at {}", record.peer);
            return Err(Refusal::invalid("name", name, allowed));
        }
        if !matches!(phase, Phase::Active | Phase::Restoring { install: None, .. }) {
            return Err(busy(name));
        }
        self.check_unused(name)?;
        let undoing = Undoing { client: Some(ticket), ..Undoing::new(Notice::DUE) };
        self.undo(name, undoing, true, now);
        Ok(())
    }

    fn check_unused(&self, name: &AggregateName) -> Result<(), Refusal> {
        let carries = |flows: &[FlowRecord]| flows.iter().any(|flow| flow.aggregate == *name);
        let used =
            self.sessions.values().filter(|session| carries(&session.record.flows)).count() + self.making_room_on(name);
        if used == 0 {
            return Ok(());
        }
        let detail = format!("aggregate {name} carries {used} sessions; end them first");
        Err(Refusal::new(Reason::AggregateInUse, detail).at("name"))
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
            Phase::Installing { .. } | Phase::Offering { .. } | Phase::Restoring { install: Some(_), .. } => {
                return Err(busy(&name));
            }
            Phase::Active | Phase::Restoring { install: None, .. } => {
                self.check_unused(&name)?;
                let undoing = Undoing { peers: vec![ticket], ..Undoing::new(Notice::SETTLED) };
                self.undo(&name, undoing, true, now);
            }
        }
        Ok(())
    }

    /// Starts giving an aggregate up. `installed` says whether its policies may be in force here.
    pub(crate) fn undo(&mut self, name: &AggregateName, mut undoing: Undoing, installed: bool, now: Nanos) {
        let Some(aggregate) = self.aggregates.get_mut(name) else {
            return;
        };
        aggregate.record.state = AggregateState::Releasing;
        let policies = aggregate.record.policies().rev().collect();
        self.persist_aggregate(name);
        if installed {
            undoing.deinstall = Some(self.deinstall(Subject::Aggregate(name.clone()), policies));
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
        let undoing = Undoing::new(notice);
        self.undo(name, undoing, installed, now);
    }

    pub(crate) fn aggregate_deinstalled(&mut self, name: &AggregateName, ticket: u64, now: Nanos) {
        if let Some(Aggregate { phase: Phase::Undoing(undoing), .. }) = self.aggregates.get_mut(name)
            && undoing.deinstall == Some(ticket)
        {
            undoing.deinstall = None;
            self.undo_next(name, now);
        }
    }

    pub(crate) fn undo_next(&mut self, name: &AggregateName, now: Nanos) {
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
        let unconfirmed = if undoing.notice.has_failed() { undoing.client.take() } else { None };
        let settled = undoing.notice.is_settled();
        let (client, peers) =
            if settled { (undoing.client.take(), std::mem::take(&mut undoing.peers)) } else { (None, Vec::new()) };
        if undoing.notice.is_due() {
            let request = PeerRequest::WithdrawAggregate { name: name.clone(), attempt };
            let ask = self.send(Subject::Aggregate(name.clone()), record.peer.clone(), request, now);
            if let Some(Aggregate { phase: Phase::Undoing(undoing), .. }) = self.aggregates.get_mut(name) {
                undoing.notice.asked(ask);
            }
        }
        if settled {
            self.clear_timer(&Subject::Aggregate(name.clone()));
            self.aggregates.remove(name);
            self.give_back_link(&record);
            if let (Direction::In, Some(label)) = (record.direction, record.label) {
                self.labels.give_back(label);
            }
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
