//! One log line for each decision.

use std::time::Instant;

use tracing::info;
use turnpike_broker::message::{PeerAnswer, PeerRequest};
use turnpike_broker::name::NodeName;
use turnpike_broker::refusal::Refusal;
use turnpike_broker::{Answer, Request};

use crate::problem;

/// What was asked, until it is answered.
#[derive(Debug)]
pub(crate) struct Decision {
    verb: &'static str,
    name: String,
    asker: String,
    since: Instant,
}

impl Decision {
    pub(crate) fn of_request(request: &Request) -> Self {
        let (verb, name) = match request {
            Request::CreateAggregate(request) => ("create aggregate", request.name.to_string()),
            Request::DeleteAggregate(name) => ("delete aggregate", name.to_string()),
            Request::CreateSession(request) => ("create session", request.id.to_string()),
            Request::WaitForSession { request, .. } => ("create session or wait", request.id.to_string()),
            Request::WouldAdmit(request) => ("ask whether to create session", request.id.to_string()),
            Request::ChangeSessionEnd { id, .. } => ("change session", id.to_string()),
            Request::ChangeSessionRates { id, .. } => ("change rates of session", id.to_string()),
            Request::CreateSeries { request, .. } => ("create series", request.id.to_string()),
            Request::DeleteSeries(id) => ("delete series", id.to_string()),
            Request::ChangeLink(wish) => ("change link", wish.link.to_string()),
            Request::DeleteSession(id) => ("delete session", id.to_string()),
        };
        Self { verb, name, asker: "client".to_owned(), since: Instant::now() }
    }

    pub(crate) fn of_peer_request(peer: &NodeName, request: &PeerRequest) -> Self {
        let (verb, name) = match request {
            PeerRequest::OfferAggregate(offer) => ("offer aggregate", offer.name.to_string()),
            PeerRequest::WithdrawAggregate { name, .. } => ("withdraw aggregate", name.to_string()),
            PeerRequest::HoldSession { session, .. } => ("hold session", session.to_string()),
            PeerRequest::WouldHoldSession { session, .. } => ("ask whether to hold session", session.to_string()),
            PeerRequest::BookSession { session, .. } => ("book session", session.to_string()),
            PeerRequest::CommitSession { session, .. } => ("commit session", session.to_string()),
            PeerRequest::ChangeSessionEnd { session, .. } => ("change session", session.to_string()),
            PeerRequest::HoldRates { session, .. } => ("hold rates of session", session.to_string()),
            PeerRequest::CommitRates { session, .. } => ("commit rates of session", session.to_string()),
            PeerRequest::VoidRates { session, .. } => ("void rates of session", session.to_string()),
            PeerRequest::ReleaseSession { session, .. } => ("release session", session.to_string()),
        };
        Self { verb, name, asker: peer.to_string(), since: Instant::now() }
    }

    pub(crate) fn log(&self, answer: &Answer) {
        match answer {
            Answer::Aggregate { created, .. } => self.line(if *created { "created" } else { "unchanged" }),
            Answer::Session { created, record } if *created => self.line(&problem::word(&record.state)),
            Answer::Session { record, .. } => self.line(&format!("{} already", problem::word(&record.state))),
            Answer::WouldAdmit { .. } => self.line("would be admitted"),
            Answer::Series { created, .. } => self.line(if *created { "booked" } else { "unchanged" }),
            Answer::SeriesDeleted => self.line("deleted"),
            Answer::Link(_) => self.line("changed"),
            Answer::AggregateDeleted => self.line("deleted"),
            Answer::Refused(refusal) => self.refused(refusal),
        }
    }

    pub(crate) fn log_to_peer(&self, answer: &PeerAnswer) {
        match answer {
            PeerAnswer::AggregateAccepted { .. } => self.line("accepted"),
            PeerAnswer::AggregateWithdrawn => self.line("withdrawn"),
            PeerAnswer::Held { .. } => self.line("held"),
            PeerAnswer::WouldHold { .. } => self.line("would be held"),
            PeerAnswer::Booked => self.line("booked"),
            PeerAnswer::Committed => self.line("committed"),
            PeerAnswer::EndChanged => self.line("changed"),
            PeerAnswer::RatesHeld { .. } => self.line("held"),
            PeerAnswer::RatesCommitted => self.line("committed"),
            PeerAnswer::RatesVoided => self.line("voided"),
            PeerAnswer::Released { .. } => self.line("released"),
            PeerAnswer::Refused { refusal } => self.refused(refusal),
        }
    }

    fn line(&self, outcome: &str) {
        let Self { verb, name, asker, .. } = self;
        info!(name, outcome, asker, took_us = self.took_us(), "{verb}");
    }

    fn refused(&self, refusal: &Refusal) {
        let Self { verb, name, asker, .. } = self;
        let reason = problem::code(refusal.reason);
        let detail = &refusal.detail;
        info!(name, outcome = "refused", reason, detail, asker, took_us = self.took_us(), "{verb}");
    }

    fn took_us(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}
