//! Pre-emption: an ask of higher priority ends sessions of lower priority, no more than needed, and none for nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected is a failed test"
)]

mod pair;

use pair::{A, B, World, aggregate, call, config, flow, name, perfect, reason, refusal, session};
use turnpike_broker::record::{SessionRecord, SessionState, UsageKind};
use turnpike_broker::refusal::Reason;
use turnpike_broker::{
    AggregateRequest, Answer, Config, Priority, Request, Schedule, SecondSide, SessionRequest, WhenFull,
};

/// Asks with it and keeps with it.
const fn level(number: u16) -> Priority {
    Priority { setup: number, holding: number, emergency: false }
}

const EMERGENCY: Priority = Priority { setup: 0, holding: 0, emergency: true };

fn with(priority: Priority, request: SessionRequest) -> SessionRequest {
    SessionRequest { priority, ..request }
}

/// A call each way with a priority.
fn ranked(id: &str, port: u16, rate_bps: u64, number: u16) -> SessionRequest {
    with(level(number), call(id, port, rate_bps))
}

fn up(world: &mut World, request: SessionRequest) {
    assert_eq!(session(world.create(A, request)).0.state, SessionState::Active);
}

fn ended_for(world: &World, node: usize, id: &str) -> Option<String> {
    let record = world.nodes[node].broker.session(&name(id))?;
    let failure = record.failure.as_ref().filter(|failure| failure.reason == Reason::Preempted)?;
    assert!(matches!(record.state, SessionState::Ended | SessionState::Releasing), "{record:?}");
    Some(failure.detail.clone())
}

fn states(world: &World, ids: &[&str]) -> Vec<Option<SessionState>> {
    ids.iter().map(|id| world.state(A, id)).collect()
}

const ENDED: Option<SessionState> = Some(SessionState::Ended);
const ACTIVE: Option<SessionState> = Some(SessionState::Active);

fn rest(world: &mut World) {
    world.network = perfect();
    world.rest();
    world.check_rest();
}

#[test]
fn a_session_of_lower_priority_is_ended_at_both_ends_and_closed_and_told() {
    for first in [A, B] {
        let mut world = World::connected();
        up(&mut world, ranked("low", 5000, 800_000, 1));
        world.nodes[A].log.clear();
        world.nodes[B].log.clear();
        let (record, created) = session(world.create(first, ranked("high", 5002, 800_000, 2)));
        assert_eq!((record.state, created), (SessionState::Active, true));
        rest(&mut world);
        for node in [A, B] {
            let detail = ended_for(&world, node, "low").unwrap();
            assert!(detail.contains("for session high with setup_priority 2"), "{detail}");
            let low = world.nodes[node].broker.session(&name("low")).unwrap();
            assert_eq!((low.state, low.usage.len()), (SessionState::Ended, 4), "counted by both nodes, both flows");
            let kinds: Vec<_> =
                world.nodes[node].store.ledger.iter().map(|line| (line.session.as_str(), line.kind)).collect();
            assert!(kinds.contains(&("low", UsageKind::Final)), "{kinds:?}");
            assert_eq!(world.nodes[node].broker.preempted(), 1);
            assert_eq!(world.nodes[node].notices, ["low preempted"]);
        }
        // What is to come in is installed after all that was is out.
        let log = &world.nodes[first].log;
        let place = |what: &str| log.iter().position(|line| line == what).unwrap();
        let last = log.iter().rposition(|line| line.starts_with("deinstall flow")).unwrap();
        assert!(place("send question") < place("deinstall flow out") && last < place("install flow in"), "{log:?}");
        let again = session(world.create(A, ranked("low", 5000, 800_000, 1)));
        assert_eq!((again.0.state, again.1), (SessionState::Ended, false));
    }
}

#[test]
fn at_the_same_priority_or_below_nobody_is_ended() {
    let mut world = World::connected();
    let holds = Priority { setup: 1, holding: 5, emergency: false };
    up(&mut world, with(holds, call("low", 5000, 800_000)));
    world.nodes[A].log.clear();
    for number in [0, 1, 5] {
        let refused = refusal(world.create(A, ranked("high", 5002, 800_000, number)));
        assert_eq!((refused.reason, refused.pool.unwrap().free_bps), (Reason::PoolRateExhausted, 168_000));
    }
    assert_eq!(world.nodes[A].log, [""; 0], "nobody is asked");
    up(&mut world, ranked("high", 5002, 800_000, 6));
    rest(&mut world);
}

#[test]
fn what_keeps_with_less_than_it_asks_with_is_refused_by_both_sides() {
    let mut world = World::connected();
    let wrong = Priority { setup: 3, holding: 2, emergency: false };
    let refused = refusal(world.create(A, with(wrong, call("s", 5000, 100_000))));
    assert_eq!((refused.reason, refused.field.as_deref()), (Reason::InvalidValue, Some("holding_priority")));
    assert!(refused.detail.contains("allowed: 3, the setup_priority, to 65535"), "{}", refused.detail);
    assert_eq!(reason(world.would_admit(A, with(wrong, call("s", 5000, 100_000)))), Reason::InvalidValue);
    up(&mut world, ranked("s", 5000, 100_000, 3));
    assert_eq!(reason(world.create(A, ranked("s", 5000, 100_000, 4))), Reason::SessionIdReused);
    rest(&mut world);
}

#[test]
fn the_lowest_go_first_then_the_newest_and_who_is_not_needed_stays() {
    let mut world = World::connected();
    up(&mut world, ranked("two", 5000, 100_000, 2));
    up(&mut world, ranked("old", 5002, 200_000, 1));
    up(&mut world, ranked("new", 5004, 200_000, 1));
    up(&mut world, ranked("three", 5006, 300_000, 3));
    let all = ["two", "old", "new", "three"];
    // 168,000 on the wire are free: `new` is enough, and neither older nor of higher priority.
    up(&mut world, ranked("x", 5008, 300_000, 9));
    assert_eq!(states(&world, &all), [ACTIVE, ACTIVE, ENDED, ACTIVE]);
    // In the order of ending come `old`, `two` and `three`, and all of them are needed until `three` is among them; then `two` is not.
    up(&mut world, ranked("y", 5010, 370_000, 4));
    assert_eq!(states(&world, &all), [ACTIVE, ENDED, ENDED, ENDED]);
    rest(&mut world);
}

#[test]
fn nobody_is_ended_where_that_does_not_suffice() {
    let mut world = World::connected();
    up(&mut world, ranked("low", 5000, 300_000, 1));
    up(&mut world, ranked("high", 5002, 500_000, 7));
    assert_eq!(reason(world.create(A, ranked("x", 5004, 600_000, 7))), Reason::PoolRateExhausted);
    // Neither is who has nothing of the pool that is short.
    let one_way = SessionRequest { flows: vec![flow("back", "ba", (6000, 6000), 100_000)], ..ranked("back", 1, 1, 0) };
    up(&mut world, one_way);
    let there = SessionRequest { flows: vec![flow("there", "ab", (6002, 6002), 400_000)], ..ranked("there", 1, 1, 8) };
    up(&mut world, there);
    assert_eq!(states(&world, &["low", "high", "back"]), [ENDED, ACTIVE, ACTIVE]);
    rest(&mut world);
}

#[test]
fn bookings_that_overlap_are_ended_and_others_stay() {
    let mut world = World::connected();
    let booked = |world: &World, id: &str, port, from, to| SessionRequest {
        schedule: world.schedule(Some(from), Some(to)),
        ..ranked(id, port, 700_000, 1)
    };
    for (id, port, from, to) in [("early", 5000, 10_000, 20_000), ("late", 5002, 30_000, 40_000)] {
        let request = booked(&world, id, port, from, to);
        assert_eq!(session(world.create(A, request)).0.state, SessionState::Booked);
    }
    let request = with(level(2), booked(&world, "x", 5004, 35_000, 60_000));
    assert_eq!(session(world.create(B, request)).0.state, SessionState::Booked);
    for node in [A, B] {
        assert_eq!(world.state(node, "early"), Some(SessionState::Booked));
        assert!(ended_for(&world, node, "late").is_some());
    }
    // One from now on without end is in the way of both.
    up(&mut world, ranked("open", 5006, 700_000, 3));
    assert!(["early", "x"].iter().all(|id| ended_for(&world, B, id).is_some()));
    rest(&mut world);
}

#[test]
fn nobody_dies_for_what_the_second_side_would_refuse() {
    let mut strict = config(B);
    strict.second_side = SecondSide { flow_rate_bps_max: Some(300_000), ..SecondSide::default() };
    let mut world = World::connected_with([config(A), strict]);
    let low = ["l1", "l2", "l3"];
    for (id, port) in low.iter().zip([5000, 5002, 5004]) {
        up(&mut world, ranked(id, port, 300_000, 1));
    }
    // Half of it is more than the second side gives.
    assert_eq!(reason(world.create(A, ranked("x", 5006, 700_000, 2))), Reason::SecondSideRefused);
    assert_eq!(states(&world, &low), [ACTIVE; 3]);
    // What it lowers needs less: one has to go, and not two.
    let (record, _) = session(world.create(A, ranked("x", 5006, 500_000, 2)));
    assert_eq!(record.flows[0].meter.rate_bps, 300_000);
    assert_eq!(states(&world, &low), [ACTIVE, ACTIVE, ENDED]);
    world.lose("question");
    assert_eq!(reason(world.create(A, ranked("y", 5008, 300_000, 2))), Reason::PeerUnreachable);
    assert_eq!(states(&world, &low), [ACTIVE, ACTIVE, ENDED]);
    rest(&mut world);
}

#[test]
fn the_second_side_ends_what_only_there_is_in_the_way() {
    let mut world = World::connected();
    up(&mut world, ranked("low", 5000, 800_000, 1));
    world.lose("release");
    world.request(A, Request::DeleteSession(name("low")));
    world.run(10);
    // The first side keeps what comes in until the peer has stopped, or for three seconds.
    world.run(4_000);
    assert_eq!((world.pool_used(A, "ab"), world.pool_used(B, "ab")), (0, 832_000));
    world.network = perfect();
    world.nodes[A].log.clear();
    up(&mut world, ranked("high", 5002, 800_000, 2));
    assert!(!world.nodes[A].log.contains(&"send question".to_owned()), "this side has room");
    assert!(ended_for(&world, B, "low").is_some());
    rest(&mut world);
}

#[test]
fn a_dry_run_says_whom_and_ends_nobody() {
    let mut world = World::connected();
    up(&mut world, ranked("low", 5000, 800_000, 1));
    for first in [A, B] {
        let Answer::WouldAdmit { preempts, record } = world.would_admit(first, ranked("high", 5002, 800_000, 2)) else {
            panic!("not admitted");
        };
        assert_eq!((preempts, record.flows[0].meter.rate_bps), (vec![name("low")], 800_000));
        assert_eq!(reason(world.would_admit(first, ranked("high", 5002, 800_000, 1))), Reason::PoolRateExhausted);
    }
    let Answer::WouldAdmit { preempts, .. } = world.would_admit(A, ranked("high", 5002, 100_000, 2)) else { panic!() };
    assert_eq!(preempts, []);
    rest(&mut world);
    assert_eq!(states(&world, &["low"]), [ACTIVE]);
    assert_eq!((world.nodes[A].broker.preempted(), world.nodes[B].broker.preempted()), (0, 0));
}

#[test]
fn nobody_else_gets_what_is_being_freed_or_what_is_free_beside_it() {
    for deinstall_ms in [2, 200] {
        let mut world = World::connected();
        up(&mut world, ranked("low", 5000, 450_000, 1));
        let booked =
            SessionRequest { schedule: world.schedule(Some(50_000), None), ..ranked("booked", 5002, 300_000, 1) };
        assert_eq!(session(world.create(B, booked)).0.state, SessionState::Booked);
        // Both nodes have one that waits for the same room, and others keep asking, for now and for later.
        for (node, id, port) in [(A, "w0", 5300), (B, "w1", 5302)] {
            world.nodes[node].deinstall_ms = deinstall_ms;
            assert_eq!(session(world.wait_for(node, call(id, port, 600_000), 100_000)).0.state, SessionState::Waiting);
        }
        let high = world.request(A, Request::CreateSession(ranked("high", 5004, 900_000, 2)));
        world.run(3);
        for n in 0..80u16 {
            // One at a time, or they would refuse each other.
            let node = usize::from(n % 4 > 1);
            let schedule =
                if n % 2 == 0 { world.schedule(None, Some(30_000)) } else { world.schedule(Some(60_000), None) };
            let request = SessionRequest { schedule, ..call(&format!("t{n}"), 6000 + 2 * n, 200_000) };
            world.request(node, Request::CreateSession(request));
            world.run(5);
        }
        assert_eq!(session(world.wait(A, high)).0.state, SessionState::Active);
        assert_eq!(states(&world, &["low", "booked", "w0"]), [ENDED, ENDED, Some(SessionState::Waiting)]);
        rest(&mut world);
    }
}

/// Everything about what is left after an ask that may have been cut off.
fn check_outcome(world: &World, what: &str) {
    let high = world.state(A, "high");
    for node in [A, B] {
        let ended = ended_for(world, node, "low").is_some();
        let stays = world.state(node, "low") == ACTIVE;
        assert!(ended || stays, "{what}: low is {:?} at {node}", world.nodes[node].broker.session(&name("low")));
        assert!(!(stays && high == ACTIVE), "{what}: both have the room");
    }
}

/// `low` has the room, and `high` asks for it.
fn asked_by(network: pair::Network) -> (World, u64) {
    let mut world = World::connected();
    up(&mut world, ranked("low", 5000, 800_000, 1));
    world.network = network;
    let ticket = world.request(A, Request::CreateSession(ranked("high", 5002, 800_000, 2)));
    (world, ticket)
}

fn asked() -> (World, u64) {
    asked_by(perfect())
}

#[test]
fn a_node_may_die_at_any_moment() {
    let mut outcomes = Vec::new();
    for node in [A, B] {
        for ms in 0..24 {
            for host in [false, true] {
                let (mut world, _) = asked();
                world.run(ms);
                if host {
                    world.crash_host(node)
                } else {
                    world.crash(node)
                }
                world.run(50);
                world.restart(node);
                rest(&mut world);
                check_outcome(&world, &format!("{node} dies after {ms} ms"));
                outcomes.push((states(&world, &["low"])[0], world.state(A, "high")));
                // Whatever came of it, the room is there for the next.
                assert_eq!(session(world.create(B, ranked("next", 5004, 800_000, 9))).0.state, SessionState::Active);
                rest(&mut world);
            }
        }
    }
    assert!(outcomes.contains(&(ACTIVE, None)), "before anything was done");
    assert!(outcomes.contains(&(ENDED, None)), "while it was done");
    assert!(outcomes.contains(&(ENDED, ACTIVE)), "after it was done");
}

#[test]
fn a_client_asks_again_after_a_death_and_its_id_is_free() {
    for ms in 0..24 {
        let (mut world, _) = asked();
        world.run(ms);
        world.crash(A);
        world.run(20);
        world.restart(A);
        // Busy while the peer gives back what it has held, and never taken for another session.
        let answers = std::iter::from_fn(|| {
            world.run(100);
            let answer = world.create(A, ranked("high", 5002, 800_000, 2));
            let is_busy = matches!(&answer, Answer::Refused(refusal) if refusal.reason == Reason::Busy);
            is_busy.then_some(answer)
        });
        assert!(answers.take(50).count() < 50, "busy for ever after {ms} ms");
        assert_eq!(states(&world, &["low", "high"]), [ENDED, ACTIVE], "after {ms} ms");
        rest(&mut world);
    }
}

#[test]
fn a_node_may_die_at_each_of_its_writes() {
    for node in [A, B] {
        for nth in 0..12 {
            let (mut world, _) = asked();
            let written = |world: &World| world.nodes[node].store.clone();
            let mut seen = 0;
            let mut before = written(&world);
            // Right before its next write, the node is told to die in it.
            while seen < nth && world.step() {
                let now = written(&world);
                seen += usize::from(now != before);
                before = now;
            }
            world.nodes[node].dies_after_persist = true;
            world.run(20_000);
            world.nodes[node].dies_after_persist = false;
            rest(&mut world);
            check_outcome(&world, &format!("{node} dies in write {nth}"));
            assert_eq!(session(world.create(A, ranked("next", 5004, 800_000, 9))).0.state, SessionState::Active);
            rest(&mut world);
        }
    }
}

#[test]
fn any_message_may_be_lost_or_late_or_come_twice() {
    for kind in ["question", "hold", "release", "commit", "answer"] {
        for from in [A, B] {
            for nth in 0..5 {
                for fate in [vec![], vec![2_000], vec![5_000], vec![1, 1], vec![1, 700], vec![12_000]] {
                    let (mut seen, what) = (0, format!("{kind} {nth} of {from}: {fate:?}"));
                    let (mut world, _) = asked_by(Box::new(move |node, sent| {
                        if (node, sent) != (from, kind) {
                            return vec![1];
                        }
                        seen += 1;
                        if seen == nth + 1 { fate.clone() } else { vec![1] }
                    }));
                    world.run(40_000);
                    rest(&mut world);
                    check_outcome(&world, &what);
                    assert_eq!(
                        session(world.create(A, ranked("next", 5004, 800_000, 9))).0.state,
                        SessionState::Active,
                        "{what}"
                    );
                    rest(&mut world);
                }
            }
        }
    }
}

#[test]
fn a_peer_that_falls_silent_refuses_and_all_comes_back() {
    for kind in ["question", "hold", "release", "commit", "answer"] {
        let lost = move |_, sent| if sent == kind { vec![] } else { vec![1] };
        let (mut world, ticket) = asked_by(Box::new(lost));
        let answer = world.wait(A, ticket);
        assert_eq!(reason(answer), Reason::PeerUnreachable, "{kind}");
        let stays = kind == "question" || kind == "answer";
        assert_eq!(states(&world, &["low"])[0] == ACTIVE, stays, "{kind}");
        rest(&mut world);
        check_outcome(&world, kind);
    }
}

#[test]
fn a_data_plane_that_hangs_refuses_and_leaves_nothing() {
    for node in [A, B] {
        let (mut world, ticket) = asked();
        world.nodes[node].deinstall_ms = 25_000;
        let answer = world.wait(A, ticket);
        assert!(matches!(reason(answer), Reason::Busy | Reason::PeerUnreachable));
        // What still has it in force keeps its part.
        assert_eq!(world.pool_used(node, "ab"), 832_000);
        rest(&mut world);
        check_outcome(&world, "hangs");
        for node in [A, B] {
            assert_eq!((world.pool_used(node, "ab"), world.pool_used(node, "ba")), (0, 0));
            let tables = world.nodes[node].broker.tables();
            assert!(tables.iter().any(|table| (table.name, table.used) == ("preemptions", 0)));
        }
    }
}

#[test]
fn the_same_ask_may_come_twice_and_a_pending_one_is_busy() {
    let (mut world, ticket) = asked();
    assert_eq!(reason(world.create(A, ranked("high", 5002, 800_000, 2))), Reason::Busy);
    assert_eq!(reason(world.delete(A, "high")), Reason::Busy);
    assert_eq!(session(world.wait(A, ticket)).0.state, SessionState::Active);
    assert!(!session(world.create(A, ranked("high", 5002, 800_000, 2))).1);
    rest(&mut world);
}

#[test]
fn an_aggregate_stays_while_room_is_made_on_it() {
    let (mut world, ticket) = asked();
    world.run(3);
    assert_eq!(reason(world.ask(A, Request::DeleteAggregate(name("ab")))), Reason::AggregateInUse);
    assert_eq!(session(world.wait(A, ticket)).0.state, SessionState::Active);
    rest(&mut world);
}

#[test]
fn two_that_make_room_do_not_end_the_same_and_do_not_wait_for_each_other() {
    let mut world = World::connected();
    up(&mut world, ranked("l1", 5000, 450_000, 1));
    up(&mut world, ranked("l2", 5002, 450_000, 1));
    let tickets = [(A, "x", 5004), (A, "y", 5006), (B, "z", 5008)]
        .map(|(node, id, port)| (node, world.request(node, Request::CreateSession(ranked(id, port, 450_000, 2)))));
    let answers: Vec<bool> =
        tickets.map(|(node, ticket)| matches!(world.wait(node, ticket), Answer::Session { .. })).to_vec();
    assert!(answers.iter().filter(|is_up| **is_up).count() >= 1, "{answers:?}");
    rest(&mut world);
    // Who was refused asks again, and what is left is shared out.
    for (node, id, port) in [(A, "x", 5004), (A, "y", 5006), (B, "z", 5008)] {
        let _ = world.create(node, ranked(id, port, 450_000, 2));
    }
    rest(&mut world);
    let up = ["x", "y", "z"].iter().filter(|id| world.state(A, id) == ACTIVE).count();
    assert_eq!(up, 2);
}

#[test]
fn there_is_no_end_of_ending_each_other() {
    let mut world = World::connected();
    // Whoever was ended asks again under another name, until nobody is ended any more.
    let ranks =
        [level(0), Priority { setup: 1, holding: 4, emergency: false }, level(3), level(4), level(5), EMERGENCY];
    let mut asks: Vec<(usize, u16)> = (0..ranks.len()).map(|rank| (rank, 0)).collect();
    let mut total = 0;
    let mut live: Vec<(String, usize)> = Vec::new();
    while let Some((rank, tries)) = asks.pop() {
        total += 1;
        assert!(total < 100, "they go on for ever");
        let id = format!("s{rank}-{tries}");
        let port = 5000 + 40 * u16::try_from(rank).unwrap() + 2 * tries;
        if let Answer::Session { .. } = world.create(A, with(ranks[rank], call(&id, port, 400_000))) {
            live.push((id, rank));
        }
        let (gone, still): (Vec<_>, Vec<_>) = live.into_iter().partition(|(id, _)| ended_for(&world, A, id).is_some());
        live = still;
        asks.extend(
            gone.into_iter().map(|(id, rank)| (rank, id.split_once('-').unwrap().1.parse::<u16>().unwrap() + 1)),
        );
    }
    let mut ranks: Vec<usize> = live.into_iter().map(|(_, rank)| rank).collect();
    ranks.sort_unstable();
    assert_eq!(ranks, [4, 5], "the highest have it");
    rest(&mut world);
}

#[test]
fn an_aggregate_that_degrades_ends_only_who_is_in_the_way_of_the_smallest_rate() {
    let degrading = AggregateRequest { when_full: WhenFull::Degrade, ..aggregate("any", "any", 1_000_000) };
    let mut world = World::connected_as([config(A), config(B)], [degrading.clone(), degrading]);
    up(&mut world, ranked("old", 5000, 400_000, 1));
    up(&mut world, ranked("new", 5002, 400_000, 1));
    // 168,000 on the wire are enough for the smallest rate.
    let (record, _) = session(world.create(A, ranked("x", 5004, 320_000, 2)));
    assert_eq!(record.flows[0].meter.rate_bps, 161_538);
    let (record, _) = session(world.create(A, ranked("y", 5006, 600_000, 2)));
    assert_eq!(record.flows[0].meter.rate_bps, 400_000, "what `new` had");
    assert_eq!(states(&world, &["old", "new"]), [ACTIVE, ENDED]);
    rest(&mut world);
}

fn with_emergency_part(percent: u8) -> World {
    let keeping = AggregateRequest { emergency_percent: percent, ..aggregate("any", "any", 1_000_000) };
    let configs: [Config; 2] = [config(A), config(B)];
    World::connected_as(configs, [keeping.clone(), keeping])
}

#[test]
fn only_emergencies_use_the_part_that_is_kept_for_them() {
    let mut world = with_emergency_part(30);
    let refused = refusal(world.create(A, call("s", 5000, 680_000)));
    let pool = refused.pool.unwrap();
    assert_eq!(pool.name, "aggregate ab but for 30 % for emergencies");
    assert_eq!((refused.reason, pool.capacity_bps, pool.free_bps), (Reason::PoolRateExhausted, 700_000, 700_000));
    assert_eq!(refused.counter_offer_rate_bps, Some(673_076));
    up(&mut world, call("s", 5000, 673_076));
    up(&mut world, with(EMERGENCY, call("e", 5002, 280_000)));
    // The whole is short now, not the part.
    let refused = refusal(world.create(
        A,
        with(EMERGENCY, SessionRequest { flows: vec![flow("x", "ab", (5004, 5004), 900_000)], ..call("f", 1, 1) }),
    ));
    assert_eq!(refused.pool.unwrap().name, "aggregate ab");
    world.delete(A, "s");
    // Emergencies may have all of it, and others only what is left of theirs.
    up(&mut world, with(EMERGENCY, call("g", 5006, 600_000)));
    assert_eq!(reason(world.create(A, call("t", 5008, 100_000))), Reason::PoolRateExhausted);
    rest(&mut world);
    world.crash(A);
    world.restart(A);
    rest(&mut world);
    assert_eq!(reason(world.create(A, call("t", 5008, 100_000))), Reason::PoolRateExhausted);
}

#[test]
fn the_part_for_emergencies_holds_for_bookings_too_and_at_both_ends() {
    let mut world = with_emergency_part(50);
    for node in [A, B] {
        assert_eq!(world.nodes[node].broker.aggregate(&name("ab")).unwrap().emergency_percent, 50);
    }
    let booked = SessionRequest { schedule: world.schedule(Some(10_000), Some(20_000)), ..call("b", 5000, 400_000) };
    session(world.create(A, booked.clone()));
    let refused = refusal(world.create(A, call("s", 5002, 300_000)));
    assert!(refused.pool.unwrap().fits_at.is_some());
    let before = Schedule { starts_at: None, ends_at: booked.schedule.starts_at };
    let before = SessionRequest { schedule: before, ..call("s", 5002, 400_000) };
    up(&mut world, before);
    let wrong = AggregateRequest { emergency_percent: 101, ..aggregate("other", "b", 1_000_000) };
    assert_eq!(reason(world.ask(A, Request::CreateAggregate(wrong))), Reason::InvalidValue);
    rest(&mut world);
}

#[test]
fn an_emergency_ends_whoever_is_none_and_only_a_higher_one_ends_it() {
    let mut world = World::connected();
    up(&mut world, ranked("top", 5000, 800_000, u16::MAX));
    up(&mut world, with(EMERGENCY, call("e", 5002, 800_000)));
    assert!(ended_for(&world, B, "top").unwrap().contains("for session e, an emergency, with setup_priority 0"));
    assert_eq!(reason(world.create(A, ranked("top2", 5004, 800_000, u16::MAX))), Reason::PoolRateExhausted);
    assert_eq!(reason(world.create(A, with(EMERGENCY, call("f", 5006, 800_000)))), Reason::PoolRateExhausted);
    up(&mut world, with(Priority { setup: 1, holding: 1, emergency: true }, call("f", 5006, 800_000)));
    assert_eq!(states(&world, &["e", "f"]), [ENDED, ACTIVE]);
    rest(&mut world);
}

fn waiting(world: &mut World, id: &str, port: u16, priority: Priority) -> SessionRequest {
    let request = with(priority, call(id, port, 800_000));
    assert_eq!(session(world.wait_for(A, request.clone(), 600_000)).0.state, SessionState::Waiting);
    request
}

#[test]
fn those_that_wait_are_called_by_priority_and_then_in_the_order_in_which_they_came() {
    let mut world = World::connected();
    up(&mut world, ranked("full", 5000, 900_000, 9));
    let expected = ["high1", "high2", "low1", "low2"];
    waiting(&mut world, "low1", 5002, Priority::LOWEST);
    waiting(&mut world, "low2", 5004, Priority::LOWEST);
    waiting(&mut world, "high1", 5006, level(5));
    waiting(&mut world, "high2", 5008, level(5));
    world.delete(B, "full");
    for id in expected {
        world.run(5_000);
        let offered: Vec<SessionRecord> = world.nodes[A].broker.sessions().cloned().collect();
        assert_eq!(offered.iter().map(|record| record.id.as_str()).collect::<Vec<_>>(), [id]);
        let request = pair::wish_of_offered(&offered[0]).unwrap();
        up(&mut world, request);
        world.delete(A, id);
    }
    rest(&mut world);
}

#[test]
fn one_that_can_make_room_does_not_wait_and_one_that_waits_makes_none() {
    let mut world = World::connected();
    up(&mut world, ranked("low", 5000, 900_000, 1));
    waiting(&mut world, "w", 5002, level(1));
    let (record, _) = session(world.wait_for(A, ranked("high", 5004, 900_000, 2), 600_000));
    assert_eq!((record.state, record.wait), (SessionState::Active, None));
    world.delete(A, "high");
    up(&mut world, SessionRequest { schedule: Schedule::OPEN, ..ranked("quick", 5006, 100_000, 0) });
    world.run(100_000);
    assert_eq!(states(&world, &["quick"]), [ACTIVE], "nobody who waits has ended it");
    rest(&mut world);
}

#[test]
fn room_is_made_in_what_the_node_forwards_and_in_its_media_slots_too() {
    for side in [A, B] {
        let mut configs = [config(A), config(B)];
        configs[side].capacity.rate_bps = Some(1_500_000);
        configs[side].capacity.media_slots = [(name("mixing"), 2)].into();
        let mut world = World::connected_with(configs);
        up(&mut world, ranked("big", 5000, 500_000, 1));
        let counts: turnpike_broker::media_slots::SlotCounts = [(name("mixing"), 2)].into();
        let mut mixes = ranked("mixes", 5002, 100_000, 1);
        let own = if side == A { &mut mixes.media_slots.first } else { &mut mixes.media_slots.second };
        *own = counts.clone();
        up(&mut world, mixes.clone());
        // Its aggregates have room for 380 kbit/s more, and the node, which forwards both ways, for 240 together.
        assert_eq!(reason(world.create(A, ranked("x", 5004, 200_000, 1))), Reason::NodeCapacityExhausted);
        up(&mut world, ranked("x", 5004, 200_000, 2));
        assert_eq!(states(&world, &["big", "mixes"]), [ACTIVE, ENDED], "the newest is enough");
        up(&mut world, SessionRequest { id: name("m2"), priority: level(1), ..at(mixes.clone(), 5006) });
        assert_eq!(
            reason(world.create(A, SessionRequest { id: name("m3"), ..at(mixes.clone(), 5008) })),
            Reason::MediaSlotsExhausted
        );
        up(&mut world, SessionRequest { id: name("m3"), priority: level(2), ..at(mixes, 5008) });
        assert_eq!(states(&world, &["big", "m2"]), [ACTIVE, ENDED], "only who has what is short");
        rest(&mut world);
    }
}

/// The same between other ports.
fn at(mut request: SessionRequest, port: u16) -> SessionRequest {
    for flow in &mut request.flows {
        flow.endpoints = pair::endpoints(turnpike_broker::address::Family::Ipv4, (port, port));
        flow.meter.rate_bps = 5_000;
        flow.rate_bps_min = 2_500;
    }
    request
}

#[test]
fn both_ends_end_the_same_though_each_has_admitted_them_in_another_order() {
    let mut world = World::connected();
    // Each node has its own first, and the other's a moment later: what is the newest differs.
    let tickets = [(A, "l1", 5000), (B, "l2", 5002)]
        .map(|(node, id, port)| (node, world.request(node, Request::CreateSession(ranked(id, port, 450_000, 1)))));
    for (node, ticket) in tickets {
        assert_eq!(session(world.wait(node, ticket)).0.state, SessionState::Active);
    }
    up(&mut world, ranked("high", 5004, 450_000, 2));
    assert_eq!(states(&world, &["l1", "l2", "high"]), [ACTIVE, ENDED, ACTIVE]);
    rest(&mut world);
    assert_eq!((world.nodes[A].broker.preempted(), world.nodes[B].broker.preempted()), (1, 1));
}

#[test]
fn where_others_change_what_is_there_the_second_side_is_asked_again() {
    let mut world = World::connected();
    up(&mut world, ranked("l1", 5000, 450_000, 1));
    up(&mut world, ranked("l2", 5002, 350_000, 1));
    world.network = Box::new(|_, kind| if kind == "question" { vec![100] } else { vec![1] });
    world.nodes[A].log.clear();
    let high = world.request(A, Request::CreateSession(ranked("high", 5004, 450_000, 2)));
    world.run(20);
    // It takes what `l2` alone would have left.
    up(&mut world, ranked("l3", 5006, 150_000, 1));
    assert_eq!(session(world.wait(A, high)).0.state, SessionState::Active);
    assert_eq!(states(&world, &["l1", "l2", "l3"]), [ACTIVE, ENDED, ENDED]);
    assert_eq!(world.nodes[A].log.iter().filter(|line| *line == "send question").count(), 2);
    rest(&mut world);
}

#[test]
fn what_the_second_side_has_claimed_lapses_by_itself() {
    let (mut world, _) = asked();
    world.nodes[B].deinstall_ms = 40_000;
    world.run(5);
    world.crash(A);
    world.run(5_000);
    let claims = |world: &World| {
        let table = world.nodes[B].broker.tables().into_iter().find(|table| table.name == "preemptions");
        table.unwrap().used
    };
    assert_eq!(claims(&world), 1);
    world.run(6_000);
    assert_eq!((claims(&world), world.state(B, "high")), (0, None));
    world.restart(A);
    rest(&mut world);
}
