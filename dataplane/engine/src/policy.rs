//! What the engine is asked to put in force.

use std::net::{IpAddr, SocketAddr};

use crate::reception::Reception;

/// Names one installed policy; chosen by the caller, never twice.
pub type PolicyId = u64;

/// The traffic that a flow may offer, counted in IP bytes of the packet as its sender made it (RFC 2215).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meter {
    /// Bits per second that are the flow's own.
    pub rate_bps: u64,
    /// Bytes that may come at once.
    pub burst_bytes: u32,
    /// A smaller packet is counted as this many bytes.
    pub packet_bytes_min: u16,
    /// What it may send beyond that, from what its aggregate has idle; none refuses it.
    pub excess: Option<Excess>,
}

/// The second bucket of RFC 4115: packets that only it admits are yellow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Excess {
    /// Bits per second, beyond [`Meter::rate_bps`].
    pub rate_bps: u64,
    /// Bytes that may come at once.
    pub burst_bytes: u32,
}

/// What becomes of a packet's DSCP. ECN is always kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dscp {
    /// It becomes this, 6 bits.
    Set(u8),
    /// It stays.
    Copy,
    /// It becomes what the node's map for this direction has for it.
    Map,
}

/// What the data plane wants to know of an incoming flow's media to measure how it arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Media {
    /// Ticks of the RTP timestamp in a second; 0 if it is not known, and then there is no jitter.
    pub clock_rate_hz: u32,
    /// Jitter is measured at every packet, not at one in 16: a clock reading for each.
    pub every_packet: bool,
}

/// One thing for the data plane to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Policy {
    /// Carry flows to `peer`, together never above this; rates count IP bytes on the wire.
    AggregateOut {
        /// Where tagged packets go; of the family of a tag address of this node.
        peer: IpAddr,
        /// Bits per second.
        rate_bps: u64,
        /// Bytes at once.
        burst_bytes: u32,
        /// Of the tagged packets.
        dscp: Dscp,
        /// Of the tagged packets that are yellow, 6 bits; none leaves them like the others.
        excess_dscp: Option<u8>,
    },
    /// Accept flows from `peer`, together never above this; rates count IP bytes on the wire.
    AggregateIn {
        /// Where tagged packets come from.
        peer: IpAddr,
        /// Bits per second.
        rate_bps: u64,
        /// Bytes at once.
        burst_bytes: u32,
        /// Of the restored packets.
        dscp: Dscp,
    },
    /// Meter, tag and send one flow.
    FlowOut {
        /// An installed [`Policy::AggregateOut`].
        aggregate: PolicyId,
        /// Where its packets come from.
        source: SocketAddr,
        /// Where they go; of the same family.
        destination: SocketAddr,
        /// What the receiver knows it by, 40 bits.
        label: u64,
        /// What it may send.
        meter: Meter,
        /// Its RTCP is on the next ports (RFC 3550), and is part of it.
        rtcp_next_port: bool,
        /// The tag tells its terminals, and the label is that of the receiver's [`Policy::TerminalsIn`] (R-003-13).
        terminals: bool,
    },
    /// Accept packets whose tags tell their terminals, by one label for all, and deliver them by the kernel's routes (R-003-13).
    TerminalsIn {
        /// An installed [`Policy::AggregateIn`].
        aggregate: PolicyId,
        /// What the sender tags them with, 40 bits.
        label: u64,
        /// What they may send together.
        meter: Meter,
    },
    /// Accept one flow by its label, meter, restore and deliver it.
    FlowIn {
        /// An installed [`Policy::AggregateIn`].
        aggregate: PolicyId,
        /// What its packets are restored to.
        source: SocketAddr,
        /// What its packets are restored to; of the same family.
        destination: SocketAddr,
        /// What it is known by, 40 bits.
        label: u64,
        /// What it may send.
        meter: Meter,
        /// Its RTCP is on the next ports (RFC 3550), and is part of it.
        rtcp_next_port: bool,
        /// What is counted of what arrives.
        media: Media,
    },
}

/// What an installed policy may send from now on. Everything else of it stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Of a [`Policy::FlowOut`], [`Policy::FlowIn`] or [`Policy::TerminalsIn`].
    Meter(Meter),
    /// Of a [`Policy::AggregateOut`] or [`Policy::AggregateIn`].
    Aggregate {
        /// Bits per second.
        rate_bps: u64,
        /// Bytes at once.
        burst_bytes: u32,
    },
}

/// What a policy counted since it was installed. Offered = passed + dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
    /// Packets of those passed that were yellow: beyond the flow's own rate. Flows only.
    pub excess_packets: u64,
    /// Their IP bytes.
    pub excess_bytes: u64,
    /// What arrived, by the RTP headers of what was sent on; an incoming flow's only.
    pub reception: Option<Reception>,
}

impl std::ops::AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.offered_packets += other.offered_packets;
        self.offered_bytes += other.offered_bytes;
        self.passed_packets += other.passed_packets;
        self.passed_bytes += other.passed_bytes;
        self.dropped_packets += other.dropped_packets;
        self.dropped_bytes += other.dropped_bytes;
        self.excess_packets += other.excess_packets;
        self.excess_bytes += other.excess_bytes;
    }
}
