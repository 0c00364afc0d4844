//! The second side: another node asks it; it holds with its own values, and installs when told to (R-001-1).

use crate::authorization::Credential;
use crate::broker::{Broker, TableName};
use crate::calendar::OPEN;
use crate::fence::Subject;
use crate::flow::{Terms, are_answer_to};
use crate::media_slots::{MediaSlots, SlotCounts};
use crate::message::{HeldFlow, HoldFlow, PeerAnswer};
use crate::name::{Nanos, NodeName, SessionId};
use crate::planted::PlantedBug;
use crate::policy::Meter;
use crate::preemption::check_listed;
use crate::record::{Change, Direction, FlowRecord, SessionRecord, SessionState, Side};
use crate::refusal::{Reason, Refusal};
use crate::release::Ending;
use crate::session::{Phase, Session, session_busy, session_id_reused, unknown_session};
use crate::watch::is_for_want_of_room;

pub(crate) fn held(flows: &[FlowRecord]) -> PeerAnswer {
    PeerAnswer::Held { flows: values(flows) }
}

/// What this side gives, with the labels that it has for what it receives.
pub(crate) fn values(flows: &[FlowRecord]) -> Vec<HeldFlow> {
    let flows = flows.iter().map(|flow| HeldFlow {
        id: flow.id.clone(),
        meter: flow.meter,
        quality: flow.quality.clone(),
        label: flow.label.filter(|_| flow.direction == Direction::In),
    });
    flows.collect()
}

/// What the first side asks this one to hold.
pub(crate) struct Hold<'a> {
    pub(crate) attempt: u64,
    pub(crate) terms: Terms,
    /// The first side ends these for it.
    pub(crate) preempting: Vec<SessionId>,
    pub(crate) sent_at: Nanos,
    pub(crate) offer: bool,
    pub(crate) media_slots: SlotCounts,
    pub(crate) asked: &'a [HoldFlow],
    pub(crate) credential: &'a Credential,
}

impl Broker {
    pub(crate) fn hold_received(
        &mut self,
        ticket: u64,
        peer: NodeName,
        id: SessionId,
        hold: Hold<'_>,
        now: Nanos,
    ) -> Result<(), Refusal> {
        let Hold { attempt, terms, sent_at, offer, asked, credential, .. } = hold;
        let media_slots = hold.media_slots.clone();
        credential.check()?;
        let Terms { schedule, priority } = terms;
        let subject = Subject::Session(id.clone());
        if !self.is_open(&peer, subject.clone(), attempt) {
            let detail = format!("this hold of session {id} was released or has lapsed");
            return Err(Refusal::new(Reason::StaleEpoch, detail));
        }
        let hold_for =
            if offer { self.config.timers.hold.plus(self.config.timers.offer) } else { self.config.timers.hold };
        let lapse = now.plus(hold_for).min(schedule.ends_at.unwrap_or(OPEN));
        if let Some(session) = self.sessions.get_mut(&id) {
            if session.is_ending() {
                return Err(session_busy(&id));
            }
            let same = session.record.side == Side::Second
                && session.record.peer == peer
                && session.record.terms() == terms
                && session.record.media_slots.second == media_slots
                && are_answer_to(&session.record.flows, asked, Side::First);
            if !same {
                return Err(session_id_reused(&id, &self.config.node));
            }
            // The first side has begun anew: this hold is now that of its new attempt, and no more than that has room for.
            if attempt > session.attempt && matches!(session.phase, Phase::Held) {
                session.attempt = attempt;
                session.record.attempt = attempt;
                self.persist_session(&id);
                self.set_timer(subject, lapse);
                self.lower_held(&id, asked);
            }
            let answer = self.sessions.get(&id).map(|session| held(&session.record.flows));
            if let Some(answer) = answer {
                self.answer_peer(ticket, answer);
            }
            return Ok(());
        }
        if self.is_hold_repeated(ticket, &peer, &id, &hold, now)? {
            return Ok(());
        }
        if self.watches.contains_key(&id) {
            return Err(session_id_reused(&id, &self.config.node));
        }
        if self.ended.get(&id).is_some_and(|record| record.side == Side::First || record.peer != peer) {
            return Err(session_id_reused(&id, &self.config.node));
        }
        self.check_token(credential)?;
        schedule.check_peers(sent_at, now, &self.config.timers)?;
        priority.check()?;
        check_listed(&hold.preempting)?;
        if self.are_sessions_full() {
            return Err(self.full(TableName::Sessions));
        }
        self.check_token_place(credential, now)?;
        let (peer, flows) = match self.admit(Some(&peer), asked, &media_slots, terms, now) {
            Ok(admitted) => admitted,
            // What is offered to one that waits is what is free.
            Err(refusal) if is_for_want_of_room(refusal.reason) && !offer => {
                return if self.make_room_for_peer(ticket, &peer, &id, &hold, now)? { Ok(()) } else { Err(refusal) };
            }
            Err(refusal) => return Err(refusal),
        };
        self.ended.forget(&id);
        let answer = held(&flows);
        let held_now = SessionRecord::held(id.clone(), Side::Second, peer, schedule, flows);
        let media_slots = MediaSlots::of_second(media_slots);
        let record = credential.on(SessionRecord { attempt, priority, media_slots, ..held_now });
        self.take_token(credential, &id);
        self.persist(Change::PutSession(record.clone()));
        self.sessions.insert(id, Session::new(record, attempt, Phase::Held));
        self.set_timer(subject, lapse);
        self.answer_peer(ticket, answer);
        Ok(())
    }

    /// Keeps of what is held what the first side has room for.
    fn lower_held(&mut self, id: &SessionId, asked: &[HoldFlow]) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let interval = session.record.schedule.interval();
        let mut flows = std::mem::take(&mut session.record.flows);
        for (flow, asked) in flows.iter_mut().zip(asked) {
            if let Some(rate_bps) = asked.rate_bps_max.filter(|rate_bps| *rate_bps < flow.meter.rate_bps) {
                self.shrink(flow, Meter { rate_bps, ..flow.meter }, interval);
            }
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.record.flows = flows;
            let record = session.record.clone();
            self.persist(Change::PutSession(record));
        }
    }

    pub(crate) fn commit_received(
        &mut self,
        ticket: u64,
        peer: &NodeName,
        id: &SessionId,
        attempt: u64,
        now: Nanos,
    ) -> Result<(), Refusal> {
        let meant = self.sessions.get_mut(id).filter(|session| session.is_of_first_side(peer, attempt));
        let unknown = unknown_session(id, &self.config.node);
        let Some(session) = meant else { return Err(unknown) };
        match &mut session.phase {
            Phase::Booked { .. } if session.record.rate_change.is_some() => return Err(session_busy(id)),
            Phase::Held if session.record.schedule.starts_at.is_some() => return Err(unknown),
            Phase::Held => session.phase = Phase::Installing { askers: vec![ticket] },
            // The first side's clock is ahead: it has to wait for what it asks.
            Phase::Booked { commits } if session.record.schedule.begin(now) > now => {
                commits.push(ticket);
                self.await_start(id, now);
                return Ok(());
            }
            Phase::Booked { commits } => {
                let mut commits = std::mem::take(commits);
                commits.push(ticket);
                self.start_booking(id, commits, now);
                return Ok(());
            }
            Phase::Installing { askers } => {
                askers.push(ticket);
                return Ok(());
            }
            // Its host went down, and it is being installed again: nothing is confirmed that is not in force.
            Phase::Active if session.install.is_some() => return Err(session_busy(id)),
            Phase::Active => {
                self.answer_peer(ticket, PeerAnswer::Committed);
                return Ok(());
            }
            Phase::Ending(_)
            | Phase::Holding { .. }
            | Phase::Calling { .. }
            | Phase::Offered
            | Phase::Booking { .. }
            | Phase::Committing { .. } => {
                return Err(unknown);
            }
        }
        self.await_end(id);
        self.set_session_state(id, SessionState::Installing);
        // Aggregates in use cannot go, so there is always one to install on.
        let provisioning = self.provision(id);
        debug_assert!(provisioning, "a held session has its aggregates");
        Ok(())
    }

    pub(crate) fn second_side_provisioned(&mut self, id: &SessionId, commits: &[u64], now: Nanos) {
        self.activate(id, now);
        for &commit in commits {
            self.answer_peer(commit, PeerAnswer::Committed);
        }
    }

    pub(crate) fn second_side_not_provisioned(
        &mut self,
        id: &SessionId,
        commits: &[u64],
        refusal: &Refusal,
        now: Nanos,
    ) {
        if self.sessions.get(id).is_some_and(|session| session.record.booked) {
            self.not_started(id, refusal.clone(), now);
        } else {
            self.end(id, Ending::of_second_side(), now);
        }
        for &commit in commits {
            self.refuse_peer(commit, refusal.clone());
        }
    }

    /// No commit came in time: the hold is void, by this node's own clock.
    pub(crate) fn lapse(&mut self, id: &SessionId, now: Nanos) {
        if self.has_bug(PlantedBug::HoldEndsTwice)
            && let Some(session) = self.sessions.get_mut(id)
            && session.install.take().is_none()
        {
            // A mark for the second time.
            session.install = Some(0);
            let record = session.record.clone();
            self.give_back(&record);
            return self.set_timer(Subject::Session(id.clone()), now.plus(Nanos::from_millis(1)));
        }
        self.end(id, Ending::of_second_side(), now);
    }
}
