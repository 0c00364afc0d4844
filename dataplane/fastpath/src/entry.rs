//! The entries of the tables that user space and the data plane share: fixed sizes, no padding, no enums.
//!
//! An entry that packets can find is never changed in place, but for single words that stand for themselves (expiry, next
//! hop), and for a meter's numbers while its own word says that they do not count ([`INTERIM`]). User space writes an entry whole, then
//! publishes it by one word; it takes it back by one word, waits until no packet can still be looking at it, and only then writes it
//! anew.

use core::cell::Cell;
use core::sync::atomic::AtomicU64;

#[cfg(not(target_arch = "bpf"))]
use zerocopy::{FromBytes, IntoBytes};

use crate::wire::vlan::TAGS_MAX;

/// Most peers of a node.
pub const PEERS_MAX: usize = 64;
/// Most addresses of a node at its site.
pub const LOCAL_MAX: usize = 16;

/// Of no admitted flow: give it to the operating system.
pub const UNADMITTED_PASS: u16 = 0;
/// Of no admitted flow: best effort within what the link has left.
pub const UNADMITTED_LIMIT: u16 = 1;
/// Of no admitted flow: refuse.
pub const UNADMITTED_DROP: u16 = 2;

/// What is the same for all packets. One entry; the first cache line is what most packets need. Addresses of sixteen bytes are IPv6 ones, or
/// IPv4 ones as [`mapped`] writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C, align(64))]
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
    pub unadmitted: u16,
    /// 1 if fragments from the site are dropped; 0 if they are packets of no flow.
    pub fragments_drop: u16,
    /// Index of the aggregate that stands for what the link has left: 0 or 1, so that it can be changed as a whole.
    pub best_effort: u32,
    /// Where peers send tagged packets in IPv4; zero if nowhere.
    pub tag_address_v4: [u8; 4],
    /// Where they send them in IPv6; zero if nowhere.
    pub tag_address_v6: [u8; 16],
    /// UDP port of tagged packets.
    pub tag_port: [u8; 2],
    /// Used entries of `peers`.
    pub peers_count: u16,
    /// Zero; see [`crate::Tables::unknown`].
    pub zero: u32,
    /// Addresses whose packets from the site are for the node itself; zero is none.
    pub local: [[u8; 16]; LOCAL_MAX],
    /// Tag addresses of the peers.
    pub peers: [[u8; 16]; PEERS_MAX],
    /// New DSCP by the old one, for [`DSCP_MAP`] on the way out.
    pub dscp_out: [u8; 64],
    /// New DSCP by the old one, for [`DSCP_MAP`] on the way in.
    pub dscp_in: [u8; 64],
    /// What the one policy goes by whose rate is being changed.
    pub interim: Interim,
}

/// Bit of the word that a meter moves ([`Flow::due`], [`LabelEntry::due`], [`Detail::excess_due`], [`Pool::spent_ns`]): the meter goes by
/// [`Config::interim`] and not by the numbers of its own entry, which user space is writing anew.
///
/// It is in that word so that both change in one step: a packet's compare-and-swap holds only if the numbers that it was charged by are in
/// force.
pub const INTERIM: u64 = 1 << 63;

/// The numbers of one policy's meters while its own are written anew. Packets read it only where they find [`INTERIM`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C, align(64))]
pub struct Interim {
    /// [`Flow::rate`], [`LabelEntry::rate`]
    pub rate: FlowRate,
    /// [`Detail::excess`]
    pub excess: FlowRate,
    /// [`EXACT_CLOCK`] and [`EXCESS`]; the others are not looked at.
    pub flags: u16,
    /// [`Flow::packet_bytes_min`], [`LabelEntry::packet_bytes_min`]
    pub packet_bytes_min: u16,
    /// Zero.
    pub reserved: u32,
    /// [`Aggregate::quantum_bytes`]
    pub quantum_bytes: u64,
    /// [`Aggregate::quantum_ns`]
    pub quantum_ns: u64,
    /// [`Aggregate::depth_ns`]
    pub depth_ns: u64,
    /// [`Pool::byte_cost`]
    pub byte_cost: u64,
    /// [`Pool::reserve_ns`]
    pub reserve_ns: u64,
    /// Zero.
    pub reserved_2: [u64; 6],
}

/// An IPv4 address in sixteen bytes (RFC 4291, section 2.5.5.2).
#[must_use]
#[inline(always)]
pub fn mapped(address: [u8; 4]) -> [u8; 16] {
    // In words: of bytes the compiler makes a call of `memset`.
    zerocopy::transmute!([0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), u32::from_ne_bytes(address)])
}

/// Whether these sixteen bytes are that IPv4 address. In words, not bytes.
#[must_use]
#[inline(always)]
pub fn is_mapped(wide: &[u8; 16], address: [u8; 4]) -> bool {
    let [a, b, c, d]: [u32; 4] = zerocopy::transmute!(*wide);
    a | b == 0 && c == u32::from_ne_bytes([0, 0, 0xff, 0xff]) && d == u32::from_ne_bytes(address)
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

/// [`Flow::flags`], [`LabelEntry::flags`]: the meter reads the exact clock, not the coarse one.
pub const EXACT_CLOCK: u16 = 1;
/// [`Flow::flags`], [`LabelEntry::flags`]: the flow's packets are IPv6.
pub const INNER_V6: u16 = 2;
/// [`Flow::flags`], [`LabelEntry::flags`]: RTCP is on the next ports.
pub const RTCP_NEXT_PORT: u16 = 4;
/// [`Flow::flags`], [`LabelEntry::flags`]: there is an excess rate, in the [`Detail`].
pub const EXCESS: u16 = 8;
/// [`Flow::flags`], [`LabelEntry::flags`]: the tag tells the terminals; the label is the aggregate's.
pub const TERMINALS: u16 = 16;
/// [`LabelEntry::flags`]: every packet takes part in the jitter.
pub const EVERY_PACKET: u16 = 32;

/// An outgoing flow. One cache line: key, what to write, meter and its state.
#[derive(Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C, align(64))]
pub struct Flow {
    /// Key: both IPv4 addresses as they stand in the packet, or a digest of the IPv6 ones, which are in the [`Detail`].
    pub addresses: u64,
    /// Key: both ports as they stand in the packet.
    pub ports: u32,
    /// Index of what carries it.
    pub aggregate: u16,
    /// See [`EXACT_CLOCK`] and after.
    pub flags: u16,
    /// Folded change of the IP checksum, or the sum of what is always the same of a new IP header.
    pub ip_change: u16,
    /// Folded change of the UDP checksum, without the tag's length and header word.
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
    /// Turns time into RTP timestamps; see [`crate::reception`]. Zero is none.
    pub clock_factor: u32,
    /// What the packets are restored to, in IPv4. IPv6 is in the [`Detail`].
    pub source: [u8; 4],
    /// What the packets are restored to, in IPv4.
    pub destination: [u8; 4],
    /// What the packets are restored to.
    pub source_port: [u8; 2],
    /// What the packets are restored to.
    pub destination_port: [u8; 2],
    /// Index of what carries it; only its peer may use the label.
    pub aggregate: u16,
    /// See [`EXACT_CLOCK`] and after.
    pub flags: u16,
    /// Folded change of the IP checksum, or the sum of what is always the same of a new IP header.
    pub ip_change: u16,
    /// Folded change of the UDP checksum, without what differs from packet to packet: source port, tag length and header word.
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

/// The rest of a flow or label, which only some packets need. One cache line.
#[derive(Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C, align(64))]
pub struct Detail {
    /// IPv6 address.
    pub source: [u8; 16],
    /// IPv6 address.
    pub destination: [u8; 16],
    /// What it may send beyond its rate (RFC 4115's excess).
    pub excess: FlowRate,
    /// State of that meter.
    pub excess_due: AtomicU64,
    /// Zero.
    pub reserved: u64,
}

/// [`Aggregate::flags`]: the tagged packets are IPv6.
pub const OUTER_V6: u8 = 1;
/// [`Aggregate::flags`]: yellow packets get [`Aggregate::tos_excess`].
pub const EXCESS_REMARK: u8 = 2;
/// [`Aggregate::flags`]: DSCP stays as it was.
pub const DSCP_COPY: u8 = 4;
/// [`Aggregate::flags`]: DSCP becomes what the configuration's map says.
pub const DSCP_MAP: u8 = 8;

/// What is fixed of an aggregate. One cache line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C, align(64))]
pub struct Aggregate {
    /// The peer's tag address, IPv4 as [`mapped`] writes it.
    pub peer: [u8; 16],
    /// This node's.
    pub local: [u8; 16],
    /// The tagged packets' destination port.
    pub tag_port: [u8; 2],
    /// DSCP in the upper six bits, unless a flag says otherwise.
    pub tos: u8,
    /// The same for yellow packets.
    pub tos_excess: u8,
    /// Index of the next hop to the peer.
    pub next_hop: u16,
    /// See [`OUTER_V6`] and after.
    pub flags: u8,
    /// Zero.
    pub reserved: u8,
    /// Bytes that a CPU borrows at a time; no packet is longer.
    pub quantum_bytes: u64,
    /// What they cost.
    pub quantum_ns: u64,
    /// Most that the pool holds.
    pub depth_ns: u64,
}

/// What all CPUs share of an aggregate's meter. Alone in its cache line.
#[derive(Debug, Default)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C, align(64))]
pub struct Pool {
    /// Time up to which the pool is spent.
    pub spent_ns: AtomicU64,
    /// Nanoseconds that a yellow packet's byte costs, times 2^24.
    pub byte_cost: u64,
    /// What yellow packets leave of the pool.
    pub reserve_ns: u64,
    /// Zero.
    pub reserved: [u64; 5],
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
    /// Packets passed that were yellow.
    pub excess_packets: Cell<u64>,
    /// Their IP bytes.
    pub excess_bytes: Cell<u64>,
}

impl FlowShare {
    /// A packet that is not yellow came and went on, or was refused.
    #[inline(always)]
    pub fn account_plain(&self, bytes: u64, passed: bool) {
        self.tally.offer(bytes);
        self.tally.settle(bytes, passed);
    }

    /// A packet came and went on, as yellow or not, or was refused.
    #[inline(always)]
    pub fn account(&self, bytes: u64, passed: Option<Colour>) {
        self.tally.offer(bytes);
        self.tally.settle(bytes, passed.is_some());
        if passed == Some(Colour::Yellow) {
            self.excess_packets.set(self.excess_packets.get() + 1);
            self.excess_bytes.set(self.excess_bytes.get() + bytes);
        }
    }
}

/// What a packet that may go is charged to (RFC 4115). Red ones do not go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// The flow's own rate.
    Green,
    /// What the aggregate has idle.
    Yellow,
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

/// A device that packets leave by, or a VLAN on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C, align(8))]
pub struct Port {
    /// The device's own MAC address, as [`mac_bits`] has it.
    pub mac_bits: u64,
    /// Longest IP packet.
    pub mtu_bytes: u32,
    /// Of the operating system; of the VLAN's own device if it is one.
    pub ifindex: u32,
    /// VLAN tags as they stand in the frame, the outer one first: EtherType, control.
    pub vlans: [[u8; 4]; TAGS_MAX],
    /// How many of them.
    pub vlans_count: u32,
    /// [`TO_SITE`] or 0.
    pub flags: u32,
}

/// [`Port::flags`]: the site is there.
pub const TO_SITE: u32 = 1;

impl Port {
    /// Whether the site is there.
    #[must_use]
    #[inline(always)]
    pub const fn is_lan(&self) -> bool {
        self.flags & TO_SITE != 0
    }
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
