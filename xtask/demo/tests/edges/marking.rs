//! What becomes of DSCPs: yellow packets between the nodes, maps on the way out, a value on delivery.

use std::time::Instant;

use serde_json::{Value, json};

use crate::bench::{Bench, Setup, TAG_PORT, ends, flow, is_to, usage};
use crate::network::{Ip, Place};
use crate::packet::{Packet, class, delivered, rtp};

#[test]
fn excess_is_marked_anew_and_dscps_are_mapped_and_set() {
    let maps = ["dscp_map_out = { 46 = 34, 0 = 8 }", "dscp_map_in = { 34 = 26 }"];
    let Some(mut bench) = Bench::new(Setup { data_plane: maps, ..Setup::PLAIN }) else { return };
    packets_in_excess_are_marked_anew_between_the_nodes_and_counted(&mut bench);
    dscps_are_mapped_on_the_way_out_and_set_or_mapped_on_delivery(&mut bench);
}

fn packets_in_excess_are_marked_anew_between_the_nodes_and_counted(bench: &mut Bench) {
    const PACKETS: u16 = 60;
    const PACKET_BYTES: u64 = 200;
    bench.reserve(Place::EdgeA, &json!({ "excess_dscp": 10 }));
    // Eight packets are its own at once, sixteen may come in excess.
    let excess =
        json!({ "rate_bps": 8_000, "burst_bytes": 1_600, "excess": { "rate_bps": 8_000, "burst_bytes": 3_200 } });
    bench.admit("excess", &[flow("a", Ip::V4, "ab", 5_000, &excess)]);
    let (source, destination) = ends(Ip::V4, "ab", 5_000);
    bench.listen(Place::SiteB, destination);
    let (between, heard) = (bench.capture(Place::Path), bench.capture(Place::SiteB));
    let begun = Instant::now();
    for number in 0..PACKETS {
        bench.send(&Packet::new(source, destination, rtp(number, 172)));
    }
    let came = heard.take(is_to(5_000), 24);
    // At 8 kbit/s a packet's worth comes back in 200 ms, to each bucket.
    let again = 1 + u64::try_from(begun.elapsed().as_millis()).unwrap() / 200;
    let tagged = between.take(is_to(TAG_PORT), 48);
    let ended = bench.end("excess");
    let (out, into) = (usage(&ended, "edge-a", "a").unwrap(), usage(&ended, "edge-b", "a").unwrap());

    let count = |packets: &[Vec<u8>], dscp| packets.iter().filter(|packet| class(packet) >> 2 == dscp).count() as u64;
    let (green, yellow) = (count(&came, 46), count(&came, 10));
    assert!((8..=8 + again).contains(&green) && (16..=16 + again).contains(&yellow), "{green} green, {yellow} yellow");
    assert_eq!(
        (count(&tagged, 46), count(&tagged, 10), tagged.len() as u64),
        (2 * green, 2 * yellow, 2 * (green + yellow))
    );
    assert_eq!((out.passed_packets, out.excess_packets), (green + yellow, yellow));
    assert_eq!((out.excess_bytes, out.passed_bytes), (yellow * PACKET_BYTES, (green + yellow) * PACKET_BYTES));
    assert_eq!((out.offered_packets, out.dropped_packets), (u64::from(PACKETS), u64::from(PACKETS) - green - yellow));
    assert_eq!((into.offered_packets, into.passed_packets, into.dropped_packets), (green + yellow, green + yellow, 0));
    assert_eq!(bench.verdict(Place::EdgeA, "out", "flow_over_rate"), out.dropped_packets);
    bench.client(Place::EdgeA).delete::<Value>("/v1/aggregates/ab").unwrap();
}

fn dscps_are_mapped_on_the_way_out_and_set_or_mapped_on_delivery(bench: &mut Bench) {
    for (round, (deliver, port)) in [(json!(18), 5_010), (json!(null), 5_012)].into_iter().enumerate() {
        let policy = if deliver.is_null() { json!("map") } else { json!(null) };
        let view = bench.reserve(
            Place::EdgeA,
            &json!({ "dscp": null, "dscp_policy": "map", "deliver_dscp": deliver, "deliver_dscp_policy": policy }),
        );
        assert_eq!((view.dscp, view.deliver_dscp), (None, deliver.as_u64().and_then(|dscp| u8::try_from(dscp).ok())));
        let id = format!("call-{round}");
        let flows = Ip::BOTH.map(|ip| flow(&format!("{ip:?}"), ip, "ab", port, &json!({})));
        bench.admit(&id, &flows);
        for ip in Ip::BOTH {
            let (source, destination) = ends(ip, "ab", port);
            bench.listen(Place::SiteB, destination);
            let (between, heard) = (bench.capture(Place::Path), bench.capture(Place::SiteB));
            let mut sent = Vec::new();
            // DSCP as sent, between the nodes, and as mapped on delivery; ECN stays.
            for (number, (dscp, mapped, in_map)) in [(46, 34, 26), (0, 8, 8), (20, 20, 20)].into_iter().enumerate() {
                let payload = rtp(u16::try_from(number).unwrap(), 172);
                let packet = Packet { class: dscp << 2 | 2, ..Packet::new(source, destination, payload) };
                bench.send(&packet);
                sent.push(packet.bytes());
                let tagged = between.take(is_to(TAG_PORT), 2);
                assert_eq!(
                    tagged.iter().map(|packet| class(packet)).collect::<Vec<_>>(),
                    [mapped << 2 | 2; 2],
                    "{ip:?} {dscp}"
                );
                let expected = if deliver.is_null() { in_map } else { 18 };
                assert_eq!(
                    heard.take(is_to(port), 1),
                    [delivered(&packet.bytes(), expected << 2 | 2)],
                    "{ip:?} {dscp}"
                );
            }
            let view = bench.session(Place::EdgeB, &id);
            let found = view.flows.iter().find(|flow| flow.source == source).unwrap().counters.unwrap();
            assert_eq!(found.passed_packets, sent.len() as u64);
        }
        let ended = bench.end(&id);
        for ip in Ip::BOTH {
            let [out, into] = ["edge-a", "edge-b"].map(|node| usage(&ended, node, &format!("{ip:?}")).unwrap());
            assert_eq!((out, out.passed_packets, out.dropped_packets), (into, 3, 0));
        }
        bench.client(Place::EdgeA).delete::<Value>("/v1/aggregates/ab").unwrap();
    }
}
