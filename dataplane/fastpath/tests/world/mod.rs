//! One scene for all tests of the packet logic, on the host and in the kernel: two flows out, two in, and frames with names.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

pub mod harness;
pub mod host;

use turnpike_fastpath::entry::{Inner, Outer};
use turnpike_fastpath::{Direction, Reason};

pub const SITE_A: [u8; 4] = [10, 1, 0, 10];
pub const SITE_B: [u8; 4] = [10, 2, 0, 10];
/// The node under test.
pub const NODE: [u8; 4] = [198, 18, 0, 1];
pub const NODE_AT_SITE: [u8; 4] = [10, 1, 0, 1];
pub const PEER: [u8; 4] = [198, 18, 0, 2];
pub const OTHER_PEER: [u8; 4] = [198, 18, 0, 3];
pub const STRANGER: [u8; 4] = [203, 0, 113, 9];
pub const TAG_PORT: u16 = 47_700;
pub const MTU: u16 = 1_500;

/// What the peer knows the flows out by.
pub const LABEL_OUT: u64 = 0xab_cde0_0007;
/// A flow in from [`PEER`].
pub const LABEL_IN: u64 = 0x12_3450_0005;
/// A flow in from [`OTHER_PEER`].
pub const LABEL_OTHER: u64 = 0x54_3210_0006;
/// Within the table, of no flow.
pub const LABEL_UNUSED: u64 = 0x12_3450_0003;
/// Outside the table.
pub const LABEL_OUTSIDE: u64 = 0x12_345f_ffff;

/// Ports of the flow that may send freely, of the one whose meter is spent, and of none.
pub const FREE: u16 = 20_000;
pub const SPENT: u16 = 20_002;
pub const NONE: u16 = 30_000;

pub fn out_ends(port: u16) -> Inner {
    Inner {
        source: SITE_A,
        destination: SITE_B,
        source_port: port.to_be_bytes(),
        destination_port: (port + 1).to_be_bytes(),
    }
}

pub fn in_ends(port: u16) -> Inner {
    Inner {
        source: SITE_B,
        destination: SITE_A,
        source_port: (port + 1).to_be_bytes(),
        destination_port: port.to_be_bytes(),
    }
}

pub fn outer_from(peer: [u8; 4]) -> Outer {
    Outer { source: peer, destination: NODE, tag_port: TAG_PORT.to_be_bytes() }
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The IP checksum computed from scratch; zero over a valid header.
pub fn ip_checksum(header: &[u8]) -> u16 {
    !fold(sum(header))
}

/// The UDP checksum computed from scratch; zero over a valid datagram.
pub fn udp_checksum(packet: &[u8]) -> u16 {
    let datagram = &packet[20..];
    !fold(sum(&packet[12..20]) + 17 + datagram.len() as u32 + sum(datagram))
}

/// An Ethernet frame with an IPv4 UDP packet, both checksums right.
pub fn udp_frame(ends: &Inner, payload: &[u8], tos: u8, time_to_live: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let length = 28 + payload.len() as u16;
    frame.extend([0x45, tos]);
    frame.extend(length.to_be_bytes());
    frame.extend([0x12, 0x34, 0x40, 0, time_to_live, 17, 0, 0]);
    frame.extend(ends.source);
    frame.extend(ends.destination);
    frame.extend(ends.source_port);
    frame.extend(ends.destination_port);
    frame.extend((length - 20).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    fix_checksums(&mut frame);
    frame
}

/// Recomputes both checksums of a plain frame.
pub fn fix_checksums(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let checksum = ip_checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame[40..42].fill(0);
    let checksum = udp_checksum(&frame[14..]);
    let checksum = if checksum == 0 { 0xffff } else { checksum };
    frame[40..42].copy_from_slice(&checksum.to_be_bytes());
}

/// Whether both checksums are right; a UDP checksum of zero is none. Ethernet padding does not count.
pub fn checksums_hold(frame: &[u8]) -> bool {
    let frame = &frame[..14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]))];
    let none = frame[40..42] == [0, 0];
    ip_checksum(&frame[14..34]) == 0 && (none || udp_checksum(&frame[14..]) == 0)
}

/// The bytes of a tag.
pub fn tag_bytes(version: u8, kind: u8, label: u64, length: u16) -> [u8; 8] {
    let label = label.to_be_bytes();
    let length = length.to_be_bytes();
    [version << 4 | kind, label[3], length[0], length[1], label[4], label[5], label[6], label[7]]
}

/// A tagged frame as a peer sends it.
pub fn tagged_frame(source: [u8; 4], tag: [u8; 8], payload: &[u8]) -> Vec<u8> {
    let outer = Inner {
        source,
        destination: NODE,
        source_port: 0xc123_u16.to_be_bytes(),
        destination_port: TAG_PORT.to_be_bytes(),
    };
    udp_frame(&outer, &[&tag[..], payload].concat(), 0xb8, 63)
}

fn label_frame(source: [u8; 4], label: u64, payload: &[u8]) -> Vec<u8> {
    tagged_frame(source, tag_bytes(1, 1, label, payload.len() as u16), payload)
}

/// A G.711 packet's worth of RTP.
pub fn rtp() -> Vec<u8> {
    let mut payload = vec![0x80, 8, 0x30, 0x39, 0, 0, 0, 160, 0xde, 0xad, 0xbe, 0xef];
    payload.extend((0..160_u8).map(|byte| byte.wrapping_mul(37)));
    payload
}

/// A frame with a name, and what must come of it.
pub struct Case {
    pub name: &'static str,
    pub direction: Direction,
    pub frame: Vec<u8>,
    pub reason: Reason,
}

fn change(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

fn cut(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    frame.truncate(length);
    frame
}

fn longer(mut frame: Vec<u8>, bytes: usize) -> Vec<u8> {
    frame.extend(std::iter::repeat_n(0, bytes));
    frame
}

/// Every reason that a frame alone can bring about, each by at least one frame.
pub fn cases() -> Vec<Case> {
    let plain = || udp_frame(&out_ends(FREE), &rtp(), 0, 64);
    let tagged = || label_frame(PEER, LABEL_IN, &rtp());
    let payload = |packet_bytes: u16| vec![7; usize::from(packet_bytes) - 28];
    let mut other_port = out_ends(FREE);
    other_port.source_port = [0, 9];
    let mut to_node = out_ends(FREE);
    to_node.destination = NODE_AT_SITE;
    let mut no_checksum = plain();
    no_checksum[40..42].fill(0);
    let mut no_checksum_in = tagged();
    no_checksum_in[40..42].fill(0);
    let ecn = udp_frame(&out_ends(FREE), &rtp(), 0x03, 64);
    let out: Vec<(&'static str, Vec<u8>, Reason)> = vec![
        ("out: a packet of a flow", plain(), Reason::Tagged),
        ("out: without UDP checksum", no_checksum, Reason::Tagged),
        ("out: with ECN", ecn, Reason::Tagged),
        ("out: without payload", udp_frame(&out_ends(FREE), &[], 0, 64), Reason::Tagged),
        ("out: with Ethernet padding", longer(udp_frame(&out_ends(FREE), &[1], 0, 64), 17), Reason::Tagged),
        ("out: fits the MTU with its tag", udp_frame(&out_ends(FREE), &payload(MTU - 8), 0, 64), Reason::Tagged),
        (
            "out: one byte over the MTU with its tag",
            udp_frame(&out_ends(FREE), &payload(MTU - 7), 0, 64),
            Reason::TooBig,
        ),
        ("out: time to live 2", udp_frame(&out_ends(FREE), &rtp(), 0, 2), Reason::Tagged),
        ("out: time to live 1", udp_frame(&out_ends(FREE), &rtp(), 0, 1), Reason::TimeToLive),
        ("out: time to live 0", udp_frame(&out_ends(FREE), &rtp(), 0, 0), Reason::TimeToLive),
        ("out: the meter is spent", udp_frame(&out_ends(SPENT), &rtp(), 0, 64), Reason::FlowOverRate),
        ("out: no flow", udp_frame(&out_ends(NONE), &rtp(), 0xb8, 64), Reason::Unadmitted),
        ("out: other source port", udp_frame(&other_port, &rtp(), 0, 64), Reason::Unadmitted),
        ("out: TCP", change(plain(), 23, &[6]), Reason::Unadmitted),
        ("out: first fragment", change(plain(), 20, &[0x20, 0]), Reason::Unadmitted),
        ("out: later fragment", change(plain(), 20, &[0, 9]), Reason::Unadmitted),
        ("out: with IP options", change(plain(), 14, &[0x46]), Reason::Unadmitted),
        ("out: IPv6", change(plain(), 12, &[0x86, 0xdd]), Reason::Unadmitted),
        ("out: ARP", change(plain(), 12, &[8, 6]), Reason::Arp),
        ("out: broadcast", change(udp_frame(&out_ends(NONE), &rtp(), 0, 64), 0, &[0xff; 6]), Reason::Local),
        ("out: IPv6 multicast", change(change(plain(), 0, &[0x33, 0x33]), 12, &[0x86, 0xdd]), Reason::Local),
        ("out: to the node itself", udp_frame(&to_node, &rtp(), 0, 64), Reason::Local),
        ("out: Ethernet header alone", cut(plain(), 14), Reason::Truncated),
        ("out: cut in the IP header", cut(plain(), 33), Reason::Truncated),
        ("out: cut in the UDP header", cut(plain(), 41), Reason::Truncated),
        ("out: cut in the payload", cut(plain(), 100), Reason::Truncated),
        ("out: IP version 5", change(plain(), 14, &[0x55]), Reason::BadLength),
        ("out: header of four words", change(plain(), 14, &[0x44]), Reason::BadLength),
        ("out: total length of 19", change(plain(), 16, &[0, 19]), Reason::BadLength),
        ("out: total length of 20", change(plain(), 16, &[0, 20]), Reason::BadLength),
        ("out: total length 65535", change(plain(), 16, &[0xff, 0xff]), Reason::Truncated),
        ("out: UDP length one less", change(plain(), 38, &[0, 179]), Reason::BadLength),
        ("out: UDP length one more", change(plain(), 38, &[0, 181]), Reason::BadLength),
        ("out: UDP length 7", change(plain(), 38, &[0, 7]), Reason::BadLength),
    ];
    let inbound: Vec<(&'static str, Vec<u8>, Reason)> = vec![
        ("in: a tagged packet", tagged(), Reason::Restored),
        ("in: without UDP checksum", no_checksum_in, Reason::Restored),
        ("in: without payload", label_frame(PEER, LABEL_IN, &[]), Reason::Restored),
        ("in: with Ethernet padding", longer(label_frame(PEER, LABEL_IN, &[1]), 9), Reason::Restored),
        ("in: time to live 1", change(tagged(), 22, &[1]), Reason::TimeToLive),
        ("in: another port", change(tagged(), 36, &[0, 80]), Reason::NotOurs),
        ("in: another address", change(tagged(), 30, &[198, 18, 0, 77]), Reason::NotOurs),
        ("in: TCP", change(tagged(), 23, &[6]), Reason::NotOurs),
        ("in: IPv6", change(tagged(), 12, &[0x86, 0xdd]), Reason::NotOurs),
        ("in: later fragment", change(tagged(), 20, &[0, 9]), Reason::NotOurs),
        ("in: cut in the IP header", cut(tagged(), 30), Reason::NotOurs),
        ("in: first fragment", change(tagged(), 20, &[0x20, 0]), Reason::Fragment),
        ("in: cut in the UDP header", cut(tagged(), 41), Reason::Truncated),
        ("in: cut in the tag", cut(tagged(), 49), Reason::Truncated),
        ("in: cut in the payload", cut(tagged(), 100), Reason::Truncated),
        ("in: no tag in the datagram", tagged_frame_short(), Reason::Truncated),
        ("in: version 2", tagged_frame(PEER, tag_bytes(2, 1, LABEL_IN, 172), &rtp()), Reason::UnknownVersion),
        ("in: version 0", tagged_frame(PEER, tag_bytes(0, 1, LABEL_IN, 172), &rtp()), Reason::UnknownVersion),
        ("in: kind 9", tagged_frame(PEER, tag_bytes(1, 9, LABEL_IN, 172), &rtp()), Reason::UnknownKind),
        ("in: tag length one less", tagged_frame(PEER, tag_bytes(1, 1, LABEL_IN, 171), &rtp()), Reason::BadLength),
        ("in: tag length one more", tagged_frame(PEER, tag_bytes(1, 1, LABEL_IN, 173), &rtp()), Reason::BadLength),
        ("in: UDP length one less", change(tagged(), 38, &[0, 187]), Reason::BadLength),
        ("in: UDP length 0", change(tagged(), 38, &[0, 0]), Reason::BadLength),
        ("in: total length one less", change(tagged(), 16, &[0, 207]), Reason::BadLength),
        ("in: total length 0", change(tagged(), 16, &[0, 0]), Reason::BadLength),
        ("in: total length one more", change(tagged(), 16, &[0, 209]), Reason::Truncated),
        ("in: unused label", label_frame(PEER, LABEL_UNUSED, &rtp()), Reason::UnknownLabel),
        ("in: label outside the table", label_frame(PEER, LABEL_OUTSIDE, &rtp()), Reason::UnknownLabel),
        ("in: stale generation", label_frame(PEER, LABEL_IN ^ 1 << 20, &rtp()), Reason::StaleGeneration),
        ("in: label of the other peer", label_frame(PEER, LABEL_OTHER, &rtp()), Reason::LabelOfOtherPeer),
        ("in: the other peer's own", label_frame(OTHER_PEER, LABEL_OTHER, &rtp()), Reason::Restored),
        ("in: a stranger with a good label", label_frame(STRANGER, LABEL_IN, &rtp()), Reason::Stranger),
        ("in: a stranger with an unused label", label_frame(STRANGER, LABEL_UNUSED, &rtp()), Reason::Stranger),
        ("in: a stranger with a stale label", label_frame(STRANGER, LABEL_IN ^ 1 << 39, &rtp()), Reason::Stranger),
    ];
    let named = |direction| move |(name, frame, reason)| Case { name, direction, frame, reason };
    out.into_iter().map(named(Direction::Out)).chain(inbound.into_iter().map(named(Direction::In))).collect()
}

/// A datagram to the tag port that has no room for a tag.
fn tagged_frame_short() -> Vec<u8> {
    let outer =
        Inner { source: PEER, destination: NODE, source_port: [0xc1, 0x23], destination_port: TAG_PORT.to_be_bytes() };
    udp_frame(&outer, &[1, 2, 3], 0, 63)
}
