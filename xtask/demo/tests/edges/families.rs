//! Both families inside both, in both directions; and RTCP on the next ports.

use serde_json::json;

use crate::bench::{Bench, Setup, TAG_PORT, counted, ends, flow, is_to, usage, view};
use crate::network::{Ip, Place};
use crate::packet::{Packet, class, delivered, rtp};

const PACKETS: u16 = 50;
/// DSCP 46 and what ECN was sent.
const DELIVERED: u8 = 46 << 2 | 1;

/// A call in both families at once over tag addresses of one: what comes is what was sent, and both nodes have counted each packet.
fn both_families_over(bench: &mut Bench, outer: Ip) {
    bench.reserve(Place::EdgeA, &json!({}));
    bench.reserve(Place::EdgeB, &json!({}));
    let flows = [("there-4", Ip::V4, "ab", 5_000), ("there-6", Ip::V6, "ab", 5_002)];
    let back = [("back-4", Ip::V4, "ba", 5_004), ("back-6", Ip::V6, "ba", 5_006)];
    let all = [flows, back].concat();
    let asked: Vec<_> = all.iter().map(|(id, ip, by, port)| flow(id, *ip, by, *port, &json!({}))).collect();
    bench.admit("call", &asked);
    for (_, ip, by, port) in &all {
        bench.listen(if *by == "ab" { Place::SiteB } else { Place::SiteA }, ends(*ip, by, *port).1);
    }
    let between = bench.capture(Place::Path);
    let mut sent_of = Vec::new();
    for (id, ip, by, port) in &all {
        let (site, sender, receiver) = match *by {
            "ab" => (Place::SiteB, "edge-a", "edge-b"),
            _ => (Place::SiteA, "edge-b", "edge-a"),
        };
        let heard = bench.capture(site);
        let (source, destination) = ends(*ip, by, *port);
        let packets = (0..PACKETS).map(|number| {
            let payload = rtp(number, 160 + usize::from(number));
            Packet { class: 1, ..Packet::new(source, destination, payload) }
        });
        let packets: Vec<_> = packets.collect();
        packets.iter().for_each(|packet| bench.send(packet));
        let sent: Vec<_> = packets.iter().map(Packet::bytes).collect();
        let came = heard.take(is_to(*port), sent.len());
        let expected: Vec<_> = sent.iter().map(|packet| delivered(packet, DELIVERED)).collect();
        assert_eq!(came.len(), expected.len(), "{id} over {outer:?}");
        assert!(came == expected, "{id} over {outer:?}: other bytes came than were sent");
        sent_of.push((id, sender, receiver, sent));
    }
    // Nothing of a flow goes between the nodes but with a tag, marked, and in the outer family. Each is seen as it comes and as it goes.
    let tagged = between.take(is_to(TAG_PORT), 2 * all.len() * usize::from(PACKETS));
    assert_eq!(tagged.len(), 2 * all.len() * usize::from(PACKETS));
    assert!(tagged.iter().all(|packet| class(packet) >> 2 == 46));
    assert!(tagged.iter().all(|packet| (packet[0] >> 4 == 4) == (outer == Ip::V4)));
    assert!(between.take(|packet| (5_000..5_010).any(|port| is_to(port)(packet)), 0).is_empty());

    let ended = bench.end("call");
    for (id, sender, receiver, sent) in sent_of {
        assert_eq!(usage(&ended, sender, id), Some(counted(&sent, true)), "{id}");
        assert_eq!(usage(&ended, receiver, id), Some(counted(&sent, true)), "{id}");
        let reception = ended.usage.iter().find(|usage| usage.node.as_str() == receiver && usage.flow.as_str() == *id);
        let reception = reception.unwrap().counters.unwrap().reception.unwrap();
        assert_eq!((reception.lost_packets, reception.not_rtp_packets, reception.restarts), (0, 0, 0), "{id}");
    }
    for edge in [Place::EdgeA, Place::EdgeB] {
        let count = 2 * u64::from(PACKETS);
        assert_eq!((bench.verdict(edge, "out", "tagged"), bench.verdict(edge, "in", "restored")), (count, count));
    }
}

#[test]
fn ipv4_and_ipv6_inside_ipv4() {
    let Some(mut bench) = Bench::new(Setup::over(Ip::V4)) else { return };
    both_families_over(&mut bench, Ip::V4);
}

#[test]
fn ipv4_and_ipv6_inside_ipv6_also_with_rtcp_on_the_next_ports() {
    let Some(mut bench) = Bench::new(Setup::over(Ip::V6)) else { return };
    both_families_over(&mut bench, Ip::V6);
    rtcp_on_the_next_ports(&mut bench);
}

/// What comes on the next ports is part of the flow, and what comes on those behind is not.
fn rtcp_on_the_next_ports(bench: &mut Bench) {
    for (id, ip, port) in [("of-4", Ip::V4, 5_024), ("of-6", Ip::V6, 5_030)] {
        bench.admit(id, &[flow("a", ip, "ab", port, &json!({ "rtcp": "next_port" }))]);
        let heard = bench.capture(Place::SiteB);
        let mut sent = Vec::new();
        for number in 0..20 {
            for offset in 0..2 {
                let (source, destination) = ends(ip, "ab", port + offset);
                if number == 0 {
                    bench.listen(Place::SiteB, destination);
                }
                let packet = Packet::new(source, destination, rtp(number, 100 + 60 * usize::from(offset)));
                bench.send(&packet);
                sent.push(packet.bytes());
            }
        }
        let came = heard.take(|packet| is_to(port)(packet) || is_to(port + 1)(packet), sent.len());
        let expected: Vec<_> = sent.iter().map(|packet| delivered(packet, 46 << 2)).collect();
        assert_eq!(came, expected, "{id}");
        // What is on neither is no part of it.
        let (source, destination) = ends(ip, "ab", port + 2);
        bench.listen(Place::SiteB, destination);
        bench.send(&Packet::new(source, destination, rtp(0, 100)));
        assert_eq!(heard.take(is_to(port + 2), 1).len(), 1, "{id}: unadmitted traffic passes");

        let shown = bench.session(Place::EdgeB, id);
        let reception = view(&shown, "a").counters.unwrap().reception.unwrap();
        assert_eq!((reception.not_rtp_packets, reception.restarts, reception.lost_packets), (0, 0, 0), "{id}");
        let ended = bench.end(id);
        for node in ["edge-a", "edge-b"] {
            assert_eq!(usage(&ended, node, "a"), Some(counted(&sent, true)), "{id} at {node}");
        }
    }
}
