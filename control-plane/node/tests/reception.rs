//! What a flow carries and what arrived of it, from the request to the ledger, over two nodes.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use serde_json::{Value, json};
use support::{Pair, TestNode, session};
use turnpike_broker::media::Media;

/// A call of this media: `there` goes from a to b, `back` the other way.
fn call_of(media: &Value) -> Value {
    let mut body = session("call-1", 4_000, 80_000);
    for flow in body["flows"].as_array_mut().unwrap() {
        flow["media"] = media.clone();
    }
    body
}

fn reading<'v>(items: &'v Value, node: &str, flow: &str) -> &'v Value {
    items.as_array().unwrap().iter().find(|item| item["node"] == node && item["flow"] == flow).unwrap()
}

#[test]
fn what_arrived_is_in_the_session_and_in_the_ledger() {
    let pair = Pair::new();
    let (a, b) = pair.start_with_aggregates();
    let created = a.post("/v1/sessions", &call_of(&json!({ "codec": "pcmu", "jitter_every_packet": true })));
    assert_eq!(created.status, 201, "{created:?}");
    let codec = Some("pcmu".parse().unwrap());
    let installed = Media { codec, jitter_every_packet: true, ..Media::default() };
    assert_eq!((pair.plane_a.media(), pair.plane_b.media()), (vec![installed.clone()], vec![installed]));

    // While it lasts, each node shows what it receives.
    for (node, incoming, outgoing) in [(&a, 1, 0), (&b, 0, 1)] {
        let flows = node.get("/v1/sessions/call-1").body["flows"].clone();
        let flow = &flows[incoming];
        let lost = flow["counters"]["reception"]["lost_packets"].as_u64().unwrap();
        assert!(lost > 0, "{flow}");
        assert_eq!(
            flow["counters"]["reception"],
            json!({
                "lost_packets": lost, "duplicated_packets": 0, "reordered_packets": 0, "unplaced_packets": 0,
                "not_rtp_packets": 0, "gaps": lost, "restarts": 0, "jitter_ns": 1_500_000
            })
        );
        // One lost in a hundred.
        assert_eq!(flow["mos_estimated"], 4.33);
        assert_eq!(
            flow["media"],
            json!({
                "codec": "pcmu", "clock_rate_hz": 8_000, "jitter_every_packet": true, "packet_loss_concealment": true
            })
        );
        assert_eq!(
            (&flows[outgoing]["counters"]["reception"], &flows[outgoing]["mos_estimated"]),
            (&Value::Null, &Value::Null)
        );
    }

    // At its end the sender of a flow is told by the receiver.
    let deleted = a.delete("/v1/sessions/call-1").body;
    for (node, flow) in [("b", "there"), ("a", "back")] {
        let usage = reading(&deleted["usage"], node, flow);
        assert!(usage["counters"]["reception"]["lost_packets"].as_u64().unwrap() > 0, "{usage}");
        assert_eq!((&usage["direction"], &usage["mos_estimated"]), (&json!("in"), &json!(4.33)));
    }
    assert_eq!(reading(&deleted["usage"], "a", "there")["mos_estimated"], Value::Null);
    let ledger = a.get("/v1/usage?session=call-1").body["items"].clone();
    assert_eq!(ledger[1]["flows"], deleted["usage"]);
    assert_eq!(ledger[0]["flows"][1]["counters"]["reception"], Value::Null, "nothing had come at the start");

    // And after a restart.
    drop(a);
    let a = TestNode::start(&pair.config_a, &pair.plane_a);
    assert_eq!(a.get("/v1/sessions/call-1").body, deleted);
    assert_eq!(a.get("/v1/usage?session=call-1").body["items"], ledger);
}

#[test]
fn loss_is_counted_of_a_flow_that_nobody_described() {
    let pair = Pair::new();
    let (a, _b) = pair.start_with_aggregates();
    assert_eq!(a.post("/v1/sessions", &session("call-1", 4_000, 80_000)).status, 201);
    assert_eq!((pair.plane_a.media(), pair.plane_b.media()), (vec![Media::default()], vec![Media::default()]));
    let flow = a.get("/v1/sessions/call-1").body["flows"][1].clone();
    assert!(flow["counters"]["reception"]["lost_packets"].as_u64().unwrap() > 0, "{flow}");
    for absent in [&flow["counters"]["reception"]["jitter_ns"], &flow["mos_estimated"], &flow["media"]] {
        assert_eq!(absent, &Value::Null, "{flow}");
    }
}

#[test]
fn a_silent_terminal_hears_more_of_what_is_lost() {
    let pair = Pair::new();
    let (a, _b) = pair.start_with_aggregates();
    let body = call_of(&json!({ "codec": "PCMA", "packet_loss_concealment": false }));
    assert_eq!(a.post("/v1/sessions", &body).status, 201);
    assert_eq!(a.get("/v1/sessions/call-1").body["flows"][1]["mos_estimated"], 3.83);
}

#[test]
fn a_description_that_cannot_be_used_is_refused() {
    let pair = Pair::new();
    let (a, _b) = pair.start_with_aggregates();
    let clock = "flows[0].media.clock_rate_hz";
    for (media, status, code, field) in [
        (json!({ "clock_rate_hz": 999 }), 422, "invalid_value", clock),
        (json!({ "codec": "speex" }), 422, "invalid_value", clock),
        (json!({ "jitter_every_packet": true }), 422, "invalid_value", clock),
        (json!({ "codec": "a b" }), 422, "invalid_value", "flows[0].media.codec"),
        (json!({ "codecs": [] }), 400, "unknown_field", "flows[0].media.codecs"),
        (json!({ "clock_rate_hz": "8k" }), 422, "invalid_value", clock),
    ] {
        let refused = a.post("/v1/sessions", &call_of(&media));
        assert_eq!(refused.problem(), (status, code, field), "{media}: {refused:?}");
    }
}
