//! Bookings: a session with a start is held and confirmed at both ends, comes up at its start, and ends at its end, by each node's own
//! clock.

use crate::broker::Broker;
use crate::endpoints::occupied;
use crate::event::Answer;
use crate::fence::Subject;
use crate::message::PeerAnswer;
use crate::name::{Nanos, NodeName, SessionId};
use crate::policy::{Endpoints, Rtcp};
use crate::record::{Direction, SessionState, Side};
use crate::refusal::{Reason, Refusal};
use crate::release::Ending;
use crate::session::{Phase, Session, session_busy, unknown_session};

impl Broker {
    /// First side: what the second side said to the booking.
    pub(crate) fn book_answered(
        &mut self,
        id: &SessionId,
        client: u64,
        answer: Result<PeerAnswer, String>,
        now: Nanos,
    ) {
        match answer {
            Ok(PeerAnswer::Booked) => {
                self.booked(id, now);
                if let Some(session) = self.sessions.get(id) {
                    let answer = Answer::Session { record: session.record.clone(), created: true };
                    self.answer(client, answer);
                }
            }
            other => self.not_confirmed(id, Some(client), other, now),
        }
    }

    /// Second side: the first side has taken the values.
    pub(crate) fn book_received(
        &mut self,
        ticket: u64,
        peer: &NodeName,
        id: &SessionId,
        attempt: u64,
        now: Nanos,
    ) -> Result<(), Refusal> {
        let unknown = unknown_session(id, &self.config.node);
        let Some(session) = self.sessions.get_mut(id).filter(|session| session.is_of_first_side(peer, attempt)) else {
            return Err(unknown);
        };
        if session.record.schedule.starts_at.is_none() {
            return Err(unknown);
        }
        match session.phase {
            Phase::Held => self.booked(id, now),
            Phase::Booked { .. } | Phase::Installing { .. } | Phase::Active => {}
            Phase::Ending(_)
            | Phase::Holding { .. }
            | Phase::Calling { .. }
            | Phase::Offered
            | Phase::Booking { .. }
            | Phase::Committing { .. } => {
                return Err(unknown);
            }
        }
        self.answer_peer(ticket, PeerAnswer::Booked);
        Ok(())
    }

    /// It is there to stay, and waits for its start.
    fn booked(&mut self, id: &SessionId, now: Nanos) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.phase = Phase::Booked { commits: Vec::new() };
            session.record.booked = true;
        }
        self.set_session_state(id, SessionState::Booked);
        self.await_start(id, now);
    }

    /// The first side wakes at the start, to begin. The second wakes when the first has not begun for too long, or at the start if it has
    /// begun before, by its clock.
    pub(crate) fn await_start(&mut self, id: &SessionId, now: Nanos) {
        let Some(Session { record, phase: Phase::Booked { commits }, .. }) = self.sessions.get(id) else {
            return;
        };
        let deadline = record.schedule.deadline(record.side, &self.config.timers);
        let at = if record.side == Side::First || !commits.is_empty() { record.schedule.begin(now) } else { deadline };
        // What is given up makes room before what starts, too: an earlier life of this node may have installed it.
        if deadline <= at {
            self.set_timer(Subject::Session(id.clone()), at);
        } else {
            self.set_start_timer(Subject::Session(id.clone()), at);
        }
    }

    pub(crate) fn booking_timer(&mut self, id: &SessionId, now: Nanos) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Phase::Booked { commits } = &mut session.phase else { return };
        let record = &session.record;
        if record.schedule.deadline(record.side, &self.config.timers) <= now {
            let missed = Refusal::new(Reason::PeerUnreachable, format!("session {id} was not started in time"));
            let failure = record.failure.clone().map_or(missed, |failure| *failure);
            return self.fail_booking(id, failure, now);
        }
        if record.rate_change.is_some() {
            // It starts with the one or the other.
            let at = now.plus(self.config.timers.retry);
            return self.set_start_timer(Subject::Session(id.clone()), at);
        }
        let commits = std::mem::take(commits);
        if record.side == Side::First || !commits.is_empty() {
            self.start_booking(id, commits, now);
        }
    }

    /// Its start has come: it is installed here.
    pub(crate) fn start_booking(&mut self, id: &SessionId, commits: Vec<u64>, now: Nanos) {
        let Some(session) = self.sessions.get(id) else { return };
        if session.record.flows.iter().any(|flow| self.is_still_sent(flow.direction, flow.endpoints, flow.rtcp)) {
            if let Some(session) = self.sessions.get_mut(id) {
                session.phase = Phase::Booked { commits };
            }
            let at = now.plus(self.config.timers.retry);
            return self.set_start_timer(Subject::Session(id.clone()), at);
        }
        self.await_end(id);
        if let Some(session) = self.sessions.get_mut(id) {
            session.phase = Phase::Installing { askers: commits };
        }
        self.set_session_state(id, SessionState::Installing);
        // Aggregates with bookings cannot go, so there is always one to install on.
        if !self.provision(id) {
            self.fail_booking(id, session_busy(id), now);
        }
    }

    /// Whether one that has ended sends on these endpoints, or their RTCP's, because it was being installed when its end came.
    pub(crate) fn is_still_sent(&self, direction: Direction, endpoints: Endpoints, rtcp: Rtcp) -> bool {
        if direction != Direction::Out || self.ending_installs.is_empty() {
            return false;
        }
        let sessions = self.ending_installs.iter().filter_map(|id| self.sessions.get(id));
        let sent = sessions.flat_map(|session| &session.record.flows).filter(|flow| flow.direction == Direction::Out);
        let mut sent = sent.flat_map(|flow| occupied(flow.endpoints, flow.rtcp));
        sent.any(|sent| occupied(endpoints, rtcp).any(|ends| ends == sent))
    }

    /// It could not be started: the first side tries again while there is time, the second waits for that.
    pub(crate) fn not_started(&mut self, id: &SessionId, refusal: Refusal, now: Nanos) {
        let retry = now.plus(self.config.timers.retry);
        let Some(session) = self.sessions.get_mut(id) else { return };
        let deadline = session.record.schedule.deadline(session.record.side, &self.config.timers);
        let at = if session.record.side == Side::First { retry } else { deadline };
        if retry >= deadline {
            return self.fail_booking(id, refusal, now);
        }
        session.record.failure = Some(Box::new(refusal));
        session.phase = Phase::Booked { commits: Vec::new() };
        self.set_session_state(id, SessionState::Booked);
        self.set_start_timer(Subject::Session(id.clone()), at);
    }

    /// It will not be started: both ends give it back, and it is kept as ended with the reason.
    pub(crate) fn fail_booking(&mut self, id: &SessionId, failure: Refusal, now: Nanos) {
        tracing::warn!(session = %id, failure.detail, "a booked session could not be started; it is ended");
        if let Some(session) = self.sessions.get_mut(id) {
            session.record.failure = Some(Box::new(failure));
        }
        self.end(id, Ending::of_booking(), now);
    }
}
