//! Errors of the API as RFC 9457 problems: one table of codes, titles and statuses.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use turnpike_api::Problem;
use turnpike_broker::refusal::{Reason, Refusal};

use crate::view;

/// Every code that is not a [`Reason`] of the broker, with its status and title.
const CODES: &[(&str, StatusCode, &str)] = &[
    ("malformed_body", StatusCode::BAD_REQUEST, "The body is not valid JSON"),
    ("unknown_field", StatusCode::BAD_REQUEST, "The body has a field that is not known"),
    ("missing_field", StatusCode::BAD_REQUEST, "The body lacks a field"),
    ("invalid_query", StatusCode::BAD_REQUEST, "The query is not understood"),
    ("not_found", StatusCode::NOT_FOUND, "There is nothing at this path"),
    ("method_not_allowed", StatusCode::METHOD_NOT_ALLOWED, "This path does not take this method"),
    ("request_timeout", StatusCode::REQUEST_TIMEOUT, "The request did not come in time"),
    ("body_too_large", StatusCode::PAYLOAD_TOO_LARGE, "The body is too large"),
    ("host_not_allowed", StatusCode::MISDIRECTED_REQUEST, "The request is for another host"),
    ("unsupported_media_type", StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body must be application/json"),
    ("internal_error", StatusCode::INTERNAL_SERVER_ERROR, "The node is at fault"),
    ("data_plane_failed", StatusCode::INTERNAL_SERVER_ERROR, "The data plane cannot be read"),
    ("store_failed", StatusCode::INTERNAL_SERVER_ERROR, "The store cannot be read"),
    ("overloaded", StatusCode::SERVICE_UNAVAILABLE, "Too many requests are under way"),
    ("stopping", StatusCode::SERVICE_UNAVAILABLE, "The node is stopping"),
    ("answer_timeout", StatusCode::GATEWAY_TIMEOUT, "The answer did not come in time"),
];

/// A problem on its way to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProblemReply(Box<Problem>);

impl ProblemReply {
    /// One of [`CODES`].
    pub(crate) fn new(code: &'static str, detail: impl Into<String>) -> Self {
        let known = CODES.iter().find(|(known, _, _)| *known == code);
        let (status, title) =
            known.map_or((StatusCode::INTERNAL_SERVER_ERROR, "Internal error"), |(_, status, title)| (*status, *title));
        Self::make(code, status, title, detail.into())
    }

    /// A wrong value in the request.
    pub(crate) fn invalid_value(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::of_reason(Reason::InvalidValue, detail.into(), Named::Body).in_field(field)
    }

    /// The broker's refusal. `named` says where the request names what it is about.
    pub(crate) fn refused(refusal: Refusal, named: Named) -> Self {
        let mut reply = Self::of_reason(refusal.reason, refusal.detail, named);
        reply.0.field = refusal.field;
        reply.0.pool = refusal.pool.map(view::pool);
        reply.0.media_slots = refusal.media_slots.map(|slots| Box::new(view::media_slots(*slots)));
        reply.0.counter_offer_rate_bps = refusal.counter_offer_rate_bps;
        reply
    }

    /// The path names something that this node does not have.
    pub(crate) fn unknown(reason: Reason, detail: impl Into<String>) -> Self {
        Self::of_reason(reason, detail.into(), Named::Path)
    }

    /// Names the field that is wrong.
    pub(crate) fn in_field(mut self, field: impl Into<String>) -> Self {
        self.0.field = Some(field.into());
        self
    }

    fn of_reason(reason: Reason, detail: String, named: Named) -> Self {
        let (status, title) = meaning(reason, named);
        Self::make(&code(reason), status, title, detail)
    }

    fn make(code: &str, status: StatusCode, title: &str, detail: String) -> Self {
        Self(Box::new(Problem {
            r#type: format!("urn:turnpike:problem:{code}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail,
            code: code.to_owned(),
            field: None,
            pool: None,
            media_slots: None,
            counter_offer_rate_bps: None,
        }))
    }
}

/// Where a request names what it is about: an unknown name is 404 in the path and a wrong value in the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    Path,
    Body,
}

/// The stable text of a reason.
pub(crate) fn code(reason: Reason) -> String {
    word(&reason)
}

/// The stable text of any of our unit variants.
pub(crate) fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The reverse of [`word`]; the error says which words there are.
pub(crate) fn read_word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

fn meaning(reason: Reason, named: Named) -> (StatusCode, &'static str) {
    let unknown = match named {
        Named::Path => StatusCode::NOT_FOUND,
        Named::Body => StatusCode::UNPROCESSABLE_ENTITY,
    };
    match reason {
        Reason::InvalidValue => (StatusCode::UNPROCESSABLE_ENTITY, "A value is outside what is allowed"),
        Reason::UnknownAggregate => (unknown, "No aggregate of that name on this node"),
        Reason::UnknownPeer => (unknown, "No peer of that name on this node"),
        Reason::UnknownSession => (unknown, "No session of that id on this node"),
        Reason::UnknownLink => (unknown, "No link of that name on this node"),
        Reason::UnknownSeries => (unknown, "No series of that id on this node"),
        Reason::SessionIdReused => (StatusCode::CONFLICT, "The id names a session with other content"),
        Reason::AggregateNameReused => (StatusCode::CONFLICT, "The name is an aggregate with other content"),
        Reason::AggregateInUse => (StatusCode::CONFLICT, "The aggregate still carries sessions"),
        Reason::EndpointsInUse => (StatusCode::CONFLICT, "These endpoints are carried by another flow"),
        Reason::LinkExhausted => (StatusCode::CONFLICT, "The link has not that much left"),
        Reason::PoolRateExhausted => (StatusCode::CONFLICT, "The pool has not that much rate left"),
        Reason::PoolBurstExhausted => (StatusCode::CONFLICT, "The pool has not that much burst left"),
        Reason::NodeCapacityExhausted => {
            (StatusCode::CONFLICT, "The node has not that much left of what it can forward")
        }
        Reason::MediaSlotsExhausted => (StatusCode::CONFLICT, "The node has not that many media slots left"),
        Reason::UnknownMediaSlots => (StatusCode::UNPROCESSABLE_ENTITY, "No media slots of that name on that node"),
        Reason::SecondSideRefused => (StatusCode::CONFLICT, "The second side would take only less"),
        Reason::StaleEpoch => (StatusCode::CONFLICT, "The message is from an earlier life of its sender"),
        Reason::Busy => (StatusCode::CONFLICT, "Another request for the same thing is under way"),
        Reason::LimitReached => (StatusCode::SERVICE_UNAVAILABLE, "A limit of this node is reached"),
        Reason::PeerUnreachable => (StatusCode::GATEWAY_TIMEOUT, "The peer did not answer in time"),
        Reason::ClocksDiffer => (StatusCode::CONFLICT, "The nodes' clocks differ too much"),
        Reason::TagFamilyDiffers => (StatusCode::CONFLICT, "The nodes have tag addresses of different families"),
        Reason::ClassDiffers => (StatusCode::CONFLICT, "The nodes know the class otherwise"),
        Reason::QualityNotMet => (StatusCode::CONFLICT, "The aggregate does not promise what the flow asks"),
        Reason::NotEnforceable => {
            (StatusCode::UNPROCESSABLE_ENTITY, "The data plane cannot enforce or deliver what was asked")
        }
        // Of sessions that have ended; nothing is refused with them.
        Reason::WaitExpired => (StatusCode::CONFLICT, "There was no room as long as it waited"),
        Reason::Preempted => (StatusCode::CONFLICT, "It was ended for a session of higher priority"),
        Reason::OfferLapsed => (StatusCode::CONFLICT, "What was offered was not taken in time"),
        Reason::TokenRequired => (StatusCode::UNAUTHORIZED, "A session needs a token here"),
        Reason::TokenInvalid => (StatusCode::UNAUTHORIZED, "The token is not one that is trusted here"),
        Reason::TokenExpired => (StatusCode::UNAUTHORIZED, "The token has expired"),
        Reason::TokenNotYetValid => (StatusCode::UNAUTHORIZED, "The token is not in force yet"),
        Reason::TokenRevoked => (StatusCode::FORBIDDEN, "The token was revoked"),
        Reason::TokenMismatch => (StatusCode::FORBIDDEN, "The token is for something else"),
        Reason::TokenUsed => (StatusCode::FORBIDDEN, "The token was used before"),
        Reason::InstallFailed => (StatusCode::INTERNAL_SERVER_ERROR, "The data plane did not take the policy"),
    }
}

impl IntoResponse for ProblemReply {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110, 15.5.2, wants a challenge; the token comes in the body, because each is of one session.
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Turnpike-Token"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_numbers() {
        let refusal = Refusal {
            reason: Reason::PoolRateExhausted,
            detail: "80000 asked, 40000 free".to_owned(),
            field: Some("flows[0].rate_bps".to_owned()),
            pool: None,
            media_slots: None,
            counter_offer_rate_bps: Some(40_000),
        };
        let ProblemReply(problem) = ProblemReply::refused(refusal, Named::Body);
        assert_eq!((problem.status, problem.code.as_str()), (409, "pool_rate_exhausted"));
        assert_eq!(problem.r#type, "urn:turnpike:problem:pool_rate_exhausted");
        assert_eq!(problem.field.as_deref(), Some("flows[0].rate_bps"));
        assert_eq!(problem.counter_offer_rate_bps, Some(40_000));
    }

    #[test]
    fn an_unknown_name_is_404_in_the_path_and_422_in_the_body() {
        assert_eq!(meaning(Reason::UnknownAggregate, Named::Path).0, StatusCode::NOT_FOUND);
        assert_eq!(meaning(Reason::UnknownAggregate, Named::Body).0, StatusCode::UNPROCESSABLE_ENTITY);
    }

    #[test]
    fn overload_says_when_to_come_back() {
        let response = ProblemReply::new("overloaded", "").into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    }
}
