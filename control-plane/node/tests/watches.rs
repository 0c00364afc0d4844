//! Sessions that wait for room, over real HTTP and SQLite between two nodes.
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

fn waiting(id: &str, port: u16, rate_bps: u64, ms: u64) -> Value {
    let mut body = session(id, port, rate_bps);
    body["wait_until"] = json!(in_ms(ms));
    body
}

fn state(node: &TestNode, id: &str) -> Value {
    node.get(&format!("/v1/sessions/{id}")).body["state"].clone()
}

#[test]
fn one_that_waits_is_offered_after_a_restart_and_taken() {
    let pair = Pair::new();
    let (a, _b) = pair.start_with_aggregates();
    assert_eq!(a.post("/v1/sessions", &session("full", 4_000, 800_000)).status, 201);
    let body = waiting("w", 4_002, 700_000, 600_000);
    let answer = a.post("/v1/sessions", &body);
    assert_eq!((answer.status, &answer.body["state"]), (201, &json!("waiting")), "{answer:?}");
    assert_eq!(answer.body["wait_until"], body["wait_until"]);
    assert_eq!(a.get("/v1/sessions").body["items"].as_array().unwrap().len(), 2);
    drop(a);
    let a = TestNode::start(&pair.config_a, &pair.plane_a);
    assert_eq!(state(&a, "w"), "waiting");
    assert_eq!(a.delete("/v1/sessions/full").status, 200);
    eventually("it is offered", || state(&a, "w") == "offered");
    assert!(a.get("/v1/sessions/w").body["offered_until"].as_str().unwrap() > in_ms(0).as_str());
    assert_eq!(a.get("/v1/node").body["waiting_notices"], json!({ "offered": 1 }));
    // Without `wait_until` it is the same request.
    let taken = a.post("/v1/sessions", &session("w", 4_002, 700_000));
    assert_eq!((taken.status, &taken.body["state"]), (201, &json!("active")), "{taken:?}");
    assert_eq!((&taken.body["wait_until"], &taken.body["offered_until"]), (&Value::Null, &Value::Null));
}

#[test]
fn waiting_ends_with_the_reason_or_by_delete() {
    let pair = Pair::new();
    let (a, _b) = pair.start_with_aggregates();
    assert_eq!(a.post("/v1/sessions", &session("full", 4_000, 800_000)).status, 201);
    assert_eq!(a.post("/v1/sessions", &waiting("w", 4_002, 700_000, 1_500)).body["state"], "waiting");
    assert_eq!(a.post("/v1/sessions", &waiting("x", 4_004, 700_000, 600_000)).body["state"], "waiting");
    assert_eq!(a.get("/v1/node").body["tables"]["watches"], json!({ "used": 2, "max": 256, "full": 0 }));
    assert_eq!(a.delete("/v1/sessions/x").body["state"], "ended");
    eventually("it has waited long enough", || state(&a, "w") == "ended");
    assert_eq!(a.get("/v1/sessions/w").body["failure"]["code"], "wait_expired");
    let past = a.post("/v1/sessions", &waiting("y", 4_006, 700_000, 0));
    assert_eq!(past.problem(), (422, "invalid_value", "wait_until"));
}

#[test]
fn by_command_line() {
    let pair = Pair::new();
    let (a, _b) = pair.start_with_aggregates();
    assert_eq!(a.post("/v1/sessions", &session("full", 4_000, 800_000)).status, 201);
    let flow =
        "--flow id=there,aggregate=ab,source=10.1.0.2:5000,destination=10.2.0.2:5000,rate=700k,burst=1600,packet=200";
    let api = format!("http://{}", a.api);
    let run = |line: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_turnpike"));
        let output = command.args(line.split(' ')).env("TURNPIKE_API", &api).stdin(Stdio::null()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, out) = run(&format!("session create w {flow} --wait 10m"));
    assert!(code == 0 && out.contains("waiting") && out.contains("for room, until "), "{out}");
    a.delete("/v1/sessions/full");
    eventually("it is offered", || state(&a, "w") == "offered");
    let (_, out) = run("session show w");
    assert!(out.contains("take it by the same request again"), "{out}");
    assert!(run(&format!("session create w {flow}")).1.contains("active"));
}
