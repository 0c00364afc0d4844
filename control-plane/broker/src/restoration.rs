//! Restoration: what an earlier life of this node kept is taken up again, or taken down properly.

use std::collections::BTreeSet;

use crate::aggregate::{Aggregate, Phase as AggregatePhase};
use crate::broker::Broker;
use crate::name::{AggregateName, Nanos, PolicyId, SessionId};
use crate::record::{AggregateRecord, AggregateState, Direction, FlowRecord, SessionRecord, SessionState, Side};
use crate::release::Ending;
use crate::session::{Phase, Session};
use crate::usage;

impl Broker {
    /// Takes up what the store has, once and before the first input; then poll. `installed` is what the data plane has
    /// in force. What was active stays active and is installed again where it is not; what was half done is taken down
    /// here and at the peer; a policy that no record knows is deinstalled.
    pub fn restore(
        &mut self,
        aggregates: Vec<AggregateRecord>,
        sessions: Vec<SessionRecord>,
        installed: &BTreeSet<PolicyId>,
        now: Nanos,
    ) {
        let of_aggregates = aggregates.iter().flat_map(AggregateRecord::policies);
        // Of an ended session all is recorded: what is left of it in the data plane only has to go.
        let not_ended = sessions.iter().filter(|record| record.state != SessionState::Ended);
        let of_sessions = not_ended.flat_map(|record| record.flows.iter().map(|flow| flow.policy));
        let known: BTreeSet<PolicyId> = of_aggregates.chain(of_sessions).collect();
        let orphans: Vec<PolicyId> = installed.difference(&known).copied().collect();
        if !orphans.is_empty() {
            self.deinstall_orphans(orphans);
        }
        let names: Vec<AggregateName> = aggregates.into_iter().map(|record| self.adopt_aggregate(record)).collect();
        let ids = self.adopt_sessions(sessions, installed);
        for name in &names {
            self.resume_aggregate(name, installed, now);
        }
        for id in &ids {
            self.resume_session(id, installed, now);
        }
        self.restored(now);
    }

    fn adopt_aggregate(&mut self, record: AggregateRecord) -> AggregateName {
        self.adopt_link(&record);
        if let (Direction::In, Some(label)) = (record.direction, record.label)
            && !self.labels.adopt(label)
        {
            tracing::error!(aggregate = %record.name, "a kept label does not fit in this node's table");
        }
        let attempt = match record.direction {
            Direction::Out => record.policy.0,
            Direction::In => 0,
        };
        let name = record.name.clone();
        let tag_family = self.tag_family(&record.peer);
        self.aggregates.insert(name.clone(), Aggregate::new(record, tag_family, attempt, AggregatePhase::Active));
        name
    }

    fn resume_aggregate(&mut self, name: &AggregateName, installed: &BTreeSet<PolicyId>, now: Nanos) {
        let Some(aggregate) = self.aggregates.get(name) else {
            return;
        };
        let is_missing = |id: &PolicyId| !installed.contains(id);
        let missing: Vec<_> = aggregate.record.policies().filter(is_missing).collect();
        match aggregate.record.state {
            AggregateState::Active if missing.is_empty() => {}
            AggregateState::Active => self.reinstall_aggregate(name, missing),
            AggregateState::Establishing | AggregateState::Releasing => {
                let in_force = aggregate.record.policies().any(|id| installed.contains(&id));
                self.undo_restored(name, in_force, now);
            }
        }
    }

    fn adopt_sessions(&mut self, sessions: Vec<SessionRecord>, installed: &BTreeSet<PolicyId>) -> Vec<SessionId> {
        let (mut ended, live): (Vec<_>, Vec<_>) =
            sessions.into_iter().partition(|record| record.state == SessionState::Ended);
        ended.sort_by(|a, b| (a.since, &a.id).cmp(&(b.since, &b.id)));
        for record in ended {
            self.keep_ended(record);
        }
        let mut ids = Vec::with_capacity(live.len());
        for record in live {
            if record.state == SessionState::Waiting {
                self.adopt_watch(record);
                continue;
            }
            ids.push(record.id.clone());
            if record.wait.is_some() {
                self.called.insert(record.id.clone());
            }
            let attempt = match record.side {
                Side::First => record.flows.first().map_or(0, |flow| flow.policy.0),
                Side::Second => record.attempt,
            };
            let unconfirmed = self.is_unconfirmed(&record);
            if !unconfirmed {
                self.adopt_flows(&record);
            }
            let in_force = record.flows.iter().map(|flow| flow.policy).filter(|policy| installed.contains(policy));
            let mut session = Session { in_force: in_force.collect(), ..Session::new(record, attempt, Phase::Active) };
            if unconfirmed {
                let ending = Ending::unconfirmed(&session.record);
                if ending.is_reported() {
                    session.record.state = SessionState::Ended;
                }
                session.phase = Phase::Ending(Box::new(ending));
            }
            self.sessions.insert(session.record.id.clone(), session);
        }
        ids
    }

    /// Clean here, while the peer had not confirmed: it was stored as releasing with all of its readings. What it held
    /// may be another session's by now.
    fn is_unconfirmed(&self, record: &SessionRecord) -> bool {
        record.state == SessionState::Releasing && usage::is_complete(record, &self.config.node)
    }

    /// Whether the data plane carries a flow, by its own policy or by those of its aggregate.
    fn is_carried(&self, flow: &FlowRecord, installed: &BTreeSet<PolicyId>) -> bool {
        if flow.has_policy() {
            return installed.contains(&flow.policy);
        }
        let aggregate = self.aggregates.get(&flow.aggregate);
        aggregate.is_some_and(|aggregate| aggregate.record.policies().all(|id| installed.contains(&id)))
    }

    fn resume_session(&mut self, id: &SessionId, installed: &BTreeSet<PolicyId>, now: Nanos) {
        let Some(session) = self.sessions.get(id) else { return };
        if session.is_ending() {
            return self.end_next(id, now);
        }
        let is_carried = session.record.flows.iter().all(|flow| self.is_carried(flow, installed));
        match session.record.state {
            SessionState::Active if session.record.schedule.is_over(now) => self.end_active(id, now),
            SessionState::Active if is_carried => {
                self.await_end(id);
                self.resume_rates(id, now);
            }
            SessionState::Active => {
                if self.provision(id) {
                    self.await_end(id);
                } else {
                    tracing::error!(session = %id, "an active session has lost its aggregate; it is ended");
                    self.end_active(id, now);
                }
            }
            // What was being started is started again.
            SessionState::Booked | SessionState::Installing | SessionState::Committing if session.record.booked => {
                if let Some(session) = self.sessions.get_mut(id) {
                    session.phase = Phase::Booked { commits: Vec::new() };
                    session.record.state = SessionState::Booked;
                }
                self.await_start(id, now);
                self.resume_rates(id, now);
            }
            SessionState::Waiting
            | SessionState::Offered
            | SessionState::Held
            | SessionState::Booked
            | SessionState::Installing
            | SessionState::Committing
            | SessionState::Releasing
            | SessionState::Ended => {
                let ending = Ending::restored(&session.record);
                self.end(id, ending, now);
            }
        }
    }
}
