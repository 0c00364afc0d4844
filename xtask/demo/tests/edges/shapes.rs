//! Packets that are not plain: options and extension headers travel whole, fragments by the stated policy.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::bench::{Bench, Setup, counted, ends, flow, is_to, usage};
use crate::network::{Ip, Place};
use crate::packet::{HOPS, Packet, delivered, forwarded, fragments, rtp};
use crate::sizes::largest_over;

/// Router alert (RFC 2113) and padding, and a timestamp that nobody on the way fills in.
fn odd_v4(source: SocketAddr, destination: SocketAddr) -> Vec<Packet> {
    let options: [&[u8]; 3] = [&[0x94, 4, 0, 0], &[1, 1, 1, 0], &[0x44, 8, 5, 0, 0, 0, 0, 0, 1, 1, 1, 0]];
    let packet = |(number, options): (u16, &[u8])| Packet {
        options: options.to_vec(),
        class: 3,
        ..Packet::new(source, destination, rtp(number, 172))
    };
    (0..).zip(options).map(packet).collect()
}

/// Hop-by-hop and destination options with nothing but padding, alone and together.
fn odd_v6(source: SocketAddr, destination: SocketAddr) -> Vec<Packet> {
    let hop_by_hop = || (0, vec![0, 0, 1, 4, 0, 0, 0, 0]);
    let destination_options = || (60, [&[0, 1, 1, 12][..], &[0; 12]].concat());
    let chains = [vec![hop_by_hop()], vec![destination_options()], vec![hop_by_hop(), destination_options()]];
    let packet =
        |(number, extensions)| Packet { extensions, class: 3, ..Packet::new(source, destination, rtp(number, 172)) };
    (0..).zip(chains).map(packet).collect()
}

fn options_over(bench: &mut Bench, outer: Ip) {
    for (tag, port) in [("label", 5_000), ("terminals", 5_010)] {
        bench.reserve(Place::EdgeA, &json!({ "tag": tag }));
        for (ip, port) in Ip::BOTH.into_iter().zip([port, port + 2]) {
            let id = format!("{tag}-{ip:?}");
            bench.admit(&id, &[flow("a", ip, "ab", port, &json!({}))]);
            let (source, destination) = ends(ip, "ab", port);
            bench.listen(Place::SiteB, destination);
            let mut packets = if ip == Ip::V4 { odd_v4(source, destination) } else { odd_v6(source, destination) };
            // Among plain ones.
            packets.push(Packet { class: 3, ..Packet::new(source, destination, rtp(9, 172)) });
            let heard = bench.capture(Place::SiteB);
            packets.iter().for_each(|packet| bench.send(packet));
            let sent: Vec<_> = packets.iter().map(Packet::bytes).collect();
            let expected: Vec<_> = sent.iter().map(|packet| delivered(packet, whole_class(packet))).collect();
            assert_eq!(heard.take(is_to(port), sent.len()), expected, "{id} over {outer:?}");
            let ended = bench.end(&id);
            assert_eq!(usage(&ended, "edge-a", "a"), Some(counted(&sent, true)), "{id} over {outer:?}");
            assert_eq!(usage(&ended, "edge-b", "a"), (tag == "label").then(|| counted(&sent, true)), "{id}");
        }
        bench.client(Place::EdgeA).delete::<Value>("/v1/aggregates/ab").unwrap();
    }
}

/// A packet that travels whole keeps its own DSCP, a plain one has that of the packet around it; both what ECN they had.
fn whole_class(packet: &[u8]) -> u8 {
    let is_plain = if packet[0] >> 4 == 4 { packet[0] == 0x45 } else { packet[6] == 17 };
    if is_plain { 46 << 2 | 3 } else { 3 }
}

fn all_over(outer: Ip) {
    let Some(mut bench) = Bench::new(Setup { wan_mtu: 1_400, ..Setup::over(outer) }) else { return };
    options_over(&mut bench, outer);
    largest_over(&mut bench, outer);
}

#[test]
fn options_and_extension_headers_and_the_largest_payload_over_ipv4() {
    all_over(Ip::V4);
}

#[test]
fn options_and_extension_headers_and_the_largest_payload_over_ipv6() {
    all_over(Ip::V6);
}

/// Edge A lets fragments pass as packets of no flow, edge B drops them.
#[test]
fn fragments_are_of_no_flow_and_go_by_the_stated_policy() {
    let drop = ["fragments = \"unadmitted\"", "fragments = \"drop\""];
    let Some(mut bench) = Bench::new(Setup { data_plane: drop, ..Setup::PLAIN }) else { return };
    bench.reserve(Place::EdgeA, &json!({}));
    bench.reserve(Place::EdgeB, &json!({}));
    let kinds = [
        ("there-4", Ip::V4, "ab", 5_000),
        ("there-6", Ip::V6, "ab", 5_002),
        ("back-4", Ip::V4, "ba", 5_004),
        ("back-6", Ip::V6, "ba", 5_006),
    ];
    let asked: Vec<_> = kinds.iter().map(|(id, ip, by, port)| flow(id, *ip, by, *port, &json!({}))).collect();
    bench.admit("call", &asked);
    let mut of_flow = Vec::new();
    for (id, ip, by, port) in kinds {
        let (source, destination) = ends(ip, by, port);
        let (site, sending) = if by == "ab" { (Place::SiteB, Place::EdgeA) } else { (Place::SiteA, Place::EdgeB) };
        bench.listen(site, destination);
        let heard = bench.capture(site);
        let whole = Packet { class: 46 << 2 | 1, ..Packet::new(source, destination, rtp(1, 1_000)) };
        let parts = fragments(&whole.bytes(), 512);
        let before = ["fragment", "unadmitted"].map(|reason| bench.verdict(sending, "out", reason));
        for part in &parts {
            bench.send_bytes(part, source, destination);
        }
        let is_part = |packet: &[u8]| parts.iter().any(|part| part.len() == packet.len() && part[40..] == packet[40..]);
        let came = heard.take(is_part, 2 * usize::from(by == "ab"));
        let [dropped, passed] = ["fragment", "unadmitted"].map(|reason| bench.verdict(sending, "out", reason));
        if by == "ab" {
            // As best effort: without its DSCP, and routed by two kernels.
            let expected: Vec<_> = parts.iter().map(|part| forwarded(part, 1, HOPS - 2)).collect();
            assert_eq!(came, expected, "{id}");
            assert!(passed - before[1] >= 2 && dropped == before[0], "{id}");
        } else {
            assert!(came.is_empty(), "{id}: {came:?}");
            assert_eq!(dropped - before[0], 2, "{id}");
        }
        // The flow itself passes as ever.
        let plain = Packet::new(source, destination, rtp(2, 172));
        bench.send(&plain);
        assert_eq!(heard.take(is_to(port), 1), [delivered(&plain.bytes(), 46 << 2)], "{id}");
        of_flow.push((id, plain.bytes()));
    }
    let ended = bench.end("call");
    for (id, plain) in of_flow {
        for node in ["edge-a", "edge-b"] {
            assert_eq!(usage(&ended, node, id), Some(counted(std::slice::from_ref(&plain), true)), "{id} at {node}");
        }
    }
}
