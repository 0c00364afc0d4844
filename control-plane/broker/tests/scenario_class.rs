//! Classes of aggregates, and what flows ask of them (R-000-15, R-001-1, R-001-3).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected is a failed test"
)]

mod pair;

use pair::{A, B, World, aggregate, call, config, name, perfect, reason, refusal, session};
use turnpike_broker::class::{Class, Game, Quality, QualityFloors, Security};
use turnpike_broker::policy::Dscp;
use turnpike_broker::refusal::Reason;
use turnpike_broker::{AggregateRequest, Answer, Config, Request, SecondSide, SessionRequest};

/// Both nodes know `arena`, for games.
fn configs() -> [Config; 2] {
    [A, B].map(|node| {
        let mut config = config(node);
        let telephony = config.classes[&name("telephony")].clone();
        let arena = Class {
            dscp: 33,
            delay_ms: Some(30),
            jitter_ms: None,
            security: vec![Security::SrtpDtls],
            game_types: vec![name("fps")],
            ..telephony
        };
        config.classes.insert(name("arena"), arena);
        config
    })
}

fn of_class(name_: &str, peer: &str, class: &str) -> AggregateRequest {
    let plain = aggregate(name_, peer, 1_000_000);
    AggregateRequest { class: Some(name(class)), dscp: None, burst_bytes: Some(20_000), ..plain }
}

/// With `ab` and `ba` of this class.
fn world(configs: [Config; 2], class: &str) -> World {
    let mut world = World::with(configs);
    for (node, own, peer) in [(A, "ab", "b"), (B, "ba", "a")] {
        let answer = world.ask(node, Request::CreateAggregate(of_class(own, peer, class)));
        assert!(matches!(answer, Answer::Aggregate { created: true, .. }), "{answer:?}");
    }
    world
}

fn asking(id: &str, quality: &Quality) -> SessionRequest {
    let mut request = call(id, 5_000, 100_000);
    request.flows.iter_mut().for_each(|flow| flow.quality = quality.clone());
    request
}

fn recover(world: &mut World) {
    world.network = perfect();
    world.rest();
    world.check_rest();
}

#[test]
fn an_aggregate_has_its_classs_marking_and_burst_at_both_ends_and_after_a_restart() {
    let mut world = World::with(configs());
    let request = AggregateRequest { burst_bytes: None, ..of_class("ab", "b", "telephony") };
    let answer = world.ask(A, Request::CreateAggregate(request.clone()));
    let Answer::Aggregate { record, created: true } = answer else { panic!("{answer:?}") };
    assert_eq!((record.marking.dscp, record.burst_bytes), (Dscp::Set(46), 6_250), "1 Mbit/s for 50 ms");
    for node in [A, B] {
        world.crash(node);
        world.restart(node);
        let record = world.nodes[node].broker.aggregate(&name("ab")).unwrap();
        assert_eq!(record.class.as_ref().unwrap().class.delay_ms, Some(100));
        assert_eq!(record.marking.dscp, Dscp::Set(46));
    }
    let again = world.ask(A, Request::CreateAggregate(request.clone()));
    assert!(matches!(again, Answer::Aggregate { created: false, .. }), "{again:?}");
    let other = AggregateRequest { class: Some(name("real_time_interactive")), ..request };
    assert_eq!(reason(world.ask(A, Request::CreateAggregate(other))), Reason::AggregateNameReused);
    let unknown = refusal(world.ask(A, Request::CreateAggregate(of_class("new", "b", "gold"))));
    assert_eq!((unknown.reason, unknown.field.as_deref()), (Reason::InvalidValue, Some("class")));
    assert!(unknown.detail.contains("telephony"), "{}", unknown.detail);
    recover(&mut world);
}

#[test]
fn both_ends_must_know_a_class_as_the_same() {
    let [first, mut second] = configs();
    second.classes.remove(&name("arena"));
    second.classes.get_mut(&name("telephony")).unwrap().delay_ms = Some(40);
    let mut world = World::with([first, second]);
    let cases = [("arena", "it is not known here"), ("telephony", "delay_ms is 40 here and 100 there")];
    for (class, why) in cases {
        let refused = refusal(world.ask(A, Request::CreateAggregate(of_class("ab", "b", class))));
        assert_eq!((refused.reason, refused.field.as_deref()), (Reason::ClassDiffers, Some("class")));
        assert!(refused.detail.contains(why), "{}", refused.detail);
    }
    assert!(world.nodes.iter().all(|node| node.broker.aggregates().count() == 0));
    recover(&mut world);
}

#[test]
fn a_flow_goes_only_on_an_aggregate_whose_class_meets_it() {
    let game = |kind: &str| Some(Game { r#type: name(kind), class: Some(name("ranked")) });
    let met = Quality {
        class: Some(name("arena")),
        delay_ms_max: Some(30),
        loss_ppm_max: Some(1_000),
        security: Some(Security::SrtpDtls),
        game: game("fps"),
        ..Quality::default()
    };
    let cases = [
        (Quality { class: Some(name("telephony")), ..met.clone() }, "class", "telephony"),
        (
            Quality { delay_ms_max: Some(29), ..met.clone() },
            "delay_ms_max",
            "is 29; aggregate ab at a is of class arena with 30",
        ),
        (Quality { jitter_ms_max: Some(500), ..met.clone() }, "jitter_ms_max", "without such a figure"),
        (Quality { loss_ppm_max: Some(999), ..met.clone() }, "loss_ppm_max", "with 1000"),
        (Quality { security: Some(Security::SrtpSdes), ..met.clone() }, "security", "which takes srtp_dtls"),
        (Quality { game: game("chess"), ..met.clone() }, "game.type", "which takes fps"),
    ];
    let mut world = world(configs(), "arena");
    for (quality, field, why) in cases {
        for waits in [false, true] {
            let request = asking("s", &quality);
            let answer = if waits { world.wait_for(A, request, 9_000) } else { world.create(A, request) };
            let refused = refusal(answer);
            assert_eq!(
                (refused.reason, refused.field),
                (Reason::QualityNotMet, Some(format!("flows[0].quality.{field}")))
            );
            assert!(refused.detail.contains(why), "{}", refused.detail);
        }
        assert_eq!(reason(world.would_admit(A, asking("s", &quality))), Reason::QualityNotMet);
    }
    assert_eq!((world.pool_used(A, "ab"), world.pool_used(B, "ab")), (0, 0), "nothing has changed");
    let (record, created) = session(world.create(A, asking("s", &met)));
    assert!(created && record.flows.iter().all(|flow| flow.quality == met && flow.asked_quality == met));
    assert_eq!(world.nodes[B].broker.session(&name("s")).unwrap().flows[0].quality, met);
    assert!(!session(world.create(A, asking("s", &met))).1, "the same request again");
    assert_eq!(reason(world.create(A, asking("s", &Quality::default()))), Reason::SessionIdReused);
    let unasked = SessionRequest { id: name("t"), ..call("t", 5_002, 100_000) };
    assert!(session(world.create(A, unasked)).1, "who asks nothing goes on any");
    recover(&mut world);
}

#[test]
fn an_aggregate_without_a_class_promises_nothing() {
    let mut world = World::connected();
    let asks = [
        Quality { class: Some(name("telephony")), ..Quality::default() },
        Quality { delay_ms_max: Some(100_000), ..Quality::default() },
        Quality { security: Some(Security::None), ..Quality::default() },
    ];
    for quality in asks {
        let refused = refusal(world.create(A, asking("s", &quality)));
        assert_eq!(refused.reason, Reason::QualityNotMet);
        assert!(refused.detail.contains("of no class, which promises nothing"), "{}", refused.detail);
    }
    let beyond = Quality { loss_ppm_max: Some(1_000_001), ..Quality::default() };
    assert_eq!(reason(world.create(A, asking("s", &beyond))), Reason::InvalidValue);
    recover(&mut world);
}

#[test]
fn the_second_sides_quality_counts_at_both_and_is_beside_what_was_asked() {
    let [first, mut second] = configs();
    let quality_floors = QualityFloors { delay_ms_min: Some(150), ..QualityFloors::default() };
    second.second_side = SecondSide { quality_floors, ..SecondSide::default() };
    let mut world = world([first, second], "telephony");
    let asked = Quality { delay_ms_max: Some(100), jitter_ms_max: Some(50), ..Quality::default() };
    let refused = refusal(world.create(A, asking("s", &asked)));
    assert_eq!(
        (refused.reason, refused.field.as_deref()),
        (Reason::QualityNotMet, Some("flows[0].quality.delay_ms_max"))
    );
    assert!(refused.detail.contains("node b, the second side, promises no less than 150"), "{}", refused.detail);
    let negotiable = Quality { negotiable: true, ..asked };
    let given = Quality { delay_ms_max: Some(150), ..negotiable.clone() };
    let Answer::WouldAdmit { record: would, .. } = world.would_admit(A, asking("s", &negotiable)) else { panic!() };
    assert_eq!(would.flows[0].quality, given);
    assert!(session(world.create(A, asking("s", &negotiable))).1);
    for node in [A, B] {
        world.crash(node);
        world.restart(node);
        let record = world.nodes[node].broker.session(&name("s")).unwrap();
        for flow in &record.flows {
            assert_eq!((&flow.asked_quality, &flow.quality), (&negotiable, &given));
        }
    }
    assert!(!session(world.create(A, asking("s", &negotiable))).1, "the same request again");
    recover(&mut world);
}

#[test]
fn a_class_that_is_configured_anew_leaves_aggregates_that_are_there() {
    let mut world = world(configs(), "telephony");
    for node in [A, B] {
        world.nodes[node].config.classes.get_mut(&name("telephony")).unwrap().delay_ms = Some(500);
        world.crash(node);
        world.restart(node);
    }
    let asked = Quality { delay_ms_max: Some(100), ..Quality::default() };
    assert!(session(world.create(A, asking("s", &asked))).1, "what it was reserved as");
    let again = world.ask(A, Request::CreateAggregate(of_class("ab", "b", "telephony")));
    assert!(matches!(again, Answer::Aggregate { created: false, .. }), "{again:?}");
    recover(&mut world);
}
