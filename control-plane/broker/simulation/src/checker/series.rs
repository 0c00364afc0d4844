//! Series: all occurrences or none, once it is answered; and what was answered comes up, occurrence by occurrence.

use std::collections::{BTreeMap, BTreeSet};

use turnpike_broker::name::SessionId;
use turnpike_broker::record::SessionState;
use turnpike_broker::refusal::Reason;
use turnpike_broker::series::{SeriesRecord, SeriesState};
use turnpike_broker::{Answer, Request};

use super::{Checker, Held, Rule, hold};
use crate::node::Node;

#[derive(Default)]
pub(crate) struct AllSeries {
    /// Asked for, and not answered as booked or gone since: what there is of it may be ended.
    open: BTreeSet<SessionId>,
    /// Those whose end was asked for.
    deleted: BTreeSet<SessionId>,
    /// Answered as booked by this node, and nobody has asked for its end.
    promised: BTreeMap<SessionId, (usize, SeriesRecord)>,
}

/// The series that a session would be an occurrence of.
fn of_occurrence(id: &SessionId) -> Option<SessionId> {
    id.as_str().rsplit_once('.').and_then(|(series, _)| series.parse().ok())
}

impl AllSeries {
    /// A client asks for something.
    pub(super) fn is_asked(&mut self, request: &Request) {
        if let Request::CreateSeries { request, .. } = request
            && !self.promised.contains_key(&request.id)
        {
            self.open.insert(request.id.clone());
        }
        if let Request::DeleteSeries(id) = request {
            self.promised.remove(id);
            self.deleted.insert(id.clone());
            self.open.insert(id.clone());
        }
    }

    /// Whether an occurrence may be ended though nobody has asked for the end of this one.
    pub(super) fn may_end(&self, id: &SessionId) -> bool {
        of_occurrence(id).is_some_and(|series| self.open.contains(&series))
    }
}

impl Checker {
    /// A client asks for something.
    pub(crate) fn is_asked(&mut self, request: &Request) {
        if let Request::DeleteSession(id) = request {
            self.end_is_wanted(id);
        }
        self.series.is_asked(request);
    }

    /// Before a client that asked for a series, or for its end, is answered.
    pub(super) fn series_is_so(&mut self, nodes: &[Node], index: usize, id: &SessionId, answer: &Answer) -> Held {
        match answer {
            Answer::Series { record, .. } => {
                // Its end may have come in together with the last word on its booking.
                if self.series.deleted.contains(id) && nodes[index].store.series.get(id) != Some(record) {
                    return Ok(());
                }
                self.is_whole(nodes, index, record)?;
                if self.series.deleted.contains(id) {
                    return Ok(());
                }
                self.series.open.remove(id);
                self.series.promised.insert(id.clone(), (index, record.clone()));
                Ok(())
            }
            Answer::SeriesDeleted => is_gone(&nodes[index], id),
            // It is there already, or being booked or undone.
            Answer::Refused(refusal) if matches!(refusal.reason, Reason::Busy | Reason::SessionIdReused) => Ok(()),
            Answer::Refused(_) if !nodes[index].store.series.contains_key(id) => is_gone(&nodes[index], id),
            Answer::Refused(_)
            | Answer::Aggregate { .. }
            | Answer::AggregateDeleted
            | Answer::Session { .. }
            | Answer::WouldAdmit { .. }
            | Answer::Link(_) => Ok(()),
        }
    }

    /// All occurrences are booked at both ends; or were, and have had their end.
    fn is_whole(&self, nodes: &[Node], index: usize, record: &SeriesRecord) -> Held {
        let node = &nodes[index];
        hold(Rule::Confirmation, record.state == SeriesState::Booked, || format!("told as booked: {record:?}"))?;
        let stored = node.store.series.get(&record.id);
        hold(Rule::Confirmation, stored == Some(record), || {
            format!("told as booked: {record:?}, and kept: {stored:?}")
        })?;
        for (id, schedule) in record.occurrences() {
            let was_ended = schedule.interval().end() <= node.shown || self.ends_wanted.contains(&id);
            let Some(own) = node.store.sessions.get(&id) else {
                hold(Rule::Confirmation, was_ended, || {
                    format!("{} is told as booked, and {id} is not there", record.id)
                })?;
                continue;
            };
            let peer = nodes.iter().position(|node| node.config.node == own.peer).unwrap_or_default();
            let attempt = own.flows.first().map_or(0, |flow| flow.policy.0);
            let confirmed = self.books.contains(&(peer, index, id.clone(), attempt));
            let is_there = matches!(
                own.state,
                SessionState::Booked | SessionState::Installing | SessionState::Committing | SessionState::Active
            );
            let failed = self.failed.contains(&(index, id.clone())) || own.failure.is_some();
            // By its peer's clock it may be over; or by its peer's loss.
            let ends =
                was_ended || failed || nodes[peer].shown >= schedule.interval().end() || !self.hosts_lost.is_empty();
            hold(Rule::Confirmation, own.booked && confirmed && (is_there || ends), || {
                format!("{} is told as booked, and of {id} there is {own:?}", record.id)
            })?;
        }
        Ok(())
    }

    /// At rest no series is being booked or undone, and none is over and kept; occurrences that were promised came up or failed.
    pub(super) fn series_rest(&self, nodes: &[Node]) -> Held {
        for node in nodes {
            let name = &node.config.node;
            let left = node.broker.series().next();
            hold(Rule::Leak, left.is_none(), || format!("{name} has a series that is over or half done: {left:?}"))?;
            let left = node.store.series.values().next();
            hold(Rule::Leak, left.is_none(), || format!("{name} keeps a series that is over: {left:?}"))?;
        }
        for (index, record) in self.series.promised.values() {
            for (id, _) in record.occurrences().filter(|(id, _)| !self.ends_wanted.contains(id)) {
                let key = (*index, id.clone());
                let told = self.came_up.contains(&key) || self.failed.contains(&key);
                hold(Rule::Durability, told || !self.hosts_lost.is_empty(), || {
                    format!("{id} of a series that was answered as booked has not come up, and no failure is told")
                })?;
            }
        }
        Ok(())
    }
}

/// Nothing of a series is there, or comes up, at its first side.
fn is_gone(node: &Node, id: &SessionId) -> Held {
    let of_it = |record: &&turnpike_broker::record::SessionRecord| of_occurrence(&record.id).as_ref() == Some(id);
    let mut records = node.store.sessions.values().filter(of_it);
    let left = records.find(|record| !matches!(record.state, SessionState::Releasing | SessionState::Ended));
    hold(Rule::Confirmation, left.is_none(), || format!("series {id} is answered as not there, and {left:?} is"))
}
