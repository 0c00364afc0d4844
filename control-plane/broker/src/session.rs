//! Sessions: what one is on this node, and where it is in its life (R-004-9, R-004-16).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::broker::Broker;
use crate::extension::EndChange;
use crate::fence::Subject;
use crate::message::PeerAnswer;
use crate::name::{Nanos, NodeName, PolicyId, SessionId};
use crate::policy::InstallError;
use crate::rate_change::RateWork;
use crate::record::{Change, Direction, FlowRecord, SessionRecord, SessionState, Side};
use crate::refusal::{Reason, Refusal};
use crate::release::Ending;

/// A session that has not ended at both ends.
pub(crate) struct Session {
    pub(crate) record: SessionRecord,
    /// The first side's, that both sides know it by; 0 if that was before a restart.
    pub(crate) attempt: u64,
    pub(crate) phase: Phase,
    /// The installation whose outcome is open.
    pub(crate) install: Option<u64>,
    /// First side: another end that the second was asked for.
    pub(crate) change: Option<EndChange>,
    /// Second side: the latest change of its end; 0 if there was none since the start.
    pub(crate) changed: u64,
    /// What is being done about other rates of its flows.
    pub(crate) rates: RateWork,
    /// Its policies that are in force.
    pub(crate) in_force: BTreeSet<PolicyId>,
}

pub(crate) enum Phase {
    /// First side: the second side was asked to hold.
    Holding { ask: u64, client: u64 },
    /// First side: it has waited, and the second side was asked to hold.
    Calling { ask: u64 },
    /// First side: held at both ends for the client to take, or until the timer runs out.
    Offered,
    /// First side: the second side was asked to keep it for its start.
    Booking { ask: u64, client: u64 },
    /// Second side: held until the commit comes or the timer runs out.
    Held,
    /// Confirmed at both ends, and waiting for its start; at the second side commits that came before it.
    Booked { commits: Vec<u64> },
    /// Being installed here; a client is to be answered at the first side, or nobody for a booking, commits at the second.
    Installing { askers: Vec<u64> },
    /// First side: the second side was asked to commit.
    Committing { ask: u64, client: Option<u64> },
    /// Installed and confirmed.
    Active,
    /// Being ended, or ended here and not confirmed by the peer.
    Ending(Box<Ending>),
}

impl Session {
    pub(crate) fn new(record: SessionRecord, attempt: u64, phase: Phase) -> Self {
        Self {
            record,
            attempt,
            phase,
            install: None,
            change: None,
            changed: 0,
            rates: RateWork::default(),
            in_force: BTreeSet::new(),
        }
    }

    /// Its policies that are in force and go one way.
    pub(crate) fn in_force(&self, direction: Direction) -> Vec<PolicyId> {
        let flows = self.record.flows.iter().filter(|flow| flow.direction == direction);
        flows.map(|flow| flow.policy).filter(|policy| self.in_force.contains(policy)).collect()
    }

    /// Whether this is the second side of what the first side, `peer`, knows by this attempt.
    pub(crate) fn is_of_first_side(&self, peer: &NodeName, attempt: u64) -> bool {
        let current = self.attempt == 0 || self.attempt == attempt;
        self.record.side == Side::Second && self.record.peer == *peer && current
    }

    pub(crate) const fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Ending(_))
    }
}

/// Sessions that have ended at both ends, kept so that a repeated request gets the same answer.
pub(crate) struct Ended {
    sessions_max: usize,
    records: BTreeMap<SessionId, SessionRecord>,
    order: VecDeque<SessionId>,
}

impl Ended {
    pub(crate) const fn new(sessions_max: usize) -> Self {
        Self { sessions_max, records: BTreeMap::new(), order: VecDeque::new() }
    }

    /// Keeps one more, and says which ones had to go.
    pub(crate) fn keep(&mut self, record: SessionRecord) -> Vec<SessionId> {
        self.forget(&record.id);
        self.order.push_back(record.id.clone());
        self.records.insert(record.id.clone(), record);
        let excess = self.order.len().saturating_sub(self.sessions_max);
        let gone: Vec<SessionId> = self.order.drain(..excess).collect();
        for id in &gone {
            self.records.remove(id);
        }
        gone
    }

    pub(crate) fn forget(&mut self, id: &SessionId) {
        if self.records.remove(id).is_some() {
            self.order.retain(|kept| kept != id);
        }
    }

    pub(crate) fn get(&self, id: &SessionId) -> Option<&SessionRecord> {
        self.records.get(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &SessionRecord> {
        self.order.iter().filter_map(|id| self.records.get(id))
    }
}

pub(crate) fn unknown_session(id: &SessionId, node: &impl std::fmt::Display) -> Refusal {
    Refusal::new(Reason::UnknownSession, format!("node {node} has no session {id}")).at("id")
}

pub(crate) fn session_busy(id: &SessionId) -> Refusal {
    Refusal::new(Reason::Busy, format!("session {id} is being set up or released; try again"))
}

pub(crate) fn session_id_reused(id: &SessionId, node: &impl std::fmt::Display) -> Refusal {
    let detail = format!("{id} is another session on node {node}; take another id");
    Refusal::new(Reason::SessionIdReused, detail).at("id")
}

impl Broker {
    pub(crate) fn persist_session(&mut self, id: &SessionId) {
        if let Some(session) = self.sessions.get(id) {
            let record = session.record.clone();
            self.persist(Change::PutSession(record));
        }
    }

    pub(crate) fn set_session_state(&mut self, id: &SessionId, state: SessionState) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.record.state = state;
            let record = session.record.clone();
            self.persist(Change::PutSession(record));
        }
    }

    /// Keeps an ended session, and forgets the oldest where there are too many.
    pub(crate) fn keep_ended(&mut self, record: SessionRecord) {
        for gone in self.ended.keep(record) {
            self.persist(Change::DeleteSession(gone));
        }
    }

    /// Installs the policies of a session that are not in force, incoming flows before outgoing ones, so that no packet
    /// goes out that cannot come back. Of flows that come in without a policy of their own the terminals must be reached. False if there is
    /// one whose aggregate is gone.
    pub(crate) fn provision(&mut self, id: &SessionId) -> bool {
        let Some(session) = self.sessions.get(id) else {
            return false;
        };
        let mut policies = Vec::new();
        let mut terminals = BTreeSet::new();
        for direction in [Direction::In, Direction::Out] {
            for flow in session.record.flows.iter().filter(|flow| flow.direction == direction) {
                if !flow.has_policy() {
                    terminals.insert(flow.endpoints.destination.ip());
                    continue;
                }
                if session.in_force.contains(&flow.policy) {
                    continue;
                }
                let meter = session.record.installed_meter(flow);
                let Some(policy) = self.flow_policy(&FlowRecord { meter, ..flow.clone() }) else {
                    return false;
                };
                policies.push((flow.policy, policy));
            }
        }
        let install = self.install(Subject::Session(id.clone()), policies, terminals.into_iter().collect());
        if let Some(session) = self.sessions.get_mut(id) {
            session.install = Some(install);
        }
        true
    }

    /// The session is up here from now on, and in the ledger.
    pub(crate) fn activate(&mut self, id: &SessionId, now: Nanos) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        session.phase = Phase::Active;
        // 0 marks a session that never came up.
        session.record.since = now.max(Nanos(1));
        session.record.failure = None;
        self.set_session_state(id, SessionState::Active);
        self.record_start(id, now);
        self.await_end(id);
    }

    /// Wakes at the session's end, and for nothing before.
    pub(crate) fn await_end(&mut self, id: &SessionId) {
        let subject = Subject::Session(id.clone());
        match self.sessions.get(id).and_then(|session| session.record.schedule.ends_at) {
            Some(at) => self.set_timer(subject, at),
            None => self.clear_timer(&subject),
        }
    }

    /// Its end has come before it was up.
    fn end_early(&mut self, id: &SessionId, now: Nanos) {
        let refusal = Refusal::new(Reason::PeerUnreachable, format!("the end of session {id} came before it was up"));
        let Some(session) = self.sessions.get_mut(id) else { return };
        let (client, commits) = match &mut session.phase {
            Phase::Holding { client, .. } | Phase::Booking { client, .. } => (Some(*client), Vec::new()),
            Phase::Committing { client, .. } => (*client, Vec::new()),
            Phase::Installing { askers } if session.record.side == Side::First => (askers.first().copied(), Vec::new()),
            Phase::Installing { askers } => (None, std::mem::take(askers)),
            Phase::Calling { .. } | Phase::Offered => return self.lapse_offer(id, now),
            Phase::Held | Phase::Booked { .. } | Phase::Active | Phase::Ending(_) => return,
        };
        for commit in commits {
            self.refuse_peer(commit, refusal.clone());
        }
        match client {
            Some(client) => self.give_up(id, client, refusal, now),
            None if self.sessions.get(id).is_some_and(|session| session.record.booked) => {
                self.fail_booking(id, refusal, now);
            }
            None => self.lapse(id, now),
        }
    }

    pub(crate) fn session_installed(
        &mut self,
        id: &SessionId,
        ticket: u64,
        outcome: Result<(), InstallError>,
        now: Nanos,
    ) {
        let Some(session) = self.sessions.get_mut(id).filter(|session| session.install == Some(ticket)) else {
            return;
        };
        session.install = None;
        self.ending_installs.remove(id);
        if outcome.is_ok() {
            let with_policy = session.record.flows.iter().filter(|flow| flow.has_policy());
            session.in_force = with_policy.map(|flow| flow.policy).collect();
        }
        match &mut session.phase {
            Phase::Installing { askers } => {
                let askers = std::mem::take(askers);
                match outcome {
                    Ok(()) => self.provisioned(id, &askers, now),
                    Err(error) => self.not_provisioned(id, &askers, &error, now),
                }
            }
            Phase::Ending(_) => self.end_next(id, now),
            Phase::Active => {
                if let Err(error) = outcome {
                    tracing::error!(session = %id, %error, "a session could not be installed again; it is ended");
                    self.end_active(id, now);
                } else {
                    self.resume_rates(id, now);
                    self.resume_second_side(id, now);
                }
            }
            Phase::Holding { .. }
            | Phase::Calling { .. }
            | Phase::Offered
            | Phase::Booking { .. }
            | Phase::Held
            | Phase::Booked { .. }
            | Phase::Committing { .. } => {}
        }
    }

    pub(crate) fn session_answered(
        &mut self,
        id: &SessionId,
        ticket: u64,
        answer: Result<PeerAnswer, String>,
        now: Nanos,
    ) {
        let Some(session) = self.sessions.get(id) else { return };
        if session.is_change_asked_by(ticket) {
            return self.change_answered(id, answer);
        }
        match &session.phase {
            Phase::Holding { ask, client } if *ask == ticket => self.hold_answered(id, *client, answer, now),
            Phase::Calling { ask } if *ask == ticket => self.call_answered(id, answer, now),
            Phase::Booking { ask, client } if *ask == ticket => self.book_answered(id, *client, answer, now),
            Phase::Committing { ask, client } if *ask == ticket => self.commit_answered(id, *client, answer, now),
            Phase::Ending(_) => self.release_answered(id, ticket, answer, now),
            Phase::Holding { .. }
            | Phase::Calling { .. }
            | Phase::Offered
            | Phase::Booking { .. }
            | Phase::Committing { .. }
            | Phase::Held
            | Phase::Booked { .. }
            | Phase::Installing { .. }
            | Phase::Active => {}
        }
    }

    pub(crate) fn session_timer(&mut self, id: &SessionId, now: Nanos) {
        match self.sessions.get(id).map(|session| &session.phase) {
            Some(Phase::Held) => self.lapse(id, now),
            Some(Phase::Booked { .. }) => self.booking_timer(id, now),
            Some(Phase::Active) => self.end_active(id, now),
            Some(Phase::Ending(_)) => self.retry_release(id, now),
            Some(
                Phase::Holding { .. }
                | Phase::Calling { .. }
                | Phase::Offered
                | Phase::Booking { .. }
                | Phase::Installing { .. }
                | Phase::Committing { .. },
            ) => self.end_early(id, now),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Schedule;

    fn record(id: &str) -> SessionRecord {
        let (id, peer) = (id.parse().unwrap(), "b".parse().unwrap());
        let held = SessionRecord::held(id, Side::First, peer, Schedule::OPEN, Vec::new());
        SessionRecord { state: SessionState::Ended, since: Nanos(1), ..held }
    }

    #[test]
    fn the_oldest_ended_session_goes_first() {
        let mut ended = Ended::new(2);
        assert!(ended.keep(record("s")).is_empty());
        assert!(ended.keep(record("t")).is_empty());
        assert!(ended.keep(record("s")).is_empty());
        assert_eq!(ended.keep(record("u")), ["t".parse().unwrap()]);
        let kept: Vec<&str> = ended.iter().map(|record| record.id.as_str()).collect();
        assert_eq!(kept, ["s", "u"]);
        assert!(ended.get(&"t".parse().unwrap()).is_none());
    }
}
