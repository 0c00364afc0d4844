//! What the data plane is to do, in the broker's units. The shell turns these into map entries.

use std::net::SocketAddrV4;

use serde::{Deserialize, Serialize};

use crate::media::Media;
use crate::name::{Label, NodeName, PolicyId};
use crate::refusal::Reason;

/// The traffic that a flow may offer: RFC 2215's token bucket and minimum policed unit, counted in IP bytes of the packet
/// as its sender made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// Bits per second.
    pub rate_bps: u64,
    /// Bytes that may come at once.
    pub burst_bytes: u32,
    /// A smaller packet is counted as this many bytes, so that the cost of the tag is bounded.
    pub packet_bytes_min: u16,
}

/// A flow's two ends, as its packets carry them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Endpoints {
    /// Where the packets come from.
    pub source: SocketAddrV4,
    /// Where they go.
    pub destination: SocketAddrV4,
}

/// One thing for the data plane to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// Carry flows to `peer`, together never above this.
    AggregateOut {
        /// The node at the other end.
        peer: NodeName,
        /// Bits per second, in IP bytes as they are on the wire.
        rate_bps: u64,
        /// Bytes that may go at once.
        burst_bytes: u32,
        /// 6 bits, set on every tagged packet.
        dscp: u8,
    },
    /// Accept flows from `peer`, together never above this.
    AggregateIn {
        /// The node at the other end.
        peer: NodeName,
        /// Bits per second, in IP bytes as they are on the wire.
        rate_bps: u64,
        /// Bytes that may come at once.
        burst_bytes: u32,
    },
    /// Meter, tag and send one flow.
    FlowOut {
        /// The installed [`Policy::AggregateOut`] that carries it.
        aggregate: PolicyId,
        /// What its packets look like.
        endpoints: Endpoints,
        /// What the receiver knows it by.
        label: Label,
        /// What it may send.
        meter: Meter,
    },
    /// Accept one flow by its label, meter, restore and deliver it.
    FlowIn {
        /// The installed [`Policy::AggregateIn`] that it comes by.
        aggregate: PolicyId,
        /// What its packets are restored to.
        endpoints: Endpoints,
        /// What it is known by.
        label: Label,
        /// What it may send.
        meter: Meter,
        /// What its packets carry.
        media: Media,
    },
}

/// What a policy counted, from its installation on. Packets and IP bytes; offered = passed + dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Packets that matched.
    pub offered_packets: u64,
    /// IP bytes that matched.
    pub offered_bytes: u64,
    /// Packets sent on.
    pub passed_packets: u64,
    /// IP bytes sent on.
    pub passed_bytes: u64,
    /// Packets refused.
    pub dropped_packets: u64,
    /// IP bytes refused.
    pub dropped_bytes: u64,
    /// What arrived, by the RTP headers of what was sent on; an incoming flow's only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reception: Option<Reception>,
}

/// What arrived of an incoming flow, by its RTP headers (RFC 3550). `docs/life-of-a-packet.md` says what each figure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reception {
    /// Packets that never came, or more than 32 behind a later one.
    pub lost_packets: u64,
    /// Packets that came again.
    pub duplicated_packets: u64,
    /// Packets that came behind a later one, and in time.
    pub reordered_packets: u64,
    /// Packets that came, and could not be placed; each may be one of `lost_packets`.
    pub unplaced_packets: u64,
    /// Packets that are no RTP, such as RTCP on the same port.
    pub not_rtp_packets: u64,
    /// Runs of loss.
    pub gaps: u64,
    /// New streams in place of one before.
    pub restarts: u64,
    /// Interarrival jitter; absent where the clock rate is not known or nothing was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter_ns: Option<u64>,
}

/// Why the data plane did not take a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct InstallError {
    /// Stable, in snake case, such as `flow_table_full`.
    pub code: String,
    /// For people: what happened and what to do.
    pub detail: String,
    /// What was asked cannot be enforced or delivered: to ask otherwise helps, to ask again does not.
    pub of_request: bool,
}

impl InstallError {
    /// What the asker is told.
    pub(crate) const fn reason(&self) -> Reason {
        if self.of_request { Reason::NotEnforceable } else { Reason::InstallFailed }
    }
}
