//! Sessions in a world where something fails: the network, a data plane, a node. Nothing is left over.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected is a failed test"
)]

mod pair;

use pair::{A, B, MS, World, call, config, counted, flow, name, perfect, reason, session};
use turnpike_broker::message::{PeerAnswer, PeerRequest};
use turnpike_broker::name::{Nanos, PolicyId};
use turnpike_broker::policy::{Dscp, Policy};
use turnpike_broker::record::{Direction, SessionState, UsageKind};
use turnpike_broker::refusal::Reason;
use turnpike_broker::{Request, Schedule, SessionRequest};

fn recover(world: &mut World) {
    world.network = perfect();
    world.rest();
    world.check_rest();
}

#[test]
fn silence_is_a_refusal_whatever_message_is_lost() {
    for lost in ["hold", "commit", "answer"] {
        let mut world = World::connected();
        world.lose(lost);
        let begin = world.now;
        assert_eq!(reason(world.create(A, call("s", 5000, 100_000))), Reason::PeerUnreachable, "{lost}");
        let waited = (world.now.0 - begin.0) / MS;
        assert!((3_000..3_100).contains(&waited), "{lost}: refused after {waited} ms");
        assert_eq!((world.flows_in_plane(A), world.pool_used(A, "ab")), (0, 0));
        recover(&mut world);
        assert_eq!(world.flows_in_plane(B), 0);
        assert!(session(world.create(A, call("s", 5000, 100_000))).1, "the same id can be tried again");
    }
}

#[test]
fn a_commit_whose_answer_is_lost_is_undone_at_the_second_side() {
    let mut world = World::connected();
    let mut answers = 0;
    world.network = Box::new(move |_, kind| {
        answers += usize::from(kind == "answer");
        if kind == "answer" && answers == 2 { vec![] } else { vec![1] }
    });
    let ticket = world.request(A, Request::CreateSession(call("s", 5000, 100_000)));
    world.run(100);
    assert_eq!(
        (world.state(A, "s"), world.state(B, "s")),
        (Some(SessionState::Committing), Some(SessionState::Active))
    );
    assert_eq!(reason(world.wait(A, ticket)), Reason::PeerUnreachable);
    recover(&mut world);
    assert_eq!((world.state(A, "s"), world.state(B, "s")), (None, Some(SessionState::Ended)));
    assert_eq!((world.nodes[A].store.ledger.len(), world.nodes[B].store.ledger.len()), (0, 2));
    assert!(session(world.create(A, call("s", 5000, 100_000))).1, "the same id can be tried again");
}

#[test]
fn a_late_word_of_a_second_side_that_was_started_again_does_not_end_a_later_session_of_that_id() {
    const LATE_MS: u64 = 9_000;
    let mut world = World::connected();
    let (mut answers, mut releases) = (0, 0);
    world.network = Box::new(move |from, kind| {
        answers += usize::from(kind == "answer");
        releases += usize::from(from == B && kind == "release");
        match (from, kind, releases) {
            // That the commit was done, and what the second side says before it is started again.
            (_, "answer", _) if answers == 2 => vec![],
            (B, "release", 1) => vec![],
            (B, "release", 2) => vec![LATE_MS],
            _ => vec![1],
        }
    });
    let ticket = world.request(A, Request::CreateSession(call("s", 5000, 100_000)));
    world.run(100);
    world.request(B, Request::DeleteSession(name("s")));
    world.run(100);
    world.crash(B);
    world.restart(B);
    assert_eq!(reason(world.wait(A, ticket)), Reason::PeerUnreachable);
    world.run(4_000);
    let (record, created) = session(world.create(A, call("s", 5000, 100_000)));
    assert!(created && record.state == SessionState::Active, "{record:?}");
    world.run(2 * LATE_MS);
    assert_eq!((world.state(A, "s"), world.state(B, "s")), (Some(SessionState::Active), Some(SessionState::Active)));
    recover(&mut world);
}

#[test]
fn a_session_tried_again_is_not_forgotten_with_its_earlier_attempt() {
    let mut small = config(B);
    small.limits.sessions_ended_max = 1;
    let mut world = World::connected_with([config(A), small]);
    let mut answers = 0;
    world.network = Box::new(move |_, kind| {
        answers += usize::from(kind == "answer");
        if kind == "answer" && answers == 2 { vec![] } else { vec![1] }
    });
    assert_eq!(reason(world.create(A, call("s", 5000, 100_000))), Reason::PeerUnreachable);
    recover(&mut world);
    assert!(session(world.create(A, call("s", 5000, 100_000))).1);
    world.create(A, call("t", 5001, 100_000));
    world.delete(A, "t");
    recover(&mut world);
    assert_eq!(world.nodes[B].store.sessions[&name("s")].state, SessionState::Active);
    assert_eq!(world.nodes[B].broker.ended().count(), 1);
}

#[test]
fn a_failed_installation_on_either_side_undoes_both_and_is_said() {
    for failing in [A, B] {
        let mut world = World::connected();
        world.nodes[failing].install_failures = 1;
        assert_eq!(reason(world.create(A, call("s", 5000, 100_000))), Reason::InstallFailed);
        assert_eq!((world.flows_in_plane(A), world.pool_used(A, "ab")), (0, 0));
        recover(&mut world);
        assert_eq!(world.pool_used(B, "ab"), 0);
        assert!(session(world.create(A, call("s", 5000, 100_000))).1);
    }
}

#[test]
fn a_release_is_repeated_with_growing_pauses_until_it_is_answered() {
    let mut world = World::connected();
    world.create(A, call("s", 5000, 100_000));
    world.nodes[A].log.clear();
    world.lose("release");
    let (ended, created) = session(world.delete(A, "s"));
    assert!(created);
    assert_eq!((ended.state, ended.usage.len()), (SessionState::Ended, 2));
    assert_eq!((world.flows_in_plane(A), world.pool_used(A, "ab")), (0, 0));
    assert_eq!(world.flows_in_plane(B), 2);
    world.run(60_000);
    let releases = world.nodes[A].log.iter().filter(|line| *line == "send release").count();
    assert!((5..=10).contains(&releases), "{releases} releases in a minute");
    recover(&mut world);
    let kept = world.nodes[A].broker.session(&name("s")).unwrap();
    assert_eq!(kept.usage.len(), 4, "the peer's part came in the end");
    assert_eq!(world.nodes[A].store.ledger.len(), 2, "and the ledger's lines stand");
    assert_eq!(world.nodes[A].store.sessions[&name("s")].state, SessionState::Ended);
}

#[test]
fn both_sides_may_end_a_session_at_the_same_time() {
    let mut world = World::connected();
    world.create(A, call("s", 5000, 100_000));
    let tickets = [A, B].map(|node| world.request(node, Request::DeleteSession(name("s"))));
    let begin = world.now;
    for node in [A, B] {
        let (ended, created) = session(world.wait(node, tickets[node]));
        assert!(created);
        assert_eq!((ended.state, ended.usage.len()), (SessionState::Ended, 4));
    }
    assert!((world.now.0 - begin.0) / MS < 100, "neither waits for the other's silence");
    recover(&mut world);
}

#[test]
fn both_sides_may_begin_the_same_session_at_the_same_time_and_neither_leaks() {
    let mut world = World::connected();
    let tickets = [A, B].map(|node| world.request(node, Request::CreateSession(call("s", 5000, 100_000))));
    for node in [A, B] {
        assert!(matches!(reason(world.wait(node, tickets[node])), Reason::SessionIdReused | Reason::Busy));
    }
    recover(&mut world);
    assert!(session(world.create(B, call("s", 5000, 100_000))).1);
}

#[test]
fn active_sessions_survive_the_restart_of_either_side_untouched() {
    for restarted in [A, B] {
        let mut world = World::connected();
        world.create(A, call("s", 5000, 100_000));
        let before = world.nodes[restarted].plane.clone();
        world.nodes[restarted].log.clear();
        world.crash(restarted);
        world.restart(restarted);
        world.rest();
        world.check_rest();
        assert_eq!(world.nodes[restarted].plane, before);
        assert!(world.nodes[restarted].log.is_empty(), "{:?}", world.nodes[restarted].log);
        assert_eq!(reason(world.create(A, call("t", 5000, 100_000))), Reason::EndpointsInUse);
        let (record, _) = session(world.create(A, call("t", 5001, 100_000)));
        let ids: Vec<PolicyId> = record.flows.iter().map(|flow| flow.policy).collect();
        assert!(ids.iter().all(|id| !before.contains_key(id)), "policy ids never repeat");
        let (ended, _) = session(world.delete(A, "s"));
        assert_eq!(ended.usage.len(), 4);
        recover(&mut world);
    }
}

#[test]
fn active_sessions_are_installed_again_after_the_host_went_down() {
    for restarted in [A, B] {
        let mut world = World::connected();
        world.create(A, call("s", 5000, 100_000));
        let before = world.nodes[restarted].plane.clone();
        world.crash_host(restarted);
        world.restart(restarted);
        world.rest();
        world.check_rest();
        assert_eq!(world.nodes[restarted].plane, before);
    }
}

#[test]
fn nothing_is_confirmed_while_it_is_being_installed_again() {
    let mut world = World::connected();
    let request = call("s", 5000, 100_000);
    let (record, _) = session(world.create(A, request.clone()));
    let attempt = record.flows[0].policy.0;
    // The second side, where a late commit comes; by the first side's retry it is there again.
    world.crash_host(B);
    world.restart(B);
    let commit = || PeerRequest::CommitSession { session: name("s"), attempt };
    let PeerAnswer::Refused { refusal } = world.peer_request(B, 1, commit()) else { panic!("confirmed too early") };
    assert_eq!((refusal.reason, world.flows_in_plane(B)), (Reason::Busy, 2));
    world.rest();
    assert_eq!(world.peer_request(B, 1, commit()), PeerAnswer::Committed);
    // The first side, where the client asks again, or for another end.
    world.crash_host(A);
    world.restart(A);
    let end = world.now.plus(Nanos(60_000_000_000));
    let asked = [
        world.request(A, Request::CreateSession(request.clone())),
        world.request(A, Request::ChangeSessionEnd { id: name("s"), ends_at: Some(end) }),
    ];
    for ticket in asked {
        assert_eq!(reason(world.wait(A, ticket)), Reason::Busy);
    }
    world.rest();
    let (record, created) = session(world.create(A, request));
    assert_eq!((record.state, created), (SessionState::Active, false));
    world.check_rest();
}

#[test]
fn a_session_that_cannot_be_installed_again_is_ended_at_both_sides() {
    let mut world = World::connected();
    world.create(A, call("s", 5000, 100_000));
    world.crash_host(A);
    world.nodes[A].install_failures = 3;
    world.restart(A);
    recover(&mut world);
    assert_eq!((world.state(A, "s"), world.state(B, "s")), (Some(SessionState::Ended), Some(SessionState::Ended)));
}

#[test]
fn a_session_that_was_half_set_up_when_the_first_side_died_is_gone_from_both() {
    for after_ms in 0..8 {
        let mut world = World::connected();
        world.request(A, Request::CreateSession(call("s", 5000, 100_000)));
        world.run(after_ms);
        assert_ne!(world.state(A, "s"), Some(SessionState::Active));
        world.crash(A);
        world.restart(A);
        recover(&mut world);
        assert_eq!(world.flows_in_plane(A), 0, "died after {after_ms} ms");
    }
}

#[test]
fn a_session_that_was_half_set_up_when_the_second_side_died_is_what_the_client_was_told() {
    let mut told = std::collections::BTreeSet::new();
    for after_ms in 0..8 {
        let mut world = World::connected();
        let ticket = world.request(A, Request::CreateSession(call("s", 5000, 100_000)));
        world.run(after_ms);
        world.crash(B);
        world.restart(B);
        let answer = world.wait(A, ticket);
        recover(&mut world);
        let up = matches!(answer, turnpike_broker::Answer::Session { .. });
        assert_eq!(world.flows_in_plane(B), if up { 2 } else { 0 }, "died after {after_ms} ms: {answer:?}");
        told.insert(up);
    }
    assert_eq!(told.len(), 2, "the deaths come before and after the commit");
}

#[test]
fn a_session_that_was_half_ended_when_a_node_died_is_ended_at_both_and_counted_once() {
    for dying in [A, B] {
        for after_ms in 0..12 {
            let mut world = World::connected();
            let (record, _) = session(world.create(A, call("s", 5000, 100_000)));
            world.request(A, Request::DeleteSession(name("s")));
            world.run(after_ms);
            world.crash(dying);
            world.restart(dying);
            recover(&mut world);
            assert_eq!(world.state(A, "s"), Some(SessionState::Ended), "{dying} died after {after_ms} ms");
            assert_eq!(world.flows_in_plane(A) + world.flows_in_plane(B), 0);
            let out = record.flows.iter().find(|flow| flow.direction == Direction::Out).unwrap();
            let kept = world.nodes[A].broker.session(&name("s")).unwrap();
            let reading = kept.usage.iter().find(|usage| usage.flow == out.id).unwrap();
            let noted = dying == B || after_ms >= 2;
            assert!(
                !noted || reading.counters == Some(counted(out.policy)),
                "a reading that was had is kept: {after_ms} ms"
            );
            if dying == B {
                let kept = world.nodes[A].broker.session(&name("s")).unwrap();
                let own: Vec<_> = kept.usage.iter().take(2).map(|usage| usage.counters).collect();
                assert_eq!(own, record.flows.iter().map(|flow| Some(counted(flow.policy))).collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn a_release_that_was_not_confirmed_is_asked_again_after_a_restart() {
    let mut world = World::connected();
    world.create(A, call("s", 5000, 100_000));
    world.lose("release");
    world.delete(A, "s");
    world.crash(A);
    world.restart(A);
    assert_eq!(world.state(A, "s"), Some(SessionState::Ended));
    recover(&mut world);
    assert_eq!(world.flows_in_plane(B), 0);
    assert_eq!(world.nodes[A].store.ledger.len(), 2);
    assert_eq!(world.nodes[A].broker.session(&name("s")).unwrap().usage.len(), 4);
}

#[test]
fn what_a_given_up_session_held_stays_its_next_holders_after_a_restart() {
    let mut first = config(A);
    first.limits.flows_max = 1;
    let mut world = World::connected_with([first, config(B)]);
    world.network = Box::new(|node, _| if node == A { vec![] } else { vec![1] });
    assert_eq!(reason(world.create(A, call("s", 5000, 600_000))), Reason::PeerUnreachable);
    world.network = Box::new(|_, kind| if kind == "release" { vec![] } else { vec![1] });
    assert!(session(world.create(A, call("t", 5000, 600_000))).1, "in the only place, with the same endpoints");
    world.crash(A);
    world.restart(A);
    assert_eq!(world.pool_used(A, "ab"), 624_000);
    recover(&mut world);
    assert_eq!(world.state(A, "s"), None);
    assert_eq!(reason(world.create(A, call("u", 5000, 1_000))), Reason::EndpointsInUse);
    assert_eq!(reason(world.create(A, call("u", 5001, 1_000))), Reason::LimitReached);
}

#[test]
fn a_policy_that_no_record_knows_is_deinstalled_at_the_restart() {
    let mut world = World::connected();
    world.crash(A);
    let orphan =
        Policy::AggregateOut { peer: name("b"), rate_bps: 1, burst_bytes: 1, dscp: Dscp::Copy, excess_dscp: None };
    world.nodes[A].plane.insert(PolicyId(999), orphan);
    world.restart(A);
    recover(&mut world);
    assert!(!world.nodes[A].plane.contains_key(&PolicyId(999)));
}

/// Their entries stay until they are forgotten, which a death right after the readings were recorded prevents.
#[test]
fn what_an_ended_session_left_in_the_data_plane_is_deinstalled_at_the_restart() {
    let mut world = World::connected();
    let (record, _) = session(world.create(A, call("s", 5000, 100_000)));
    let plane = &world.nodes[A].plane;
    let left: Vec<_> = record.flows.iter().map(|flow| (flow.policy, plane[&flow.policy].clone())).collect();
    world.delete(A, "s");
    world.crash(A);
    world.nodes[A].plane.extend(left);
    world.restart(A);
    recover(&mut world);
    assert_eq!((world.state(A, "s"), world.flows_in_plane(A)), (Some(SessionState::Ended), 0));
}

#[test]
fn a_delete_at_the_second_side_is_not_lost_while_the_first_side_still_waits() {
    let mut world = World::connected();
    let mut answers = 0;
    world.network = Box::new(move |_, kind| {
        answers += usize::from(kind == "answer");
        if kind == "answer" && answers == 2 { vec![500] } else { vec![1] }
    });
    let create = world.request(A, Request::CreateSession(call("s", 5000, 100_000)));
    world.run(100);
    assert_eq!(world.state(B, "s"), Some(SessionState::Active));
    let (ended, _) = session(world.delete(B, "s"));
    assert_eq!(ended.state, SessionState::Ended);
    assert_eq!(reason(world.wait(A, create)), Reason::SecondSideRefused);
    recover(&mut world);
}

/// What `a` counted of each flow, as its ledger has it at the end, after it died while it waited for `b`.
fn counted_by_a(world: &mut World) -> Vec<turnpike_broker::policy::Counters> {
    world.run(100);
    assert_eq!((world.state(A, "s"), world.flows_in_plane(A)), (Some(SessionState::Releasing), 0));
    world.crash(A);
    world.restart(A);
    recover(world);
    let ledger = &world.nodes[A].store.ledger;
    assert_eq!(ledger.iter().map(|line| line.kind).collect::<Vec<_>>(), [UsageKind::Start, UsageKind::Final]);
    let own = ledger[1].flows.iter().filter(|usage| usage.node == name("a"));
    own.map(|usage| usage.counters.unwrap()).collect()
}

#[test]
fn the_readings_of_a_one_way_session_outlive_a_death_while_the_peer_is_asked() {
    let mut world = World::connected();
    let flows = vec![flow("there", "ab", (5000, 5000), 100_000)];
    let (record, _) = session(world.create(
        A,
        SessionRequest {
            priority: turnpike_broker::Priority::LOWEST,
            media_slots: turnpike_broker::media_slots::MediaSlots::default(),
            schedule: Schedule::OPEN,
            id: name("s"),
            flows,
        },
    ));
    world.lose("release");
    world.request(A, Request::DeleteSession(name("s")));
    assert_eq!(counted_by_a(&mut world), [counted(record.flows[0].policy)]);
}

#[test]
fn the_readings_of_a_session_that_both_sides_end_outlive_a_death_while_the_peer_is_asked() {
    let mut world = World::connected();
    let (record, _) = session(world.create(A, call("s", 5000, 100_000)));
    world.network = Box::new(|node, kind| if node == A && kind == "release" { vec![] } else { vec![1] });
    for node in [A, B] {
        world.request(node, Request::DeleteSession(name("s")));
    }
    let expected: Vec<_> = record.flows.iter().map(|flow| counted(flow.policy)).collect();
    assert_eq!(counted_by_a(&mut world), expected);
}

#[test]
fn a_hold_that_the_second_side_lost_before_the_commit_is_not_the_clients_fault() {
    let mut world = World::connected();
    let ticket = world.request(A, Request::CreateSession(call("s", 5000, 100_000)));
    while world.state(A, "s") != Some(SessionState::Installing) {
        world.step();
    }
    world.crash(B);
    world.restart(B);
    assert_eq!(reason(world.wait(A, ticket)), Reason::SecondSideRefused);
    recover(&mut world);
}
