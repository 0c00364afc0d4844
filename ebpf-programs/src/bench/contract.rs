//! What the programs of the benchmarks and the process that runs them must agree on. Both compile this file.

use core::cell::Cell;

use turnpike_fastpath::wire::{ethernet, ipv4, rtp, tag, udp};
use zerocopy::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Most aggregates to rotate over, and most of what the baselines have. There may be more flows.
pub(crate) const METERS_MAX: u32 = 1 << 16;
/// Source of the flow with index 0; the others follow.
pub(crate) const SOURCE: u32 = 0x0a01_0000;
/// Destination of all flows.
pub(crate) const DESTINATION: [u8; 4] = [10, 9, 0, 1];
/// Source port of all flows.
pub(crate) const SOURCE_PORT: [u8; 2] = 4_000_u16.to_be_bytes();
/// Destination port of all flows.
pub(crate) const DESTINATION_PORT: [u8; 2] = 5_000_u16.to_be_bytes();
/// Tag address of this node.
pub(crate) const NODE: [u8; 4] = [198, 18, 0, 1];
/// Tag address of the peer.
pub(crate) const PEER: [u8; 4] = [198, 18, 0, 2];
/// Port of tagged packets.
pub(crate) const TAG_PORT: [u8; 2] = 47_700_u16.to_be_bytes();
/// UDP payload of every packet: 20 ms of G.711 and its RTP header.
pub(crate) const PAYLOAD_LENGTH: u16 = 172;
/// IP bytes of a plain packet.
pub(crate) const PLAIN_LENGTH: u16 = PAYLOAD_LENGTH + 28;
/// IP bytes of a tagged packet.
pub(crate) const TAGGED_LENGTH: u16 = PLAIN_LENGTH + 8;
/// Generation of all labels.
pub(crate) const GENERATION: u64 = 0x5a5a5;

/// The headers of a plain packet.
#[derive(Clone, Copy, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Headers {
    pub(crate) ethernet: ethernet::Header,
    pub(crate) ipv4: ipv4::Header,
    pub(crate) udp: udp::Header,
}

/// The headers of a tagged packet, and of the RTP in it.
#[derive(Clone, Copy, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct TaggedHeaders {
    pub(crate) headers: Headers,
    pub(crate) tag: tag::Header,
    pub(crate) rtp: rtp::Header,
}

/// Which keys the next runs rotate over. One entry.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C)]
pub(crate) struct Plan {
    /// Keys of a CPU less one; a power of two less one.
    pub(crate) key_mask: u64,
    /// Bits of that.
    pub(crate) key_bits: u64,
    /// The bit of the flow's index that tells which of two CPUs it belongs to, 1 or 64; zero if all have all.
    pub(crate) own_flows: u64,
    /// Zero.
    pub(crate) reserved: u64,
}

impl Plan {
    /// Which key a CPU has in its `turn`, and how often it has had it before: in each round each key once, and in another order.
    #[cfg(any(test, target_arch = "bpf"))]
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "keys have 20 bits, sequence numbers wrap at 16")]
    pub(crate) const fn key(&self, turn: u64, cpu: u64) -> (u32, u16) {
        let round = turn >> (self.key_bits & 63);
        let half = (self.key_bits + 1) >> 1;
        // Odd factors and shifts change places and lose none.
        let mut key = (turn ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) & self.key_mask;
        key = key.wrapping_mul(0xd6e8_feb8_6659_fd93) & self.key_mask;
        key ^= key >> (half & 63);
        key = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) & self.key_mask;
        key ^= key >> (half & 63);
        if self.own_flows != 0 {
            let below = self.own_flows - 1;
            key = (key & below) | ((key & !below) << 1) | (cpu * self.own_flows);
        }
        (key as u32, round as u16)
    }
}

/// Where one CPU is in its rotation. One cache line.
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C, align(64))]
pub(crate) struct State {
    /// Packets so far.
    pub(crate) turns: Cell<u64>,
    /// Packets that did not end as the program's name says.
    pub(crate) refused: Cell<u64>,
    /// Packets so far whose RTP was looked at.
    pub(crate) media_turns: Cell<u64>,
    /// Packets that arrived at the far end.
    pub(crate) arrived: Cell<u64>,
    /// Zero.
    pub(crate) reserved: [u64; 4],
}

/// A meter of the class that reads the clock and moves one shared word for each packet.
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C, align(64))]
pub(crate) struct ScheduleMeter {
    /// State: when it would be back at its rate.
    pub(crate) due_ns: core::sync::atomic::AtomicU64,
    /// Nanoseconds of a byte, times 2^24.
    pub(crate) byte_cost: u64,
    /// Nanoseconds that it may be ahead.
    pub(crate) burst_ns: u64,
    /// Zero.
    pub(crate) reserved: [u64; 5],
}

/// A meter of the class that slides a window of 5 ms without a lock.
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C, align(64))]
pub(crate) struct WindowMeter {
    /// State: up to when the window is used.
    pub(crate) used_ns: Cell<u64>,
    /// Bits per second.
    pub(crate) rate_bps: u64,
    /// Zero.
    pub(crate) reserved: [u64; 6],
}

/// Key of the kernel's hash table: 16 bytes aligned to 8, as they have to be on the stack.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C, align(8))]
pub(crate) struct HashKey {
    /// As they stand in the packet.
    pub(crate) addresses: u64,
    /// As they stand in the packet.
    pub(crate) ports: u64,
}

impl HashKey {
    /// Of these ends, in the bytes of the packet.
    #[inline(always)]
    pub(crate) const fn new(
        source: [u8; 4],
        destination: [u8; 4],
        source_port: [u8; 2],
        destination_port: [u8; 2],
    ) -> Self {
        Self {
            addresses: (u32::from_ne_bytes(destination) as u64) << 32 | u32::from_ne_bytes(source) as u64,
            ports: (u16::from_ne_bytes(destination_port) as u64) << 16 | u16::from_ne_bytes(source_port) as u64,
        }
    }
}

/// Words of a frame that the ways change: all headers, and the beginning of the payload.
pub(crate) const FIRST_WORDS: usize = 16;

/// What a run's frame was at first, so that it can be made that again.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C)]
pub(crate) struct FirstFrame {
    /// Bytes of the frame.
    pub(crate) length: u64,
    /// Where its RTP header is.
    pub(crate) rtp_at: u64,
    /// Its beginning.
    pub(crate) words: [u64; FIRST_WORDS],
}

const _: () = assert!(size_of::<State>() == 64 && size_of::<ScheduleMeter>() == 64 && size_of::<WindowMeter>() == 64);

/// The aggregate of a flow. As many as the default limits have, 4,096, for 65,536 flows and for more, and sixteen flows to each up to there.
/// Neighbours and those 64 apart have the same, so that two CPUs with flows of their own share all aggregates.
#[inline(always)]
pub(crate) const fn carrier(flow: u32) -> u32 {
    (flow >> 3 & 7 | flow >> 7 << 3) & 4095
}

const MAC: ethernet::Header =
    ethernet::Header { destination: [2, 0, 0, 0, 0, 1], source: [2, 0, 0, 0, 0, 2], ether_type: ethernet::IPV4 };

/// The headers of a flow's packet from the site. Checksums are of no meaning: what they change by is.
#[inline(always)]
pub(crate) fn plain_headers(flow: u32, time_to_live: u8) -> Headers {
    Headers {
        ethernet: MAC,
        ipv4: ip(PLAIN_LENGTH, time_to_live, (SOURCE + flow).to_be_bytes(), DESTINATION),
        udp: udp::Header {
            source_port: SOURCE_PORT,
            destination_port: DESTINATION_PORT,
            length: U16::new(PLAIN_LENGTH - ipv4::HEADER_LENGTH),
            checksum: [0x12, 0x34],
        },
    }
}

/// The headers of a flow's packet from the peer, with this sequence number.
#[inline(always)]
pub(crate) fn tagged_headers(label: u32, sequence: u16) -> TaggedHeaders {
    let template = tag::template(tag::KIND_LABEL, GENERATION << tag::INDEX_BITS) | label as u64;
    TaggedHeaders {
        headers: Headers {
            ethernet: MAC,
            ipv4: ip(TAGGED_LENGTH, 64, PEER, NODE),
            udp: udp::Header {
                source_port: [0xc1, 0x23],
                destination_port: TAG_PORT,
                length: U16::new(TAGGED_LENGTH - ipv4::HEADER_LENGTH),
                checksum: [0x12, 0x34],
            },
        },
        tag: tag::Header(U64::new(tag::with_length(template, PAYLOAD_LENGTH))),
        rtp: rtp::Header {
            flags: 0x80,
            marker_type: 8,
            sequence: U16::new(sequence),
            timestamp: U32::new(0),
            source: U32::new(label),
        },
    }
}

#[inline(always)]
fn ip(length: u16, time_to_live: u8, source: [u8; 4], destination: [u8; 4]) -> ipv4::Header {
    ipv4::Header {
        version_ihl: ipv4::VERSION_IHL,
        tos: 0xb8,
        total_length: U16::new(length),
        identification: [0x56, 0x78],
        fragment: U16::new(0x4000),
        time_to_live,
        protocol: ipv4::UDP,
        checksum: [0x9a, 0xbc],
        source,
        destination,
    }
}
