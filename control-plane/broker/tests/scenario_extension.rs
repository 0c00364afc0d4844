//! Another end for a session: both sides have it or neither, and where an answer is lost the earlier one ends the session at both.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected is a failed test"
)]

mod pair;

use pair::{A, B, MS, World, call, name, perfect, reason, refusal, session};
use turnpike_broker::message::{PeerAnswer, PeerRequest};
use turnpike_broker::name::Nanos;
use turnpike_broker::record::{SessionState, UsageKind};
use turnpike_broker::refusal::Reason;
use turnpike_broker::{Schedule, SessionRequest};

/// With `s` from `start` (or now) to `end`, ms.
fn world(start: Option<u64>, end: Option<u64>) -> World {
    let mut world = World::connected();
    let request = SessionRequest { schedule: world.schedule(start, end), ..call("s", 5000, 600_000) };
    assert!(session(world.create(A, request)).1);
    world
}

fn in_ms(world: &World, ms: u64) -> Option<Nanos> {
    Some(world.now.plus(Nanos(ms * MS)))
}

fn ends(world: &World) -> [Option<Nanos>; 2] {
    [A, B].map(|node| world.nodes[node].broker.session(&name("s")).unwrap().schedule.ends_at)
}

fn states(world: &World) -> [SessionState; 2] {
    [A, B].map(|node| world.state(node, "s").unwrap())
}

fn recover(world: &mut World) {
    world.network = perfect();
    world.rest();
    world.check_rest();
}

#[test]
fn an_active_or_booked_session_ends_later_or_earlier_at_both_ends() {
    for start in [None, Some(5_000)] {
        for (end, to) in [(10_000, 20_000), (20_000, 10_000)] {
            let mut world = world(start, Some(end));
            let new = in_ms(&world, to);
            let (record, _) = session(world.change_end(A, "s", new));
            assert_eq!((record.schedule.ends_at, ends(&world)), (new, [new; 2]));
            world.run(to - 100);
            assert_eq!(states(&world), [SessionState::Active; 2], "{start:?} {end} {to}");
            world.run(200);
            assert_eq!(states(&world), [SessionState::Ended; 2], "{start:?} {end} {to}");
            recover(&mut world);
            assert_eq!(world.nodes[B].store.ledger.last().unwrap().kind, UsageKind::Final);
        }
    }
}

#[test]
fn a_session_gets_an_end_and_loses_it() {
    let mut world = world(None, None);
    let end = in_ms(&world, 10_000);
    session(world.change_end(A, "s", end));
    assert_eq!(ends(&world), [end; 2]);
    session(world.change_end(A, "s", None));
    assert_eq!(ends(&world), [None; 2]);
    world.run(20_000);
    assert_eq!(states(&world), [SessionState::Active; 2]);
    recover(&mut world);
}

#[test]
fn what_an_earlier_end_leaves_is_free_and_a_later_one_takes_nothing_of_others() {
    let mut world = world(None, Some(20_000));
    let next = |world: &World, start| SessionRequest {
        schedule: world.schedule(Some(start), Some(30_000)),
        ..call("t", 5002, 600_000)
    };
    let request = next(&world, 10_000);
    assert_eq!(reason(world.create(A, request)), Reason::PoolRateExhausted);
    let earlier = in_ms(&world, 9_000);
    session(world.change_end(A, "s", earlier));
    let request = next(&world, 10_000);
    assert!(session(world.create(A, request)).1);

    let refused = refusal(world.change_end(A, "s", None));
    assert_eq!((refused.reason, refused.field.as_deref()), (Reason::PoolRateExhausted, Some("ends_at")));
    assert_eq!((refused.counter_offer_rate_bps, refused.pool.unwrap().fits_at), (None, None));
    assert_eq!(ends(&world), [earlier; 2]);
    let booked = world.nodes[A].broker.session(&name("t")).unwrap().schedule.starts_at;
    assert_eq!(session(world.change_end(A, "s", booked)).0.schedule.ends_at, booked, "up to its start it fits");
    recover(&mut world);
}

#[test]
fn what_does_not_fit_at_the_second_side_stays_at_both() {
    let mut world = world(None, Some(10_000));
    let flow = pair::hold_flow(pair::flow("out", "ab", (9, 9), 600_000));
    let hold = PeerRequest::HoldSession {
        priority: turnpike_broker::Priority::LOWEST,
        preempting: Vec::new(),
        media_slots: turnpike_broker::media_slots::SlotCounts::new(),
        session: name("hidden"),
        attempt: 1,
        schedule: world.schedule(Some(10_000), Some(90_000)),
        sent_at: world.now,
        offer: false,
        flows: vec![flow],
    };
    assert!(matches!(world.peer_request(B, 1, hold), PeerAnswer::Held { .. }));
    let before = ends(&world);
    let later = in_ms(&world, 20_000);
    let refused = refusal(world.change_end(A, "s", later));
    assert_eq!((refused.reason, refused.pool.unwrap().node.as_str()), (Reason::PoolRateExhausted, "b"));
    assert_eq!(ends(&world), before);
    let same_ends = call("t", 5000, 10_000);
    let schedule = Schedule { starts_at: before[A], ends_at: None };
    assert!(session(world.create(A, SessionRequest { schedule, ..same_ends })).1, "nothing is left of the attempt");
    recover(&mut world);
}

#[test]
fn impossible_changes_are_refused() {
    let mut world = world(Some(5_000), Some(10_000));
    let (past, start, later) = (Some(world.now), in_ms(&world, 4_990), in_ms(&world, 20_000));
    for end in [past, start, Some(Nanos(u64::MAX))] {
        let refused = refusal(world.change_end(A, "s", end));
        assert_eq!((refused.reason, refused.field.as_deref()), (Reason::InvalidValue, Some("ends_at")), "{end:?}");
    }
    let refused = refusal(world.change_end(B, "s", later));
    assert_eq!((refused.reason, refused.field.as_deref()), (Reason::InvalidValue, Some("id")));
    assert_eq!(reason(world.change_end(A, "t", later)), Reason::UnknownSession);
    world.delete(A, "s");
    assert_eq!(reason(world.change_end(A, "s", later)), Reason::UnknownSession);
    recover(&mut world);
}

#[test]
fn where_the_answer_is_lost_the_earlier_end_counts_at_both_and_asking_again_settles_it() {
    for (end, to) in [(20_000, 40_000), (40_000, 20_000)] {
        for again in [false, true] {
            let mut world = world(None, Some(end));
            let (old, new) = (ends(&world)[A], in_ms(&world, to));
            world.lose("answer");
            let refused = refusal(world.change_end(A, "s", new));
            assert_eq!(refused.reason, Reason::PeerUnreachable);
            assert_eq!(ends(&world), [old, new], "they differ now");
            world.network = perfect();
            let mut last = end.min(to);
            if again {
                session(world.change_end(A, "s", old));
                assert_eq!(ends(&world), [old; 2]);
                last = end;
            }
            world.run(last - 3_200);
            assert_eq!(states(&world), [SessionState::Active; 2], "{end} {to} {again}");
            world.run(1_000);
            assert_eq!(states(&world), [SessionState::Ended; 2], "{end} {to} {again}");
            for node in [A, B] {
                assert_eq!(world.nodes[node].broker.used_at(&name("ab"), old.max(new).unwrap()).unwrap().rate_bps, 0);
            }
            recover(&mut world);
        }
    }
}

#[test]
fn a_node_that_dies_in_the_midst_leaves_the_earlier_end_and_no_leak() {
    for (end, to) in [(20_000, 40_000), (40_000, 20_000)] {
        for dying in [A, B] {
            let mut world = world(None, Some(end));
            let (old, new) = (ends(&world)[A], in_ms(&world, to));
            world.nodes[dying].dies_after_persist = true;
            world.request(A, turnpike_broker::Request::ChangeSessionEnd { id: name("s"), ends_at: new });
            world.run(4_000);
            let now = ends(&world);
            assert!(now.iter().all(|end| [old, new].contains(end)), "{now:?}");
            world.run(end.min(to) - 3_900);
            if dying == B {
                assert_eq!(now, [old, new]);
                assert_eq!(states(&world), [SessionState::Ended; 2]);
            }
            recover(&mut world);
            assert_eq!(states(&world), [SessionState::Ended; 2]);
        }
    }
}

#[test]
fn a_late_copy_of_an_earlier_change_changes_nothing() {
    let mut world = world(None, Some(10_000));
    let (first, second) = (in_ms(&world, 20_000), in_ms(&world, 30_000));
    let mut changes = 0;
    world.network = Box::new(move |_, kind| {
        changes += usize::from(kind == "change");
        if kind == "change" && changes == 1 { vec![1, 5_000] } else { vec![1] }
    });
    session(world.change_end(A, "s", first));
    session(world.change_end(A, "s", second));
    world.run(6_000);
    assert_eq!(ends(&world), [second; 2]);
    recover(&mut world);
}

#[test]
fn one_change_at_a_time_and_none_that_outlives_the_session() {
    let mut world = world(None, Some(10_000));
    world.lose("change");
    let later = in_ms(&world, 20_000);
    let ticket = world.request(A, turnpike_broker::Request::ChangeSessionEnd { id: name("s"), ends_at: later });
    assert_eq!(reason(world.change_end(A, "s", later)), Reason::Busy);
    world.delete(B, "s");
    assert_eq!(reason(world.wait(A, ticket)), Reason::UnknownSession);
    recover(&mut world);
}
