//! Random operations in a bad world: whatever is lost, repeated, late, refused or killed, nothing is given twice, and
//! nothing is left over.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected is a failed test"
)]

mod pair;

use pair::{A, B, World, aggregate, call, config, flow, name, perfect};
use proptest::prelude::*;
use turnpike_broker::{Request, SecondSide, SessionRequest};

#[derive(Debug, Clone)]
enum Operation {
    Call { node: usize, id: u8, rate_kbps: u64 },
    OneWay { node: usize, id: u8, out: bool },
    Hangup { node: usize, id: u8 },
    Reserve { node: usize, rate_kbps: u64 },
    GiveUp { node: usize },
    FailInstalls { node: usize, count: u32 },
    Kill { node: usize, host: bool, down_ms: u64 },
    KillAfterPersist { node: usize },
    Wait { ms: u64 },
}

fn operation() -> impl Strategy<Value = Operation> {
    let node = || 0usize..2;
    let id = || 0u8..6;
    prop_oneof![
        8 => (node(), id(), 50u64..600).prop_map(|(node, id, rate_kbps)| Operation::Call { node, id, rate_kbps }),
        3 => (node(), id(), any::<bool>()).prop_map(|(node, id, out)| Operation::OneWay { node, id, out }),
        6 => (node(), id()).prop_map(|(node, id)| Operation::Hangup { node, id }),
        2 => (node(), 500u64..12_000).prop_map(|(node, rate_kbps)| Operation::Reserve { node, rate_kbps }),
        1 => node().prop_map(|node| Operation::GiveUp { node }),
        2 => (node(), 1u32..3).prop_map(|(node, count)| Operation::FailInstalls { node, count }),
        1 => (node(), any::<bool>(), 0u64..5_000).prop_map(|(node, host, down_ms)| Operation::Kill { node, host, down_ms }),
        2 => node().prop_map(|node| Operation::KillAfterPersist { node }),
        6 => (0u64..8).prop_map(|ms| Operation::Wait { ms }),
        2 => (100u64..12_000).prop_map(|ms| Operation::Wait { ms }),
    ]
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

fn apply(world: &mut World, operation: &Operation) {
    let session = |id: u8| format!("s{id}");
    match *operation {
        Operation::Call { node, id, rate_kbps } => {
            let request = call(&session(id), 1_000 + u16::from(id), rate_kbps * 1_000);
            world.request(node, Request::CreateSession(request));
        }
        Operation::OneWay { node, id, out } => {
            let carrier = if out { "ab" } else { "ba" };
            let port = 2_000 + u16::from(id);
            let flows = vec![flow("only", carrier, (port, port), 100_000)];
            world.request(node, Request::CreateSession(SessionRequest { id: name(&session(id)), flows }));
        }
        Operation::Hangup { node, id } => {
            world.request(node, Request::DeleteSession(name(&session(id))));
        }
        Operation::Reserve { node, rate_kbps } => {
            let (own, peer) = [("extra-ab", "b"), ("extra-ba", "a")][node];
            world.request(node, Request::CreateAggregate(aggregate(own, peer, rate_kbps * 1_000)));
        }
        Operation::GiveUp { node } => {
            let own = ["extra-ab", "extra-ba"][node];
            world.request(node, Request::DeleteAggregate(name(own)));
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
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_given_twice_and_nothing_is_left_over(
        seed in 1u64..,
        loss_percent in 0u64..40,
        lower_to_fit in any::<bool>(),
        sessions_ended_max in 1usize..4,
        operations in prop::collection::vec(operation(), 1..60),
    ) {
        let configs = [A, B].map(|node| {
            let mut config = config(node);
            config.second_side = SecondSide { flow_rate_bps_max: Some(400_000), lower_to_fit };
            config.limits.sessions_ended_max = sessions_ended_max;
            config.limits.flows_max = 7;
            config
        });
        let mut world = World::connected_with(configs);
        world.network = bad_network(seed, loss_percent);
        for operation in &operations {
            apply(&mut world, operation);
        }
        world.network = perfect();
        for node in &mut world.nodes {
            node.install_failures = 0;
            node.dies_after_persist = false;
        }
        world.rest();
        world.check_rest();
        for node in [A, B] {
            for id in 0..6 {
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
