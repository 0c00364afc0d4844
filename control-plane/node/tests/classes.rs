//! Classes through the API of two nodes: listed, given to aggregates, and asked of by sessions.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use serde_json::{Value, json};
use support::{Pair, TestNode, aggregate, config, free_port, session};

const ARENA: &str =
    "[classes.arena]\ndscp = 33\ndelay_ms = 30\njitter_ms = 10\nsecurity = [\"srtp_dtls\"]\ngame_types = [\"fps\"]\n";

/// Both know `arena`; `more` is the second's besides.
fn pair(more: &str) -> Pair {
    let mut pair = Pair::new();
    let (port_a, port_b) = (free_port(), free_port());
    pair.config_a = config(&(pair.site.toml("a", 1, port_a, &[("b", 2, port_b)]) + ARENA));
    pair.config_b = config(&(pair.site.toml("b", 2, port_b, &[("a", 1, port_a)]) + ARENA + more));
    pair
}

fn of_class(name: &str, peer: &str, class: &str) -> Value {
    json!({ "name": name, "peer": peer, "rate_bps": 1_000_000, "class": class })
}

/// With more burst than the class gives: flows get half of it.
fn reserve(a: &TestNode, b: &TestNode) {
    for (node, name, peer) in [(a, "ab", "b"), (b, "ba", "a")] {
        let mut body = of_class(name, peer, "arena");
        body["burst_bytes"] = json!(200_000);
        assert_eq!(node.post("/v1/aggregates", &body).status, 201);
    }
}

#[test]
fn classes_are_listed_and_paged() {
    let pair = pair("");
    let (a, _b) = pair.start();
    let names = |page: &Value| -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    let all = a.get("/v1/classes").body;
    assert_eq!(names(&all).len(), 7);
    assert_eq!(
        all["items"][0]["values"],
        json!({
            "dscp": 33, "delay_ms": 30, "jitter_ms": 10, "security": ["srtp_dtls"], "game_types": ["fps"],
        })
    );
    let first = a.get("/v1/classes?limit=2").body;
    let rest = a.get(&format!("/v1/classes?after={}", first["next"].as_str().unwrap())).body;
    assert_eq!([names(&first), names(&rest)].concat(), names(&all));
}

#[test]
fn an_aggregate_of_a_class_shows_what_it_promises_at_both_ends() {
    let pair = pair("");
    let (a, b) = pair.start();
    let made = a.post("/v1/aggregates", &of_class("ab", "b", "arena"));
    assert_eq!(made.status, 201, "{made:?}");
    for node in [&a, &b] {
        let view = node.get("/v1/aggregates/ab").body;
        assert_eq!((&view["class"], &view["class_values"]["delay_ms"]), (&json!("arena"), &json!(30)));
        assert_eq!((&view["dscp"], &view["burst_bytes"]), (&json!(33), &json!(3_000)), "the least burst");
    }
    let plain = a.post("/v1/aggregates", &aggregate("plain", "b", 1_000_000));
    assert_eq!((plain.status, &plain.body["class"]), (201, &Value::Null));
    let body = |more: &Value| {
        let mut body = of_class("new", "b", "arena");
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let cases = [
        (json!({ "dscp": 46 }), (422, "invalid_value", "dscp")),
        (json!({ "class": "gold" }), (422, "invalid_value", "class")),
        (json!({ "class": null }), (422, "invalid_value", "dscp")),
        (json!({ "class": null, "dscp": 46 }), (422, "invalid_value", "burst_bytes")),
        (json!({ "class": "signaling" }), (422, "invalid_value", "burst_bytes")),
    ];
    for (more, expected) in cases {
        assert_eq!(a.post("/v1/aggregates", &body(&more)).problem(), expected, "{more}");
    }
}

#[test]
fn nodes_that_know_a_class_otherwise_refuse_each_others_aggregates() {
    let pair = pair("[classes.telephony]\ndscp = 46\ndelay_ms = 20\njitter_ms = 5\n");
    let (a, b) = pair.start();
    for (node, peer) in [(&a, "b"), (&b, "a")] {
        let refused = node.post("/v1/aggregates", &of_class("t", peer, "telephony"));
        assert_eq!(refused.problem(), (409, "class_differs", "class"));
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.contains("delay_ms is") && detail.contains("loss_ppm is"), "{detail}");
    }
}

#[test]
fn a_session_asks_for_quality_and_its_flows_may_ask_otherwise() {
    let pair = pair("");
    let (a, b) = pair.start();
    reserve(&a, &b);
    let mut body = session("s", 4_000, 80_000);
    body["quality"] = json!({ "class": "arena", "delay_ms_max": 30, "security": "srtp_dtls", "game": { "type": "fps", "class": "ranked" } });
    body["flows"][1]["quality"] = json!({ "delay_ms_max": 29 });
    let refused = a.post("/v1/sessions", &body);
    assert_eq!(refused.problem(), (409, "quality_not_met", "flows[1].quality.delay_ms_max"), "{refused:?}");
    body["flows"][1]["quality"] = json!({ "delay_ms_max": 100 });
    let admitted = a.post("/v1/sessions", &body);
    assert_eq!(admitted.status, 201, "{admitted:?}");
    for node in [&a, &b] {
        let flows = &node.get("/v1/sessions/s").body["flows"];
        assert_eq!(flows[0]["quality"], body["quality"]);
        assert_eq!(
            (&flows[1]["quality"]["delay_ms_max"], &flows[1]["quality"]["game"]["type"]),
            (&json!(100), &json!("fps"))
        );
        assert_eq!(flows[1]["asked_quality"], flows[1]["quality"]);
    }
    let mut unknown = session("t", 4_002, 80_000);
    unknown["quality"] = json!({ "delay": 1 });
    assert_eq!(a.post("/v1/sessions", &unknown).problem(), (400, "unknown_field", "quality.delay"));
}

#[test]
fn the_second_sides_policy_counts() {
    let pair = pair("[second_side]\ndelay_ms_min = 60\n");
    let (a, b) = pair.start();
    reserve(&a, &b);
    let mut body = session("s", 4_000, 80_000);
    body["quality"] = json!({ "delay_ms_max": 30 });
    assert_eq!(a.post("/v1/sessions", &body).problem(), (409, "quality_not_met", "flows[0].quality.delay_ms_max"));
    body["quality"]["negotiable"] = json!(true);
    assert_eq!(a.post("/v1/sessions", &body).status, 201);
    for node in [&a, &b] {
        let flow = &node.get("/v1/sessions/s").body["flows"][0];
        assert_eq!(
            (&flow["asked_quality"]["delay_ms_max"], &flow["quality"]["delay_ms_max"]),
            (&json!(30), &json!(60))
        );
    }
}
