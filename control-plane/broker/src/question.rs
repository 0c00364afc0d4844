//! Questions: what would a session be answered now? Both sides say, and neither holds, keeps or counts anything (R-000-1, R-000-2).
//!
//! What both say holds for the moment in which each says it: what is asked for meanwhile may take the room. Data planes are not asked.

use crate::authorization::Credential;
use crate::broker::{Broker, TableName};
use crate::event::{Answer, FlowRequest, SessionRequest};
use crate::fence::Subject;
use crate::first_side::{check_values, misfit, silent};
use crate::flow::{Terms, are_answer_to, note_granted};
use crate::message::{HeldFlow, HoldFlow, PeerAnswer, PeerRequest};
use crate::name::{Nanos, NodeName, SessionId};
use crate::preemption::check_listed;
use crate::record::{SessionRecord, Side};
use crate::refusal::{Reason, Refusal};
use crate::second_side::{Hold, values};
use crate::session::{session_busy, session_id_reused};
use crate::watch::is_for_want_of_room;

/// First side: the second was asked what it would hold.
pub(crate) struct Question {
    client: u64,
    /// With what this side would give.
    record: SessionRecord,
    /// Whom it would end for that.
    preempts: Vec<SessionId>,
}

impl Broker {
    /// First side: a client wants to know what [`Self::create_session`] would come to.
    pub(crate) fn ask_would_admit(
        &mut self,
        ticket: u64,
        request: SessionRequest,
        credential: &Credential,
        now: Nanos,
    ) {
        if let Err(refusal) = self.would_admit_at_both(ticket, request, credential, now) {
            self.answer_question(ticket, Err(refusal));
        }
    }

    fn would_admit_at_both(
        &mut self,
        ticket: u64,
        request: SessionRequest,
        credential: &Credential,
        now: Nanos,
    ) -> Result<(), Refusal> {
        credential.check()?;
        let SessionRequest { id, schedule, priority, media_slots, flows } = request;
        let terms = Terms { schedule, priority };
        let mut asked: Vec<HoldFlow> = flows.iter().map(FlowRequest::to_hold).collect();
        if self.repeated(ticket, &id, terms, &media_slots, &asked)? {
            return Ok(());
        }
        self.check_token(credential)?;
        schedule.check(now)?;
        priority.check()?;
        if self.are_sessions_full() {
            return Err(self.no_place(TableName::Sessions));
        }
        let (peer, flows, preempts) = match self.would_admit(None, &asked, &media_slots.first, terms, now) {
            Ok((peer, flows)) => (peer, flows, Vec::new()),
            Err(refusal) => self.would_make_room_here(&id, (terms, &media_slots), &asked, refusal, now)?,
        };
        note_granted(&mut asked, &flows);
        if self.questions.len() >= self.config.limits.questions_max {
            return Err(self.full(TableName::Questions));
        }
        let request = PeerRequest::WouldHoldSession {
            session: id.clone(),
            schedule,
            priority,
            preempting: preempts.clone(),
            sent_at: now,
            media_slots: media_slots.second.clone(),
            flows: asked,
        };
        let ask = self.send_with(Subject::Question, peer.clone(), request, credential.token.clone(), now);
        let held = SessionRecord::held(id, Side::First, peer, schedule, flows);
        let record = SessionRecord { priority, media_slots, ..held };
        self.questions.insert(ask, Question { client: ticket, record, preempts });
        Ok(())
    }

    /// First side: what the second would hold, which are the values that count.
    pub(crate) fn question_answered(&mut self, ask: u64, answer: Result<PeerAnswer, String>) {
        let Some(Question { client, mut record, mut preempts }) = self.questions.remove(&ask) else { return };
        let id = &record.id;
        let values = match answer {
            Ok(PeerAnswer::WouldHold { flows, preempts: theirs }) => {
                preempts.extend(theirs);
                check_values(&record.flows, &flows).map(|()| flows).map_err(|why| {
                    let detail = format!("the second side's answer to session {id} is wrong: {why}");
                    Refusal::new(Reason::SecondSideRefused, detail)
                })
            }
            Ok(PeerAnswer::Refused { refusal }) => Err(refusal),
            Ok(other) => Err(misfit(id, &other)),
            Err(why) => Err(silent(id, &why)),
        };
        let answer = values.map(|values| {
            for (flow, HeldFlow { meter, quality, .. }) in record.flows.iter_mut().zip(values) {
                flow.meter = meter;
                flow.quality = quality;
            }
            Answer::WouldAdmit { record, preempts }
        });
        self.answer_question(client, answer);
    }

    /// Second side: what a hold would be answered.
    pub(crate) fn would_hold_received(
        &mut self,
        ticket: u64,
        peer: &NodeName,
        id: &SessionId,
        hold: Hold<'_>,
        now: Nanos,
    ) {
        let would = self.would_hold(peer, id, hold, now);
        let answer = would.map(|(flows, preempts)| PeerAnswer::WouldHold { flows, preempts });
        self.answer_peers_question(ticket, answer);
    }

    fn would_hold(
        &mut self,
        peer: &NodeName,
        id: &SessionId,
        hold: Hold<'_>,
        now: Nanos,
    ) -> Result<(Vec<HeldFlow>, Vec<SessionId>), Refusal> {
        let Hold { terms, sent_at, asked, credential, .. } = hold;
        let media_slots = hold.media_slots.clone();
        credential.check()?;
        let without_labels = |flow: HeldFlow| HeldFlow { label: None, ..flow };
        if let Some(session) = self.sessions.get(id) {
            if session.is_ending() {
                return Err(session_busy(id));
            }
            let record = &session.record;
            let same = record.side == Side::Second
                && record.peer == *peer
                && record.terms() == terms
                && record.media_slots.second == media_slots
                // Questions have no labels, as requests of clients.
                && are_answer_to(&record.flows, asked, Side::Second);
            if !same {
                return Err(session_id_reused(id, &self.config.node));
            }
            return Ok((values(&record.flows).into_iter().map(without_labels).collect(), Vec::new()));
        }
        if self.is_making_room(id) {
            return Err(session_busy(id));
        }
        if self.watches.contains_key(id) {
            return Err(session_id_reused(id, &self.config.node));
        }
        if self.ended.get(id).is_some_and(|record| record.side == Side::First || record.peer != *peer) {
            return Err(session_id_reused(id, &self.config.node));
        }
        self.check_token(credential)?;
        terms.schedule.check_peers(sent_at, now, &self.config.timers)?;
        terms.priority.check()?;
        check_listed(&hold.preempting)?;
        if self.are_sessions_full() {
            return Err(self.no_place(TableName::Sessions));
        }
        match self.would_admit(Some(peer), asked, &media_slots, terms, now) {
            Ok((_, flows)) => Ok((values(&flows), Vec::new())),
            Err(refusal) if is_for_want_of_room(refusal.reason) => {
                self.would_make_room(peer, id, &hold, now).ok_or(refusal)
            }
            Err(refusal) => Err(refusal),
        }
    }
}
