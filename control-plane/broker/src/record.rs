//! What a node keeps: aggregates, sessions and usage. These are stored, listed, and read back after a restart.

use serde::{Deserialize, Serialize};

use crate::authorization::{Authorization, TakenToken};
use crate::capacity::LinkRecord;
use crate::class::{NamedClass, Quality};
use crate::degrade::WhenFull;
use crate::media::Media;
use crate::media_slots::{MediaSlots, SlotCounts};
use crate::name::{AggregateName, Epoch, FlowId, Label, Nanos, NodeName, PolicyId, SessionId};
use crate::policy::{Counters, Endpoints, Excess, Marking, Meter, Rtcp, Tag};
use crate::priority::Priority;
use crate::quality::Mos;
use crate::rate_change::RateChange;
use crate::refusal::Refusal;
use crate::schedule::Schedule;
use crate::series::SeriesRecord;
use crate::shares::is_no_percent;

/// Which way, seen from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// This node sends.
    Out,
    /// This node receives.
    In,
}

/// Where an aggregate is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AggregateState {
    /// Held on the link; being installed here or at the peer.
    Establishing,
    /// Installed and confirmed at both ends.
    Active,
    /// Being taken down.
    Releasing,
}

/// A reserved aggregate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AggregateRecord {
    /// Its name on both nodes.
    pub name: AggregateName,
    /// The node at the other end.
    pub peer: NodeName,
    /// Seen from here.
    pub direction: Direction,
    /// Bits per second, on the wire.
    pub rate_bps: u64,
    /// Bytes at once.
    pub burst_bytes: u32,
    /// What becomes of DSCPs.
    pub marking: Marking,
    /// What it is engineered for, as both ends knew it when it was reserved.
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
    /// Its policy in the data plane.
    pub policy: PolicyId,
    /// With [`Tag::Terminals`]: what the receiver knows all of its packets by, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
    /// With [`Tag::Terminals`] at the receiver: the policy that lets its packets in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminals_policy: Option<PolicyId>,
    /// Where it is in its life.
    pub state: AggregateState,
}

impl AggregateRecord {
    /// Its policies in the data plane, in the order of installation.
    pub fn policies(&self) -> impl DoubleEndedIterator<Item = PolicyId> + use<> {
        std::iter::once(self.policy).chain(self.terminals_policy)
    }
}

/// Where a session is in its life on this node (R-004-9, R-004-16).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// There was no room when it was asked for: nothing is held, and it is called when there is (first side only).
    Waiting,
    /// Held at both ends for a short time after it waited, for the client to take by asking again (first side only).
    Offered,
    /// Reserved here; the other side is asked, or has asked and not committed.
    Held,
    /// Held and confirmed at both ends; installed at neither, because its start is to come.
    Booked,
    /// Being installed here.
    Installing,
    /// Installed here; the other side is installing (first side only).
    Committing,
    /// Installed and confirmed at both ends.
    Active,
    /// Being deinstalled.
    Releasing,
    /// Deinstalled and confirmed, with final usage.
    Ended,
}

/// Which part this node plays in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// It was asked by a client.
    First,
    /// It was asked by the first side.
    Second,
}

/// A flow of a session on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// Its name in the session.
    pub id: FlowId,
    /// What carries it.
    pub aggregate: AggregateName,
    /// Seen from here.
    pub direction: Direction,
    /// Its ends.
    pub endpoints: Endpoints,
    /// Where its RTCP is.
    #[serde(default)]
    pub rtcp: Rtcp,
    /// What was asked for.
    pub asked_rate_bps: u64,
    /// What was asked for beyond it; the second side may have lowered or removed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_excess: Option<Excess>,
    /// The smallest rate that would have done.
    pub rate_bps_min: u64,
    /// What is reserved: the second side's values.
    pub meter: Meter,
    /// The receiver's label, once it is known; none where the aggregate has one for all.
    pub label: Option<Label>,
    /// Its policy in the data plane, if it [has one](Self::has_policy).
    pub policy: PolicyId,
    /// What its tags tell: its aggregate's.
    #[serde(default)]
    pub tag: Tag,
    /// Its session is an emergency.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub emergency: bool,
    /// What it carries.
    #[serde(default)]
    pub media: Media,
    /// What was asked of its aggregate's class.
    #[serde(default, skip_serializing_if = "Quality::is_none")]
    pub asked_quality: Quality,
    /// What is promised: the second side's values (R-001-1, R-001-17).
    #[serde(default, skip_serializing_if = "Quality::is_none")]
    pub quality: Quality,
}

impl FlowRecord {
    /// Whether there is a policy for it in the data plane. There is none where this node receives it and its tags tell the terminals: the
    /// aggregate's policy lets it in with all others, and nothing is policed or counted of it alone.
    #[must_use]
    pub const fn has_policy(&self) -> bool {
        matches!((self.direction, self.tag), (Direction::Out, _) | (Direction::In, Tag::Label))
    }
}

/// How a session waits for room (R-000-11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// It waits no longer than this.
    pub until: Nanos,
    /// Its place: those with lower numbers came before.
    pub number: u64,
    /// How many that wanted a pool of its own came by while it waited; counted up to where its turn is reserved.
    pub passed: u32,
    /// Calls in a row that came to nothing.
    pub failures: u32,
    /// While it is offered: until when it can be taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered_until: Option<Nanos>,
}

/// A session on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Its name on all nodes.
    pub id: SessionId,
    /// This node's part.
    pub side: Side,
    /// The other node.
    pub peer: NodeName,
    /// Where it is in its life.
    pub state: SessionState,
    /// When it is to be in force.
    #[serde(flatten)]
    pub schedule: Schedule,
    /// How it stands to others that want the same room.
    #[serde(flatten)]
    pub priority: Priority,
    /// It was confirmed at both ends before its start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub booked: bool,
    /// Why it has not come up, or has not yet, though it was booked; or who pre-empted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Box<Refusal>>,
    /// When it came up here; 0 before.
    pub since: Nanos,
    /// All of its flows.
    pub flows: Vec<FlowRecord>,
    /// What was counted, here and at the peer; final once the session has ended.
    pub usage: Vec<FlowUsage>,
    /// It was up and all of it is counted here, but its final line is not in the ledger yet.
    #[serde(default)]
    pub ledger_due: bool,
    /// What it needs of media processing: at the first side of both, at the second its own.
    #[serde(default, skip_serializing_if = "MediaSlots::is_empty")]
    pub media_slots: MediaSlots,
    /// It waits for room, or is being called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
    /// Rates of its flows are being changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_change: Option<RateChange>,
    /// Second side: the last change of rates that it committed; 0 if there was none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rate_change_done: u64,
    /// Second side: which of the first side's attempts at this id it is of, so that what it says after a restart is not taken for a word on
    /// a later one; 0 if it was kept by a program that did not keep this.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempt: u64,
    /// The token that it was asked for with, where this node has looked at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<Box<Authorization>>,
    /// While it waits: the token as it came, for the second side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl SessionRecord {
    /// One that is held.
    pub(crate) const fn held(
        id: SessionId,
        side: Side,
        peer: NodeName,
        schedule: Schedule,
        flows: Vec<FlowRecord>,
    ) -> Self {
        Self {
            id,
            side,
            peer,
            state: SessionState::Held,
            schedule,
            priority: Priority::LOWEST,
            booked: false,
            failure: None,
            since: Nanos(0),
            flows,
            usage: Vec::new(),
            ledger_due: false,
            media_slots: MediaSlots { first: SlotCounts::new(), second: SlotCounts::new() },
            wait: None,
            rate_change: None,
            rate_change_done: 0,
            attempt: 0,
            authorization: None,
            token: None,
        }
    }

    /// What it needs of this node's media processing.
    #[must_use]
    pub const fn own_slots(&self) -> &SlotCounts {
        self.media_slots.of(self.side)
    }

    /// It was up at some time.
    pub(crate) fn was_active(&self) -> bool {
        self.since > Nanos(0)
    }
}

/// What one node counted of one flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowUsage {
    /// Who counted.
    pub node: NodeName,
    /// The flow.
    pub flow: FlowId,
    /// Seen from that node.
    pub direction: Direction,
    /// Bits per second reserved.
    pub reserved_rate_bps: u64,
    /// Absolute readings since installation; none where the node cannot tell the flow's packets from others, because it receives them
    /// with tags that tell their terminals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<Counters>,
    /// How it may have sounded ([`crate::quality`]); of an incoming flow with a codec that has published figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mos_estimated: Option<Mos>,
}

/// Start, change or end of a session's use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageKind {
    /// The session became active.
    Start,
    /// Rates were changed: these flows have these from now on. The counters are readings at that moment.
    Change,
    /// The session has ended; the counters are final.
    Final,
}

/// A line of the ledger. Unique by node, epoch and sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRecord {
    /// The node that wrote it.
    pub node: NodeName,
    /// That node's life.
    pub epoch: Epoch,
    /// Counts up from 1 in each epoch.
    pub sequence: u64,
    /// When.
    pub at: Nanos,
    /// Start, change or final.
    pub kind: UsageKind,
    /// The session.
    pub session: SessionId,
    /// What was counted.
    pub flows: Vec<FlowUsage>,
}

/// A change to what is kept. The shell makes all changes of one drain durable before it carries out the drain's other outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Write the aggregate.
    PutAggregate(AggregateRecord),
    /// Forget the aggregate.
    DeleteAggregate(AggregateName),
    /// Write the session.
    PutSession(SessionRecord),
    /// Forget the session.
    DeleteSession(SessionId),
    /// Write what is said of a link.
    PutLink(LinkRecord),
    /// Write the series.
    PutSeries(SeriesRecord),
    /// Forget the series.
    DeleteSeries(SessionId),
    /// Append to the ledger.
    AppendUsage(UsageRecord),
    /// Write a token that is taken.
    PutToken(TakenToken),
    /// Forget a token: it was not used, or has expired.
    DeleteToken {
        /// Who signed it.
        issuer: String,
        /// Its id.
        token_id: String,
    },
}
