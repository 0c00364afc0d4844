//! Media-processing slots and what a node can forward, over real HTTP and SQLite between two nodes.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use support::{Pair, TestNode, eventually, session};
use turnpike_broker::name::Nanos;

fn in_ms(ms: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_millis(ms);
    Nanos(u64::try_from(now.as_nanos()).unwrap()).to_string()
}

/// `a` has two transcoders, `b` a mixer and 700 kbit/s to forward.
fn pair() -> Pair {
    let mut pair = Pair::new();
    pair.config_a.media_slots = [("transcoding".parse().unwrap(), 2)].into();
    pair.config_b.media_slots = [("mixing".parse().unwrap(), 1)].into();
    pair.config_b.capacity.rate_bps = Some(700_000);
    pair
}

fn with_slots(mut body: Value, first: u32, second: u32) -> Value {
    let of = |name: &str, count: u32| if count > 0 { json!({ name: count }) } else { json!({}) };
    body["media_slots"] = json!({ "first": of("transcoding", first), "second": of("mixing", second) });
    body
}

fn slots(node: &TestNode) -> Value {
    node.get("/v1/node").body["media_slots"][0].clone()
}

#[test]
fn slots_are_held_refused_waited_for_and_kept_over_a_restart() {
    let pair = pair();
    let (a, b) = pair.start_with_aggregates();
    let end = in_ms(600_000);
    let mut body = with_slots(session("s", 4_000, 80_000), 2, 1);
    body["ends_at"] = json!(end);
    let made = a.post("/v1/sessions", &body);
    assert_eq!((made.status, &made.body["media_slots"]), (201, &body["media_slots"]), "{made:?}");
    assert_eq!(b.get("/v1/sessions/s").body["media_slots"], json!({ "second": { "mixing": 1 } }));
    let held = json!({ "name": "mixing", "node": "b", "capacity_slots": 1, "used_slots": 1, "free_slots": 0 });
    assert_eq!(slots(&b), held);
    for (first, second, name, node) in [(1, 0, "transcoding", "a"), (0, 1, "mixing", "b")] {
        let body = with_slots(session("t", 4_002, 80_000), first, second);
        for path in ["/v1/sessions", "/v1/sessions?dry_run=true"] {
            let refused = a.post(path, &body);
            let side = if first > 0 { "first" } else { "second" };
            let field = format!("media_slots.{side}.{name}");
            assert_eq!(refused.problem(), (409, "media_slots_exhausted", field.as_str()));
            let state = &refused.body["media_slots"];
            assert_eq!((&state["name"], &state["node"], &state["free_slots"]), (&json!(name), &json!(node), &json!(0)));
            assert_eq!((&state["fits_at"], &refused.body["pool"]), (&json!(end), &Value::Null));
        }
    }
    let mut waits = with_slots(session("w", 4_004, 80_000), 1, 1);
    waits["wait_until"] = json!(in_ms(300_000));
    assert_eq!(a.post("/v1/sessions", &waits).body["state"], "waiting");
    drop((a, b));
    let (a, b) = pair.start();
    assert_eq!((slots(&b), &slots(&a)["used_slots"]), (held, &json!(2)));
    assert_eq!(a.delete("/v1/sessions/s").status, 200);
    eventually("it is offered", || a.get("/v1/sessions/w").body["state"] == "offered");
    assert_eq!((&slots(&a)["used_slots"], &slots(&b)["used_slots"]), (&json!(1), &json!(1)));
    assert_eq!(a.post("/v1/sessions", &waits).body["state"], "active");
    assert_eq!(a.delete("/v1/sessions/w").status, 200);
    assert_eq!((&slots(&a)["used_slots"], &slots(&b)["used_slots"]), (&json!(0), &json!(0)));
}

#[test]
fn what_a_node_can_forward_is_shared_by_all_flows() {
    let pair = pair();
    let (a, b) = pair.start_with_aggregates();
    assert_eq!(a.post("/v1/sessions", &session("s", 4_000, 300_000)).status, 201);
    let capacity = b.get("/v1/node").body["capacity"].clone();
    assert_eq!((&capacity["name"], &capacity["used_bps"]), (&json!("node"), &json!(624_000)));
    assert_eq!(a.get("/v1/node").body["capacity"], Value::Null);
    let refused = a.post("/v1/sessions", &session("t", 4_002, 80_000));
    assert_eq!(refused.problem().1, "node_capacity_exhausted");
    assert_eq!((&refused.body["pool"]["node"], &refused.body["pool"]["free_bps"]), (&json!("b"), &json!(76_000)));
    assert_eq!(refused.body["counter_offer_rate_bps"], 73_076);
    assert_eq!(a.post("/v1/sessions", &session("t", 4_002, 30_000)).status, 201);
}

#[test]
fn what_cannot_be_is_refused_by_field() {
    let pair = pair();
    let (a, _b) = pair.start_with_aggregates();
    let cases = [
        (json!({ "first": { "mixing": 1 } }), (422, "unknown_media_slots", "media_slots.first.mixing")),
        (json!({ "second": { "transcoding": 1 } }), (422, "unknown_media_slots", "media_slots.second.transcoding")),
        (json!({ "first": { "transcoding": 0 } }), (422, "invalid_value", "media_slots.first.transcoding")),
        (json!({ "first": { "transcoding": -1 } }), (422, "invalid_value", "media_slots.first.transcoding")),
        (json!({ "first": { "a b": 1 } }), (422, "invalid_value", "media_slots.first.a b")),
        (json!({ "third": {} }), (400, "unknown_field", "media_slots.third")),
    ];
    for (media_slots, expected) in cases {
        let mut body = session("s", 4_000, 80_000);
        body["media_slots"] = media_slots;
        assert_eq!(a.post("/v1/sessions", &body).problem(), expected, "{body}");
    }
    assert_eq!(a.get("/v1/sessions").body["items"], json!([]));
}

#[test]
fn by_command_line() {
    let pair = pair();
    let (a, _b) = pair.start_with_aggregates();
    let flow =
        "--flow id=there,aggregate=ab,source=10.1.0.2:5000,destination=10.2.0.2:5000,rate=80k,burst=1600,packet=200";
    let api = format!("http://{}", a.api);
    let run = |line: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_turnpike"));
        let output = command.args(line.split(' ')).env("TURNPIKE_API", &api).stdin(Stdio::null()).output().unwrap();
        let text = if output.status.success() { output.stdout } else { output.stderr };
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    };
    let slots = "--media-slots first:transcoding=2 --media-slots second:mixing=1";
    let (code, out) = run(&format!("session create s {flow} {slots}"));
    assert!(code == 0 && out.contains("first:transcoding=2 second:mixing=1"), "{out}");
    let (_, out) = run("status");
    assert!(out.contains("MEDIA SLOTS") && out.contains("2 of 2 used, 0 free") && !out.contains("forwards"), "{out}");
    let (code, out) = run(&format!("session create t {} {slots}", flow.replace("5000", "5002")));
    assert!(code == 1 && out.contains("media slots: transcoding on node a: 2 of 2 used, 0 free"), "{out}");
    assert!(!out.contains("bit/s"), "{out}");
}
