//! What nodes can do as a whole: forwarding capacity, and media-processing slots at either side, held with a session's bandwidth or not at all
//! (R-000-2, R-002-14).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected is a failed test"
)]

mod pair;

use pair::{A, B, MS, World, aggregate, call, config, flow, hold_flow, name, reason, refusal, session};
use turnpike_broker::media_slots::{MediaSlots, SlotCounts};
use turnpike_broker::message::{PeerAnswer, PeerRequest};
use turnpike_broker::name::Nanos;
use turnpike_broker::record::SessionState;
use turnpike_broker::refusal::Reason;
use turnpike_broker::{Answer, Capacity, Request, Schedule, SecondSide, SessionRequest};

fn counts(of: &[(&str, u32)]) -> SlotCounts {
    of.iter().map(|(slot, count)| (name(slot), *count)).collect()
}

/// `a` can forward 1.5 Mbit/s and has four transcoders, `b` has two, and a mixer.
fn world_with(second_side: SecondSide) -> World {
    let [mut first, mut second] = [config(A), config(B)];
    first.capacity = Capacity { rate_bps: Some(1_500_000), media_slots: counts(&[("transcoding", 4)]) };
    second.capacity = Capacity { rate_bps: None, media_slots: counts(&[("transcoding", 2), ("mixing", 1)]) };
    second.second_side = second_side;
    World::connected_with([first, second])
}

fn world() -> World {
    world_with(SecondSide::default())
}

fn with_slots(request: SessionRequest, first: &[(&str, u32)], second: &[(&str, u32)]) -> SessionRequest {
    SessionRequest { media_slots: MediaSlots { first: counts(first), second: counts(second) }, ..request }
}

/// A call that costs 104 kbit/s each way, and slots.
fn small(id: &str, port: u16, first: &[(&str, u32)], second: &[(&str, u32)]) -> SessionRequest {
    with_slots(call(id, port, 100_000), first, second)
}

/// How many of each are used at a node, in the order of names, and what it forwards.
fn used(world: &World, node: usize) -> (Vec<u64>, Option<u64>) {
    let broker = &world.nodes[node].broker;
    (broker.media_slots().map(|state| state.used_slots).collect(), broker.node_capacity().map(|state| state.used_bps))
}

#[test]
fn slots_are_held_at_their_side_with_the_bandwidth_and_given_back() {
    let mut world = world();
    let request = small("s", 5_000, &[("transcoding", 3)], &[("mixing", 1), ("transcoding", 1)]);
    let (record, created) = session(world.create(A, request.clone()));
    assert!(created && record.media_slots == request.media_slots);
    assert_eq!((used(&world, A), used(&world, B)), ((vec![3], Some(208_000)), (vec![1, 1], None)));
    // The same request is answered the same, and one with other slots is another.
    assert_eq!(session(world.create(A, request.clone())), (record, false));
    let other = small("s", 5_000, &[("transcoding", 2)], &[("mixing", 1), ("transcoding", 1)]);
    assert_eq!(reason(world.create(A, other)), Reason::SessionIdReused);
    for node in [A, B] {
        world.crash(node);
        world.restart(node);
    }
    world.rest();
    assert_eq!((used(&world, A), used(&world, B)), ((vec![3], Some(208_000)), (vec![1, 1], None)));
    world.check_rest();
    session(world.delete(B, "s"));
    world.rest();
    assert_eq!((used(&world, A), used(&world, B)), ((vec![0], Some(0)), (vec![0, 0], None)));
    world.check_rest();
}

#[test]
fn slots_that_are_not_enough_refuse_at_either_side_and_hold_nothing() {
    let mut world = world();
    let ends = world.schedule(None, Some(50_000));
    session(
        world
            .create(A, SessionRequest { schedule: ends, ..small("s", 5_000, &[("transcoding", 3)], &[("mixing", 1)]) }),
    );
    let end = ends.ends_at.unwrap();
    let before = (used(&world, A), used(&world, B), world.pool_used(A, "ab"), world.pool_used(B, "ba"));
    let cases = [
        (small("t", 5_002, &[("transcoding", 2)], &[]), "transcoding", "a", "media_slots.first.transcoding", (4, 3, 1)),
        (
            small("t", 5_002, &[("transcoding", 1)], &[("mixing", 1)]),
            "mixing",
            "b",
            "media_slots.second.mixing",
            (1, 1, 0),
        ),
    ];
    for (request, slot, node, field, numbers) in cases {
        for refused in [world.would_admit(A, request.clone()), world.create(A, request)] {
            let refused = refusal(refused);
            assert_eq!((refused.reason, refused.field.as_deref()), (Reason::MediaSlotsExhausted, Some(field)));
            let state = refused.media_slots.unwrap();
            assert_eq!((state.name.as_str(), state.node.as_str(), state.fits_at), (slot, node, Some(end)));
            assert_eq!((state.capacity_slots, state.used_slots, state.free_slots), numbers);
            assert!(refused.pool.is_none() && refused.counter_offer_rate_bps.is_none());
        }
        assert_eq!((used(&world, A), used(&world, B), world.pool_used(A, "ab"), world.pool_used(B, "ba")), before);
    }
    // Afterwards they are free, and nobody has more than there are.
    let after = |start| Schedule { starts_at: start, ends_at: None };
    session(
        world.create(A, SessionRequest { schedule: after(Some(end)), ..small("t", 5_002, &[("transcoding", 4)], &[]) }),
    );
    assert_eq!(
        refusal(world.create(A, small("u", 5_004, &[("transcoding", 5)], &[]))).media_slots.unwrap().fits_at,
        None
    );
}

#[test]
fn slots_that_no_node_has_and_none_at_all_are_refused_by_field() {
    let mut world = world();
    let cases = [
        (small("s", 5_000, &[("mixing", 1)], &[]), Reason::UnknownMediaSlots, "media_slots.first.mixing"),
        (small("s", 5_000, &[], &[("dubbing", 1)]), Reason::UnknownMediaSlots, "media_slots.second.dubbing"),
        (small("s", 5_000, &[("transcoding", 0)], &[]), Reason::InvalidValue, "media_slots.first.transcoding"),
        (small("s", 5_000, &[], &[("mixing", 0)]), Reason::InvalidValue, "media_slots.second.mixing"),
    ];
    for (request, reason, field) in cases {
        let refused = refusal(world.create(A, request));
        assert_eq!((refused.reason, refused.field.as_deref()), (reason, Some(field)), "{refused:?}");
    }
    world.rest();
    assert_eq!((used(&world, A), used(&world, B)), ((vec![0], Some(0)), (vec![0, 0], None)));
    world.check_rest();
}

#[test]
fn every_flow_counts_on_what_the_node_can_forward() {
    let mut world = world();
    for more in ["x", "y"] {
        let answer = world.ask(A, Request::CreateAggregate(aggregate(more, "b", 1_000_000)));
        assert!(matches!(answer, Answer::Aggregate { .. }), "{answer:?}");
    }
    // 1.04 Mbit/s on the wire, of 1.5.
    session(world.create(A, call("s", 5_000, 500_000)));
    assert_eq!(used(&world, A).1, Some(1_040_000));
    for asker in [A, B] {
        let refused = refusal(world.create(asker, call("t", 5_002, 400_000)));
        let pool = refused.pool.unwrap();
        assert_eq!(
            (refused.reason, pool.name.as_str(), pool.node.as_str()),
            (Reason::NodeCapacityExhausted, "node", "a")
        );
        assert_eq!((pool.capacity_bps, pool.fits_at), (1_500_000, None));
        // With the first flow held: 460 - 416 kbit/s on the wire.
        assert_eq!((refused.counter_offer_rate_bps, pool.free_bps), (Some(42_307), 44_000));
    }
    assert_eq!(used(&world, A).1, Some(1_040_000));
    let mut request = call("t", 5_002, 221_153);
    session(world.create(A, request.clone()));
    assert_eq!(used(&world, A).1, Some(1_040_000 + 2 * 230_000));
    request.id = name("u");
    assert_eq!(reason(world.would_admit(B, call("u", 5_004, 1_000))), Reason::NodeCapacityExhausted);
    session(world.delete(A, "s"));
    session(world.create(B, call("u", 5_004, 400_000)));
    world.rest();
    world.check_rest();
}

#[test]
fn a_second_side_lowers_to_what_the_node_can_forward() {
    let [first, mut second] = [config(A), config(B)];
    second.capacity.rate_bps = Some(700_000);
    second.second_side = SecondSide { lower_to_fit: true, ..SecondSide::default() };
    let mut world = World::connected_with([first, second]);
    let (record, _) = session(world.create(A, call("s", 5_000, 400_000)));
    // 416 kbit/s of the 700 are the first flow's.
    assert_eq!(record.flows.iter().map(|flow| flow.meter.rate_bps).collect::<Vec<_>>(), [400_000, 273_076]);
    assert_eq!(used(&world, B).1, Some(700_000));
}

#[test]
fn one_that_waits_for_a_slot_or_for_the_node_is_called_when_there_is_one() {
    let mut world = world();
    session(world.create(A, small("s", 5_000, &[("transcoding", 4)], &[("mixing", 1)])));
    let first = small("w", 5_002, &[("transcoding", 1)], &[]);
    let second = small("x", 5_004, &[], &[("mixing", 1)]);
    for request in [&first, &second] {
        assert_eq!(session(world.wait_for(A, request.clone(), 100_000)).0.state, SessionState::Waiting);
    }
    // What not even free slots would do for is refused.
    let refused = refusal(world.wait_for(A, small("y", 5_006, &[("transcoding", 5)], &[]), 100_000));
    assert_eq!(refused.reason, Reason::MediaSlotsExhausted);
    session(world.delete(A, "s"));
    world.run(40_000);
    for request in [first, second] {
        let id = request.id.as_str().to_owned();
        let state = world.nodes[A].broker.session(&request.id).map(|record| record.failure.clone().map(|f| f.reason));
        assert_eq!(state, Some(Some(Reason::OfferLapsed)), "{id} was offered");
    }
    // The node's own capacity.
    session(world.create(A, call("s2", 5_000, 700_000)));
    let request = call("w2", 5_002, 60_000);
    assert_eq!(session(world.wait_for(A, request.clone(), 100_000)).0.state, SessionState::Waiting);
    session(world.delete(A, "s2"));
    world.run(100);
    assert_eq!(world.state(A, "w2"), Some(SessionState::Offered));
    session(world.create(A, request));
    session(world.delete(A, "w2"));
    world.rest();
    world.check_rest();
}

#[test]
fn a_later_end_needs_the_slots_for_longer_and_an_earlier_one_gives_them_back() {
    let mut world = world();
    let schedule = |world: &World, start, end| world.schedule(start, end);
    let ends = schedule(&world, None, Some(10_000));
    session(
        world
            .create(A, SessionRequest { schedule: ends, ..small("s", 5_000, &[("transcoding", 3)], &[("mixing", 1)]) }),
    );
    let next = schedule(&world, Some(20_000), Some(30_000));
    session(world.create(A, SessionRequest { schedule: next, ..small("t", 5_002, &[], &[("mixing", 1)]) }));
    let end = |world: &World, ms: u64| Some(world.clock(A).plus(Nanos(ms * MS)));
    let (fits, too_late) = (next.starts_at, next.starts_at.map(|start| start.plus(Nanos(MS))));
    let refused = refusal(world.change_end(A, "s", too_late));
    assert_eq!((refused.reason, refused.field.as_deref()), (Reason::MediaSlotsExhausted, Some("ends_at")));
    session(world.change_end(A, "s", fits));
    let within = schedule(&world, Some(15_000), Some(16_000));
    let wish = |id: &str, port| SessionRequest { schedule: within, ..small(id, port, &[("transcoding", 2)], &[]) };
    assert_eq!(reason(world.create(A, wish("u", 5_004))), Reason::MediaSlotsExhausted);
    let earlier = end(&world, 12_000);
    session(world.change_end(A, "s", earlier));
    session(world.create(A, wish("u", 5_004)));
    world.rest();
    assert_eq!((used(&world, A), used(&world, B)), ((vec![0], Some(0)), (vec![0, 0], None)));
    world.check_rest();
}

#[test]
fn a_restart_with_fewer_slots_keeps_what_runs_and_gives_none_until_enough_are_back() {
    let mut world = world();
    session(world.create(A, small("s", 5_000, &[("transcoding", 3)], &[])));
    world.crash(A);
    world.nodes[A].was_shrunk = true;
    world.nodes[A].config.capacity = Capacity { rate_bps: Some(100_000), media_slots: counts(&[("transcoding", 1)]) };
    world.restart(A);
    world.rest();
    assert_eq!((world.state(A, "s"), used(&world, A)), (Some(SessionState::Active), (vec![3], Some(208_000))));
    assert_eq!(reason(world.create(A, call("t", 5_002, 1_000))), Reason::NodeCapacityExhausted);
    session(world.delete(A, "s"));
    session(world.create(A, with_slots(call("t", 5_002, 1_000), &[("transcoding", 1)], &[])));
    // Names that are gone from the configuration are no reason to stop.
    world.crash(A);
    world.nodes[A].config.capacity = Capacity::default();
    world.restart(A);
    session(world.delete(A, "t"));
    world.rest();
    world.check_rest();
}

#[test]
fn one_that_waits_for_what_the_node_can_forward_gets_its_turn() {
    let mut world = world();
    let answer = world.ask(A, Request::CreateAggregate(aggregate("x", "b", 2_000_000)));
    assert!(matches!(answer, Answer::Aggregate { .. }), "{answer:?}");
    let one_way = |id: &str, port, rate_bps, carrier: &str| {
        let mut request = call(id, port, rate_bps);
        request.flows.truncate(1);
        request.flows[0].aggregate = name(carrier);
        request
    };
    session(world.create(A, one_way("full", 5_000, 900_000, "x")));
    assert_eq!(session(world.wait_for(A, one_way("w", 5_002, 700_000, "ab"), 100_000)).0.state, SessionState::Waiting);
    // There is room for these on another aggregate, and all of them take of what it waits for.
    for number in 0..8 {
        session(world.create(A, one_way(&format!("s{number}"), 5_010 + number, 10_000, "x")));
    }
    let ninth = session(world.wait_for(A, one_way("ninth", 5_030, 10_000, "x"), 100_000)).0;
    assert_eq!(ninth.state, SessionState::Waiting);
    session(world.delete(A, "full"));
    world.run(100);
    assert_eq!(world.state(A, "w"), Some(SessionState::Offered));
    assert_eq!(world.state(A, "ninth"), Some(SessionState::Offered));
}

#[test]
fn a_hold_with_other_slots_is_another_session() {
    let mut world = world();
    let now = world.clock(B);
    let hold = |attempt, media_slots| PeerRequest::HoldSession {
        session: name("s"),
        attempt,
        schedule: Schedule::OPEN,
        priority: turnpike_broker::Priority::LOWEST,
        preempting: Vec::new(),
        sent_at: now,
        offer: false,
        media_slots,
        flows: vec![hold_flow(flow("out", "ab", (5_000, 5_000), 100_000))],
    };
    let answer = world.peer_request(B, 1, hold(1, counts(&[("mixing", 1)])));
    assert!(matches!(answer, PeerAnswer::Held { .. }), "{answer:?}");
    for (attempt, other) in [(2, counts(&[])), (3, counts(&[("mixing", 1), ("transcoding", 1)]))] {
        let answer = world.peer_request(B, 1, hold(attempt, other));
        assert!(matches!(&answer, PeerAnswer::Refused { refusal } if refusal.reason == Reason::SessionIdReused));
    }
    assert!(matches!(world.peer_request(B, 1, hold(4, counts(&[("mixing", 1)]))), PeerAnswer::Held { .. }));
    assert_eq!(used(&world, B).0, [1, 0]);
}
