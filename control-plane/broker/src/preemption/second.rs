//! The second side makes room: it has the first wait for its answer while it ends what is in the way.

use super::{Asker, Claim, Preemption, Stage, VICTIMS_MAX, Wish};
use crate::broker::Broker;
use crate::fence::Subject;
use crate::flow::Labels;
use crate::media_slots::MediaSlots;
use crate::message::HeldFlow;
use crate::name::{Nanos, NodeName, SessionId};
use crate::record::{Change, SessionRecord, Side};
use crate::refusal::{Reason, Refusal};
use crate::second_side::{Hold, held, values};
use crate::session::{Phase, Session, session_busy, session_id_reused};

fn wish(id: &SessionId, Hold { terms, media_slots, asked, credential, .. }: &Hold<'_>) -> Wish {
    let media_slots = MediaSlots::of_second(media_slots.clone());
    Wish { id: id.clone(), terms: *terms, asked: asked.to_vec(), media_slots, credential: (*credential).clone() }
}

/// A peer may not name more than this node would choose itself.
pub(crate) fn check_listed(preempting: &[SessionId]) -> Result<(), Refusal> {
    if preempting.len() > VICTIMS_MAX {
        let allowed = format!("at most {VICTIMS_MAX}");
        return Err(Refusal::invalid("preempting", format!("{} sessions", preempting.len()), allowed));
    }
    Ok(())
}

impl Broker {
    /// A hold of a peer finds no room here. False if nobody may be ended for it, or that does not help.
    pub(crate) fn make_room_for_peer(
        &mut self,
        ticket: u64,
        peer: &NodeName,
        id: &SessionId,
        hold: &Hold<'_>,
        now: Nanos,
    ) -> Result<bool, Refusal> {
        let wish = wish(id, hold);
        let Some(plan) = self.plan(Some(peer), &wish, &hold.preempting, Labels::OfReceiver, now) else {
            return Ok(false);
        };
        self.check_preemptions()?;
        let Some(claim) = self.claim(&wish, plan, Side::Second, now) else { return Ok(false) };
        let victims = claim.victims.clone();
        self.set_timer(Subject::Preemption(id.clone()), now.plus(self.config.timers.hold));
        let asker = Asker::Peer { tickets: vec![ticket], attempt: hold.attempt };
        let stage = Stage::Claimed(Box::new(claim));
        self.preemptions.insert(id.clone(), Preemption { wish: wish.clone(), peer: peer.clone(), asker, stage });
        for victim in &victims {
            self.preempt(victim, &wish, now);
        }
        Ok(true)
    }

    /// A hold that has come before, for which room is being made. False if there is none.
    pub(crate) fn is_hold_repeated(
        &mut self,
        ticket: u64,
        from: &NodeName,
        id: &SessionId,
        hold: &Hold<'_>,
        now: Nanos,
    ) -> Result<bool, Refusal> {
        let Some(Preemption { wish, peer, asker, .. }) = self.preemptions.get_mut(id) else { return Ok(false) };
        let Asker::Peer { tickets, attempt } = asker else { return Err(session_id_reused(id, &self.config.node)) };
        if peer != from {
            return Err(session_id_reused(id, &self.config.node));
        }
        if *attempt == hold.attempt
            && wish.terms == hold.terms
            && wish.media_slots.second == hold.media_slots
            && wish.asked == hold.asked
        {
            tickets.push(ticket);
            return Ok(true);
        }
        if *attempt < hold.attempt {
            // The first side has begun anew, and does not wait for this any more.
            self.drop_claim(id, session_busy(id), now);
        }
        Err(session_busy(id))
    }

    /// What [`Self::make_room_for_peer`] would come to: the values, and whom it would end beside those that the first side does.
    pub(crate) fn would_make_room(
        &mut self,
        peer: &NodeName,
        id: &SessionId,
        hold: &Hold<'_>,
        now: Nanos,
    ) -> Option<(Vec<HeldFlow>, Vec<SessionId>)> {
        let plan = self.plan(Some(peer), &wish(id, hold), &hold.preempting, Labels::None, now)?;
        let own = plan.victims.into_iter().filter(|victim| !hold.preempting.contains(victim));
        Some((values(&plan.flows), own.collect()))
    }

    /// The first side does not want the hold any more.
    pub(crate) fn drop_claim_of_peer(&mut self, from: &NodeName, id: &SessionId, released: u64, now: Nanos) {
        let meant = self.preemptions.get(id).is_some_and(|preemption| {
            let is_over = |attempt: u64| released == 0 || attempt <= released;
            preemption.peer == *from && matches!(preemption.asker, Asker::Peer { attempt, .. } if is_over(attempt))
        });
        if meant {
            let detail = format!("session {id} was released meanwhile");
            self.drop_claim(id, Refusal::new(Reason::UnknownSession, detail), now);
        }
    }

    /// All that was in the way is out of force here: the first side is answered.
    pub(super) fn take_at_second_side(
        &mut self,
        wish: Wish,
        peer: NodeName,
        claim: Claim,
        tickets: &[u64],
        attempt: u64,
        now: Nanos,
    ) {
        let is_held = self.hold_claimed(&claim, &wish, Side::Second, now);
        let Wish { id, terms, media_slots, credential, .. } = wish;
        let token = self.check_token(&credential).and_then(|()| self.check_token_place(&credential, now));
        if !is_held || token.is_err() {
            if is_held {
                let interval = terms.schedule.interval();
                self.give_back_parts(&claim.flows, &media_slots.second, interval);
                self.give_places_back(&claim.flows, interval);
            }
            self.fences.close(&peer, Subject::Session(id.clone()), attempt);
            let detail = format!("what session {id} waited for is not there any more; ask again");
            let refusal = token.err().unwrap_or_else(|| Refusal::new(Reason::Busy, detail));
            for &ticket in tickets {
                self.refuse_peer(ticket, refusal.clone());
            }
            return;
        }
        self.ended.forget(&id);
        let answer = held(&claim.flows);
        let held = SessionRecord::held(id.clone(), Side::Second, peer, terms.schedule, claim.flows);
        let record = credential.on(SessionRecord { attempt, media_slots, priority: terms.priority, ..held });
        self.take_token(&credential, &id);
        self.persist(Change::PutSession(record.clone()));
        self.sessions.insert(id.clone(), Session::new(record, attempt, Phase::Held));
        let lapse = now.plus(self.config.timers.hold).min(terms.schedule.ends_at.unwrap_or(crate::calendar::OPEN));
        self.set_timer(Subject::Session(id), lapse);
        for &ticket in tickets {
            self.answer_peer(ticket, answer.clone());
        }
    }
}
