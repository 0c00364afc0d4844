//! Degrade instead of refuse: a policy of the aggregate, which both ends keep.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected is a failed test"
)]

mod pair;

use pair::{A, B, World, aggregate, config, flow, name, reason, refusal, session};
use turnpike_broker::refusal::Reason;
use turnpike_broker::{AggregateRequest, Answer, Config, Request, Schedule, SecondSide, SessionRequest, WhenFull};

/// With `ab` of 1 Mbit/s, which degrades.
fn degrading(configs: [Config; 2]) -> World {
    let mut world = World::with(configs);
    let request = AggregateRequest { when_full: WhenFull::Degrade, ..aggregate("ab", "b", 1_000_000) };
    let answer = world.ask(A, Request::CreateAggregate(request));
    assert!(matches!(answer, Answer::Aggregate { created: true, .. }), "{answer:?}");
    world
}

/// Flows of these rates on `ab`, each content with half of it.
fn ask(id: &str, port: u16, rates_bps: &[u64]) -> SessionRequest {
    let flows = rates_bps.iter().zip(port..).zip(["x", "y", "z"]);
    let flows = flows.map(|((rate_bps, port), id)| flow(id, "ab", (port, port), *rate_bps)).collect();
    SessionRequest {
        media_slots: turnpike_broker::media_slots::MediaSlots::default(),
        priority: turnpike_broker::Priority::LOWEST,
        schedule: Schedule::OPEN,
        id: name(id),
        flows,
    }
}

fn granted(world: &World, node: usize, id: &str) -> Vec<(u64, u64)> {
    let flows = &world.nodes[node].broker.session(&name(id)).unwrap().flows;
    flows.iter().map(|flow| (flow.asked_rate_bps, flow.meter.rate_bps)).collect()
}

#[test]
fn both_ends_have_the_policy_and_tell_it() {
    let mut world = degrading([config(A), config(B)]);
    for node in [A, B] {
        assert_eq!(world.nodes[node].broker.aggregate(&name("ab")).unwrap().when_full, WhenFull::Degrade);
    }
    let other = aggregate("ab", "b", 1_000_000);
    assert_eq!(reason(world.ask(A, Request::CreateAggregate(other))), Reason::AggregateNameReused);
    world.rest();
    world.check_rest();
}

#[test]
fn a_flow_that_does_not_fit_gets_what_is_left_down_to_its_smallest_rate_from_either_side() {
    for first in [A, B] {
        let mut world = degrading([config(A), config(B)]);
        session(world.create(first, ask("s", 5000, &[480_000])));
        let (record, _) = session(world.create(first, ask("t", 5010, &[800_000])));
        // 1 Mbit/s less 499,200 is 500,800 with the tag.
        assert_eq!((record.flows[0].asked_rate_bps, record.flows[0].meter.rate_bps), (800_000, 481_538));
        assert_eq!(
            (granted(&world, A, "t"), granted(&world, B, "t")),
            (vec![(800_000, 481_538)], vec![(800_000, 481_538)])
        );
        let refused = refusal(world.create(first, ask("u", 5020, &[2_000])));
        assert_eq!((refused.reason, refused.pool.unwrap().free_bps), (Reason::PoolRateExhausted, 0));
        let again = session(world.create(first, ask("t", 5010, &[800_000])));
        assert!(!again.1, "the same request is answered the same");
        world.rest();
        world.check_rest();
    }
}

#[test]
fn flows_of_one_session_are_all_lowered_or_all_refused() {
    let mut world = degrading([config(A), config(B)]);
    session(world.create(A, ask("s", 5000, &[400_000])));
    // 584,000 on the wire are left: the first alone would take all of it.
    session(world.create(A, ask("t", 5010, &[600_000, 300_000, 60_000])));
    let rates: Vec<u64> = granted(&world, B, "t").into_iter().map(|(_, rate_bps)| rate_bps).collect();
    assert_eq!(rates, [350_961, 175_480, 35_096], "by what each wants beyond its smallest rate");
    assert_eq!(granted(&world, A, "t"), granted(&world, B, "t"));
    world.delete(A, "t");
    let refused = world.create(A, ask("u", 5020, &[600_000, 600_000]));
    assert_eq!(reason(refused), Reason::PoolRateExhausted, "the smallest rates do not fit");
    assert_eq!(world.pool_used(A, "ab"), 416_000);
    world.rest();
    world.check_rest();
}

#[test]
fn the_second_side_gives_no_more_than_the_first_has() {
    // The second side's pool is emptier: it has not heard that the first's session was given up.
    let mut world = degrading([config(A), config(B)]);
    world.lose("hold");
    let held = world.request(A, Request::CreateSession(ask("held", 5000, &[500_000])));
    world.run(5);
    world.network = pair::perfect();
    let (record, _) = session(world.create(A, ask("t", 5010, &[800_000])));
    assert_eq!(record.flows[0].meter.rate_bps, 461_538);
    assert_eq!(granted(&world, A, "t"), granted(&world, B, "t"));
    assert_eq!(reason(world.wait(A, held)), Reason::PeerUnreachable);
    world.rest();
    world.check_rest();
}

#[test]
fn both_sides_lower() {
    let mut second = config(B);
    second.second_side = SecondSide { flow_rate_bps_max: Some(300_000), ..SecondSide::default() };
    let mut world = degrading([config(A), second]);
    session(world.create(A, ask("s", 5000, &[300_000, 300_000])));
    let (record, _) = session(world.create(A, ask("t", 5010, &[500_000])));
    assert_eq!(record.flows[0].meter.rate_bps, 300_000, "of 361,538");
    world.rest();
    world.check_rest();
}

#[test]
fn a_question_says_what_would_be_granted() {
    let mut world = degrading([config(A), config(B)]);
    session(world.create(A, ask("s", 5000, &[480_000])));
    let Answer::WouldAdmit { record, .. } = world.would_admit(A, ask("t", 5010, &[800_000])) else {
        panic!("not admitted")
    };
    assert_eq!(record.flows[0].meter.rate_bps, 481_538);
    world.rest();
    world.check_rest();
}

#[test]
fn one_that_waits_is_offered_what_is_left_once_that_is_enough() {
    let mut world = degrading([config(A), config(B)]);
    session(world.create(A, ask("s", 5000, &[480_000])));
    session(world.create(A, ask("t", 5010, &[400_000])));
    let request = ask("w", 5020, &[1_000_000]);
    session(world.wait_for(A, request.clone(), 100_000));
    world.delete(A, "s");
    // This side was clean before the other, and asked too early.
    world.run(600);
    let (record, _) = session(world.create(A, request));
    assert_eq!(record.flows[0].meter.rate_bps, 561_538);
    world.rest();
    world.check_rest();
}
