//! Both IP versions, inside and outside, and RTCP on the next ports: what flows cost, and whose the endpoints are.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected is a failed test"
)]

mod pair;

use pair::{A, B, World, aggregate, call, configs, endpoints, flow, name, offer, reason, refusal, session};
use turnpike_broker::address::Family;
use turnpike_broker::message::{PeerAnswer, PeerRequest};
use turnpike_broker::policy::{Policy, Rtcp};
use turnpike_broker::refusal::Reason;
use turnpike_broker::{FlowRequest, Request, Schedule, SessionRequest};

const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

fn call_of(family: Family, id: &str, port: u16, rate_bps: u64) -> SessionRequest {
    let mut request = call(id, port, rate_bps);
    request.flows.iter_mut().for_each(|flow| flow.endpoints = endpoints(family, (port, port)));
    request
}

fn with_rtcp(port: u16) -> FlowRequest {
    FlowRequest { rtcp: Rtcp::NextPort, ..flow("out", "ab", (port, port), 100_000) }
}

fn one(id: &str, flow: FlowRequest) -> SessionRequest {
    SessionRequest {
        priority: turnpike_broker::Priority::LOWEST,
        media_slots: turnpike_broker::media_slots::MediaSlots::default(),
        schedule: Schedule::OPEN,
        id: name(id),
        flows: vec![flow],
    }
}

#[test]
fn a_flow_costs_its_headers_on_the_wire_at_both_ends() {
    for outer in FAMILIES {
        for inner in FAMILIES {
            let mut world = World::connected_with(configs(outer));
            assert!(session(world.create(A, call_of(inner, "s", 5000, 100_000))).1);
            let expected = match (inner, outer) {
                (Family::Ipv4, Family::Ipv6) => 116_000,
                // Longer packets would lose less by the shorter header than 8 of 200 bytes.
                (Family::Ipv6, Family::Ipv4) => 100_000,
                _ => 104_000,
            };
            for (node, pool) in [(A, "ab"), (A, "ba"), (B, "ab"), (B, "ba")] {
                assert_eq!(world.pool_used(node, pool), expected, "{inner} over {outer}");
            }
            world.crash(A);
            world.restart(A);
            assert_eq!(world.pool_used(A, "ab"), expected, "{inner} over {outer}, after a restart");
            world.rest();
            world.check_rest();
        }
    }
}

#[test]
fn an_offer_counts_the_headers_too() {
    let mut world = World::connected_with(configs(Family::Ipv6));
    let refused = refusal(world.create(A, one("s", flow("out", "ab", (5000, 5000), 900_000))));
    // 1,000,000 x 200 / 232.
    assert_eq!((refused.reason, refused.counter_offer_rate_bps), (Reason::PoolRateExhausted, Some(862_068)));
    assert!(session(world.create(A, one("s", flow("out", "ab", (5000, 5000), 862_068)))).1);
    assert_eq!(world.pool_used(B, "ab"), 999_999);
}

#[test]
fn nodes_that_would_count_differently_reserve_nothing() {
    let [a, mut b] = configs(Family::Ipv4);
    b.peers.values_mut().for_each(|peer| peer.tag_family = Family::Ipv6);
    let mut world = World::with([a, b]);
    let refused = refusal(world.ask(A, Request::CreateAggregate(aggregate("ab", "b", 1_000_000))));
    assert_eq!(refused.reason, Reason::TagFamilyDiffers);
    assert!(refused.detail.contains("b has an IPv6 tag address for a"), "{}", refused.detail);
    world.rest();
    world.check_rest();
    assert!(world.nodes[A].plane.is_empty() && world.nodes[B].plane.is_empty());
    let late = world.peer_request(B, 1, PeerRequest::OfferAggregate(offer("ab", 1_000_000, u64::MAX)));
    assert!(matches!(late, PeerAnswer::Refused { refusal } if refusal.reason == Reason::TagFamilyDiffers));
}

#[test]
fn the_same_ports_are_other_endpoints_in_the_other_family() {
    let mut world = World::connected();
    for (id, family) in [("s", Family::Ipv4), ("t", Family::Ipv6)] {
        assert!(session(world.create(A, call_of(family, id, 5000, 100_000))).1);
        assert_eq!(reason(world.create(A, call_of(family, "u", 5000, 100_000))), Reason::EndpointsInUse);
    }
    world.rest();
    world.check_rest();
}

#[test]
fn rtcp_on_the_next_ports_is_part_of_its_flow_and_of_no_other() {
    let mut world = World::connected();
    let (record, _) = session(world.create(A, one("s", with_rtcp(5000))));
    let theirs = world.nodes[B].broker.session(&name("s")).unwrap().flows[0].policy;
    for (node, policy) in [(A, record.flows[0].policy), (B, theirs)] {
        let (Policy::FlowOut { rtcp, .. } | Policy::FlowIn { rtcp, .. }) = &world.nodes[node].plane[&policy] else {
            panic!("not a flow");
        };
        assert_eq!(*rtcp, Rtcp::NextPort);
        assert_eq!(world.pool_used(node, "ab"), 104_000, "RTCP is within the flow's rate");
    }
    assert_eq!(world.nodes[A].broker.tables()[2].used, 1, "one flow");
    for restarted in [false, true] {
        if restarted {
            world.crash(A);
            world.restart(A);
        }
        let refused = refusal(world.create(A, one("t", flow("out", "ab", (5001, 5001), 1_000))));
        assert_eq!(refused.reason, Reason::EndpointsInUse);
        assert_eq!(reason(world.create(A, one("t", flow("out", "ab", (5000, 5000), 1_000)))), Reason::EndpointsInUse);
    }
    assert!(session(world.create(A, one("t", flow("out", "ab", (5001, 5002), 1_000)))).1, "other endpoints are free");
    world.delete(A, "s");
    assert!(session(world.create(A, one("u", flow("out", "ab", (5001, 5001), 1_000)))).1);
    let refused = refusal(world.create(A, one("v", with_rtcp(5000))));
    assert_eq!((refused.reason, refused.field.as_deref()), (Reason::EndpointsInUse, Some("flows[0].source")));
    assert!(refused.detail.contains("10.0.0.1:5001 to 10.0.1.1:5001 (its RTCP)"), "{}", refused.detail);
    world.rest();
    world.check_rest();
}

#[test]
fn flows_of_one_session_do_not_have_each_others_rtcp() {
    let mut world = World::connected();
    let odd = FlowRequest { id: name("odd"), ..flow("odd", "ab", (5001, 5001), 1_000) };
    let request = SessionRequest {
        priority: turnpike_broker::Priority::LOWEST,
        media_slots: turnpike_broker::media_slots::MediaSlots::default(),
        schedule: Schedule::OPEN,
        id: name("s"),
        flows: vec![with_rtcp(5000), odd],
    };
    let refused = refusal(world.create(A, request));
    assert_eq!((refused.reason, refused.field.as_deref()), (Reason::EndpointsInUse, Some("flows[1].source")));
    assert_eq!(world.pool_used(A, "ab"), 0);
}

#[test]
fn a_request_for_rtcp_elsewhere_is_another_request() {
    let mut world = World::connected();
    assert!(session(world.create(A, one("s", with_rtcp(5000)))).1);
    assert!(!session(world.create(A, one("s", with_rtcp(5000)))).1);
    let same_port = flow("out", "ab", (5000, 5000), 100_000);
    assert_eq!(reason(world.create(A, one("s", same_port))), Reason::SessionIdReused);
}
