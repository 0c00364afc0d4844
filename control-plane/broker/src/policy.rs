//! What the data plane is to do, in the broker's units. The shell turns these into map entries.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::address::Family;
use crate::media::Media;
use crate::name::{Label, NodeName, PolicyId};
use crate::refusal::Reason;

/// The traffic that a flow may offer: RFC 2215's token bucket and minimum policed unit, counted in IP bytes of the packet
/// as its sender made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// Bits per second that are the flow's own.
    pub rate_bps: u64,
    /// Bytes that may come at once.
    pub burst_bytes: u32,
    /// A smaller packet is counted as this many bytes, so that the cost of the tag is bounded.
    pub packet_bytes_min: u16,
    /// What it may send beyond that, from what its aggregate has idle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excess: Option<Excess>,
}

/// The second bucket of RFC 4115. Packets that only it admits are yellow: they pass while the aggregate has room, and nothing is reserved for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Excess {
    /// Bits per second, beyond [`Meter::rate_bps`].
    pub rate_bps: u64,
    /// Bytes that may come at once.
    pub burst_bytes: u32,
}

/// What becomes of a packet's DSCP. ECN is always kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dscp {
    /// It becomes this, 6 bits.
    Set(u8),
    /// It stays.
    Copy,
    /// It becomes what the node's map for this direction has for it.
    Map,
}

impl Dscp {
    /// Which of the three, without the value.
    #[must_use]
    pub const fn policy(self) -> DscpPolicy {
        match self {
            Self::Set(_) => DscpPolicy::Set,
            Self::Copy => DscpPolicy::Copy,
            Self::Map => DscpPolicy::Map,
        }
    }

    /// What it is set to.
    #[must_use]
    pub const fn value(self) -> Option<u8> {
        match self {
            Self::Set(value) => Some(value),
            Self::Copy | Self::Map => None,
        }
    }
}

impl fmt::Display for Dscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set(value) => value.fmt(f),
            Self::Copy => f.write_str("copied"),
            Self::Map => f.write_str("mapped"),
        }
    }
}

/// How a [`Dscp`] is asked for and shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DscpPolicy {
    /// All packets get one value.
    Set,
    /// Each packet keeps its own.
    Copy,
    /// The node's map decides.
    Map,
}

/// What becomes of DSCPs along an aggregate, the same at both of its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marking {
    /// Of tagged packets, at the sender.
    pub dscp: Dscp,
    /// Of tagged packets that are yellow, 6 bits; `None` leaves them like the others.
    pub excess_dscp: Option<u8>,
    /// Of restored packets, at the receiver; what they start from is the DSCP that they arrived with.
    pub deliver_dscp: Dscp,
}

impl fmt::Display for Marking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DSCP {}", self.dscp)?;
        if let Some(dscp) = self.excess_dscp {
            write!(f, ", {dscp} in excess")?;
        }
        write!(f, ", {} on delivery", self.deliver_dscp)
    }
}

/// How the tags of an aggregate tell the receiver whose a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tag {
    /// By a label for each flow (R-003-12): the receiver has the flow's endpoints, and polices and counts it.
    #[default]
    Label,
    /// By the addresses and ports of both terminals (R-003-13): the receiver has one label for the whole aggregate, knows no flow, and
    /// polices and counts all of them together.
    Terminals,
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Label => "tags with labels",
            Self::Terminals => "tags with terminals",
        })
    }
}

/// Where a flow's RTCP is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rtcp {
    /// With the RTP (RFC 5761), or there is none.
    #[default]
    SamePort,
    /// On the next ports, both one higher (RFC 3550 section 11); they are part of the flow.
    NextPort,
}

/// A flow's two ends, as its packets carry them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Endpoints {
    /// Where the packets come from.
    pub source: SocketAddr,
    /// Where they go; of the same family.
    pub destination: SocketAddr,
}

impl Endpoints {
    /// The IP version of its packets.
    #[must_use]
    pub const fn family(&self) -> Family {
        Family::of(self.source.ip())
    }

    /// Both ports one higher; `None` where there is no higher one.
    #[must_use]
    pub fn next_ports(self) -> Option<Self> {
        let next = |end: SocketAddr| Some(SocketAddr::new(end.ip(), end.port().checked_add(1)?));
        Some(Self { source: next(self.source)?, destination: next(self.destination)? })
    }
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
        /// Of the tagged packets.
        dscp: Dscp,
        /// Of the tagged packets that are yellow, 6 bits; `None` leaves them like the others.
        excess_dscp: Option<u8>,
    },
    /// Accept flows from `peer`, together never above this.
    AggregateIn {
        /// The node at the other end.
        peer: NodeName,
        /// Bits per second, in IP bytes as they are on the wire.
        rate_bps: u64,
        /// Bytes that may come at once.
        burst_bytes: u32,
        /// Of the restored packets.
        dscp: Dscp,
    },
    /// Meter, tag and send one flow.
    FlowOut {
        /// The installed [`Policy::AggregateOut`] that carries it.
        aggregate: PolicyId,
        /// What its packets look like.
        endpoints: Endpoints,
        /// What the receiver knows it by; with [`Tag::Terminals`] the whole aggregate's.
        label: Label,
        /// What it may send.
        meter: Meter,
        /// Where its RTCP is.
        rtcp: Rtcp,
        /// What its tags tell.
        tag: Tag,
    },
    /// Accept packets whose tags tell their terminals, by one label for all, and deliver them by the kernel's routes.
    TerminalsIn {
        /// The installed [`Policy::AggregateIn`] that they come by.
        aggregate: PolicyId,
        /// What the sender tags them with.
        label: Label,
        /// What they may be together: no less than the aggregate lets through.
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
        /// Where its RTCP is.
        rtcp: Rtcp,
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
    /// Packets sent on that were yellow, by this node's own meter; among those of `passed_packets`. A flow's only; an aggregate's is 0.
    #[serde(default)]
    pub excess_packets: u64,
    /// Their IP bytes; among those of `passed_bytes`.
    #[serde(default)]
    pub excess_bytes: u64,
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
