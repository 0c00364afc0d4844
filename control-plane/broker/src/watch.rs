//! Sessions that wait for room: refused asks that are called when what they want has become free (R-000-11).
//!
//! Who waits holds nothing. When something was given back, those that wait are looked at in the order in which they came; whose own side has
//! room is called: the second side is asked to hold, of a few at once. What both hold is offered for a short time, and the client takes it
//! by asking again. One that does not fit is passed by those behind it until [`PASSED_MAX`] of them came by that want a pool of its own: then
//! its turn is reserved, and nobody else that waits or begins to wait gets any of its pools before it. One that was called and found no room
//! at the second side is called again after a while, and keeps its turn for the first few times.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::authorization::Credential;
use crate::broker::{Broker, TableName};
use crate::calendar::OPEN;
use crate::event::{Answer, SessionRequest};
use crate::fence::Subject;
use crate::first_side::is_answer_to;
use crate::flow::{Terms, note_granted};
use crate::media_slots::{MediaSlots, SlotCounts};
use crate::message::{HoldFlow, PeerAnswer, PeerRequest};
use crate::name::{Nanos, SessionId};
use crate::planted::PlantedBug;
use crate::priority::{Priority, Rank};
use crate::record::{Change, FlowRecord, SessionRecord, SessionState, Side, Wait};
use crate::refusal::{Reason, Refusal};
use crate::release::Ending;
use crate::resources::{PoolName, wanted};
use crate::schedule::Schedule;
use crate::session::{Phase, Session};

/// So many of those behind may pass one that waits.
const PASSED_MAX: u32 = 8;
/// One that was called so often in vain keeps its turn until it is called again; the second side may be giving back what the first has.
const KEEPS_TURN_MAX: u32 = 3;
/// So many second sides are asked at once.
const CALLS_MAX: usize = 4;

/// A session that waits and holds nothing; its flows have neither labels nor policies.
pub(crate) struct Watch {
    pub(crate) record: SessionRecord,
    /// It is not called again before that.
    not_before: Nanos,
    /// What it was short of last is what the node can forward.
    short_of_node: bool,
}

impl Watch {
    /// The pools that are kept for it when its turn is reserved.
    fn wanted(&self) -> BTreeSet<PoolName> {
        wanted(&self.record, self.short_of_node)
    }

    /// Whether it wants any of the pools that others take of.
    fn wants_of(&self, taken: &BTreeSet<PoolName>) -> bool {
        !self.wanted().is_disjoint(taken)
    }

    fn place(&self) -> Place {
        place(&self.record)
    }

    /// It is called after all of this priority.
    fn is_behind(&self, priority: Priority) -> bool {
        self.record.priority.setup_rank() < priority.setup_rank()
    }

    fn is_turn_reserved(&self) -> bool {
        self.record.wait.is_some_and(|wait| wait.passed >= PASSED_MAX)
    }
}

/// Where a session is in the order of those that wait: by its priority, then by when it came. Lower is in front.
type Place = (Reverse<Rank>, u64);

fn place(record: &SessionRecord) -> Place {
    (Reverse(record.priority.setup_rank()), record.wait.map_or(0, |wait| wait.number))
}

/// What a client wants to wait for.
#[derive(Clone, Copy)]
pub(crate) struct WaitingWish<'a> {
    pub(crate) id: &'a SessionId,
    pub(crate) terms: Terms,
    pub(crate) media_slots: &'a MediaSlots,
    pub(crate) asked: &'a [HoldFlow],
    pub(crate) credential: &'a Credential,
}

/// Whether others' endings may heal it, so that it makes sense to begin to wait.
pub(crate) const fn is_for_want_of_room(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::PoolRateExhausted
            | Reason::PoolBurstExhausted
            | Reason::LinkExhausted
            | Reason::NodeCapacityExhausted
            | Reason::MediaSlotsExhausted
    )
}

/// Whether one that waits goes on after this; otherwise it is over.
const fn may_heal(reason: Reason) -> bool {
    is_for_want_of_room(reason)
        || matches!(
            reason,
            Reason::Busy | Reason::EndpointsInUse | Reason::LimitReached | Reason::PeerUnreachable | Reason::StaleEpoch
        )
}

/// It makes no sense to wait beyond its own start or end.
fn give_up_at(record: &SessionRecord) -> Nanos {
    let Schedule { starts_at, ends_at } = record.schedule;
    let until = record.wait.map_or(OPEN, |wait| wait.until);
    until.min(starts_at.unwrap_or(OPEN)).min(ends_at.unwrap_or(OPEN))
}

impl Broker {
    /// A client asks, and may wait.
    pub(crate) fn wait_for_session(
        &mut self,
        ticket: u64,
        request: SessionRequest,
        until: Nanos,
        credential: &Credential,
        now: Nanos,
    ) -> Result<(), Refusal> {
        credential.check()?;
        // A repeated request is answered though its time has come meanwhile.
        if self.session(&request.id).is_none() && !(now < until && until < OPEN) {
            let allowed = format!("a time to come, before {OPEN}; it is {now} now");
            return Err(Refusal::invalid("wait_until", until, allowed));
        }
        self.ask_session(ticket, request, Some(until), credential, now)
    }

    /// The last place of all.
    pub(crate) const fn new_wait(&mut self, until: Nanos) -> Wait {
        Wait { until, number: self.next_policy().0, passed: 0, failures: 0, offered_until: None }
    }

    /// Whether somebody's turn is reserved whose pools are wanted, and who is not of lower priority.
    pub(crate) fn is_turn_reserved(&self, asked: &[HoldFlow], slots: &SlotCounts, priority: Priority) -> bool {
        let aggregates = asked.iter().map(|flow| PoolName::Aggregate(flow.aggregate.clone()));
        let slots = slots.keys().map(|name| PoolName::Slots(name.clone()));
        let taken = aggregates.chain(slots).chain([PoolName::Node]).collect();
        self.watches
            .values()
            .any(|watch| watch.is_turn_reserved() && !watch.is_behind(priority) && watch.wants_of(&taken))
    }

    /// Whether a session that is being asked for was asked with a time to wait.
    pub(crate) fn may_wait(&self, id: &SessionId) -> bool {
        let waits = self.sessions.get(id).is_some_and(|session| session.record.wait.is_some());
        waits && !self.are_watches_full()
    }

    /// There is no room now. What not even empty pools would do for is refused all the same.
    pub(crate) fn start_to_wait(
        &mut self,
        ticket: u64,
        WaitingWish { id, terms, media_slots, asked, credential }: WaitingWish<'_>,
        wait: Wait,
        refusal: Option<Refusal>,
        now: Nanos,
    ) -> Result<(), Refusal> {
        let too_much = || Refusal::new(Reason::PoolRateExhausted, format!("session {id} is more than its pools"));
        let Some((peer, flows)) = self.flows_of_watch(asked, &media_slots.first, terms, now)? else {
            return Err(refusal.unwrap_or_else(too_much));
        };
        if self.are_watches_full() {
            return Err(self.full(TableName::Watches));
        }
        let held = SessionRecord::held(id.clone(), Side::First, peer, terms.schedule, flows);
        let record =
            SessionRecord { wait: Some(wait), media_slots: media_slots.clone(), priority: terms.priority, ..held };
        self.take_token(credential, id);
        self.insert_watch(credential.on(record), Nanos(0));
        self.note_shortage(id, refusal.map(|refusal| refusal.reason));
        self.notify(id.clone(), SessionState::Waiting);
        self.answer_waiting(id, [ticket]);
        Ok(())
    }

    fn note_shortage(&mut self, id: &SessionId, reason: Option<Reason>) {
        if let (Some(watch), Some(reason)) = (self.watches.get_mut(id), reason) {
            watch.short_of_node = reason == Reason::NodeCapacityExhausted;
        }
    }

    /// Those that are called keep their place.
    fn are_watches_full(&self) -> bool {
        self.watches.len() + self.called.len() >= self.config.limits.watches_max
    }

    fn answer_waiting(&mut self, id: &SessionId, clients: impl IntoIterator<Item = u64>) {
        for client in clients {
            if let Some(watch) = self.watches.get(id) {
                let answer = Answer::Session { record: watch.record.clone(), created: true };
                self.answer(client, answer);
            }
        }
    }

    fn insert_watch(&mut self, record: SessionRecord, not_before: Nanos) {
        let record = SessionRecord { state: SessionState::Waiting, ..record };
        self.persist(Change::PutSession(record.clone()));
        self.put_watch(record, not_before);
    }

    fn put_watch(&mut self, record: SessionRecord, not_before: Nanos) {
        let at = give_up_at(&record);
        let at = if not_before > Nanos(0) { at.min(not_before) } else { at };
        self.set_timer(Subject::Watch(record.id.clone()), at);
        self.watches.insert(record.id.clone(), Watch { record, not_before, short_of_node: false });
    }

    /// An earlier life of this node let it wait.
    pub(crate) fn adopt_watch(&mut self, record: SessionRecord) {
        self.put_watch(record, Nanos(0));
    }

    /// It has given back what it held for a call or an offer, and takes its old place.
    pub(crate) fn wait_again(&mut self, mut record: SessionRecord, clients: Vec<u64>, now: Nanos) {
        for flow in &mut record.flows {
            let HoldFlow { meter, quality, .. } = flow.to_hold();
            *flow = FlowRecord { meter, quality, label: None, policy: crate::name::PolicyId(0), ..flow.clone() };
        }
        // Readings of a call that came to nothing are not those of the session that may come.
        record.usage.clear();
        record.ledger_due = false;
        let retry = self.config.timers.retry.0;
        let mut wait_ns = 0;
        // Who was told that it waits need not hear of a call in vain.
        let told = clients.is_empty() && record.wait.is_some_and(|wait| wait.offered_until.is_none());
        if let Some(wait) = &mut record.wait {
            // What was offered found room: this node was started again, or the other side has lost it.
            if wait.offered_until.take().is_none() {
                let factor = 1u64.checked_shl(wait.failures).unwrap_or(u64::MAX);
                wait_ns = retry.saturating_mul(factor).min(self.config.timers.retry_max.0);
                wait.failures = wait.failures.saturating_add(1);
            }
        }
        self.called.remove(&record.id);
        let (id, is_over) = (record.id.clone(), give_up_at(&record) <= now);
        let not_before = if wait_ns == 0 { Nanos(0) } else { now.plus(Nanos(wait_ns)) };
        self.insert_watch(record, not_before);
        self.room = true;
        if !told {
            self.notify(id.clone(), SessionState::Waiting);
        }
        self.answer_waiting(&id, clients);
        if is_over {
            self.expire(&id);
        }
    }

    /// Its time has come to be called again, or to give up.
    pub(crate) fn watch_timer(&mut self, id: &SessionId, now: Nanos) {
        let Some(watch) = self.watches.get(id) else { return };
        let at = give_up_at(&watch.record);
        if at <= now {
            return self.expire(id);
        }
        self.room = true;
        self.set_timer(Subject::Watch(id.clone()), at);
    }

    fn expire(&mut self, id: &SessionId) {
        let detail = format!("there was no room for session {id} as long as it waited");
        self.end_watch(id, Some(Refusal::new(Reason::WaitExpired, detail)));
    }

    /// It is kept as ended, with the reason if there is one.
    fn end_watch(&mut self, id: &SessionId, failure: Option<Refusal>) -> Option<SessionRecord> {
        let Watch { record, .. } = self.watches.remove(id)?;
        self.clear_timer(&Subject::Watch(id.clone()));
        let record = SessionRecord {
            state: SessionState::Ended,
            wait: None,
            token: None,
            failure: failure.map(Box::new),
            ..record
        };
        self.persist(Change::PutSession(record.clone()));
        self.keep_ended(record.clone());
        self.notify(id.clone(), SessionState::Ended);
        // Its turn may have been reserved.
        self.room = true;
        Some(record)
    }

    /// A client does not want to wait any more. False if the session does not wait.
    pub(crate) fn delete_watch(&mut self, ticket: u64, id: &SessionId) -> bool {
        let Some(record) = self.end_watch(id, None) else { return false };
        self.answer(ticket, Answer::Session { record, created: true });
        true
    }

    /// Counts for all that wait for any of the pools, and are in front of who takes them, that somebody came by. `number` is its own if it
    /// has waited.
    pub(crate) fn note_passed(&mut self, passing: &SessionRecord, number: Option<u64>) {
        if self.watches.is_empty() {
            return;
        }
        let taken = wanted(passing, true);
        let mut changed = Vec::new();
        for watch in self.watches.values_mut() {
            let before = watch.place() < (Reverse(passing.priority.setup_rank()), number.unwrap_or(u64::MAX));
            if before && !watch.is_turn_reserved() && watch.wants_of(&taken) {
                if let Some(wait) = &mut watch.record.wait {
                    wait.passed += 1;
                }
                changed.push(watch.record.clone());
            }
        }
        for record in changed {
            self.persist(Change::PutSession(record));
        }
    }

    /// After every input: if something was given back, whose turn is it?
    pub(crate) fn call_waiting(&mut self, now: Nanos) {
        if !std::mem::take(&mut self.room) || self.watches.is_empty() {
            return;
        }
        let mut queue: Vec<(Place, SessionId)> =
            self.watches.iter().map(|(id, watch)| (watch.place(), id.clone())).collect();
        let given_back = self.called.iter().filter_map(|id| Some((id, self.sessions.get(id)?)));
        let given_back = given_back.filter(|(_, session)| session.is_ending());
        // They wait again as soon as the second side has given back, too.
        queue.extend(given_back.map(|(id, session)| (place(&session.record), id.clone())));
        queue.sort_unstable();
        let mut reserved: BTreeSet<PoolName> = BTreeSet::new();
        for ((_, number), id) in queue {
            if self.calling.len() >= CALLS_MAX || self.are_sessions_full() {
                // The end of any of them is looked at again.
                break;
            }
            let Some(watch) = self.watches.get(&id) else {
                let given_back = self.sessions.get(&id).map(|session| wanted(&session.record, false));
                reserved.extend(given_back.into_iter().flatten());
                continue;
            };
            if !wanted(&watch.record, true).is_disjoint(&reserved) {
                continue;
            }
            let record = watch.record.clone();
            let called_in_vain = watch.not_before > now;
            let failures = record.wait.map_or(0, |wait| wait.failures);
            let keeps_turn = watch.is_turn_reserved() || (called_in_vain && failures <= KEEPS_TURN_MAX);
            let is_called = !called_in_vain && self.call(record, number, now);
            if !is_called && keeps_turn {
                reserved.extend(self.watches.get(&id).into_iter().flat_map(Watch::wanted));
            }
        }
    }

    /// Holds here and asks the second side. False if there is no room here, and it goes on waiting.
    fn call(&mut self, waiting: SessionRecord, number: u64, now: Nanos) -> bool {
        let (id, terms) = (waiting.id.clone(), waiting.terms());
        let mut asked: Vec<HoldFlow> = waiting.flows.iter().map(FlowRecord::to_hold).collect();
        let (peer, flows) = match self.admit(None, &asked, &waiting.media_slots.first, terms, now) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                let is_over = !may_heal(refusal.reason);
                self.note_shortage(&id, Some(refusal.reason));
                if is_over {
                    self.end_watch(&id, Some(refusal));
                }
                return is_over;
            }
        };
        note_granted(&mut asked, &flows);
        self.watches.remove(&id);
        self.clear_timer(&Subject::Watch(id.clone()));
        let attempt = flows.first().map_or(0, |flow| flow.policy.0);
        let record = SessionRecord { state: SessionState::Held, peer: peer.clone(), flows, ..waiting };
        self.note_passed(&record, Some(number));
        self.persist(Change::PutSession(record.clone()));
        let subject = Subject::Session(id.clone());
        let request = PeerRequest::HoldSession {
            session: id.clone(),
            attempt,
            schedule: terms.schedule,
            priority: terms.priority,
            preempting: Vec::new(),
            sent_at: now,
            offer: true,
            media_slots: record.media_slots.second.clone(),
            flows: asked,
        };
        let ask = self.send_with(subject.clone(), peer, request, record.token.clone(), now);
        self.set_timer(subject, give_up_at(&record));
        self.calling.insert(id.clone());
        self.called.insert(id.clone());
        self.sessions.insert(id, Session::new(record, attempt, Phase::Calling { ask }));
        true
    }

    /// What the second side said to a call.
    pub(crate) fn call_answered(&mut self, id: &SessionId, answer: Result<PeerAnswer, String>, now: Nanos) {
        self.calling.remove(id);
        self.room = true;
        let refusal = match answer {
            Ok(PeerAnswer::Held { flows }) => match self.take_values(id, flows) {
                Ok(()) => return self.offer(id, now),
                Err(refusal) => return self.fail_call(id, refusal, true, now),
            },
            Ok(PeerAnswer::Refused { refusal }) => return self.fail_call(id, refusal, false, now),
            Ok(other) => crate::first_side::misfit(id, &other),
            Err(why) => crate::first_side::silent(id, &why),
        };
        self.fail_call(id, refusal, true, now);
    }

    fn fail_call(&mut self, id: &SessionId, refusal: Refusal, peer_holds: bool, now: Nanos) {
        if may_heal(refusal.reason) {
            return self.end(id, Ending::waits_again(None, peer_holds), now);
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.record.failure = Some(Box::new(refusal));
        }
        self.notify(id.clone(), SessionState::Ended);
        self.end(id, Ending::of_watch(None, peer_holds), now);
    }

    fn offer(&mut self, id: &SessionId, now: Nanos) {
        let lapse = now.plus(self.config.timers.offer);
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Schedule { starts_at, ends_at } = session.record.schedule;
        let at = lapse.min(starts_at.unwrap_or(OPEN)).min(ends_at.unwrap_or(OPEN));
        session.phase = Phase::Offered;
        if let Some(wait) = &mut session.record.wait {
            (wait.offered_until, wait.failures) = (Some(at), 0);
        }
        self.set_session_state(id, SessionState::Offered);
        self.set_timer(Subject::Session(id.clone()), at);
        self.notify(id.clone(), SessionState::Offered);
    }

    /// The client asks again for what is offered. False if it is not.
    pub(crate) fn take_offer(
        &mut self,
        ticket: u64,
        id: &SessionId,
        terms: Terms,
        media_slots: &MediaSlots,
        asked: &[HoldFlow],
        now: Nanos,
    ) -> bool {
        let Some(session) = self.sessions.get(id) else { return false };
        let offered =
            matches!(session.phase, Phase::Offered) && is_answer_to(&session.record, terms, media_slots, asked);
        if offered {
            self.await_end(id);
            self.go_on(id, ticket, now);
        }
        offered
    }

    /// The client has not taken it in time, or its time to wait is over while it is called: both sides give it back.
    pub(crate) fn lapse_offer(&mut self, id: &SessionId, now: Nanos) {
        if self.has_bug(PlantedBug::OfferKept) {
            return;
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let failure = if matches!(session.phase, Phase::Offered) {
            Refusal::new(Reason::OfferLapsed, format!("session {id} was offered, and not taken in time"))
        } else {
            Refusal::new(Reason::WaitExpired, format!("the time to wait of session {id} ended while it was called"))
        };
        session.record.failure = Some(Box::new(failure));
        self.notify(id.clone(), SessionState::Ended);
        self.end(id, Ending::of_watch(None, true), now);
    }
}
