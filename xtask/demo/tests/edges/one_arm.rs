//! A node whose one interface is both sides.

use serde_json::{Value, json};

use crate::bench::{Bench, Setup, TAG_PORT, counted, ends, flow, is_to, usage};
use crate::network::{Ip, Place, Shape};
use crate::packet::{Packet, delivered, rtp};

/// A call in both directions and both families; with `port` its first ports.
fn one_arm(bench: &mut Bench, outer: Ip, tag: &str, port: u16) {
    const PACKETS: u16 = 30;
    bench.reserve(Place::EdgeA, &json!({ "tag": tag }));
    bench.reserve(Place::EdgeB, &json!({}));
    let kinds = [
        ("there-4", Ip::V4, "ab", port),
        ("there-6", Ip::V6, "ab", port + 2),
        ("back-4", Ip::V4, "ba", port + 4),
        ("back-6", Ip::V6, "ba", port + 6),
    ];
    let asked: Vec<_> = kinds.iter().map(|(id, ip, by, port)| flow(id, *ip, by, *port, &json!({}))).collect();
    bench.admit(tag, &asked);
    let mut sent_of = Vec::new();
    for (id, ip, by, port) in kinds {
        let (source, destination) = ends(ip, by, port);
        let site = if by == "ab" { Place::SiteB } else { Place::SiteA };
        bench.listen(site, destination);
        let (heard, at_edge_a) = (bench.capture(site), bench.capture(Place::Path));
        let packets: Vec<_> = (0..PACKETS).map(|number| Packet::new(source, destination, rtp(number, 172))).collect();
        packets.iter().for_each(|packet| bench.send(packet));
        let sent: Vec<_> = packets.iter().map(Packet::bytes).collect();
        let expected: Vec<_> = sent.iter().map(|packet| delivered(packet, 46 << 2)).collect();
        assert_eq!(heard.take(is_to(port), sent.len()), expected, "{id} over {outer:?}");
        assert_eq!(at_edge_a.take(is_to(TAG_PORT), 2 * sent.len()).len(), 2 * sent.len(), "{id}: with a tag");
        sent_of.push((id, by, sent));
    }
    let ended = bench.end(tag);
    for (id, by, sent) in sent_of {
        let (sender, receiver) = if by == "ab" { ("edge-a", "edge-b") } else { ("edge-b", "edge-a") };
        assert_eq!(usage(&ended, sender, id), Some(counted(&sent, true)), "{id}");
        let received = (receiver == "edge-a" || tag == "label").then(|| counted(&sent, true));
        assert_eq!(usage(&ended, receiver, id), received, "{id}");
    }
}

#[test]
fn one_arm_over_ipv4_with_both_kinds_of_tags() {
    let Some(mut bench) = Bench::new(Setup { shape: Shape::OneArm, ..Setup::PLAIN }) else { return };
    one_arm(&mut bench, Ip::V4, "label", 5_000);
    for (edge, name) in [(Place::EdgeA, "ab"), (Place::EdgeB, "ba")] {
        bench.client(edge).delete::<Value>(&format!("/v1/aggregates/{name}")).unwrap();
    }
    one_arm(&mut bench, Ip::V4, "terminals", 5_010);
}

#[test]
fn one_arm_over_ipv6() {
    let Some(mut bench) = Bench::new(Setup { shape: Shape::OneArm, ..Setup::over(Ip::V6) }) else { return };
    one_arm(&mut bench, Ip::V6, "label", 5_000);
}
