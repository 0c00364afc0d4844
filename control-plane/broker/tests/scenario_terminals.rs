//! Aggregates whose tags tell their terminals: one label and one policy at the receiver, whatever sessions there are (R-003-13).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected is a failed test"
)]

mod pair;

use pair::{
    A, B, MS, World, aggregate, call, config, configs, counted, flow, hold_flow, name, offer, perfect, reason, refusal,
    session,
};
use turnpike_broker::address::Family;
use turnpike_broker::message::{HoldFlow, Offer, PeerAnswer, PeerRequest};
use turnpike_broker::name::{Label, Nanos, PolicyId};
use turnpike_broker::policy::{Policy, Tag};
use turnpike_broker::record::{AggregateState, Direction, SessionState, UsageKind};
use turnpike_broker::refusal::Reason;
use turnpike_broker::{AggregateRequest, Answer, Request, Schedule, SessionRequest};

/// `ab` and `ba`, both with tags that tell their terminals.
fn world() -> World {
    World::connected_by(configs(Family::Ipv4), [Tag::Terminals; 2])
}

fn with_terminals(name: &str, rate_bps: u64) -> AggregateRequest {
    AggregateRequest { tag: Tag::Terminals, ..aggregate(name, "b", rate_bps) }
}

fn one(id: &str, port: u16, rate_bps: u64) -> SessionRequest {
    SessionRequest {
        priority: turnpike_broker::Priority::LOWEST,
        media_slots: turnpike_broker::media_slots::MediaSlots::default(),
        schedule: Schedule::OPEN,
        id: name(id),
        flows: vec![flow("out", "ab", (port, port), rate_bps)],
    }
}

fn at_rest(world: &mut World) {
    world.rest();
    world.check_rest();
}

/// What lets an aggregate in at a node: its policy, and its label.
fn let_in(world: &World, node: usize, aggregate: &str) -> (PolicyId, Label) {
    let record = world.nodes[node].broker.aggregate(&name(aggregate)).unwrap();
    let policy = record.terminals_policy.unwrap();
    let Some(Policy::TerminalsIn { label, aggregate, meter }) = world.nodes[node].plane.get(&policy) else {
        panic!("{policy:?} is not in force");
    };
    assert_eq!((Some(*label), *aggregate), (record.label, record.policy));
    assert_eq!((meter.rate_bps, meter.burst_bytes), (record.rate_bps, record.burst_bytes));
    (policy, *label)
}

#[test]
fn the_receiver_gives_one_label_and_lets_the_whole_aggregate_in() {
    let mut world = world();
    let (_, label) = let_in(&world, B, "ab");
    assert_eq!(world.nodes[B].log[..2], ["install aggregate in", "install terminals in"]);
    assert_eq!(world.nodes[A].broker.aggregate(&name("ab")).unwrap().label, Some(label), "the sender knows it");
    for (id, port) in [("s", 5000), ("t", 5002)] {
        let (record, created) = session(world.create(A, call(id, port, 100_000)));
        assert!(created && record.state == SessionState::Active);
        let Policy::FlowOut { label: tagged, tag, .. } = &world.nodes[A].plane[&record.flows[0].policy] else {
            panic!("not a flow out");
        };
        assert_eq!((*tagged, *tag), (label, Tag::Terminals));
    }
    for node in [A, B] {
        assert_eq!(world.flows_in_plane(node), 2, "what is sent, and nothing of what is received");
        assert_eq!(world.nodes[node].broker.tables()[3].used, 1, "one label");
    }
    at_rest(&mut world);
}

#[test]
fn the_receiver_has_its_terminals_found_and_refuses_what_it_cannot_reach() {
    let mut world = world();
    world.create(A, one("s", 5000, 100_000));
    assert_eq!(world.nodes[B].sought, ["10.0.1.1".parse::<std::net::IpAddr>().unwrap()]);
    assert!(world.nodes[A].sought.is_empty(), "the sender has a policy for it");
    world.nodes[B].install_failures = 1;
    assert_eq!(reason(world.create(A, one("t", 5002, 100_000))), Reason::InstallFailed);
    assert_eq!(world.pool_used(B, "ab"), 112_000);
    at_rest(&mut world);
}

#[test]
fn both_ends_hold_what_the_longer_tag_costs() {
    for (outer, expected) in [(Family::Ipv4, 112_000), (Family::Ipv6, 122_000)] {
        let mut world = World::connected_by(configs(outer), [Tag::Terminals; 2]);
        world.create(A, one("s", 5000, 100_000));
        for node in [A, B] {
            assert_eq!(world.pool_used(node, "ab"), expected);
            world.crash(node);
            world.restart(node);
            assert_eq!(world.pool_used(node, "ab"), expected, "after a restart");
        }
        let refused = refusal(world.create(A, one("t", 5002, 950_000)));
        assert_eq!(refused.reason, Reason::PoolRateExhausted);
        let fits = refused.counter_offer_rate_bps.unwrap();
        assert!(session(world.create(A, one("t", 5002, fits))).1);
        at_rest(&mut world);
    }
}

#[test]
fn the_receivers_usage_has_no_figures_rather_than_zeros() {
    for ending in [A, B] {
        let mut world = world();
        let (record, _) = session(world.create(A, one("s", 5000, 100_000)));
        let (ended, _) = session(world.delete(ending, "s"));
        let figures = |node: &str| {
            let mut of_node = ended.usage.iter().filter(|usage| usage.node == name(node));
            let usage = of_node.next().expect("a reading");
            assert!(of_node.next().is_none());
            (usage.direction, usage.reserved_rate_bps, usage.counters)
        };
        assert_eq!(figures("a"), (Direction::Out, 100_000, Some(counted(record.flows[0].policy))));
        assert_eq!(figures("b"), (Direction::In, 100_000, None));
        world.rest();
        for node in [A, B] {
            let ledger = &world.nodes[node].store.ledger;
            assert_eq!(ledger.iter().map(|line| line.kind).collect::<Vec<_>>(), [UsageKind::Start, UsageKind::Final]);
            let own = ledger.iter().flat_map(|line| &line.flows).filter(|usage| usage.node == name("b"));
            let own: Vec<_> = own.map(|usage| usage.counters).collect();
            // Who was asked by a client has the other's, too.
            let lines = if node == B { 2 } else { usize::from(ending == A) };
            assert_eq!(own, vec![None; lines]);
        }
        at_rest(&mut world);
    }
}

#[test]
fn an_aggregate_that_is_given_up_takes_its_label_with_it() {
    let mut world = world();
    let (_, first) = let_in(&world, B, "ab");
    session(world.create(A, one("s", 5000, 100_000)));
    assert_eq!(reason(world.ask(A, Request::DeleteAggregate(name("ab")))), Reason::AggregateInUse);
    world.delete(A, "s");
    world.nodes[B].log.clear();
    assert_eq!(world.ask(A, Request::DeleteAggregate(name("ab"))), Answer::AggregateDeleted);
    assert_eq!(world.nodes[B].log, ["deinstall terminals in", "deinstall aggregate in"]);
    assert_eq!(world.nodes[B].broker.tables()[3].used, 0);
    at_rest(&mut world);
    let answer = world.ask(A, Request::CreateAggregate(with_terminals("ab", 1_000_000)));
    assert!(matches!(answer, Answer::Aggregate { created: true, .. }), "{answer:?}");
    assert_ne!(let_in(&world, B, "ab").1, first, "no late packet gets in by the next aggregate");
    at_rest(&mut world);
}

#[test]
fn a_receiver_without_a_label_left_refuses_and_holds_nothing() {
    let mut full = config(B);
    full.limits.flows_max = 1;
    let mut world = World::with([config(A), full]);
    for (name, expected) in [("one", true), ("two", false)] {
        match world.ask(A, Request::CreateAggregate(with_terminals(name, 1_000_000))) {
            Answer::Aggregate { created, .. } => assert!(expected && created),
            other => assert_eq!((reason(other), expected), (Reason::LimitReached, false)),
        }
    }
    let (_, _, into) = world.nodes[B].broker.links().next().unwrap();
    assert_eq!(into.used_bps, 1_000_000);
    assert_eq!(world.nodes[B].broker.tables()[3].full, 1);
    // Flows of such an aggregate need none.
    let flows = ["a", "b"].map(|id| flow(id, "one", (id.as_bytes()[0].into(), 9), 100_000)).to_vec();
    assert!(
        session(world.create(
            A,
            SessionRequest {
                priority: turnpike_broker::Priority::LOWEST,
                media_slots: turnpike_broker::media_slots::MediaSlots::default(),
                schedule: Schedule::OPEN,
                id: name("s"),
                flows
            }
        ))
        .1
    );
    at_rest(&mut world);
}

#[test]
fn another_kind_of_tag_is_another_aggregate() {
    let mut world = world();
    let again = |world: &mut World, tag| {
        world.ask(A, Request::CreateAggregate(AggregateRequest { tag, ..aggregate("ab", "b", 1_000_000) }))
    };
    assert!(matches!(again(&mut world, Tag::Terminals), Answer::Aggregate { created: false, .. }));
    let refused = refusal(again(&mut world, Tag::Label));
    assert_eq!(refused.reason, Reason::AggregateNameReused);
    assert!(refused.detail.contains("tags with terminals"), "{}", refused.detail);
    let offered = world.peer_request(B, 1, PeerRequest::OfferAggregate(offer("ab", 1_000_000, u64::MAX)));
    assert!(matches!(offered, PeerAnswer::Refused { refusal } if refusal.reason == Reason::AggregateNameReused));
    at_rest(&mut world);
}

#[test]
fn a_repeated_offer_is_answered_with_the_same_label() {
    let mut world = world();
    let label = Some(let_in(&world, B, "ab").1);
    let attempt = world.nodes[A].broker.aggregate(&name("ab")).unwrap().policy.0;
    let same = Offer { tag: Tag::Terminals, ..offer("ab", 1_000_000, attempt) };
    let answer = world.peer_request(B, 1, PeerRequest::OfferAggregate(same));
    assert_eq!(answer, PeerAnswer::AggregateAccepted { label });
}

#[test]
fn a_receiver_that_gives_no_label_or_gives_one_unasked_is_not_believed() {
    let cases = [
        (Tag::Terminals, None),
        (Tag::Terminals, Some(Label(0))),
        (Tag::Terminals, Some(Label(1 << 40))),
        (Tag::Label, Some(Label(0x12345_00001))),
    ];
    for (tag, label) in cases {
        let mut world = World::new();
        let request = AggregateRequest { tag, ..aggregate("ab", "b", 1_000_000) };
        let ticket = world.request(A, Request::CreateAggregate(request));
        world.lose("offer");
        while !world.nodes[A].log.iter().any(|line| line == "send offer") {
            assert!(world.step());
        }
        world.answer_sent(A, PeerAnswer::AggregateAccepted { label });
        assert_eq!(reason(world.wait(A, ticket)), Reason::PeerUnreachable, "{tag:?} {label:?}");
        world.network = perfect();
        at_rest(&mut world);
        assert!(world.nodes[A].plane.is_empty() && world.nodes[B].plane.is_empty());
    }
}

#[test]
fn a_label_for_a_flow_of_such_an_aggregate_is_refused_in_a_hold() {
    let mut world = world();
    let hold = |flow: HoldFlow| PeerRequest::HoldSession {
        priority: turnpike_broker::Priority::LOWEST,
        preempting: Vec::new(),
        media_slots: turnpike_broker::media_slots::SlotCounts::new(),
        schedule: Schedule::OPEN,
        sent_at: Nanos(0),
        offer: false,
        session: name("s"),
        attempt: 7,
        flows: vec![flow],
    };
    let flow = flow("back", "ab", (5000, 5000), 100_000);
    // `ba` comes from the second side.
    let back = HoldFlow { aggregate: name("ba"), label: Some(Label(1)), ..hold_flow(flow) };
    let answer = world.peer_request(B, 1, hold(back));
    let PeerAnswer::Refused { refusal } = answer else { panic!("{answer:?}") };
    assert_eq!((refusal.reason, refusal.field.as_deref()), (Reason::InvalidValue, Some("flows[0].label")));
}

#[test]
fn what_outlives_a_restart_is_taken_up_and_what_does_not_is_installed_again() {
    for dying in [A, B] {
        for host in [false, true] {
            let mut world = world();
            session(world.create(A, call("s", 5000, 100_000)));
            let before = [A, B].map(|node| let_in(&world, node, ["ba", "ab"][node]));
            if host {
                world.crash_host(dying);
            } else {
                world.crash(dying);
            }
            world.nodes[dying].sought.clear();
            world.restart(dying);
            at_rest(&mut world);
            let after = [A, B].map(|node| let_in(&world, node, ["ba", "ab"][node]));
            assert_eq!(before, after, "same label, same policy");
            assert_eq!(world.state(dying, "s"), Some(SessionState::Active));
            assert_eq!(world.nodes[dying].sought.is_empty(), !host, "a new host has to find its neighbours again");
            session(world.create(B, call("t", 5002, 100_000)));
            at_rest(&mut world);
        }
    }
}

#[test]
fn only_what_is_missing_of_an_aggregate_is_installed_again() {
    let mut world = world();
    let (policy, _) = let_in(&world, B, "ab");
    world.crash(B);
    world.nodes[B].plane.remove(&policy);
    world.nodes[B].log.clear();
    world.nodes[B].install_failures = 1;
    world.restart(B);
    world.run(100);
    let state = |world: &World| world.nodes[B].broker.aggregate(&name("ab")).unwrap().state;
    assert_eq!(state(&world), AggregateState::Establishing, "it could not, and will try again");
    assert_eq!(reason(world.create(A, one("s", 5000, 100_000))), Reason::Busy);
    at_rest(&mut world);
    assert_eq!(state(&world), AggregateState::Active);
    assert_eq!(world.nodes[B].log[..2], ["install terminals in", "install terminals in"]);
    let_in(&world, B, "ab");
}

#[test]
fn a_receiver_that_dies_before_it_has_answered_gives_its_label_back() {
    for after_ms in 0..6 {
        let mut world = World::new();
        world.request(A, Request::CreateAggregate(with_terminals("ab", 1_000_000)));
        world.run(after_ms);
        world.crash(B);
        world.restart(B);
        world.now = world.now.plus(Nanos(MS));
        at_rest(&mut world);
        let there = world.nodes[B].broker.aggregate(&name("ab")).is_some();
        assert_eq!(world.nodes[B].broker.tables()[3].used, u64::from(there), "died after {after_ms} ms");
    }
}
