//! The first side makes room: asks the second whether it would hold, claims, has it hold, and ends what is in the way.

use super::{Asker, Claim, Plan, Preemption, Stage, Wish};
use crate::authorization::Credential;
use crate::broker::{Broker, TableName};
use crate::fence::Subject;
use crate::first_side::{check_values, misfit, silent};
use crate::flow::{Labels, Terms, note_granted};
use crate::media_slots::MediaSlots;
use crate::message::{HeldFlow, HoldFlow, PeerAnswer, PeerRequest};
use crate::name::{Nanos, NodeName, SessionId};
use crate::record::{Change, FlowRecord, SessionRecord, SessionState, Side, Wait};
use crate::refusal::{Reason, Refusal};
use crate::release::Ending;
use crate::series::OWN_TICKET;
use crate::session::{Phase, Session};
use crate::usage;
use crate::watch::{WaitingWish, is_for_want_of_room};

/// Where others change what is there while the second side is asked, it is asked so often.
const TRIES_MAX: u32 = 3;

impl Wish {
    const fn waiting(&self) -> WaitingWish<'_> {
        let Self { id, terms, media_slots, credential, .. } = self;
        WaitingWish { id, terms: *terms, media_slots, asked: self.asked.as_slice(), credential }
    }
}

impl Broker {
    /// A client's ask finds no room here. False if nobody may be ended for it, or that does not help.
    pub(crate) fn make_room(
        &mut self,
        ticket: u64,
        WaitingWish { id, terms, media_slots, asked, credential }: WaitingWish<'_>,
        wait: Option<Wait>,
        now: Nanos,
    ) -> Result<bool, Refusal> {
        let wish = Wish {
            id: id.clone(),
            terms,
            asked: asked.to_vec(),
            media_slots: media_slots.clone(),
            credential: credential.clone(),
        };
        // A series may yet be refused for a later occurrence.
        if ticket & OWN_TICKET != 0 {
            return Ok(false);
        }
        let Some(plan) = self.plan(None, &wish, &[], Labels::None, now) else { return Ok(false) };
        self.check_preemptions()?;
        self.ask_before(wish, plan, Asker::Client { ticket, wait }, 1, now);
        Ok(true)
    }

    /// To a question: whom this side would end, and what it would have then. `refusal` if that does not help.
    pub(crate) fn would_make_room_here(
        &mut self,
        id: &SessionId,
        (terms, media_slots): (Terms, &MediaSlots),
        asked: &[HoldFlow],
        refusal: Refusal,
        now: Nanos,
    ) -> Result<(NodeName, Vec<FlowRecord>, Vec<SessionId>), Refusal> {
        if !is_for_want_of_room(refusal.reason) {
            return Err(refusal);
        }
        let wish = Wish {
            id: id.clone(),
            terms,
            asked: asked.to_vec(),
            media_slots: media_slots.clone(),
            credential: Credential::default(),
        };
        let Plan { peer, flows, victims } = self.plan(None, &wish, &[], Labels::None, now).ok_or(refusal)?;
        Ok((peer, flows, victims.into_iter().collect()))
    }

    fn ask_before(&mut self, wish: Wish, plan: Plan, asker: Asker, tries: u32, now: Nanos) {
        let mut flows = wish.asked.clone();
        note_granted(&mut flows, &plan.flows);
        let request = PeerRequest::WouldHoldSession {
            session: wish.id.clone(),
            schedule: wish.terms.schedule,
            priority: wish.terms.priority,
            preempting: plan.victims.iter().cloned().collect(),
            sent_at: now,
            media_slots: wish.media_slots.second.clone(),
            flows,
        };
        let peer = plan.peer.clone();
        let ask = self.send_with(
            Subject::Preemption(wish.id.clone()),
            peer.clone(),
            request,
            wish.credential.token.clone(),
            now,
        );
        let stage = Stage::Asking { ask, tries, plan };
        self.preemptions.insert(wish.id.clone(), Preemption { wish, peer, asker, stage });
    }

    /// What the second side said: whether it would hold, or whether it holds.
    pub(crate) fn preemption_answered(
        &mut self,
        id: &SessionId,
        ticket: u64,
        answer: Result<PeerAnswer, String>,
        now: Nanos,
    ) {
        match self.preemptions.get_mut(id).map(|preemption| &mut preemption.stage) {
            Some(Stage::Asking { ask, .. }) if *ask == ticket => self.told_whether(id, answer, now),
            Some(Stage::Claimed(claim)) if claim.ask == Some(ticket) => claim.answer = Some(answer),
            Some(_) => {}
            None => self.session_answered(id, ticket, answer, now),
        }
    }

    fn told_whether(&mut self, id: &SessionId, answer: Result<PeerAnswer, String>, now: Nanos) {
        let Some(Preemption { mut wish, asker, stage, .. }) = self.preemptions.remove(id) else { return };
        let (Asker::Client { ticket, wait }, Stage::Asking { tries, plan, .. }) = (asker, stage) else { return };
        let values = match answer {
            Ok(PeerAnswer::WouldHold { flows, .. }) => {
                check_values(&plan.flows, &flows).map(|()| flows).map_err(|why| {
                    let detail = format!("the second side's answer to session {id} is wrong: {why}");
                    Refusal::new(Reason::SecondSideRefused, detail)
                })
            }
            Ok(PeerAnswer::Refused { refusal }) => Err(refusal),
            Ok(other) => Err(misfit(id, &other)),
            Err(why) => Err(silent(id, &why)),
        };
        let done = values.and_then(|values| self.go_for(&mut wish, plan, &values, (ticket, wait, tries), now));
        let Err(refusal) = done else { return };
        let refusal = match wait {
            Some(wait) if is_for_want_of_room(refusal.reason) => {
                let waiting = wish.waiting();
                match self.start_to_wait(ticket, waiting, wait, Some(refusal), now) {
                    Ok(()) => return,
                    Err(refusal) => refusal,
                }
            }
            _ => refusal,
        };
        self.refuse(ticket, refusal);
    }

    /// The second side would hold these values: room that has come meanwhile is taken, or made as it was told.
    fn go_for(
        &mut self,
        wish: &mut Wish,
        plan: Plan,
        values: &[HeldFlow],
        (ticket, wait, tries): (u64, Option<Wait>, u32),
        now: Nanos,
    ) -> Result<(), Refusal> {
        for (asked, held) in wish.asked.iter_mut().zip(values) {
            asked.rate_bps_max = Some(held.meter.rate_bps).filter(|rate_bps| *rate_bps < asked.meter.rate_bps);
        }
        wish.terms.schedule.check(now)?;
        self.check_token(&wish.credential)?;
        self.check_token_place(&wish.credential, now)?;
        if self.are_sessions_full() {
            return Err(self.full(TableName::Sessions));
        }
        let refusal = match self.admit(None, &wish.asked, &wish.media_slots.first, wish.terms, now) {
            Ok(admitted) => {
                let waiting = wish.waiting();
                self.hold_at_both(ticket, waiting, admitted, wait, now);
                return Ok(());
            }
            Err(refusal) if is_for_want_of_room(refusal.reason) => refusal,
            Err(refusal) => return Err(refusal),
        };
        let Some(now_planned) = self.plan(None, wish, &[], Labels::None, now) else { return Err(refusal) };
        let asker = Asker::Client { ticket, wait };
        if now_planned.victims == plan.victims {
            self.claim_at_both(wish.clone(), now_planned, asker, now)
        } else if tries < TRIES_MAX {
            self.ask_before(wish.clone(), now_planned, asker, tries + 1, now);
            Ok(())
        } else {
            let detail = format!("others took and gave back room while session {} asked for it; ask again", wish.id);
            Err(Refusal::new(Reason::Busy, detail))
        }
    }

    fn claim_at_both(&mut self, mut wish: Wish, plan: Plan, asker: Asker, now: Nanos) -> Result<(), Refusal> {
        let peer = plan.peer.clone();
        let busy = || Refusal::new(Reason::Busy, "the room that was there has gone; ask again");
        let mut claim = self.claim(&wish, plan, Side::First, now).ok_or_else(busy)?;
        note_granted(&mut wish.asked, &claim.flows);
        // If this node dies now, it is to tell the peer to give back what that may hold by then.
        let unheld = self.unheld(&wish, peer.clone(), claim.flows.clone());
        self.take_token(&wish.credential, &wish.id);
        self.persist(Change::PutSession(unheld));
        let request = PeerRequest::HoldSession {
            session: wish.id.clone(),
            attempt: claim.flows.first().map_or(0, |flow| flow.policy.0),
            schedule: wish.terms.schedule,
            priority: wish.terms.priority,
            preempting: claim.victims.iter().cloned().collect(),
            sent_at: now,
            media_slots: wish.media_slots.second.clone(),
            offer: false,
            flows: wish.asked.clone(),
        };
        let subject = Subject::Preemption(wish.id.clone());
        claim.ask = Some(self.send_with(subject.clone(), peer.clone(), request, wish.credential.token.clone(), now));
        self.set_timer(subject, now.plus(self.config.timers.hold));
        let victims = claim.victims.clone();
        let preemption = Preemption { wish: wish.clone(), peer, asker, stage: Stage::Claimed(Box::new(claim)) };
        self.preemptions.insert(wish.id.clone(), preemption);
        for victim in &victims {
            self.preempt(victim, &wish, now);
        }
        Ok(())
    }

    /// All that was in the way is out of force here.
    pub(super) fn take_at_first_side(
        &mut self,
        wish: Wish,
        peer: NodeName,
        claim: Claim,
        (client, wait): (u64, Option<Wait>),
        now: Nanos,
    ) {
        if !self.hold_claimed(&claim, &wish, Side::First, now) {
            let detail = format!("a pool was made smaller while session {} waited for its room; ask again", wish.id);
            let refusal = Refusal::new(Reason::Busy, detail);
            return self.release_unheld(wish, peer, claim.flows, (client, refusal), now);
        }
        let Wish { id, terms, media_slots, credential, .. } = wish;
        let attempt = claim.flows.first().map_or(0, |flow| flow.policy.0);
        let held = SessionRecord::held(id.clone(), Side::First, peer, terms.schedule, claim.flows);
        let record = credential.on(SessionRecord { wait, media_slots, priority: terms.priority, ..held });
        self.note_passed(&record, None);
        self.persist(Change::PutSession(record.clone()));
        let ask = claim.ask.unwrap_or_default();
        self.sessions.insert(id.clone(), Session::new(record, attempt, Phase::Holding { ask, client }));
        self.await_end(&id);
        if let Some(answer) = claim.answer {
            self.session_answered(&id, ask, answer, now);
        }
    }

    /// The record of a session that has nothing here, while the peer may hold something for it.
    fn unheld(&self, wish: &Wish, peer: NodeName, flows: Vec<FlowRecord>) -> SessionRecord {
        let held = SessionRecord::held(wish.id.clone(), Side::First, peer, wish.terms.schedule, flows);
        let mut record = SessionRecord {
            state: SessionState::Releasing,
            priority: wish.terms.priority,
            media_slots: wish.media_slots.clone(),
            ..held
        };
        usage::complete(&mut record, &self.config.node);
        record
    }

    /// Refuses, and has the peer give back what it may hold; it was asked to if there are flows.
    pub(super) fn release_unheld(
        &mut self,
        wish: Wish,
        peer: NodeName,
        flows: Vec<FlowRecord>,
        (client, refusal): (u64, Refusal),
        now: Nanos,
    ) {
        let Some(attempt) = flows.first().map(|flow| flow.policy.0) else { return self.refuse(client, refusal) };
        let record = self.unheld(&wish, peer, flows);
        let phase = Phase::Ending(Box::new(Ending::of_unheld(&record, client, refusal)));
        self.sessions.insert(wish.id.clone(), Session::new(record, attempt, phase));
        self.end_next(&wish.id, now);
    }
}
