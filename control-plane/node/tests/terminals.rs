//! Aggregates whose tags tell their terminals, from the request to the ledger, over two nodes.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use serde_json::{Value, json};
use support::{Pair, TestNode, aggregate, session};

fn with_terminals(name: &str, peer: &str) -> Value {
    let mut body = aggregate(name, peer, 1_000_000);
    body["tag"] = json!("terminals");
    body
}

#[test]
fn the_receiver_knows_the_aggregate_and_no_flow() {
    let pair = Pair::new();
    let (a, b) = pair.start();
    assert_eq!(a.post("/v1/aggregates", &with_terminals("ab", "b")).status, 201);
    assert_eq!(b.post("/v1/aggregates", &aggregate("ba", "a", 1_000_000)).status, 201);
    for node in [&a, &b] {
        let view = node.get("/v1/aggregates/ab").body;
        assert_eq!(
            (&view["tag"], &view["payload_bytes_max"]),
            (&json!("terminals"), &json!({ "ipv4": 1448, "ipv6": 1424 }))
        );
        assert_eq!(node.get("/v1/aggregates/ba").body["tag"], "label");
    }
    // Of the two aggregates, and what lets the packets of one in.
    assert_eq!((pair.plane_a.installed(), pair.plane_b.installed()), (2, 3));
    let refused = a.post("/v1/aggregates", &aggregate("ab", "b", 1_000_000));
    assert_eq!(refused.problem(), (409, "aggregate_name_reused", "name"));

    assert_eq!(a.post("/v1/sessions", &session("call-1", 4_000, 80_000)).status, 201);
    assert_eq!(
        (pair.plane_a.installed(), pair.plane_b.installed()),
        (4, 4),
        "`there` is installed at its sender alone"
    );
    let there = |node: &TestNode| node.get("/v1/sessions/call-1").body["flows"][0].clone();
    assert_eq!((&there(&a)["payload_bytes_max"], &there(&b)["payload_bytes_max"]), (&json!(1448), &json!(1448)));
    assert!(there(&a)["counters"]["passed_packets"].as_u64().unwrap() > 0);
    assert_eq!(there(&b).get("counters"), None, "not zeros that look counted");
    assert!(b.get("/v1/sessions/call-1").body["flows"][1]["counters"]["passed_packets"].as_u64().unwrap() > 0);

    let deleted = a.delete("/v1/sessions/call-1").body;
    let usage = deleted["usage"].as_array().unwrap();
    let counted = |node: &str, flow: &str| {
        let usage = usage.iter().find(|usage| usage["node"] == node && usage["flow"] == flow).unwrap();
        usage.get("counters").is_some()
    };
    assert_eq!((counted("a", "there"), counted("b", "there")), (true, false));
    assert_eq!((counted("a", "back"), counted("b", "back")), (true, true));
    assert_eq!(a.get("/v1/usage?session=call-1").body["items"][1]["flows"], deleted["usage"]);
    drop(b);
    let b = TestNode::start(&pair.config_b, &pair.plane_b);
    assert_eq!(there(&b).get("counters"), None, "nor after a restart");
    assert_eq!(a.delete("/v1/aggregates/ab").status, 204);
    assert_eq!((pair.plane_a.installed(), pair.plane_b.installed()), (1, 1));
}

#[test]
fn a_tag_that_is_none_is_refused() {
    let pair = Pair::new();
    let (a, _b) = pair.start();
    let mut body = aggregate("ab", "b", 1_000_000);
    body["tag"] = json!("flow");
    let refused = a.post("/v1/aggregates", &body);
    assert_eq!(refused.problem(), (422, "invalid_value", "tag"));
    assert!(refused.body["detail"].as_str().unwrap().contains("`terminals`"), "{refused:?}");
}

/// What people copy has to work.
#[test]
fn the_request_in_the_readme_is_admitted() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap();
    let body = text.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    let pair = Pair::new();
    let (a, b) = pair.start();
    assert_eq!(a.post("/v1/aggregates", &aggregate("a-to-b", "b", 1_000_000)).status, 201);
    let created = a.post("/v1/sessions", &body);
    assert_eq!(created.status, 201, "{created:?}");
    for node in [&a, &b] {
        let flow = node.get("/v1/sessions/call-3").body["flows"][0].clone();
        for (key, value) in body["flows"][0].as_object().unwrap().iter().filter(|(key, _)| *key != "media") {
            assert!(flow[key] == *value || key == "rate_bps_min", "{key}: {flow}");
        }
        assert_eq!((&flow["media"]["codec"], &flow["rtcp"]), (&json!("opus"), &json!("next_port")));
    }
}
