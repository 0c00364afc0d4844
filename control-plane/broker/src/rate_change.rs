//! Another rate for flows of a session that is booked or active: both sides take it, or all stays as it was (R-001-1, R-004-16).
//!
//! Each side holds the larger of old and new until it is over, so no data plane ever enforces more than is held at its end. A receiver's
//! meter is never below its sender's: it is raised before that and lowered after it.
//!
//! | step | first side | second side |
//! |---|---|---|
//! | hold | holds the larger | holds the larger, with its own values; raises what it receives; says so |
//! | prepare | raises what it receives, gives what it sends its new rate | |
//! | commit | | gives all its new rate, and gives back what that leaves; says so |
//! | complete | lowers what it receives, gives back what that leaves | |
//!
//! The second side's commit decides. Until then the first side can void the change; after it only what is left to be lowered at the first
//! side is missing. What is under way is in the records of both, and the first side asks until it is answered, over restarts as well.

mod first;
mod second;

pub(crate) use second::Of;

use serde::{Deserialize, Serialize};

use crate::broker::Broker;
use crate::calendar::Interval;
use crate::fence::Subject;
use crate::message::PeerAnswer;
use crate::name::{FlowId, Nanos, PolicyId, SessionId};
use crate::policy::{Counters, InstallError, Meter};
use crate::record::{Change, Direction, FlowRecord, SessionRecord, Side};
use crate::refusal::{PoolState, Reason, Refusal};
use crate::schedule::Schedule;

/// A client's wish for another rate of one flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateWish {
    /// The flow's name in the session.
    pub id: FlowId,
    /// Bits per second.
    pub rate_bps: u64,
    /// Bytes at once; as before if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst_bytes: Option<u32>,
    /// The smallest rate that would still do.
    pub rate_bps_min: u64,
}

/// What a flow may send, and what was asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRates {
    /// Bits per second that are reserved.
    pub rate_bps: u64,
    /// Bytes at once.
    pub burst_bytes: u32,
    /// Bits per second that were asked for.
    pub asked_rate_bps: u64,
    /// The smallest rate that would have done.
    pub rate_bps_min: u64,
}

/// One flow of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowChange {
    /// Its name in the session.
    pub id: FlowId,
    /// What it had.
    pub before: FlowRates,
    /// What it is to have.
    pub after: FlowRates,
}

/// How far a change has come on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateStage {
    /// First side: the second is asked to hold, or this side prepares. Second side: held.
    Holding,
    /// First side: prepared; its record has the new rates, and the second side is asked to commit.
    Committing,
    /// It comes to nothing: being undone here and, by the first side, at the second.
    Voiding,
}

/// A change that is not over, as the record has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateChange {
    /// Rises with every change of the first side.
    pub number: u64,
    /// How far it has come.
    pub stage: RateStage,
    /// The flows that change.
    pub flows: Vec<FlowChange>,
}

/// What is being done about a change in this life of the node.
#[derive(Default)]
pub(crate) struct RateWork {
    /// What the outcome is open of: of the data plane or of the peer.
    pub(crate) ticket: Option<u64>,
    pub(crate) step: Option<RateStep>,
    /// First side: who asked for it.
    pub(crate) client: Option<u64>,
    /// Second side: the first side's messages that wait.
    pub(crate) askers: Vec<u64>,
    /// Second side: what it receives is raised.
    pub(crate) is_held: bool,
    /// Second side: the highest number of a change that it has heard of; 0 if there was none since the start.
    pub(crate) seen: u64,
    pub(crate) failures: u32,
}

/// What a data plane is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RateStep {
    /// Second side: receivers up.
    Hold,
    /// First side: receivers up, senders to the new rate.
    Prepare,
    /// Second side: all to the new rate.
    Commit,
    /// First side: all to the new rate.
    Complete,
    /// All to the old rate.
    Void,
}

impl FlowRates {
    pub(crate) const fn of(flow: &FlowRecord) -> Self {
        Self {
            rate_bps: flow.meter.rate_bps,
            burst_bytes: flow.meter.burst_bytes,
            asked_rate_bps: flow.asked_rate_bps,
            rate_bps_min: flow.rate_bps_min,
        }
    }

    const fn meter(&self, of: Meter) -> Meter {
        Meter { rate_bps: self.rate_bps, burst_bytes: self.burst_bytes, ..of }
    }

    const fn give(&self, flow: &mut FlowRecord) {
        flow.meter = self.meter(flow.meter);
        flow.asked_rate_bps = self.asked_rate_bps;
        flow.rate_bps_min = self.rate_bps_min;
    }
}

impl FlowChange {
    /// What is held meanwhile.
    fn larger(&self, of: Meter) -> Meter {
        Meter {
            rate_bps: self.before.rate_bps.max(self.after.rate_bps),
            burst_bytes: self.before.burst_bytes.max(self.after.burst_bytes),
            ..of
        }
    }
}

impl SessionRecord {
    /// Whether the token that the session was asked for with allows a flow this rate.
    fn check_token(&self, field: &str, flow: &FlowRecord, rate_bps: u64) -> Result<(), Refusal> {
        let place = self.flows.iter().position(|own| own.id == flow.id).unwrap_or(usize::MAX);
        let excess_bps = flow.asked_excess.map_or(0, |excess| excess.rate_bps);
        self.authorization.as_ref().map_or(Ok(()), |authorization| {
            let checked = authorization.check_rate(place, rate_bps.saturating_add(excess_bps));
            checked.map_err(|refusal| refusal.at(format!("{field}.rate_bps")))
        })
    }

    fn flow_change(&self, id: &FlowId) -> Option<&FlowChange> {
        self.rate_change.as_ref().and_then(|change| change.flows.iter().find(|flow| flow.id == *id))
    }

    /// What this node holds of its pools for a flow: of one whose rate is being changed the larger of both.
    #[must_use]
    pub fn held_meter(&self, flow: &FlowRecord) -> Meter {
        self.flow_change(&flow.id).map_or(flow.meter, |change| change.larger(flow.meter))
    }

    /// Its flows with what is held for them.
    pub(crate) fn held_flows(&self) -> Vec<FlowRecord> {
        let flows = self.flows.iter();
        flows.map(|flow| FlowRecord { meter: self.held_meter(flow), ..flow.clone() }).collect()
    }

    /// What the data plane is to have of a flow that is installed now: a receiver whose rate is being changed has the larger.
    pub(crate) fn installed_meter(&self, flow: &FlowRecord) -> Meter {
        match flow.direction {
            Direction::Out => flow.meter,
            Direction::In => self.held_meter(flow),
        }
    }

    /// What a flow is to have in a step, and what it has before it.
    fn meters(&self, flow: &FlowRecord, change: &FlowChange, step: RateStep) -> (Meter, Meter) {
        let (before, after) = (change.before.meter(flow.meter), change.after.meter(flow.meter));
        let larger = change.larger(flow.meter);
        match (step, flow.direction) {
            (RateStep::Hold, Direction::Out) => (before, before),
            (RateStep::Hold | RateStep::Prepare, Direction::In) => (before, larger),
            (RateStep::Prepare | RateStep::Commit, Direction::Out) => (before, after),
            (RateStep::Commit | RateStep::Complete, Direction::In) => (larger, after),
            (RateStep::Complete, Direction::Out) => (after, after),
            // What it has is not known; where this fails it is tried again.
            (RateStep::Void, _) => (before, before),
        }
    }
}

impl Broker {
    /// Holds what flows need beyond what is held for them, or changes nothing.
    fn hold_larger(&mut self, id: &SessionId, changes: &[FlowChange], now: Nanos) -> Result<(), Refusal> {
        let Some(session) = self.sessions.get(id) else { return Ok(()) };
        let (schedule, flows) = (session.record.schedule, session.record.flows.clone());
        let mut held: Vec<(FlowRecord, Meter)> = Vec::new();
        for (index, change) in changes.iter().enumerate() {
            let Some(flow) = flows.iter().find(|flow| flow.id == change.id) else { continue };
            let larger = change.larger(flow.meter);
            if let Err(refusal) = self.hold_more(flow, larger, change, schedule, now) {
                for (flow, larger) in held {
                    self.give_more_back(&flow, larger, flow.meter, schedule.interval());
                }
                return Err(refusal.at(format!("flows[{index}].rate_bps")));
            }
            held.push((flow.clone(), larger));
        }
        Ok(())
    }

    fn hold_more(
        &mut self,
        flow: &FlowRecord,
        larger: Meter,
        change: &FlowChange,
        schedule: Schedule,
        now: Nanos,
    ) -> Result<(), Refusal> {
        let wanted = FlowRecord { meter: larger, asked_rate_bps: change.after.asked_rate_bps, ..flow.clone() };
        self.forget_past(&flow.aggregate, now);
        let grows = larger != flow.meter;
        let carried = if grows { self.check_carried(&flow.aggregate, schedule, now) } else { Ok(()) };
        let taken = carried.and_then(|()| self.take_beyond(flow, &wanted, schedule, now));
        let Err(mut refusal) = taken else { return Ok(()) };
        let fits = self.rate_that_fits_beside(flow, schedule.interval());
        // Another time is not what was asked for, and what does not raise it is no offer.
        refusal.pool = refusal.pool.map(|pool| PoolState { fits_at: None, ..pool });
        let for_rate = matches!(refusal.reason, Reason::PoolRateExhausted | Reason::NodeCapacityExhausted);
        let offer = for_rate && fits > flow.meter.rate_bps;
        refusal.counter_offer_rate_bps = offer.then_some(fits);
        if offer {
            let (id, name, before) = (&flow.id, &flow.aggregate, flow.meter.rate_bps);
            refusal.detail = format!(
                "flow {id} in aggregate {name} has {before} bit/s and asks for {}; {} has room for {fits}",
                change.after.asked_rate_bps, self.config.node
            );
        }
        Err(refusal)
    }

    fn give_more_back(&mut self, flow: &FlowRecord, held: Meter, kept: Meter, interval: Interval) {
        self.room = true;
        let with = |meter| FlowRecord { meter, ..flow.clone() };
        self.give_back_beyond(&with(held), &with(kept), interval);
    }

    /// The second side's values in place of those that were asked for; what they leave is given back.
    fn lower_change(&mut self, id: &SessionId, values: &[u64]) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let interval = session.record.schedule.interval();
        let before = session.record.held_flows();
        if let Some(change) = &mut session.record.rate_change {
            for (flow, value) in change.flows.iter_mut().zip(values) {
                flow.after.rate_bps = *value;
            }
        }
        let after = session.record.held_flows();
        for (held, kept) in before.iter().zip(&after) {
            self.give_more_back(held, held.meter, kept.meter, interval);
        }
    }

    /// The record has the rates of before or after from now on. What is held stays, and it is in the ledger if it was up.
    fn give_rates(
        &mut self,
        id: &SessionId,
        stage: RateStage,
        after: bool,
        counters: &[(PolicyId, Counters)],
        now: Nanos,
    ) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(change) = &mut session.record.rate_change else { return };
        change.stage = stage;
        let mut differs = false;
        for change in &change.flows {
            if let Some(flow) = session.record.flows.iter_mut().find(|flow| flow.id == change.id) {
                let rates = if after { change.after } else { change.before };
                differs |= FlowRates::of(flow) != rates;
                rates.give(flow);
            }
        }
        let flows: Vec<FlowId> = change.flows.iter().map(|flow| flow.id.clone()).collect();
        let record = session.record.clone();
        if differs && record.was_active() {
            self.record_rates(&record, &flows, counters, now);
        }
        self.persist(Change::PutSession(record));
    }

    /// It is over: what the record's rates leave is given back.
    fn finish_change(&mut self, id: &SessionId) {
        self.clear_timer(&Subject::Rates(id.clone()));
        let Some(session) = self.sessions.get_mut(id) else { return };
        let (held, interval) = (session.record.held_flows(), session.record.schedule.interval());
        session.record.rate_change = None;
        let record = session.record.clone();
        for (held, kept) in held.iter().zip(&record.flows) {
            self.give_more_back(held, held.meter, kept.meter, interval);
        }
        self.persist(Change::PutSession(record));
    }

    /// Asks the data plane for a step, for those flows that are in force. False if there are none: then the step is done.
    fn change_plane(&mut self, id: &SessionId, step: RateStep) -> bool {
        let Some(session) = self.sessions.get(id) else { return false };
        let record = &session.record;
        let in_force = record.flows.iter().filter(|flow| session.in_force.contains(&flow.policy));
        let changes = in_force.filter_map(|flow| Some((flow, record.flow_change(&flow.id)?)));
        let meters = changes.map(|(flow, change)| {
            let (from, to) = record.meters(flow, change, step);
            (flow.policy, from, to)
        });
        let meters: Vec<_> = meters.collect();
        let ticket = (!meters.is_empty()).then(|| self.change_meters(Subject::Rates(id.clone()), meters));
        if let Some(session) = self.sessions.get_mut(id) {
            session.rates.ticket = ticket;
            session.rates.step = Some(step);
        }
        ticket.is_some()
    }

    /// The policies of a change that are in force, in the order in which the data plane was asked.
    fn changed_policies(&self, id: &SessionId) -> Vec<PolicyId> {
        let Some(session) = self.sessions.get(id) else { return Vec::new() };
        let flows = session.record.flows.iter().filter(|flow| session.in_force.contains(&flow.policy));
        flows.filter(|flow| session.record.flow_change(&flow.id).is_some()).map(|flow| flow.policy).collect()
    }

    /// The data plane has taken a step, or has taken nothing of it.
    pub(crate) fn rates_changed(
        &mut self,
        id: &SessionId,
        ticket: u64,
        outcome: Result<&[Counters], InstallError>,
        now: Nanos,
    ) {
        let Some(session) = self.sessions.get_mut(id).filter(|session| session.rates.ticket == Some(ticket)) else {
            return;
        };
        session.rates.ticket = None;
        let Some(step) = session.rates.step.take() else { return };
        let outcome = outcome.map(|counters| {
            let policies = self.changed_policies(id);
            policies.into_iter().zip(counters.iter().copied()).collect::<Vec<_>>()
        });
        self.rates_stepped(id, step, outcome, now);
    }

    fn rates_stepped(
        &mut self,
        id: &SessionId,
        step: RateStep,
        outcome: Result<Vec<(PolicyId, Counters)>, InstallError>,
        now: Nanos,
    ) {
        match self.sessions.get(id).map(|session| session.record.side) {
            Some(Side::First) => self.first_side_stepped(id, step, outcome, now),
            Some(Side::Second) => self.second_side_stepped(id, step, outcome, now),
            None => {}
        }
    }

    /// Goes on where a restart, an installation or a pause has left it.
    pub(crate) fn resume_rates(&mut self, id: &SessionId, now: Nanos) {
        let Some(session) = self.sessions.get(id) else { return };
        let is_free = !session.is_ending() && session.install.is_none() && session.rates.ticket.is_none();
        if is_free && session.record.rate_change.is_some() && session.record.side == Side::First {
            self.go_on_changing(id, now);
        }
    }

    /// The session ends: nobody waits for a change any more. What is held for it is given back with all the rest.
    pub(crate) fn drop_rates(&mut self, id: &SessionId) {
        self.clear_timer(&Subject::Rates(id.clone()));
        let Some(session) = self.sessions.get_mut(id) else { return };
        let RateWork { client, askers, .. } = std::mem::take(&mut session.rates);
        let refusal = || {
            let detail = format!("session {id} ended before its rates were changed");
            Refusal::new(Reason::UnknownSession, detail).at("id")
        };
        if let Some(client) = client {
            self.refuse(client, refusal());
        }
        for asker in askers {
            self.answer_peer(asker, PeerAnswer::Refused { refusal: refusal() });
        }
    }

    /// What a data plane did not take.
    fn not_taken(&self, id: &SessionId, error: &InstallError) -> Refusal {
        let detail =
            format!("the data plane of {} did not change the rates of session {id}: {error}", self.config.node);
        Refusal::new(error.reason(), detail)
    }
}
