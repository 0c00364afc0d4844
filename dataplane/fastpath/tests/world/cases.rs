//! Frames with names, and what must come of each: every reason that a frame alone can bring about, by at least one.

use turnpike_fastpath::{Direction, Reason};

use super::check::fix_ip_checksum;
use super::frames::{rtcp, tagged_ends};
use super::*;

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

fn fixed(mut frame: Vec<u8>) -> Vec<u8> {
    fix_checksums(&mut frame);
    frame
}

fn ip_fixed(mut frame: Vec<u8>) -> Vec<u8> {
    fix_ip_checksum(&mut frame);
    frame
}

fn out4(port: u16) -> Build {
    Build::new(out_ends(port), &rtp())
}

fn out6(port: u16) -> Build {
    Build::new(out_ends6(port), &rtp())
}

type Row = (&'static str, Vec<u8>, Reason);

/// All of them.
pub fn cases() -> Vec<Case> {
    let out = [out_v4(), out_v6(), out_forms(), out_link()].into_iter().flatten();
    let inbound =
        [in_v4(), in_v6(), in_labels(), in_kinds(), in_terminals(), in_whole(), in_link()].into_iter().flatten();
    let named = |direction| move |(name, frame, reason)| Case { name, direction, frame, reason };
    out.map(named(Direction::Out)).chain(inbound.map(named(Direction::In))).collect()
}

fn out_v4() -> Vec<Row> {
    let plain = || out4(FREE).frame();
    let sized = |packet_bytes: u16| Build::new(out_ends(FREE), &vec![7; usize::from(packet_bytes) - 28]).frame();
    let mut other_port = out_ends(FREE);
    other_port.source.set_port(9);
    let mut to_node = out_ends(FREE);
    to_node.destination.set_ip(NODE_AT_SITE);
    vec![
        ("out: a packet of a flow", plain(), Reason::Tagged),
        ("out: without UDP checksum", change(plain(), 40, &[0, 0]), Reason::Tagged),
        ("out: with ECN", out4(FREE).tos(3).frame(), Reason::Tagged),
        ("out: marked as expedited", out4(FREE).tos(0xb8).frame(), Reason::Tagged),
        ("out: without payload", Build::new(out_ends(FREE), &[]).frame(), Reason::Tagged),
        ("out: one byte of payload", Build::new(out_ends(FREE), &[1]).frame(), Reason::Tagged),
        ("out: with Ethernet padding", longer(Build::new(out_ends(FREE), &[1]).frame(), 17), Reason::Tagged),
        ("out: SRTP, which looks like RTP", out4(FREE).frame(), Reason::Tagged),
        ("out: RTCP on the port of its RTP", Build::new(out_ends(FREE), &rtcp()).frame(), Reason::Tagged),
        ("out: fits the MTU with its tag", sized(MTU - 8), Reason::Tagged),
        ("out: one byte over the MTU with its tag", sized(MTU - 7), Reason::TooBig),
        ("out: as long as the MTU", sized(MTU), Reason::TooBig),
        ("out: time to live 2", out4(FREE).hops(2).frame(), Reason::Tagged),
        ("out: time to live 1", out4(FREE).hops(1).frame(), Reason::TimeToLive),
        ("out: time to live 0", out4(FREE).hops(0).frame(), Reason::TimeToLive),
        ("out: the meter is spent", out4(SPENT).frame(), Reason::FlowOverRate),
        ("out: the meter is spent, and the excess is not", out4(EXCESS).frame(), Reason::Tagged),
        ("out: a wrong IP checksum stays wrong", change(plain(), 24, &[0xde, 0xad]), Reason::Tagged),
        ("out: no flow", out4(NONE).tos(0xb8).frame(), Reason::Unadmitted),
        ("out: no flow, with ECN", out4(NONE).tos(0xbb).frame(), Reason::Unadmitted),
        ("out: other source port", udp_frame(&other_port, &rtp(), 0, 64), Reason::Unadmitted),
        (
            "out: the next ports of a flow without RTCP there",
            udp_frame(&next(out_ends(FREE)), &rtcp(), 0, 64),
            Reason::Unadmitted,
        ),
        ("out: TCP", ip_fixed(change(plain(), 23, &[6])), Reason::Unadmitted),
        ("out: ICMP", ip_fixed(change(plain(), 23, &[1])), Reason::Unadmitted),
        ("out: UDP-Lite", ip_fixed(change(plain(), 23, &[136])), Reason::Unadmitted),
        ("out: first fragment", ip_fixed(change(plain(), 20, &[0x20, 0])), Reason::Unadmitted),
        ("out: later fragment", ip_fixed(change(plain(), 20, &[0, 9])), Reason::Unadmitted),
        ("out: last fragment", ip_fixed(change(plain(), 20, &[0x1f, 0xff])), Reason::Unadmitted),
        ("out: without the don't-fragment flag", ip_fixed(change(plain(), 20, &[0, 0])), Reason::Tagged),
        ("out: with the evil bit (RFC 3514)", ip_fixed(change(plain(), 20, &[0xc0, 0])), Reason::Tagged),
        ("out: ARP", change(plain(), 12, &[8, 6]), Reason::Arp),
        ("out: an EtherType of nobody", change(plain(), 12, &[0x88, 0xb5]), Reason::Unadmitted),
        ("out: an IEEE 802.3 length", change(plain(), 12, &[0, 200]), Reason::Unadmitted),
        ("out: broadcast", change(out4(NONE).frame(), 0, &[0xff; 6]), Reason::Local),
        ("out: IPv4 multicast", change(out4(NONE).frame(), 0, &[1, 0, 0x5e]), Reason::Local),
        ("out: a flow's packet in a broadcast frame", change(plain(), 0, &[0xff; 6]), Reason::Tagged),
        ("out: to the node itself", udp_frame(&to_node, &rtp(), 0, 64), Reason::Local),
        ("out: Ethernet header alone", cut(plain(), 14), Reason::Truncated),
        ("out: cut in the IP header", cut(plain(), 33), Reason::Truncated),
        ("out: cut in the UDP header", cut(plain(), 41), Reason::Truncated),
        ("out: cut in the payload", cut(plain(), 100), Reason::Truncated),
        ("out: one byte missing", cut(plain(), 213), Reason::Truncated),
        ("out: IP version 5", change(plain(), 14, &[0x55]), Reason::BadLength),
        ("out: IP version 6 under the EtherType of 4", change(plain(), 14, &[0x65]), Reason::BadLength),
        ("out: header of four words", change(plain(), 14, &[0x44]), Reason::BadLength),
        ("out: header of no word", change(plain(), 14, &[0x40]), Reason::BadLength),
        ("out: header longer than the packet", change(change(plain(), 14, &[0x4f]), 16, &[0, 59]), Reason::BadLength),
        ("out: total length of 0", change(plain(), 16, &[0, 0]), Reason::BadLength),
        ("out: total length of 19", change(plain(), 16, &[0, 19]), Reason::BadLength),
        ("out: total length of 20", change(plain(), 16, &[0, 20]), Reason::BadLength),
        ("out: total length 65535", change(plain(), 16, &[0xff, 0xff]), Reason::Truncated),
        ("out: UDP length one less", change(plain(), 38, &[0, 179]), Reason::BadLength),
        ("out: UDP length one more", change(plain(), 38, &[0, 181]), Reason::BadLength),
        ("out: UDP length 7", change(plain(), 38, &[0, 7]), Reason::BadLength),
        ("out: UDP length 0", change(plain(), 38, &[0, 0]), Reason::BadLength),
    ]
}

fn out_v6() -> Vec<Row> {
    let plain = || out6(FREE_66).frame();
    let sized = |packet_bytes: u16| Build::new(out_ends6(FREE_66), &vec![7; usize::from(packet_bytes) - 48]).frame();
    let mut to_node = out_ends6(FREE);
    to_node.destination.set_ip(NODE_AT_SITE6);
    vec![
        ("out: IPv6", plain(), Reason::Tagged),
        (
            "out: IPv6 with class and flow label",
            Build { flow_label: 0xf_ffff, ..out6(FREE_66).tos(0xff) }.frame(),
            Reason::Tagged,
        ),
        ("out: IPv6 without UDP checksum", change(plain(), 60, &[0, 0]), Reason::Tagged),
        ("out: IPv6 without payload", Build::new(out_ends6(FREE_66), &[]).frame(), Reason::Tagged),
        ("out: IPv6 with Ethernet padding", longer(Build::new(out_ends6(FREE_66), &[]).frame(), 30), Reason::Tagged),
        ("out: IPv6 fits the MTU with its tag", sized(MTU - 8), Reason::Tagged),
        ("out: IPv6 one byte over the MTU with its tag", sized(MTU - 7), Reason::TooBig),
        ("out: IPv6 hop limit 2", out6(FREE_66).hops(2).frame(), Reason::Tagged),
        ("out: IPv6 hop limit 1", out6(FREE_66).hops(1).frame(), Reason::TimeToLive),
        ("out: IPv6 of no flow", out6(NONE).tos(0xbb).frame(), Reason::Unadmitted),
        ("out: IPv6 of another source", change(plain(), 37, &[99]), Reason::Unadmitted),
        ("out: IPv6 of another destination", change(plain(), 53, &[99]), Reason::Unadmitted),
        ("out: IPv6 TCP", change(plain(), 20, &[6]), Reason::Unadmitted),
        ("out: IPv6 without next header", change(plain(), 20, &[59]), Reason::Unadmitted),
        ("out: ICMPv6 to a neighbour", change(plain(), 20, &[58]), Reason::Unadmitted),
        ("out: IPv6 multicast", change(plain(), 0, &[0x33, 0x33, 0xff]), Reason::Tagged),
        ("out: IPv6 multicast of no flow", change(out6(NONE).frame(), 0, &[0x33, 0x33]), Reason::Local),
        ("out: IPv6 to the node itself", udp_frame(&to_node, &rtp(), 0, 64), Reason::Local),
        ("out: IPv6 first fragment", change(out6(FREE_66).extension(60, 8).frame(), 20, &[44]), Reason::Unadmitted),
        (
            "out: IPv6 fragment behind another header",
            change(out6(FREE_66).extension(0, 8).extension(60, 8).frame(), 54, &[44]),
            Reason::Unadmitted,
        ),
        (
            "out: IPv6 authentication header",
            change(out6(FREE_66).extension(60, 8).frame(), 20, &[51]),
            Reason::Unadmitted,
        ),
        ("out: IPv6 cut in the header", cut(plain(), 53), Reason::Truncated),
        ("out: IPv6 cut in the UDP header", cut(plain(), 61), Reason::Truncated),
        ("out: IPv6 cut in the payload", cut(plain(), 120), Reason::Truncated),
        ("out: IPv6 payload length 65535", change(plain(), 18, &[0xff, 0xff]), Reason::Truncated),
        ("out: IPv6 payload length 0", change(plain(), 18, &[0, 0]), Reason::BadLength),
        ("out: IPv6 payload length one less", change(plain(), 18, &[0, 179]), Reason::BadLength),
        ("out: IPv6 version 4", change(plain(), 14, &[0x45]), Reason::BadLength),
        ("out: IPv6 UDP length one less", change(plain(), 58, &[0, 179]), Reason::BadLength),
    ]
}

fn out_forms() -> Vec<Row> {
    let sized4 = |packet_bytes: u16| Build::new(out_ends(FREE_46), &vec![7; usize::from(packet_bytes) - 28]).frame();
    let sized6 = |packet_bytes: u16| Build::new(out_ends6(FREE_64), &vec![7; usize::from(packet_bytes) - 48]).frame();
    let with_options = |bytes: &[u8]| out4(FREE).options(bytes).frame();
    let pair = |port| udp_frame(&next(out_ends(port)), &rtcp(), 0, 64);
    vec![
        ("out: IPv4 over IPv6", out4(FREE_46).frame(), Reason::Tagged),
        ("out: IPv4 over IPv6 without UDP checksum", change(out4(FREE_46).frame(), 40, &[0, 0]), Reason::Tagged),
        ("out: IPv4 over IPv6 fits", sized4(MTU - 32), Reason::Tagged),
        ("out: IPv4 over IPv6, one byte over", sized4(MTU - 31), Reason::TooBig),
        (
            "out: IPv4 over IPv6 with a wrong IP checksum",
            change(out4(FREE_46).frame(), 24, &[0xde, 0xad]),
            Reason::BadChecksum,
        ),
        ("out: IPv6 over IPv4", out6(FREE_64).frame(), Reason::Tagged),
        ("out: IPv6 over IPv4 is shorter", sized6(MTU), Reason::Tagged),
        ("out: with an option", with_options(&[1, 1, 1, 0]), Reason::Tagged),
        ("out: with ten words of options", with_options(&[1; 40]), Reason::Tagged),
        ("out: with a router alert", with_options(&[0x94, 4, 0, 0]), Reason::Tagged),
        ("out: with options, over IPv6", out4(FREE_46).options(&[1; 8]).frame(), Reason::Tagged),
        ("out: with options, of no flow", out4(NONE).options(&[1; 8]).tos(0xb8).frame(), Reason::Unadmitted),
        ("out: with options, cut in them", cut(with_options(&[1; 40]), 60), Reason::Truncated),
        (
            "out: with options, fits",
            Build::new(out_ends(FREE), &[7; 1_500 - 36 - 32]).options(&[1; 4]).frame(),
            Reason::Tagged,
        ),
        (
            "out: with options, one byte over",
            Build::new(out_ends(FREE), &[7; 1_500 - 36 - 31]).options(&[1; 4]).frame(),
            Reason::TooBig,
        ),
        ("out: with options, time to live 1", out4(FREE).options(&[1; 4]).hops(1).frame(), Reason::TimeToLive),
        ("out: IPv6 with destination options", out6(FREE_66).extension(60, 8).frame(), Reason::Tagged),
        ("out: IPv6 with hop-by-hop options", out6(FREE_66).extension(0, 16).frame(), Reason::Tagged),
        ("out: IPv6 with a routing header", out6(FREE_66).extension(43, 24).frame(), Reason::Tagged),
        (
            "out: IPv6 with four extension headers",
            out6(FREE_66).extension(0, 8).extension(60, 8).extension(43, 8).extension(60, 8).frame(),
            Reason::Tagged,
        ),
        (
            "out: IPv6 with five extension headers",
            out6(FREE_66).extension(0, 8).extension(60, 8).extension(43, 8).extension(60, 8).extension(60, 8).frame(),
            Reason::Unadmitted,
        ),
        ("out: IPv6 with 128 bytes of extension headers", out6(FREE_66).extension(60, 128).frame(), Reason::Tagged),
        ("out: IPv6 with 136 bytes of extension headers", out6(FREE_66).extension(60, 136).frame(), Reason::Unadmitted),
        ("out: IPv6 with an extension header, over IPv4", out6(FREE_64).extension(60, 8).frame(), Reason::Tagged),
        ("out: IPv6 cut in an extension header", cut(out6(FREE_66).extension(60, 64).frame(), 55), Reason::Truncated),
        (
            "out: IPv6 extension header longer than the packet",
            change(Build::new(out_ends6(FREE_66), &[]).extension(60, 8).frame(), 55, &[9]),
            Reason::BadLength,
        ),
        ("out: RTCP on the next ports", pair(PAIR), Reason::Tagged),
        ("out: RTP of the flow with RTCP on the next ports", out4(PAIR).frame(), Reason::Tagged),
        (
            "out: IPv6 RTCP on the next ports, over IPv4",
            udp_frame(&next(out_ends6(PAIR)), &rtcp(), 0, 64),
            Reason::Tagged,
        ),
        (
            "out: RTCP on the next ports, with options",
            Build::new(next(out_ends(PAIR)), &rtcp()).options(&[1; 4]).frame(),
            Reason::Tagged,
        ),
        ("out: two ports on", udp_frame(&next(next(out_ends(PAIR))), &rtcp(), 0, 64), Reason::Unadmitted),
        ("out: terminals in the tag", out4(TERMINALS).frame(), Reason::Tagged),
        ("out: terminals in the tag, over IPv6", out4(TERMINALS_46).frame(), Reason::Tagged),
        ("out: IPv6 terminals in the tag", out6(TERMINALS).frame(), Reason::Tagged),
        ("out: IPv6 terminals in the tag, over IPv4", out6(TERMINALS_46).frame(), Reason::Tagged),
        (
            "out: IPv6 terminals in the tag, RTCP",
            udp_frame(&next(out_ends6(TERMINALS_46)), &rtcp(), 0, 64),
            Reason::Tagged,
        ),
        ("out: terminals, with options", out4(TERMINALS).options(&[1; 4]).frame(), Reason::Tagged),
    ]
}

fn out_link() -> Vec<Row> {
    vec![
        ("out: in a VLAN", out4(FREE).vlan(0x8100, 100).frame(), Reason::Tagged),
        ("out: in a VLAN with priority", out4(FREE).vlan(0x8100, 0xe064).frame(), Reason::Tagged),
        ("out: in a service VLAN", out4(FREE).vlan(0x88a8, 100).frame(), Reason::Tagged),
        ("out: in two VLANs", out4(FREE).vlan(0x88a8, 200).vlan(0x8100, 30).frame(), Reason::Tagged),
        ("out: in two customer VLANs", out4(FREE).vlan(0x8100, 200).vlan(0x8100, 30).frame(), Reason::Tagged),
        ("out: in three VLANs", out4(FREE).vlan(0x88a8, 1).vlan(0x8100, 2).vlan(0x8100, 3).frame(), Reason::Unadmitted),
        ("out: IPv6 in a VLAN", out6(FREE_66).vlan(0x8100, 100).frame(), Reason::Tagged),
        ("out: IPv6 in two VLANs, over IPv4", out6(FREE_64).vlan(0x88a8, 1).vlan(0x8100, 2).frame(), Reason::Tagged),
        ("out: with options in a VLAN", out4(FREE).vlan(0x8100, 1).options(&[1; 4]).frame(), Reason::Tagged),
        ("out: of no flow in a VLAN", out4(NONE).vlan(0x8100, 100).tos(0xb8).frame(), Reason::Unadmitted),
        ("out: IPv6 of no flow in a VLAN", out6(NONE).vlan(0x8100, 100).tos(0xb8).frame(), Reason::Unadmitted),
        ("out: ARP in a VLAN", change(out4(NONE).vlan(0x8100, 100).frame(), 16, &[8, 6]), Reason::Arp),
        ("out: broadcast in a VLAN", change(out4(NONE).vlan(0x8100, 100).frame(), 0, &[0xff; 6]), Reason::Local),
        ("out: cut in a VLAN tag", cut(out4(FREE).vlan(0x8100, 100).frame(), 16), Reason::Truncated),
        (
            "out: cut in the second VLAN tag",
            cut(out4(FREE).vlan(0x8100, 1).vlan(0x8100, 2).frame(), 21),
            Reason::Truncated,
        ),
        ("out: cut in the payload in a VLAN", cut(out4(FREE).vlan(0x8100, 100).frame(), 200), Reason::Truncated),
    ]
}

fn label_frame(source: IpAddr, label: u64, payload: &[u8]) -> Vec<u8> {
    tagged_frame(source, tag_bytes(1, 1, label, payload.len() as u16), payload)
}

/// A tagged frame of another kind, whose tag has more than eight bytes.
fn kind_frame(source: IpAddr, kind: u8, label: u64, more: &[u8], payload: &[u8]) -> Vec<u8> {
    tagged_frame(source, tag_bytes(1, kind, label, payload.len() as u16), &[more, payload].concat())
}

fn in_v4() -> Vec<Row> {
    let tagged = || label_frame(PEER, LABEL_IN, &rtp());
    vec![
        ("in: a tagged packet", tagged(), Reason::Restored),
        ("in: without UDP checksum", change(tagged(), 40, &[0, 0]), Reason::Restored),
        ("in: without payload", label_frame(PEER, LABEL_IN, &[]), Reason::Restored),
        ("in: RTCP", label_frame(PEER, LABEL_IN, &rtcp()), Reason::Restored),
        ("in: with Ethernet padding", longer(label_frame(PEER, LABEL_IN, &[1]), 9), Reason::Restored),
        ("in: time to live 2", ip_fixed(change(tagged(), 22, &[2])), Reason::Restored),
        ("in: time to live 1", change(tagged(), 22, &[1]), Reason::TimeToLive),
        ("in: another port", change(tagged(), 36, &[0, 80]), Reason::NotOurs),
        ("in: another address", change(tagged(), 30, &[198, 18, 0, 77]), Reason::NotOurs),
        ("in: TCP", change(tagged(), 23, &[6]), Reason::NotOurs),
        ("in: ARP", change(tagged(), 12, &[8, 6]), Reason::NotOurs),
        ("in: with IP options", fixed(Build::new(tagged_ends(PEER), &rtp()).options(&[1; 4]).frame()), Reason::NotOurs),
        ("in: IPv6 by its EtherType alone", change(tagged(), 12, &[0x86, 0xdd]), Reason::NotOurs),
        ("in: later fragment", change(tagged(), 20, &[0, 9]), Reason::NotOurs),
        ("in: Ethernet header alone", cut(tagged(), 14), Reason::NotOurs),
        ("in: cut in the IP header", cut(tagged(), 30), Reason::NotOurs),
        ("in: first fragment", change(tagged(), 20, &[0x20, 0]), Reason::Fragment),
        ("in: cut in the UDP header", cut(tagged(), 41), Reason::Truncated),
        ("in: cut in the tag", cut(tagged(), 49), Reason::Truncated),
        ("in: cut in the payload", cut(tagged(), 100), Reason::Truncated),
        ("in: no tag in the datagram", Build::new(tagged_ends(PEER), &[1, 2, 3]).frame(), Reason::Truncated),
        (
            "in: no tag in the datagram, and padding",
            longer(Build::new(tagged_ends(PEER), &[0x11, 0, 0]).frame(), 20),
            Reason::BadLength,
        ),
        ("in: version 2", tagged_frame(PEER, tag_bytes(2, 1, LABEL_IN, 172), &rtp()), Reason::UnknownVersion),
        ("in: version 0", tagged_frame(PEER, tag_bytes(0, 1, LABEL_IN, 172), &rtp()), Reason::UnknownVersion),
        ("in: version 15", tagged_frame(PEER, tag_bytes(15, 1, LABEL_IN, 172), &rtp()), Reason::UnknownVersion),
        ("in: tag length one less", tagged_frame(PEER, tag_bytes(1, 1, LABEL_IN, 171), &rtp()), Reason::BadLength),
        ("in: tag length one more", tagged_frame(PEER, tag_bytes(1, 1, LABEL_IN, 173), &rtp()), Reason::BadLength),
        ("in: tag length 65535", tagged_frame(PEER, tag_bytes(1, 1, LABEL_IN, 0xffff), &rtp()), Reason::BadLength),
        ("in: UDP length one less", change(tagged(), 38, &[0, 187]), Reason::BadLength),
        ("in: UDP length 0", change(tagged(), 38, &[0, 0]), Reason::BadLength),
        ("in: total length one less", change(tagged(), 16, &[0, 207]), Reason::BadLength),
        ("in: total length 0", change(tagged(), 16, &[0, 0]), Reason::BadLength),
        ("in: total length one more", change(tagged(), 16, &[0, 209]), Reason::Truncated),
    ]
}

fn in_v6() -> Vec<Row> {
    let tagged = || label_frame(PEER6, LABEL_IN_66, &rtp());
    vec![
        ("in: IPv6", tagged(), Reason::Restored),
        ("in: IPv6 without UDP checksum", change(tagged(), 60, &[0, 0]), Reason::Restored),
        ("in: IPv6 without payload", label_frame(PEER6, LABEL_IN_66, &[]), Reason::Restored),
        ("in: IPv6 with Ethernet padding", longer(label_frame(PEER6, LABEL_IN_66, &[]), 9), Reason::Restored),
        ("in: IPv6 hop limit 1", change(tagged(), 21, &[1]), Reason::TimeToLive),
        ("in: IPv6 another port", change(tagged(), 56, &[0, 80]), Reason::NotOurs),
        ("in: IPv6 another address", change(tagged(), 53, &[77]), Reason::NotOurs),
        ("in: IPv6 TCP", change(tagged(), 20, &[6]), Reason::NotOurs),
        ("in: IPv6 fragment", change(tagged(), 20, &[44]), Reason::NotOurs),
        ("in: IPv6 version 4", change(tagged(), 14, &[0x45]), Reason::NotOurs),
        ("in: IPv6 cut in the header", cut(tagged(), 50), Reason::NotOurs),
        ("in: IPv6 cut in the UDP header", cut(tagged(), 61), Reason::Truncated),
        ("in: IPv6 cut in the tag", cut(tagged(), 69), Reason::Truncated),
        ("in: IPv6 payload length 65535", change(tagged(), 18, &[0xff, 0xff]), Reason::Truncated),
        ("in: IPv6 payload length 0", change(tagged(), 18, &[0, 0]), Reason::BadLength),
        ("in: IPv6 UDP length one less", change(tagged(), 58, &[0, 187]), Reason::BadLength),
        ("in: IPv6 stranger", change(tagged(), 37, &[9]), Reason::Stranger),
        ("in: IPv6 with the label of an IPv4 peer", label_frame(PEER6, LABEL_IN, &rtp()), Reason::LabelOfOtherPeer),
    ]
}

fn in_labels() -> Vec<Row> {
    vec![
        ("in: unused label", label_frame(PEER, LABEL_UNUSED, &rtp()), Reason::UnknownLabel),
        ("in: label outside the table", label_frame(PEER, LABEL_OUTSIDE, &rtp()), Reason::UnknownLabel),
        ("in: label of zeros", label_frame(PEER, 0, &rtp()), Reason::UnknownLabel),
        ("in: label of ones", label_frame(PEER, 0xff_ffff_ffff, &rtp()), Reason::UnknownLabel),
        ("in: stale generation", label_frame(PEER, LABEL_IN ^ 1 << 20, &rtp()), Reason::StaleGeneration),
        ("in: stale generation, upper bits", label_frame(PEER, LABEL_IN ^ 1 << 39, &rtp()), Reason::StaleGeneration),
        ("in: label of the other peer", label_frame(PEER, LABEL_OTHER, &rtp()), Reason::LabelOfOtherPeer),
        ("in: the other peer's own", label_frame(OTHER_PEER, LABEL_OTHER, &rtp()), Reason::Restored),
        ("in: a stranger with a good label", label_frame(STRANGER, LABEL_IN, &rtp()), Reason::Stranger),
        ("in: a stranger with an unused label", label_frame(STRANGER, LABEL_UNUSED, &rtp()), Reason::Stranger),
        ("in: a stranger with a stale label", label_frame(STRANGER, LABEL_IN ^ 1 << 39, &rtp()), Reason::Stranger),
        ("in: an IPv6 stranger with a good label", label_frame(STRANGER6, LABEL_IN_66, &rtp()), Reason::Stranger),
        ("in: the meter is spent", label_frame(PEER, LABEL_SPENT, &rtp()), Reason::FlowOverRate),
        ("in: the meter is spent, and the excess is not", label_frame(PEER, LABEL_EXCESS, &rtp()), Reason::Restored),
    ]
}

fn in_kinds() -> Vec<Row> {
    let word4 = [0x12, 0x34, 0x40, 0];
    let word6 = [0, 0x05, 0x43, 0x21];
    vec![
        ("in: IPv4 over IPv6", kind_frame(PEER6, 5, LABEL_IN_46, &word4, &rtp()), Reason::Restored),
        ("in: IPv6 over IPv4", kind_frame(PEER, 5, LABEL_IN_64, &word6, &rtp()), Reason::Restored),
        ("in: IPv4 over IPv6 without payload", kind_frame(PEER6, 5, LABEL_IN_46, &word4, &[]), Reason::Restored),
        (
            "in: IPv4 over IPv6, a fragment in the header word",
            kind_frame(PEER6, 5, LABEL_IN_46, &[0, 0, 0x20, 0], &rtp()),
            Reason::WrongPacket,
        ),
        (
            "in: IPv4 over IPv6, an offset in the header word",
            kind_frame(PEER6, 5, LABEL_IN_46, &[0, 0, 0, 1], &rtp()),
            Reason::WrongPacket,
        ),
        ("in: IPv4 over IPv6 without header word", label_frame(PEER6, LABEL_IN_46, &rtp()), Reason::WrongKind),
        ("in: IPv6 over IPv4 without header word", label_frame(PEER, LABEL_IN_64, &rtp()), Reason::WrongKind),
        ("in: a header word that is not needed", kind_frame(PEER, 5, LABEL_IN, &word4, &rtp()), Reason::WrongKind),
        ("in: cut in the header word", cut(kind_frame(PEER6, 5, LABEL_IN_46, &word4, &[]), 72), Reason::Truncated),
        (
            "in: header word beyond the datagram",
            tagged_frame(PEER, tag_bytes(1, 5, LABEL_IN_64, 0), &[]),
            Reason::BadLength,
        ),
        ("in: kind 0", tagged_frame(PEER, tag_bytes(1, 0, LABEL_IN, 172), &rtp()), Reason::UnknownKind),
        ("in: kind 4", tagged_frame(PEER, tag_bytes(1, 4, LABEL_IN, 172), &rtp()), Reason::UnknownKind),
        ("in: kind 7", tagged_frame(PEER, tag_bytes(1, 7, LABEL_IN, 172), &rtp()), Reason::UnknownKind),
        ("in: kind 15", tagged_frame(PEER, tag_bytes(1, 15, LABEL_IN, 172), &rtp()), Reason::UnknownKind),
        ("in: RTCP on the next ports", tagged_frame(PEER, tag_bytes(1, 9, LABEL_PAIR, 32), &rtcp()), Reason::Restored),
        ("in: RTP of the flow with RTCP on the next ports", label_frame(PEER, LABEL_PAIR, &rtp()), Reason::Restored),
        (
            "in: next ports of a flow without RTCP there",
            tagged_frame(PEER, tag_bytes(1, 9, LABEL_IN, 32), &rtcp()),
            Reason::WrongKind,
        ),
    ]
}

fn terminals4(ends: &Ends, word: [u8; 4]) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (ends.source.ip(), ends.destination.ip()) else { panic!("IPv4") };
    let ports = [ends.source.port().to_be_bytes(), ends.destination.port().to_be_bytes()].concat();
    [&word[..], &from.octets(), &to.octets(), &ports].concat()
}

fn terminals6(ends: &Ends) -> Vec<u8> {
    let (IpAddr::V6(from), IpAddr::V6(to)) = (ends.source.ip(), ends.destination.ip()) else { panic!("IPv6") };
    let ports = [ends.source.port().to_be_bytes(), ends.destination.port().to_be_bytes()].concat();
    [&[0, 5, 0x43, 0x21][..], &from.octets(), &to.octets(), &ports].concat()
}

fn in_terminals() -> Vec<Row> {
    let word = [0x12, 0x34, 0x40, 0];
    let four = |ends: &Ends| kind_frame(PEER, 2, LABEL_TERMINALS, &terminals4(ends, word), &rtp());
    let whole = out4(FREE).frame()[14..].to_vec();
    let home = Build::new(in_ends(77), &rtp()).frame()[14..].to_vec();
    let home6 = Build::new(in_ends6(77), &rtp()).extension(60, 8).frame()[14..].to_vec();
    vec![
        ("in: terminals in the tag", four(&in_ends(77)), Reason::Restored),
        (
            "in: terminals in the tag, over IPv6",
            kind_frame(PEER6, 2, LABEL_TERMINALS6, &terminals4(&in_ends(77), word), &rtp()),
            Reason::Restored,
        ),
        (
            "in: IPv6 terminals in the tag",
            kind_frame(PEER6, 3, LABEL_TERMINALS6, &terminals6(&in_ends6(77)), &rtp()),
            Reason::Restored,
        ),
        (
            "in: IPv6 terminals in the tag, over IPv4",
            kind_frame(PEER, 3, LABEL_TERMINALS, &terminals6(&in_ends6(77)), &rtp()),
            Reason::Restored,
        ),
        ("in: a terminal that is not at the site", four(&out_ends(77)), Reason::NoTerminal),
        ("in: a terminal that nobody knows", four(&in_to(SILENT, 9)), Reason::NextHopUnresolved),
        (
            "in: terminals of a fragment",
            kind_frame(PEER, 2, LABEL_TERMINALS, &terminals4(&in_ends(77), [0, 0, 0x20, 0]), &rtp()),
            Reason::WrongPacket,
        ),
        (
            "in: terminals with a flow's label",
            kind_frame(PEER, 2, LABEL_IN, &terminals4(&in_ends(77), word), &rtp()),
            Reason::WrongKind,
        ),
        (
            "in: terminals from a stranger",
            kind_frame(STRANGER, 2, LABEL_TERMINALS, &terminals4(&in_ends(77), word), &rtp()),
            Reason::Stranger,
        ),
        ("in: a label alone where terminals must be", label_frame(PEER, LABEL_TERMINALS, &rtp()), Reason::WrongKind),
        (
            "in: cut in the terminals",
            tagged_frame(PEER, tag_bytes(1, 2, LABEL_TERMINALS, 0), &[0; 9]),
            Reason::BadLength,
        ),
        ("in: a whole packet that tells its terminals", whole_frame(PEER, LABEL_TERMINALS, &home), Reason::Restored),
        (
            "in: a whole IPv6 packet that tells its terminals",
            whole_frame(PEER, LABEL_TERMINALS, &home6),
            Reason::Restored,
        ),
        ("in: a whole packet to where no terminal is", whole_frame(PEER, LABEL_TERMINALS, &whole), Reason::NoTerminal),
    ]
}

fn whole_frame(source: IpAddr, label: u64, packet: &[u8]) -> Vec<u8> {
    tagged_frame(source, tag_bytes(1, 6, label, packet.len() as u16), packet)
}

fn in_whole() -> Vec<Row> {
    let packet = |build: Build| build.frame()[14..].to_vec();
    let own = || Build::new(in_ends(FREE), &rtp()).options(&[1; 8]);
    let own6 = || Build::new(in_ends6(FREE_66), &rtp()).extension(60, 8);
    let other = |ends: Ends| packet(Build::new(ends, &rtp()).options(&[1; 8]));
    let mut wrong_source = in_ends(FREE);
    wrong_source.source.set_ip(STRANGER);
    let mut wrong_destination = in_ends(FREE);
    wrong_destination.destination.set_ip(STRANGER);
    let mut shorter = packet(own());
    shorter.pop();
    let mut padded = packet(own());
    padded.push(0);
    let mut fragment = packet(own());
    fragment[6..8].copy_from_slice(&[0x20, 0]);
    vec![
        ("in: a whole packet with options", whole_frame(PEER, LABEL_IN, &packet(own())), Reason::Restored),
        (
            "in: a whole packet that would not need it",
            whole_frame(PEER, LABEL_IN, &packet(Build::new(in_ends(FREE), &rtp()))),
            Reason::Restored,
        ),
        (
            "in: a whole packet over IPv6",
            whole_frame(PEER6, LABEL_IN_46, &packet(Build::new(in_ends(FREE_46), &rtp()).options(&[1; 4]))),
            Reason::Restored,
        ),
        ("in: a whole IPv6 packet", whole_frame(PEER6, LABEL_IN_66, &packet(own6())), Reason::Restored),
        (
            "in: a whole IPv6 packet over IPv4",
            whole_frame(PEER, LABEL_IN_64, &packet(Build::new(in_ends6(FREE_64), &rtp()).extension(0, 8))),
            Reason::Restored,
        ),
        (
            "in: a whole packet with time to live 1",
            whole_frame(PEER, LABEL_IN, &packet(own().hops(1))),
            Reason::TimeToLive,
        ),
        (
            "in: a whole packet of another source",
            whole_frame(PEER, LABEL_IN, &other(wrong_source)),
            Reason::WrongPacket,
        ),
        (
            "in: a whole packet to another destination",
            whole_frame(PEER, LABEL_IN, &other(wrong_destination)),
            Reason::WrongPacket,
        ),
        (
            "in: a whole packet to another port",
            whole_frame(PEER, LABEL_IN, &other(in_ends(FREE + 2))),
            Reason::WrongPacket,
        ),
        ("in: a whole packet of the other family", whole_frame(PEER, LABEL_IN, &packet(own6())), Reason::WrongPacket),
        ("in: a whole packet, cut", whole_frame(PEER, LABEL_IN, &shorter), Reason::WrongPacket),
        ("in: a whole packet, padded", whole_frame(PEER, LABEL_IN, &padded), Reason::WrongPacket),
        ("in: a whole fragment", whole_frame(PEER, LABEL_IN, &fragment), Reason::WrongPacket),
        ("in: a whole packet of nothing", whole_frame(PEER, LABEL_IN, &[]), Reason::WrongPacket),
        ("in: a whole packet of rubbish", whole_frame(PEER, LABEL_IN, &[0xa5; 60]), Reason::WrongPacket),
        (
            "in: a whole RTCP packet on the next ports",
            tagged_frame(
                PEER,
                tag_bytes(1, 14, LABEL_PAIR, 64),
                &packet(Build::new(next(in_ends(PAIR)), &rtcp()).options(&[1; 4])),
            ),
            Reason::Restored,
        ),
        (
            "in: a whole RTP packet said to be on the next ports",
            tagged_frame(
                PEER,
                tag_bytes(1, 14, LABEL_PAIR, 64),
                &packet(Build::new(in_ends(PAIR), &rtcp()).options(&[1; 4])),
            ),
            Reason::WrongPacket,
        ),
    ]
}

fn in_link() -> Vec<Row> {
    let tagged = |ends: Ends, label| Build::new(ends, &[&tag_bytes(1, 1, label, 172)[..], &rtp()].concat());
    vec![
        ("in: in a VLAN", tagged(tagged_ends(PEER), LABEL_IN).vlan(0x8100, 5).frame(), Reason::Restored),
        (
            "in: in two VLANs",
            tagged(tagged_ends(PEER), LABEL_IN).vlan(0x88a8, 5).vlan(0x8100, 6).frame(),
            Reason::Restored,
        ),
        ("in: IPv6 in a VLAN", tagged(tagged_ends(PEER6), LABEL_IN_66).vlan(0x8100, 5).frame(), Reason::Restored),
        (
            "in: in three VLANs",
            tagged(tagged_ends(PEER), LABEL_IN).vlan(0x88a8, 5).vlan(0x8100, 6).vlan(0x8100, 7).frame(),
            Reason::NotOurs,
        ),
        (
            "in: cut in a VLAN tag",
            cut(tagged(tagged_ends(PEER), LABEL_IN).vlan(0x8100, 5).frame(), 15),
            Reason::NotOurs,
        ),
        ("in: to a terminal behind a VLAN", label_frame(PEER, LABEL_VLAN, &rtp()), Reason::Restored),
        (
            "in: to a terminal behind two VLANs, over IPv4",
            kind_frame(PEER, 5, LABEL_QINQ, &[0, 5, 0x43, 0x21], &rtp()),
            Reason::Restored,
        ),
    ]
}
