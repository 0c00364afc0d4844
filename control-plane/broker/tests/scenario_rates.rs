//! Other rates for a session's flows: both sides have them or neither, whatever is lost, refused or killed, and nothing is enforced that is
//! not held (R-001-1, R-001-17). What holds after every event is in `pair/invariant.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected is a failed test"
)]

mod pair;

use pair::{A, B, MS, World, call, config, name, perfect, rates, reason, refusal, session};
use turnpike_broker::message::{PeerAnswer, PeerRequest};
use turnpike_broker::name::{Label, Nanos};
use turnpike_broker::policy::Policy;
use turnpike_broker::rate_change::RateWish;
use turnpike_broker::record::{Direction, SessionState, UsageKind};
use turnpike_broker::refusal::Reason;
use turnpike_broker::{Config, Request, SecondSide, SessionRequest};

const BEFORE: u64 = 300_000;

/// With `s`, one flow each way.
fn world() -> World {
    world_with([config(A), config(B)])
}

fn world_with(configs: [Config; 2]) -> World {
    let mut world = World::connected_with(configs);
    assert!(session(world.create(A, call("s", 5_000, BEFORE))).1);
    world
}

/// Of `there` and `back` at a node.
fn recorded(world: &World, node: usize) -> [u64; 2] {
    let flows = &world.nodes[node].broker.session(&name("s")).unwrap().flows;
    [flows[0].meter.rate_bps, flows[1].meter.rate_bps]
}

/// What is in force of them, where it is.
fn in_force(world: &World, node: usize) -> [u64; 2] {
    let flows = &world.nodes[node].broker.session(&name("s")).unwrap().flows;
    [0, 1].map(|index| match world.nodes[node].plane.get(&flows[index].policy) {
        Some(Policy::FlowOut { meter, .. } | Policy::FlowIn { meter, .. }) => meter.rate_bps,
        _ => 0,
    })
}

fn all(world: &World) -> [[u64; 2]; 4] {
    [recorded(world, A), recorded(world, B), in_force(world, A), in_force(world, B)]
}

fn both(there: u64, back: u64) -> Request {
    rates("s", &[("there", there, there), ("back", back, back)])
}

/// Everything heals, and what was under way ends: the same at both ends, and one of these.
fn settle(world: &mut World, allowed: &[[u64; 2]]) -> [u64; 2] {
    world.network = perfect();
    for node in &mut world.nodes {
        (node.change_failures, node.install_failures, node.dies_after_persist) = (0, 0, false);
    }
    world.rest();
    world.check_rest();
    let now = recorded(world, A);
    assert_eq!(all(world), [now; 4]);
    assert!(allowed.contains(&now), "{now:?} of {allowed:?}");
    now
}

fn lines(world: &World, node: usize) -> Vec<(UsageKind, Vec<u64>)> {
    let ledger = world.nodes[node].store.ledger.iter();
    ledger.map(|line| (line.kind, line.flows.iter().map(|flow| flow.reserved_rate_bps).collect())).collect()
}

#[test]
fn an_active_session_gets_other_rates_at_both_ends_in_the_ledger_and_after_a_restart() {
    for (there, back) in [(600_000, 500_000), (100_000, 50_000), (600_000, 50_000), (300_000, 800_000)] {
        let mut world = world();
        let (record, changed) = session(world.ask(A, both(there, back)));
        assert!(changed && record.rate_change.is_none());
        assert_eq!(all(&world), [[there, back]; 4]);
        assert_eq!((record.flows[0].asked_rate_bps, record.flows[0].rate_bps_min), (there, there));
        assert_eq!(world.pool_used(A, "ab"), there * 208 / 200);
        for node in [A, B] {
            assert_eq!(lines(&world, node)[1..], [(UsageKind::Change, vec![there, back])]);
            let line = &world.nodes[node].store.ledger[1];
            assert!(line.flows.iter().all(|flow| flow.counters.is_some_and(|counters| counters.offered_packets > 0)));
        }
        assert!(!session(world.ask(A, both(there, back))).1, "the same again");
        for node in [A, B] {
            world.crash_host(node);
            world.restart(node);
        }
        settle(&mut world, &[[there, back]]);
        world.delete(A, "s");
        assert_eq!(lines(&world, A)[2].1[..2], [there, back]);
        settle_empty(&mut world);
    }
}

fn settle_empty(world: &mut World) {
    world.network = perfect();
    world.rest();
    world.check_rest();
}

#[test]
fn one_flow_or_the_burst_alone_may_change() {
    let mut world = world();
    session(world.change_rates(A, "s", &[("back", 500_000, 500_000)]));
    assert_eq!(all(&world), [[BEFORE, 500_000]; 4]);
    assert_eq!(lines(&world, B)[1], (UsageKind::Change, vec![500_000]), "only what has changed");
    let wish = RateWish { id: name("there"), rate_bps: BEFORE, burst_bytes: Some(4_000), rate_bps_min: BEFORE };
    let burst = Request::ChangeSessionRates { id: name("s"), flows: vec![wish] };
    let (record, _) = session(world.ask(A, burst));
    assert_eq!((record.flows[0].meter.rate_bps, record.flows[0].meter.burst_bytes), (BEFORE, 4_000));
    settle(&mut world, &[[BEFORE, 500_000]]);
}

#[test]
fn the_second_sides_values_count_and_are_no_less_than_the_smallest() {
    let mut second = config(B);
    second.second_side = SecondSide { flow_rate_bps_max: Some(400_000), lower_to_fit: true, ..SecondSide::default() };
    let mut world = world_with([config(A), second]);
    let (record, _) = session(world.change_rates(A, "s", &[("there", 800_000, 350_000)]));
    assert_eq!((record.flows[0].meter.rate_bps, record.flows[0].asked_rate_bps), (400_000, 800_000));
    assert_eq!(all(&world), [[400_000, BEFORE]; 4]);
    assert_eq!(world.pool_used(A, "ab"), 416_000, "what the second side leaves is given back");
    let refused = refusal(world.change_rates(A, "s", &[("there", 800_000, 500_000)]));
    assert_eq!((refused.reason, refused.counter_offer_rate_bps), (Reason::SecondSideRefused, Some(400_000)));
    settle(&mut world, &[[400_000, BEFORE]]);
}

#[test]
fn what_does_not_fit_at_either_side_is_refused_with_what_would() {
    let mut world = world();
    assert!(session(world.create(A, call("t", 5_002, 200_000))).1);
    let refused = refusal(world.ask(A, both(900_000, 900_000)));
    assert_eq!((refused.reason, refused.field.as_deref()), (Reason::PoolRateExhausted, Some("flows[0].rate_bps")));
    // 1,000,000 less 208,000 of the other.
    assert_eq!(refused.counter_offer_rate_bps, Some(761_538));
    let pool = refused.pool.unwrap();
    assert_eq!((pool.node.as_str(), pool.capacity_bps, pool.used_bps, pool.fits_at), ("a", 1_000_000, 520_000, None));
    session(world.ask(A, both(761_538, 761_538)));
    session(world.ask(A, both(BEFORE, BEFORE)));

    let flow = pair::hold_flow(pair::flow("out", "ab", (9, 9), 400_000));
    let hold = PeerRequest::HoldSession {
        session: name("hidden"),
        attempt: 1,
        schedule: world.schedule(None, None),
        priority: turnpike_broker::Priority::LOWEST,
        preempting: Vec::new(),
        sent_at: world.now,
        offer: false,
        media_slots: turnpike_broker::media_slots::SlotCounts::new(),
        flows: vec![flow],
    };
    assert!(matches!(world.peer_request(B, 1, hold), PeerAnswer::Held { .. }));
    let refused = refusal(world.ask(A, both(700_000, 100_000)));
    assert_eq!((refused.reason, refused.pool.unwrap().node.as_str()), (Reason::PoolRateExhausted, "b"));
    assert_eq!(refused.counter_offer_rate_bps, Some(361_538));
    assert_eq!(world.pool_used(A, "ab"), 520_000);
    let wish = RateWish { id: name("there"), rate_bps: BEFORE, burst_bytes: Some(20_000), rate_bps_min: BEFORE };
    let refused = refusal(world.ask(A, Request::ChangeSessionRates { id: name("s"), flows: vec![wish] }));
    assert_eq!((refused.reason, refused.counter_offer_rate_bps), (Reason::PoolBurstExhausted, None));
    world.run(11_000);
    settle(&mut world, &[[BEFORE; 2]]);
}

#[test]
fn impossible_changes_are_refused_by_field() {
    let mut world = world();
    type Wishes = &'static [(&'static str, u64, u64)];
    let cases: [(Wishes, &str); 7] = [
        (&[], "flows"),
        (&[("there", 1, 1), ("back", 1, 1), ("there", 1, 1)], "flows"),
        (&[("there", 1, 1), ("there", 1, 1)], "flows[1].id"),
        (&[("aside", 1, 1)], "flows[0].id"),
        (&[("there", 0, 0)], "flows[0].rate_bps"),
        (&[("back", 5, 6)], "flows[0].rate_bps_min"),
        (&[("back", 1_000_001, 1)], "flows[0].rate_bps"),
    ];
    for (flows, field) in cases {
        let refused = refusal(world.change_rates(A, "s", flows));
        assert_eq!((refused.reason, refused.field.as_deref()), (Reason::InvalidValue, Some(field)), "{flows:?}");
    }
    assert_eq!(reason(world.change_rates(B, "s", &[("there", 1, 1)])), Reason::InvalidValue);
    assert_eq!(reason(world.change_rates(A, "t", &[("there", 1, 1)])), Reason::UnknownSession);
    settle(&mut world, &[[BEFORE; 2]]);
    world.delete(A, "s");
    assert_eq!(reason(world.change_rates(A, "s", &[("there", 1, 1)])), Reason::UnknownSession);
}

#[test]
fn a_booking_changes_its_rates_before_it_is_up() {
    let mut world = World::connected();
    let schedule = world.schedule(Some(5_000), Some(60_000));
    assert!(session(world.create(A, SessionRequest { schedule, ..call("s", 5_000, BEFORE) })).1);
    let refused = refusal(world.ask(A, both(990_000, 990_000)));
    assert_eq!(refused.reason, Reason::PoolRateExhausted);
    let (record, _) = session(world.ask(A, both(800_000, 100_000)));
    assert_eq!(record.state, SessionState::Booked);
    assert_eq!(all(&world), [[800_000, 100_000], [800_000, 100_000], [0; 2], [0; 2]]);
    assert!(world.nodes.iter().all(|node| node.store.ledger.is_empty()), "nothing was in force");
    let other = SessionRequest { schedule, ..call("t", 5_002, 200_000) };
    assert_eq!(reason(world.create(A, other)), Reason::PoolRateExhausted, "it is held for then");
    // The start comes while a change is under way: it starts with the old ones or the new ones.
    world.lose("hold rates");
    world.run(3_000);
    let ticket = world.request(A, both(BEFORE, BEFORE));
    world.run(1_900);
    world.network = perfect();
    assert_eq!(reason(world.wait(A, ticket)), Reason::PeerUnreachable);
    world.run(2_000);
    assert_eq!(all(&world), [[800_000, 100_000]; 4]);
    world.rest();
    world.check_rest();
}

#[test]
fn a_booking_that_starts_in_the_midst_of_a_change_starts_with_the_one_or_the_other() {
    for ahead_ms in 0..15 {
        let mut world = World::connected();
        let schedule = world.schedule(Some(5_000), None);
        assert!(session(world.create(A, SessionRequest { schedule, ..call("s", 5_000, BEFORE) })).1);
        let now = world.now;
        world.run(schedule.starts_at.unwrap().0.saturating_sub(now.0) / MS - ahead_ms);
        world.request(A, both(600_000, 50_000));
        settle(&mut world, &[[BEFORE; 2], [600_000, 50_000]]);
        assert!([A, B].iter().all(|node| world.state(*node, "s") == Some(SessionState::Active)));
    }
}

/// The second side has lower rates, its confirmation is lost, and a client ends the session there: until the release comes the first side
/// must not send more again than the second side lets in.
#[test]
fn a_first_side_raises_nothing_again_while_the_second_side_ends_the_session() {
    let mut world = world();
    let mut answers = 0;
    world.network = Box::new(move |from, kind| {
        answers += usize::from(kind == "answer" && from == B);
        let gone = kind == "answer" && answers > 1 || kind == "release";
        if gone { vec![] } else { vec![1] }
    });
    assert_eq!(reason(world.ask(A, both(100_000, 50_000))), Reason::PeerUnreachable);
    assert_eq!((in_force(&world, A)[0], in_force(&world, B)[0]), (100_000, 100_000));
    world.request(B, Request::DeleteSession(name("s")));
    world.network = Box::new(|_, kind| if kind == "release" { vec![] } else { vec![1] });
    for _ in 0..40 {
        world.run(100);
        assert!(in_force(&world, A)[0] <= 100_000, "{:?}", all(&world));
    }
    world.network = perfect();
    world.rest();
    world.check_rest();
    assert_eq!([A, B].map(|node| world.state(node, "s")), [Some(SessionState::Ended); 2]);
}

/// Its data plane has the lower rates, and its record not: a failure then says nothing of what is in force.
#[test]
fn a_second_side_that_died_at_its_commit_takes_no_failure_for_the_end_of_the_change() {
    for after_ms in 0..15 {
        let mut world = world();
        world.request(A, both(100_000, 50_000));
        world.run(after_ms);
        world.crash(B);
        world.restart(B);
        world.nodes[B].change_failures = 1;
        world.run(20_000);
        settle(&mut world, &[[BEFORE; 2], [100_000, 50_000]]);
    }
}

/// Every message and answer of a change lost, one kind at a time, for a while.
#[test]
fn lost_messages_leave_the_old_or_the_new_rates_at_both_ends() {
    for to in [[600_000, 500_000], [100_000, 50_000], [600_000, 50_000]] {
        for (lost, expected) in
            [("hold rates", [BEFORE; 2]), ("commit rates", to), ("answer", [BEFORE; 2]), ("answer to commit", to)]
        {
            let mut world = world();
            let mut answers = 0;
            world.network = Box::new(move |_, kind| {
                answers += usize::from(kind == "answer");
                let gone = kind == lost || (lost == "answer to commit" && kind == "answer" && answers > 1);
                if gone { vec![] } else { vec![1] }
            });
            assert_eq!(reason(world.ask(A, both(to[0], to[1]))), Reason::PeerUnreachable, "{lost}");
            world.run(20_000);
            // Where the hold was lost, the void is not, and all is over.
            if lost != "hold rates" {
                assert_eq!(reason(world.ask(A, both(1, 1))), Reason::Busy, "{lost}");
                let end = world.now.plus(Nanos(9_000 * MS));
                assert_eq!(reason(world.change_end(A, "s", Some(end))), Reason::Busy, "{lost}");
            }
            assert_eq!(settle(&mut world, &[expected]), expected, "{lost}");
            assert!(session(world.ask(A, both(200_000, 200_000))).1, "and it can be changed again");
            settle(&mut world, &[[200_000; 2]]);
        }
    }
}

#[test]
fn a_data_plane_that_does_not_take_a_step_leaves_the_old_rates_or_is_asked_again() {
    for to in [[600_000, 500_000], [100_000, 50_000], [600_000, 50_000]] {
        for (node, step, expected) in [(B, 0, [BEFORE; 2]), (A, 0, [BEFORE; 2]), (B, 1, [BEFORE; 2]), (A, 1, to)] {
            let mut world = world();
            let ticket = world.request(A, both(to[0], to[1]));
            let changes =
                |world: &World| world.nodes[node].log.iter().filter(|line| line.starts_with("change")).count();
            while changes(&world) < step {
                assert!(world.step());
            }
            world.nodes[node].change_failures = 1;
            assert_eq!(reason(world.wait(A, ticket)), Reason::InstallFailed, "{node} {step}");
            assert_eq!(settle(&mut world, &[expected]), expected, "{node} {step}");
        }
    }
}

/// Either node, or its host, dies after every single event of a change, and at every transaction.
#[test]
fn a_death_at_any_step_leaves_the_old_or_the_new_rates_at_both_ends() {
    for to in [[600_000, 500_000], [100_000, 50_000], [600_000, 50_000]] {
        for dying in [A, B] {
            let mut outcomes = std::collections::BTreeSet::new();
            for down_ms in [0, 5_000] {
                for host in [false, true] {
                    for steps in 0..40 {
                        let mut world = world();
                        world.request(A, both(to[0], to[1]));
                        for _ in 0..steps {
                            world.step();
                        }
                        if host {
                            world.crash_host(dying);
                        } else {
                            world.crash(dying);
                        }
                        world.run(down_ms);
                        world.restart(dying);
                        outcomes.insert(settle(&mut world, &[[BEFORE; 2], to]));
                    }
                }
                for transaction in 0..4 {
                    let mut world = world();
                    let ledger = world.nodes[dying].store.clone();
                    world.request(A, both(to[0], to[1]));
                    let mut last = ledger;
                    for _ in 0..transaction {
                        while world.nodes[dying].store == last && world.step() {}
                        last = world.nodes[dying].store.clone();
                    }
                    world.nodes[dying].dies_after_persist = true;
                    world.run(down_ms);
                    outcomes.insert(settle(&mut world, &[[BEFORE; 2], to]));
                }
            }
            assert_eq!(outcomes.len(), 2, "both ends of it are reached: {outcomes:?}");
        }
    }
}

#[test]
fn a_session_that_ends_meanwhile_gives_everything_back() {
    for ending in [A, B] {
        for steps in 0..12 {
            let mut world = world();
            let ticket = world.request(A, both(600_000, 50_000));
            for _ in 0..steps {
                world.step();
            }
            world.request(ending, Request::DeleteSession(name("s")));
            world.rest();
            assert!(world.nodes[A].answers.contains_key(&ticket));
            world.check_rest();
            assert_eq!((world.pool_used(A, "ab"), world.pool_used(B, "ba")), (0, 0), "{ending} {steps}");
            for node in [A, B] {
                let record = world.nodes[node].broker.session(&name("s")).unwrap();
                assert_eq!((record.state, &record.rate_change), (SessionState::Ended, &None));
            }
        }
    }
}

#[test]
fn late_copies_of_a_change_that_is_over_change_nothing() {
    for late in ["hold rates", "commit rates", "void rates"] {
        let mut world = world();
        let mut copies = 0;
        world.network = Box::new(move |_, kind| {
            copies += usize::from(kind == late);
            if kind == late && copies == 1 { vec![1, 6_000] } else { vec![1] }
        });
        if late == "void rates" {
            world.nodes[B].change_failures = 1;
            let mut commits = 0;
            world.network = Box::new(move |_, kind| {
                commits += usize::from(kind == "void rates");
                match kind {
                    "hold rates" if commits == 0 => vec![2_900],
                    "void rates" if commits == 1 => vec![1, 6_000],
                    "answer" => vec![200],
                    _ => vec![1],
                }
            });
            assert_eq!(reason(world.ask(A, both(600_000, 500_000))), Reason::PeerUnreachable);
            world.run(1_000);
        } else {
            session(world.ask(A, both(600_000, 500_000)));
        }
        world.network = perfect();
        session(world.ask(A, both(200_000, 100_000)));
        world.run(9_000);
        settle(&mut world, &[[200_000, 100_000]]);
    }
}

#[test]
fn answers_that_the_second_side_may_not_give_void_the_change() {
    let held = |rates: [(&str, u64); 2]| PeerAnswer::RatesHeld {
        flows: rates.map(|(id, rate_bps)| turnpike_broker::message::HeldRate { id: name(id), rate_bps }).to_vec(),
    };
    let wrong = [
        held([("there", 600_001), ("back", 500_000)]),
        held([("there", 599_999), ("back", 500_000)]),
        held([("back", 600_000), ("there", 500_000)]),
        PeerAnswer::RatesHeld { flows: vec![] },
        PeerAnswer::EndChanged,
    ];
    for answer in wrong {
        let mut world = world();
        world.lose("hold rates");
        let ticket = world.request(A, both(600_000, 500_000));
        world.network = perfect();
        world.answer_sent(A, answer);
        let refused = reason(world.wait(A, ticket));
        assert!(matches!(refused, Reason::SecondSideRefused | Reason::PeerUnreachable), "{refused:?}");
        settle(&mut world, &[[BEFORE; 2]]);
    }
}

#[test]
fn a_first_side_that_asks_for_the_impossible_is_refused_and_nothing_is_held() {
    let mut world = world();
    let record = world.nodes[B].broker.session(&name("s")).unwrap().clone();
    let out = record.flows.iter().find(|flow| flow.direction == Direction::Out).unwrap();
    assert_ne!(out.label, Some(Label(0)));
    let hold = |id: &str, change, flows: &[(&str, u64, u64)]| PeerRequest::HoldRates {
        session: name(id),
        attempt: 0,
        change,
        flows: flows
            .iter()
            .map(|&(id, rate_bps, rate_bps_min)| turnpike_broker::message::HoldRate {
                id: name(id),
                rate_bps,
                burst_bytes: 400,
                rate_bps_min,
            })
            .collect(),
    };
    let cases = [
        (hold("s", 1 << 40, &[("there", 1_000, 1_000)]), Reason::UnknownSession),
        (hold("t", 1, &[("there", 1_000, 1_000)]), Reason::UnknownSession),
    ];
    for (request, expected) in cases {
        let PeerAnswer::Refused { refusal } = world.peer_request(B, 1, request) else { panic!() };
        assert_eq!(refusal.reason, expected);
    }
    settle(&mut world, &[[BEFORE; 2]]);
}

#[test]
fn what_the_node_can_forward_bounds_a_change_too_and_has_back_what_it_leaves() {
    let mut small = config(A);
    // Two flows of 312,000 bit/s on the wire, and half of one more.
    small.capacity.rate_bps = Some(780_000);
    let mut world = World::connected_with([small, config(B)]);
    session(world.create(A, call("s", 5000, BEFORE)));
    let used = |world: &World| world.nodes[A].broker.node_capacity().unwrap().used_bps;
    assert_eq!(used(&world), 624_000);
    let refused = refusal(world.ask(A, both(500_000, BEFORE)));
    assert_eq!((refused.reason, refused.pool.unwrap().name.as_str()), (Reason::NodeCapacityExhausted, "node"));
    // 312,000 of its own and 156,000 that are free.
    assert_eq!(refused.counter_offer_rate_bps, Some(450_000));
    assert_eq!(used(&world), 624_000, "nothing has changed");
    session(world.ask(A, both(450_000, BEFORE)));
    assert_eq!(used(&world), 780_000);
    session(world.ask(A, both(100_000, 100_000)));
    assert_eq!(used(&world), 208_000);
    session(world.delete(A, "s"));
    world.rest();
    world.check_rest();
    assert_eq!(used(&world), 0);
}
