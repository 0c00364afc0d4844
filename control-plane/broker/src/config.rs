//! What a broker is told when it starts.

use std::collections::BTreeMap;

use crate::address::Family;
use crate::class::{Class, QualityFloors};
use crate::media_slots::SlotCounts;
use crate::name::{ClassName, Epoch, LinkName, Nanos, NodeName};

/// One node's share of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// This node.
    pub node: NodeName,
    /// Greater than in every earlier life of this node.
    pub epoch: Epoch,
    /// What this node's links can carry.
    pub links: BTreeMap<LinkName, Link>,
    /// What this node itself can do.
    pub capacity: Capacity,
    /// The nodes that it peers with.
    pub peers: BTreeMap<NodeName, Peer>,
    /// What aggregates may be of.
    pub classes: BTreeMap<ClassName, Class>,
    /// The most of a link that aggregates of a class may have together, in each direction, in per cent of what it has at that time. All of it
    /// for those that are not named, and for aggregates without a class.
    pub class_percent_max: BTreeMap<ClassName, u8>,
    /// Upper bounds.
    pub limits: Limits,
    /// Deadlines.
    pub timers: Timers,
    /// How this node answers the holds of others.
    pub second_side: SecondSide,
    /// Makes labels unguessable; never leaves the node.
    pub label_secret: [u8; 16],
}

/// The way to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The link that leads there.
    pub link: LinkName,
    /// Of the tag addresses: what tagged packets have around them.
    pub tag_family: Family,
}

/// A link's capacity for aggregates, in IP bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Bits per second that this node may send.
    pub rate_out_bps: u64,
    /// Bits per second that this node may receive.
    pub rate_in_bps: u64,
}

/// What a node can do, whatever its links and aggregates have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capacity {
    /// Bits per second on the wire that it can forward, of all sessions together; not limited if there is none.
    pub rate_bps: Option<u64>,
    /// How many media-processing slots it has, by name.
    pub media_slots: SlotCounts,
}

/// Upper bounds. Memory is at most about 2 KiB for each session and 400 bytes for each flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Aggregates of both directions.
    pub aggregates_max: usize,
    /// Sessions that have not ended at both ends.
    pub sessions_max: usize,
    /// Ended sessions that are kept, first in first out, so that a repeated request gets the same answer.
    pub sessions_ended_max: usize,
    /// Flows of one session.
    pub flows_per_session_max: usize,
    /// Flows that this node sends, and as many labels of what it receives; at most 2^20, the indexes of a label.
    pub flows_max: u32,
    /// Questions of clients, whether a session would be admitted, that a peer has not answered yet.
    pub questions_max: usize,
    /// Sessions that wait for room.
    pub watches_max: usize,
    /// Tokens that are remembered until they have expired, about 300 bytes each.
    pub tokens_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            aggregates_max: 256,
            sessions_max: 32_768,
            sessions_ended_max: 1_024,
            flows_per_session_max: 16,
            flows_max: 65_536,
            questions_max: 256,
            watches_max: 256,
            tokens_max: 65_536,
        }
    }
}

/// Deadlines, all by this node's own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// A peer that has not answered by then has refused (R-002-14).
    pub reply: Nanos,
    /// A hold for another node's session lapses by then if no commit has come.
    pub hold: Nanos,
    /// How long a session that has waited is held for its client to take; a hold for another node's lapses that much later.
    pub offer: Nanos,
    /// The first retry of a release that was not answered; doubles with every further one.
    pub retry: Nanos,
    /// The longest time between two retries.
    pub retry_max: Nanos,
    /// How long after its start a booking may still come up; it has failed by then.
    pub start: Nanos,
    /// The most by which the clocks of two nodes may differ for a session with a start or an end, with a message's way between them.
    pub clock_difference: Nanos,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            reply: Nanos::from_millis(3_000),
            hold: Nanos::from_millis(10_000),
            offer: Nanos::from_millis(30_000),
            retry: Nanos::from_millis(500),
            retry_max: Nanos::from_millis(30_000),
            start: Nanos::from_millis(60_000),
            clock_difference: Nanos::from_millis(10_000),
        }
    }
}

/// How this node answers the holds of others: the second side's own values (R-001-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SecondSide {
    /// No flow gets more bits per second than this.
    pub flow_rate_bps_max: Option<u64>,
    /// No flow gets more excess than this, in bits per second; none at all if it is 0.
    pub flow_excess_rate_bps_max: Option<u64>,
    /// Whether a flow that does not fit is lowered to what does, down to its smallest rate, or refused.
    pub lower_to_fit: bool,
    /// No flow is promised smaller figures than these.
    pub quality_floors: QualityFloors,
}
