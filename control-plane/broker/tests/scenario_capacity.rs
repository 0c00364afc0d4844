//! Links that get other rates: whom they can no longer carry, in the stated order, and what is refused until it heals (R-000-2).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected is a failed test"
)]

mod pair;

use pair::{A, B, MS, World, aggregate, call, config, name, reason, refusal, session};
use turnpike_broker::capacity::{LINK_CHANGES_MAX, LINK_RATE_BPS_MAX, LinkChange, LinkState};
use turnpike_broker::name::Nanos;
use turnpike_broker::record::{Direction, SessionState};
use turnpike_broker::refusal::Reason;
use turnpike_broker::{AggregateRequest, Answer, Request, SessionRequest};

fn link(answer: Answer) -> LinkState {
    match answer {
        Answer::Link(state) => *state,
        other => panic!("not a link: {other:?}"),
    }
}

/// With `ab` and `ba` of 1 Mbit/s, and from `a` three more of 2 Mbit/s, the last one first by name.
fn crowded() -> World {
    let mut world = World::connected();
    for more in ["z1", "y2", "x3"] {
        let answer = world.ask(A, Request::CreateAggregate(aggregate(more, "b", 2_000_000)));
        assert!(matches!(answer, Answer::Aggregate { created: true, .. }), "{answer:?}");
    }
    world
}

fn on(request: SessionRequest, out: &str) -> SessionRequest {
    let mut request = request;
    request.flows[0].aggregate = name(out);
    request
}

#[test]
fn a_link_that_shrinks_says_whom_it_cannot_carry_newest_first() {
    let mut world = crowded();
    session(world.create(A, call("s", 5_000, 100_000)));
    session(world.create(A, on(call("t", 5_001, 100_000), "x3")));
    session(world.create(A, on(call("u", 5_002, 100_000), "x3")));
    let state = link(world.set_rate_out(A, 7_000_000, None, None));
    assert_eq!((state.out.capacity_bps, state.out.used_bps, state.uncarried.len()), (7_000_000, 7_000_000, 0));
    let state = link(world.set_rate_out(A, 4_999_999, None, None));
    let told: Vec<_> = state.uncarried.iter().map(|of| (of.aggregate.as_str(), of.rate_bps, of.sessions)).collect();
    assert_eq!(told, [("x3", 2_000_000, 2), ("y2", 2_000_000, 0)]);
    assert!(state.uncarried.iter().all(|of| of.direction == Direction::Out && of.times.len() == 1));
    assert_eq!(state.into.capacity_bps, 10_000_000);
    // Nothing is taken down.
    assert_eq!(world.state(A, "t"), Some(SessionState::Active));
    link(world.set_rate_out(A, 1_000, None, None));
    assert_eq!(world.uncarried(A), ["x3", "y2", "z1", "ab"]);
    link(world.set_rate_out(A, 10_000_000, None, None));
    assert_eq!((world.uncarried(A).len(), world.link(A).changes.len()), (0, 0));
    world.rest();
    world.check_rest();
}

#[test]
fn nothing_is_admitted_onto_what_cannot_be_carried_until_it_heals() {
    let mut world = crowded();
    link(world.set_rate_out(A, 4_000_000, None, None));
    let refused = refusal(world.ask(A, Request::CreateAggregate(aggregate("w", "b", 1_000))));
    assert_eq!((refused.reason, refused.pool.unwrap().free_bps), (Reason::LinkExhausted, 0));
    // From either side; what can be carried goes on as before.
    for node in [A, B] {
        let refused = refusal(world.create(node, on(call("s", 5_000, 100_000), "x3")));
        assert_eq!((refused.reason, refused.pool.unwrap().name.as_str()), (Reason::LinkExhausted, "link wan0"));
        assert_eq!(reason(world.would_admit(node, on(call("s", 5_000, 100_000), "y2"))), Reason::LinkExhausted);
    }
    session(world.create(A, on(call("s", 5_000, 100_000), "z1")));
    // Who may wait is called when the link has room again, because another aggregate goes.
    let waits = session(world.wait_for(A, on(call("w", 5_001, 100_000), "y2"), 60_000)).0;
    assert_eq!(waits.state, SessionState::Waiting);
    assert_eq!(world.ask(A, Request::DeleteAggregate(name("x3"))), Answer::AggregateDeleted);
    assert_eq!(world.uncarried(A), ["y2"]);
    assert_eq!(world.ask(A, Request::DeleteAggregate(name("z1"))), refusal_of_use(&world));
    session(world.delete(A, "s"));
    assert_eq!(world.ask(A, Request::DeleteAggregate(name("z1"))), Answer::AggregateDeleted);
    assert_eq!(world.uncarried(A), Vec::<String>::new());
    world.run(100);
    assert_eq!(world.state(A, "w"), Some(SessionState::Offered));
    session(world.create(A, on(call("w", 5_001, 100_000), "y2")));
    world.rest();
    world.check_rest();
}

/// A session is on it.
fn refusal_of_use(world: &World) -> Answer {
    let last = world.nodes[A].answers.values().rfind(|answer| matches!(answer, Answer::Refused(_))).unwrap();
    assert!(matches!(last, Answer::Refused(refusal) if refusal.reason == Reason::AggregateInUse));
    last.clone()
}

#[test]
fn an_interval_to_come_counts_in_it_and_nowhere_else() {
    let mut world = crowded();
    let start = world.clock(A);
    link(world.set_rate_out(A, 5_000_000, Some(10_000), Some(20_000)));
    let state = link(world.set_rate_out(A, 3_000_000, Some(15_000), Some(30_000)));
    assert_eq!(state.out.capacity_bps, 10_000_000);
    let at = |ms: u64| start.plus(Nanos(ms * MS));
    let times = |state: &LinkState, place: usize| -> Vec<_> {
        state.uncarried[place].times.iter().map(|time| (time.start(), time.end())).collect()
    };
    assert_eq!(times(&state, 0), [(at(10_000), at(30_000))]);
    assert_eq!(times(&state, 1), [(at(15_000), at(30_000))]);
    // A session that is over before fits, and one that reaches into it does not; both sides know when it would.
    let ends = |ms: u64| world.schedule(None, Some(ms));
    let (before, within) = (ends(9_999), ends(10_001));
    session(world.create(A, SessionRequest { schedule: before, ..on(call("s", 5_000, 100_000), "x3") }));
    let refused = refusal(world.create(B, SessionRequest { schedule: within, ..on(call("t", 5_001, 100_000), "x3") }));
    assert_eq!((refused.reason, refused.pool.unwrap().fits_at), (Reason::LinkExhausted, Some(at(30_000))));
    assert_eq!(refusal(world.change_end(A, "s", within.ends_at)).reason, Reason::LinkExhausted);
    // An aggregate has no end, so it would be in the way later.
    assert_eq!(reason(world.ask(A, Request::CreateAggregate(aggregate("w", "b", 1_000)))), Reason::LinkExhausted);
    let capacity = |world: &mut World, ms: u64| {
        world.run(ms);
        // What is read is of the last input.
        reason(world.ask(A, Request::DeleteSession(name("none"))));
        (world.link(A).out.capacity_bps, world.uncarried(A).len(), world.link(A).changes.len())
    };
    assert_eq!(capacity(&mut world, 10_000), (5_000_000, 2, 2));
    // Of the first nothing is left that counts.
    assert_eq!(capacity(&mut world, 5_000), (3_000_000, 2, 1));
    assert_eq!(capacity(&mut world, 10_000), (3_000_000, 2, 1));
    assert_eq!(capacity(&mut world, 5_000), (10_000_000, 0, 0));
    assert!(world.nodes[A].store.links[&name("wan0")].changes.is_empty());
    world.rest();
    world.check_rest();
}

#[test]
fn an_interval_counts_over_what_stands_whatever_was_asked_first() {
    let mut world = World::connected();
    link(world.set_rate_out(A, 20_000_000, Some(1_000), Some(2_000)));
    link(world.set_rate_out(A, 5_000_000, None, None));
    world.run(1_000);
    assert_eq!(world.link(A).out.capacity_bps, 20_000_000);
    // More than is configured can be reserved as long as the link has it; an aggregate has no end.
    assert_eq!(reason(world.ask(A, Request::CreateAggregate(aggregate("w", "b", 8_000_000)))), Reason::LinkExhausted);
    world.run(1_000);
    link(world.set_rate_out(A, 20_000_000, None, None));
    let answer = world.ask(A, Request::CreateAggregate(aggregate("w", "b", 12_000_000)));
    assert_eq!(reason(answer), Reason::InvalidValue, "the receiver's link has 10 Mbit/s");
    assert_eq!(world.link(A).out.capacity_bps, 20_000_000);
}

#[test]
fn changes_outlive_a_restart_and_a_standing_one_the_figure_that_it_was_said_of() {
    let mut world = crowded();
    link(world.set_rate_out(A, 4_000_000, None, None));
    link(world.set_rate_out(A, 2_000_000, Some(60_000), Some(120_000)));
    let before = world.link(A);
    assert_eq!(before.uncarried.len(), 3);
    world.crash(A);
    world.restart(A);
    assert_eq!(world.link(A), before);
    // Another figure in the configuration: it counts, but for the interval.
    world.crash(A);
    world.nodes[A].config.links.values_mut().for_each(|link| link.rate_out_bps = 6_000_000);
    world.restart(A);
    let state = world.link(A);
    assert_eq!((state.out.capacity_bps, state.configured.rate_out_bps), (6_000_000, 6_000_000));
    assert_eq!(state.changes, [before.changes[1]]);
    assert_eq!(state.uncarried.iter().map(|of| of.times.len()).collect::<Vec<_>>(), [1, 1, 1]);
    world.run(60_000);
    assert_eq!(world.link(A).out.capacity_bps, 2_000_000);
    world.crash(A);
    world.run(60_000);
    world.restart(A);
    assert_eq!((world.link(A).out.capacity_bps, world.link(A).changes.len()), (6_000_000, 0));
    assert_eq!(world.nodes[A].store.links[&name("wan0")].changes, []);
}

#[test]
fn a_restart_with_a_smaller_configured_rate_says_the_same() {
    let mut world = crowded();
    session(world.create(A, on(call("s", 5_000, 100_000), "x3")));
    world.crash(A);
    world.nodes[A].config.links.values_mut().for_each(|link| link.rate_out_bps = 3_500_000);
    world.restart(A);
    assert_eq!(world.uncarried(A), ["x3", "y2"]);
    assert_eq!(world.state(A, "s"), Some(SessionState::Active));
    assert_eq!(reason(world.create(A, on(call("t", 5_001, 100_000), "x3"))), Reason::LinkExhausted);
    session(world.delete(A, "s"));
    assert_eq!(world.ask(A, Request::DeleteAggregate(name("x3"))), Answer::AggregateDeleted);
    assert_eq!(world.ask(A, Request::DeleteAggregate(name("z1"))), Answer::AggregateDeleted);
    assert_eq!(world.uncarried(A), Vec::<String>::new());
    assert!(matches!(
        world.ask(A, Request::CreateAggregate(aggregate("w", "b", 500_000))),
        Answer::Aggregate { created: true, .. }
    ));
    world.rest();
    world.check_rest();
}

#[test]
fn what_cannot_be_is_refused_by_field_and_changes_nothing() {
    let mut world = World::connected();
    world.run(1_000);
    let now = world.clock(A);
    let wish =
        LinkChange { link: name("wan0"), rate_out_bps: Some(5_000_000), rate_in_bps: None, from: None, until: None };
    let later = |ms: u64| Some(now.plus(Nanos(ms * MS)));
    let cases = [
        (LinkChange { link: name("wan1"), ..wish.clone() }, Reason::UnknownLink, "name"),
        (LinkChange { rate_out_bps: None, ..wish.clone() }, Reason::InvalidValue, "rate_out_bps"),
        (LinkChange { rate_out_bps: Some(0), ..wish.clone() }, Reason::InvalidValue, "rate_out_bps"),
        (LinkChange { rate_in_bps: Some(LINK_RATE_BPS_MAX + 1), ..wish.clone() }, Reason::InvalidValue, "rate_in_bps"),
        (LinkChange { rate_in_bps: Some(u64::MAX), ..wish.clone() }, Reason::InvalidValue, "rate_in_bps"),
        (LinkChange { from: Some(Nanos(now.0 - 1)), ..wish.clone() }, Reason::InvalidValue, "from"),
        (LinkChange { from: Some(Nanos(u64::MAX)), ..wish.clone() }, Reason::InvalidValue, "from"),
        (LinkChange { until: Some(now), ..wish.clone() }, Reason::InvalidValue, "until"),
        (LinkChange { from: later(5), until: later(5), ..wish.clone() }, Reason::InvalidValue, "until"),
        (LinkChange { from: later(5), until: later(4), ..wish.clone() }, Reason::InvalidValue, "until"),
        (LinkChange { until: Some(Nanos(u64::MAX)), ..wish.clone() }, Reason::InvalidValue, "until"),
    ];
    let before = world.link(A);
    for (wish, reason, field) in cases {
        let refused = refusal(world.ask(A, Request::ChangeLink(wish)));
        assert_eq!((refused.reason, refused.field.as_deref()), (reason, Some(field)), "{refused:?}");
        assert_eq!(world.link(A), before);
        assert!(world.nodes[A].store.links.is_empty());
    }
}

#[test]
fn as_many_changes_as_there_are_places_for_and_no_more() {
    let mut world = World::connected();
    let most = u64::try_from(LINK_CHANGES_MAX).unwrap();
    for number in 1..=most {
        link(world.set_rate_out(A, 5_000_000 + number, Some(number * 10), Some(number * 10 + 5)));
    }
    let before = world.link(A);
    assert_eq!(before.changes.len(), LINK_CHANGES_MAX);
    assert_eq!(reason(world.set_rate_out(A, 1_000, Some(5_000), Some(6_000))), Reason::LimitReached);
    let table =
        |world: &World| *world.nodes[A].broker.tables().iter().find(|table| table.name == "link_changes").unwrap();
    assert_eq!((table(&world).used, table(&world).max, table(&world).full), (most, most, 1));
    assert_eq!(world.link(A), before);
    // One that stands in for all of them needs no place of its own.
    link(world.set_rate_out(A, 6_000_000, None, Some(10_000)));
    assert_eq!(world.link(A).changes.len(), 1);
    world.rest();
    world.check_rest();
}

fn of_class(name_: &str, class: &str, rate_bps: u64) -> Request {
    let plain = aggregate(name_, "b", rate_bps);
    Request::CreateAggregate(AggregateRequest { class: Some(name(class)), dscp: None, ..plain })
}

#[test]
fn aggregates_of_a_class_have_no_more_of_a_link_than_its_share() {
    let mut small = config(A);
    small.class_percent_max = [(name("telephony"), 20)].into();
    let mut world = World::connected_with([small, config(B)]);
    let share = |world: &World| {
        let states = world.link(A).classes_out;
        assert_eq!(states.len(), 1, "only the class that is named has one");
        (states[0].capacity_bps, states[0].used_bps)
    };
    assert_eq!(share(&world), (2_000_000, 0), "what has no class counts in the whole only");
    assert!(matches!(world.ask(A, of_class("t1", "telephony", 1_500_000)), Answer::Aggregate { .. }));
    let refused = refusal(world.ask(A, of_class("t2", "telephony", 600_000)));
    assert_eq!((refused.reason, refused.counter_offer_rate_bps), (Reason::LinkExhausted, Some(500_000)));
    let pool = refused.pool.unwrap();
    assert_eq!((pool.name.as_str(), pool.used_bps), ("class telephony of link wan0", 1_500_000));
    assert_eq!(world.link(A).out.used_bps, 2_500_000, "a refusal takes nothing of the whole");
    // Another class has all that is left, and the share has what the link has.
    assert!(matches!(world.ask(A, of_class("v", "multimedia_streaming", 5_000_000)), Answer::Aggregate { .. }));
    link(world.set_rate_out(A, 9_000_000, None, None));
    assert_eq!(share(&world), (1_800_000, 1_500_000));
    world.crash(A);
    world.restart(A);
    world.run(1_000);
    assert_eq!(share(&world), (1_800_000, 1_500_000));
    world.ask(A, Request::DeleteAggregate(name("t1")));
    assert_eq!(share(&world), (1_800_000, 0));
    assert!(matches!(world.ask(A, of_class("t2", "telephony", 1_800_000)), Answer::Aggregate { .. }));
    world.rest();
}
