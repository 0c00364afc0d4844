//! Sessions with a start and an end over real HTTP and SQLite, by the nodes' real clocks.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use support::{Answer, Pair, TestNode, call, eventually, session};
use turnpike_broker::name::Nanos;

/// The host's time in so many milliseconds.
fn in_ms(ms: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_millis(ms);
    Nanos(u64::try_from(now.as_nanos()).unwrap()).to_string()
}

fn between(id: &str, port: u16, rate_bps: u64, start: Option<&str>, end: Option<&str>) -> Value {
    let mut body = session(id, port, rate_bps);
    for (field, time) in [("starts_at", start), ("ends_at", end)] {
        if let Some(time) = time {
            body[field] = json!(time);
        }
    }
    body
}

fn patch(node: &TestNode, id: &str, body: &Value) -> Answer {
    let json = "content-type: application/json";
    call(node.api, "PATCH", &format!("/v1/sessions/{id}"), &[json], &body.to_string())
}

fn state(node: &TestNode, id: &str) -> String {
    node.get(&format!("/v1/sessions/{id}")).body["state"].as_str().unwrap().to_owned()
}

#[test]
fn a_booking_is_installed_at_its_start_and_gone_at_its_end() {
    let pair = Pair::new();
    let (a, b) = pair.start_with_aggregates();
    let (start, end) = (in_ms(3_000), in_ms(6_000));
    let body = between("call-1", 4_000, 80_000, Some(&start), Some(&end));
    let booked = a.post("/v1/sessions", &body);
    assert_eq!(booked.status, 201, "{booked:?}");
    assert_eq!((&booked.body["state"], &booked.body["since"]), (&json!("booked"), &Value::Null));
    assert_eq!((&booked.body["starts_at"], &booked.body["ends_at"]), (&json!(start), &json!(end)));
    assert_eq!(a.post("/v1/sessions", &body).status, 200);
    // Only the aggregates.
    assert_eq!((pair.plane_a.installed(), pair.plane_b.installed()), (2, 2));
    for node in [&a, &b] {
        assert_eq!(state(node, "call-1"), "booked");
    }
    eventually("it is active", || [&a, &b].iter().all(|node| state(node, "call-1") == "active"));
    assert!(in_ms(0) >= start);
    assert_eq!((pair.plane_a.installed(), pair.plane_b.installed()), (4, 4));
    eventually("it has ended", || [&a, &b].iter().all(|node| state(node, "call-1") == "ended"));
    assert!(in_ms(0) >= end);
    assert_eq!((pair.plane_a.installed(), pair.plane_b.installed()), (2, 2));
    let usage = a.get("/v1/usage?session=call-1").body;
    let kinds: Vec<&Value> = usage["items"].as_array().unwrap().iter().map(|record| &record["kind"]).collect();
    assert_eq!(kinds, ["start", "final"]);
}

#[test]
fn a_refusal_tells_when_it_would_fit_as_the_request_takes_it() {
    let pair = Pair::new();
    let (a, _b) = pair.start_with_aggregates();
    let (start, end, later) = (in_ms(100_000), in_ms(200_000), in_ms(250_000));
    assert_eq!(a.post("/v1/sessions", &between("s", 4_000, 800_000, Some(&start), Some(&end))).status, 201);
    let refused = a.post("/v1/sessions", &between("t", 4_002, 800_000, Some(&start), Some(&later)));
    assert_eq!((refused.problem().0, refused.problem().1), (409, "pool_rate_exhausted"));
    assert_eq!(refused.body["pool"]["fits_at"], json!(end));
    assert!(refused.body["pool"]["free_bps"].as_u64().unwrap() < 200_000);
    let at = refused.body["pool"]["fits_at"].as_str().unwrap();
    assert_eq!(a.post("/v1/sessions", &between("t", 4_002, 800_000, Some(at), Some(&later))).status, 201);
    // What is used now is the aggregates', and best effort has the rest, whatever is booked.
    eventually("best effort", || pair.plane_a.best_effort_rate_bps() == Some(9_000_000));
}

#[test]
fn the_end_can_be_changed_and_taken_away() {
    let pair = Pair::new();
    let (a, b) = pair.start_with_aggregates();
    let end = in_ms(100_000);
    assert_eq!(a.post("/v1/sessions", &between("s", 4_000, 80_000, None, Some(&end))).body["state"], "active");
    let later = in_ms(200_000);
    let changed = patch(&a, "s", &json!({ "ends_at": later }));
    assert_eq!((changed.status, &changed.body["ends_at"]), (200, &json!(later)), "{changed:?}");
    assert_eq!(b.get("/v1/sessions/s").body["ends_at"], json!(later));
    assert_eq!(patch(&a, "s", &json!({ "ends_at": null })).body["ends_at"], Value::Null);
    assert_eq!(b.get("/v1/sessions/s").body["ends_at"], Value::Null);
    assert_eq!(patch(&b, "s", &json!({ "ends_at": later })).problem(), (422, "invalid_value", "id"));
    assert_eq!(patch(&a, "t", &json!({ "ends_at": later })).problem(), (404, "unknown_session", "id"));
    assert_eq!(patch(&a, "s", &json!({})).problem(), (400, "missing_field", "ends_at"));
    assert_eq!(patch(&a, "s", &json!({ "ends_at": null, "rate": 1 })).problem(), (400, "unknown_field", "rate"));
    assert_eq!(patch(&a, "s", &json!({ "ends_at": in_ms(0) })).problem(), (422, "invalid_value", "ends_at"));
    assert_eq!(patch(&a, "s", &json!({ "ends_at": in_ms(300) })).status, 200);
    eventually("it has ended", || [&a, &b].iter().all(|node| state(node, "s") == "ended"));
}

#[test]
fn impossible_times_are_refused_by_field() {
    let pair = Pair::new();
    let (a, _b) = pair.start_with_aggregates();
    let (soon, later) = (in_ms(100_000), in_ms(200_000));
    let cases = [
        (Some("tomorrow"), None, "starts_at"),
        (Some("2020-01-01T00:00:00Z"), None, "starts_at"),
        (Some("9999-12-31T23:59:59Z"), None, "starts_at"),
        (None, Some("2020-01-01T00:00:00Z"), "ends_at"),
        (None, Some("2030-02-30T00:00:00Z"), "ends_at"),
        (Some(later.as_str()), Some(soon.as_str()), "ends_at"),
        (Some(soon.as_str()), Some(soon.as_str()), "ends_at"),
    ];
    for (start, end, field) in cases {
        let refused = a.post("/v1/sessions", &between("s", 4_000, 80_000, start, end));
        assert_eq!(refused.problem(), (422, "invalid_value", field), "{start:?} {end:?}");
        assert!(refused.body["detail"].as_str().unwrap().contains(field));
    }
    let number = json!({ "id": "s", "starts_at": 7, "flows": [] });
    assert_eq!(a.post("/v1/sessions", &number).problem(), (422, "invalid_value", "starts_at"));
    assert_eq!(a.get("/v1/sessions").body["items"], json!([]));
}

#[test]
fn a_booking_outlives_a_restart_and_starts_after_it() {
    let pair = Pair::new();
    let (a, b) = pair.start_with_aggregates();
    let (start, end) = (in_ms(3_000), in_ms(100_000));
    assert_eq!(a.post("/v1/sessions", &between("s", 4_000, 80_000, Some(&start), Some(&end))).status, 201);
    drop(a);
    std::thread::sleep(Duration::from_millis(3_200));
    let a = TestNode::start(&pair.config_a, &pair.plane_a);
    eventually("it is active", || [&a, &b].iter().all(|node| state(node, "s") == "active"));
    assert_eq!(a.delete("/v1/sessions/s").body["usage"].as_array().unwrap().len(), 4);
}
