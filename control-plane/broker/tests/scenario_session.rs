//! Sessions in a world where everything works: both sides, both directions, the second side's values, the ledger.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected is a failed test"
)]

mod pair;

use pair::{A, B, World, call, config, counted, flow, hold_flow, name, reason, refusal, session};
use turnpike_broker::message::{HoldFlow, PeerAnswer, PeerRequest};
use turnpike_broker::name::{Nanos, NodeName};
use turnpike_broker::policy::Policy;
use turnpike_broker::policy_state::PolicyState;
use turnpike_broker::record::{SessionRecord, SessionState, Side, UsageKind};
use turnpike_broker::refusal::Reason;
use turnpike_broker::{Limits, Schedule, SecondSide, SessionRequest};

fn world_with_second_side(second_side: SecondSide) -> World {
    let mut second = config(B);
    second.second_side = second_side;
    World::connected_with([config(A), second])
}

fn out(id: &str, port: u16, rate_bps: u64) -> SessionRequest {
    SessionRequest {
        priority: turnpike_broker::Priority::LOWEST,
        media_slots: turnpike_broker::media_slots::MediaSlots::default(),
        schedule: Schedule::OPEN,
        id: name(id),
        flows: vec![flow("out", "ab", (port, port), rate_bps)],
    }
}

#[test]
fn a_session_is_answered_active_once_both_sides_carry_it() {
    let mut world = World::connected();
    let (record, created) = session(world.create(A, call("s", 5000, 100_000)));
    assert!(created);
    assert_eq!((record.side, record.state), (Side::First, SessionState::Active));
    assert_eq!((world.flows_in_plane(A), world.flows_in_plane(B)), (2, 2));
    assert_eq!(world.state(B, "s"), Some(SessionState::Active));
    for (node, pool) in [(A, "ab"), (A, "ba"), (B, "ab"), (B, "ba")] {
        assert_eq!(world.pool_used(node, pool), 104_000, "with 8 bytes for each 200");
    }
    world.rest();
    world.check_rest();
}

#[test]
fn policies_are_confirmed_at_both_nodes_and_deinstalled_at_both() {
    let mut world = World::connected();
    let states = |record: &SessionRecord, own: &str| -> Vec<(String, PolicyState)> {
        let states = record.policy_states(&name(own));
        states.into_iter().map(|policies| (policies.node.to_string(), policies.state)).collect()
    };
    let both = |state| vec![("a".to_owned(), state), ("b".to_owned(), state)];
    let (record, _) = session(world.create(A, call("s", 5000, 100_000)));
    assert_eq!(states(&record, "a"), both(PolicyState::Confirmed));
    let (record, _) = session(world.delete(A, "s"));
    assert_eq!(states(&record, "a"), both(PolicyState::Deinstalled));
}

#[test]
fn both_sides_agree_on_labels_which_their_receivers_gave() {
    let mut world = World::connected();
    let (record, _) = session(world.create(A, call("s", 5000, 100_000)));
    let theirs = world.nodes[B].broker.session(&name("s")).unwrap().clone();
    for (ours, theirs) in record.flows.iter().zip(&theirs.flows) {
        assert_eq!(ours.label, theirs.label);
        assert_ne!(ours.direction, theirs.direction);
        let labelled = |policy: &Policy| match policy {
            Policy::FlowOut { label, .. } | Policy::FlowIn { label, .. } => Some(*label) == ours.label,
            Policy::AggregateOut { .. } | Policy::AggregateIn { .. } | Policy::TerminalsIn { .. } => false,
        };
        assert!(labelled(&world.nodes[A].plane[&ours.policy]));
        assert!(labelled(&world.nodes[B].plane[&theirs.policy]));
    }
}

#[test]
fn incoming_flows_are_installed_before_outgoing_ones_and_the_second_side_commits_last() {
    let mut world = World::connected();
    world.nodes[A].log.clear();
    world.create(A, call("s", 5000, 100_000));
    assert_eq!(world.nodes[A].log, ["send hold", "install flow in", "install flow out", "send commit"]);
}

#[test]
fn repeating_a_request_gives_the_same_session_and_changing_it_is_refused() {
    let mut world = World::connected();
    let (record, _) = session(world.create(A, call("s", 5000, 100_000)));
    assert_eq!(session(world.create(A, call("s", 5000, 100_000))), (record, false));
    assert_eq!(reason(world.create(A, call("s", 5000, 100_001))), Reason::SessionIdReused);
    assert_eq!(reason(world.create(A, call("s", 5001, 100_000))), Reason::SessionIdReused);
    let (ended, created) = session(world.delete(A, "s"));
    assert!(created);
    assert_eq!(session(world.create(A, call("s", 5000, 100_000))), (ended.clone(), false));
    assert_eq!(session(world.delete(A, "s")), (ended, false));
    assert_eq!(reason(world.create(A, call("s", 5001, 100_000))), Reason::SessionIdReused);
}

#[test]
fn the_second_sides_values_count_on_both_sides() {
    let mut world = world_with_second_side(SecondSide { flow_rate_bps_max: Some(60_000), ..SecondSide::default() });
    let (record, _) = session(world.create(A, call("s", 5000, 100_000)));
    for flow in &record.flows {
        assert_eq!((flow.asked_rate_bps, flow.meter.rate_bps), (100_000, 60_000));
        let (Policy::FlowOut { meter, .. } | Policy::FlowIn { meter, .. }) = &world.nodes[A].plane[&flow.policy] else {
            panic!("not a flow");
        };
        assert_eq!(meter.rate_bps, 60_000);
    }
    for (node, pool) in [(A, "ab"), (A, "ba"), (B, "ab"), (B, "ba")] {
        assert_eq!(world.pool_used(node, pool), 62_400);
    }
    let (again, created) = session(world.create(A, call("s", 5000, 100_000)));
    assert_eq!((again, created), (record, false));
}

#[test]
fn a_second_side_whose_most_is_below_the_least_asked_refuses() {
    let mut world = world_with_second_side(SecondSide { flow_rate_bps_max: Some(40_000), ..SecondSide::default() });
    let refused = refusal(world.create(A, call("s", 5000, 100_000)));
    assert_eq!((refused.reason, refused.counter_offer_rate_bps), (Reason::SecondSideRefused, Some(40_000)));
    assert_eq!(refused.field.as_deref(), Some("flows[0].rate_bps_min"));
    world.rest();
    world.check_rest();
}

/// Fills b's side of `ab`, which a does not see: as if an earlier session hung there.
fn fill_at_second_side(world: &mut World, rate_bps: u64) {
    let flow = flow("out", "ab", (9, 9), rate_bps);
    let hold = PeerRequest::HoldSession {
        priority: turnpike_broker::Priority::LOWEST,
        preempting: Vec::new(),
        media_slots: turnpike_broker::media_slots::SlotCounts::new(),
        schedule: Schedule::OPEN,
        sent_at: Nanos(0),
        offer: false,
        session: name("hidden"),
        attempt: 1,
        flows: vec![HoldFlow { rate_bps_min: rate_bps, ..hold_flow(flow) }],
    };
    assert!(matches!(world.peer_request(B, 1, hold), PeerAnswer::Held { .. }));
}

#[test]
fn a_second_side_that_lowers_to_fit_gives_what_is_left() {
    let mut world = world_with_second_side(SecondSide { lower_to_fit: true, ..SecondSide::default() });
    fill_at_second_side(&mut world, 890_000);
    let (record, _) = session(world.create(A, out("s", 5000, 100_000)));
    assert_eq!(record.flows[0].meter.rate_bps, 71_538, "of 74,400 bit/s on the wire");
    assert_eq!(world.pool_used(B, "ab"), 1_000_000);
    assert_eq!(world.pool_used(A, "ab"), 74_400);
}

#[test]
fn a_second_side_that_does_not_lower_refuses_with_its_pool() {
    let mut world = world_with_second_side(SecondSide::default());
    fill_at_second_side(&mut world, 890_000);
    let refused = refusal(world.create(A, out("s", 5000, 100_000)));
    assert_eq!((refused.reason, refused.counter_offer_rate_bps), (Reason::PoolRateExhausted, Some(71_538)));
    assert_eq!(refused.pool.map(|pool| pool.node).as_deref(), Some("b"));
    world.rest();
    world.check_rest();
}

#[test]
fn a_full_pool_refuses_with_a_counter_offer_that_is_then_admitted() {
    let mut world = World::connected();
    world.create(A, out("s", 5000, 800_000));
    let refused = refusal(world.create(A, out("t", 5001, 200_000)));
    assert_eq!(refused.reason, Reason::PoolRateExhausted);
    let pool = refused.pool.unwrap();
    assert_eq!((pool.capacity_bps, pool.used_bps, pool.free_bps), (1_000_000, 832_000, 168_000));
    let offer = refused.counter_offer_rate_bps.unwrap();
    assert_eq!(reason(world.create(A, out("t", 5001, offer + 1))), Reason::PoolRateExhausted);
    assert!(session(world.create(A, out("t", 5001, offer))).1);
}

#[test]
fn a_pool_without_burst_refuses_and_names_the_numbers() {
    let mut world = World::connected();
    let mut request = out("s", 5000, 10_000);
    request.flows[0].meter.burst_bytes = 9_616;
    let refused = refusal(world.create(A, request.clone()));
    assert_eq!((refused.reason, refused.counter_offer_rate_bps), (Reason::PoolBurstExhausted, None));
    assert!(refused.detail.contains("10001") && refused.detail.contains("10000"), "{}", refused.detail);
    request.flows[0].meter.burst_bytes = 9_615;
    assert!(session(world.create(A, request)).1);
}

#[test]
fn the_flows_of_a_session_are_admitted_all_or_none() {
    let mut world = World::connected();
    let flows = |second| vec![flow("1", "ab", (1, 1), 500_000), flow("2", "ab", (2, 2), second)];
    let refused = refusal(world.create(
        A,
        SessionRequest {
            priority: turnpike_broker::Priority::LOWEST,
            media_slots: turnpike_broker::media_slots::MediaSlots::default(),
            schedule: Schedule::OPEN,
            id: name("s"),
            flows: flows(480_000),
        },
    ));
    assert_eq!((refused.reason, refused.counter_offer_rate_bps), (Reason::PoolRateExhausted, Some(461_538)));
    assert_eq!(world.pool_used(A, "ab"), 0);
    assert!(
        session(world.create(
            A,
            SessionRequest {
                priority: turnpike_broker::Priority::LOWEST,
                media_slots: turnpike_broker::media_slots::MediaSlots::default(),
                schedule: Schedule::OPEN,
                id: name("s"),
                flows: flows(461_538)
            }
        ))
        .1
    );
}

#[test]
fn sessions_flows_and_labels_are_bounded_and_counted() {
    let cases = [
        (Limits { sessions_max: 1, ..config(A).limits }, "sessions"),
        (Limits { flows_max: 1, ..config(A).limits }, "flows"),
    ];
    for (limits, table) in cases {
        let mut small = config(A);
        small.limits = limits;
        let mut world = World::connected_with([small, config(B)]);
        world.create(A, call("s", 5000, 10_000));
        let refused = refusal(world.create(A, call("t", 5001, 10_000)));
        assert_eq!(refused.reason, Reason::LimitReached);
        let tables = world.nodes[A].broker.tables();
        let table = tables.iter().find(|entry| entry.name == table).unwrap();
        assert_eq!((table.used, table.max, table.full), (1, 1, 1));
    }
    let mut small = config(B);
    small.limits = Limits { flows_max: 1, ..small.limits };
    let mut world = World::connected_with([config(A), small]);
    world.create(A, out("s", 5000, 10_000));
    assert_eq!(reason(world.create(A, out("t", 5001, 10_000))), Reason::LimitReached);
    assert_eq!(world.nodes[B].broker.tables()[3].full, 1);
    world.rest();
    world.check_rest();
}

#[test]
fn ending_deinstalls_out_then_asks_the_peer_then_deinstalls_in() {
    let mut world = World::connected();
    world.create(A, call("s", 5000, 100_000));
    for node in &mut world.nodes {
        node.log.clear();
    }
    world.delete(A, "s");
    assert_eq!(world.nodes[A].log, ["deinstall flow out", "send release", "deinstall flow in"]);
    assert_eq!(world.nodes[B].log, ["deinstall flow out", "deinstall flow in"]);
    world.rest();
    world.check_rest();
}

#[test]
fn either_side_can_end_a_session_and_gets_what_both_sides_counted() {
    for ending in [A, B] {
        let mut world = World::connected();
        let (active, _) = session(world.create(A, call("s", 5000, 100_000)));
        let theirs = world.nodes[B].broker.session(&name("s")).unwrap().clone();
        let (ended, created) = session(world.delete(ending, "s"));
        assert!(created);
        assert_eq!(ended.state, SessionState::Ended);
        let mut usage = ended.usage.clone();
        assert_eq!(usage[0].node, world.nodes[ending].config.node, "its own come first");
        usage.sort_by(|a, b| (&a.node, &b.flow).cmp(&(&b.node, &a.flow)));
        let expected = [("a", &active), ("b", &theirs)].map(|(node, record)| {
            record
                .flows
                .clone()
                .into_iter()
                .map(move |flow| (name::<NodeName>(node), flow.id, flow.direction, Some(counted(flow.policy))))
        });
        let counted: Vec<_> = usage.into_iter().map(|u| (u.node, u.flow, u.direction, u.counters)).collect();
        assert_eq!(counted, expected.into_iter().flatten().collect::<Vec<_>>());
        assert_eq!(world.state(1 - ending, "s"), Some(SessionState::Ended));
        world.rest();
        world.check_rest();
    }
}

#[test]
fn the_ledger_has_a_start_and_a_final_line_on_each_side() {
    let mut world = World::connected();
    world.create(A, call("s", 5000, 100_000));
    world.delete(A, "s");
    world.rest();
    for (node, flows) in [(A, 4), (B, 2)] {
        let ledger = &world.nodes[node].store.ledger;
        let kinds: Vec<_> = ledger.iter().map(|line| (line.sequence, line.kind, line.flows.len())).collect();
        assert_eq!(kinds, [(1, UsageKind::Start, 2), (2, UsageKind::Final, flows)]);
        assert!(ledger[0].flows.iter().all(|usage| usage.counters.unwrap().offered_packets == 0));
        assert!(ledger[1].flows.iter().all(|usage| usage.counters.unwrap().offered_packets > 0));
    }
}

#[test]
fn ended_sessions_are_forgotten_first_in_first_out() {
    let mut small = config(A);
    small.limits = Limits { sessions_ended_max: 1, ..small.limits };
    let mut world = World::connected_with([small, config(B)]);
    for id in ["s", "t"] {
        world.create(A, call(id, 5000, 100_000));
        world.delete(A, id);
    }
    assert_eq!((world.state(A, "s"), world.state(A, "t")), (None, Some(SessionState::Ended)));
    assert_eq!(world.nodes[A].store.sessions.len(), 1);
    assert_eq!(reason(world.delete(A, "s")), Reason::UnknownSession);
    let (_, created) = session(world.create(A, call("s", 5000, 100_000)));
    assert!(created, "its id is free again, at the second side too");
}

#[test]
fn a_label_is_not_given_again_at_once() {
    let mut world = World::connected();
    let mut seen = std::collections::BTreeSet::new();
    for turn in 0..20 {
        let id = format!("s{turn}");
        let (record, _) = session(world.create(A, call(&id, 5000, 100_000)));
        assert!(record.flows.iter().all(|flow| seen.insert((flow.direction, flow.label))));
        world.delete(B, &id);
        world.rest();
    }
}
