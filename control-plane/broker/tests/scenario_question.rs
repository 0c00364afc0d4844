//! Questions: both sides say what a session would be answered, and nothing is left of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected is a failed test"
)]

mod pair;

use pair::{A, B, MS, World, call, config, endpoints, flow, name, perfect, reason, refusal, session};
use turnpike_broker::address::Family;
use turnpike_broker::message::{PeerAnswer, PeerRequest};
use turnpike_broker::name::Nanos;
use turnpike_broker::record::{FlowRecord, SessionRecord, SessionState};
use turnpike_broker::refusal::Reason;
use turnpike_broker::{Answer, Limits, Request, Schedule, SecondSide, SessionRequest};

fn admissible(answer: Answer) -> SessionRecord {
    match answer {
        Answer::WouldAdmit { record, .. } => record,
        other => panic!("would not be admitted: {other:?}"),
    }
}

/// Everything that a question may not change.
fn everything(world: &World) -> Vec<String> {
    let of_node = |node: usize| {
        let pair::Node { store, broker, plane, .. } = &world.nodes[node];
        let pools: Vec<_> = broker.aggregates().map(|record| broker.pool(&record.name)).collect();
        format!("{store:?} {pools:?} {:?} {:?} {plane:?}", broker.tables(), broker.refusals())
    };
    vec![of_node(A), of_node(B)]
}

fn values(flows: &[FlowRecord]) -> Vec<String> {
    flows
        .iter()
        .map(|flow| format!("{} {} {:?} {:?}", flow.id, flow.asked_rate_bps, flow.meter, flow.direction))
        .collect()
}

#[test]
fn the_answer_has_the_second_sides_values_and_nothing_is_held() {
    let mut lowering = config(B);
    lowering.second_side = SecondSide { flow_rate_bps_max: Some(60_000), ..SecondSide::default() };
    let mut world = World::connected_with([config(A), lowering]);
    let before = everything(&world);
    world.nodes[A].log.clear();
    let record = admissible(world.would_admit(A, call("s", 5000, 100_000)));
    assert_eq!(record.peer, name("b"));
    for flow in &record.flows {
        assert_eq!((flow.asked_rate_bps, flow.meter.rate_bps, flow.label), (100_000, 60_000, None));
    }
    // Again, and by several at once.
    let tickets = [(); 3].map(|()| world.request(A, Request::WouldAdmit(call("s", 5000, 100_000))));
    for ticket in tickets {
        assert_eq!(admissible(world.wait(A, ticket)), record);
    }
    assert_eq!(everything(&world), before);
    assert_eq!((world.state(A, "s"), world.state(B, "s")), (None, None));
    assert_eq!(world.nodes[A].log, ["send question"; 4]);

    let (real, created) = session(world.create(A, call("s", 5000, 100_000)));
    assert!(created);
    assert_eq!(values(&real.flows), values(&record.flows));
    world.rest();
    world.check_rest();
}

#[test]
fn labels_and_attempts_are_those_of_a_world_without_questions() {
    let [quiet, asked] = [0, 5].map(|questions| {
        let mut world = World::connected();
        for _ in 0..questions {
            admissible(world.would_admit(A, call("s", 5000, 100_000)));
        }
        let flows = session(world.create(A, call("s", 5000, 100_000))).0.flows;
        flows.iter().map(|flow| (flow.label, flow.policy)).collect::<Vec<_>>()
    });
    let labels = |flows: &[(Option<_>, _)]| flows.iter().map(|(label, _)| *label).collect::<Vec<_>>();
    assert_eq!(labels(&quiet), labels(&asked));
    assert_eq!(quiet, asked);
}

/// What is refused is refused to a question with the same words and figures, whichever side refuses.
#[test]
fn a_no_is_the_one_that_the_request_would_get() {
    let mut strict = config(B);
    strict.second_side = SecondSide { flow_rate_bps_max: Some(400_000), ..SecondSide::default() };
    let mut world = World::connected_with([config(A), strict]);
    let full = call("full", 5000, 400_000);
    session(world.create(A, full));
    let now = world.now;
    let past = Schedule { starts_at: None, ends_at: Some(Nanos(1)) };
    let later = Schedule { starts_at: Some(now.plus(Nanos(1_000 * MS))), ends_at: Some(now.plus(Nanos(2_000 * MS))) };
    let booked = SessionRequest { schedule: later, ..call("booked", 5010, 400_000) };
    assert_eq!(session(world.create(A, booked)).0.state, SessionState::Booked);
    let mut same_ends = call("same-ends", 5000, 1_000);
    same_ends.flows[0].endpoints = endpoints(Family::Ipv4, (5000, 5000));
    let cases = [
        (call("more", 5002, 800_000), Reason::PoolRateExhausted),
        (SessionRequest { schedule: later, ..call("more", 5002, 400_000) }, Reason::PoolRateExhausted),
        (SessionRequest { flows: vec![flow("x", "none", (1, 1), 1_000)], ..call("x", 1, 1) }, Reason::UnknownAggregate),
        (SessionRequest { flows: vec![], ..call("x", 1, 1) }, Reason::InvalidValue),
        (SessionRequest { schedule: past, ..call("x", 5004, 1_000) }, Reason::InvalidValue),
        (same_ends, Reason::EndpointsInUse),
        (call("full", 5000, 300_000), Reason::SessionIdReused),
    ];
    for (request, expected) in cases {
        let before = everything(&world);
        let asked = refusal(world.would_admit(A, request.clone()));
        assert_eq!(asked.reason, expected, "{asked:?}");
        assert_eq!(everything(&world), before);
        let mut real = refusal(world.create(A, request));
        // Only the moment differs, and with it what "now" is.
        real.detail.clone_from(&asked.detail);
        assert_eq!(asked, real);
    }
    let mut second = World::connected_with([config(A), {
        let mut config = config(B);
        config.second_side = SecondSide { flow_rate_bps_max: Some(30_000), ..SecondSide::default() };
        config
    }]);
    let asked = refusal(second.would_admit(A, call("s", 5000, 100_000)));
    assert_eq!((asked.reason, asked.counter_offer_rate_bps), (Reason::SecondSideRefused, Some(30_000)));
    let before = everything(&second);
    assert_eq!(asked, refusal(second.would_admit(A, call("s", 5000, 100_000))));
    assert_eq!(everything(&second), before);
    assert_eq!(asked, refusal(second.create(A, call("s", 5000, 100_000))));
}

#[test]
fn the_second_sides_pool_is_asked_too() {
    let mut world = World::connected();
    // Held at the second side, which has not heard that it is over.
    session(world.create(A, call("s", 5000, 600_000)));
    world.lose("release");
    world.request(A, Request::DeleteSession(name("s")));
    world.run(100);
    let held = PeerRequest::WouldHoldSession {
        priority: turnpike_broker::Priority::LOWEST,
        preempting: Vec::new(),
        media_slots: turnpike_broker::media_slots::SlotCounts::new(),
        session: name("t"),
        schedule: Schedule::OPEN,
        sent_at: world.now,
        flows: vec![pair::hold_flow(flow("x", "ab", (7000, 7000), 900_000))],
    };
    let PeerAnswer::Refused { refusal } = world.peer_request(B, 1, held) else { panic!("B has no room") };
    let pool = refusal.pool.unwrap();
    assert_eq!((refusal.reason, pool.node.as_str(), pool.used_bps), (Reason::PoolRateExhausted, "b", 624_000));
    assert!(world.nodes[B].broker.refusals().is_empty(), "a question is no refusal");
    world.network = perfect();
    world.rest();
    world.check_rest();
}

#[test]
fn a_question_to_what_is_there_is_answered_as_the_repeated_request() {
    let mut world = World::connected();
    let (there, _) = session(world.create(A, call("s", 5000, 100_000)));
    assert_eq!(session(world.would_admit(A, call("s", 5000, 100_000))), (there, false));
}

#[test]
fn a_lost_question_or_answer_is_a_no_and_leaves_nothing() {
    for lost in ["question", "answer"] {
        let mut world = World::connected();
        let before = everything(&world);
        world.lose(lost);
        assert_eq!(reason(world.would_admit(A, call("s", 5000, 100_000))), Reason::PeerUnreachable);
        assert_eq!(everything(&world), before);
        world.network = perfect();
        admissible(world.would_admit(A, call("s", 5000, 100_000)));
        world.rest();
        world.check_rest();
    }
}

#[test]
fn an_answer_with_values_that_were_not_asked_is_a_no() {
    let mut world = World::connected();
    world.lose("question");
    let ticket = world.request(A, Request::WouldAdmit(call("s", 5000, 100_000)));
    world.answer_sent(A, PeerAnswer::WouldHold { flows: vec![], preempts: vec![] });
    assert_eq!(reason(world.wait(A, ticket)), Reason::SecondSideRefused);
}

#[test]
fn questions_under_way_are_bounded_and_counted() {
    let mut small = config(A);
    small.limits = Limits { questions_max: 2, ..small.limits };
    let mut world = World::connected_with([small, config(B)]);
    world.lose("question");
    let tickets =
        [1, 2, 3].map(|n| world.request(A, Request::WouldAdmit(call(&format!("s{n}"), 5000 + 2 * n, 100_000))));
    let answers = tickets.map(|ticket| reason(world.wait(A, ticket)));
    assert_eq!(answers, [Reason::PeerUnreachable, Reason::PeerUnreachable, Reason::LimitReached]);
    let table = world.nodes[A].broker.tables().into_iter().find(|table| table.name == "questions").unwrap();
    assert_eq!((table.used, table.max, table.full), (0, 2, 1));
}

#[test]
fn a_restart_forgets_questions() {
    let mut world = World::connected();
    world.lose("answer");
    world.request(A, Request::WouldAdmit(call("s", 5000, 100_000)));
    world.crash(A);
    world.restart(A);
    world.network = perfect();
    world.rest();
    world.check_rest();
}
