//! An aggregate whose tags tell their terminals: the receiving node knows one label and no flow.

use serde_json::{Value, json};

use crate::bench::{AGGREGATE_RATE_BPS, Bench, Setup, TAG_PORT, counted, ends, flow, is_to, usage};
use crate::network::{Ip, Place};
use crate::packet::{Packet, delivered, rtp};

/// Bytes that a packet is longer by between nodes: tag of 24 or 48, and other headers.
fn growth(inner: Ip, outer: Ip) -> i64 {
    match (inner, outer) {
        (Ip::V4, Ip::V4) => 24,
        (Ip::V4, Ip::V6) => 44,
        (Ip::V6, Ip::V4) => 28,
        (Ip::V6, Ip::V6) => 48,
    }
}

/// Before and after these nodes were killed and started again, one after the other.
fn carried_over(outer: Ip, restarts: &[Place]) {
    const PACKETS: u16 = 40;
    let Some(mut bench) = Bench::new(Setup::over(outer)) else { return };
    let reserved = bench.reserve(Place::EdgeA, &json!({ "tag": "terminals" }));
    assert_eq!(reserved.pool.free_bps, AGGREGATE_RATE_BPS);
    who_cannot_be_reached_is_refused(&bench);
    let kinds = [(Ip::V4, 5_000, "same_port"), (Ip::V6, 5_002, "same_port"), (Ip::V4, 5_010, "next_port")];
    let asked = kinds.map(|(ip, port, rtcp)| flow(&format!("{port}"), ip, "ab", port, &json!({ "rtcp": rtcp })));
    bench.admit("call", &asked);
    let cost: i64 = kinds.iter().map(|(ip, ..)| 4_000_000 / 200 * (200 + growth(*ip, outer))).sum();
    assert_eq!(bench.aggregate(Place::EdgeB, "ab").pool.used_bps, cost.unsigned_abs());

    let heard = bench.capture(Place::SiteB);
    let between = bench.capture(Place::Path);
    let (mut all, mut on_the_wire, mut of_flow) = (0, 0, Vec::new());
    for round in 0..=restarts.len() {
        if let Some(edge) = round.checked_sub(1).and_then(|before| restarts.get(before)) {
            bench.restart(*edge);
        }
        for (flow, (ip, port, rtcp)) in kinds.into_iter().enumerate() {
            let mut sent = Vec::new();
            for number in 0..PACKETS {
                let port = if rtcp == "next_port" { port + number % 2 } else { port };
                let (source, destination) = ends(ip, "ab", port);
                if round == 0 && number < 2 && (number == 0 || rtcp == "next_port") {
                    bench.listen(Place::SiteB, destination);
                }
                let packet = Packet::new(source, destination, rtp(number, 172));
                bench.send(&packet);
                sent.push(packet.bytes());
            }
            let came = heard.take(|packet| is_to(port)(packet) || is_to(port + 1)(packet), sent.len());
            let expected: Vec<_> = sent.iter().map(|packet| delivered(packet, 46 << 2)).collect();
            assert_eq!(came.len(), expected.len(), "{ip:?} over {outer:?}, {port}, round {round}");
            assert!(came == expected, "{ip:?} over {outer:?}: other bytes came than were sent");
            all += sent.len() as u64;
            let bytes: usize = sent.iter().map(Vec::len).sum();
            on_the_wire += bytes as u64 + sent.len() as u64 * growth(ip, outer).unsigned_abs();
            if of_flow.len() <= flow {
                of_flow.push(Vec::new());
            }
            of_flow[flow].extend(sent);
        }
    }
    let tagged = between.take(is_to(TAG_PORT), 2 * usize::try_from(all).unwrap());
    let bytes: usize = tagged.iter().map(Vec::len).sum();
    assert_eq!((tagged.len() as u64, bytes as u64), (2 * all, 2 * on_the_wire));

    // The receiver has counted the aggregate, to the packet and the byte, and no flow.
    for edge in [Place::EdgeA, Place::EdgeB] {
        let counters = bench.aggregate(edge, "ab").counters;
        assert_eq!((counters.passed_packets, counters.passed_bytes), (all, on_the_wire), "{edge:?}");
        assert_eq!((counters.offered_packets, counters.dropped_packets), (all, 0), "{edge:?}");
    }
    assert!(bench.session(Place::EdgeB, "call").flows.iter().all(|flow| flow.counters.is_none()));
    let ended = bench.end("call");
    for ((_, port, _), sent) in kinds.into_iter().zip(&of_flow) {
        let id = format!("{port}");
        assert_eq!(usage(&ended, "edge-a", &id), Some(counted(sent, true)), "{id}");
        assert_eq!(usage(&ended, "edge-b", &id), None, "{id}");
    }
    // And when it is given up, nothing gets in by its label any more.
    bench.client(Place::EdgeA).delete::<Value>("/v1/aggregates/ab").unwrap();
    assert_eq!(bench.verdict(Place::EdgeB, "in", "restored"), all);
}

#[test]
fn terminals_are_told_over_ipv4() {
    carried_over(Ip::V4, &[Place::EdgeB, Place::EdgeA]);
}

#[test]
fn terminals_are_told_over_ipv6() {
    carried_over(Ip::V6, &[]);
}

/// The session is refused with what is wrong, and nothing is held for it.
fn who_cannot_be_reached_is_refused(bench: &Bench) {
    let asked = |destination: &str| [flow("a", Ip::V4, "ab", 5_000, &json!({ "destination": destination }))];
    let (code, detail) = bench.refused("silent", &asked("10.2.0.77:5000"));
    assert!(code == "not_enforceable" && detail.contains("10.2.0.77 does not answer"), "{code}: {detail}");
    let (code, detail) = bench.refused("outside", &asked("198.18.0.1:5000"));
    assert!(code == "not_enforceable" && detail.contains("a terminal is in the site"), "{code}: {detail}");
    bench.network.sysctl(Place::EdgeB, "ipv4/conf/wan/forwarding", "0");
    let (code, detail) = bench.refused("without", &asked("10.2.0.10:5000"));
    assert!(code == "not_enforceable" && detail.contains("sysctl -w net.ipv4.ip_forward=1"), "{code}: {detail}");
    bench.network.sysctl(Place::EdgeB, "ipv4/conf/wan/forwarding", "1");
    for edge in [Place::EdgeA, Place::EdgeB] {
        assert_eq!(bench.aggregate(edge, "ab").pool.used_bps, 0, "{edge:?}");
    }
}
