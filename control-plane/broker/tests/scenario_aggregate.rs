//! Aggregates: reserved at both ends or at none.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected is a failed test"
)]

mod pair;

use pair::{A, B, World, aggregate, call, config, name, offer, perfect, reason, refusal};
use turnpike_broker::message::{Offer, PeerAnswer, PeerRequest};
use turnpike_broker::policy::{Dscp, DscpPolicy, Marking, Policy};
use turnpike_broker::record::{AggregateState, Direction};
use turnpike_broker::refusal::Reason;
use turnpike_broker::{AggregateRequest, Answer, Limits, Link, Request};

fn create(world: &mut World, request: AggregateRequest) -> Answer {
    world.ask(A, Request::CreateAggregate(request))
}

fn link_used(world: &World, node: usize) -> (u64, u64) {
    let (_, out, into) = world.nodes[node].broker.links().next().unwrap();
    (out.used_bps, into.used_bps)
}

#[test]
fn an_aggregate_is_answered_once_both_ends_are_installed() {
    let mut world = World::new();
    let Answer::Aggregate { record, created: true } = create(&mut world, aggregate("ab", "b", 1_000_000)) else {
        panic!("refused");
    };
    assert_eq!((record.state, record.direction), (AggregateState::Active, Direction::Out));
    assert_eq!((world.nodes[A].plane.len(), world.nodes[B].plane.len()), (1, 1));
    assert_eq!(world.nodes[B].broker.aggregate(&name("ab")).unwrap().direction, Direction::In);
    assert_eq!((link_used(&world, A), link_used(&world, B)), ((1_000_000, 0), (0, 1_000_000)));
    let pool = world.nodes[A].broker.pool(&name("ab")).unwrap();
    assert_eq!((pool.capacity_bps, pool.burst_capacity_bytes, pool.used_bps), (1_000_000, 10_000, 0));
    world.rest();
    world.check_rest();
}

#[test]
fn repeating_a_request_gives_the_same_aggregate_and_changing_it_is_refused() {
    let mut world = World::new();
    let first = create(&mut world, aggregate("ab", "b", 1_000_000));
    let second = create(&mut world, aggregate("ab", "b", 1_000_000));
    let (Answer::Aggregate { record, .. }, Answer::Aggregate { record: again, created: false }) = (first, second)
    else {
        panic!("not the same");
    };
    assert_eq!(record, again);
    assert_eq!(reason(create(&mut world, aggregate("ab", "b", 1_000_001))), Reason::AggregateNameReused);
    let dscp = AggregateRequest { dscp: Some(0), ..aggregate("ab", "b", 1_000_000) };
    assert_eq!(reason(create(&mut world, dscp)), Reason::AggregateNameReused);
    let from_receiver = world.ask(B, Request::CreateAggregate(aggregate("ab", "a", 1_000_000)));
    assert_eq!(reason(from_receiver), Reason::AggregateNameReused);
}

#[test]
fn what_becomes_of_dscps_is_said_by_the_sender_and_in_force_at_both_ends() {
    let mut world = World::new();
    let request = AggregateRequest {
        dscp_policy: Some(DscpPolicy::Map),
        dscp: None,
        excess_dscp: Some(10),
        deliver_dscp: Some(34),
        ..aggregate("ab", "b", 1_000_000)
    };
    assert!(matches!(create(&mut world, request.clone()), Answer::Aggregate { created: true, .. }));
    let policy = |node: usize| world.nodes[node].plane.values().next().unwrap().clone();
    let [out, into] = [A, B].map(policy);
    assert!(matches!(out, Policy::AggregateOut { dscp: Dscp::Map, excess_dscp: Some(10), .. }), "{out:?}");
    assert!(matches!(into, Policy::AggregateIn { dscp: Dscp::Set(34), .. }), "{into:?}");
    assert!(matches!(create(&mut world, request.clone()), Answer::Aggregate { created: false, .. }));
    let others = [
        AggregateRequest { excess_dscp: None, ..request.clone() },
        AggregateRequest { deliver_dscp: None, ..request.clone() },
        AggregateRequest { dscp_policy: Some(DscpPolicy::Copy), ..request },
    ];
    for other in others {
        assert_eq!(reason(create(&mut world, other)), Reason::AggregateNameReused);
    }
    world.crash_host(B);
    world.restart(B);
    world.rest();
    world.check_rest();
    assert_eq!(*world.nodes[B].plane.values().next().unwrap(), into, "after a restart, too");
}

#[test]
fn a_peers_offer_is_checked_as_a_clients_request_is() {
    let mut world = World::new();
    let marking = offer("ab", 1_000_000, 1).marking;
    let bad = [
        ("dscp", Marking { dscp: Dscp::Set(64), ..marking }),
        ("excess_dscp", Marking { excess_dscp: Some(64), ..marking }),
        ("deliver_dscp", Marking { deliver_dscp: Dscp::Set(64), ..marking }),
    ];
    for ((field, marking), attempt) in bad.into_iter().zip(1..) {
        let offer = Offer { marking, ..offer("ab", 1_000_000, attempt) };
        let PeerAnswer::Refused { refusal } = world.peer_request(B, 1, PeerRequest::OfferAggregate(offer)) else {
            panic!("taken");
        };
        assert_eq!((refusal.reason, refusal.field.as_deref()), (Reason::InvalidValue, Some(field)));
    }
    assert_eq!(world.nodes[B].broker.aggregates().count(), 0);
}

#[test]
fn a_request_while_the_same_is_under_way_is_busy() {
    let mut world = World::new();
    let first = world.request(A, Request::CreateAggregate(aggregate("ab", "b", 1_000_000)));
    assert_eq!(reason(create(&mut world, aggregate("ab", "b", 1_000_000))), Reason::Busy);
    assert!(matches!(world.wait(A, first), Answer::Aggregate { created: true, .. }));
}

#[test]
fn bad_values_are_refused_with_field_value_and_range_and_change_nothing() {
    let good = aggregate("ab", "b", 1_000_000);
    let cases = [
        (AggregateRequest { rate_bps: 999, ..good.clone() }, Reason::InvalidValue, "rate_bps", "999"),
        (
            AggregateRequest { rate_bps: 10_000_001, ..good.clone() },
            Reason::InvalidValue,
            "rate_bps",
            "1000 to 10000000",
        ),
        (AggregateRequest { burst_bytes: Some(2_999), ..good.clone() }, Reason::InvalidValue, "burst_bytes", "3000"),
        (AggregateRequest { dscp: Some(64), ..good.clone() }, Reason::InvalidValue, "dscp", "0 to 63"),
        (AggregateRequest { peer: name("c"), ..good }, Reason::UnknownPeer, "peer", "c"),
    ];
    let mut world = World::new();
    for (request, reason, field, text) in cases {
        let refusal = refusal(create(&mut world, request));
        assert_eq!((refusal.reason, refusal.field.as_deref()), (reason, Some(field)));
        assert!(refusal.detail.contains(text), "{}", refusal.detail);
    }
    assert_eq!(world.nodes[A].broker.aggregates().count(), 0);
    assert_eq!(world.nodes[A].broker.refusals()[&Reason::InvalidValue], 4);
    world.rest();
    world.check_rest();
}

#[test]
fn aggregates_together_never_exceed_the_link_in_either_direction() {
    let mut world = World::new();
    create(&mut world, aggregate("ab", "b", 7_000_000));
    let refused = refusal(create(&mut world, aggregate("ab2", "b", 4_000_000)));
    assert_eq!((refused.reason, refused.counter_offer_rate_bps), (Reason::LinkExhausted, Some(3_000_000)));
    assert_eq!(refused.pool.unwrap().free_bps, 3_000_000);

    let mut small = config(B);
    small.links.insert(name("wan0"), Link { rate_out_bps: 10_000_000, rate_in_bps: 8_000_000 });
    let mut world = World::with([config(A), small]);
    create(&mut world, aggregate("ab", "b", 7_000_000));
    let refused = refusal(create(&mut world, aggregate("ab2", "b", 2_000_000)));
    assert_eq!((refused.reason, refused.counter_offer_rate_bps), (Reason::LinkExhausted, Some(1_000_000)));
    assert_eq!(refused.pool.unwrap().node, "b");
    assert_eq!(link_used(&world, A), (7_000_000, 0));
    world.rest();
    world.check_rest();
}

#[test]
fn the_number_of_aggregates_is_bounded_and_counted() {
    let mut small = config(A);
    small.limits = Limits { aggregates_max: 1, ..small.limits };
    let mut world = World::with([small, config(B)]);
    create(&mut world, aggregate("ab", "b", 1_000_000));
    let refused = refusal(create(&mut world, aggregate("ab2", "b", 1_000_000)));
    assert_eq!(refused.reason, Reason::LimitReached);
    assert!(refused.detail.contains("allows 1"), "{}", refused.detail);
    let table = world.nodes[A].broker.tables()[0];
    assert_eq!((table.name, table.used, table.max, table.full), ("aggregates", 1, 1, 1));
}

#[test]
fn a_failed_installation_at_either_end_undoes_both() {
    for failing in [A, B] {
        let mut world = World::new();
        world.nodes[failing].install_failures = 1;
        let refused = refusal(create(&mut world, aggregate("ab", "b", 1_000_000)));
        assert_eq!(refused.reason, Reason::InstallFailed);
        assert!(refused.detail.contains("flow_table_full"), "{}", refused.detail);
        world.rest();
        world.check_rest();
        assert_eq!((link_used(&world, A), link_used(&world, B)), ((0, 0), (0, 0)));
        assert!(matches!(create(&mut world, aggregate("ab", "b", 1_000_000)), Answer::Aggregate { .. }));
    }
}

#[test]
fn a_receiver_that_is_silent_is_a_refusal_and_is_told_to_forget_it_until_it_has() {
    let mut world = World::new();
    world.lose("answer");
    let refused = reason(create(&mut world, aggregate("ab", "b", 1_000_000)));
    assert_eq!(refused, Reason::PeerUnreachable);
    assert!(world.nodes[A].plane.is_empty());
    assert_eq!(world.nodes[B].plane.len(), 1);
    world.run(60_000);
    let withdrawals = world.nodes[A].log.iter().filter(|line| *line == "send withdraw").count();
    assert!((4..30).contains(&withdrawals), "{withdrawals} withdrawals in a minute");
    assert_eq!(reason(create(&mut world, aggregate("ab", "b", 1_000_000))), Reason::Busy);
    world.network = perfect();
    world.rest();
    world.check_rest();
    assert!(world.nodes[B].plane.is_empty());
}

#[test]
fn an_aggregate_is_deleted_at_both_ends_by_its_sender_only_and_not_in_use() {
    let mut world = World::connected();
    world.create(A, call("s", 5000, 100_000));
    let delete = |world: &mut World, node| world.ask(node, Request::DeleteAggregate(name("ab")));
    assert_eq!(reason(delete(&mut world, A)), Reason::AggregateInUse);
    assert_eq!(reason(delete(&mut world, B)), Reason::InvalidValue);
    world.delete(A, "s");
    assert_eq!(delete(&mut world, A), Answer::AggregateDeleted);
    assert_eq!((link_used(&world, A), link_used(&world, B)), ((0, 1_000_000), (1_000_000, 0)));
    assert_eq!(reason(delete(&mut world, A)), Reason::UnknownAggregate);
    world.rest();
    world.check_rest();
    assert_eq!(world.nodes[A].plane.len(), 1);
}

#[test]
fn deleting_while_the_receiver_is_silent_says_so_and_goes_on_behind() {
    let mut world = World::connected();
    world.lose("withdraw");
    assert_eq!(reason(world.ask(A, Request::DeleteAggregate(name("ab")))), Reason::PeerUnreachable);
    assert_eq!(reason(world.ask(A, Request::DeleteAggregate(name("ab")))), Reason::Busy);
    world.network = perfect();
    world.rest();
    world.check_rest();
    assert_eq!(world.nodes[B].broker.aggregates().count(), 1);
}

#[test]
fn a_late_copy_of_a_withdrawn_offer_is_not_taken() {
    let mut world = World::connected();
    let attempt = world.nodes[A].broker.aggregate(&name("ab")).unwrap().policy.0;
    world.ask(A, Request::DeleteAggregate(name("ab")));
    let late = PeerRequest::OfferAggregate(offer("ab", 1_000_000, attempt));
    let PeerAnswer::Refused { refusal } = world.peer_request(B, 1, late) else { panic!("taken") };
    assert_eq!(refusal.reason, Reason::StaleEpoch);
    world.rest();
    world.check_rest();
}

#[test]
fn a_late_copy_of_a_refused_offer_is_not_taken_whatever_it_was_refused_for() {
    let offer = |rate_bps| PeerRequest::OfferAggregate(offer("ab", rate_bps, (1 << 32) + 1));
    let mut world = World::new();
    let first = world.peer_request(B, 1, offer(999));
    let second = world.peer_request(B, 1, offer(1_000_000));
    let reasons = [first, second].map(|answer| match answer {
        PeerAnswer::Refused { refusal } => refusal.reason,
        other => panic!("taken: {other:?}"),
    });
    assert_eq!(reasons, [Reason::InvalidValue, Reason::StaleEpoch]);

    let mut world = World::new();
    world.nodes[B].install_failures = 1;
    assert_eq!(reason(create(&mut world, aggregate("ab", "b", 1_000_000))), Reason::InstallFailed);
    let PeerAnswer::Refused { refusal } = world.peer_request(B, 1, offer(1_000_000)) else { panic!("taken") };
    assert_eq!(refusal.reason, Reason::StaleEpoch);
}

#[test]
fn aggregates_survive_a_restart_and_half_done_ones_are_undone() {
    let mut world = World::connected();
    world.crash(A);
    world.restart(A);
    world.rest();
    world.check_rest();
    world.crash_host(B);
    world.restart(B);
    world.rest();
    world.check_rest();
    assert_eq!(world.nodes[B].plane.len(), 2);

    let mut world = World::new();
    let _ = world.request(A, Request::CreateAggregate(aggregate("ab", "b", 1_000_000)));
    world.run(4);
    assert_eq!(world.nodes[B].plane.len(), 1, "b has just installed it");
    world.crash(A);
    world.restart(A);
    world.rest();
    world.check_rest();
    assert!(world.nodes[A].plane.is_empty() && world.nodes[B].plane.is_empty());
}

#[test]
fn an_aggregate_that_cannot_be_installed_again_is_not_active_until_it_is() {
    let mut world = World::connected();
    world.crash_host(A);
    world.nodes[A].install_failures = 1;
    world.restart(A);
    world.run(10);
    let state = |world: &World| world.nodes[A].broker.aggregate(&name("ab")).unwrap().state;
    assert_eq!(state(&world), AggregateState::Establishing);
    assert_eq!(reason(world.create(A, call("s", 5000, 100_000))), Reason::Busy);
    world.run(31_000);
    assert_eq!(state(&world), AggregateState::Active);
    world.check_rest();
}

#[test]
fn an_offer_that_is_repeated_while_its_receiver_starts_again_leaves_nothing_there() {
    let mut world = World::new();
    world.lose("answer");
    let ticket = world.request(A, Request::CreateAggregate(aggregate("ab", "b", 1_000_000)));
    world.run(100);
    let active = world.nodes[B].broker.aggregate(&name("ab")).unwrap().clone();
    assert_eq!(active.state, AggregateState::Active);
    world.crash_host(B);
    world.restart(B);
    // The connection was lost before the answer came, so the same offer goes out over a new one.
    let attempt = world.nodes[A].broker.aggregate(&name("ab")).unwrap().policy.0;
    let offer = PeerRequest::OfferAggregate(offer("ab", active.rate_bps, attempt));
    let answer = world.peer_request(B, 1, offer);
    world.answer_sent(A, answer);
    assert_eq!(reason(world.wait(A, ticket)), Reason::Busy);
    world.network = perfect();
    world.rest();
    world.check_rest();
    assert_eq!(link_used(&world, B), (0, 0));
}
