//! What nodes say to each other. Each request is idempotent; the answer to a repeated one is the same answer.

use serde::{Deserialize, Serialize};

use crate::address::Family;
use crate::class::{NamedClass, Quality};
use crate::degrade::WhenFull;
use crate::media::Media;
use crate::media_slots::SlotCounts;
use crate::name::{AggregateName, FlowId, Label, Nanos, SessionId};
use crate::policy::{Endpoints, Marking, Meter, Rtcp, Tag};
use crate::priority::Priority;
use crate::record::{FlowUsage, Side};
use crate::refusal::Refusal;
use crate::schedule::Schedule;
use crate::shares::is_no_percent;

/// One flow as the first side asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldFlow {
    /// Its name in the session.
    pub id: FlowId,
    /// The aggregate that is to carry it; its direction is the flow's direction.
    pub aggregate: AggregateName,
    /// Its ends.
    pub endpoints: Endpoints,
    /// Where its RTCP is.
    pub rtcp: Rtcp,
    /// What is asked.
    pub meter: Meter,
    /// The smallest rate that would still do; the second side may choose from here to `meter.rate_bps`.
    pub rate_bps_min: u64,
    /// The most that the asking node has room for, bits per second, where that is less than asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_bps_max: Option<u64>,
    /// Set when the asking node receives this flow by a label of its own.
    pub label: Option<Label>,
    /// What it carries.
    #[serde(default)]
    pub media: Media,
    /// What it asks of its aggregate's class.
    #[serde(default, skip_serializing_if = "Quality::is_none")]
    pub quality: Quality,
}

/// One flow as the second side will have it: these values count (R-001-1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldFlow {
    /// Its name in the session.
    pub id: FlowId,
    /// What is granted.
    pub meter: Meter,
    /// What is promised.
    #[serde(default, skip_serializing_if = "Quality::is_none")]
    pub quality: Quality,
    /// Set when the answering node receives this flow by a label of its own.
    pub label: Option<Label>,
}

/// Another rate for a flow, as the first side asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRate {
    /// The flow's name in the session.
    pub id: FlowId,
    /// Bits per second.
    pub rate_bps: u64,
    /// Bytes at once.
    pub burst_bytes: u32,
    /// The smallest rate that would still do; the second side may choose from here to `rate_bps`.
    pub rate_bps_min: u64,
}

/// Another rate for a flow, as the second side will have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldRate {
    /// The flow's name in the session.
    pub id: FlowId,
    /// Bits per second.
    pub rate_bps: u64,
}

/// An aggregate as its sender has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Its name on both nodes.
    pub name: AggregateName,
    /// Bits per second, on the wire.
    pub rate_bps: u64,
    /// Bytes at once.
    pub burst_bytes: u32,
    /// What becomes of DSCPs.
    pub marking: Marking,
    /// What it is engineered for, as its sender knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<NamedClass>,
    /// What its tags tell.
    #[serde(default)]
    pub tag: Tag,
    /// What becomes of a flow that does not fit.
    #[serde(default, skip_serializing_if = "WhenFull::is_refuse")]
    pub when_full: WhenFull,
    /// Per cent of its pool, rate and burst, that only sessions marked as emergency may use; 0 if absent.
    #[serde(default, skip_serializing_if = "is_no_percent")]
    pub emergency_percent: u8,
    /// Of the tag addresses between the nodes: both have to count the same bytes on the wire.
    pub tag_family: Family,
    /// Rises with every offer of the sender, so that a late message of an earlier one is known for what it is.
    pub attempt: u64,
}

/// What one node asks of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PeerRequest {
    /// The sender of an aggregate has reserved it; the receiver is to do the same.
    OfferAggregate(Offer),
    /// The sender of an aggregate gives it up.
    WithdrawAggregate {
        /// Its name on both nodes.
        name: AggregateName,
        /// Of the offer.
        attempt: u64,
    },
    /// Reserve, say the values, and wait for commit or release.
    HoldSession {
        /// The session.
        session: SessionId,
        /// Rises with every hold of the first side, so that a late message of an earlier one is known for what it is.
        attempt: u64,
        /// When it is to be in force.
        #[serde(flatten)]
        schedule: Schedule,
        /// How it stands to others that want the same room.
        #[serde(flatten)]
        priority: Priority,
        /// The asking node ends these for it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        preempting: Vec<SessionId>,
        /// The asking node's time.
        sent_at: Nanos,
        /// It is to be offered to a client that has waited, and is held for longer.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        offer: bool,
        /// What it needs of the asked node's media processing.
        #[serde(default, skip_serializing_if = "SlotCounts::is_empty")]
        media_slots: SlotCounts,
        /// All of its flows.
        flows: Vec<HoldFlow>,
    },
    /// Say what [`Self::HoldSession`] would be answered now, and hold nothing. Flows have no labels.
    WouldHoldSession {
        /// The session.
        session: SessionId,
        /// When it is to be in force.
        #[serde(flatten)]
        schedule: Schedule,
        /// How it stands to others that want the same room.
        #[serde(flatten)]
        priority: Priority,
        /// The asking node ends these for it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        preempting: Vec<SessionId>,
        /// The asking node's time.
        sent_at: Nanos,
        /// What it needs of the asked node's media processing.
        #[serde(default, skip_serializing_if = "SlotCounts::is_empty")]
        media_slots: SlotCounts,
        /// All of its flows.
        flows: Vec<HoldFlow>,
    },
    /// The values are taken, and the session's start is to come: keep it until then, and confirm.
    BookSession {
        /// The session.
        session: SessionId,
        /// Of the hold.
        attempt: u64,
    },
    /// The first side is provisioned: install what is held, and confirm.
    CommitSession {
        /// The session.
        session: SessionId,
        /// Of the hold.
        attempt: u64,
    },
    /// Let a booked or active session end at another time, or leave it as it is.
    ChangeSessionEnd {
        /// The session.
        session: SessionId,
        /// Of the hold.
        attempt: u64,
        /// Rises with every change, so that a late message of an earlier one is known for what it is.
        change: u64,
        /// The new end; none for a session without end.
        ends_at: Option<Nanos>,
        /// The asking node's time.
        sent_at: Nanos,
    },
    /// Hold the larger of old and new rates of an active or booked session's flows, raise what is received, and wait for commit or void.
    HoldRates {
        /// The session.
        session: SessionId,
        /// Of the session's hold.
        attempt: u64,
        /// Rises with every change.
        change: u64,
        /// The flows that change.
        flows: Vec<HoldRate>,
    },
    /// The first side is prepared: give all flows of the change their new rates, and confirm.
    CommitRates {
        /// The session.
        session: SessionId,
        /// Of the session's hold.
        attempt: u64,
        /// Of [`Self::HoldRates`].
        change: u64,
    },
    /// The change comes to nothing: undo it, and confirm.
    VoidRates {
        /// The session.
        session: SessionId,
        /// Of the session's hold.
        attempt: u64,
        /// Of [`Self::HoldRates`].
        change: u64,
    },
    /// Undo a hold or end a session: deinstall, confirm, and tell the final usage.
    ReleaseSession {
        /// The session.
        session: SessionId,
        /// The asking node's part in it.
        side: Side,
        /// Of the hold; 0 if the asking node does not know it any more.
        attempt: u64,
        /// Why it ends, if it was pre-empted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<Refusal>,
    },
}

/// The answer to a [`PeerRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PeerAnswer {
    /// The aggregate is installed at its receiver.
    AggregateAccepted {
        /// With [`Tag::Terminals`]: what the receiver knows all of its packets by.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        label: Option<Label>,
    },
    /// The aggregate is gone at its receiver.
    AggregateWithdrawn,
    /// The session is held with these values.
    Held {
        /// Every flow of the request, in its order.
        flows: Vec<HeldFlow>,
    },
    /// The session would be held with these values now; flows have no labels.
    WouldHold {
        /// Every flow of the request, in its order.
        flows: Vec<HeldFlow>,
        /// The sessions that the answering node would end for it, beside those that the asking node does.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        preempts: Vec<SessionId>,
    },
    /// Kept for its start, and confirmed.
    Booked,
    /// Installed and confirmed.
    Committed,
    /// The session has the new end.
    EndChanged,
    /// The larger of old and new rates are held, with these as the new ones.
    RatesHeld {
        /// Every flow of the request, in its order.
        flows: Vec<HeldRate>,
    },
    /// All flows of the change have their new rates.
    RatesCommitted,
    /// All flows of the change have their old rates.
    RatesVoided,
    /// Deinstalled and confirmed.
    Released {
        /// What the answering node counted, flow by flow.
        usage: Vec<FlowUsage>,
    },
    /// No, and nothing has changed.
    Refused {
        /// Why.
        refusal: Refusal,
    },
}
