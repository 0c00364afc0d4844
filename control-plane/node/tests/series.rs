//! Bookings that recur, over real HTTP and SQLite between two nodes.
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

/// A second each, every two.
fn recurring(id: &str, starts_in_ms: u64, rate_bps: u64, count: u32) -> Value {
    let mut body = session(id, 4_000, rate_bps);
    body["starts_at"] = json!(in_ms(starts_in_ms));
    body["ends_at"] = json!(in_ms(starts_in_ms + 1_000));
    body["recurrence"] = json!({ "period_s": 2, "count": count });
    body
}

fn states(node: &TestNode) -> Vec<String> {
    let items = node.get("/v1/sessions").body["items"].clone();
    let text = |item: &Value| format!("{} {}", item["id"].as_str().unwrap(), item["state"].as_str().unwrap());
    items.as_array().unwrap().iter().map(text).collect()
}

#[test]
fn all_occurrences_are_booked_start_end_and_outlive_a_restart() {
    let pair = Pair::new();
    let (a, b) = pair.start_with_aggregates();
    let body = recurring("w", 3_000, 80_000, 3);
    let made = a.post("/v1/sessions", &body);
    assert_eq!((made.status, made.header("location")), (201, Some("/v1/series/w")), "{made:?}");
    assert_eq!(
        (&made.body["state"], &made.body["count"], &made.body["period_s"]),
        (&json!("booked"), &json!(3), &json!(2))
    );
    let occurrence = &made.body["occurrences"][0];
    assert_eq!((&occurrence["session"], &occurrence["state"]), (&json!("w.1"), &json!("booked")));
    assert_eq!((&occurrence["starts_at"], &occurrence["ends_at"]), (&body["starts_at"], &body["ends_at"]));
    let all = ["w.1 booked", "w.2 booked", "w.3 booked"];
    assert_eq!((states(&a), states(&b)), (all.map(str::to_owned).to_vec(), all.map(str::to_owned).to_vec()));
    drop(a);
    let a = TestNode::start(&pair.config_a, &pair.plane_a);
    let again = a.post("/v1/sessions", &body);
    assert_eq!((again.status, &again.body["state"]), (200, &json!("booked")));
    assert_eq!(a.get("/v1/series").body["items"].as_array().unwrap().len(), 1);
    eventually("the first is up", || b.get("/v1/sessions/w.1").body["state"] == "active");
    eventually("the first is over", || b.get("/v1/sessions/w.1").body["state"] == "ended");
    assert_eq!(a.delete("/v1/sessions/w.2").body["state"], "ended");
    eventually("the last is over", || b.get("/v1/sessions/w.3").body["state"] == "ended");
    eventually("so is the series", || a.get("/v1/series/w").status == 404);
    assert_eq!(a.get("/v1/node").body["tables"]["series_occurrences"], json!({ "used": 0, "max": 4096, "full": 0 }));
}

#[test]
fn all_or_none_and_ended_as_a_whole() {
    let pair = Pair::new();
    let (a, b) = pair.start_with_aggregates();
    // In the way of the third at the second side, which is asked for it there.
    let mut other = session("other", 4_002, 700_000);
    other["starts_at"] = json!(in_ms(604_000));
    other["ends_at"] = json!(in_ms(605_000));
    assert_eq!(b.post("/v1/sessions", &other).status, 201);
    let refused = a.post("/v1/sessions", &recurring("w", 600_000, 400_000, 4));
    assert_eq!(refused.problem().1, "pool_rate_exhausted");
    assert!(refused.body["detail"].as_str().unwrap().starts_with("occurrence 3 of 4, from "), "{refused:?}");
    eventually("nothing is left", || {
        let booked = |node: &TestNode| states(node).iter().filter(|state| state.ends_with("booked")).count();
        booked(&a) == 1 && booked(&b) == 1
    });
    assert_eq!(a.get("/v1/series").body["items"], json!([]));
    assert_eq!(a.post("/v1/sessions", &recurring("x", 600_000, 100_000, 4)).status, 201);
    assert_eq!(a.delete("/v1/series/x").status, 204);
    assert_eq!(a.delete("/v1/series/x").problem(), (404, "unknown_series", "id"));
    assert!(!states(&b).iter().any(|state| state.starts_with("x.") && state.ends_with("booked")));
}

#[test]
fn what_cannot_be_is_refused_by_field() {
    let pair = Pair::new();
    let (a, _b) = pair.start_with_aggregates();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut body = recurring("w", 600_000, 80_000, 2);
        change(&mut body);
        body
    };
    let cases: [(Value, (u16, &str, &str)); 10] = [
        (with(&|body| body["ends_at"] = Value::Null), (422, "invalid_value", "recurrence")),
        (with(&|body| body["wait_until"] = json!(in_ms(5_000))), (422, "invalid_value", "recurrence")),
        (with(&|body| body["authorization_token"] = json!("x")), (422, "invalid_value", "authorization_token")),
        (with(&|body| body["recurrence"] = json!({ "period_s": 2 })), (422, "invalid_value", "recurrence")),
        (with(&|body| body["recurrence"]["until"] = json!(in_ms(700_000))), (422, "invalid_value", "recurrence")),
        (with(&|body| body["recurrence"]["period_s"] = json!(0)), (422, "invalid_value", "recurrence")),
        (with(&|body| body["recurrence"]["period_s"] = json!(u64::MAX)), (422, "invalid_value", "recurrence.period_s")),
        (with(&|body| body["recurrence"]["period_s"] = json!(-1)), (422, "invalid_value", "recurrence.period_s")),
        (with(&|body| body["recurrence"]["count"] = json!(1_001)), (503, "limit_reached", "recurrence")),
        (with(&|body| body["recurrence"]["every"] = json!("week")), (400, "unknown_field", "recurrence.every")),
    ];
    for (body, expected) in cases {
        assert_eq!(a.post("/v1/sessions", &body).problem(), expected, "{body}");
    }
    let asked = a.post("/v1/sessions?dry_run=true", &recurring("w", 600_000, 80_000, 2));
    assert_eq!(asked.problem(), (422, "invalid_value", "recurrence"));
    assert_eq!((states(&a).len(), a.get("/v1/series").body["items"].as_array().unwrap().len()), (0, 0));
    assert_eq!(a.get("/v1/series/w").problem().1, "unknown_series");
}

#[test]
fn by_command_line() {
    let pair = Pair::new();
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
    let start = in_ms(600_000);
    let (code, out) = run(&format!("session create w {flow} --starts-at {start} --duration 1h --every 1d --times 3"));
    assert!(code == 0 && out.contains("series w: booked, every 86400 s") && out.contains("w.3"), "{out}");
    let file = pair.site.path("again.json");
    let mut body = recurring("v", 600_000, 80_000, 2);
    body["flows"][0]["source"] = json!("10.1.0.2:6000");
    std::fs::write(&file, body.to_string()).unwrap();
    let (code, out) = run(&format!("session create --file {}", file.display()));
    assert!(code == 0 && out.contains("series v: booked, every 2 s"), "{out}");
    assert!(run("series list").1.contains("86400 s"));
    assert!(run("series show w").1.contains(&start));
    let (code, out) = run("series delete w");
    assert!(code == 0 && out.contains("series w is gone"), "{out}");
    let (code, out) = run("series show w");
    assert!(code == 1 && out.contains("unknown_series") && out.contains("turnpike series list"), "{out}");
}
