//! Random operations in a bad world: whatever is lost, repeated, late, refused or killed, nothing is given twice, and
//! nothing is left over.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected is a failed test"
)]

mod pair;

use pair::{A, B, World, aggregate, call, configs, endpoints, flow, name, perfect};
use proptest::prelude::*;
use turnpike_broker::address::Family;
use turnpike_broker::calendar::Until;
use turnpike_broker::capacity::LinkChange;
use turnpike_broker::media_slots::MediaSlots;
use turnpike_broker::name::Nanos;
use turnpike_broker::policy::{DscpPolicy, Excess, Rtcp, Tag};
use turnpike_broker::{
    AggregateRequest, Capacity, FlowRequest, Priority, Request, Schedule, SecondSide, SessionRequest, WhenFull,
};

/// What flows may differ in.
#[derive(Debug, Clone, Copy)]
struct Kind {
    family: Family,
    excess_kbps: Option<u64>,
    rtcp: Rtcp,
    priority: Priority,
}

impl Kind {
    /// So, between ports that collide with another kind's now and then: RTCP on the next ports takes an odd one, too.
    fn apply(self, flow: &mut FlowRequest, port: u16) {
        let port = if self.rtcp == Rtcp::NextPort { port & !1 } else { port };
        flow.endpoints = endpoints(self.family, (port, port));
        flow.rtcp = self.rtcp;
        flow.meter.excess = self.excess_kbps.map(|kbps| Excess { rate_bps: kbps * 1_000, burst_bytes: 600 });
    }
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)]
}

fn tag() -> impl Strategy<Value = Tag> {
    prop_oneof![Just(Tag::Label), Just(Tag::Terminals)]
}

/// What `ab` and `ba` are.
fn carrier() -> impl Strategy<Value = AggregateRequest> {
    let when_full = prop_oneof![Just(WhenFull::Refuse), Just(WhenFull::Degrade)];
    let percent = prop_oneof![Just(0u8), 0u8..60];
    (tag(), when_full, percent).prop_map(|(tag, when_full, emergency_percent)| AggregateRequest {
        tag,
        when_full,
        emergency_percent,
        ..aggregate("any", "any", 1_000_000)
    })
}

fn kind() -> impl Strategy<Value = Kind> {
    let rtcp = prop_oneof![Just(Rtcp::SamePort), Just(Rtcp::NextPort)];
    (family(), prop::option::of(1u64..900), rtcp, priority()).prop_map(|(family, excess_kbps, rtcp, priority)| Kind {
        family,
        excess_kbps,
        rtcp,
        priority,
    })
}

/// From when on and how long, in ms; from now on and without end where there is none.
#[derive(Debug, Clone, Copy)]
struct When {
    starts_in_ms: Option<u64>,
    lasts_ms: Option<u64>,
}

impl When {
    fn schedule(self, world: &World, node: usize) -> Schedule {
        let now = world.clock(node);
        let start = self.starts_in_ms.map(|ms| now.plus(Nanos::from_millis(ms)));
        let end = self.lasts_ms.map(|ms| start.unwrap_or(now).plus(Nanos::from_millis(ms)));
        Schedule { starts_at: start, ends_at: end }
    }
}

fn when() -> impl Strategy<Value = When> {
    let ms = || prop::option::of(prop_oneof![2 => 1u64..20, 3 => 20u64..20_000, 1 => 20_000u64..200_000]);
    (ms(), ms()).prop_map(|(starts_in_ms, lasts_ms)| When { starts_in_ms, lasts_ms })
}

/// So many sessions have names of their own.
const IDS: u8 = 24;

#[derive(Debug, Clone)]
enum Operation {
    Call { node: usize, id: u8, rate_kbps: u64, kind: Kind, when: When },
    OneWay { node: usize, id: u8, out: bool, extra: bool, kind: Kind, when: When },
    Ask { node: usize, id: u8, rate_kbps: u64, kind: Kind, when: When },
    WaitFor { node: usize, id: u8, rate_kbps: u64, kind: Kind, when: When, ms: u64 },
    Take { node: usize },
    Hangup { node: usize, id: u8 },
    ChangeEnd { node: usize, id: u8, ends_in_ms: Option<u64> },
    ChangeRates { node: usize, id: u8, there_kbps: u64, back_kbps: u64, lower: bool },
    FailChanges { node: usize, count: u32 },
    Reserve { node: usize, rate_kbps: u64, copy: bool, tag: Tag },
    GiveUp { node: usize },
    Recur { node: usize, rate_kbps: u64, kind: Kind, starts_in_ms: u64, count: u32 },
    EndSeries { node: usize },
    SetRate { node: usize, rate_kbps: u64, from_ms: Option<u64>, lasts_ms: Option<u64> },
    FailInstalls { node: usize, count: u32 },
    Kill { node: usize, host: bool, down_ms: u64 },
    KillAfterPersist { node: usize },
    Wait { ms: u64 },
}

fn operation() -> impl Strategy<Value = Operation> {
    let node = || 0usize..2;
    let id = || 0u8..6;
    prop_oneof![
        8 => (node(), id(), 50u64..600, kind(), when())
            .prop_map(|(node, id, rate_kbps, kind, when)| Operation::Call { node, id, rate_kbps, kind, when }),
        4 => (node(), id(), any::<bool>(), any::<bool>(), kind(), when())
            .prop_map(|(node, id, out, extra, kind, when)| Operation::OneWay { node, id, out, extra, kind, when }),
        4 => (node(), id(), prop::option::weighted(0.9, prop_oneof![0u64..20, 20u64..20_000, 20_000u64..200_000]))
            .prop_map(|(node, id, ends_in_ms)| Operation::ChangeEnd { node, id, ends_in_ms }),
        8 => (node(), id(), 10u64..900, 10u64..900, any::<bool>()).prop_map(|(node, id, there_kbps, back_kbps, lower)| {
            Operation::ChangeRates { node, id, there_kbps, back_kbps, lower }
        }),
        2 => (node(), 1u32..3).prop_map(|(node, count)| Operation::FailChanges { node, count }),
        3 => (node(), id(), 50u64..1_200, kind(), when())
            .prop_map(|(node, id, rate_kbps, kind, when)| Operation::Ask { node, id, rate_kbps, kind, when }),
        8 => (node(), id(), 50u64..900, kind(), when(), prop_oneof![1u64..5_000, 5_000u64..200_000])
            .prop_map(|(node, id, rate_kbps, kind, when, ms)| Operation::WaitFor { node, id, rate_kbps, kind, when, ms }),
        6 => node().prop_map(|node| Operation::Take { node }),
        6 => (node(), id()).prop_map(|(node, id)| Operation::Hangup { node, id }),
        3 => (node(), 500u64..12_000, any::<bool>(), tag())
            .prop_map(|(node, rate_kbps, copy, tag)| Operation::Reserve { node, rate_kbps, copy, tag }),
        1 => node().prop_map(|node| Operation::GiveUp { node }),
        2 => (node(), 500u64..15_000, prop::option::of(0u64..20_000), prop::option::of(1u64..60_000))
            .prop_map(|(node, rate_kbps, from_ms, lasts_ms)| Operation::SetRate { node, rate_kbps, from_ms, lasts_ms }),
        2 => (node(), 10u64..300, kind(), prop_oneof![1u64..100, 100u64..20_000], 1u32..4)
            .prop_map(|(node, rate_kbps, kind, starts_in_ms, count)| Operation::Recur { node, rate_kbps, kind, starts_in_ms, count }),
        1 => node().prop_map(|node| Operation::EndSeries { node }),
        2 => (node(), 1u32..3).prop_map(|(node, count)| Operation::FailInstalls { node, count }),
        1 => (node(), any::<bool>(), prop_oneof![0u64..5_000, 5_000u64..100_000]).prop_map(|(node, host, down_ms)| Operation::Kill { node, host, down_ms }),
        2 => node().prop_map(|node| Operation::KillAfterPersist { node }),
        6 => (0u64..8).prop_map(|ms| Operation::Wait { ms }),
        2 => (100u64..12_000).prop_map(|ms| Operation::Wait { ms }),
        1 => (12_000u64..100_000).prop_map(|ms| Operation::Wait { ms }),
    ]
}

/// More than the pools have is asked for, by those who wait and take what they are offered.
fn crowded() -> impl Strategy<Value = Operation> {
    let (node, id) = (|| 0usize..2, || 0u8..6);
    let open = When { starts_in_ms: None, lasts_ms: None };
    prop_oneof![
        6 => (node(), id(), 300u64..800, kind(), prop_oneof![3 => Just(open), 1 => when()], 5_000u64..200_000)
            .prop_map(|(node, id, rate_kbps, kind, when, ms)| Operation::WaitFor { node, id, rate_kbps, kind, when, ms }),
        2 => (node(), id(), 300u64..800, kind())
            .prop_map(move |(node, id, rate_kbps, kind)| Operation::Call { node, id, rate_kbps, kind, when: open }),
        6 => node().prop_map(|node| Operation::Take { node }),
        10 => (node(), id()).prop_map(|(node, id)| Operation::Hangup { node, id }),
        1 => (node(), any::<bool>(), 0u64..5_000).prop_map(|(node, host, down_ms)| Operation::Kill { node, host, down_ms }),
        1 => node().prop_map(|node| Operation::KillAfterPersist { node }),
        6 => (0u64..2_000).prop_map(|ms| Operation::Wait { ms }),
        1 => (2_000u64..40_000).prop_map(|ms| Operation::Wait { ms }),
    ]
}

/// More than the pools have is asked for, with priorities, by those who do not wait.
fn contested() -> impl Strategy<Value = Operation> {
    let (node, id) = (|| 0usize..2, || 0u8..IDS);
    let kind = || {
        (family(), priority()).prop_map(|(family, priority)| Kind {
            family,
            priority,
            excess_kbps: None,
            rtcp: Rtcp::SamePort,
        })
    };
    let when = || prop_oneof![3 => Just(When { starts_in_ms: None, lasts_ms: None }), 1 => when()];
    prop_oneof![
        12 => (node(), id(), 200u64..800, kind(), when())
            .prop_map(|(node, id, rate_kbps, kind, when)| Operation::Call { node, id, rate_kbps, kind, when }),
        3 => (node(), id(), any::<bool>(), kind(), when())
            .prop_map(|(node, id, out, kind, when)| Operation::OneWay { node, id, out, extra: false, kind, when }),
        2 => (node(), id(), 200u64..900, kind(), when())
            .prop_map(|(node, id, rate_kbps, kind, when)| Operation::Ask { node, id, rate_kbps, kind, when }),
        2 => (node(), id(), 300u64..800, kind(), when(), 5_000u64..200_000)
            .prop_map(|(node, id, rate_kbps, kind, when, ms)| Operation::WaitFor { node, id, rate_kbps, kind, when, ms }),
        1 => node().prop_map(|node| Operation::Take { node }),
        2 => (node(), id()).prop_map(|(node, id)| Operation::Hangup { node, id }),
        1 => (node(), any::<bool>(), 0u64..5_000).prop_map(|(node, host, down_ms)| Operation::Kill { node, host, down_ms }),
        1 => node().prop_map(|node| Operation::KillAfterPersist { node }),
        10 => (0u64..40).prop_map(|ms| Operation::Wait { ms }),
        3 => (1_000u64..15_000).prop_map(|ms| Operation::Wait { ms }),
    ]
}

/// Few levels, so that some are equal.
fn priority() -> impl Strategy<Value = Priority> {
    (0u16..4, 0u16..3, prop::bool::weighted(0.1)).prop_map(|(setup, more, emergency)| Priority {
        setup,
        holding: setup + more,
        emergency,
    })
}

/// Deterministic bad luck.
fn bad_network(mut seed: u64, loss_percent: u64) -> pair::Network {
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed >> 11
    };
    Box::new(move |_, _| {
        if next() % 100 < loss_percent {
            return vec![];
        }
        let mut delay = || match next() % 10 {
            0 => next() % 9_000,
            1..=3 => next() % 40,
            _ => 1,
        };
        let first = delay();
        if delay() % 8 == 0 { vec![first, delay()] } else { vec![first] }
    })
}

/// Any that differ from call to call, and are the same when one is asked for again.
fn slots(rate_kbps: u64) -> MediaSlots {
    let some = |count: u64| (count > 0).then(|| (name("mixing"), u32::try_from(count).unwrap()));
    MediaSlots {
        first: some(rate_kbps % 3).into_iter().collect(),
        second: some(rate_kbps / 3 % 3).into_iter().collect(),
    }
}

fn apply(world: &mut World, operation: &Operation) {
    let session = |id: u8| format!("s{id}");
    match *operation {
        Operation::Call { node, id, rate_kbps, kind, when } => {
            let port = 1_000 + u16::from(id);
            let mut request = call(&session(id), port, rate_kbps * 1_000);
            request.schedule = when.schedule(world, node);
            request.priority = kind.priority;
            request.flows.iter_mut().for_each(|flow| kind.apply(flow, port));
            request.media_slots = slots(rate_kbps);
            world.request(node, Request::CreateSession(request));
        }
        Operation::WaitFor { node, id, rate_kbps, kind, when, ms } => {
            let port = 1_000 + u16::from(id);
            let mut request = call(&session(id), port, rate_kbps * 1_000);
            request.schedule = when.schedule(world, node);
            request.priority = kind.priority;
            request.flows.iter_mut().for_each(|flow| kind.apply(flow, port));
            request.media_slots = slots(rate_kbps);
            let until = world.clock(node).plus(Nanos::from_millis(ms));
            world.request(node, Request::WaitForSession { request, until });
        }
        Operation::Take { node } => {
            let offered: Vec<_> = world.nodes[node].broker.sessions().filter_map(pair::wish_of_offered).collect();
            for request in offered {
                world.request(node, Request::CreateSession(request));
            }
        }
        Operation::Ask { node, id, rate_kbps, kind, when } => {
            let port = 1_000 + u16::from(id);
            let mut request = call(&session(id), port, rate_kbps * 1_000);
            request.schedule = when.schedule(world, node);
            request.priority = kind.priority;
            request.flows.iter_mut().for_each(|flow| kind.apply(flow, port));
            request.media_slots = slots(rate_kbps);
            world.request(node, Request::WouldAdmit(request));
        }
        Operation::OneWay { node, id, out, extra, kind, when } => {
            let carrier = match (extra, out) {
                (false, true) => "ab",
                (false, false) => "ba",
                (true, true) => "extra-ab",
                (true, false) => "extra-ba",
            };
            let port = 2_000 + u16::from(id);
            let mut flow = flow("only", carrier, (port, port), 100_000);
            kind.apply(&mut flow, port);
            let request = SessionRequest {
                priority: kind.priority,
                media_slots: MediaSlots::default(),
                schedule: when.schedule(world, node),
                id: name(&session(id)),
                flows: vec![flow],
            };
            world.request(node, Request::CreateSession(request));
        }
        Operation::Hangup { node, id } => {
            world.request(node, Request::DeleteSession(name(&session(id))));
        }
        Operation::ChangeEnd { node, id, ends_in_ms } => {
            let ends_at = ends_in_ms.map(|ms| world.clock(node).plus(Nanos::from_millis(ms)));
            world.request(node, Request::ChangeSessionEnd { id: name(&session(id)), ends_at });
        }
        Operation::Reserve { node, rate_kbps, copy, tag } => {
            let (own, peer) = [("extra-ab", "b"), ("extra-ba", "a")][node];
            let mut request = AggregateRequest { tag, ..aggregate(own, peer, rate_kbps * 1_000) };
            if copy {
                let copy = Some(DscpPolicy::Copy);
                request = AggregateRequest {
                    dscp: None,
                    dscp_policy: copy,
                    excess_dscp: Some(8),
                    deliver_dscp: Some(0),
                    ..request
                };
            }
            world.request(node, Request::CreateAggregate(request));
        }
        Operation::GiveUp { node } => {
            let own = ["extra-ab", "extra-ba"][node];
            world.request(node, Request::DeleteAggregate(name(own)));
        }
        Operation::ChangeRates { node, id, there_kbps, back_kbps, lower } => {
            let least = |kbps: u64| if lower { 1_000 } else { kbps * 1_000 };
            let flows = [("there", there_kbps), ("back", back_kbps)];
            let flows = flows.map(|(flow, kbps)| (flow, kbps * 1_000, least(kbps)));
            world.request(node, pair::rates(&session(id), &flows));
        }
        Operation::FailChanges { node, count } => world.nodes[node].change_failures = count,
        Operation::Recur { node, rate_kbps, kind, starts_in_ms, count } => {
            let port = 3_000 + 2 * u16::try_from(node).unwrap();
            let mut request = call(&format!("r{node}"), port, rate_kbps * 1_000);
            request.schedule = When { starts_in_ms: Some(starts_in_ms), lasts_ms: Some(5_000) }.schedule(world, node);
            request.flows.iter_mut().for_each(|flow| kind.apply(flow, port));
            request.media_slots = slots(rate_kbps);
            let (period, until) = (Nanos::from_millis(7_000), Until::Count(count));
            world.request(node, Request::CreateSeries { request, period, until });
        }
        Operation::EndSeries { node } => {
            world.request(node, Request::DeleteSeries(name(&format!("r{node}"))));
        }
        Operation::SetRate { node, rate_kbps, from_ms, lasts_ms } => {
            let from = from_ms.map(|ms| world.clock(node).plus(Nanos::from_millis(ms)));
            let begin = from.unwrap_or_else(|| world.clock(node));
            let until = lasts_ms.map(|ms| begin.plus(Nanos::from_millis(ms)));
            let rates = (Some(rate_kbps * 1_000), (rate_kbps % 2 == 0).then_some(rate_kbps * 1_000));
            let (rate_out_bps, rate_in_bps) = rates;
            let change = LinkChange { link: name("wan0"), rate_out_bps, rate_in_bps, from, until };
            world.request(node, Request::ChangeLink(change));
        }
        Operation::FailInstalls { node, count } => world.nodes[node].install_failures = count,
        Operation::Kill { node, host, down_ms } => {
            if host {
                world.crash_host(node);
            } else {
                world.crash(node);
            }
            world.run(down_ms);
            world.restart(node);
        }
        Operation::KillAfterPersist { node } => world.nodes[node].dies_after_persist = true,
        Operation::Wait { ms } => world.run(ms),
    }
    world.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_given_twice_and_nothing_is_left_over(
        seed in 1u64..,
        loss_percent in 0u64..40,
        lower_to_fit in any::<bool>(),
        flow_excess_rate_bps_max in prop::option::of(0u64..500_000),
        tag_family in family(),
        aggregates in [carrier(), carrier()],
        sessions_ended_max in 1usize..4,
        rate_bps in prop::option::of(500_000u64..4_000_000),
        mixers in 2u32..5,
        ahead_ms in [0u64..1_500, 0u64..1_500],
        operations in prop_oneof![
            2 => prop::collection::vec(operation(), 1..60),
            1 => prop::collection::vec(crowded(), 40..120),
            2 => prop::collection::vec(contested(), 20..100),
        ],
    ) {
        let configs = configs(tag_family).map(|mut config| {
            let flow_rate_bps_max = Some(400_000);
            config.second_side = SecondSide { flow_rate_bps_max, flow_excess_rate_bps_max, lower_to_fit, ..SecondSide::default() };
            config.limits.sessions_ended_max = sessions_ended_max;
            config.limits.flows_max = 7;
            config.capacity = Capacity { rate_bps, media_slots: [(name("mixing"), mixers)].into() };
            config
        });
        let mut world = World::connected_as(configs, aggregates);
        for (node, ms) in world.nodes.iter_mut().zip(ahead_ms) {
            node.ahead = Nanos::from_millis(ms);
        }
        world.network = bad_network(seed, loss_percent);
        for operation in &operations {
            apply(&mut world, operation);
        }
        world.network = perfect();
        for node in &mut world.nodes {
            node.install_failures = 0;
            node.change_failures = 0;
            node.dies_after_persist = false;
        }
        world.rest();
        world.check_rest();
        for node in [A, B] {
            for id in 0..IDS {
                world.request(node, Request::DeleteSession(name(&format!("s{id}"))));
            }
        }
        world.rest();
        world.check_rest();
        for node in [A, B] {
            prop_assert_eq!(world.flows_in_plane(node), 0);
        }
    }
}
