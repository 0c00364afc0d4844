//! The entries of the tables that user space and the data plane share: fixed sizes, no padding, no enums.
//!
//! An entry that packets can find is never changed in place, but for single words that stand for themselves (expiry, next
//! hop). User space writes an entry whole, then publishes it by one word; it takes it back by one word, waits until no
//! packet can still be looking at it, and only then writes it anew.

use core::cell::Cell;
use core::sync::atomic::AtomicU64;

#[cfg(not(target_arch = "bpf"))]
use zerocopy::{FromBytes, IntoBytes};

use crate::checksum::Change;
use crate::wire::tag;

/// Most peers of a node.
pub const PEERS_MAX: usize = 64;
/// Most addresses of a node at its site.
pub const LOCAL_MAX: usize = 8;

/// Of no admitted flow: give it to the operating system.
pub const UNADMITTED_PASS: u32 = 0;
/// Of no admitted flow: best effort within what the link has left.
pub const UNADMITTED_LIMIT: u32 = 1;
/// Of no admitted flow: refuse.
pub const UNADMITTED_DROP: u32 = 2;

/// What is the same for all packets. One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C, align(8))]
pub struct Config {
    /// Must be [`crate::contract::VERSION`].
    pub version: u64,
    /// Nanoseconds of one tick of the coarse clock.
    pub tick_ns: u64,
    /// Starts the flow hash, so that nobody outside can aim at one bucket.
    pub hash_seed: u64,
    /// Buckets of the flow table less one; a power of two less one.
    pub bucket_mask: u32,
    /// One of the `UNADMITTED_` values.
    pub unadmitted: u32,
    /// Index of the aggregate that stands for what the link has left: 0 or 1, so that it can be changed as a whole.
    pub best_effort: u32,
    /// Zero.
    pub reserved: u32,
    /// Where peers send tagged packets.
    pub tag_address: [u8; 4],
    /// UDP port of tagged packets.
    pub tag_port: [u8; 2],
    /// Used entries of `peers`.
    pub peers_count: u16,
    /// Addresses whose packets from the site are for the node itself; zero is none.
    pub local: [[u8; 4]; LOCAL_MAX],
    /// Tag addresses of the peers.
    pub peers: [[u8; 4]; PEERS_MAX],
}

/// One cache line of the flow table: fingerprint in the upper 32 bits, index of the flow plus one in the lower; 0 is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C, align(64))]
pub struct Bucket {
    /// In no order.
    pub slots: [u64; 8],
}

/// What a flow may send, as the meter wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C)]
pub struct FlowRate {
    /// Nanoseconds that one byte costs, times 2^24.
    pub byte_cost: u64,
    /// Nanoseconds that the flow may be ahead of its rate.
    pub burst_ns: u64,
}

/// [`Flow::flags`] and [`LabelEntry::flags`]: the meter reads the exact clock, not the coarse one.
pub const EXACT_CLOCK: u16 = 1;

/// An outgoing flow. One cache line: key, what to write, meter and its state.
#[derive(Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C, align(64))]
pub struct Flow {
    /// Key.
    pub source: [u8; 4],
    /// Key.
    pub destination: [u8; 4],
    /// Key.
    pub source_port: [u8; 2],
    /// Key.
    pub destination_port: [u8; 2],
    /// Index of what carries it.
    pub aggregate: u16,
    /// [`EXACT_CLOCK`] or 0.
    pub flags: u16,
    /// Folded change of the IP checksum.
    pub ip_change: u16,
    /// Folded change of the UDP checksum, without the tag's length.
    pub udp_change: u16,
    /// A smaller packet is counted as this many bytes.
    pub packet_bytes_min: u16,
    /// Source port of the tagged packets.
    pub entropy_port: [u8; 2],
    /// The tag, its length still zero.
    pub tag: u64,
    /// Coarse time at which the policy lapses.
    pub expires_ns: u64,
    /// What it may send.
    pub rate: FlowRate,
    /// State of the meter: when the flow would be back at its rate, in sixteenths of a nanosecond.
    pub due: AtomicU64,
}

/// An incoming flow. One cache line.
#[derive(Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C, align(64))]
pub struct LabelEntry {
    /// The label's upper bits, and [`LABEL_VALID`] while the flow is in force.
    pub generation: u32,
    /// The only address that may use the label.
    pub peer: [u8; 4],
    /// What the packets are restored to.
    pub source: [u8; 4],
    /// What the packets are restored to.
    pub destination: [u8; 4],
    /// What the packets are restored to.
    pub source_port: [u8; 2],
    /// What the packets are restored to.
    pub destination_port: [u8; 2],
    /// Index of what carries it.
    pub aggregate: u16,
    /// [`EXACT_CLOCK`] or 0.
    pub flags: u16,
    /// Folded change of the IP checksum.
    pub ip_change: u16,
    /// Folded change of the UDP checksum, without source port and tag length, which differ from packet to packet.
    pub udp_change: u16,
    /// A smaller packet is counted as this many bytes.
    pub packet_bytes_min: u16,
    /// Index of the next hop to the terminal.
    pub next_hop: u16,
    /// Coarse time at which the policy lapses.
    pub expires_ns: u64,
    /// What it may send.
    pub rate: FlowRate,
    /// State of the meter: when the flow would be back at its rate, in sixteenths of a nanosecond.
    pub due: AtomicU64,
}

/// [`LabelEntry::generation`]: the flow is in force. Without it the entry remembers the generation of a flow that has ended.
pub const LABEL_VALID: u32 = 1 << 31;

/// What is fixed of an aggregate. One cache line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C, align(64))]
pub struct Aggregate {
    /// The tagged packets' destination.
    pub peer: [u8; 4],
    /// The tagged packets' source.
    pub local: [u8; 4],
    /// The tagged packets' destination port.
    pub tag_port: [u8; 2],
    /// DSCP in the upper six bits.
    pub tos: u8,
    /// Zero.
    pub reserved: u8,
    /// Index of the next hop to the peer.
    pub next_hop: u16,
    /// Zero.
    pub reserved_2: u16,
    /// Bytes that a CPU borrows at a time; no packet is longer.
    pub quantum_bytes: u64,
    /// What they cost.
    pub quantum_ns: u64,
    /// Most that the pool holds.
    pub depth_ns: u64,
    /// Zero.
    pub reserved_3: [u64; 3],
}

/// What all CPUs share of an aggregate's meter. Alone in its cache line.
#[derive(Debug, Default)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C, align(64))]
pub struct Pool {
    /// Time up to which the pool is spent.
    pub spent_ns: AtomicU64,
    /// Zero.
    pub reserved: [u64; 7],
}

/// Packets and bytes of one CPU. Offered = passed + dropped.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C)]
pub struct Tally {
    /// Packets.
    pub offered_packets: Cell<u64>,
    /// IP bytes.
    pub offered_bytes: Cell<u64>,
    /// Packets.
    pub passed_packets: Cell<u64>,
    /// IP bytes.
    pub passed_bytes: Cell<u64>,
    /// Packets.
    pub dropped_packets: Cell<u64>,
    /// IP bytes.
    pub dropped_bytes: Cell<u64>,
}

impl Tally {
    /// A packet came.
    #[inline(always)]
    pub fn offer(&self, bytes: u64) {
        self.offered_packets.set(self.offered_packets.get() + 1);
        self.offered_bytes.set(self.offered_bytes.get() + bytes);
    }

    /// It went on.
    #[inline(always)]
    pub fn pass(&self, bytes: u64) {
        self.passed_packets.set(self.passed_packets.get() + 1);
        self.passed_bytes.set(self.passed_bytes.get() + bytes);
    }

    /// It went on, or was refused.
    #[inline(always)]
    pub fn settle(&self, bytes: u64, passed: bool) {
        if passed {
            self.pass(bytes);
        } else {
            self.drop(bytes);
        }
    }

    /// It was refused.
    #[inline(always)]
    pub fn drop(&self, bytes: u64) {
        self.dropped_packets.set(self.dropped_packets.get() + 1);
        self.dropped_bytes.set(self.dropped_bytes.get() + bytes);
    }
}

/// What one CPU has of one aggregate. One cache line.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C, align(64))]
pub struct AggregateShare {
    /// Bytes borrowed from the pool and not yet spent.
    pub credit_bytes: Cell<u64>,
    /// Zero.
    pub reserved: u64,
    /// What it counted.
    pub tally: Tally,
}

/// What one CPU counted of one flow. One cache line.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C, align(64))]
pub struct FlowShare {
    /// What it counted.
    pub tally: Tally,
    /// Zero.
    pub reserved: [u64; 2],
}

/// What one CPU counted for one reason.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C)]
pub struct ReasonShare {
    /// Packets.
    pub packets: Cell<u64>,
    /// Bytes behind the Ethernet header.
    pub bytes: Cell<u64>,
}

/// Where a packet goes next: the port's index in the upper 16 bits, the MAC address in the lower 48; 0 is unresolved.
///
/// One word, so that it can be changed under traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(transparent)]
pub struct NextHop(pub u64);

/// A MAC address as one number, so that it is carried in a register and not byte by byte.
#[must_use]
pub const fn mac_bits(mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// The address of [`mac_bits`].
#[must_use]
#[inline(always)]
pub const fn mac_of_bits(bits: u64) -> [u8; 6] {
    let [_, _, a, b, c, d, e, f] = bits.to_be_bytes();
    [a, b, c, d, e, f]
}

impl NextHop {
    /// Through `port` (from 0) to `mac`.
    #[must_use]
    pub const fn new(port: u16, mac: [u8; 6]) -> Self {
        Self((port as u64 + 1) << 48 | mac_bits(mac))
    }

    /// The port, unless it is unresolved.
    #[must_use]
    pub const fn port(self) -> Option<u32> {
        ((self.0 >> 48) as u32).checked_sub(1)
    }

    /// The MAC address.
    #[must_use]
    pub const fn mac(self) -> [u8; 6] {
        mac_of_bits(self.0)
    }
}

/// A device that packets leave by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C, align(8))]
pub struct Port {
    /// The device's own MAC address, as [`mac_bits`] has it.
    pub mac_bits: u64,
    /// Longest IP packet.
    pub mtu_bytes: u32,
    /// Of the operating system.
    pub ifindex: u32,
}

/// Both clocks at one moment, as the data plane sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C)]
pub struct ClockReading {
    /// Ticks.
    pub ticks: u64,
    /// Nanoseconds of the exact clock.
    pub exact_ns: u64,
}

/// The two ends of a flow as its packets carry them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inner {
    /// Address.
    pub source: [u8; 4],
    /// Address.
    pub destination: [u8; 4],
    /// Port.
    pub source_port: [u8; 2],
    /// Port.
    pub destination_port: [u8; 2],
}

/// The two ends of the tagged packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outer {
    /// The sending node's tag address.
    pub source: [u8; 4],
    /// The receiving node's tag address.
    pub destination: [u8; 4],
    /// The receiving node's tag port.
    pub tag_port: [u8; 2],
}

const ONE_HOP: [u8; 2] = [1, 0];
const TAG_LENGTH: [u8; 2] = tag::HEADER_LENGTH.to_be_bytes();

const fn tag_halves(template: u64) -> ([u8; 4], [u8; 4]) {
    let [a, b, c, d, e, f, g, h] = template.to_be_bytes();
    ([a, b, c, d], [e, f, g, h])
}

/// The checksum changes (IP, UDP) of tagging: the packet grows by the tag, loses a hop, and changes its ends.
#[must_use]
pub const fn changes_out(inner: &Inner, outer: &Outer, entropy_port: [u8; 2], template: u64) -> (u16, u16) {
    let addresses = Change::NONE
        .minus_long(inner.source)
        .minus_long(inner.destination)
        .plus_long(outer.source)
        .plus_long(outer.destination);
    let ip = Change::folded(addresses.fold()).plus(TAG_LENGTH).minus(ONE_HOP);
    let (high, low) = tag_halves(template);
    let udp = Change::folded(addresses.fold())
        .minus(inner.source_port)
        .minus(inner.destination_port)
        .plus(entropy_port)
        .plus(outer.tag_port)
        .plus(TAG_LENGTH)
        .plus(TAG_LENGTH)
        .plus_long(high)
        .plus_long(low);
    (ip.fold(), udp.fold())
}

/// The checksum changes (IP, UDP) of restoring. The outer source port and the tag's length are the packet's own.
#[must_use]
pub const fn changes_in(inner: &Inner, outer: &Outer, template: u64) -> (u16, u16) {
    let addresses = Change::NONE
        .minus_long(outer.source)
        .minus_long(outer.destination)
        .plus_long(inner.source)
        .plus_long(inner.destination);
    let ip = Change::folded(addresses.fold()).minus(TAG_LENGTH).minus(ONE_HOP);
    let (high, low) = tag_halves(template);
    let udp = Change::folded(addresses.fold())
        .minus(outer.tag_port)
        .plus(inner.source_port)
        .plus(inner.destination_port)
        .minus(TAG_LENGTH)
        .minus(TAG_LENGTH)
        .minus_long(high)
        .minus_long(low);
    (ip.fold(), udp.fold())
}
