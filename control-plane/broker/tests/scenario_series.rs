//! Bookings that recur: all occurrences at both ends or none, whoever dies (R-000-8).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected is a failed test"
)]

mod pair;

use pair::{A, B, MS, World, call, config, name, reason, refusal, session};
use turnpike_broker::calendar::Until;
use turnpike_broker::name::Nanos;
use turnpike_broker::record::{SessionRecord, SessionState};
use turnpike_broker::refusal::Reason;
use turnpike_broker::series::{SERIES_OCCURRENCES_MAX, SeriesRecord, SeriesState};
use turnpike_broker::{Answer, Request, SessionRequest};

const PERIOD_MS: u64 = 100_000;

/// Ten seconds, for the first time a hundred seconds from now, three times.
fn weekly(world: &World, id: &str, rate_bps: u64) -> Request {
    every(world, id, rate_bps, PERIOD_MS, Until::Count(3))
}

fn every(world: &World, id: &str, rate_bps: u64, period_ms: u64, until: Until) -> Request {
    let schedule = world.schedule(Some(100_000), Some(110_000));
    let request = SessionRequest { schedule, ..call(id, 5_000, rate_bps) };
    Request::CreateSeries { request, period: Nanos(period_ms * MS), until }
}

fn series(answer: Answer) -> (SeriesRecord, bool) {
    match answer {
        Answer::Series { record, created } => (record, created),
        other => panic!("no series: {other:?}"),
    }
}

/// Occurrences that a node has and that are not ended.
fn occurrences(world: &World, node: usize) -> Vec<String> {
    let live = |record: &&SessionRecord| !matches!(record.state, SessionState::Releasing | SessionState::Ended);
    let ids = world.nodes[node].broker.sessions().filter(live).map(|record| record.id.to_string());
    ids.filter(|id| id.starts_with("w.")).collect()
}

fn state_of_series(world: &World, node: usize) -> Option<SeriesState> {
    world.nodes[node].broker.one_series(&name("w")).map(|record| record.state)
}

fn all() -> Vec<String> {
    ["w.1", "w.2", "w.3"].map(str::to_owned).to_vec()
}

#[test]
fn all_occurrences_are_booked_come_up_and_end() {
    let mut world = World::connected();
    let start = world.now;
    let wish = weekly(&world, "w", 400_000);
    let (record, created) = series(world.ask(A, wish.clone()));
    assert_eq!((record.state, record.count, created), (SeriesState::Booked, 3, true));
    assert_eq!((occurrences(&world, A), occurrences(&world, B)), (all(), all()));
    let starts: Vec<_> = record.occurrences().map(|(_, schedule)| schedule.starts_at.unwrap()).collect();
    let at = |ms: u64| start.plus(Nanos(ms * MS));
    for (number, start) in (1u32..).zip(starts) {
        let id = record.session_id(number).unwrap();
        assert_eq!(start, at(100_000 * u64::from(number)));
        assert_eq!(world.nodes[B].broker.session(&id).unwrap().schedule.starts_at, Some(start));
    }
    // The same request is answered the same; another under its id, and its id for another kind of thing, are not.
    assert_eq!(series(world.ask(A, wish)), (record, false));
    let other = weekly(&world, "w", 300_000);
    assert_eq!(reason(world.ask(A, other)), Reason::SessionIdReused);
    // The pools are theirs for their intervals.
    let within = SessionRequest { schedule: world.schedule(Some(205_000), Some(206_000)), ..call("s", 5_002, 600_000) };
    assert_eq!(reason(world.create(A, within)), Reason::PoolRateExhausted);
    let between =
        SessionRequest { schedule: world.schedule(Some(250_000), Some(251_000)), ..call("s", 5_002, 900_000) };
    session(world.create(A, between));
    world.run(305_000);
    assert_eq!((occurrences(&world, A), world.state(B, "w.3")), (vec!["w.3".to_owned()], Some(SessionState::Active)));
    world.rest();
    world.check_rest();
    assert_eq!((state_of_series(&world, A), world.nodes[A].store.series.len()), (None, 0));
}

#[test]
fn one_that_does_not_fit_at_either_side_refuses_all_and_leaves_nothing() {
    for blocked in [A, B] {
        let mut world = World::connected();
        // At the second side only: by its own word.
        if blocked == B {
            let mut second = config(B);
            second.limits.sessions_max = 2;
            world = World::connected_with([config(A), second]);
        } else {
            let schedule = world.schedule(Some(305_000), Some(306_000));
            session(world.create(A, SessionRequest { schedule, ..call("s", 5_002, 700_000) }));
        }
        let wish = weekly(&world, "w", 400_000);
        let refused = refusal(world.ask(A, wish));
        assert!(refused.detail.starts_with("occurrence 3 of 3, from "), "{refused:?}");
        if blocked == A {
            assert_eq!(
                (refused.reason, refused.pool.unwrap().name.as_str()),
                (Reason::PoolRateExhausted, "aggregate ab")
            );
        } else {
            assert_eq!(refused.reason, Reason::LimitReached);
        }
        world.run(1_000);
        assert_eq!((occurrences(&world, A).len(), occurrences(&world, B).len()), (0, 0));
        assert_eq!((state_of_series(&world, A), world.nodes[A].store.series.len()), (None, 0));
        world.rest();
        world.check_rest();
    }
}

#[test]
fn a_series_is_ended_as_a_whole_or_one_by_one() {
    let mut world = World::connected();
    let wish = weekly(&world, "w", 400_000);
    series(world.ask(A, wish));
    session(world.delete(B, "w.2"));
    assert_eq!(occurrences(&world, A), ["w.1", "w.3"]);
    assert_eq!(state_of_series(&world, A), Some(SeriesState::Booked));
    assert_eq!(reason(world.ask(B, Request::DeleteSeries(name("w")))), Reason::UnknownSeries);
    assert_eq!(world.ask(A, Request::DeleteSeries(name("w"))), Answer::SeriesDeleted);
    world.run(1_000);
    assert_eq!((occurrences(&world, A).len(), occurrences(&world, B).len()), (0, 0));
    assert_eq!(reason(world.ask(A, Request::DeleteSeries(name("w")))), Reason::UnknownSeries);
    // One of which an occurrence is known would take it for its own.
    let wish = weekly(&world, "w", 400_000);
    assert_eq!(reason(world.ask(A, wish)), Reason::SessionIdReused);
    world.rest();
    world.check_rest();
}

#[test]
fn one_that_has_begun_is_ended_with_the_others() {
    let mut world = World::connected();
    let wish = weekly(&world, "w", 400_000);
    series(world.ask(A, wish));
    world.run(105_000);
    assert_eq!(world.state(B, "w.1"), Some(SessionState::Active));
    assert_eq!(world.ask(A, Request::DeleteSeries(name("w"))), Answer::SeriesDeleted);
    assert_eq!((occurrences(&world, A).len(), world.flows_in_plane(A)), (0, 0));
    world.rest();
    world.check_rest();
}

#[test]
fn one_that_is_just_starting_is_ended_once_that_can_be() {
    for steps in 0..12 {
        let mut world = World::connected();
        let wish = weekly(&world, "w", 400_000);
        series(world.ask(A, wish));
        world.run(99_000);
        while world.state(A, "w.1") == Some(SessionState::Booked) {
            world.step();
        }
        for _ in 0..steps {
            world.step();
        }
        world.request(A, Request::DeleteSeries(name("w")));
        world.run(5_000);
        assert_eq!(
            (occurrences(&world, A), occurrences(&world, B), state_of_series(&world, A)),
            (vec![], vec![], None)
        );
        world.rest();
        world.check_rest();
    }
}

#[test]
fn what_others_have_booked_is_never_taken_for_an_occurrence() {
    for node in [A, B] {
        let mut world = World::connected();
        let (wish, schedule) = (weekly(&world, "w", 400_000), world.schedule(Some(200_000), Some(210_000)));
        session(world.create(node, SessionRequest { schedule, ..call("w.2", 5_000, 400_000) }));
        assert_eq!(reason(world.ask(A, wish)), Reason::SessionIdReused);
        world.run(30_000);
        assert_eq!((occurrences(&world, A), occurrences(&world, B)), (vec!["w.2".to_owned()], vec!["w.2".to_owned()]));
        world.rest();
        world.check_rest();
    }
}

/// All of them are there, at both ends, or none; and what the first side says of the series is true.
fn check_whole(world: &World, case: &str) {
    let there = [occurrences(world, A), occurrences(world, B)];
    match state_of_series(world, A) {
        Some(SeriesState::Booked) => assert_eq!(there, [all(), all()], "{case}"),
        None => assert_eq!(there, [Vec::<String>::new(), Vec::new()], "{case}"),
        other => panic!("{other:?} at last: {case}"),
    }
    let kept = world.nodes[A].store.series.values().map(|record| record.state).collect::<Vec<_>>();
    assert_eq!(kept, state_of_series(world, A).into_iter().collect::<Vec<_>>(), "{case}");
}

#[test]
fn whoever_dies_at_whatever_moment_no_half_of_a_series_stays() {
    let mut outcomes = [0, 0];
    for node in [A, B] {
        for host in [false, true] {
            for steps in 0.. {
                let mut world = World::connected();
                let wish = weekly(&world, "w", 400_000);
                let ticket = world.request(A, wish);
                let mut done = 0;
                while done < steps && !world.nodes[A].answers.contains_key(&ticket) && world.step() {
                    done += 1;
                }
                let answered = world.nodes[A].answers.contains_key(&ticket);
                if host {
                    world.crash_host(node);
                } else {
                    world.crash(node);
                }
                world.run(20);
                world.restart(node);
                world.run(60_000);
                let case = format!("node {node} dies after {steps} steps");
                check_whole(&world, &case);
                outcomes[usize::from(state_of_series(&world, A).is_some())] += 1;
                assert!(!answered || state_of_series(&world, A).is_some(), "what was answered stands: {case}");
                world.rest();
                world.check_rest();
                if answered {
                    break;
                }
            }
        }
    }
    assert!(outcomes.iter().all(|count| *count > 1), "{outcomes:?}");
}

#[test]
fn whoever_dies_right_after_a_transaction_no_half_of_a_series_stays() {
    for node in [A, B] {
        for steps in 0.. {
            let mut world = World::connected();
            let wish = weekly(&world, "w", 400_000);
            world.nodes[node].dies_after_persist = steps == 0 && node == A;
            let ticket = world.request(A, wish);
            for step in 1..=steps {
                world.nodes[node].dies_after_persist = step == steps;
                if world.nodes[A].answers.contains_key(&ticket) {
                    break;
                }
                world.step();
            }
            let answered = world.nodes[A].answers.contains_key(&ticket);
            world.run(60_000);
            check_whole(&world, &format!("node {node} dies with the transaction after {steps} steps"));
            // A death during an undoing is no different.
            if state_of_series(&world, A).is_some() {
                world.nodes[node].dies_after_persist = true;
                world.request(A, Request::DeleteSeries(name("w")));
                world.run(30_000);
                check_whole(&world, "a death while it is ended");
            }
            world.nodes[node].dies_after_persist = false;
            world.rest();
            world.check_rest();
            if answered {
                break;
            }
        }
    }
}

#[test]
fn a_death_while_it_is_undone_is_made_up_for() {
    for steps in 0..40 {
        let mut world = World::connected();
        let wish = weekly(&world, "w", 400_000);
        series(world.ask(A, wish));
        world.request(A, Request::DeleteSeries(name("w")));
        for _ in 0..steps {
            world.step();
        }
        world.crash(A);
        world.run(10);
        world.restart(A);
        world.run(30_000);
        assert_eq!(
            (occurrences(&world, A), occurrences(&world, B), state_of_series(&world, A)),
            (vec![], vec![], None)
        );
        world.rest();
        world.check_rest();
    }
}

#[test]
fn a_silent_peer_is_a_refusal_of_all() {
    for lost in ["hold", "book"] {
        let mut world = World::connected();
        let mut seen = 0;
        world.network = Box::new(move |_, kind| {
            seen += u32::from(kind == lost);
            if kind == lost && seen == 3 { vec![] } else { vec![1] }
        });
        let wish = weekly(&world, "w", 400_000);
        let refused = refusal(world.ask(A, wish));
        assert_eq!(refused.reason, Reason::PeerUnreachable, "{lost}");
        assert!(refused.detail.starts_with("occurrence 3 of 3"), "{refused:?}");
        world.run(30_000);
        check_whole(&world, lost);
        world.rest();
        world.check_rest();
    }
}

#[test]
fn rules_that_cannot_be_are_refused_by_field_and_change_nothing() {
    let mut world = World::connected();
    world.run(1_000);
    let open = |wish: Request| match wish {
        Request::CreateSeries { mut request, period, until } => {
            request.schedule.ends_at = None;
            Request::CreateSeries { request, period, until }
        }
        other => other,
    };
    let past = |wish: Request| match wish {
        Request::CreateSeries { mut request, period, until } => {
            request.schedule.starts_at = Some(Nanos(1));
            request.schedule.ends_at = Some(Nanos(2));
            Request::CreateSeries { request, period, until }
        }
        other => other,
    };
    let long = "w".repeat(63);
    let cases = [
        (open(weekly(&world, "w", 1_000)), Reason::InvalidValue, "recurrence"),
        (past(weekly(&world, "w", 1_000)), Reason::InvalidValue, "starts_at"),
        (every(&world, "w", 1_000, 9_999, Until::Count(2)), Reason::InvalidValue, "recurrence"),
        (every(&world, "w", 1_000, PERIOD_MS, Until::Count(0)), Reason::InvalidValue, "recurrence"),
        (every(&world, "w", 1_000, PERIOD_MS, Until::Time(Nanos(1))), Reason::InvalidValue, "recurrence"),
        (every(&world, "w", 1_000, PERIOD_MS, Until::Count(1_001)), Reason::LimitReached, "recurrence"),
        (every(&world, "w", 1_000, u64::MAX / MS / 2, Until::Count(3)), Reason::InvalidValue, "recurrence"),
        (weekly(&world, &long, 1_000), Reason::InvalidValue, "id"),
    ];
    for (wish, reason, field) in cases {
        let refused = refusal(world.ask(A, wish));
        assert_eq!((refused.reason, refused.field.as_deref()), (reason, Some(field)), "{refused:?}");
        assert!(world.nodes[A].store.series.is_empty());
    }
    let table = |world: &World| {
        *world.nodes[A].broker.tables().iter().find(|table| table.name == "series_occurrences").unwrap()
    };
    let full = u64::try_from(SERIES_OCCURRENCES_MAX).unwrap();
    assert_eq!((table(&world).used, table(&world).max, table(&world).full), (0, full, 1));
    let wish = weekly(&world, "w", 1_000);
    series(world.ask(A, wish));
    assert_eq!(table(&world).used, 3);
}
