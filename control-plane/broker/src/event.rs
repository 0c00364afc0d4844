//! What goes into the broker and what comes out of it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::authorization::Credential;
use crate::calendar::Until;
use crate::capacity::{LinkChange, LinkState};
use crate::class::Quality;
use crate::degrade::WhenFull;
use crate::media::Media;
use crate::media_slots::MediaSlots;
use crate::message::{PeerAnswer, PeerRequest};
use crate::name::{AggregateName, ClassName, Epoch, FlowId, Nanos, NodeName, PolicyId, SessionId};
use crate::policy::{Counters, DscpPolicy, Endpoints, InstallError, Meter, Policy, Rtcp, Tag};
use crate::priority::Priority;
use crate::rate_change::RateWish;
use crate::record::{AggregateRecord, Change, SessionRecord, SessionState};
use crate::refusal::Refusal;
use crate::schedule::Schedule;
use crate::series::SeriesRecord;
use crate::shares::is_no_percent;

/// A client's wish for an aggregate that this node sends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AggregateRequest {
    /// Its name, the same on both nodes.
    pub name: AggregateName,
    /// The node that is to receive it.
    pub peer: NodeName,
    /// Bits per second, in IP bytes on the wire.
    pub rate_bps: u64,
    /// Bytes at once; if absent, what comes at its rate in the class's `jitter_ms`, but no less than 3,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst_bytes: Option<u32>,
    /// What it is engineered for. It gives the marking, so what is given beside it must be what the class has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<ClassName>,
    /// What becomes of the DSCP of packets that go out; `set` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dscp_policy: Option<DscpPolicy>,
    /// 6 bits; needed where it is set and there is no class, and only where it is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dscp: Option<u8>,
    /// 6 bits, of packets that flows send beyond their own rate; like the others if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excess_dscp: Option<u8>,
    /// What becomes of the DSCP of packets that the receiving node delivers; if absent, `set` where `deliver_dscp` is there, else `copy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliver_dscp_policy: Option<DscpPolicy>,
    /// 6 bits; needed where it is set, and only there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliver_dscp: Option<u8>,
    /// What its tags tell: `label` (if absent) or `terminals`. With `terminals` packets are 16 to 40 bytes longer on the wire, and the receiving
    /// node needs no entry for each flow, but polices and counts only the aggregate.
    #[serde(default)]
    pub tag: Tag,
    /// What becomes of a flow that does not fit: `refuse` (if absent), or `degrade`: it gets what is left, down to its `rate_bps_min`.
    #[serde(default, skip_serializing_if = "WhenFull::is_refuse")]
    pub when_full: WhenFull,
    /// Per cent of its pool, rate and burst, that only sessions marked as emergency may use; 0 if absent.
    #[serde(default, skip_serializing_if = "is_no_percent")]
    pub emergency_percent: u8,
}

/// A client's wish for one flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRequest {
    /// Its name in the session.
    pub id: FlowId,
    /// What is to carry it; out or in, seen from this node.
    pub aggregate: AggregateName,
    /// Its ends.
    pub endpoints: Endpoints,
    /// Where its RTCP is.
    pub rtcp: Rtcp,
    /// What it wants to send.
    pub meter: Meter,
    /// The smallest rate that would do.
    pub rate_bps_min: u64,
    /// What it carries.
    pub media: Media,
    /// What it asks of its aggregate's class.
    pub quality: Quality,
}

/// A client's wish for a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRequest {
    /// Made by the client; repeating the same request is safe.
    pub id: SessionId,
    /// When it is to be in force.
    pub schedule: Schedule,
    /// How it stands to others that want the same room.
    pub priority: Priority,
    /// What it needs of media processing at each side.
    #[serde(default, skip_serializing_if = "MediaSlots::is_empty")]
    pub media_slots: MediaSlots,
    /// All of its flows.
    pub flows: Vec<FlowRequest>,
}

/// What clients ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Reserve an aggregate.
    CreateAggregate(AggregateRequest),
    /// Give an aggregate up.
    DeleteAggregate(AggregateName),
    /// Admit a session.
    CreateSession(SessionRequest),
    /// Admit a session, or let it wait until then where there is no room; it is called when there is, and taken by asking again (R-000-11).
    WaitForSession {
        /// The session.
        request: SessionRequest,
        /// It waits no longer than this.
        until: Nanos,
    },
    /// Say what [`Self::CreateSession`] would be answered now, and hold nothing (R-000-1).
    WouldAdmit(SessionRequest),
    /// End a session.
    DeleteSession(SessionId),
    /// Let a booked or active session end at another time, at both ends, or leave it as it is.
    ChangeSessionEnd {
        /// The session; this node is its first side.
        id: SessionId,
        /// The new end; none for a session without end.
        ends_at: Option<Nanos>,
    },
    /// Give flows of a booked or active session other rates, at both ends, or leave all as it is.
    ChangeSessionRates {
        /// The session; this node is its first side.
        id: SessionId,
        /// The flows that change.
        flows: Vec<RateWish>,
    },
    /// Let a link have other rates, for an interval or until further notice (R-000-2).
    ChangeLink(LinkChange),
    /// Book all occurrences of a session that recurs, or none (R-000-8).
    CreateSeries {
        /// The first occurrence, with its start and its end.
        request: SessionRequest,
        /// From the start of one to the start of the next.
        period: Nanos,
        /// When there are no more.
        until: Until,
    },
    /// End all occurrences of a series.
    DeleteSeries(SessionId),
}

/// What clients are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The aggregate is up at both ends. `created` is false where it was there already.
    Aggregate {
        /// As it is now.
        record: AggregateRecord,
        /// Whether this request made it.
        created: bool,
    },
    /// The aggregate is gone at both ends.
    AggregateDeleted,
    /// The session, active, booked, waiting, offered, or ended with its final usage. `created` is false where it was so already.
    Session {
        /// As it is now.
        record: SessionRecord,
        /// Whether this request made it.
        created: bool,
    },
    /// Both sides would give a session these values now; nothing is held, and flows have neither labels nor policies.
    WouldAdmit {
        /// As it would be.
        record: SessionRecord,
        /// The sessions that would be ended for it.
        preempts: Vec<SessionId>,
    },
    /// The link has the rates that were asked for.
    Link(Box<LinkState>),
    /// All occurrences of the series are booked at both ends. `created` is false where they were so already.
    Series {
        /// As it is now.
        record: SeriesRecord,
        /// Whether this request made it.
        created: bool,
    },
    /// The series is gone, and its sessions are ended.
    SeriesDeleted,
    /// No, and nothing has changed.
    Refused(Refusal),
}

/// What happens to the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A client asks; answered by [`Output::Answer`] with the same ticket.
    Request {
        /// The shell's number for it.
        ticket: u64,
        /// What is asked.
        request: Request,
        /// What it was asked with.
        credential: Credential,
    },
    /// A peer asks; answered by [`Output::PeerAnswer`] with the same ticket.
    PeerRequest {
        /// The shell's number for it.
        ticket: u64,
        /// Who asks, as its certificate says.
        peer: NodeName,
        /// The asking node's epoch.
        epoch: Epoch,
        /// What is asked.
        request: PeerRequest,
        /// What it was asked with.
        credential: Credential,
    },
    /// What came of an [`Output::Send`].
    PeerAnswered {
        /// The output's ticket.
        ticket: u64,
        /// The answer, or why there is none, for people.
        answer: Result<PeerAnswer, String>,
    },
    /// All policies of an [`Output::Install`] are written and read back.
    Installed {
        /// The output's ticket.
        ticket: u64,
    },
    /// All of an [`Output::ChangeMeters`] are in force and read back.
    MetersChanged {
        /// The output's ticket.
        ticket: u64,
        /// Readings after that, in the order asked.
        counters: Vec<Counters>,
    },
    /// None of the policies of an [`Output::Install`] is in force, or all of an [`Output::ChangeMeters`] are as they were.
    InstallFailed {
        /// The output's ticket.
        ticket: u64,
        /// Why.
        error: InstallError,
    },
    /// The policies of an [`Output::Deinstall`] are out of force; no packet is counted by them any more.
    Deinstalled {
        /// The output's ticket.
        ticket: u64,
        /// Final readings, in the order asked; zero for a policy that was not installed.
        counters: Vec<Counters>,
    },
    /// The time asked for by [`Output::WakeAt`] has come.
    Tick,
}

/// What the broker wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Make this durable, before any later output of the same drain.
    Persist(Change),
    /// Put all of these in force or none; report [`Input::Installed`] or [`Input::InstallFailed`].
    Install {
        /// For the report.
        ticket: u64,
        /// Aggregates before the flows that they carry.
        policies: Vec<(PolicyId, Policy)>,
        /// Terminals that no policy names, and that the kernel's routes must lead to.
        terminals: Vec<IpAddr>,
    },
    /// Change what these flows in force may send, all of them or none; report [`Input::MetersChanged`] or [`Input::InstallFailed`].
    ChangeMeters {
        /// For the report.
        ticket: u64,
        /// What each goes back to where another cannot be changed, and what it is to have. One that has that already is right, too.
        meters: Vec<(PolicyId, Meter, Meter)>,
    },
    /// Take these out of force; report [`Input::Deinstalled`].
    Deinstall {
        /// For the report.
        ticket: u64,
        /// In this order.
        policies: Vec<PolicyId>,
    },
    /// Ask a peer; report [`Input::PeerAnswered`] exactly once, within `deadline`.
    Send {
        /// For the report.
        ticket: u64,
        /// Whom.
        peer: NodeName,
        /// What.
        request: PeerRequest,
        /// A client's token, to be sent beside it.
        token: Option<String>,
        /// When to give up.
        deadline: Nanos,
    },
    /// Answer a client.
    Answer {
        /// The request's ticket.
        ticket: u64,
        /// The answer.
        answer: Answer,
    },
    /// Answer a peer.
    PeerAnswer {
        /// The request's ticket.
        ticket: u64,
        /// The answer.
        answer: PeerAnswer,
    },
    /// Clients that follow the session may be told: it waits, is offered, has ended while it waited, or was pre-empted.
    Notify {
        /// The session.
        session: SessionId,
        /// Where it is in its life by now.
        state: SessionState,
        /// It is being ended for one of higher priority, which its failure names.
        preempted: bool,
    },
    /// Give [`Input::Tick`] at this time; replaces the last one asked for.
    WakeAt(Nanos),
}
