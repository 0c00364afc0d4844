//! Two nodes over real HTTP, mutual TLS and SQLite: the life of aggregates and sessions, and every kind of refusal.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use support::{FakeDataPlane, Pair, Site, TestNode, aggregate, call, config, eventually, flow, free_port, session};
use turnpike_broker::name::{Epoch, Nanos};
use turnpike_broker::policy::InstallError;
use turnpike_broker::record::{Change, UsageKind, UsageRecord};
use turnpike_store::Store;

#[test]
fn an_aggregate_lives_at_both_ends() {
    let pair = Pair::new();
    let (a, b) = pair.start();
    let body = aggregate("ab", "b", 1_000_000);

    let created = a.post("/v1/aggregates", &body);
    assert_eq!(created.status, 201, "{created:?}");
    assert_eq!(created.header("location"), Some("/v1/aggregates/ab"));
    assert_eq!(created.body["state"], "active");
    assert_eq!(created.body["direction"], "out");
    assert_eq!(created.body["pool"]["free_bps"], 1_000_000);
    assert_eq!(b.get("/v1/aggregates/ab").body["direction"], "in");
    assert_eq!((pair.plane_a.installed(), pair.plane_b.installed()), (1, 1));
    // What is reserved is no longer there for best effort.
    eventually("best effort makes room", || pair.plane_a.best_effort_rate_bps() == Some(9_000_000));

    let repeated = a.post("/v1/aggregates", &body);
    assert_eq!((repeated.status, &repeated.body["name"]), (200, &json!("ab")));
    let other = a.post("/v1/aggregates", &aggregate("ab", "b", 2_000_000));
    assert_eq!(other.problem(), (409, "aggregate_name_reused", "name"));
    let much = a.post("/v1/aggregates", &aggregate("much", "b", 9_500_000));
    assert_eq!(much.problem().0, 409);
    assert_eq!((much.problem().1, &much.body["pool"]["free_bps"]), ("link_exhausted", &json!(9_000_000)));

    assert_eq!(a.delete("/v1/aggregates/ab").status, 204);
    assert_eq!(a.get("/v1/aggregates/ab").problem(), (404, "unknown_aggregate", ""));
    assert_eq!(b.get("/v1/aggregates").body["items"], json!([]));
    assert_eq!((pair.plane_a.installed(), pair.plane_b.installed()), (0, 0));
    eventually("best effort has all", || pair.plane_a.best_effort_rate_bps() == Some(10_000_000));
}

#[test]
fn a_session_lives_at_both_ends() {
    let pair = Pair::new();
    let (a, b) = pair.start_with_aggregates();
    let body = session("call-1", 4_000, 80_000);

    let created = a.post("/v1/sessions", &body);
    assert_eq!(created.status, 201, "{created:?}");
    assert_eq!(created.header("location"), Some("/v1/sessions/call-1"));
    assert_eq!((&created.body["state"], &created.body["side"]), (&json!("active"), &json!("first")));
    assert_eq!(created.body["usage"], json!([]));
    assert!(created.body["since"].as_str().unwrap().ends_with('Z'));
    let there = b.get("/v1/sessions/call-1");
    assert_eq!((&there.body["state"], &there.body["side"]), (&json!("active"), &json!("second")));
    // An aggregate each way and a flow each way.
    assert_eq!((pair.plane_a.installed(), pair.plane_b.installed()), (4, 4));

    assert_eq!(a.post("/v1/sessions", &body).status, 200);
    assert_eq!(a.post("/v1/sessions", &session("call-1", 4_002, 80_000)).problem().1, "session_id_reused");
    assert_eq!(a.post("/v1/sessions", &session("call-2", 4_000, 80_000)).problem().1, "endpoints_in_use");
    assert_eq!(a.delete("/v1/aggregates/ab").problem(), (409, "aggregate_in_use", "name"));

    let refused = a.post("/v1/sessions", &session("call-2", 4_002, 1_000_000));
    assert_eq!((refused.problem().0, refused.problem().1), (409, "pool_rate_exhausted"));
    assert_eq!(refused.body["pool"]["capacity_bps"], 1_000_000);
    let offer = refused.body["counter_offer_rate_bps"].as_u64().unwrap();
    assert!((100_000..1_000_000).contains(&offer), "{offer}");
    assert_eq!(
        a.post("/v1/sessions", &json!({ "id": "call-2", "flows": [flow("there", "ab", 4_002, offer)] })).status,
        201
    );

    let deleted = a.delete("/v1/sessions/call-1");
    assert_eq!((deleted.status, &deleted.body["state"]), (200, &json!("ended")));
    // Each flow as counted on both nodes.
    assert_eq!(deleted.body["usage"].as_array().unwrap().len(), 4);
    let counted = &deleted.body["flows"][0]["counters"]["offered_packets"];
    assert!(counted.as_u64().unwrap() > 0, "an ended session keeps its counters");
    assert_eq!(a.delete("/v1/sessions/call-1").body, deleted.body, "repeating is safe");
    assert_eq!(a.get("/v1/sessions/call-1").body, deleted.body);

    let usage = a.get("/v1/usage?session=call-1").body;
    let kinds: Vec<&Value> = usage["items"].as_array().unwrap().iter().map(|record| &record["kind"]).collect();
    assert_eq!(kinds, ["start", "final"]);
    let node = a.get("/v1/node").body;
    assert_eq!((&node["name"], &node["epoch"]), (&json!("a"), &json!(1)));
    assert_eq!(node["peers"][0]["reachable"], true);
    assert_eq!(node["refusals"]["pool_rate_exhausted"], 1);
    assert_eq!(node["tables"]["sessions"]["used"], 1);
}

/// A session of one flow between IPv6 endpoints, whose RTCP is on the next ports, with excess.
fn ipv6_session(id: &str, port: u16) -> Value {
    json!({ "id": id, "flows": [{
        "id": "there", "aggregate": "ab",
        "source": format!("[2001:0DB8::1]:{port}"), "destination": format!("[2001:db8:1:0::1]:{port}"),
        "rtcp": "next_port", "rate_bps": 80_000, "burst_bytes": 1_600, "packet_bytes_min": 200,
        "excess": { "rate_bps": 40_000, "burst_bytes": 3_200 },
    }] })
}

#[test]
fn a_flow_with_all_that_can_be_asked_for_comes_up_at_both_ends() {
    let mut pair = Pair::new();
    pair.config_b.second_side.flow_excess_rate_bps_max = Some(10_000);
    let (a, b) = pair.start_with_aggregates();
    let created = a.post("/v1/sessions", &ipv6_session("call-1", 5_004));
    assert_eq!(created.status, 201, "{created:?}");
    for node in [&a, &b] {
        let flow = &node.get("/v1/sessions/call-1").body["flows"][0];
        // As RFC 5952 writes them.
        assert_eq!(
            (&flow["source"], &flow["destination"]),
            (&json!("[2001:db8::1]:5004"), &json!("[2001:db8:1::1]:5004"))
        );
        assert_eq!(flow["rtcp"], "next_port");
        assert_eq!(flow["asked_excess"], json!({ "rate_bps": 40_000, "burst_bytes": 3_200 }));
        assert_eq!(flow["excess"], json!({ "rate_bps": 10_000, "burst_bytes": 3_200 }), "what the second side gives");
        // 1500 less 40 of IPv6 and 8 of UDP on the LAN; less 20, 8 and a tag of 12 on the WAN.
        assert_eq!(flow["payload_bytes_max"], 1_452);
        assert_eq!(node.get("/v1/aggregates/ab").body["pool"]["used_bps"], 80_000);
    }
    assert_eq!(created.body["flows"][0]["payload_bytes_max"], 1_452);
    assert_eq!(a.post("/v1/sessions", &ipv6_session("call-1", 5_004)).status, 200);
    assert_eq!(
        a.post("/v1/sessions", &ipv6_session("call-2", 5_005)).problem(),
        (422, "invalid_value", "flows[0].source")
    );
    let mut rtcp = ipv6_session("call-2", 5_005);
    rtcp["flows"][0]["rtcp"] = json!("same_port");
    assert_eq!(a.post("/v1/sessions", &rtcp).problem(), (409, "endpoints_in_use", "flows[0].source"));
    let deleted = a.delete("/v1/sessions/call-1").body;
    assert!(deleted["usage"][1]["counters"]["excess_packets"].as_u64().unwrap() > 0, "{deleted}");
    let usage = a.get("/v1/usage?session=call-1").body;
    assert_eq!(usage["items"][1]["flows"], deleted["usage"]);
}

#[test]
fn what_becomes_of_dscps_is_shown_as_it_was_asked_at_both_ends() {
    let pair = Pair::new();
    let (a, b) = pair.start();
    let body = json!({
        "name": "ab", "peer": "b", "rate_bps": 1_000_000, "burst_bytes": 200_000,
        "dscp_policy": "map", "excess_dscp": 10, "deliver_dscp": 34,
    });
    assert_eq!(a.post("/v1/aggregates", &body).status, 201);
    assert_eq!(a.post("/v1/aggregates", &body).status, 200);
    for node in [&a, &b] {
        let view = node.get("/v1/aggregates/ab").body;
        assert_eq!((&view["dscp_policy"], &view["dscp"]), (&json!("map"), &Value::Null));
        assert_eq!((&view["deliver_dscp_policy"], &view["deliver_dscp"]), (&json!("set"), &json!(34)));
        assert_eq!(view["excess_dscp"], 10);
        assert_eq!(view["payload_bytes_max"], json!({ "ipv4": 1_464, "ipv6": 1_452 }));
    }
    let set = a.post("/v1/aggregates", &aggregate("set", "b", 1_000_000)).body;
    assert_eq!((&set["dscp_policy"], &set["dscp"]), (&json!("set"), &json!(46)));
    assert_eq!((&set["deliver_dscp_policy"], &set["excess_dscp"]), (&json!("copy"), &Value::Null));
}

#[test]
fn nodes_whose_tag_addresses_are_of_different_families_say_so() {
    let site = Site::new();
    let (port_a, port_b) = (free_port(), free_port());
    for name in ["a", "b"] {
        site.certify(name, &[name]);
    }
    let both =
        |toml: String| toml.replace("tag_address = \"192.0.2.1\"", "tag_address = [\"192.0.2.1\", \"2001:db8::1\"]");
    let config_a = config(&both(site.toml("a", 1, port_a, &[("b", 2, port_b)])));
    let ipv6 = site.toml("b", 2, port_b, &[("a", 1, port_a)]).replace("\"192.0.2.", "\"2001:db8::");
    let (plane_a, plane_b) = (FakeDataPlane::default(), FakeDataPlane::default());
    let a = TestNode::start(&config_a, &plane_a);
    let _b = TestNode::start(&config(&ipv6), &plane_b);
    let refused = a.post("/v1/aggregates", &aggregate("ab", "b", 1_000_000));
    assert_eq!(refused.problem(), (409, "tag_family_differs", ""), "{refused:?}");
    eventually("nothing is left", || plane_a.installed() + plane_b.installed() == 0);
    assert_eq!(a.get("/v1/node").body["peers"][0]["tag_address"], "192.0.2.2");
}

#[test]
fn lists_come_in_pages() {
    let pair = Pair::new();
    let (a, _b) = pair.start_with_aggregates();
    let ids = ["s1", "s2", "s3", "s4", "s5"];
    for (id, port) in ids.iter().zip(5_000..) {
        assert_eq!(a.post("/v1/sessions", &session(id, port, 8_000)).status, 201);
    }
    // Ended ones are listed in the same order.
    assert_eq!(a.delete("/v1/sessions/s3").status, 200);
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = a.get(&format!("/v1/sessions?limit=2{after}")).body;
        seen.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(seen, ids);
    let page = a.get("/v1/usage?limit=2").body;
    let next = page["next"].as_str().unwrap();
    assert_eq!(a.get(&format!("/v1/usage?after={next}")).body["items"].as_array().unwrap().len(), 4);
}

#[test]
fn a_restart_keeps_everything() {
    let pair = Pair::new();
    let (a, b) = pair.start_with_aggregates();
    assert_eq!(a.post("/v1/sessions", &session("call-1", 4_000, 80_000)).status, 201);
    let before = (a.get("/v1/sessions/call-1").body, a.get("/v1/aggregates").body);

    drop(a);
    assert_eq!(pair.plane_a.installed(), 4, "stopping leaves the data plane in force");
    let a = TestNode::start(&pair.config_a, &pair.plane_a);
    assert_eq!((a.get("/v1/sessions/call-1").body, a.get("/v1/aggregates").body), before);
    assert_eq!(pair.plane_a.installed(), 4);
    assert_eq!(a.get("/v1/node").body["epoch"], 2);

    // The second side, with its data plane gone meanwhile: all is installed again.
    drop(b);
    pair.plane_b.lose_all();
    let b = TestNode::start(&pair.config_b, &pair.plane_b);
    assert_eq!(b.get("/v1/sessions/call-1").body["state"], "active");
    eventually("all is in force again", || pair.plane_b.installed() == 4);

    // The kept connection to `b` led to its earlier life.
    assert_eq!(a.post("/v1/sessions", &session("call-2", 4_002, 80_000)).status, 201);
    assert_eq!(a.delete("/v1/sessions/call-1").body["state"], "ended");
    assert_eq!(a.delete("/v1/sessions/call-2").body["state"], "ended");
    assert_eq!((pair.plane_a.installed(), pair.plane_b.installed()), (2, 2));
}

#[test]
fn what_the_data_plane_cannot_enforce_or_deliver_is_the_clients_to_change() {
    let pair = Pair::new();
    let (a, b) = pair.start_with_aggregates();
    let detail = "next hop to 10.2.0.10: 10.2.0.10 does not answer ARP".to_owned();
    let error = InstallError { code: "next_hop_unresolved".to_owned(), detail, of_request: true };
    pair.plane_a.fail_installs(Some(error));
    let refused = a.post("/v1/sessions", &session("call-1", 4_000, 80_000));
    assert_eq!((refused.problem().0, refused.problem().1), (422, "not_enforceable"), "{refused:?}");
    assert!(refused.body["detail"].as_str().unwrap().contains("does not answer ARP"), "{refused:?}");
    for node in [&a, &b] {
        eventually("all is given back", || node.get("/v1/aggregates/ab").body["pool"]["used_bps"] == 0);
    }
}

#[test]
fn an_install_that_fails_is_told_and_leaves_nothing() {
    let pair = Pair::new();
    let (a, b) = pair.start_with_aggregates();
    for (id, plane) in [("call-1", &pair.plane_a), ("call-2", &pair.plane_b)] {
        let error = InstallError {
            code: "flow_table_full".to_owned(),
            detail: "the flow table is full".to_owned(),
            of_request: false,
        };
        plane.fail_installs(Some(error));
        let failed = a.post("/v1/sessions", &session(id, 4_000, 80_000));
        assert_eq!((failed.problem().0, failed.problem().1), (500, "install_failed"), "{failed:?}");
        assert!(failed.body["detail"].as_str().unwrap().contains("flow_table_full"), "{failed:?}");
        plane.fail_installs(None);
        for node in [&a, &b] {
            eventually("all is given back", || node.get("/v1/aggregates/ab").body["pool"]["used_bps"] == 0);
        }
        let installed = || (pair.plane_a.installed(), pair.plane_b.installed());
        eventually("only aggregates are in force", || installed() == (2, 2));
    }
    assert_eq!(a.post("/v1/sessions", &session("call-3", 4_000, 80_000)).status, 201);
}

/// Writes a line of the ledger of node A's first life, so that the transaction fails in which the node comes to write it.
fn occupy_ledger_line(pair: &Pair, sequence: u64) {
    std::fs::create_dir_all(&pair.config_a.state_dir).unwrap();
    let mut store = Store::open(&pair.config_a.state_dir.join("turnpike.db"), &pair.config_a.node).unwrap();
    let line = UsageRecord {
        node: pair.config_a.node.clone(),
        epoch: Epoch(1),
        sequence,
        at: Nanos(1),
        kind: UsageKind::Start,
        session: "earlier".parse().unwrap(),
        flows: vec![],
    };
    store.apply(&[Change::AppendUsage(line)]).unwrap();
}

#[test]
fn a_final_reading_that_was_not_recorded_is_read_again_after_the_restart() {
    let pair = Pair::new();
    occupy_ledger_line(&pair, 2);
    let (a, _b) = pair.start_with_aggregates();
    assert_eq!(a.post("/v1/sessions", &session("call-1", 4_000, 80_000)).status, 201);
    let counted = a.get("/v1/sessions/call-1").body["flows"][0]["counters"].clone();
    assert!(counted["offered_packets"].as_u64().unwrap() > 0, "{counted}");
    // The start record was the first line; the final one cannot be written.
    assert_eq!(a.delete("/v1/sessions/call-1").problem(), (503, "stopping", ""));
    assert!(a.failed().contains("the store failed"));
    drop(a);
    assert!(pair.plane_a.ended() > 0, "the readings were thrown away before they were recorded");
    let a = TestNode::start(&pair.config_a, &pair.plane_a);
    eventually("it has ended", || a.get("/v1/sessions/call-1").body["state"] == "ended");
    assert_eq!(a.get("/v1/sessions/call-1").body["flows"][0]["counters"], counted);
    eventually("nothing is kept that is recorded", || pair.plane_a.ended() == 0);
}

#[test]
fn a_store_that_fails_stops_the_node_and_not_the_data_plane() {
    let pair = Pair::new();
    occupy_ledger_line(&pair, 1);

    let (a, _b) = pair.start_with_aggregates();
    let answer = a.post("/v1/sessions", &session("call-1", 4_000, 80_000));
    assert_eq!(answer.problem(), (503, "stopping", ""), "what is not durable is not admitted");
    assert!(a.failed().contains("the store failed"));
    assert!(pair.plane_a.installed() >= 2, "what was in force stays in force");
}

#[test]
fn a_page_of_another_name_is_not_served() {
    let pair = Pair::new();
    let (a, _b) = pair.start();
    let mut stream = TcpStream::connect(a.api).unwrap();
    stream.write_all(b"GET /v1/node HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 421 ") && answer.contains("host_not_allowed"), "{answer}");
}

#[test]
fn bad_bodies_are_refused_with_status_code_and_field() {
    let pair = Pair::new();
    let (a, _b) = pair.start_with_aggregates();
    let good = session("s", 4_000, 8_000);
    let with = |path: &str, value: Value| {
        let mut body = good.clone();
        *body.pointer_mut(path).unwrap() = value;
        body.to_string()
    };
    let without = |key: &str| {
        let mut body = good.clone();
        body["flows"][0].as_object_mut().unwrap().remove(key);
        body.to_string()
    };
    let also = |key: &str, value: Value| {
        let mut body = good.clone();
        body["flows"][0][key] = value;
        body.to_string()
    };
    let sessions = [
        (String::new(), 400, "malformed_body", ""),
        ("{".to_owned(), 400, "malformed_body", ""),
        ("[]".to_owned(), 400, "malformed_body", ""),
        ("\"x\"".to_owned(), 400, "malformed_body", ""),
        (format!("{good} {good}"), 400, "malformed_body", ""),
        (r#"{"id": "s", "id": "s", "flows": []}"#.to_owned(), 400, "malformed_body", "id"),
        (r#"{"id": "s", "flows": [], "color": 1}"#.to_owned(), 400, "unknown_field", "color"),
        (r#"{"id": "s"}"#.to_owned(), 400, "missing_field", "flows"),
        (r#"{"id": "s", "flows": []}"#.to_owned(), 422, "invalid_value", "flows"),
        (also("color", json!(1)), 400, "unknown_field", "flows[0].color"),
        (without("rate_bps"), 400, "missing_field", "flows[0].rate_bps"),
        (with("/id", json!("a b")), 422, "invalid_value", "id"),
        (with("/id", json!("x".repeat(65))), 422, "invalid_value", "id"),
        (with("/id", json!(7)), 422, "invalid_value", "id"),
        (with("/flows", json!({})), 422, "invalid_value", "flows"),
        (with("/flows/0/rate_bps", json!(-1)), 422, "invalid_value", "flows[0].rate_bps"),
        (with("/flows/0/rate_bps", json!(1.5)), 422, "invalid_value", "flows[0].rate_bps"),
        (with("/flows/0/rate_bps", json!("80k")), 422, "invalid_value", "flows[0].rate_bps"),
        (with("/flows/0/rate_bps", json!(0)), 422, "invalid_value", "flows[0].rate_bps"),
        (with("/flows/0/burst_bytes", json!(1_u64 << 32)), 422, "invalid_value", "flows[0].burst_bytes"),
        (with("/flows/0/burst_bytes", json!(0)), 422, "invalid_value", "flows[0].burst_bytes"),
        (with("/flows/0/packet_bytes_min", json!(27)), 422, "invalid_value", "flows[0].packet_bytes_min"),
        (with("/flows/0/source", json!("10.1.0.2")), 422, "invalid_value", "flows[0].source"),
        (with("/flows/0/source", json!("10.1.0.2:0")), 422, "invalid_value", "flows[0].source"),
        (with("/flows/0/source", json!("2001:db8::1:5004")), 422, "invalid_value", "flows[0].source"),
        (with("/flows/0/source", json!("[2001:db8::1]")), 422, "invalid_value", "flows[0].source"),
        (with("/flows/0/source", json!("[::1]:1")), 422, "invalid_value", "flows[0].source"),
        (with("/flows/0/source", json!("[fe80::1%2]:4")), 422, "invalid_value", "flows[0].source"),
        (with("/flows/0/source", json!("[::ffff:10.1.0.2]:4")), 422, "invalid_value", "flows[0].source"),
        (with("/flows/0/source", json!("[2001:db8::1]:4")), 422, "invalid_value", "flows[0].destination"),
        (with("/flows/1/destination", json!("[2001:db8::1]:4")), 422, "invalid_value", "flows[1].destination"),
        (also("rtcp", json!("next")), 422, "invalid_value", "flows[0].rtcp"),
        (also("excess", json!({ "rate_bps": 1 })), 400, "missing_field", "flows[0].excess.burst_bytes"),
        (
            also("excess", json!({ "rate_bps": 1, "burst_bytes": 400, "x": 1 })),
            400,
            "unknown_field",
            "flows[0].excess.x",
        ),
        (
            also("excess", json!({ "rate_bps": 0, "burst_bytes": 400 })),
            422,
            "invalid_value",
            "flows[0].excess.rate_bps",
        ),
        (
            also("excess", json!({ "rate_bps": 1_000_001, "burst_bytes": 400 })),
            422,
            "invalid_value",
            "flows[0].excess.rate_bps",
        ),
        (with("/flows/0/aggregate", json!("none")), 422, "unknown_aggregate", "flows[0].aggregate"),
        (with("/flows/1/id", json!("there")), 422, "invalid_value", "flows[1].id"),
    ];
    for (body, status, code, field) in &sessions {
        let answer = call(a.api, "POST", "/v1/sessions", &["content-type: application/json"], body);
        assert_eq!(answer.problem(), (*status, *code, *field), "{body}\n{answer:?}");
    }
    let aggregates = [
        (aggregate("x", "nobody", 1_000), 422, "unknown_peer", "peer"),
        (aggregate("x", "b", 0), 422, "invalid_value", "rate_bps"),
        (
            json!({ "name": "x", "peer": "b", "rate_bps": 1_000, "burst_bytes": 9_000, "dscp": 64 }),
            422,
            "invalid_value",
            "dscp",
        ),
        (
            json!({ "name": "x", "peer": "b", "rate_bps": 1_000, "burst_bytes": 9_000, "dscp": 256 }),
            422,
            "invalid_value",
            "dscp",
        ),
        (
            json!({ "name": "", "peer": "b", "rate_bps": 1_000, "burst_bytes": 9_000, "dscp": 6 }),
            422,
            "invalid_value",
            "name",
        ),
    ];
    let marked = |more: Value| {
        let mut body = json!({ "name": "x", "peer": "b", "rate_bps": 1_000, "burst_bytes": 9_000 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let markings = [
        (json!({}), 422, "invalid_value", "dscp"),
        (json!({ "dscp": 46, "dscp_policy": "copy" }), 422, "invalid_value", "dscp"),
        (json!({ "dscp_policy": "keep" }), 422, "invalid_value", "dscp_policy"),
        (json!({ "dscp": 46, "excess_dscp": 64 }), 422, "invalid_value", "excess_dscp"),
        (json!({ "dscp": 46, "deliver_dscp_policy": "set" }), 422, "invalid_value", "deliver_dscp"),
        (json!({ "dscp": 46, "deliver": 0 }), 400, "unknown_field", "deliver"),
    ];
    let markings = markings.map(|(more, status, code, field)| (marked(more), status, code, field));
    for (body, status, code, field) in aggregates.iter().chain(&markings) {
        let answer = a.post("/v1/aggregates", body);
        assert_eq!(answer.problem(), (*status, *code, *field), "{body}\n{answer:?}");
    }
    // Nothing has changed by any of this.
    assert_eq!(a.get("/v1/sessions").body["items"], json!([]));
    assert_eq!(pair.plane_a.installed(), 2);
}

#[test]
fn requests_that_are_not_understood_are_problems_too() {
    let pair = Pair::new();
    let (a, _b) = pair.start();
    let json = "content-type: application/json";
    let large = "x".repeat(70_000);
    type Case<'a> = (&'a str, &'a str, &'a [&'a str], &'a str, u16, &'a str);
    let cases: &[Case<'_>] = &[
        ("GET", "/", &[], "", 404, "not_found"),
        ("GET", "/v2/sessions", &[], "", 404, "not_found"),
        ("GET", "/v1/sessions/none", &[], "", 404, "unknown_session"),
        ("DELETE", "/v1/sessions/none", &[], "", 404, "unknown_session"),
        ("GET", "/v1/sessions/a%20b", &[], "", 404, "unknown_session"),
        ("GET", "/v1/sessions/%ff", &[], "", 404, "not_found"),
        ("DELETE", "/v1/aggregates/none", &[], "", 404, "unknown_aggregate"),
        ("PUT", "/v1/sessions", &[], "", 405, "method_not_allowed"),
        ("POST", "/v1/node", &[json], "{}", 405, "method_not_allowed"),
        ("POST", "/v1/sessions", &[json], &large, 413, "body_too_large"),
        ("POST", "/v1/sessions", &[], "{}", 415, "unsupported_media_type"),
        ("POST", "/v1/sessions", &["content-type: text/plain"], "{}", 415, "unsupported_media_type"),
        ("GET", "/v1/sessions?limit=0", &[], "", 422, "invalid_value"),
        ("GET", "/v1/sessions?sort=up", &[], "", 400, "invalid_query"),
        ("GET", "/v1/sessions?session=x", &[], "", 400, "invalid_query"),
        ("GET", "/v1/usage?after=x", &[], "", 422, "invalid_value"),
    ];
    for (method, path, headers, body, status, code) in cases {
        let answer = call(a.api, method, path, headers, body);
        let (found_status, found_code, _) = answer.problem();
        assert_eq!((found_status, found_code), (*status, *code), "{method} {path}: {answer:?}");
    }
    assert_eq!(call(a.api, "PUT", "/v1/node", &[], "").header("allow"), Some("GET,HEAD"));
    for path in ["/v1/health", "/v1/none"] {
        let answer = call(a.api, "GET", path, &["x-correlator: abc-123"], "");
        assert_eq!(answer.header("x-correlator"), Some("abc-123"), "{answer:?}");
    }
    assert_eq!(a.get("/v1/health").body, json!({ "status": "ready" }));
    // With a parameter, and in any case of letters.
    let answer = call(a.api, "POST", "/v1/sessions", &["content-type: Application/JSON; charset=utf-8"], "{");
    assert_eq!(answer.problem().1, "malformed_body");
}

#[test]
fn what_the_data_plane_counts_while_the_node_stops_is_kept() {
    let pair = Pair::new();
    let (a, _b) = pair.start_with_aggregates();
    assert_eq!(a.post("/v1/sessions", &session("call-1", 4_000, 80_000)).status, 201);
    let counted = a.get("/v1/sessions/call-1").body["flows"][0]["counters"].clone();
    assert!(counted["offered_packets"].as_u64().unwrap() > 0, "{counted}");
    pair.plane_a.slow_deinstalls(Duration::from_millis(500));
    let mut stream = TcpStream::connect(a.api).unwrap();
    write!(stream, "DELETE /v1/sessions/call-1 HTTP/1.1\r\nhost: {}\r\n\r\n", a.api).unwrap();
    eventually("the sending flow is out of force", || pair.plane_a.deinstalls() == 1);
    // A client that does not wait, so that nothing holds up the stop.
    drop(stream);
    drop(a);
    pair.plane_a.slow_deinstalls(Duration::ZERO);
    let a = TestNode::start(&pair.config_a, &pair.plane_a);
    eventually("it has ended", || a.get("/v1/sessions/call-1").body["state"] == "ended");
    assert_eq!(a.get("/v1/sessions/call-1").body["flows"][0]["counters"], counted);
}

#[test]
fn a_node_whose_data_plane_thread_dies_does_not_go_on() {
    let pair = Pair::new();
    let (a, _b) = pair.start();
    pair.plane_a.panic_at_status();
    assert_eq!(a.get("/v1/node").problem(), (503, "stopping", ""));
    assert!(a.failed().contains("the data plane's thread has ended"));
}

#[test]
fn an_ended_session_is_answered_without_the_data_plane() {
    let mut pair = Pair::new();
    pair.config_a.limits.request_timeout_s = 1;
    let (a, _b) = pair.start_with_aggregates();
    for (id, port) in [("call-1", 4_000), ("call-2", 4_002)] {
        assert_eq!(a.post("/v1/sessions", &session(id, port, 80_000)).status, 201);
    }
    let deleted = a.delete("/v1/sessions/call-1");
    let deinstalls = pair.plane_a.deinstalls();
    pair.plane_a.slow_deinstalls(Duration::from_millis(1_500));
    std::thread::scope(|scope| {
        scope.spawn(|| a.delete("/v1/sessions/call-2"));
        eventually("the data plane is busy", || pair.plane_a.deinstalls() > deinstalls);
        let again = a.delete("/v1/sessions/call-1");
        assert_eq!((again.status, again.body), (200, deleted.body));
        pair.plane_a.slow_deinstalls(Duration::ZERO);
    });
}

#[test]
fn the_database_is_for_its_owner_only_wherever_it_is() {
    use std::os::unix::fs::PermissionsExt;
    let pair = Pair::new();
    // As a package or a service manager makes it.
    std::fs::create_dir_all(&pair.config_a.state_dir).unwrap();
    std::fs::set_permissions(&pair.config_a.state_dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let _a = TestNode::start(&pair.config_a, &pair.plane_a);
    for file in std::fs::read_dir(&pair.config_a.state_dir).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", file.path());
    }
}

#[test]
fn a_session_that_is_up_is_answered_without_waiting_for_its_counters() {
    let mut pair = Pair::new();
    pair.config_a.limits.request_timeout_s = 1;
    let (a, _b) = pair.start_with_aggregates();
    pair.plane_a.slow_readings(Duration::from_millis(750));
    let created = a.post("/v1/sessions", &session("call-1", 4_000, 80_000));
    assert_eq!(created.status, 201, "{created:?}");
}
