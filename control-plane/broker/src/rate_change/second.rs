//! The second side of a change of rates: it holds with its own values, and decides by its commit.

use super::{FlowChange, FlowRates, RateChange, RateStage, RateStep, RateWork};
use crate::broker::Broker;
use crate::flow::check_meter;
use crate::message::{HeldRate, HoldRate, PeerAnswer};
use crate::name::{Nanos, NodeName, PolicyId, SessionId};
use crate::policy::{Counters, InstallError, Meter};
use crate::record::{SessionRecord, Side};
use crate::refusal::{Reason, Refusal};
use crate::session::{Phase, Session, session_busy, unknown_session};

/// Which change of which session a message of the first side is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Of<'a> {
    pub(crate) peer: &'a NodeName,
    pub(crate) id: &'a SessionId,
    pub(crate) attempt: u64,
    pub(crate) number: u64,
}

fn held(change: &RateChange) -> PeerAnswer {
    let flows = change.flows.iter();
    PeerAnswer::RatesHeld {
        flows: flows.map(|flow| HeldRate { id: flow.id.clone(), rate_bps: flow.after.rate_bps }).collect(),
    }
}

fn is_over(id: &SessionId, number: u64) -> Refusal {
    Refusal::new(Reason::StaleEpoch, format!("change {number} of session {id} is over"))
}

impl Broker {
    fn meant(&mut self, Of { peer, id, attempt, .. }: Of<'_>) -> Result<&mut Session, Refusal> {
        let unknown = unknown_session(id, &self.config.node);
        let meant = self.sessions.get_mut(id).filter(|session| session.is_of_first_side(peer, attempt));
        meant.filter(|session| !session.is_ending()).ok_or(unknown)
    }

    pub(crate) fn hold_rates_received(
        &mut self,
        ticket: u64,
        of: Of<'_>,
        asked: &[HoldRate],
        now: Nanos,
    ) -> Result<(), Refusal> {
        let Of { id, number, .. } = of;
        let session = self.meant(of)?;
        if let Some(change) = session.record.rate_change.as_ref().filter(|change| change.number == number) {
            if change.stage != RateStage::Holding {
                return Err(is_over(id, number));
            }
            let answer = held(change);
            if session.rates.is_held {
                self.answer_peer(ticket, answer);
            } else {
                session.rates.askers.push(ticket);
                if session.rates.ticket.is_none() {
                    self.second_step(id, RateStep::Hold, now);
                }
            }
            return Ok(());
        }
        let is_steady = match session.phase {
            Phase::Active => session.install.is_none(),
            Phase::Booked { .. } => true,
            Phase::Holding { .. }
            | Phase::Calling { .. }
            | Phase::Offered
            | Phase::Booking { .. }
            | Phase::Held
            | Phase::Installing { .. }
            | Phase::Committing { .. }
            | Phase::Ending(_) => false,
        };
        if !is_steady || session.record.rate_change.is_some() {
            return Err(session_busy(id));
        }
        if number <= session.rates.seen.max(session.record.rate_change_done) {
            return Err(is_over(id, number));
        }
        session.rates.seen = number;
        let record = session.record.clone();
        let flows = self.grant_rates(&record, asked)?;
        self.hold_larger(id, &flows, now)?;
        if let Some(session) = self.sessions.get_mut(id) {
            session.record.rate_change = Some(RateChange { number, stage: RateStage::Holding, flows });
            session.rates = RateWork { askers: vec![ticket], seen: number, ..RateWork::default() };
        }
        self.persist_session(id);
        self.second_step(id, RateStep::Hold, now);
        Ok(())
    }

    /// What this side makes of what is asked (R-001-1).
    fn grant_rates(&self, record: &SessionRecord, asked: &[HoldRate]) -> Result<Vec<FlowChange>, Refusal> {
        let settings = self.config.second_side;
        let mut changes: Vec<FlowChange> = Vec::with_capacity(asked.len());
        for (index, wish) in asked.iter().enumerate() {
            let field = format!("flows[{index}]");
            let known = record.flows.iter().find(|flow| flow.id == wish.id);
            let is_twice = changes.iter().any(|change| change.id == wish.id);
            let (Some(flow), false) = (known, is_twice) else {
                return Err(Refusal::invalid(format!("{field}.id"), &wish.id, "a flow of the session, each once"));
            };
            let Some(aggregate) = self.aggregates.get(&flow.aggregate) else { return Err(session_busy(&record.id)) };
            let mut hold = flow.to_hold();
            hold.meter = Meter { rate_bps: wish.rate_bps, burst_bytes: wish.burst_bytes, ..hold.meter };
            hold.rate_bps_min = wish.rate_bps_min;
            check_meter(&field, &hold, aggregate)?;
            record.check_token(&field, flow, wish.rate_bps)?;
            let mut rate_bps = wish.rate_bps.min(settings.flow_rate_bps_max.unwrap_or(u64::MAX));
            if rate_bps < wish.rate_bps_min {
                let detail = format!(
                    "{field}.rate_bps_min is {}; node {} takes flows up to {rate_bps}",
                    wish.rate_bps_min, self.config.node
                );
                let mut refusal = Refusal::new(Reason::SecondSideRefused, detail).at(format!("{field}.rate_bps_min"));
                refusal.counter_offer_rate_bps = (rate_bps > 0).then_some(rate_bps);
                return Err(refusal);
            }
            if settings.lower_to_fit {
                let fits = self.rate_that_fits_beside(flow, record.schedule.interval());
                if fits >= wish.rate_bps_min {
                    rate_bps = rate_bps.min(fits);
                }
            }
            let after = FlowRates {
                rate_bps,
                burst_bytes: wish.burst_bytes,
                asked_rate_bps: wish.rate_bps,
                rate_bps_min: wish.rate_bps_min,
            };
            changes.push(FlowChange { id: flow.id.clone(), before: FlowRates::of(flow), after });
        }
        Ok(changes)
    }

    pub(crate) fn commit_rates_received(&mut self, ticket: u64, of: Of<'_>, now: Nanos) -> Result<(), Refusal> {
        let Of { id, number, .. } = of;
        let session = self.meant(of)?;
        if session.record.rate_change_done == number {
            self.answer_peer(ticket, PeerAnswer::RatesCommitted);
            return Ok(());
        }
        let change = session.record.rate_change.as_ref().filter(|change| change.number == number);
        if change.is_none_or(|change| change.stage != RateStage::Holding) {
            return Err(is_over(id, number));
        }
        // A restart may have forgotten what is at work for a late copy of the hold: it is not committed then, at no time.
        if session.rates.step == Some(RateStep::Hold) {
            if let Some(change) = &mut session.record.rate_change {
                change.stage = RateStage::Voiding;
            }
            self.persist_session(id);
            return Err(session_busy(id));
        }
        session.rates.askers.push(ticket);
        session.rates.is_held = true;
        if session.rates.ticket.is_none() && session.install.is_none() {
            self.second_step(id, RateStep::Commit, now);
        }
        Ok(())
    }

    pub(crate) fn void_rates_received(&mut self, ticket: u64, of: Of<'_>, now: Nanos) -> Result<(), Refusal> {
        let Of { id, number, .. } = of;
        let session = self.meant(of)?;
        let Some(change) = session.record.rate_change.as_mut().filter(|change| change.number == number) else {
            if session.record.rate_change_done == number {
                return Err(is_over(id, number));
            }
            session.rates.seen = number.max(session.rates.seen);
            self.answer_peer(ticket, PeerAnswer::RatesVoided);
            return Ok(());
        };
        change.stage = RateStage::Voiding;
        // Those who asked to hold it have given it up.
        let earlier = std::mem::replace(&mut session.rates.askers, vec![ticket]);
        let is_free = session.rates.ticket.is_none() && session.install.is_none();
        self.persist_session(id);
        for ticket in earlier {
            self.refuse_peer(ticket, is_over(id, number));
        }
        if is_free {
            self.second_step(id, RateStep::Void, now);
        }
        Ok(())
    }

    fn second_step(&mut self, id: &SessionId, step: RateStep, now: Nanos) {
        if !self.change_plane(id, step) {
            if let Some(session) = self.sessions.get_mut(id) {
                session.rates.step = None;
            }
            self.rates_stepped(id, step, Ok(Vec::new()), now);
        }
    }

    pub(super) fn second_side_stepped(
        &mut self,
        id: &SessionId,
        step: RateStep,
        outcome: Result<Vec<(PolicyId, Counters)>, InstallError>,
        now: Nanos,
    ) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(change) = session.record.rate_change.clone() else { return };
        // The first side has voided it while the data plane was at work.
        if change.stage == RateStage::Voiding && step != RateStep::Void {
            return self.second_step(id, RateStep::Void, now);
        }
        match (step, outcome) {
            (RateStep::Hold, Ok(_)) => {
                session.rates.is_held = true;
                for asker in std::mem::take(&mut session.rates.askers) {
                    self.answer_peer(asker, held(&change));
                }
            }
            (RateStep::Hold, Err(error)) => {
                let refusal = self.not_taken(id, &error);
                self.finish_change(id);
                self.answer_askers(id, &PeerAnswer::Refused { refusal });
            }
            (RateStep::Commit, Ok(counters)) => {
                session.record.rate_change_done = change.number;
                self.give_rates(id, RateStage::Committing, true, &counters, now);
                self.finish_change(id);
                self.answer_askers(id, &PeerAnswer::RatesCommitted);
            }
            (RateStep::Commit, Err(error)) => {
                // Held until the first side's senders are back; a late copy of the commit must not be taken.
                if let Some(change) = &mut session.record.rate_change {
                    change.stage = RateStage::Voiding;
                }
                let refusal = self.not_taken(id, &error);
                self.persist_session(id);
                self.answer_askers(id, &PeerAnswer::Refused { refusal });
            }
            (RateStep::Void, Ok(_)) => {
                self.finish_change(id);
                self.answer_askers(id, &PeerAnswer::RatesVoided);
            }
            (RateStep::Void, Err(error)) => {
                let refusal = self.not_taken(id, &error);
                self.answer_askers(id, &PeerAnswer::Refused { refusal });
            }
            (RateStep::Prepare | RateStep::Complete, _) => {}
        }
    }

    fn answer_askers(&mut self, id: &SessionId, answer: &PeerAnswer) {
        let askers = self.sessions.get_mut(id).map(|session| std::mem::take(&mut session.rates.askers));
        for asker in askers.unwrap_or_default() {
            self.answer_peer(asker, answer.clone());
        }
    }

    /// An installation is over: what the first side has asked meanwhile goes on.
    pub(crate) fn resume_second_side(&mut self, id: &SessionId, now: Nanos) {
        let Some(session) = self.sessions.get(id) else { return };
        let waits = !session.rates.askers.is_empty() && session.rates.ticket.is_none() && session.install.is_none();
        if !waits || session.record.side != Side::Second {
            return;
        }
        match session.record.rate_change.as_ref().map(|change| change.stage) {
            Some(RateStage::Voiding) => self.second_step(id, RateStep::Void, now),
            Some(_) if session.rates.is_held => self.second_step(id, RateStep::Commit, now),
            Some(_) => self.second_step(id, RateStep::Hold, now),
            None => {}
        }
    }
}
