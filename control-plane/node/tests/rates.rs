//! Other rates for a session that is there, through the API of two nodes, with their real databases.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use serde_json::{Value, json};
use support::{Answer, FakeDataPlane, Pair, TestNode, call, eventually, session};
use turnpike_broker::policy::InstallError;

fn patch(node: &TestNode, id: &str, body: &Value) -> Answer {
    let json = "content-type: application/json";
    call(node.api, "PATCH", &format!("/v1/sessions/{id}"), &[json], &body.to_string())
}

fn both(there: u64, back: u64) -> Value {
    json!({ "flows": [{ "id": "there", "rate_bps": there }, { "id": "back", "rate_bps": back }] })
}

fn rates(node: &TestNode) -> [u64; 2] {
    let view = node.get("/v1/sessions/s").body;
    [0, 1].map(|flow| view["flows"][flow]["rate_bps"].as_u64().unwrap())
}

fn used(node: &TestNode, aggregate: &str) -> u64 {
    node.get(&format!("/v1/aggregates/{aggregate}")).body["pool"]["used_bps"].as_u64().unwrap()
}

fn in_force(plane: &FakeDataPlane) -> Vec<u64> {
    let mut rates = plane.rates_bps();
    rates.sort_unstable();
    rates
}

#[test]
fn rates_change_at_both_ends_in_force_in_the_pools_and_in_the_ledgers() {
    let pair = Pair::new();
    let (a, b) = pair.start_with_aggregates();
    assert_eq!(a.post("/v1/sessions", &session("s", 4_000, 80_000)).status, 201);
    let changed = patch(&a, "s", &both(400_000, 40_000));
    assert_eq!(changed.status, 200, "{changed:?}");
    assert_eq!(
        (&changed.body["flows"][0]["rate_bps"], &changed.body["changing_rates"]),
        (&json!(400_000), &Value::Null)
    );
    for (node, plane) in [(&a, &pair.plane_a), (&b, &pair.plane_b)] {
        assert_eq!((rates(node), in_force(plane)), ([400_000, 40_000], vec![40_000, 400_000]));
        assert_eq!((used(node, "ab"), used(node, "ba")), (416_000, 41_600));
        let usage = node.get("/v1/usage?session=s").body;
        let lines: Vec<(&Value, &Value)> = usage["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| (&line["kind"], &line["flows"][0]["reserved_rate_bps"]))
            .collect();
        assert_eq!(lines, [(&json!("start"), &json!(80_000)), (&json!("change"), &json!(400_000))]);
    }
    assert_eq!(patch(&a, "s", &both(400_000, 40_000)).status, 200, "the same again");
    let ended = a.delete("/v1/sessions/s");
    assert_eq!(ended.body["usage"][0]["reserved_rate_bps"], 400_000);
    let (node, usage) = (&b, b.get("/v1/usage?session=s").body);
    assert_eq!(usage["items"].as_array().unwrap().last().unwrap()["kind"], "final");
    assert_eq!((used(node, "ab"), used(node, "ba")), (0, 0));
}

#[test]
fn refusals_tell_the_pool_and_what_would_fit_and_change_nothing() {
    let pair = Pair::new();
    let (a, b) = pair.start_with_aggregates();
    assert_eq!(a.post("/v1/sessions", &session("s", 4_000, 80_000)).status, 201);
    let refused = patch(&a, "s", &both(990_000, 80_000));
    assert_eq!(refused.problem(), (409, "pool_rate_exhausted", "flows[0].rate_bps"));
    assert_eq!(
        (&refused.body["counter_offer_rate_bps"], &refused.body["pool"]["used_bps"]),
        (&json!(961_538), &json!(83_200))
    );
    let cases = [
        (json!({}), (400, "missing_field", "ends_at")),
        (json!({ "ends_at": null, "flows": [] }), (422, "invalid_value", "flows")),
        (json!({ "flows": [] }), (422, "invalid_value", "flows")),
        (json!({ "flows": [{ "id": "x", "rate_bps": 1 }] }), (422, "invalid_value", "flows[0].id")),
        (json!({ "flows": [{ "id": "there", "rate_bps": 0 }] }), (422, "invalid_value", "flows[0].rate_bps")),
        (json!({ "flows": [{ "id": "there" }] }), (400, "missing_field", "flows[0].rate_bps")),
        (json!({ "flows": [{ "id": "there", "rate": 1 }] }), (400, "unknown_field", "flows[0].rate")),
    ];
    for (body, expected) in cases {
        assert_eq!(patch(&a, "s", &body).problem(), expected, "{body}");
    }
    assert_eq!(patch(&b, "s", &both(1_000, 1_000)).problem(), (422, "invalid_value", "id"));
    assert_eq!((rates(&a), rates(&b)), ([80_000; 2], [80_000; 2]));
}

#[test]
fn what_a_data_plane_does_not_take_stays_at_both() {
    let pair = Pair::new();
    let (a, b) = pair.start_with_aggregates();
    assert_eq!(a.post("/v1/sessions", &session("s", 4_000, 80_000)).status, 201);
    let error = InstallError { code: "not_changed".to_owned(), detail: "told to fail".to_owned(), of_request: false };
    for plane in [&pair.plane_a, &pair.plane_b] {
        plane.fail_changes(Some(error.clone()));
        assert_eq!(patch(&a, "s", &both(400_000, 40_000)).problem().1, "install_failed");
        plane.fail_changes(None);
        eventually("it is over", || a.get("/v1/sessions/s").body["changing_rates"].is_null());
        assert_eq!((rates(&a), rates(&b)), ([80_000; 2], [80_000; 2]));
        assert_eq!((in_force(&pair.plane_a), in_force(&pair.plane_b)), (vec![80_000; 2], vec![80_000; 2]));
        assert_eq!((used(&a, "ab"), used(&b, "ab")), (83_200, 83_200));
    }
    assert_eq!(patch(&a, "s", &both(400_000, 40_000)).status, 200);
}

#[test]
fn a_change_whose_peer_is_gone_is_over_when_it_is_back_and_the_first_side_was_restarted() {
    let pair = Pair::new();
    let (a, b) = pair.start_with_aggregates();
    assert_eq!(a.post("/v1/sessions", &session("s", 4_000, 80_000)).status, 201);
    drop(b);
    assert_eq!(patch(&a, "s", &both(400_000, 40_000)).problem().1, "peer_unreachable");
    assert_eq!(a.get("/v1/sessions/s").body["changing_rates"], "voiding");
    assert_eq!(patch(&a, "s", &both(1_000, 1_000)).problem().1, "busy");
    drop(a);
    let a = TestNode::start(&pair.config_a, &pair.plane_a);
    assert_eq!(used(&a, "ab"), 416_000, "held as long as it is not known to be over");
    let b = TestNode::start(&pair.config_b, &pair.plane_b);
    eventually("it is over", || a.get("/v1/sessions/s").body["changing_rates"].is_null());
    assert_eq!((rates(&a), rates(&b), used(&a, "ab"), used(&b, "ab")), ([80_000; 2], [80_000; 2], 83_200, 83_200));
    assert_eq!(patch(&a, "s", &both(400_000, 40_000)).status, 200);
    assert_eq!((rates(&a), rates(&b)), ([400_000, 40_000], [400_000, 40_000]));
}
