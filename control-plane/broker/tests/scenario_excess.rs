//! Excess (RFC 4115): asked for beyond a flow's own rate, reserved nowhere, and the second side's to lower or to remove.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected is a failed test"
)]

mod pair;

use pair::{A, B, World, config, flow, name, reason, session};
use turnpike_broker::policy::{Excess, Policy};
use turnpike_broker::refusal::Reason;
use turnpike_broker::{Schedule, SecondSide, SessionRequest};

const ASKED: Excess = Excess { rate_bps: 900_000, burst_bytes: 600 };

fn one(id: &str, port: u16, rate_bps: u64, excess: Option<Excess>) -> SessionRequest {
    let mut flow = flow("out", "ab", (port, port), rate_bps);
    flow.meter.excess = excess;
    SessionRequest {
        priority: turnpike_broker::Priority::LOWEST,
        media_slots: turnpike_broker::media_slots::MediaSlots::default(),
        schedule: Schedule::OPEN,
        id: name(id),
        flows: vec![flow],
    }
}

fn world_that_grants(flow_excess_rate_bps_max: Option<u64>) -> World {
    let mut second = config(B);
    second.second_side = SecondSide { flow_excess_rate_bps_max, ..SecondSide::default() };
    World::connected_with([config(A), second])
}

#[test]
fn only_the_flows_own_rate_is_reserved() {
    let mut world = World::connected();
    // Together 1.8 Mbit/s of excess on an aggregate of 1 Mbit/s, all of which is given away beside it.
    for (id, port) in [("s", 5000), ("t", 5001)] {
        assert!(session(world.create(A, one(id, port, 100_000, Some(ASKED)))).1);
    }
    assert_eq!((world.pool_used(A, "ab"), world.pool_used(B, "ab")), (208_000, 208_000));
    assert!(session(world.create(A, one("u", 5002, 761_538, None))).1);
    assert_eq!(reason(world.create(A, one("v", 5003, 1_000, Some(ASKED)))), Reason::PoolRateExhausted);
    world.rest();
    world.check_rest();
}

#[test]
fn the_second_sides_excess_counts_on_both_sides() {
    let lowered = Excess { rate_bps: 50_000, ..ASKED };
    for (most, granted) in [(None, Some(ASKED)), (Some(50_000), Some(lowered)), (Some(0), None)] {
        let mut world = world_that_grants(most);
        let (record, _) = session(world.create(A, one("s", 5000, 100_000, Some(ASKED))));
        assert_eq!((record.flows[0].asked_excess, record.flows[0].meter.excess), (Some(ASKED), granted));
        let theirs = world.nodes[B].broker.session(&name("s")).unwrap().flows[0].clone();
        assert_eq!(theirs.meter, record.flows[0].meter);
        for (node, policy) in [(A, record.flows[0].policy), (B, theirs.policy)] {
            let (Policy::FlowOut { meter, .. } | Policy::FlowIn { meter, .. }) = &world.nodes[node].plane[&policy]
            else {
                panic!("not a flow");
            };
            assert_eq!(meter.excess, granted, "in force at both ends");
        }
        let (again, created) = session(world.create(A, one("s", 5000, 100_000, Some(ASKED))));
        assert_eq!((again, created), (record, false));
        world.crash(B);
        world.restart(B);
        world.rest();
        world.check_rest();
    }
}

#[test]
fn a_request_with_other_excess_is_another_request() {
    let mut world = World::connected();
    assert!(session(world.create(A, one("s", 5000, 100_000, Some(ASKED)))).1);
    let others = [None, Some(Excess { rate_bps: 1, ..ASKED }), Some(Excess { burst_bytes: 601, ..ASKED })];
    for other in others {
        assert_eq!(reason(world.create(A, one("s", 5000, 100_000, other))), Reason::SessionIdReused);
    }
}

#[test]
fn a_second_side_gives_no_excess_where_none_is_asked() {
    let mut world = world_that_grants(Some(50_000));
    let (record, _) = session(world.create(A, one("s", 5000, 100_000, None)));
    assert_eq!(record.flows[0].meter.excess, None);
}

#[test]
fn usage_tells_what_passed_in_excess_on_both_sides() {
    let mut world = World::connected();
    world.create(A, one("s", 5000, 100_000, Some(ASKED)));
    let (ended, _) = session(world.delete(A, "s"));
    assert_eq!(ended.usage.len(), 2);
    for usage in &ended.usage {
        let counters = usage.counters.unwrap();
        assert!(counters.excess_packets > 0 && counters.excess_bytes > 0, "{usage:?}");
    }
    let last = world.nodes[A].store.ledger.last().unwrap();
    assert_eq!(last.flows, ended.usage);
}
