//! The largest payload that the API tells is the largest that passes.

use serde_json::{Value, json};

use crate::bench::{Bench, counted, ends, flow, is_to, usage, view};
use crate::network::{Ip, Place};
use crate::packet::{Packet, delivered, rtp};

/// Between nodes whose wan takes less than the site's network, so that the site can send what is too large with its tag.
pub(crate) fn largest_over(bench: &mut Bench, outer: Ip) {
    let mut too_big = 0;
    for (tag, port) in [("label", 5_100), ("terminals", 5_110)] {
        bench.reserve(Place::EdgeA, &json!({ "tag": tag }));
        for (ip, port) in Ip::BOTH.into_iter().zip([port, port + 2]) {
            let id = format!("largest-{tag}-{ip:?}");
            let admitted = bench.admit(&id, &[flow("a", ip, "ab", port, &json!({}))]);
            let largest = view(&admitted, "a").payload_bytes_max.expect("known") as usize;
            let there = bench.session(Place::EdgeB, &id);
            assert_eq!(view(&there, "a").payload_bytes_max, view(&admitted, "a").payload_bytes_max, "{id}");
            let (source, destination) = ends(ip, "ab", port);
            bench.listen(Place::SiteB, destination);
            let heard = bench.capture(Place::SiteB);
            let [fits, beyond] = [largest, largest + 1].map(|bytes| Packet::new(source, destination, rtp(1, bytes)));
            bench.send(&beyond);
            bench.send(&fits);
            assert_eq!(heard.take(is_to(port), 1), [delivered(&fits.bytes(), 46 << 2)], "{id} over {outer:?}");
            too_big += 1;
            assert_eq!(bench.verdict(Place::EdgeA, "out", "too_big"), too_big, "{id} over {outer:?}");
            assert_eq!(bench.verdict(Place::EdgeB, "in", "too_big"), 0);

            let (passed, dropped) = (counted(&[fits.bytes()], true), counted(&[beyond.bytes()], false));
            let ended = bench.end(&id);
            let out = usage(&ended, "edge-a", "a").unwrap();
            assert_eq!((out.offered_packets, out.offered_bytes), (2, passed.passed_bytes + dropped.dropped_bytes));
            assert_eq!((out.passed_packets, out.passed_bytes), (1, passed.passed_bytes));
            assert_eq!((out.dropped_packets, out.dropped_bytes), (1, dropped.dropped_bytes));
            assert_eq!(usage(&ended, "edge-b", "a"), (tag == "label").then_some(passed));
        }
        bench.client(Place::EdgeA).delete::<Value>("/v1/aggregates/ab").unwrap();
    }
}
