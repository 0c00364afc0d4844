//! Sessions that wait for room: called in order when there is some, offered for a short time, and nothing is left of those that are not taken.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected is a failed test"
)]

mod pair;

use pair::{A, B, World, call, config, name, perfect, reason, session};
use proptest::prelude::*;
use turnpike_broker::record::{SessionRecord, SessionState, UsageKind};
use turnpike_broker::refusal::Reason;
use turnpike_broker::{Answer, Limits, Request, Schedule, SecondSide, SessionRequest};

fn waits(world: &mut World, id: &str, port: u16, rate_bps: u64) -> SessionRequest {
    let request = call(id, port, rate_bps);
    let (record, created) = session(world.wait_for(A, request.clone(), 600_000));
    assert_eq!((record.state, created), (SessionState::Waiting, true));
    request
}

fn states(world: &World, ids: &[&str]) -> Vec<Option<SessionState>> {
    ids.iter().map(|id| world.state(A, id)).collect()
}

fn ended(world: &World, id: &str) -> SessionRecord {
    let record = world.nodes[A].broker.session(&name(id)).unwrap().clone();
    assert_eq!((record.state, record.wait), (SessionState::Ended, None));
    record
}

fn failure(world: &World, id: &str) -> Reason {
    ended(world, id).failure.unwrap().reason
}

/// With `full`, which takes 900 kbit/s each way of 1 Mbit/s.
fn full() -> World {
    let mut world = World::connected();
    session(world.create(A, call("full", 5000, 900_000)));
    world.nodes[A].log.clear();
    world
}

fn rest(world: &mut World) {
    world.network = perfect();
    world.rest();
    world.check_rest();
}

const WAITING: Option<SessionState> = Some(SessionState::Waiting);
const OFFERED: Option<SessionState> = Some(SessionState::Offered);
const ENDED: Option<SessionState> = Some(SessionState::Ended);
const ACTIVE: Option<SessionState> = Some(SessionState::Active);

#[test]
fn one_that_waits_is_offered_when_there_is_room_and_taken_by_asking_again() {
    let mut world = full();
    let request = waits(&mut world, "w", 5002, 800_000);
    assert_eq!(world.nodes[A].log, [""; 0], "nobody is asked for what does not fit here");
    assert_eq!((world.state(B, "w"), world.pool_used(A, "ab")), (None, 936_000));
    assert_eq!(session(world.create(A, request.clone())).0.state, SessionState::Waiting);
    world.delete(B, "full");
    // This side was clean before the other, and asked too early.
    world.run(600);
    assert_eq!((world.state(A, "w"), world.state(B, "w")), (OFFERED, Some(SessionState::Held)));
    assert_eq!((world.pool_used(A, "ab"), world.pool_used(B, "ba"), world.flows_in_plane(A)), (832_000, 832_000, 0));
    let until = world.nodes[A].broker.session(&name("w")).unwrap().wait.unwrap().offered_until.unwrap();
    assert!(until > world.now);
    assert_eq!(reason(world.create(A, call("other", 5004, 800_000))), Reason::PoolRateExhausted);
    let (record, created) = session(world.create(A, request));
    assert_eq!((record.state, record.wait, created), (SessionState::Active, None, true));
    assert_eq!(world.nodes[A].notices, ["w Waiting", "w Offered"]);
    rest(&mut world);
    assert_eq!(states(&world, &["w"]), [ACTIVE]);
}

#[test]
fn what_fits_at_once_does_not_wait() {
    let mut world = World::connected();
    let (record, _) = session(world.wait_for(A, call("w", 5002, 800_000), 1_000));
    assert_eq!((record.state, record.wait), (SessionState::Active, None));
    assert_eq!(world.nodes[A].notices, [""; 0]);
    rest(&mut world);
}

#[test]
fn only_want_of_room_is_waited_for() {
    let mut strict = config(B);
    strict.second_side = SecondSide { flow_rate_bps_max: Some(400_000), ..SecondSide::default() };
    let mut world = World::connected_with([config(A), strict]);
    // `rate_bps_min` is half of it.
    assert_eq!(reason(world.wait_for(A, call("w", 5002, 900_000), 1_000)), Reason::SecondSideRefused);
    session(world.create(A, call("s", 5000, 100_000)));
    assert_eq!(reason(world.wait_for(A, call("w", 5000, 1_000), 1_000)), Reason::EndpointsInUse);
    assert_eq!(reason(world.wait_for(A, call("w", 5002, 1_000_000), 1_000)), Reason::PoolRateExhausted, "never fits");
    let until = world.now;
    let refused = world.ask(A, Request::WaitForSession { request: call("w", 5002, 1_000), until });
    assert_eq!(reason(refused), Reason::InvalidValue);
    assert_eq!(world.nodes[A].broker.waiting().count(), 0);
    rest(&mut world);
}

#[test]
fn an_offer_that_is_not_taken_lapses_and_the_next_is_called() {
    let mut world = full();
    let first = waits(&mut world, "first", 5002, 800_000);
    let second = waits(&mut world, "second", 5004, 800_000);
    world.delete(A, "full");
    world.run(10);
    assert_eq!(states(&world, &["first", "second"]), [OFFERED, WAITING]);
    world.run(29_900);
    assert_eq!(states(&world, &["first", "second"]), [OFFERED, WAITING]);
    world.run(200);
    assert_eq!(states(&world, &["first", "second"]), [ENDED, OFFERED]);
    assert_eq!(failure(&world, "first"), Reason::OfferLapsed);
    assert_eq!(session(world.create(A, first)).0.state, SessionState::Ended);
    assert_eq!(session(world.create(A, second)).0.state, SessionState::Active);
    rest(&mut world);
    assert_eq!((world.pool_used(A, "ab"), world.pool_used(B, "ab")), (832_000, 832_000));
}

#[test]
fn those_that_fit_are_called_in_the_order_in_which_they_came_and_pass_one_that_does_not() {
    let mut world = full();
    waits(&mut world, "big", 5002, 950_000);
    let ids = ["w1", "w2", "w3"];
    for (n, id) in ids.iter().enumerate() {
        waits(&mut world, id, 5010 + 2 * u16::try_from(n).unwrap(), 300_000);
    }
    session(world.create(A, call("little", 5004, 60_000)));
    world.delete(A, "full");
    world.run(10);
    assert_eq!(states(&world, &["big", "w1", "w2", "w3"]), [WAITING, OFFERED, OFFERED, OFFERED]);
    let offered: Vec<_> = world.nodes[A].notices.iter().filter(|notice| notice.ends_with("Offered")).collect();
    assert_eq!(offered, ["w1 Offered", "w2 Offered", "w3 Offered"]);
    rest(&mut world);
}

#[test]
fn one_that_was_passed_eight_times_has_its_turn_before_those_behind_it() {
    let mut world = full();
    let big = waits(&mut world, "big", 5002, 950_000);
    session(world.create(A, call("rest", 5998, 50_000)));
    world.delete(A, "full");
    world.run(10);
    assert_eq!(states(&world, &["big"]), [WAITING], "the rest is in its way");
    // `rest` itself came by, and these.
    for n in 0..7 {
        session(world.create(A, call(&format!("s{n}"), 5100 + 2 * n, 100_000)));
    }
    assert_eq!(world.nodes[A].broker.session(&name("big")).unwrap().wait.unwrap().passed, 8);
    // There is room for it, but not before the one in front.
    waits(&mut world, "small", 5300, 50_000);
    for n in 0..7 {
        world.delete(A, &format!("s{n}"));
    }
    world.run(10);
    assert_eq!(states(&world, &["big", "small"]), [WAITING, WAITING]);
    world.delete(A, "rest");
    world.run(10);
    assert_eq!(states(&world, &["big", "small"]), [OFFERED, WAITING]);
    session(world.create(A, big));
    rest(&mut world);
}

#[test]
fn the_order_is_kept_when_the_second_side_gives_back_later_than_the_first() {
    let mut world = full();
    waits(&mut world, "first", 5002, 800_000);
    waits(&mut world, "second", 5004, 800_000);
    world.delete(B, "full");
    world.run(5_000);
    assert_eq!(states(&world, &["first", "second"]), [OFFERED, WAITING]);
    rest(&mut world);
}

#[test]
fn no_more_than_four_second_sides_are_asked_at_once() {
    let mut world = full();
    for n in 0..9 {
        waits(&mut world, &format!("w{n}"), 5100 + 2 * n, 100_000);
    }
    world.network = Box::new(|_, kind| if kind == "hold" { vec![1_000] } else { vec![1] });
    world.nodes[A].log.clear();
    world.delete(A, "full");
    world.run(100);
    let holds = |world: &World| world.nodes[A].log.iter().filter(|line| *line == "send hold").count();
    assert_eq!(holds(&world), 4);
    world.run(1_000);
    assert_eq!(holds(&world), 8);
    world.run(5_000);
    let offered = (0..9).filter(|n| world.state(A, &format!("w{n}")) == OFFERED).count();
    assert_eq!((holds(&world), offered), (9, 9));
    rest(&mut world);
}

#[test]
fn waiting_ends_at_its_time_or_at_its_own_start_or_when_it_is_deleted() {
    let mut world = full();
    session(world.wait_for(A, call("until", 5002, 800_000), 5_000));
    let schedule = world.schedule(Some(3_000), None);
    session(world.wait_for(A, SessionRequest { schedule, ..call("start", 5004, 800_000) }, 9_000));
    waits(&mut world, "deleted", 5006, 800_000);
    let (record, created) = session(world.delete(A, "deleted"));
    assert_eq!((record.state, record.failure, created), (SessionState::Ended, None, true));
    world.run(3_010);
    assert_eq!(states(&world, &["until", "start"]), [WAITING, ENDED]);
    world.run(2_000);
    assert_eq!((failure(&world, "until"), failure(&world, "start")), (Reason::WaitExpired, Reason::WaitExpired));
    let session_record = session(world.delete(A, "until")).0;
    assert_eq!(session_record.state, SessionState::Ended);
    rest(&mut world);
}

#[test]
fn an_offer_can_be_deleted() {
    let mut world = full();
    waits(&mut world, "w", 5002, 800_000);
    world.delete(A, "full");
    world.run(10);
    assert_eq!(session(world.delete(A, "w")).0.state, SessionState::Ended);
    world.run(100);
    assert_eq!((world.pool_used(A, "ab"), world.pool_used(B, "ab"), world.state(B, "w")), (0, 0, None));
    rest(&mut world);
}

#[test]
fn a_booking_waits_too() {
    let mut world = World::connected();
    let full = SessionRequest { schedule: world.schedule(Some(50_000), Some(90_000)), ..call("full", 5000, 900_000) };
    session(world.create(A, full));
    let request = SessionRequest { schedule: world.schedule(Some(60_000), Some(70_000)), ..call("w", 5002, 800_000) };
    assert_eq!(session(world.wait_for(A, request.clone(), 40_000)).0.state, SessionState::Waiting);
    world.delete(A, "full");
    world.run(10);
    assert_eq!(states(&world, &["w"]), [OFFERED]);
    assert_eq!(session(world.create(A, request)).0.state, SessionState::Booked);
    world.run(60_000);
    assert_eq!(states(&world, &["w"]), [ACTIVE]);
    rest(&mut world);
}

#[test]
fn a_second_side_that_has_no_room_yet_is_asked_again_later() {
    let mut world = full();
    let request = waits(&mut world, "w", 5002, 800_000);
    // The first side gives back before the second, because that is not told.
    world.lose("release");
    world.request(A, Request::DeleteSession(name("full")));
    world.run(15_000);
    assert_eq!((world.state(B, "w"), states(&world, &["w"])), (None, vec![WAITING]));
    let tries = world.nodes[A].log.iter().filter(|line| *line == "send hold").count();
    assert!((1..8).contains(&tries), "{tries} holds in 15 s");
    world.network = perfect();
    world.run(60_000);
    assert!(world.nodes[A].notices.contains(&"w Offered".to_owned()));
    let _ = request;
    rest(&mut world);
}

#[test]
fn the_second_side_may_be_the_one_without_room() {
    let mut world = full();
    world.lose("release");
    world.request(A, Request::DeleteSession(name("full")));
    world.run(5_000);
    let ticket = world.request(
        A,
        Request::WaitForSession { request: call("w", 5002, 800_000), until: world.now.plus(world.now).plus(world.now) },
    );
    let (record, created) = session(world.wait(A, ticket));
    assert_eq!((record.state, created), (SessionState::Waiting, true));
    rest(&mut world);
}

#[test]
fn what_waits_or_is_offered_outlives_a_restart_at_its_place() {
    let mut world = full();
    let first = waits(&mut world, "first", 5002, 800_000);
    waits(&mut world, "second", 5004, 800_000);
    world.crash(A);
    world.restart(A);
    assert_eq!(states(&world, &["first", "second"]), [WAITING, WAITING]);
    world.delete(A, "full");
    world.run(10);
    assert_eq!(states(&world, &["first", "second"]), [OFFERED, WAITING]);
    world.crash(A);
    world.restart(A);
    world.run(5_000);
    assert_eq!(states(&world, &["first", "second"]), [OFFERED, WAITING]);
    assert_eq!(session(world.create(A, first)).0.state, SessionState::Active);
    rest(&mut world);
}

#[test]
fn a_call_in_vain_leaves_no_reading_that_a_later_end_could_take_for_its_own() {
    let mut world = full();
    let request = waits(&mut world, "w", 5002, 800_000);
    // The first call finds no room at the second side.
    world.delete(B, "full");
    world.run(1_000);
    assert_eq!(session(world.create(A, request)).0.state, SessionState::Active);
    world.nodes[A].dies_after_persist = true;
    world.request(A, Request::DeleteSession(name("w")));
    rest(&mut world);
    let kinds: Vec<_> = world.nodes[A].store.ledger.iter().map(|line| (line.session.as_str(), line.kind)).collect();
    let expected = [UsageKind::Start, UsageKind::Final].map(|kind| ("w", kind));
    assert_eq!(kinds[2..], expected);
}

#[test]
fn those_that_wait_are_bounded_and_counted() {
    let mut small = config(A);
    small.limits = Limits { watches_max: 2, ..small.limits };
    let mut world = World::connected_with([small, config(B)]);
    session(world.create(A, call("full", 5000, 900_000)));
    waits(&mut world, "w1", 5002, 800_000);
    waits(&mut world, "w2", 5004, 800_000);
    assert_eq!(reason(world.wait_for(A, call("w3", 5006, 800_000), 1_000)), Reason::LimitReached);
    world.delete(A, "full");
    world.run(10);
    session(world.create(A, call("little", 5010, 150_000)));
    assert_eq!(reason(world.wait_for(A, call("w3", 5006, 800_000), 1_000)), Reason::LimitReached, "an offer counts");
    let table = world.nodes[A].broker.tables().into_iter().find(|table| table.name == "watches").unwrap();
    assert_eq!((table.used, table.max, table.full), (2, 2, 2));
    rest(&mut world);
}

#[test]
fn another_wish_under_the_id_of_one_that_waits_is_refused() {
    let mut world = full();
    waits(&mut world, "w", 5002, 800_000);
    assert_eq!(reason(world.create(A, call("w", 5002, 700_000))), Reason::SessionIdReused);
    assert_eq!(reason(world.create(B, call("w", 5002, 10_000))), Reason::SessionIdReused);
    let asked = world.would_admit(A, SessionRequest { schedule: Schedule::OPEN, ..call("w", 5002, 800_000) });
    assert!(matches!(asked, Answer::Session { created: false, .. }), "{asked:?}");
    rest(&mut world);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Each needs most of the pools, so that one is called at a time.
    #[test]
    fn those_that_want_the_same_are_offered_in_the_order_in_which_they_came(
        // Whether it is taken, and which side then ends it; whether the node is killed while it is offered.
        ways in prop::collection::vec((any::<bool>(), 0usize..2, any::<bool>()), 2..8),
        delays_ms in prop::collection::vec(1u64..60, 1..20),
    ) {
        let mut world = full();
        let mut expected = Vec::new();
        for n in 0..ways.len() {
            let id = format!("w{}", (n * 5) % 11);
            waits(&mut world, &id, 5100 + 2 * u16::try_from(n).unwrap(), 700_000 + 1_000 * (n as u64 % 3));
            expected.push(id);
        }
        let mut turn = 0;
        world.network = Box::new(move |_, _| {
            turn += 1;
            vec![delays_ms[turn % delays_ms.len()]]
        });
        world.delete(B, "full");
        for (id, (is_taken, side, killed)) in expected.iter().zip(ways) {
            world.run(5_000);
            let offered: Vec<_> = world.nodes[A].broker.sessions().filter_map(pair::wish_of_offered).collect();
            prop_assert_eq!(offered.len(), 1, "one at a time");
            let request = offered[0].clone();
            prop_assert_eq!(request.id.as_str(), id);
            if killed {
                world.crash(A);
                world.restart(A);
                world.run(5_000);
                prop_assert_eq!(world.state(A, id), OFFERED, "again");
            }
            if is_taken {
                prop_assert_eq!(session(world.create(A, request)).0.state, SessionState::Active);
                world.delete(side, id);
            } else {
                world.run(30_000);
                prop_assert_eq!(failure(&world, id), Reason::OfferLapsed);
            }
        }
        rest(&mut world);
        for node in [A, B] {
            prop_assert_eq!((world.pool_used(node, "ab"), world.pool_used(node, "ba")), (0, 0));
        }
    }
}

#[test]
fn the_end_of_one_that_waits_is_not_changed_and_the_refusal_says_what_to_do() {
    let mut world = full();
    waits(&mut world, "w", 5002, 800_000);
    let end = Some(world.now.plus(turnpike_broker::name::Nanos::from_millis(60_000)));
    let refused = pair::refusal(world.change_end(A, "w", end));
    assert_eq!((refused.reason, refused.field.as_deref()), (Reason::InvalidValue, Some("id")));
    assert!(refused.detail.contains("waits for room"), "{}", refused.detail);
    assert_eq!(world.state(A, "w"), WAITING);
    assert!(session(world.delete(A, "w")).1);
    rest(&mut world);
}
