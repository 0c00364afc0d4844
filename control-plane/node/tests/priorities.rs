//! Priorities, pre-emption, degradation and the part for emergencies, over real HTTP and SQLite between two nodes.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::process::Command;

use serde_json::{Value, json};
use support::{Pair, TestNode, eventually, session};

fn ranked(id: &str, port: u16, rate_bps: u64, setup_priority: u16) -> Value {
    let mut body = session(id, port, rate_bps);
    body["setup_priority"] = json!(setup_priority);
    body
}

fn show(node: &TestNode, id: &str) -> Value {
    node.get(&format!("/v1/sessions/{id}")).body
}

#[test]
fn a_session_of_higher_priority_ends_one_of_lower_at_both_nodes_and_says_so_before() {
    let pair = Pair::new();
    let (a, b) = pair.start_with_aggregates();
    let low = a.post("/v1/sessions", &ranked("low", 4_000, 800_000, 1));
    assert_eq!((&low.body["setup_priority"], &low.body["holding_priority"]), (&json!(1), &json!(1)));
    let dry = a.post("/v1/sessions?dry_run=true", &ranked("high", 4_002, 800_000, 2));
    assert_eq!((dry.status, &dry.body["preempts"]), (200, &json!(["low"])), "{dry:?}");
    let equal = a.post("/v1/sessions", &ranked("high", 4_002, 800_000, 1));
    assert_eq!((equal.status, &equal.body["code"]), (409, &json!("pool_rate_exhausted")), "{equal:?}");
    let high = b.post("/v1/sessions", &ranked("high", 4_002, 800_000, 2));
    assert_eq!((high.status, &high.body["state"]), (201, &json!("active")), "{high:?}");
    for node in [&a, &b] {
        eventually("its end is settled", || show(node, "low")["state"] == "ended");
        let ended = show(node, "low");
        assert_eq!(ended["failure"]["code"], "preempted");
        assert!(ended["failure"]["detail"].as_str().unwrap().contains("for session high"), "{ended}");
        assert_eq!(ended["usage"].as_array().unwrap().len(), 4, "by both nodes, of both flows");
        let view = node.get("/v1/node").body;
        assert_eq!((&view["preempted"], &view["waiting_notices"]), (&json!(1), &json!({})));
        let lines = node.get("/v1/usage?session=low").body["items"].clone();
        let kinds: Vec<&Value> = lines.as_array().unwrap().iter().map(|line| &line["kind"]).collect();
        assert_eq!(kinds, ["start", "final"]);
    }
    // What is kept outlives a restart.
    drop(a);
    let a = TestNode::start(&pair.config_a, &pair.plane_a);
    assert_eq!(
        (&show(&a, "high")["setup_priority"], &show(&a, "low")["failure"]["code"]),
        (&json!(2), &json!("preempted"))
    );
}

#[test]
fn a_wrong_priority_is_refused_and_names_the_field() {
    let pair = Pair::new();
    let (a, _b) = pair.start_with_aggregates();
    let mut body = ranked("s", 4_000, 80_000, 5);
    body["holding_priority"] = json!(4);
    let refused = a.post("/v1/sessions", &body);
    assert_eq!((refused.status, &refused.body["field"]), (422, &json!("holding_priority")), "{refused:?}");
    body["holding_priority"] = json!(65_536);
    assert_eq!(a.post("/v1/sessions", &body).body["field"], "holding_priority");
}

#[test]
fn an_aggregate_degrades_and_keeps_a_part_for_emergencies() {
    let pair = Pair::new();
    let (a, b) = pair.start();
    for (node, name, peer) in [(&a, "ab", "b"), (&b, "ba", "a")] {
        let body = json!({
            "name": name, "peer": peer, "rate_bps": 1_000_000, "burst_bytes": 64_000, "dscp": 46,
            "when_full": "degrade", "emergency_percent": 30,
        });
        let made = node.post("/v1/aggregates", &body);
        assert_eq!(made.status, 201, "{made:?}");
        assert_eq!((&made.body["when_full"], &made.body["emergency_percent"]), (&json!("degrade"), &json!(30)));
    }
    let there = b.get("/v1/aggregates/ab").body;
    assert_eq!((&there["when_full"], &there["emergency_percent"]), (&json!("degrade"), &json!(30)));
    let mut body = session("s", 4_000, 900_000);
    for flow in body["flows"].as_array_mut().unwrap() {
        flow["rate_bps_min"] = json!(100_000);
    }
    let made = a.post("/v1/sessions", &body);
    let flow = &made.body["flows"][0];
    assert_eq!((made.status, &flow["asked_rate_bps"]), (201, &json!(900_000)), "{made:?}");
    let granted = flow["rate_bps"].as_u64().unwrap();
    assert!((600_000..700_000).contains(&granted), "of 700,000 with the tag: {granted}");
    let refused = a.post("/v1/sessions", &session("t", 4_002, 100_000));
    let pool = refused.body["pool"]["name"].as_str().unwrap().to_owned();
    assert_eq!((refused.status, pool.as_str()), (409, "aggregate ab but for 30 % for emergencies"), "{refused:?}");
    let mut emergency = session("e", 4_002, 100_000);
    emergency["emergency"] = json!(true);
    let made = a.post("/v1/sessions", &emergency);
    assert_eq!((made.status, &made.body["emergency"]), (201, &json!(true)), "{made:?}");
}

#[test]
fn the_command_line_asks_with_priorities_and_shows_them() {
    let pair = Pair::new();
    let (a, _b) = pair.start_with_aggregates();
    assert_eq!(a.post("/v1/sessions", &ranked("low", 4_000, 800_000, 1)).status, 201);
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_turnpike"))
            .args(["--api", &format!("http://{}", a.api)])
            .args(arguments)
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let flow = "id=x,aggregate=ab,source=10.1.0.2:4002,destination=10.2.0.2:4002,rate=800k,burst=1600,packet=200";
    let ask = ["session", "create", "high", "--setup-priority", "3", "--holding-priority", "7", "--flow", flow];
    let dry = run(&[&ask[..], &["--dry-run"]].concat());
    assert!(dry.contains("it would end: low\n"), "{dry}");
    let made = run(&ask);
    assert!(made.contains("asks with 3, keeps with 7\n"), "{made}");
    let ended = run(&["session", "show", "low"]);
    assert!(ended.contains("for session high with setup_priority 3") && ended.contains("(preempted)"), "{ended}");
}
