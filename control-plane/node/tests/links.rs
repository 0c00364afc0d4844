//! Links that get other rates, over real HTTP and SQLite between two nodes.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use support::{Answer, Pair, TestNode, aggregate, call, eventually, session};
use turnpike_broker::name::Nanos;

fn in_ms(ms: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_millis(ms);
    Nanos(u64::try_from(now.as_nanos()).unwrap()).to_string()
}

fn patch(node: &TestNode, link: &str, body: &Value) -> Answer {
    call(node.api, "PATCH", &format!("/v1/links/{link}"), &["content-type: application/json"], &body.to_string())
}

#[test]
fn a_link_that_shrinks_says_whom_it_cannot_carry_also_after_a_restart() {
    let pair = Pair::new();
    let (a, b) = pair.start_with_aggregates();
    assert_eq!(a.post("/v1/aggregates", &aggregate("a2", "b", 2_000_000)).status, 201);
    eventually("best effort has the rest", || pair.plane_a.best_effort_rate_bps() == Some(7_000_000));
    assert_eq!(a.post("/v1/sessions", &session("s", 4_000, 80_000)).status, 201);
    let shrunk = patch(&a, "wan", &json!({ "rate_out_bps": 900_000 }));
    assert_eq!(shrunk.status, 200, "{shrunk:?}");
    assert_eq!(
        (&shrunk.body["out"]["capacity_bps"], &shrunk.body["configured_rate_out_bps"]),
        (&json!(900_000), &json!(10_000_000))
    );
    let told: Vec<_> = shrunk.body["cannot_carry"].as_array().unwrap().iter().collect();
    assert_eq!((told[0]["aggregate"].as_str(), told[1]["aggregate"].as_str()), (Some("a2"), Some("ab")));
    assert_eq!((&told[0]["sessions"], &told[1]["sessions"], told.len()), (&json!(0), &json!(1), 2));
    assert_eq!(told[0]["times"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&shrunk.body["cannot_carry_aggregates"], &shrunk.body["cannot_carry_sessions"]),
        (&json!(2), &json!(1))
    );
    eventually("best effort has nothing", || pair.plane_a.best_effort_rate_bps() == Some(0));
    let refused = b.post("/v1/sessions", &session("t", 4_002, 80_000));
    assert_eq!((refused.problem().1, &refused.body["pool"]["name"]), ("link_exhausted", &json!("link wan")));
    let told = shrunk.body["cannot_carry"].clone();
    drop(a);
    let a = TestNode::start(&pair.config_a, &pair.plane_a);
    let again = a.get("/v1/links/wan").body;
    let names = |told: &Value| told.as_array().unwrap().iter().map(|of| of["aggregate"].clone()).collect::<Vec<_>>();
    assert_eq!((names(&again["cannot_carry"]), &again["changes"]), (names(&told), &shrunk.body["changes"]));
    assert_eq!(a.get("/v1/node").body["links"][0]["cannot_carry_aggregates"], 2);
    assert_eq!(a.get("/v1/node").body["tables"]["link_changes"], json!({ "used": 1, "max": 256, "full": 0 }));
    // It heals when one goes and some capacity comes back.
    assert_eq!(a.delete("/v1/aggregates/a2").status, 204);
    let healed = patch(&a, "wan", &json!({ "rate_out_bps": 1_000_000 }));
    assert_eq!(healed.body["cannot_carry"], json!([]));
    assert_eq!(a.post("/v1/sessions", &session("t", 4_002, 80_000)).status, 201);
    // Another figure in the configuration takes the place of what stands.
    drop(a);
    let mut config = pair.config_a.clone();
    config.link.rate_out_bps = 20_000_000;
    let a = TestNode::start(&config, &pair.plane_a);
    let link = a.get("/v1/links").body["items"][0].clone();
    assert_eq!((&link["out"]["capacity_bps"], &link["changes"]), (&json!(20_000_000), &json!([])));
}

#[test]
fn a_rate_for_an_interval_begins_and_ends_by_itself() {
    let pair = Pair::new();
    let (a, _b) = pair.start_with_aggregates();
    let (from, until) = (in_ms(1_000), in_ms(3_000));
    let planned = patch(&a, "wan", &json!({ "rate_out_bps": 5_000_000, "from": from, "until": until }));
    assert_eq!(
        (&planned.body["out"]["capacity_bps"], &planned.body["changes"][0]["until"]),
        (&json!(10_000_000), &json!(until))
    );
    eventually("best effort shrinks with it", || pair.plane_a.best_effort_rate_bps() == Some(4_000_000));
    assert!(in_ms(0) >= from);
    eventually("and comes back", || pair.plane_a.best_effort_rate_bps() == Some(9_000_000));
    assert!(in_ms(0) >= until);
    assert_eq!(a.get("/v1/links/wan").body["changes"], json!([]));
}

#[test]
fn what_cannot_be_is_refused_by_field() {
    let pair = Pair::new();
    let (a, _b) = pair.start_with_aggregates();
    let before = a.get("/v1/links/wan");
    assert_eq!(before.status, 200);
    let (soon, later) = (in_ms(100_000), in_ms(200_000));
    let cases = [
        (json!({}), (422, "invalid_value", "rate_out_bps")),
        (json!({ "rate_out_bps": 0 }), (422, "invalid_value", "rate_out_bps")),
        (json!({ "rate_out_bps": -1 }), (422, "invalid_value", "rate_out_bps")),
        (json!({ "rate_in_bps": 1e30 }), (422, "invalid_value", "rate_in_bps")),
        (json!({ "rate_in_bps": u64::MAX }), (422, "invalid_value", "rate_in_bps")),
        (json!({ "rate_out_bps": 5_000, "from": "2020-01-01T00:00:00Z" }), (422, "invalid_value", "from")),
        (json!({ "rate_out_bps": 5_000, "from": later, "until": soon }), (422, "invalid_value", "until")),
        (json!({ "rate_out_bps": 5_000, "from": soon, "until": soon }), (422, "invalid_value", "until")),
        (json!({ "rate_out_bps": 5_000, "until": "soon" }), (422, "invalid_value", "until")),
        (json!({ "rate_out": 5_000 }), (400, "unknown_field", "rate_out")),
    ];
    for (body, expected) in cases {
        assert_eq!(patch(&a, "wan", &body).problem(), expected, "{body}");
        assert_eq!(a.get("/v1/links/wan").body, before.body);
    }
    assert_eq!(patch(&a, "lan", &json!({ "rate_out_bps": 5_000 })).problem(), (404, "unknown_link", "name"));
    assert_eq!(a.get("/v1/links/lan").problem().1, "unknown_link");
    assert_eq!(call(a.api, "DELETE", "/v1/links/wan", &[], "").status, 405);
}

#[test]
fn by_command_line() {
    let pair = Pair::new();
    let (a, _b) = pair.start_with_aggregates();
    let api = format!("http://{}", a.api);
    let run = |line: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_turnpike"));
        let output = command.args(line.split(' ')).env("TURNPIKE_API", &api).stdin(Stdio::null()).output().unwrap();
        let text = if output.status.success() { output.stdout } else { output.stderr };
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    };
    let (code, out) = run("link set wan --rate-out 500k --duration 1h");
    assert!(code == 0 && out.contains("cannot carry 1 of its aggregates") && out.contains("ab"), "{out}");
    assert!(out.contains("1M of 500k bit/s used, 0 free") && out.contains("other rates"), "{out}");
    assert!(run("status").1.contains("link wan cannot carry 1 of its aggregates: turnpike link show wan"));
    assert_eq!(run("link list").1.lines().nth(1).unwrap().split_whitespace().last(), Some("1"));
    let (code, out) = run("link set wan --rate-out 1k --until 2020-01-01T00:00:00Z");
    assert!(code == 1 && out.contains("invalid_value") && out.contains("field: until"), "{out}");
    let (code, out) = run("link show lan");
    assert!(code == 1 && out.contains("unknown_link") && out.contains("turnpike link list"), "{out}");
    assert!(run("link set wan --rate-out 10M --duration 2h").1.contains("it can carry all"));
}
