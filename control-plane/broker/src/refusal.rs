//! Why something was refused: a stable code, the numbers behind it, and what to do.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::media_slots::SlotState;
use crate::name::Nanos;

/// The stable reasons. The text form is the `code` of the API's problem bodies and the label of the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A value is outside what is allowed.
    InvalidValue,
    /// No aggregate of that name on this node.
    UnknownAggregate,
    /// No peer of that name on this node.
    UnknownPeer,
    /// No session of that id on this node.
    UnknownSession,
    /// No link of that name on this node.
    UnknownLink,
    /// No series of that id on this node.
    UnknownSeries,
    /// The id names a session with other content.
    SessionIdReused,
    /// The name is an aggregate with other content.
    AggregateNameReused,
    /// The aggregate still carries sessions.
    AggregateInUse,
    /// These endpoints are carried by another flow.
    EndpointsInUse,
    /// The link has not that much left.
    LinkExhausted,
    /// The aggregate's pool has not that much rate left.
    PoolRateExhausted,
    /// The aggregate's pool has not that much burst left.
    PoolBurstExhausted,
    /// The node has not that much left of what it can forward.
    NodeCapacityExhausted,
    /// The node has not that many media-processing slots left.
    MediaSlotsExhausted,
    /// No media-processing slots of that name on this node.
    UnknownMediaSlots,
    /// A limit of this node is reached.
    LimitReached,
    /// The second side would take only less than the smallest asked.
    SecondSideRefused,
    /// The peer did not answer in time.
    PeerUnreachable,
    /// The peer's message is from an earlier life of it, or a late copy of an attempt that is over.
    StaleEpoch,
    /// The two nodes' clocks differ by more than sessions with a start or an end allow.
    ClocksDiffer,
    /// The two nodes have tag addresses of different families for each other.
    TagFamilyDiffers,
    /// The two nodes know the aggregate's class otherwise.
    ClassDiffers,
    /// The aggregate's class does not promise what the flow asks.
    QualityNotMet,
    /// The data plane cannot enforce or deliver what was asked.
    NotEnforceable,
    /// The data plane did not take the policy.
    InstallFailed,
    /// Another request for the same thing is under way.
    Busy,
    /// The session waited for room as long as it was to, and there was none.
    WaitExpired,
    /// There was room for the session that waited, and its client did not take it in time.
    OfferLapsed,
    /// The session was ended to make room for one of higher priority.
    Preempted,
    /// This node admits only what a token authorises, and there is none.
    TokenRequired,
    /// The token cannot be read, or was not signed with a key that is trusted here.
    TokenInvalid,
    /// The token's time is over.
    TokenExpired,
    /// The token's time has not come.
    TokenNotYetValid,
    /// The token, or the key that it was signed with, was taken back.
    TokenRevoked,
    /// The token is for something else than what is asked.
    TokenMismatch,
    /// The token was used before.
    TokenUsed,
}

/// A refusal with what an orchestrator needs to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// The stable code.
    pub reason: Reason,
    /// For people: what is wrong, with the value and what is allowed, and what to do.
    pub detail: String,
    /// The field of the request that is wrong, such as `flows[0].rate_bps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The pool that has not enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolState>,
    /// The media-processing slots that are not enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_slots: Option<Box<SlotState>>,
    /// The largest rate of one such flow that would be admitted now, bits per second; none if nothing fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter_offer_rate_bps: Option<u64>,
}

impl Refusal {
    /// A refusal without a field, pool or counter-offer.
    #[must_use]
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), field: None, pool: None, media_slots: None, counter_offer_rate_bps: None }
    }

    /// The same where another rate or another start is not what was asked for.
    #[must_use]
    pub(crate) fn without_offers(self) -> Self {
        let pool = self.pool.map(|pool| PoolState { fits_at: None, ..pool });
        let media_slots = self.media_slots.map(|slots| Box::new(SlotState { fits_at: None, ..*slots }));
        Self { counter_offer_rate_bps: None, pool, media_slots, ..self }
    }

    /// The same, naming the field of the request that is wrong.
    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// [`Reason::InvalidValue`]: names the field, the value and what is allowed.
    pub(crate) fn invalid(field: impl Into<String>, value: impl fmt::Display, allowed: impl fmt::Display) -> Self {
        let field = field.into();
        Self::new(Reason::InvalidValue, format!("{field} is {value}; allowed: {allowed}")).at(field)
    }
}

/// A pool at the moment of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolState {
    /// `link <name>`, `aggregate <name>` or `node`.
    pub name: String,
    /// The node that decided.
    pub node: String,
    /// Bits per second in all.
    pub capacity_bps: u64,
    /// Bits per second held and committed: now, or in a refusal of a session with a start or an end the most at any time of it.
    pub used_bps: u64,
    /// Bits per second free from now on without end: what a booking owns later is not. In a refusal of a session with a start or an end:
    /// free throughout.
    pub free_bps: u64,
    /// Bytes of burst that flows may have together.
    pub burst_capacity_bytes: u64,
    /// Bytes of burst free, likewise.
    pub burst_free_bytes: u64,
    /// In a refusal: the earliest time from which on what was asked would fit, for as long as asked, if nothing changes; none if it would at no time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fits_at: Option<Nanos>,
}
