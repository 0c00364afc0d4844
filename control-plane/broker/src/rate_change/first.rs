//! The first side of a change of rates: it was asked by a client, and drives the change to one end or the other.

use std::collections::BTreeSet;

use super::{FlowChange, FlowRates, RateChange, RateStage, RateStep, RateWish, RateWork};
use crate::broker::Broker;
use crate::event::Answer;
use crate::fence::Subject;
use crate::flow::check_meter;
use crate::message::{HeldRate, HoldRate, PeerAnswer, PeerRequest};
use crate::name::{Nanos, PolicyId, SessionId};
use crate::policy::{Counters, InstallError, Meter};
use crate::record::{Change, SessionRecord, Side};
use crate::refusal::{Reason, Refusal};
use crate::session::{Phase, session_busy, unknown_session};

impl Broker {
    /// A client wants other rates of some flows.
    pub(crate) fn change_session_rates(
        &mut self,
        ticket: u64,
        id: &SessionId,
        wishes: &[RateWish],
        now: Nanos,
    ) -> Result<(), Refusal> {
        let Some(session) = self.sessions.get(id) else {
            if self.ended.get(id).is_some() {
                let detail = format!("session {id} has ended; ask for another one");
                return Err(Refusal::new(Reason::UnknownSession, detail).at("id"));
            }
            return Err(unknown_session(id, &self.config.node));
        };
        let record = &session.record;
        if record.side == Side::Second {
            let allowed =
                format!("a session that this node was asked for; this one's rates are changed at {}", record.peer);
            return Err(Refusal::invalid("id", id, allowed));
        }
        let is_steady = match session.phase {
            Phase::Active => session.install.is_none(),
            // Not while it is being started.
            Phase::Booked { .. } => record.schedule.begin(now) > now,
            Phase::Holding { .. }
            | Phase::Calling { .. }
            | Phase::Offered
            | Phase::Booking { .. }
            | Phase::Held
            | Phase::Installing { .. }
            | Phase::Committing { .. }
            | Phase::Ending(_) => false,
        };
        if !is_steady || session.change.is_some() || record.rate_change.is_some() {
            return Err(session_busy(id));
        }
        let flows = self.changes_asked(record, wishes)?;
        if flows.iter().all(is_same) {
            let answer = Answer::Session { record: record.clone(), created: false };
            self.answer(ticket, answer);
            return Ok(());
        }
        let (peer, attempt) = (record.peer.clone(), session.attempt);
        self.hold_larger(id, &flows, now)?;
        let number = self.next_policy().0;
        let asked = flows.iter().map(|FlowChange { id, after, .. }| HoldRate {
            id: id.clone(),
            rate_bps: after.asked_rate_bps,
            burst_bytes: after.burst_bytes,
            rate_bps_min: after.rate_bps_min,
        });
        let request = PeerRequest::HoldRates { session: id.clone(), attempt, change: number, flows: asked.collect() };
        let ask = self.send(Subject::Rates(id.clone()), peer, request, now);
        if let Some(session) = self.sessions.get_mut(id) {
            session.record.rate_change = Some(RateChange { number, stage: RateStage::Holding, flows });
            session.rates = RateWork { ticket: Some(ask), client: Some(ticket), ..RateWork::default() };
            let record = session.record.clone();
            self.persist(Change::PutSession(record));
        }
        Ok(())
    }

    /// What is asked, checked against everything but the pools.
    fn changes_asked(&self, record: &SessionRecord, wishes: &[RateWish]) -> Result<Vec<FlowChange>, Refusal> {
        let flows_max = record.flows.len();
        if !(1..=flows_max).contains(&wishes.len()) {
            return Err(Refusal::invalid("flows", format!("{} flows", wishes.len()), format!("1 to {flows_max}")));
        }
        let mut ids = BTreeSet::new();
        let mut changes = Vec::with_capacity(wishes.len());
        for (index, wish) in wishes.iter().enumerate() {
            let field = format!("flows[{index}]");
            let Some(flow) = record.flows.iter().find(|flow| flow.id == wish.id).filter(|_| ids.insert(&wish.id))
            else {
                let allowed = "a flow of the session, each once";
                return Err(Refusal::invalid(format!("{field}.id"), &wish.id, allowed));
            };
            let before = FlowRates::of(flow);
            let after = FlowRates {
                rate_bps: wish.rate_bps,
                burst_bytes: wish.burst_bytes.unwrap_or(before.burst_bytes),
                asked_rate_bps: wish.rate_bps,
                rate_bps_min: wish.rate_bps_min,
            };
            let mut asked = flow.to_hold();
            asked.meter = Meter { rate_bps: after.rate_bps, burst_bytes: after.burst_bytes, ..asked.meter };
            asked.rate_bps_min = after.rate_bps_min;
            record.check_token(&field, flow, wish.rate_bps)?;
            if let Some(aggregate) = self.aggregates.get(&flow.aggregate) {
                check_meter(&field, &asked, aggregate)?;
            }
            changes.push(FlowChange { id: flow.id.clone(), before, after });
        }
        Ok(changes)
    }

    /// What the second side said, or that it did not.
    pub(crate) fn rates_answered(
        &mut self,
        id: &SessionId,
        ticket: u64,
        answer: Result<PeerAnswer, String>,
        now: Nanos,
    ) {
        let Some(session) = self.sessions.get_mut(id).filter(|session| session.rates.ticket == Some(ticket)) else {
            return;
        };
        session.rates.ticket = None;
        let Some(RateChange { stage, flows, .. }) = &session.record.rate_change else { return };
        match (stage, answer) {
            (RateStage::Holding, Ok(PeerAnswer::RatesHeld { flows: held })) => match values(flows, &held) {
                Ok(values) => {
                    self.lower_change(id, &values);
                    self.persist_session(id);
                    self.step(id, RateStep::Prepare, now);
                }
                Err(why) => {
                    let detail = format!("the second side's answer to the rates of session {id} is wrong: {why}");
                    self.void_change(id, Refusal::new(Reason::SecondSideRefused, detail), now);
                }
            },
            // It holds nothing more, and nothing was changed here.
            (RateStage::Holding, Ok(PeerAnswer::Refused { refusal })) => {
                self.finish_change(id);
                self.refuse_change(id, as_second_sides(refusal));
            }
            (RateStage::Holding, other) => {
                let detail = format!(
                    "the second side of session {id} did not hold the rates: {other:?}; they stay as they were"
                );
                self.void_change(id, Refusal::new(Reason::PeerUnreachable, detail), now);
            }
            (RateStage::Committing, Ok(PeerAnswer::RatesCommitted)) => self.step(id, RateStep::Complete, now),
            (RateStage::Committing, Ok(PeerAnswer::Refused { refusal })) => {
                self.void_change(id, as_second_sides(refusal), now);
            }
            (RateStage::Committing, other) => {
                let detail = format!(
                    "the second side of session {id} did not confirm the rates: {other:?}; it is asked until it does"
                );
                self.refuse_change(id, Refusal::new(Reason::PeerUnreachable, detail));
                self.try_later(id, now);
            }
            (RateStage::Voiding, Ok(PeerAnswer::RatesVoided)) => self.finish_change(id),
            (RateStage::Voiding, Ok(PeerAnswer::Refused { refusal })) if refusal.reason == Reason::UnknownSession => {
                self.finish_change(id);
            }
            (RateStage::Voiding, _) => self.try_later(id, now),
        }
    }

    /// The data plane's part of a step, and what follows it.
    fn step(&mut self, id: &SessionId, step: RateStep, now: Nanos) {
        if !self.change_plane(id, step) {
            if let Some(session) = self.sessions.get_mut(id) {
                session.rates.step = None;
            }
            self.rates_stepped(id, step, Ok(Vec::new()), now);
        }
    }

    pub(super) fn first_side_stepped(
        &mut self,
        id: &SessionId,
        step: RateStep,
        outcome: Result<Vec<(PolicyId, Counters)>, InstallError>,
        now: Nanos,
    ) {
        match (step, outcome) {
            (RateStep::Prepare, Ok(counters)) => {
                self.give_rates(id, RateStage::Committing, true, &counters, now);
                self.ask_again(id, now);
            }
            (RateStep::Prepare, Err(error)) => {
                let refusal = self.not_taken(id, &error);
                self.void_change(id, refusal, now);
            }
            (RateStep::Complete, Ok(_)) => {
                self.finish_change(id);
                let client = self.sessions.get_mut(id).and_then(|session| session.rates.client.take());
                if let (Some(client), Some(session)) = (client, self.sessions.get(id)) {
                    let answer = Answer::Session { record: session.record.clone(), created: true };
                    self.answer(client, answer);
                }
            }
            (RateStep::Void, Ok(counters)) => {
                self.give_rates(id, RateStage::Voiding, false, &counters, now);
                self.ask_again(id, now);
            }
            (RateStep::Complete | RateStep::Void, Err(error)) => {
                tracing::error!(session = %id, %error, "rates could not be changed; will retry");
                let refusal = self.not_taken(id, &error);
                self.refuse_change(id, refusal);
                self.try_later(id, now);
            }
            (RateStep::Hold | RateStep::Commit, _) => {}
        }
    }

    /// What is to be done next, by the record.
    pub(super) fn go_on_changing(&mut self, id: &SessionId, now: Nanos) {
        match self.sessions.get(id).and_then(|session| session.record.rate_change.as_ref()).map(|change| change.stage) {
            // An earlier life asked, and nobody knows what the answer was.
            Some(RateStage::Holding) => {
                self.set_stage(id, RateStage::Voiding);
                self.step(id, RateStep::Void, now);
            }
            Some(RateStage::Voiding) => self.step(id, RateStep::Void, now),
            Some(RateStage::Committing) => self.ask_again(id, now),
            None => {}
        }
    }

    /// It comes to nothing: senders here first, then the second side.
    fn void_change(&mut self, id: &SessionId, refusal: Refusal, now: Nanos) {
        self.refuse_change(id, refusal);
        self.set_stage(id, RateStage::Voiding);
        self.step(id, RateStep::Void, now);
    }

    fn set_stage(&mut self, id: &SessionId, stage: RateStage) {
        if let Some(change) = self.sessions.get_mut(id).and_then(|session| session.record.rate_change.as_mut()) {
            change.stage = stage;
        }
        self.persist_session(id);
    }

    fn ask_again(&mut self, id: &SessionId, now: Nanos) {
        let Some(session) = self.sessions.get(id) else { return };
        let Some(RateChange { number: change, stage, .. }) = session.record.rate_change else { return };
        let (session, attempt, peer) = (id.clone(), session.attempt, session.record.peer.clone());
        let request = match stage {
            RateStage::Committing => PeerRequest::CommitRates { session, attempt, change },
            RateStage::Holding | RateStage::Voiding => PeerRequest::VoidRates { session, attempt, change },
        };
        let ask = self.send(Subject::Rates(id.clone()), peer, request, now);
        if let Some(session) = self.sessions.get_mut(id) {
            session.rates.ticket = Some(ask);
        }
    }

    fn try_later(&mut self, id: &SessionId, now: Nanos) {
        let timers = self.config.timers;
        let Some(session) = self.sessions.get_mut(id) else { return };
        let wait = Nanos(timers.retry.0.saturating_mul(1 << session.rates.failures.min(20))).min(timers.retry_max);
        session.rates.failures += 1;
        self.set_timer(Subject::Rates(id.clone()), now.plus(wait));
    }

    fn refuse_change(&mut self, id: &SessionId, refusal: Refusal) {
        if let Some(client) = self.sessions.get_mut(id).and_then(|session| session.rates.client.take()) {
            self.refuse(client, refusal);
        }
    }
}

/// Whether nothing is different.
fn is_same(flow: &FlowChange) -> bool {
    let FlowRates { asked_rate_bps, burst_bytes, rate_bps_min, .. } = flow.before;
    (asked_rate_bps, burst_bytes, rate_bps_min)
        == (flow.after.asked_rate_bps, flow.after.burst_bytes, flow.after.rate_bps_min)
}

/// The client has not named a wrong session.
fn as_second_sides(refusal: Refusal) -> Refusal {
    if refusal.reason == Reason::UnknownSession {
        return Refusal::new(Reason::SecondSideRefused, refusal.detail);
    }
    refusal
}

/// The second side's rates, if it may choose them.
fn values(flows: &[FlowChange], held: &[HeldRate]) -> Result<Vec<u64>, String> {
    if flows.len() != held.len() {
        return Err(format!("{} flows for {}", held.len(), flows.len()));
    }
    for (FlowChange { id, after, .. }, held) in flows.iter().zip(held) {
        if held.id != *id {
            return Err(format!("flow {} in the place of flow {id}", held.id));
        }
        if !(after.rate_bps_min..=after.asked_rate_bps).contains(&held.rate_bps) {
            let FlowRates { asked_rate_bps, rate_bps_min, .. } = after;
            return Err(format!("flow {id} has {} bit/s; allowed: {rate_bps_min} to {asked_rate_bps}", held.rate_bps));
        }
    }
    Ok(held.iter().map(|held| held.rate_bps).collect())
}
