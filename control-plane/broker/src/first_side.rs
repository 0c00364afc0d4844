//! The first side: a client asks it; it holds, has the second side hold, installs, and has the second side commit
//! (R-000-8, R-001-1).

use crate::authorization::Credential;
use crate::broker::{Broker, TableName};
use crate::event::{Answer, SessionRequest};
use crate::fence::Subject;
use crate::flow::{Terms, are_answer_to, is_label, note_granted};
use crate::media_slots::MediaSlots;
use crate::message::{HeldFlow, HoldFlow, PeerAnswer, PeerRequest};
use crate::name::{Nanos, NodeName, SessionId};
use crate::planted::PlantedBug;
use crate::policy::{Excess, InstallError, Meter, Tag};
use crate::record::{Change, Direction, FlowRecord, SessionRecord, SessionState, Side, Wait};
use crate::refusal::{Reason, Refusal};
use crate::release::Ending;
use crate::session::{Phase, Session, session_busy, session_id_reused};
use crate::watch::{WaitingWish, is_for_want_of_room};

impl Broker {
    pub(crate) fn create_session(
        &mut self,
        ticket: u64,
        request: SessionRequest,
        credential: &Credential,
        now: Nanos,
    ) -> Result<(), Refusal> {
        self.ask_session(ticket, request, None, credential, now)
    }

    /// With a time until which it may wait, or without.
    pub(crate) fn ask_session(
        &mut self,
        ticket: u64,
        request: SessionRequest,
        wait_until: Option<Nanos>,
        credential: &Credential,
        now: Nanos,
    ) -> Result<(), Refusal> {
        credential.check()?;
        let SessionRequest { id, schedule, priority, media_slots, flows } = request;
        let terms = Terms { schedule, priority };
        let asked: Vec<HoldFlow> = flows.iter().map(crate::FlowRequest::to_hold).collect();
        if self.take_offer(ticket, &id, terms, &media_slots, &asked, now) {
            return Ok(());
        }
        if self.repeated(ticket, &id, terms, &media_slots, &asked)? {
            return Ok(());
        }
        self.check_token(credential)?;
        schedule.check(now)?;
        priority.check()?;
        if self.are_sessions_full() {
            return Err(self.full(TableName::Sessions));
        }
        self.check_token_place(credential, now)?;
        let wait = wait_until.map(|until| self.new_wait(until));
        let wish = WaitingWish { id: &id, terms, media_slots: &media_slots, asked: &asked, credential };
        if let Some(wait) = wait.filter(|_| self.is_turn_reserved(&asked, &media_slots.first, priority)) {
            return self.start_to_wait(ticket, wish, wait, None, now);
        }
        let refusal = match self.admit(None, &asked, &media_slots.first, terms, now) {
            Ok(admitted) => {
                self.hold_at_both(ticket, wish, admitted, wait, now);
                return Ok(());
            }
            Err(refusal) => refusal,
        };
        if !is_for_want_of_room(refusal.reason) {
            return Err(refusal);
        }
        if self.make_room(ticket, wish, wait, now)? {
            return Ok(());
        }
        match wait {
            Some(wait) => self.start_to_wait(ticket, wish, wait, Some(refusal), now),
            None => Err(refusal),
        }
    }

    /// It is held here: the second side is to do the same.
    pub(crate) fn hold_at_both(
        &mut self,
        ticket: u64,
        WaitingWish { id, terms: Terms { schedule, priority }, media_slots, asked, credential }: WaitingWish<'_>,
        (peer, flows): (NodeName, Vec<FlowRecord>),
        wait: Option<Wait>,
        now: Nanos,
    ) {
        let mut asked = asked.to_vec();
        note_granted(&mut asked, &flows);
        let attempt = flows.first().map_or(0, |flow| flow.policy.0);
        let held = SessionRecord::held(id.clone(), Side::First, peer.clone(), schedule, flows);
        let of_second = media_slots.second.clone();
        let record = credential.on(SessionRecord { wait, priority, media_slots: media_slots.clone(), ..held });
        self.take_token(credential, id);
        self.note_passed(&record, None);
        self.persist(Change::PutSession(record.clone()));
        let request = PeerRequest::HoldSession {
            session: id.clone(),
            attempt,
            schedule,
            priority,
            preempting: Vec::new(),
            sent_at: now,
            offer: false,
            media_slots: of_second,
            flows: asked,
        };
        let ask = self.send_with(Subject::Session(id.clone()), peer, request, credential.token.clone(), now);
        self.sessions.insert(id.clone(), Session::new(record, attempt, Phase::Holding { ask, client: ticket }));
        self.await_end(id);
    }

    /// Answers what was asked before. False if it was not.
    pub(crate) fn repeated(
        &mut self,
        ticket: u64,
        id: &SessionId,
        terms: Terms,
        media_slots: &MediaSlots,
        asked: &[HoldFlow],
    ) -> Result<bool, Refusal> {
        if self.is_making_room(id) {
            return Err(session_busy(id));
        }
        let node = &self.config.node;
        let record = if let Some(session) = self.sessions.get(id) {
            if !is_answer_to(&session.record, terms, media_slots, asked) {
                return Err(session_id_reused(id, node));
            }
            // Its host went down, and it is being installed again: nothing is confirmed that is not in force.
            if session.install.is_some() {
                return Err(session_busy(id));
            }
            match session.record.state {
                SessionState::Active | SessionState::Booked | SessionState::Offered | SessionState::Ended => {
                    session.record.clone()
                }
                SessionState::Waiting
                | SessionState::Held
                | SessionState::Installing
                | SessionState::Committing
                | SessionState::Releasing => {
                    return Err(session_busy(id));
                }
            }
        } else if let Some(record) = self.watches.get(id).map(|watch| &watch.record).or_else(|| self.ended.get(id)) {
            if !is_answer_to(record, terms, media_slots, asked) {
                return Err(session_id_reused(id, node));
            }
            record.clone()
        } else {
            return Ok(false);
        };
        self.answer(ticket, Answer::Session { record, created: false });
        Ok(true)
    }

    pub(crate) fn hold_answered(
        &mut self,
        id: &SessionId,
        client: u64,
        answer: Result<PeerAnswer, String>,
        now: Nanos,
    ) {
        let held = match answer {
            Ok(PeerAnswer::Held { flows }) => flows,
            Ok(PeerAnswer::Refused { refusal }) if is_for_want_of_room(refusal.reason) && self.may_wait(id) => {
                return self.end(id, Ending::waits_again(Some(client), false), now);
            }
            // It holds nothing, so there is nothing to release.
            Ok(PeerAnswer::Refused { refusal }) => return self.end(id, Ending::refused(client, refusal), now),
            Ok(other) => return self.give_up(id, client, misfit(id, &other), now),
            Err(why) => return self.give_up(id, client, silent(id, &why), now),
        };
        match self.take_values(id, held) {
            Ok(()) => self.go_on(id, client, now),
            Err(refusal) => self.give_up(id, client, refusal, now),
        }
    }

    /// The second side's values count here, too; an error if it may not choose them.
    pub(crate) fn take_values(&mut self, id: &SessionId, held: Vec<HeldFlow>) -> Result<(), Refusal> {
        let Some(session) = self.sessions.get_mut(id) else {
            return Ok(());
        };
        if let Err(why) = check_held(&session.record.flows, &held) {
            let detail = format!("the second side's answer to session {id} is wrong: {why}");
            return Err(Refusal::new(Reason::SecondSideRefused, detail));
        }
        let interval = session.record.schedule.interval();
        let mut flows = std::mem::take(&mut session.record.flows);
        for (flow, held) in flows.iter_mut().zip(held) {
            self.shrink(flow, held.meter, interval);
            flow.quality = held.quality;
            if flow.direction == Direction::Out {
                flow.label = held.label;
            }
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.record.flows = flows;
        }
        Ok(())
    }

    /// Both sides hold the same: the client's session is booked or installed.
    pub(crate) fn go_on(&mut self, id: &SessionId, client: u64, now: Nanos) {
        if let Some(session) = self.sessions.get_mut(id) {
            (session.record.wait, session.record.token) = (None, None);
            self.called.remove(id);
            if session.record.schedule.starts_at.is_some() {
                return self.book_at_second_side(id, client, now);
            }
            session.phase = Phase::Installing { askers: vec![client] };
        }
        self.set_session_state(id, SessionState::Installing);
        if !self.provision(id) {
            self.give_up(id, client, session_busy(id), now);
        }
    }

    fn book_at_second_side(&mut self, id: &SessionId, client: u64, now: Nanos) {
        let Some(session) = self.sessions.get(id) else { return };
        let (peer, attempt) = (session.record.peer.clone(), session.attempt);
        self.set_session_state(id, SessionState::Held);
        let request = PeerRequest::BookSession { session: id.clone(), attempt };
        let ask = self.send(Subject::Session(id.clone()), peer, request, now);
        if let Some(session) = self.sessions.get_mut(id) {
            session.phase = Phase::Booking { ask, client };
        }
    }

    /// The first side's policies are in force: the second side may install (R-004-9). No client waits at the start of a booking.
    pub(crate) fn first_side_provisioned(&mut self, id: &SessionId, client: Option<u64>, now: Nanos) {
        let Some(session) = self.sessions.get(id) else { return };
        let (peer, attempt) = (session.record.peer.clone(), session.attempt);
        self.set_session_state(id, SessionState::Committing);
        let request = PeerRequest::CommitSession { session: id.clone(), attempt };
        let ask = self.send(Subject::Session(id.clone()), peer, request, now);
        if let Some(session) = self.sessions.get_mut(id) {
            session.phase = Phase::Committing { ask, client };
        }
        if self.has_bug(PlantedBug::AnsweredEarly) {
            self.commit_answered(id, client, Ok(PeerAnswer::Committed), now);
        }
    }

    pub(crate) fn commit_answered(
        &mut self,
        id: &SessionId,
        client: Option<u64>,
        answer: Result<PeerAnswer, String>,
        now: Nanos,
    ) {
        match answer {
            Ok(PeerAnswer::Committed) => {
                self.activate(id, now);
                if let (Some(client), Some(session)) = (client, self.sessions.get(id)) {
                    let answer = Answer::Session { record: session.record.clone(), created: true };
                    self.answer(client, answer);
                }
            }
            other => self.not_confirmed(id, client, other, now),
        }
    }

    /// The second side did not confirm what it was asked: to a client that is a refusal, to a booking a reason to try again.
    pub(crate) fn not_confirmed(
        &mut self,
        id: &SessionId,
        client: Option<u64>,
        answer: Result<PeerAnswer, String>,
        now: Nanos,
    ) {
        let (refusal, is_lost) = match answer {
            // The hold has lapsed or was lost there: the client has not named a wrong session.
            Ok(PeerAnswer::Refused { refusal }) if refusal.reason == Reason::UnknownSession => {
                (Refusal::new(Reason::SecondSideRefused, refusal.detail), true)
            }
            Ok(PeerAnswer::Refused { refusal }) => (refusal, false),
            Ok(other) => (misfit(id, &other), false),
            Err(why) => (silent(id, &why), false),
        };
        match client {
            Some(client) => self.give_up(id, client, refusal, now),
            None if is_lost => {
                let earlier = self.sessions.get(id).and_then(|session| session.record.failure.clone());
                self.fail_booking(id, earlier.map_or(refusal, |earlier| *earlier), now);
            }
            None => self.not_started(id, refusal, now),
        }
    }

    /// Undoes what was done here and at the second side, and refuses.
    pub(crate) fn give_up(&mut self, id: &SessionId, client: u64, refusal: Refusal, now: Nanos) {
        let ending = if self.has_bug(PlantedBug::ReleaseSkipped) {
            Ending::refused(client, refusal)
        } else {
            Ending::given_up(client, refusal)
        };
        self.end(id, ending, now);
    }

    /// Either side's policies are in force.
    pub(crate) fn provisioned(&mut self, id: &SessionId, askers: &[u64], now: Nanos) {
        match (self.sessions.get(id).map(|session| session.record.side), askers) {
            (Some(Side::First), clients) => self.first_side_provisioned(id, clients.first().copied(), now),
            (Some(_), commits) => self.second_side_provisioned(id, commits, now),
            (None, _) => {}
        }
    }

    /// Either side's policies could not be put in force; none of them is.
    pub(crate) fn not_provisioned(&mut self, id: &SessionId, askers: &[u64], error: &InstallError, now: Nanos) {
        let detail = format!("the data plane of {} did not take session {id}: {error}", self.config.node);
        let refusal = Refusal::new(error.reason(), detail);
        match (self.sessions.get(id).map(|session| session.record.side), askers) {
            (Some(Side::First), &[client]) => self.give_up(id, client, refusal, now),
            (Some(Side::First), _) => self.not_started(id, refusal, now),
            (Some(_), commits) => self.second_side_not_provisioned(id, commits, &refusal, now),
            (None, _) => {}
        }
    }
}

/// Whether a session is what a client asks for.
pub(crate) fn is_answer_to(record: &SessionRecord, terms: Terms, media_slots: &MediaSlots, asked: &[HoldFlow]) -> bool {
    record.terms() == terms && record.media_slots == *media_slots && are_answer_to(&record.flows, asked, Side::Second)
}

pub(crate) fn silent(id: &SessionId, why: &str) -> Refusal {
    Refusal::new(Reason::PeerUnreachable, format!("the second side of session {id} did not answer: {why}"))
}

pub(crate) fn misfit(id: &SessionId, answer: &PeerAnswer) -> Refusal {
    let detail = format!("the second side of session {id} gave an answer that does not fit: {answer:?}");
    Refusal::new(Reason::PeerUnreachable, detail)
}

/// Whether the second side may give this where that is asked: the same, a lower rate, or nothing.
const fn may_be_granted(asked: Option<Excess>, given: Option<Excess>) -> bool {
    match (asked, given) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(asked), Some(given)) => {
            0 < given.rate_bps && given.rate_bps <= asked.rate_bps && given.burst_bytes == asked.burst_bytes
        }
    }
}

/// Whether the second side's values are ones that it may choose; labels are another matter.
pub(crate) fn check_values(flows: &[FlowRecord], held: &[HeldFlow]) -> Result<(), String> {
    if flows.len() != held.len() {
        return Err(format!("{} flows for {}", held.len(), flows.len()));
    }
    for (flow, held) in flows.iter().zip(held) {
        let id = &flow.id;
        if held.id != *id {
            return Err(format!("flow {} in the place of flow {id}", held.id));
        }
        let rate_bps = held.meter.rate_bps;
        if !(flow.rate_bps_min..=flow.meter.rate_bps).contains(&rate_bps) {
            return Err(format!(
                "flow {id} has {rate_bps} bit/s; allowed: {} to {}",
                flow.rate_bps_min, flow.meter.rate_bps
            ));
        }
        let excess = held.meter.excess;
        if held.meter != (Meter { rate_bps, excess, ..flow.meter }) {
            return Err(format!("flow {id} has another burst or smallest packet than asked"));
        }
        if !flow.asked_quality.may_become(&held.quality) {
            return Err(format!("flow {id} has the quality {:?}, for {:?}", held.quality, flow.asked_quality));
        }
        if !may_be_granted(flow.asked_excess, excess) {
            return Err(format!(
                "flow {id} has the excess {excess:?}; allowed: less than {:?}, or none",
                flow.asked_excess
            ));
        }
    }
    Ok(())
}

/// Whether the second side's values are ones that it may choose, and the labels those of what it receives.
fn check_held(flows: &[FlowRecord], held: &[HeldFlow]) -> Result<(), String> {
    check_values(flows, held)?;
    for (flow, held) in flows.iter().zip(held) {
        let id = &flow.id;
        match (flow.direction, flow.tag, held.label) {
            (Direction::Out, Tag::Label, Some(label)) if is_label(label) => {}
            (Direction::In, _, None) | (Direction::Out, Tag::Terminals, None) => {}
            (Direction::Out, _, label) => return Err(format!("flow {id} has the label {label:?}")),
            (Direction::In, _, Some(_)) => return Err(format!("flow {id} has a label, but is not received there")),
        }
    }
    Ok(())
}
