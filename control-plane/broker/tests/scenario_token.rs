//! Tokens: what the shell found is what counts, none is used twice, and who was refused has his back (R-004-15).
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod pair;

use pair::{A, B, World, call, config, name, reason, session};
use turnpike_broker::name::Nanos;
use turnpike_broker::record::SessionState;
use turnpike_broker::refusal::{Reason, Refusal};
use turnpike_broker::{Answer, Authorization, Limits, Request, Schedule, SessionRequest};

/// When all tokens here expire.
const EXPIRES_AT: Nanos = Nanos(1_000_000_000_000);

#[expect(clippy::unnecessary_wraps, reason = "it is one judge of two")]
fn genuine(token: &str) -> Result<Authorization, Box<Refusal>> {
    let (issuer, token_id, key_id) = ("i".to_owned(), token.to_owned(), "k".to_owned());
    Ok(Authorization { issuer, token_id, key_id, expires_at: EXPIRES_AT, rates_bps_max: vec![88_000] })
}

fn forged(_: &str) -> Result<Authorization, Box<Refusal>> {
    Err(Box::new(Refusal::new(Reason::TokenInvalid, "not with that key")))
}

fn world() -> World {
    judged(World::connected())
}

fn judged(mut world: World) -> World {
    for node in &mut world.nodes {
        node.judge = Some(genuine);
    }
    world
}

fn ask(world: &mut World, request: Request, token: &str) -> Answer {
    let ticket = world.request_with(A, request, Some(token));
    world.wait(A, ticket)
}

fn create(world: &mut World, request: SessionRequest, token: &str) -> Answer {
    ask(world, Request::CreateSession(request), token)
}

fn used(world: &World, node: usize) -> Vec<(&str, bool)> {
    world.nodes[node].store.tokens.values().map(|taken| (taken.token_id.as_str(), taken.used)).collect()
}

#[test]
fn a_token_is_used_once_at_either_side_over_restarts() {
    let mut world = world();
    let first = session(create(&mut world, call("s", 5000, 100_000), "t"));
    assert!(first.1);
    let authorization = first.0.authorization.unwrap();
    assert_eq!(authorization.token_id, "t");
    assert_eq!(authorization.check_rate(0, 88_000), Ok(()));
    for (flow, rate_bps) in [(0, 88_001), (1, 1)] {
        assert_eq!(authorization.check_rate(flow, rate_bps).unwrap_err().reason, Reason::TokenMismatch);
    }
    let again = session(create(&mut world, call("s", 5000, 100_000), "t"));
    assert_eq!((again.0.state, again.1), (SessionState::Active, false), "a repeated request is answered as before");
    assert_eq!(reason(create(&mut world, call("other", 5002, 100_000), "t")), Reason::TokenUsed);
    let question = Request::WouldAdmit(call("other", 5002, 100_000));
    assert_eq!(reason(ask(&mut world, question, "t")), Reason::TokenUsed);
    for node in [A, B] {
        assert_eq!(used(&world, node), [("t", true)]);
        world.crash(node);
        world.restart(node);
    }
    world.rest();
    assert_eq!(reason(create(&mut world, call("other", 5002, 100_000), "t")), Reason::TokenUsed);
    // The second side by itself: the first does not look any more.
    world.nodes[A].judge = None;
    assert_eq!(reason(create(&mut world, call("other", 5002, 100_000), "t")), Reason::TokenUsed);
    assert_eq!(world.nodes[B].broker.refusals()[&Reason::TokenUsed], 1);
    world.rest();
    assert_eq!(world.nodes[A].broker.sessions().count(), 1);
}

#[test]
fn a_session_that_is_over_does_not_come_again_with_its_token() {
    let mut few = config(A);
    few.limits = Limits { sessions_ended_max: 0, ..few.limits };
    let mut world = judged(World::connected_with([few, config(B)]));
    session(create(&mut world, call("s", 5000, 100_000), "t"));
    session(world.ask(A, Request::DeleteSession(name("s"))));
    assert!(world.nodes[A].broker.session(&name("s")).is_none(), "forgotten");
    assert_eq!(reason(create(&mut world, call("s", 5000, 100_000), "t")), Reason::TokenUsed);
    assert!(session(create(&mut world, call("s", 5000, 100_000), "t2")).1, "with another it does");
}

#[test]
fn who_was_refused_may_ask_again_with_the_same_token() {
    let mut world = world();
    assert_eq!(reason(create(&mut world, call("s", 5000, 1_000_000), "t")), Reason::PoolRateExhausted);
    world.nodes[B].install_failures = 1;
    assert_eq!(reason(create(&mut world, call("s", 5000, 100_000), "t")), Reason::InstallFailed);
    world.rest();
    // The data plane of B failed before the session was up anywhere.
    assert_eq!((used(&world, A), used(&world, B)), (vec![], vec![]));
    assert!(session(create(&mut world, call("s", 5000, 100_000), "t")).1);
}

#[test]
fn what_the_second_side_does_not_trust_leaves_nothing_at_either() {
    let mut world = world();
    world.nodes[B].judge = Some(forged);
    assert_eq!(reason(create(&mut world, call("s", 5000, 100_000), "t")), Reason::TokenInvalid);
    let question = Request::WouldAdmit(call("s", 5000, 100_000));
    assert_eq!(reason(ask(&mut world, question, "t")), Reason::TokenInvalid);
    world.rest();
    for node in &world.nodes {
        assert_eq!((node.broker.sessions().count(), node.broker.ended().count(), node.store.tokens.len()), (0, 0, 0));
        assert_eq!(node.broker.pool(&name("ab")).unwrap().used_bps, 0);
    }
    assert_eq!(world.nodes[B].broker.refusals()[&Reason::TokenInvalid], 1, "questions are not counted");
}

#[test]
fn a_booking_uses_its_token_and_one_that_waits_keeps_it_for_the_second_side() {
    let mut world = world();
    let later = SessionRequest { schedule: world.schedule(Some(50_000), Some(90_000)), ..call("b", 5000, 100_000) };
    assert_eq!(session(create(&mut world, later, "booked")).0.state, SessionState::Booked);
    assert_eq!(used(&world, B), [("booked", true)]);

    session(create(&mut world, call("full", 5002, 500_000), "full"));
    let until = world.clock(A).plus(Nanos(20_000_000_000));
    let wish = SessionRequest { schedule: Schedule::OPEN, ..call("w", 5004, 600_000) };
    let waits = Request::WaitForSession { request: wish.clone(), until };
    let record = session(ask(&mut world, waits.clone(), "w")).0;
    assert_eq!((record.state, record.token.as_deref()), (SessionState::Waiting, Some("w")));
    assert!(used(&world, A).contains(&("w", false)));
    world.crash(A);
    world.restart(A);
    session(world.ask(A, Request::DeleteSession(name("full"))));
    world.run(1_000);
    assert_eq!(world.nodes[A].broker.session(&name("w")).unwrap().state, SessionState::Offered);
    assert!(used(&world, B).contains(&("w", false)), "B was asked with it");
    let record = session(ask(&mut world, waits, "w")).0;
    assert_eq!((record.state, record.token), (SessionState::Active, None));
    assert!(used(&world, A).contains(&("w", true)) && used(&world, B).contains(&("w", true)));
}

#[test]
fn tokens_are_remembered_until_they_expire_and_no_more_than_there_is_place_for() {
    let mut small = config(A);
    small.limits = Limits { tokens_max: 1, ..small.limits };
    let mut world = judged(World::connected_with([small, config(B)]));
    session(create(&mut world, call("s", 5000, 100_000), "t"));
    assert_eq!(reason(create(&mut world, call("u", 5002, 100_000), "u")), Reason::LimitReached);
    let table = |world: &World| *world.nodes[A].broker.tables().iter().find(|table| table.name == "tokens").unwrap();
    assert_eq!((table(&world).used, table(&world).max, table(&world).full), (1, 1, 1));
    world.run(EXPIRES_AT.0 / 1_000_000);
    assert!(session(create(&mut world, call("u", 5002, 100_000), "u")).1);
    assert_eq!(used(&world, A), [("u", true)]);
}

#[test]
fn rates_of_a_session_that_is_there_stay_within_its_token_at_either_side() {
    for judged_at_first in [true, false] {
        let mut world = world();
        if !judged_at_first {
            world.nodes[A].judge = None;
        }
        assert!(session(create(&mut world, call("s", 5000, 80_000), "t")).1);
        let refused = pair::refusal(world.change_rates(A, "s", &[("there", 88_001, 1)]));
        assert_eq!((refused.reason, refused.field.as_deref()), (Reason::TokenMismatch, Some("flows[0].rate_bps")));
        assert!(session(world.change_rates(A, "s", &[("there", 88_000, 88_000)])).1);
        world.rest();
        world.check_rest();
    }
}
