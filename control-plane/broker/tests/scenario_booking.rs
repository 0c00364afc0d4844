//! Sessions with a start or an end: held for their interval at both ends, up at the start, gone at the end, whatever fails between.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected is a failed test"
)]

mod pair;

use pair::{A, B, MS, World, call, config, name, perfect, reason, refusal, session};
use turnpike_broker::name::Nanos;
use turnpike_broker::record::{SessionState, UsageKind};
use turnpike_broker::refusal::Reason;
use turnpike_broker::{Request, Schedule, SecondSide, SessionRequest};

/// A call each way in that interval, in ms from now.
fn call_at(world: &World, id: &str, port: u16, rate_bps: u64, when: (Option<u64>, Option<u64>)) -> SessionRequest {
    SessionRequest { schedule: world.schedule(when.0, when.1), ..call(id, port, rate_bps) }
}

fn book(world: &mut World, id: &str, when: (u64, u64)) -> SessionRequest {
    let request = call_at(world, id, 5000, 900_000, (Some(when.0), Some(when.1)));
    let (record, created) = session(world.create(A, request.clone()));
    assert_eq!((record.state, record.since, created), (SessionState::Booked, Nanos(0), true));
    request
}

fn states(world: &World, id: &str) -> [Option<SessionState>; 2] {
    [A, B].map(|node| world.state(node, id))
}

const fn both(state: SessionState) -> [Option<SessionState>; 2] {
    [Some(state), Some(state)]
}

fn recover(world: &mut World) {
    world.network = perfect();
    world.rest();
    world.check_rest();
}

#[test]
fn a_booking_comes_up_at_its_start_and_goes_at_its_end() {
    let mut world = World::connected();
    book(&mut world, "s", (10_000, 20_000));
    assert_eq!(states(&world, "s"), both(SessionState::Booked));
    assert_eq!((world.flows_in_plane(A), world.flows_in_plane(B)), (0, 0));
    for (node, pool) in [(A, "ab"), (A, "ba"), (B, "ab"), (B, "ba")] {
        assert_eq!(world.pool_used(node, pool), 0);
    }
    world.run(9_980);
    assert_eq!((states(&world, "s"), world.flows_in_plane(A)), (both(SessionState::Booked), 0));
    world.run(40);
    assert_eq!(states(&world, "s"), both(SessionState::Active));
    assert_eq!((world.flows_in_plane(A), world.flows_in_plane(B), world.pool_used(B, "ba")), (2, 2, 936_000));
    world.run(9_940);
    assert_eq!(states(&world, "s"), both(SessionState::Active));
    world.run(100);
    assert_eq!(states(&world, "s"), both(SessionState::Ended));
    recover(&mut world);
    for node in [A, B] {
        let kinds: Vec<_> = world.nodes[node].store.ledger.iter().map(|line| line.kind).collect();
        assert_eq!(kinds, [UsageKind::Start, UsageKind::Final]);
        assert_eq!(world.nodes[node].broker.session(&name("s")).unwrap().usage.len(), 4);
    }
}

#[test]
fn the_order_of_a_start_is_that_of_any_session() {
    let mut world = World::connected();
    world.nodes[A].log.clear();
    book(&mut world, "s", (10_000, 20_000));
    assert_eq!(world.nodes[A].log, ["send hold", "send book"]);
    world.nodes[A].log.clear();
    world.run(10_100);
    assert_eq!(world.nodes[A].log, ["install flow in", "install flow out", "send commit"]);
}

#[test]
fn a_session_with_an_end_and_no_start_is_up_at_once() {
    let mut world = World::connected();
    let request = call_at(&world, "s", 5000, 900_000, (None, Some(5_000)));
    let (record, _) = session(world.create(A, request));
    assert_eq!(record.state, SessionState::Active);
    world.run(6_000);
    assert_eq!(states(&world, "s"), both(SessionState::Ended));
    recover(&mut world);
}

#[test]
fn what_is_booked_is_nobody_elses_and_what_is_beside_it_is_free() {
    let mut world = World::connected();
    book(&mut world, "s", (10_000, 20_000));
    let end = world.nodes[A].broker.session(&name("s")).unwrap().schedule.ends_at;
    let refused = refusal(world.create(A, call("now", 5002, 500_000)));
    let pool = refused.pool.unwrap();
    assert_eq!((refused.reason, pool.fits_at, pool.free_bps), (Reason::PoolRateExhausted, end, 64_000));
    assert_eq!(refused.counter_offer_rate_bps, Some(61_538));

    let until = call_at(&world, "until", 5004, 500_000, (None, Some(10_000)));
    let until = SessionRequest { schedule: Schedule { ends_at: start_of(&world), ..until.schedule }, ..until };
    assert_eq!(session(world.create(A, until)).0.state, SessionState::Active);
    let after = call_at(&world, "after", 5006, 500_000, (Some(20_000), None));
    let after = SessionRequest { schedule: Schedule { starts_at: end, ends_at: None }, ..after };
    assert_eq!(session(world.create(A, after)).0.state, SessionState::Booked);

    world.run(10_500);
    assert_eq!((states(&world, "until"), states(&world, "s")), (both(SessionState::Ended), both(SessionState::Active)));
    world.run(10_000);
    assert_eq!((states(&world, "s"), states(&world, "after")), (both(SessionState::Ended), both(SessionState::Active)));
    recover(&mut world);
}

fn start_of(world: &World) -> Option<Nanos> {
    world.nodes[A].broker.session(&name("s")).unwrap().schedule.starts_at
}

#[test]
fn a_refusal_tells_what_fits_throughout_and_when_the_whole_would() {
    let mut world = World::connected();
    book(&mut world, "s", (10_000, 20_000));
    let end = world.nodes[A].broker.session(&name("s")).unwrap().schedule.ends_at;
    // Six seconds fit before the booking, but not from the fifth on.
    let request = |world: &World, rate_bps, start, end| {
        call_at(world, &format!("t{start}"), 5002, rate_bps, (Some(start), Some(end)))
    };
    let refused = refusal(world.create(A, request(&world, 500_000, 5_000, 11_000)));
    let pool = refused.pool.unwrap();
    assert_eq!((refused.reason, pool.fits_at), (Reason::PoolRateExhausted, end));
    assert_eq!((pool.capacity_bps, pool.used_bps, pool.free_bps), (1_000_000, 936_000, 64_000));
    let offer = refused.counter_offer_rate_bps.unwrap();
    assert_eq!(reason(world.create(A, request(&world, offer + 1, 5_000, 11_000))), Reason::PoolRateExhausted);
    assert!(session(world.create(A, request(&world, offer, 5_000, 11_000))).1);
    world.delete(A, "t5000");
    assert!(session(world.create(A, request(&world, 500_000, 3_000, 9_000))).1);
    recover(&mut world);
}

#[test]
fn a_second_side_lowers_to_what_fits_throughout() {
    let mut second = config(B);
    second.second_side = SecondSide { flow_rate_bps_max: Some(600_000), lower_to_fit: true, ..SecondSide::default() };
    let mut world = World::connected_with([config(A), second]);
    let request = call_at(&world, "s", 5000, 900_000, (Some(10_000), Some(20_000)));
    let (record, _) = session(world.create(A, request));
    assert_eq!(record.flows[0].meter.rate_bps, 600_000);
    world.run(10_500);
    assert_eq!(world.pool_used(A, "ab"), 624_000);
    recover(&mut world);
}

#[test]
fn repeating_a_booking_gives_the_same_one_and_another_interval_is_refused() {
    let mut world = World::connected();
    let request = book(&mut world, "s", (10_000, 20_000));
    let (again, created) = session(world.create(A, request.clone()));
    assert_eq!((again.state, created), (SessionState::Booked, false));
    for schedule in [world.schedule(Some(10_000), Some(20_000)), Schedule { ends_at: None, ..request.schedule }] {
        let other = SessionRequest { schedule, ..request.clone() };
        assert_eq!(reason(world.create(A, other)), Reason::SessionIdReused);
    }
    world.run(11_000);
    assert_eq!(session(world.create(A, request.clone())).0.state, SessionState::Active);
    recover(&mut world);
    assert_eq!(session(world.create(A, request)).0.state, SessionState::Ended, "also after its end");
}

#[test]
fn either_side_can_delete_a_booking_before_its_start() {
    for ending in [A, B] {
        let mut world = World::connected();
        book(&mut world, "s", (10_000, 20_000));
        let (ended, created) = session(world.delete(ending, "s"));
        assert_eq!((ended.state, ended.failure, created), (SessionState::Ended, None, true));
        assert_eq!(states(&world, "s"), both(SessionState::Ended));
        let kept = world.nodes[A].broker.session(&name("s")).unwrap().failure.clone();
        let reason = kept.map(|failure| failure.reason);
        assert_eq!(reason, (ending == B).then_some(Reason::SecondSideRefused), "the first side is told who ended it");
        assert!(session(world.create(A, call("t", 5002, 900_000))).1, "all is free again");
        assert!(!session(world.delete(ending, "s")).1);
        recover(&mut world);
        assert_eq!(world.nodes[A].store.ledger.len(), 1, "it was never up");
    }
}

#[test]
fn endpoints_are_a_sessions_for_its_interval() {
    let mut world = World::connected();
    book(&mut world, "s", (10_000, 20_000));
    let s = world.nodes[A].broker.session(&name("s")).unwrap().schedule;
    let same = |schedule, id: &str| SessionRequest { schedule, ..call(id, 5000, 10_000) };
    let during = Schedule { starts_at: s.starts_at.map(|time| time.plus(Nanos(MS))), ends_at: None };
    for schedule in [during, Schedule::OPEN, world.schedule(None, Some(15_000))] {
        assert_eq!(reason(world.create(A, same(schedule, "t"))), Reason::EndpointsInUse);
    }
    let before = Schedule { starts_at: None, ends_at: s.starts_at };
    let after = Schedule { starts_at: s.ends_at, ends_at: s.ends_at.map(|time| time.plus(Nanos(5_000 * MS))) };
    assert!(session(world.create(A, same(before, "before"))).1);
    assert!(session(world.create(A, same(after, "after"))).1);
    let longer = world.change_end(A, "before", s.ends_at);
    assert_eq!(reason(longer), Reason::EndpointsInUse);
    for (ms, id) in [(9_000, "before"), (10_000, "s"), (5_000, "after")] {
        world.run(ms);
        assert_eq!(states(&world, id), both(SessionState::Active), "{id}");
        assert_eq!((world.flows_in_plane(A), world.flows_in_plane(B)), (2, 2));
    }
    recover(&mut world);
    assert!(session(world.create(A, same(Schedule::OPEN, "now"))).1);
}

#[test]
fn the_next_session_between_the_same_ends_does_not_wait_for_a_silent_peer() {
    let mut world = World::connected();
    book(&mut world, "s", (1_000, 2_000));
    world.run(1_900);
    world.lose("release");
    world.run(200);
    assert_eq!(states(&world, "s"), both(SessionState::Releasing));
    assert!(session(world.create(A, call("t", 5000, 900_000))).1);
    recover(&mut world);
}

#[test]
fn an_aggregate_with_bookings_is_in_use() {
    let mut world = World::connected();
    book(&mut world, "s", (10_000, 20_000));
    assert_eq!(reason(world.ask(A, Request::DeleteAggregate(name("ab")))), Reason::AggregateInUse);
    assert_eq!(reason(world.ask(B, Request::DeleteAggregate(name("ba")))), Reason::AggregateInUse);
    recover(&mut world);
}

#[test]
fn impossible_intervals_are_refused_by_field() {
    let mut world = World::connected();
    let now = world.now;
    let (past, soon, later) = (Nanos(now.0 - 1), now.plus(Nanos(MS)), now.plus(Nanos(2 * MS)));
    let cases = [
        ((Some(past), None), "starts_at"),
        ((Some(now), Some(later)), "starts_at"),
        ((None, Some(past)), "ends_at"),
        ((None, Some(now)), "ends_at"),
        ((Some(soon), Some(soon)), "ends_at"),
        ((Some(later), Some(soon)), "ends_at"),
        ((Some(later), Some(Nanos(u64::MAX))), "ends_at"),
        ((Some(Nanos(u64::MAX)), None), "starts_at"),
    ];
    for ((starts_at, ends_at), field) in cases {
        let request = SessionRequest { schedule: Schedule { starts_at, ends_at }, ..call("s", 5000, 100_000) };
        let refused = refusal(world.create(A, request));
        assert_eq!((refused.reason, refused.field.as_deref()), (Reason::InvalidValue, Some(field)), "{refused:?}");
    }
    recover(&mut world);
}

#[test]
fn silence_while_booking_is_a_refusal_and_nothing_stays() {
    for lost in ["hold", "book", "answer"] {
        let mut world = World::connected();
        world.lose(lost);
        let request = call_at(&world, "s", 5000, 900_000, (Some(10_000), Some(20_000)));
        assert_eq!(reason(world.create(A, request.clone())), Reason::PeerUnreachable, "{lost}");
        world.network = perfect();
        world.run(5_000);
        assert!(session(world.create(A, request)).1, "{lost}: it can be asked for again");
        recover(&mut world);
    }
}

#[test]
fn a_start_is_tried_again_and_fails_in_the_end_everywhere_with_the_reason() {
    for lost in ["commit", "answer"] {
        let mut world = World::connected();
        book(&mut world, "s", (10_000, 1_000_000));
        world.lose(lost);
        world.run(40_000);
        let record = world.nodes[A].broker.session(&name("s")).unwrap();
        assert_eq!(record.failure.as_ref().unwrap().reason, Reason::PeerUnreachable);
        assert!(world.nodes[A].log.iter().filter(|line| *line == "send commit").count() > 5);
        world.run(40_000);
        world.network = perfect();
        world.run(60_000);
        assert_eq!(states(&world, "s"), both(SessionState::Ended), "{lost}");
        let record = world.nodes[A].broker.session(&name("s")).unwrap();
        assert_eq!((record.since, record.failure.as_ref().unwrap().reason), (Nanos(0), Reason::PeerUnreachable));
        assert!(session(world.create(A, call("t", 5002, 900_000))).1, "all is free again");
        recover(&mut world);
    }
}

#[test]
fn a_start_succeeds_once_the_peer_answers_again_and_the_data_plane_has_room() {
    for failing in [A, B] {
        let mut world = World::connected();
        book(&mut world, "s", (10_000, 100_000));
        world.lose("commit");
        world.nodes[failing].install_failures = 2;
        world.run(20_000);
        assert_ne!(world.state(A, "s"), Some(SessionState::Active));
        world.network = perfect();
        world.run(20_000);
        assert_eq!(states(&world, "s"), both(SessionState::Active));
        assert_eq!(world.nodes[A].broker.session(&name("s")).unwrap().failure, None);
        recover(&mut world);
    }
}

#[test]
fn a_data_plane_that_keeps_refusing_fails_the_booking_on_either_side() {
    for failing in [A, B] {
        let mut world = World::connected();
        book(&mut world, "s", (10_000, 1_000_000));
        world.nodes[failing].install_failures = u32::MAX;
        world.run(100_000);
        assert_eq!(states(&world, "s"), both(SessionState::Ended));
        let record = world.nodes[A].broker.session(&name("s")).unwrap();
        assert_eq!(record.failure.as_ref().unwrap().reason, Reason::InstallFailed);
        recover(&mut world);
    }
}

#[test]
fn what_ends_makes_room_before_what_starts_at_that_time() {
    let mut world = World::connected();
    book(&mut world, "z", (10_000, 20_000));
    let end = world.nodes[A].broker.session(&name("z")).unwrap().schedule.ends_at;
    let next = SessionRequest { schedule: Schedule { starts_at: end, ends_at: None }, ..call("a", 5002, 900_000) };
    assert_eq!(session(world.create(A, next)).0.state, SessionState::Booked);
    world.run(15_000);
    world.nodes[A].log.clear();
    world.run(10_000);
    let place = |line: &str| world.nodes[A].log.iter().position(|logged| logged == line).unwrap();
    assert!(place("deinstall flow out") < place("install flow out"), "{:?}", world.nodes[A].log);
    recover(&mut world);
}

#[test]
fn what_was_being_started_and_is_over_after_a_restart_makes_room_before_what_starts_then() {
    let mut world = World::connected();
    book(&mut world, "z", (10_000, 12_000));
    let end = world.nodes[A].broker.session(&name("z")).unwrap().schedule.ends_at;
    let next = SessionRequest { schedule: Schedule { starts_at: end, ends_at: None }, ..call("a", 5000, 900_000) };
    assert_eq!(session(world.create(A, next)).0.state, SessionState::Booked);
    world.run(9_990);
    world.lose("commit");
    world.run(100);
    world.crash(A);
    assert_eq!(world.flows_in_plane(A), 2, "installed, and not confirmed by the peer");
    world.run(5_000);
    world.nodes[A].log.clear();
    world.restart(A);
    world.run(1_000);
    let place = |line: &str| world.nodes[A].log.iter().position(|logged| logged == line).unwrap();
    assert!(place("deinstall flow out") < place("install flow out"), "{:?}", world.nodes[A].log);
    recover(&mut world);
    assert_eq!(states(&world, "a"), both(SessionState::Active));
}

#[test]
fn what_is_being_installed_when_its_end_comes_is_gone_before_what_starts_then() {
    let mut world = World::connected();
    book(&mut world, "z", (10_000, 12_000));
    let end = world.nodes[A].broker.session(&name("z")).unwrap().schedule.ends_at.unwrap();
    let next =
        SessionRequest { schedule: Schedule { starts_at: Some(end), ends_at: None }, ..call("a", 5000, 900_000) };
    assert_eq!(session(world.create(A, next)).0.state, SessionState::Booked);
    world.run(9_990);
    world.lose("commit");
    world.run(100);
    world.crash(A);
    world.run((end.0 - world.clock(A).0) / MS - 1);
    // What it installs again is answered a moment after the end.
    world.restart(A);
    assert!(world.clock(A) < end);
    world.nodes[A].log.clear();
    world.run(2_000);
    let place = |line: &str| world.nodes[A].log.iter().position(|logged| logged == line).unwrap();
    assert!(place("deinstall flow out") < place("install flow out"), "{:?}", world.nodes[A].log);
    recover(&mut world);
    assert_eq!(states(&world, "a"), both(SessionState::Active));
}

#[test]
fn a_session_whose_end_comes_before_it_is_up_is_refused_then() {
    for lost in ["hold", "commit"] {
        let mut world = World::connected();
        world.lose(lost);
        let begin = world.now;
        let request = call_at(&world, "s", 5000, 900_000, (None, Some(1_000)));
        assert_eq!(reason(world.create(A, request)), Reason::PeerUnreachable);
        assert_eq!((world.now.0 - begin.0) / MS / 100, 10, "{lost}: not after the reply's time");
        assert_eq!(world.flows_in_plane(A), 0);
        recover(&mut world);
    }
}

#[test]
fn each_side_gives_back_at_the_end_when_the_other_is_silent() {
    let mut world = World::connected();
    book(&mut world, "s", (10_000, 20_000));
    world.run(15_000);
    for node in [A, B] {
        world.crash(node);
        world.restart(node);
    }
    world.network = Box::new(|_, _| vec![]);
    world.run(10_000);
    for node in [A, B] {
        assert_eq!((world.flows_in_plane(node), world.pool_used(node, "ab"), world.pool_used(node, "ba")), (0, 0, 0));
    }
    recover(&mut world);
    assert_eq!(states(&world, "s"), both(SessionState::Ended));
}

#[test]
fn a_second_side_gives_a_booking_back_when_the_first_never_starts_it() {
    let mut world = World::connected();
    book(&mut world, "s", (10_000, 1_000_000));
    world.crash(A);
    world.run(79_000);
    assert_eq!(world.state(B, "s"), Some(SessionState::Booked));
    world.run(2_000);
    assert_eq!(world.pool_used(B, "ab"), 0);
    let record = world.nodes[B].store.sessions[&name("s")].clone();
    assert_eq!(record.failure.unwrap().reason, Reason::PeerUnreachable);
    world.restart(A);
    recover(&mut world);
    assert_eq!(states(&world, "s"), both(SessionState::Ended));
}

#[test]
fn a_booking_survives_the_restart_of_either_side_and_starts() {
    for restarted in [A, B] {
        let mut world = World::connected();
        book(&mut world, "s", (10_000, 20_000));
        world.crash_host(restarted);
        world.run(1_000);
        world.restart(restarted);
        world.run(1_000);
        assert_eq!(states(&world, "s"), both(SessionState::Booked));
        assert_eq!(reason(world.create(restarted, call("t", 5002, 900_000))), Reason::PoolRateExhausted);
        world.run(9_000);
        assert_eq!(states(&world, "s"), both(SessionState::Active));
        recover(&mut world);
    }
}

#[test]
fn what_should_have_started_while_a_node_was_down_starts_when_it_is_back() {
    for restarted in [A, B] {
        let mut world = World::connected();
        book(&mut world, "s", (10_000, 100_000));
        world.crash(restarted);
        world.run(40_000);
        world.restart(restarted);
        world.run(10_000);
        assert_eq!(states(&world, "s"), both(SessionState::Active), "{restarted}");
        recover(&mut world);
    }
}

#[test]
fn a_node_that_dies_while_it_starts_a_booking_goes_on_with_it() {
    for dying in [A, B] {
        for step in 0..3 {
            let mut world = World::connected();
            book(&mut world, "s", (10_000, 100_000));
            // So many ms after the start: between the installation, the commit and its answer.
            world.run(9_996 + 2 * step);
            world.nodes[dying].dies_after_persist = true;
            world.run(20_000);
            assert_eq!(states(&world, "s"), both(SessionState::Active), "{dying} {step}");
            recover(&mut world);
        }
    }
}

#[test]
fn what_should_have_ended_while_a_node_was_down_ends_when_it_is_back() {
    for restarted in [A, B] {
        let mut world = World::connected();
        book(&mut world, "s", (10_000, 20_000));
        world.run(15_000);
        world.crash(restarted);
        world.run(60_000);
        world.restart(restarted);
        recover(&mut world);
        assert_eq!(states(&world, "s"), both(SessionState::Ended));
        assert_eq!(world.nodes[restarted].store.ledger.len(), 2, "its use is counted");
    }
}

#[test]
fn clocks_that_differ_a_little_delay_the_start_and_no_pool_is_overdrawn() {
    for ahead in [A, B] {
        let mut world = World::connected();
        world.nodes[ahead].ahead = Nanos(8_000 * MS);
        let schedule = |start, end| {
            let base = world.now.plus(world.nodes[A].ahead);
            let at = |ms: u64| Some(base.plus(Nanos(ms * MS)));
            Schedule { starts_at: at(start), ends_at: at(end) }
        };
        let (first, next) = (schedule(20_000, 40_000), schedule(40_000, 60_000));
        for (id, port, schedule) in [("s", 5000, first), ("t", 5002, next)] {
            let request = SessionRequest { schedule, ..call(id, port, 900_000) };
            assert_eq!(session(world.create(A, request)).0.state, SessionState::Booked);
        }
        // The start has come by the clock that is ahead, and not by the other.
        world.run(if ahead == A { 22_000 } else { 14_000 });
        assert_eq!((world.state(B, "s"), world.flows_in_plane(B)), (Some(SessionState::Booked), 0), "{ahead}");
        world.run(if ahead == A { 8_000 } else { 16_000 });
        assert_eq!(states(&world, "s"), both(SessionState::Active), "{ahead}");
        world.run(20_000);
        assert_eq!((states(&world, "s"), states(&world, "t")), (both(SessionState::Ended), both(SessionState::Active)));
        recover(&mut world);
    }
}

#[test]
fn a_booking_that_is_shorter_than_what_clocks_differ_by_fails_with_a_reason() {
    for ahead in [A, B] {
        let mut world = World::connected();
        world.nodes[ahead].ahead = Nanos(8_000 * MS);
        let at = |ms: u64| Some(world.clock(A).plus(Nanos(ms * MS)));
        let schedule = Schedule { starts_at: at(20_000), ends_at: at(22_000) };
        let request = SessionRequest { schedule, ..call("s", 5000, 900_000) };
        assert_eq!(session(world.create(A, request)).0.state, SessionState::Booked);
        world.run(60_000);
        recover(&mut world);
        assert_eq!(states(&world, "s"), both(SessionState::Ended), "{ahead}");
        let kept = world.nodes[A].broker.session(&name("s")).unwrap();
        assert!(kept.failure.is_some() && kept.since == Nanos(0), "{ahead}: {kept:?}");
    }
}

#[test]
fn clocks_that_differ_too_much_are_refused_only_where_it_matters() {
    for ahead in [A, B] {
        let mut world = World::connected();
        world.nodes[ahead].ahead = Nanos(11_000 * MS);
        let start = world.clock(A).plus(Nanos(50_000 * MS));
        let schedule = Schedule { starts_at: Some(start), ends_at: None };
        let request = SessionRequest { schedule, ..call("s", 5000, 100_000) };
        assert_eq!(reason(world.create(A, request)), Reason::ClocksDiffer);
        assert!(
            session(world.create(A, call("s", 5000, 100_000))).1,
            "a session from now on without end does not mind"
        );
        recover(&mut world);
    }
}
