//! Who may talk to whom, and what becomes of requests when a peer is not there.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};
use support::{FakeDataPlane, Pair, Site, TestNode, aggregate, config, flow, free_port, session};

/// The reason in the node's view of its peer, after a refused aggregate.
fn refused(node: &TestNode, peer: &str) -> String {
    let answer = node.post("/v1/aggregates", &aggregate("x", peer, 1_000));
    assert_eq!(answer.problem(), (504, "peer_unreachable", ""), "{answer:?}");
    let view = node.get("/v1/node").body;
    assert_eq!(view["peers"][0]["reachable"], false);
    view["peers"][0]["error"].as_str().unwrap().to_owned()
}

#[test]
fn a_peer_that_is_not_there_is_named() {
    let pair = Pair::new();
    let a = TestNode::start(&pair.config_a, &pair.plane_a);
    let reason = refused(&a, "b");
    assert!(reason.contains("cannot connect to 127.0.0.1"), "{reason}");
    // Once it is there, the same request works.
    let _b = TestNode::start(&pair.config_b, &pair.plane_b);
    let mut answer = a.post("/v1/aggregates", &aggregate("x", "b", 1_000));
    for _ in 0..50 {
        if answer.status == 201 {
            break;
        }
        // The release of the first try may still be under way.
        std::thread::sleep(Duration::from_millis(100));
        answer = a.post("/v1/aggregates", &aggregate("x", "b", 1_000));
    }
    assert_eq!(answer.status, 201, "{answer:?}");
}

#[test]
fn certificates_of_another_ca_are_refused() {
    let pair = Pair::new();
    let stranger = Site::new();
    stranger.certify("b", &["b"]);
    let mut config_b = pair.config_b.clone();
    let peering = config_b.peering.as_mut().unwrap();
    peering.certificate = stranger.path("b.pem");
    peering.key = stranger.path("b.key");
    peering.ca = stranger.path("ca.pem");
    let a = TestNode::start(&pair.config_a, &pair.plane_a);
    let b = TestNode::start(&config_b, &pair.plane_b);
    let reason = refused(&a, "b");
    assert!(reason.contains("no trusted connection"), "{reason}");
    refused(&b, "a");
    assert_eq!(pair.plane_a.installed() + pair.plane_b.installed(), 0);
}

#[test]
fn a_client_that_names_no_peer_is_refused() {
    // The same CA, but `b` does not know `c`.
    let pair = Pair::new();
    pair.site.certify("c", &["c"]);
    let port_b = pair.config_b.peering.as_ref().unwrap().listen.port();
    let config_c = config(&pair.site.toml("c", 3, free_port(), &[("b", 2, port_b)]));
    let _b = TestNode::start(&pair.config_b, &pair.plane_b);
    let plane_c = FakeDataPlane::default();
    let c = TestNode::start(&config_c, &plane_c);
    refused(&c, "b");
    assert_eq!(pair.plane_b.installed(), 0);
}

#[test]
fn a_client_that_names_several_peers_is_refused() {
    let site = Site::new();
    site.certify("a", &["a", "c"]);
    site.certify("b", &["b"]);
    let (port_a, port_b) = (free_port(), free_port());
    let config_a = config(&site.toml("a", 1, port_a, &[("b", 2, port_b)]));
    let config_b = config(&site.toml("b", 2, port_b, &[("a", 1, port_a), ("c", 3, port_a)]));
    let (plane_a, plane_b) = (FakeDataPlane::default(), FakeDataPlane::default());
    let a = TestNode::start(&config_a, &plane_a);
    let _b = TestNode::start(&config_b, &plane_b);
    refused(&a, "b");
    assert_eq!(plane_b.installed(), 0);
}

#[test]
fn a_server_with_another_nodes_name_is_refused() {
    // At `b`'s address there is `c`, with a certificate of the same CA.
    let pair = Pair::new();
    pair.site.certify("c", &["c"]);
    let port_b = pair.config_b.peering.as_ref().unwrap().listen.port();
    let config_c = config(&pair.site.toml("c", 3, port_b, &[("a", 1, free_port())]));
    let a = TestNode::start(&pair.config_a, &pair.plane_a);
    let _c = TestNode::start(&config_c, &FakeDataPlane::default());
    let reason = refused(&a, "b");
    assert!(reason.contains("not valid for name"), "{reason}");
}

#[test]
fn beyond_the_limit_requests_are_told_to_come_back() {
    let pair = Pair::new();
    let mut config_a = pair.config_a.clone();
    config_a.limits.requests_max = 1;
    // A peer that accepts connections and says nothing.
    let silent = TcpListener::bind(pair.config_b.peering.as_ref().unwrap().listen).unwrap();
    let a = TestNode::start(&config_a, &pair.plane_a);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| a.post("/v1/aggregates", &aggregate("x", "b", 1_000)));
        let (_stream, _) = silent.accept().unwrap();
        let answer = a.post("/v1/aggregates", &aggregate("y", "b", 1_000));
        assert_eq!(answer.problem(), (503, "overloaded", ""));
        assert_eq!(answer.header("retry-after"), Some("1"));
        let waited = waiting.join().unwrap();
        assert_eq!(waited.problem().1, "peer_unreachable");
        assert!(waited.body["detail"].as_str().unwrap().contains("no answer within"), "{waited:?}");
    });
}

#[test]
fn sessions_of_many_clients_at_once_all_come_up() {
    let pair = Pair::new();
    let (a, b) = pair.start_with_aggregates();
    std::thread::scope(|scope| {
        for client in 0..4_u16 {
            let (a, b) = (&a, &b);
            scope.spawn(move || {
                for call in 0..10 {
                    let node = if call % 2 == 0 { a } else { b };
                    let id = format!("call-{client}-{call}");
                    let answer = node.post("/v1/sessions", &session(&id, 6_000 + client * 10 + call, 8_000));
                    assert_eq!(answer.status, 201, "{answer:?}");
                }
            });
        }
    });
    assert_eq!((pair.plane_a.installed(), pair.plane_b.installed()), (82, 82));
    for client in 0..4 {
        for call in 0..10 {
            let node = if call % 3 == 0 { &a } else { &b };
            assert_eq!(node.delete(&format!("/v1/sessions/call-{client}-{call}")).status, 200);
        }
    }
    assert_eq!((pair.plane_a.installed(), pair.plane_b.installed()), (2, 2));
}

#[test]
fn more_requests_than_a_peer_takes_at_once_wait_for_their_turn() {
    let mut pair = Pair::new();
    pair.config_a.limits.requests_max = 1_000;
    pair.config_b.limits.requests_max = 1_000;
    let (a, _b) = pair.start_with_aggregates();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..400_u16)
            .map(|call| {
                let a = &a;
                let body = json!({ "id": format!("call-{call}"), "flows": [small_flow(5_000 + call)] });
                scope.spawn(move || a.post("/v1/sessions", &body).status)
            })
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert_eq!(statuses, [201; 400]);
}

fn small_flow(port: u16) -> Value {
    let mut flow = flow("there", "ab", port, 1_000);
    flow["burst_bytes"] = json!(200);
    flow
}

#[test]
fn a_node_that_cannot_start_says_why() {
    let pair = Pair::new();
    let first = TestNode::start(&pair.config_a, &pair.plane_a);
    let error = TestNode::try_start(&pair.config_a, &pair.plane_a).err().unwrap();
    assert!(error.contains("api.listen: cannot listen on"), "{error}");
    let mut elsewhere = pair.config_a.clone();
    elsewhere.api.listen.set_port(free_port());
    elsewhere.peering.as_mut().unwrap().listen.set_port(free_port());
    let error = TestNode::try_start(&elsewhere, &pair.plane_a).err().unwrap();
    assert!(error.contains("turnpike.db is in use by another process"), "{error}");
    drop(first);
    elsewhere.peering.as_mut().unwrap().certificate = pair.site.path("b.pem");
    let error = TestNode::try_start(&elsewhere, &pair.plane_a).err().unwrap();
    assert!(error.contains("do not contain this node's name, a"), "{error}");
}
