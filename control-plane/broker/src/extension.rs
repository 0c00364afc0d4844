//! Another end for a session that is booked or active: both sides take it, or it stays as it was.
//!
//! The first side holds what it needs for more time, asks the second, and takes the new end when that has confirmed it. Where the answer is
//! lost the second side may have the new end and the first the old one: then the earlier of the two ends the session at both, because the
//! side that has it releases the other. So no more is ever used than both sides hold, and nothing is held for longer than the later one.

use crate::broker::Broker;
use crate::calendar::{Interval, OPEN};
use crate::endpoints::occupied;
use crate::event::Answer;
use crate::fence::Subject;
use crate::flow::in_use;
use crate::message::{PeerAnswer, PeerRequest};
use crate::name::{Nanos, NodeName, SessionId};
use crate::policy::Endpoints;
use crate::record::{Change, SessionRecord, Side};
use crate::refusal::{Reason, Refusal};
use crate::schedule::Schedule;
use crate::session::{Phase, Session, session_busy, unknown_session};

/// First side: the second was asked for another end.
pub(crate) struct EndChange {
    ask: u64,
    client: u64,
    ends_at: Option<Nanos>,
    /// Held for it, beyond the session's interval.
    extension: Option<Interval>,
}

/// What the first side asks of the second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewEnd {
    pub(crate) attempt: u64,
    pub(crate) change: u64,
    pub(crate) ends_at: Option<Nanos>,
    pub(crate) sent_at: Nanos,
}

impl Session {
    pub(crate) fn is_change_asked_by(&self, ticket: u64) -> bool {
        self.change.as_ref().is_some_and(|change| change.ask == ticket)
    }
}

impl Broker {
    /// First side: a client wants another end; none is without end.
    pub(crate) fn change_session_end(
        &mut self,
        ticket: u64,
        id: &SessionId,
        ends_at: Option<Nanos>,
        now: Nanos,
    ) -> Result<(), Refusal> {
        let Some(session) = self.sessions.get(id) else {
            if self.ended.get(id).is_some() {
                let detail = format!("session {id} has ended; ask for another one");
                return Err(Refusal::new(Reason::UnknownSession, detail).at("id"));
            }
            if self.watches.contains_key(id) {
                let allowed = "a session that is booked or active; this one waits for room: delete it, and ask for it with the other end";
                return Err(Refusal::invalid("id", id, allowed));
            }
            return Err(unknown_session(id, &self.config.node));
        };
        if session.record.side == Side::Second {
            let allowed =
                format!("a session that this node was asked for; this one's end is changed at {}", session.record.peer);
            return Err(Refusal::invalid("id", id, allowed));
        }
        session.record.schedule.ending(ends_at).check_end(now)?;
        if session.change.is_some()
            || session.record.rate_change.is_some()
            || !matches!(session.phase, Phase::Booked { .. } | Phase::Active)
        {
            return Err(session_busy(id));
        }
        let (peer, attempt) = (session.record.peer.clone(), session.attempt);
        let extension = self.extend(id, ends_at, now)?;
        let change = self.next_policy().0;
        // Also where nothing changes here: the second side may have another end, if an answer of it was lost.
        let request = PeerRequest::ChangeSessionEnd { session: id.clone(), attempt, change, ends_at, sent_at: now };
        let ask = self.send(Subject::Session(id.clone()), peer, request, now);
        if let Some(session) = self.sessions.get_mut(id) {
            session.change = Some(EndChange { ask, client: ticket, ends_at, extension });
        }
        Ok(())
    }

    /// First side: what the second said to another end.
    pub(crate) fn change_answered(&mut self, id: &SessionId, answer: Result<PeerAnswer, String>) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let ends = |ends_at: Option<Nanos>| ends_at.map_or_else(|| "without end".to_owned(), |end| end.to_string());
        let before = ends(session.record.schedule.ends_at);
        let Some(change) = session.change.take() else { return };
        let refusal = match answer {
            Ok(PeerAnswer::EndChanged) => {
                self.set_end(id, change.ends_at);
                if let Some(session) = self.sessions.get(id) {
                    let answer = Answer::Session { record: session.record.clone(), created: true };
                    self.answer(change.client, answer);
                }
                return;
            }
            Ok(PeerAnswer::Refused { refusal }) if refusal.reason == Reason::UnknownSession => {
                Refusal::new(Reason::SecondSideRefused, refusal.detail)
            }
            Ok(PeerAnswer::Refused { refusal }) => refusal,
            other => {
                let detail = format!(
                    "the second side of session {id} did not say whether it takes the end {}: {other:?}; the earlier of that and the one before, {before}, ends the session; ask again",
                    ends(change.ends_at)
                );
                Refusal::new(Reason::PeerUnreachable, detail)
            }
        };
        self.give_extension_back(id, change.extension);
        self.refuse(change.client, refusal);
    }

    /// Second side: takes another end, or changes nothing.
    pub(crate) fn change_received(
        &mut self,
        ticket: u64,
        peer: &NodeName,
        id: &SessionId,
        NewEnd { attempt, change, ends_at, sent_at }: NewEnd,
        now: Nanos,
    ) -> Result<(), Refusal> {
        let unknown = unknown_session(id, &self.config.node);
        let Some(session) = self.sessions.get_mut(id).filter(|session| session.is_of_first_side(peer, attempt)) else {
            return Err(unknown);
        };
        if !matches!(session.phase, Phase::Booked { .. } | Phase::Installing { .. } | Phase::Active) {
            return Err(unknown);
        }
        if session.record.rate_change.is_some() {
            return Err(session_busy(id));
        }
        if change < session.changed {
            let detail = format!("a later change of session {id} has come before");
            return Err(Refusal::new(Reason::StaleEpoch, detail));
        }
        let schedule = session.record.schedule.ending(ends_at);
        schedule.check_clocks(sent_at, now, &self.config.timers)?;
        schedule.check_end(now)?;
        session.changed = change;
        self.extend(id, ends_at, now)?;
        self.set_end(id, ends_at);
        self.answer_peer(ticket, PeerAnswer::EndChanged);
        Ok(())
    }

    /// A change that is under way comes to nothing, because the session ends.
    pub(crate) fn drop_change(&mut self, id: &SessionId) {
        if let Some(change) = self.sessions.get_mut(id).and_then(|session| session.change.take()) {
            self.give_extension_back(id, change.extension);
            let detail = format!("session {id} ended before its end was changed");
            self.refuse(change.client, Refusal::new(Reason::UnknownSession, detail).at("id"));
        }
    }

    /// Holds what a later end needs, or changes nothing; an earlier one needs nothing.
    fn extend(&mut self, id: &SessionId, ends_at: Option<Nanos>, now: Nanos) -> Result<Option<Interval>, Refusal> {
        let Some(session) = self.sessions.get(id) else { return Ok(None) };
        let before = session.record.schedule.ends_at.unwrap_or(OPEN);
        let Ok(extension) = Interval::new(before, ends_at.unwrap_or(OPEN)) else { return Ok(None) };
        let SessionRecord { flows, side, .. } = session.record.clone();
        let slots = session.record.own_slots().clone();
        for flow in &flows {
            let taken = |ends: &Endpoints| self.carried.has(flow.direction, ends, extension);
            if let Some(taken) = occupied(flow.endpoints, flow.rtcp).find(taken) {
                return Err(in_use(&format!("flow {}", flow.id), flow.endpoints, taken).at("ends_at"));
            }
        }
        let more = Schedule { starts_at: Some(before), ends_at };
        // Another rate or another start is not what was asked for.
        let refused = |refusal: Refusal| refusal.at("ends_at").without_offers();
        for flow in &flows {
            self.check_carried(&flow.aggregate, more, now).map_err(refused)?;
        }
        self.take_parts(&flows, (&slots, side), more, now).map_err(refused)?;
        for flow in &flows {
            self.carried.extend(flow, extension);
        }
        Ok(Some(extension))
    }

    fn give_extension_back(&mut self, id: &SessionId, extension: Option<Interval>) {
        self.room = true;
        if let (Some(extension), Some(session)) = (extension, self.sessions.get(id)) {
            let record = session.record.clone();
            self.give_back_parts(&record.flows, record.own_slots(), extension);
            for flow in &record.flows {
                self.carried.shorten(flow, extension);
            }
        }
    }

    /// What a later end needs is held already; what an earlier one leaves is given back.
    fn set_end(&mut self, id: &SessionId, ends_at: Option<Nanos>) {
        self.room = true;
        let Some(session) = self.sessions.get_mut(id) else { return };
        let before = session.record.schedule;
        session.record.schedule.ends_at = ends_at;
        let record = session.record.clone();
        let (end_before, end) = (before.ends_at.unwrap_or(OPEN), ends_at.unwrap_or(OPEN));
        if let Ok(rest) = Interval::new(end, end_before) {
            self.give_back_parts(&record.flows, record.own_slots(), rest);
        }
        for flow in &record.flows {
            if let Ok(extension) = Interval::new(end_before, end) {
                self.carried.shorten(flow, extension);
            }
            self.carried.shorten(flow, before.interval());
            self.carried.extend(flow, record.schedule.interval());
        }
        self.persist(Change::PutSession(record));
        self.await_next(id);
    }

    /// Sets the timer anew for what it waits for.
    fn await_next(&mut self, id: &SessionId) {
        match self.sessions.get(id).map(|session| &session.phase) {
            // At once where it has come and waits for its next try.
            Some(Phase::Booked { .. }) => self.await_start(id, self.now),
            Some(Phase::Installing { .. } | Phase::Committing { .. } | Phase::Active) => self.await_end(id),
            Some(
                Phase::Holding { .. }
                | Phase::Calling { .. }
                | Phase::Offered
                | Phase::Booking { .. }
                | Phase::Held
                | Phase::Ending(_),
            )
            | None => {}
        }
    }
}
