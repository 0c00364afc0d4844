//! Bad requests, from clients and from peers: each is refused with what is wrong, and changes nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected is a failed test"
)]

mod pair;

use std::net::SocketAddr;

use pair::{A, B, World, call, endpoints, flow, hold_flow, name, reason, refusal, session};
use turnpike_broker::address::Family;
use turnpike_broker::message::{HeldFlow, HoldFlow, PeerAnswer, PeerRequest};
use turnpike_broker::name::{Label, Nanos};
use turnpike_broker::policy::{Excess, Rtcp::NextPort};
use turnpike_broker::record::{SessionState, Side};
use turnpike_broker::refusal::{Reason, Refusal};
use turnpike_broker::{Credential, FlowRequest, Input, Output, Request, Schedule, SessionRequest};

fn one(change: impl FnOnce(&mut FlowRequest)) -> SessionRequest {
    let mut flow = flow("out", "ab", (5000, 5000), 100_000);
    change(&mut flow);
    SessionRequest {
        priority: turnpike_broker::Priority::LOWEST,
        media_slots: turnpike_broker::media_slots::MediaSlots::default(),
        schedule: Schedule::OPEN,
        id: name("s"),
        flows: vec![flow],
    }
}

fn one_ipv6(change: impl FnOnce(&mut FlowRequest)) -> SessionRequest {
    one(|flow| {
        flow.endpoints = endpoints(Family::Ipv6, (5000, 5000));
        change(flow);
    })
}

fn ipv6(address: &str) -> SocketAddr {
    format!("[{address}]:5000").parse().unwrap()
}

fn odd(address: &str) -> SocketAddr {
    format!("{address}:5001").parse().unwrap()
}

#[allow(clippy::unnecessary_wraps, reason = "as the field has it")]
fn excess(rate_bps: u64, burst_bytes: u32) -> Option<Excess> {
    Some(Excess { rate_bps, burst_bytes })
}

fn hold(session: &str, attempt: u64, change: impl FnOnce(&mut HoldFlow)) -> PeerRequest {
    let flow = flow("out", "ab", (5000, 5000), 100_000);
    let mut flow = hold_flow(flow);
    change(&mut flow);
    PeerRequest::HoldSession {
        priority: turnpike_broker::Priority::LOWEST,
        preempting: Vec::new(),
        media_slots: turnpike_broker::media_slots::SlotCounts::new(),
        schedule: Schedule::OPEN,
        sent_at: Nanos(0),
        offer: false,
        session: name(session),
        attempt,
        flows: vec![flow],
    }
}

fn commit(attempt: u64) -> PeerRequest {
    PeerRequest::CommitSession { session: name("s"), attempt }
}

fn release(attempt: u64) -> PeerRequest {
    PeerRequest::ReleaseSession { session: name("s"), side: Side::First, attempt, failure: None }
}

fn refused(answer: PeerAnswer) -> Refusal {
    match answer {
        PeerAnswer::Refused { refusal } => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_bad_value_is_refused_with_its_field_and_what_is_allowed() {
    type Case = (SessionRequest, &'static str, &'static str);
    let cases: Vec<Case> = vec![
        (
            SessionRequest {
                priority: turnpike_broker::Priority::LOWEST,
                media_slots: turnpike_broker::media_slots::MediaSlots::default(),
                schedule: Schedule::OPEN,
                id: name("s"),
                flows: vec![],
            },
            "flows",
            "1 to 16",
        ),
        (
            SessionRequest {
                priority: turnpike_broker::Priority::LOWEST,
                media_slots: turnpike_broker::media_slots::MediaSlots::default(),
                schedule: Schedule::OPEN,
                id: name("s"),
                flows: vec![one(|_| ()).flows[0].clone(); 17],
            },
            "flows",
            "17 flows",
        ),
        (one(|f| f.meter.rate_bps = 0), "flows[0].rate_bps", "is 0; allowed: 1 to 1000000"),
        (one(|f| f.meter.rate_bps = 1_000_001), "flows[0].rate_bps", "1000001"),
        (one(|f| f.rate_bps_min = 0), "flows[0].rate_bps_min", "1 to 100000"),
        (one(|f| f.rate_bps_min = 100_001), "flows[0].rate_bps_min", "1 to 100000"),
        (one(|f| f.meter.packet_bytes_min = 27), "flows[0].packet_bytes_min", "28 to 9000"),
        (one(|f| f.meter.packet_bytes_min = 9001), "flows[0].packet_bytes_min", "28 to 9000"),
        (one(|f| f.meter.burst_bytes = 199), "flows[0].burst_bytes", "200 or more"),
        (one(|f| f.endpoints.source.set_port(0)), "flows[0].source", "port"),
        (one(|f| f.endpoints.destination.set_port(0)), "flows[0].destination", "port"),
        (one(|f| f.endpoints.source.set_ip([0; 4].into())), "flows[0].source", "unicast"),
        (one(|f| f.endpoints.destination.set_ip([224, 0, 0, 1].into())), "flows[0].destination", "unicast"),
        (one(|f| f.endpoints.destination.set_ip([255; 4].into())), "flows[0].destination", "unicast"),
        (one(|f| f.endpoints.source.set_ip([127, 0, 0, 1].into())), "flows[0].source", "loopback"),
        (one(|f| f.endpoints.destination = f.endpoints.source), "flows[0].destination", "another than the source"),
        (one(|f| f.media.clock_rate_hz = Some(999)), "flows[0].media.clock_rate_hz", "999; allowed: 1000 to 10000000"),
        (one(|f| f.media.codec = Some(name("x"))), "flows[0].media.clock_rate_hz", "codec x has no rate known here"),
        (one(|f| f.endpoints.destination = ipv6("::2")), "flows[0].destination", "an IPv4 address, as the source has"),
        (one(|f| f.endpoints.source = ipv6("::2")), "flows[0].destination", "an IPv6 address, as the source has"),
        (one_ipv6(|f| f.endpoints.source = ipv6("::")), "flows[0].source", "unicast"),
        (one_ipv6(|f| f.endpoints.source = ipv6("::1")), "flows[0].source", "loopback"),
        (one_ipv6(|f| f.endpoints.source = ipv6("ff0e::1")), "flows[0].source", "unicast"),
        (one_ipv6(|f| f.endpoints.source = ipv6("fe80::1")), "flows[0].source", "link-local"),
        (one_ipv6(|f| f.endpoints.destination = ipv6("::ffff:10.0.1.1")), "flows[0].destination", "mapped"),
        (one_ipv6(|f| f.endpoints.destination = ipv6("2001:db8::2%7")), "flows[0].destination", "without a scope"),
        (one_ipv6(|f| f.endpoints.destination = f.endpoints.source), "flows[0].destination", "another than the source"),
        (one_ipv6(|f| f.meter.packet_bytes_min = 47), "flows[0].packet_bytes_min", "48 to 9000"),
        (one(|f| (f.rtcp, f.endpoints.source) = (NextPort, odd("10.0.0.1"))), "flows[0].source", "an even port"),
        (
            one(|f| (f.rtcp, f.endpoints.destination) = (NextPort, odd("10.0.1.1"))),
            "flows[0].destination",
            "an even port",
        ),
        (one(|f| f.meter.excess = excess(0, 600)), "flows[0].excess.rate_bps", "1 to 1000000"),
        (one(|f| f.meter.excess = excess(1_000_001, 600)), "flows[0].excess.rate_bps", "the rate of aggregate ab"),
        (one(|f| f.meter.excess = excess(1_000, 199)), "flows[0].excess.burst_bytes", "200, one packet"),
        (
            one(|f| f.meter.excess = excess(1_000, 20_001)),
            "flows[0].excess.burst_bytes",
            "20000, the burst of aggregate ab",
        ),
    ];
    let mut world = World::connected();
    let count = cases.len() as u64;
    for (request, field, text) in cases {
        let refusal = refusal(world.create(A, request));
        assert_eq!((refusal.reason, refusal.field.as_deref()), (Reason::InvalidValue, Some(field)));
        assert!(refusal.detail.contains(text), "{}", refusal.detail);
    }
    assert_eq!(world.nodes[A].broker.refusals()[&Reason::InvalidValue], count);
    assert_eq!(world.pool_used(A, "ab"), 0);
    world.rest();
    world.check_rest();
}

#[test]
fn the_second_flow_is_named_when_it_is_the_wrong_one() {
    let mut world = World::connected();
    let mut request = call("s", 5000, 100_000);
    request.flows[1].meter.rate_bps = 0;
    assert_eq!(refusal(world.create(A, request)).field.as_deref(), Some("flows[1].rate_bps"));
    let mut request = call("s", 5000, 100_000);
    request.flows[1].id = name("there");
    assert_eq!(refusal(world.create(A, request)).field.as_deref(), Some("flows[1].id"));
    let mut request = call("s", 5000, 100_000);
    request.flows[1].aggregate = name("nowhere");
    let refusal = refusal(world.create(A, request));
    assert_eq!((refusal.reason, refusal.field.as_deref()), (Reason::UnknownAggregate, Some("flows[1].aggregate")));
    assert_eq!(world.pool_used(A, "ab"), 0);
}

#[test]
fn endpoints_are_carried_by_one_flow_in_each_direction() {
    let mut world = World::connected();
    world.create(A, call("s", 5000, 100_000));
    assert_eq!(reason(world.create(A, call("t", 5000, 100_000))), Reason::EndpointsInUse);
    let twice = vec![flow("1", "ab", (6000, 6000), 1_000), flow("2", "ab", (6000, 6000), 1_000)];
    assert_eq!(
        reason(world.create(
            A,
            SessionRequest {
                priority: turnpike_broker::Priority::LOWEST,
                media_slots: turnpike_broker::media_slots::MediaSlots::default(),
                schedule: Schedule::OPEN,
                id: name("t"),
                flows: twice
            }
        )),
        Reason::EndpointsInUse
    );
    world.delete(A, "s");
    assert!(session(world.create(A, call("t", 5000, 100_000))).1);
}

#[test]
fn a_request_while_the_session_is_set_up_or_ended_is_busy_and_deletes_join() {
    let mut world = World::connected();
    let first = world.request(A, Request::CreateSession(call("s", 5000, 100_000)));
    assert_eq!(reason(world.create(A, call("s", 5000, 100_000))), Reason::Busy);
    assert_eq!(reason(world.delete(A, "s")), Reason::Busy);
    assert!(session(world.wait(A, first)).1);
    let delete = world.request(A, Request::DeleteSession(name("s")));
    let again = world.request(A, Request::DeleteSession(name("s")));
    assert_eq!(reason(world.create(A, call("s", 5000, 100_000))), Reason::Busy);
    let (ended, created) = session(world.wait(A, delete));
    assert!(created);
    assert_eq!(session(world.wait(A, again)), (ended, false));
}

#[test]
fn an_unknown_session_is_refused_to_clients_and_released_to_peers() {
    let mut world = World::connected();
    assert_eq!(reason(world.delete(A, "s")), Reason::UnknownSession);
    assert_eq!(world.peer_request(B, 1, release(7)), PeerAnswer::Released { usage: vec![] });
    assert_eq!(refused(world.peer_request(B, 1, commit(7))).reason, Reason::UnknownSession);
}

#[test]
fn a_peers_hold_is_checked_as_a_clients_request_is() {
    let mut world = World::connected();
    let bad: Vec<(PeerRequest, Reason, &str)> = vec![
        (hold("s", 1, |f| f.meter.rate_bps = 0), Reason::InvalidValue, "flows[0].rate_bps"),
        (hold("s", 2, |f| f.aggregate = name("nowhere")), Reason::UnknownAggregate, "flows[0].aggregate"),
        (hold("s", 3, |f| f.label = Some(Label(1))), Reason::InvalidValue, "flows[0].label"),
        (hold("s", 4, |f| f.aggregate = name("ba")), Reason::InvalidValue, "flows[0].label"),
        (hold("s", 0, |_| ()), Reason::InvalidValue, "attempt"),
        (
            hold("s", 5, |f| (f.aggregate, f.label) = (name("ba"), Some(Label(1 << 40)))),
            Reason::InvalidValue,
            "flows[0].label",
        ),
    ];
    for (request, reason, field) in bad {
        let refusal = refused(world.peer_request(B, 1, request));
        assert_eq!((refusal.reason, refusal.field.as_deref()), (reason, Some(field)));
    }
    world.rest();
    world.check_rest();
}

#[test]
fn a_repeated_hold_gets_the_same_answer_and_another_content_is_refused() {
    let mut world = World::connected();
    let answer = world.peer_request(B, 1, hold("s", 1, |_| ()));
    assert!(matches!(answer, PeerAnswer::Held { .. }));
    assert_eq!(world.peer_request(B, 1, hold("s", 1, |_| ())), answer);
    let other = world.peer_request(B, 1, hold("s", 1, |f| f.meter.rate_bps += 1));
    assert_eq!(refused(other).reason, Reason::SessionIdReused);
    assert_eq!(world.pool_used(B, "ab"), 104_000);
}

#[test]
fn a_hold_lapses_without_a_commit_and_a_late_commit_or_copy_is_refused() {
    let mut world = World::connected();
    assert!(matches!(world.peer_request(B, 1, hold("s", 1, |_| ())), PeerAnswer::Held { .. }));
    world.run(9_999);
    assert_eq!(world.state(B, "s"), Some(SessionState::Held));
    world.run(2);
    assert_eq!((world.state(B, "s"), world.pool_used(B, "ab")), (None, 0));
    assert_eq!(refused(world.peer_request(B, 1, commit(1))).reason, Reason::UnknownSession);
    assert_eq!(refused(world.peer_request(B, 1, hold("s", 1, |_| ()))).reason, Reason::StaleEpoch);
    assert!(matches!(world.peer_request(B, 1, hold("s", 2, |_| ())), PeerAnswer::Held { .. }));
    world.rest();
    world.check_rest();
}

#[test]
fn a_commit_belongs_to_its_own_hold() {
    let mut world = World::connected();
    world.peer_request(B, 1, hold("s", 2, |_| ()));
    assert_eq!(refused(world.peer_request(B, 1, commit(1))).reason, Reason::UnknownSession);
    assert_eq!(world.state(B, "s"), Some(SessionState::Held));
}

#[test]
fn a_late_release_of_an_earlier_hold_does_not_touch_the_next_one() {
    let mut world = World::connected();
    world.peer_request(B, 1, hold("s", 1, |_| ()));
    world.peer_request(B, 1, release(1));
    world.peer_request(B, 1, hold("s", 2, |_| ()));
    assert_eq!(world.peer_request(B, 1, release(1)), PeerAnswer::Released { usage: vec![] });
    assert_eq!(world.state(B, "s"), Some(SessionState::Held));
    assert!(matches!(world.peer_request(B, 1, release(2)), PeerAnswer::Released { .. }));
    assert_eq!(world.state(B, "s"), None);
}

#[test]
fn a_hold_that_the_first_side_begins_anew_belongs_to_the_new_attempt() {
    let mut world = World::connected();
    let first = world.peer_request(B, 1, hold("s", 1, |_| ()));
    world.run(6_000);
    assert_eq!(world.peer_request(B, 1, hold("s", 2, |_| ())), first);
    world.run(6_000);
    assert_eq!(world.state(B, "s"), Some(SessionState::Held), "its time begins anew");
    assert_eq!(refused(world.peer_request(B, 1, commit(1))).reason, Reason::UnknownSession);
    world.run(4_001);
    assert_eq!(world.state(B, "s"), None);
}

#[test]
fn a_hold_lapses_at_its_time_though_the_tick_is_late() {
    let mut world = World::connected();
    world.peer_request(B, 1, hold("s", 1, |_| ()));
    world.now = world.now.plus(Nanos::from_millis(10_000));
    assert_eq!(refused(world.peer_request(B, 1, commit(1))).reason, Reason::UnknownSession);
}

#[test]
fn a_second_sides_release_of_another_attempt_does_not_touch_the_session() {
    let mut world = World::connected();
    world.create(A, call("s", 5000, 100_000));
    let other = PeerRequest::ReleaseSession { session: name("s"), side: Side::Second, attempt: 1, failure: None };
    assert_eq!(world.peer_request(A, 1, other), PeerAnswer::Released { usage: vec![] });
    assert_eq!(world.state(A, "s"), Some(SessionState::Active));
    let same_side =
        PeerRequest::ReleaseSession { session: name("s"), side: Side::First, attempt: u64::MAX, failure: None };
    assert_eq!(world.peer_request(A, 1, same_side), PeerAnswer::Released { usage: vec![] });
    assert_eq!(world.state(A, "s"), Some(SessionState::Active));
}

#[test]
fn a_late_copy_of_an_ended_sessions_hold_is_refused_though_both_sides_were_restarted_before() {
    let mut world = World::connected();
    let (record, _) = session(world.create(A, call("s", 5000, 100_000)));
    for node in [A, B] {
        world.crash(node);
        world.restart(node);
    }
    world.delete(A, "s");
    let late = world.peer_request(B, 2, hold("s", record.flows[0].policy.0, |_| ()));
    assert_eq!(refused(late).reason, Reason::StaleEpoch);
}

#[test]
fn a_commit_is_repeatable() {
    let mut world = World::connected();
    let (record, _) = session(world.create(A, call("s", 5000, 100_000)));
    let attempt = record.flows[0].policy.0;
    assert_eq!(world.peer_request(B, 1, commit(attempt)), PeerAnswer::Committed);
    assert_eq!(world.nodes[B].store.ledger.len(), 1);
}

#[test]
fn a_peers_earlier_life_is_not_heard() {
    let mut world = World::connected();
    assert_eq!(world.peer_request(B, 5, release(9)), PeerAnswer::Released { usage: vec![] });
    let late = refused(world.peer_request(B, 4, hold("s", 10, |_| ())));
    assert_eq!(late.reason, Reason::StaleEpoch);
    assert!(late.detail.contains("restart b"), "the way out if a's database was lost: {}", late.detail);
    assert_eq!(world.nodes[B].broker.refusals()[&Reason::StaleEpoch], 1);
    assert!(matches!(world.peer_request(B, 5, hold("s", 10, |_| ())), PeerAnswer::Held { .. }));
}

#[test]
fn a_tick_that_comes_too_early_is_asked_for_again() {
    let mut world = World::connected();
    world.peer_request(B, 1, hold("s", 1, |_| ()));
    let broker = &mut world.nodes[B].broker;
    broker.handle(Input::Tick, world.now);
    assert_eq!(broker.poll(), Some(Output::WakeAt(world.now.plus(Nanos::from_millis(10_000)))));
    assert_eq!(broker.poll(), None);
}

/// Runs a's side alone, up to the answer to its hold, which `lie` may change.
fn with_lying_peer(lie: impl FnOnce(&mut Vec<HeldFlow>)) -> (World, turnpike_broker::Answer) {
    let mut world = World::connected();
    world.lose("hold");
    let now = world.now;
    let node = &mut world.nodes[A];
    let mut call = call("s", 5000, 100_000);
    call.flows[0].meter.excess = excess(50_000, 600);
    let request = Request::CreateSession(call);
    node.broker.handle(Input::Request { ticket: 1_000_000, request, credential: Credential::default() }, now);
    let mut sent = None;
    while let Some(output) = node.broker.poll() {
        match output {
            Output::Send { ticket, request: PeerRequest::HoldSession { flows, .. }, .. } => {
                sent = Some((ticket, flows))
            }
            Output::Persist(_) | Output::WakeAt(_) => {}
            other => panic!("not expected: {other:?}"),
        }
    }
    let (ticket, flows) = sent.unwrap();
    let mut held: Vec<HeldFlow> = flows
        .into_iter()
        .map(|flow| {
            let label = flow.label.is_none().then_some(Label(0x12345_00001));
            HeldFlow { id: flow.id, meter: flow.meter, quality: flow.quality, label }
        })
        .collect();
    lie(&mut held);
    node.broker.handle(Input::PeerAnswered { ticket, answer: Ok(PeerAnswer::Held { flows: held }) }, now);
    let mut answer = None;
    while let Some(output) = node.broker.poll() {
        match output {
            Output::Answer { answer: given, .. } => answer = Some(given),
            Output::Install { .. } => panic!("the lie is believed"),
            _ => {}
        }
    }
    (world, answer.unwrap())
}

#[test]
fn a_second_side_that_answers_what_it_may_not_is_refused() {
    let lies: [fn(&mut Vec<HeldFlow>); 12] = [
        |held| held[0].meter.rate_bps += 1,
        |held| held[0].meter.rate_bps = 49_999,
        |held| held[0].meter.burst_bytes += 1,
        |held| held[0].meter.excess = excess(50_001, 600),
        |held| held[0].meter.excess = excess(0, 600),
        |held| held[0].meter.excess = excess(50_000, 601),
        |held| held[1].meter.excess = excess(1, 600),
        |held| held[0].label = None,
        |held| held[0].label = Some(Label(1 << 40)),
        |held| held[1].label = Some(Label(1)),
        |held| held.swap(0, 1),
        |held| drop(held.pop()),
    ];
    for lie in lies {
        let (world, answer) = with_lying_peer(lie);
        assert_eq!(reason(answer), Reason::SecondSideRefused);
        assert_eq!(world.pool_used(A, "ab"), 0);
    }
}
