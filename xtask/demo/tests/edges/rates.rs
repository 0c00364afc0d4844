//! Another rate for a session under traffic, on real data planes: what conforms to the old and the new loses nothing, and from the answer on
//! the new one is enforced.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use turnpike_api::{SessionView, UsageRecord};
use turnpike_broker::record::UsageKind;

use crate::bench::{Bench, Setup, ends, flow, is_to, usage, view};
use crate::network::{Ip, Place};
use crate::packet::{Packet, rtp};

/// The aggregate of each flow, its site's other end, and a port of its own: a capture sees what its place sends, too.
const WAYS: [(&str, Place, u16); 2] = [("ab", Place::SiteB, 5_300), ("ba", Place::SiteA, 5_302)];
const PACKET_BYTES: u64 = 200;
/// A packet's worth comes back in 200 ms, and eight may come at once.
const SLOW: (u64, u32) = (8_000, 1_600);
/// All that the test sends at once is back within 120 ms.
const FAST: (u64, u32) = (4_000_000, 60_000);
const AT_ONCE: u16 = 60;

fn change(bench: &Bench, (rate_bps, burst_bytes): (u64, u32)) -> SessionView {
    let flows = ["a", "b"].map(|id| json!({ "id": id, "rate_bps": rate_bps, "burst_bytes": burst_bytes }));
    bench.client(Place::EdgeA).patch("/v1/sessions/live", &json!({ "flows": flows })).unwrap()
}

/// A packet of each flow.
fn send(bench: &Bench, number: u16) {
    for (aggregate, _, port) in WAYS {
        let (source, destination) = ends(Ip::V4, aggregate, port);
        bench.send(&Packet::new(source, destination, rtp(number, 172)));
    }
}

/// So many packets at once from each site; how many of them come to the other.
fn arrive(bench: &Bench, least: usize) -> [usize; 2] {
    let heard = WAYS.map(|(_, site, port)| (bench.capture(site), port));
    (0..AT_ONCE).for_each(|number| send(bench, number));
    heard.map(|(heard, port)| heard.take(is_to(port), least).len())
}

#[test]
fn another_rate_under_traffic_is_enforced_at_both_ends_and_loses_nothing() {
    let Some(mut bench) = Bench::new(Setup::over(Ip::V4)) else { return };
    bench.reserve(Place::EdgeA, &json!({}));
    bench.reserve(Place::EdgeB, &json!({}));
    let slow = json!({ "rate_bps": SLOW.0, "burst_bytes": SLOW.1 });
    let [(ab, _, port_ab), (ba, _, port_ba)] = WAYS;
    bench.admit("live", &[flow("a", Ip::V4, ab, port_ab, &slow), flow("b", Ip::V4, ba, port_ba, &slow)]);
    for (aggregate, site, port) in WAYS {
        bench.listen(site, ends(Ip::V4, aggregate, port).1);
    }

    let begun = Instant::now();
    let came = arrive(&bench, 8);
    let again = 1 + usize::try_from(begun.elapsed().as_millis()).unwrap() / 200;
    assert!(came.iter().all(|came| (8..=8 + again).contains(came)), "{came:?} at the old rate");

    let changed = change(&bench, FAST);
    for edge in [Place::EdgeA, Place::EdgeB] {
        let session = bench.session(edge, "live");
        for id in ["a", "b"] {
            let flow = view(&session, id);
            assert_eq!((flow.rate_bps, flow.burst_bytes, flow.asked_rate_bps), (FAST.0, FAST.1, FAST.0), "{edge:?}");
        }
        assert_eq!(bench.aggregate(edge, "ab").pool.used_bps, FAST.0 * 208 / 200);
    }
    assert_eq!(changed.changing_rates, None);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(arrive(&bench, AT_ONCE.into()), [usize::from(AT_ONCE); 2], "all of what the new rate allows");

    conforming_traffic_loses_nothing_while_it_changes(&bench);

    change(&bench, SLOW);
    // What the path still had is through, and the bucket is no larger than the new burst.
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    let came = arrive(&bench, 8);
    let again = 1 + usize::try_from(begun.elapsed().as_millis()).unwrap() / 200;
    assert!(came.iter().all(|came| (1..=8 + again).contains(came)), "{came:?} at the old rate again");

    let ended = bench.end("live");
    for (flow, sender, receiver) in [("a", "edge-a", "edge-b"), ("b", "edge-b", "edge-a")] {
        let (out, into) = (usage(&ended, sender, flow).unwrap(), usage(&ended, receiver, flow).unwrap());
        assert_eq!(out.offered_packets, out.passed_packets + out.dropped_packets);
        assert_eq!(
            (into.offered_packets, into.dropped_packets),
            (out.passed_packets, 0),
            "the receiver was never below"
        );
    }
    for edge in [Place::EdgeA, Place::EdgeB] {
        let lines: Vec<UsageRecord> = bench.client(edge).list("/v1/usage").unwrap();
        let rates: Vec<_> = lines.iter().map(|line| (line.kind, line.flows[0].reserved_rate_bps)).collect();
        let change = |(rate_bps, _)| (UsageKind::Change, rate_bps);
        let expected = [
            (UsageKind::Start, SLOW.0),
            change(FAST),
            change(MIDDLE),
            change(FAST),
            change(SLOW),
            (UsageKind::Final, SLOW.0),
        ];
        assert_eq!(rates, expected, "{edge:?}");
        let counted: Vec<_> = lines.iter().map(|line| line.flows[0].counters.unwrap().offered_packets).collect();
        assert!(counted.is_sorted() && counted[1] >= 8, "readings at each change: {counted:?}");
    }
    let _: Value = bench.client(Place::EdgeA).delete("/v1/aggregates/ab").unwrap();
}

/// Between the two.
const MIDDLE: (u64, u32) = (400_000, 8_000);

/// 80 kbit/s both ways all the time, with the rate now above and now below, but never below that.
fn conforming_traffic_loses_nothing_while_it_changes(bench: &Bench) {
    const PACKETS: u16 = 100;
    let before = bench.session(Place::EdgeA, "live");
    let heard = WAYS.map(|(_, site, port)| (bench.capture(site), port));
    std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            change(bench, MIDDLE);
            change(bench, FAST);
        });
        for number in 0..PACKETS {
            send(bench, 1_000 + number);
            std::thread::sleep(Duration::from_millis(20));
        }
        changes.join().unwrap();
    });
    let came = heard.map(|(heard, port)| heard.take(is_to(port), PACKETS.into()).len());
    assert_eq!(came, [usize::from(PACKETS); 2]);
    let dropped = |session: &SessionView| view(session, "a").counters.unwrap().dropped_bytes / PACKET_BYTES;
    assert_eq!(dropped(&bench.session(Place::EdgeA, "live")), dropped(&before));
}
