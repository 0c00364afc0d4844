//! What the engine is asked to put in force.

use std::net::{Ipv4Addr, SocketAddrV4};

/// Names one installed policy; chosen by the caller, never twice.
pub type PolicyId = u64;

/// The traffic that a flow may offer, counted in IP bytes of the packet as its sender made it (RFC 2215).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meter {
    /// Bits per second.
    pub rate_bps: u64,
    /// Bytes that may come at once.
    pub burst_bytes: u32,
    /// A smaller packet is counted as this many bytes.
    pub packet_bytes_min: u16,
}

/// One thing for the data plane to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Policy {
    /// Carry flows to `peer`, together never above this; rates count IP bytes on the wire.
    AggregateOut {
        /// Where tagged packets go.
        peer: Ipv4Addr,
        /// Bits per second.
        rate_bps: u64,
        /// Bytes at once.
        burst_bytes: u32,
        /// 6 bits.
        dscp: u8,
    },
    /// Accept flows from `peer`, together never above this; rates count IP bytes on the wire.
    AggregateIn {
        /// Where tagged packets come from.
        peer: Ipv4Addr,
        /// Bits per second.
        rate_bps: u64,
        /// Bytes at once.
        burst_bytes: u32,
    },
    /// Meter, tag and send one flow.
    FlowOut {
        /// An installed [`Policy::AggregateOut`].
        aggregate: PolicyId,
        /// Where its packets come from.
        source: SocketAddrV4,
        /// Where they go.
        destination: SocketAddrV4,
        /// What the receiver knows it by, 40 bits.
        label: u64,
        /// What it may send.
        meter: Meter,
    },
    /// Accept one flow by its label, meter, restore and deliver it.
    FlowIn {
        /// An installed [`Policy::AggregateIn`].
        aggregate: PolicyId,
        /// What its packets are restored to.
        source: SocketAddrV4,
        /// What its packets are restored to.
        destination: SocketAddrV4,
        /// What it is known by, 40 bits.
        label: u64,
        /// What it may send.
        meter: Meter,
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
}

impl std::ops::AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.offered_packets += other.offered_packets;
        self.offered_bytes += other.offered_bytes;
        self.passed_packets += other.passed_packets;
        self.passed_bytes += other.passed_bytes;
        self.dropped_packets += other.dropped_packets;
        self.dropped_bytes += other.dropped_bytes;
    }
}
