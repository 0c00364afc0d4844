//! Restarts, other sizes, and interfaces that go and come back, all under real packets: what is lost, and what is counted.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod host;
#[path = "../../fastpath/tests/world/mod.rs"]
mod world;

use std::time::{Duration, Instant};

use host::load::{self, AGGREGATE_IN, FLOWS, Load, Report, Wire, assert_exact};
use host::{has_vlans, in_own_namespace, ip};
use turnpike_engine::policy::Meter;
use turnpike_engine::{Engine, EngineConfig};
use turnpike_fastpath::{Direction, Reason};
use world::{PEER, rtp, tag_bytes, tagged_frame};

/// How often the node follows the network.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

fn start(config: &EngineConfig) -> Engine {
    let mut engine = Engine::start(config).unwrap();
    engine.install(&load::policies()).unwrap();
    engine
}

/// A packet that was just being sent when the interface went.
const UNDER_WAY: Duration = Duration::from_millis(20);

/// Only what was sent while the interface was away may be missing.
fn assert_lost_only(reports: &[Report; 2], away: &[(Instant, Instant)]) {
    for report in reports {
        assert!(report.sent > 500, "too little traffic to tell: {report:?}");
        assert_eq!((report.doubled, report.strange), (0, 0));
        let within = |sent: &Instant| away.iter().any(|(from, to)| (*from - UNDER_WAY..=*to).contains(sent));
        let start = away[0].0.checked_sub(Duration::from_secs(60)).unwrap();
        let other: Vec<_> = report
            .missing
            .iter()
            .filter(|(_, sent)| !within(sent))
            .map(|(number, sent)| (number, *sent - start))
            .collect();
        let away: Vec<_> = away.iter().map(|(from, to)| (*from - start, *to - start)).collect();
        assert!(
            other.is_empty(),
            "{} of {} were lost for no reason: {other:?}, away {away:?}",
            other.len(),
            report.sent
        );
    }
}

/// Follows the network like the node does until packets come through both ways; how often it had to.
fn follow_until_it_flows(engine: &mut Engine, load: &Load) -> u32 {
    let mut before = load.received();
    for number in 0..50 {
        engine.follow_network().unwrap();
        std::thread::sleep(FOLLOW_INTERVAL);
        let now = load.received();
        if now.iter().zip(&before).all(|(now, before)| now > before) {
            return number;
        }
        before = now;
    }
    panic!("packets do not come through any more: {:?}", engine.status().unwrap());
}

fn assert_sound(engine: &mut Engine, restored: [u64; 2]) {
    let status = engine.status().unwrap();
    let found: Vec<_> = status.interfaces.iter().map(|port| (port.xdp_mode, port.state, port.restored)).collect();
    assert_eq!(found, restored.map(|restored| ("native", "up", restored)));
}

#[test]
fn restarts_lose_nothing() {
    in_own_namespace(|config| {
        let Some(wire) = Wire::new() else { return };
        let mut engine = start(config);
        let load = wire.start();
        for _ in 0..10 {
            load.wait_for(100);
            drop(engine);
            load.wait_for(50);
            engine = Engine::start(config).unwrap();
        }
        load.wait_for(100);
        let reports = load.end();
        println!("sent {} out, {} in; nothing lost", reports[0].sent, reports[1].sent);
        assert_exact(&engine, &reports);
        let all: Vec<_> = load::policies().into_iter().map(|(id, _)| id).collect();
        engine.deinstall(&all);
        engine.forget(&all);
        let tables = engine.status().unwrap().tables;
        assert!(
            tables.iter().all(|table| table.used == 0 || table.name == "ports"),
            "something is left over: {tables:?}"
        );
    });
}

#[test]
fn other_sizes_lose_nothing() {
    in_own_namespace(|config| {
        let Some(wire) = Wire::new() else { return };
        let mut engine = start(config);
        let load = wire.start();
        for flows_max in [4_096, 16, 65_536, 512] {
            load.wait_for(100);
            drop(engine);
            let other = EngineConfig { flows_max, aggregates_max: flows_max / 8, ..config.clone() };
            engine = Engine::start(&other).unwrap();
            let flows = &engine.status().unwrap().tables[0];
            assert_eq!((flows.used, flows.max), (u64::from(FLOWS), u64::from(flows_max)));
        }
        load.wait_for(100);
        let reports = load.end();
        println!("sent {} out, {} in; nothing lost", reports[0].sent, reports[1].sent);
        assert_exact(&engine, &reports);
    });
}

#[test]
fn an_interface_that_is_made_anew_is_back_at_once() {
    in_own_namespace(|config| {
        let Some(mut wire) = Wire::new() else { return };
        let mut engine = start(config);
        let load = wire.start();
        let mut away = Vec::new();
        for restored in 1..=2 {
            load.wait_for(200);
            let gone_at = Instant::now();
            ip("link del lan");
            std::thread::sleep(FOLLOW_INTERVAL);
            engine.follow_network().unwrap();
            assert_eq!(engine.status().unwrap().interfaces[0].state, "gone");
            ip("link add lan type veth peer name site");
            ip("addr add 10.1.0.1/24 dev lan");
            ip("link set lan up");
            wire.settle_site_again();
            let rounds = follow_until_it_flows(&mut engine, &load);
            away.push((gone_at, Instant::now()));
            println!("lan: back after {rounds} rounds of {FOLLOW_INTERVAL:?}");
            assert!(rounds < 5);
            assert_sound(&mut engine, [restored, restored - 1]);

            load.wait_for(200);
            let gone_at = Instant::now();
            ip("link del wan");
            std::thread::sleep(FOLLOW_INTERVAL);
            engine.follow_network().unwrap();
            let dropped = || engine.verdict(Direction::Out, Reason::NextHopUnresolved).0;
            let (before, start) = (dropped(), Instant::now());
            while dropped() < before + 10 {
                assert!(
                    start.elapsed() < Duration::from_secs(10),
                    "packets for a port that is gone are not counted as dropped"
                );
                std::thread::sleep(Duration::from_millis(1));
            }
            ip("link add wan type veth peer name far");
            ip("addr add 198.18.0.1/24 dev wan");
            ip("link set wan up");
            ip("route add 10.2.0.0/24 via 198.18.0.2");
            wire.settle_far_again();
            let rounds = follow_until_it_flows(&mut engine, &load);
            away.push((gone_at, Instant::now()));
            println!("wan: back after {rounds} rounds of {FOLLOW_INTERVAL:?}");
            assert!(rounds < 5);
            assert_sound(&mut engine, [restored, restored]);
        }
        load.wait_for(200);
        drop(engine);
        let mut engine = Engine::start(config).unwrap();
        assert_sound(&mut engine, [0, 0]);
        load.wait_for(200);
        let reports = load.end();
        let lost = reports.iter().map(|report| report.missing.len()).collect::<Vec<_>>();
        println!("sent {} out, {} in; lost while it was away {lost:?}", reports[0].sent, reports[1].sent);
        assert_lost_only(&reports, &away);
        let links = std::fs::read_dir(config.pin_dir.join("links")).unwrap();
        assert_eq!(links.count(), 2);
    });
}

#[test]
fn a_flap_costs_only_what_is_sent_meanwhile() {
    in_own_namespace(|config| {
        let Some(wire) = Wire::new() else { return };
        let mut engine = start(config);
        let load = wire.start();
        let mut away = Vec::new();
        for interface in ["lan", "wan", "lan", "wan"] {
            load.wait_for(200);
            let down_at = Instant::now();
            ip(&format!("link set {interface} down"));
            engine.follow_network().unwrap();
            // A process may as well die and come back just then.
            drop(engine);
            engine = Engine::start(config).unwrap();
            std::thread::sleep(FOLLOW_INTERVAL);
            assert!(engine.status().unwrap().interfaces.iter().any(|port| port.state == "down"));
            ip(&format!("link set {interface} up"));
            wire.wait_until_up();
            away.push((down_at, Instant::now()));
            engine.follow_network().unwrap();
        }
        load.wait_for(200);
        assert_sound(&mut engine, [0, 0]);
        let reports = load.end();
        let lost = reports.iter().map(|report| report.missing.len()).collect::<Vec<_>>();
        println!("sent {} out, {} in; lost while it was down {lost:?}", reports[0].sent, reports[1].sent);
        assert!(lost.iter().all(|lost| *lost > 10), "it was never down");
        assert_lost_only(&reports, &away);
    });
}

/// Makes the port towards the site anew, with what the tests' namespace has on it.
fn lay_lan_anew() {
    ip("link del lan");
    ip("link add lan type veth peer name site");
    ip("addr add 10.1.0.1/24 dev lan");
    ip("link set lan up");
    ip("link set site up");
}

#[test]
fn a_vlan_comes_back_with_its_interface() {
    in_own_namespace(|config| {
        if !has_vlans() {
            println!("skipped: this kernel has no VLAN interfaces");
            return;
        }
        let mut engine = start(config);
        let meter = Meter { rate_bps: 1_000_000, burst_bytes: 65_536, packet_bytes_min: 28, excess: None };
        let (source, destination) = ("10.2.0.10:5000".parse().unwrap(), "10.3.0.10:4000".parse().unwrap());
        let label = 0x11_1110_0020;
        engine.install(&[(99, load::inward(AGGREGATE_IN, source, destination, label, meter))]).unwrap();
        let frame = tagged_frame(PEER, tag_bytes(1, 1, label, 172), &rtp());
        let arrives = |engine: &mut Engine| {
            let trial = engine.trial(Direction::In, &frame).unwrap();
            (trial.action == 4).then(|| trial.frame[..18].to_vec())
        };
        let before = arrives(&mut engine).unwrap();
        assert_eq!(before[12..16], [0x81, 0, 0, 100], "it is in its VLAN");
        lay_lan_anew();
        engine.follow_network().unwrap();
        assert_eq!(arrives(&mut engine), None, "its VLAN is still gone");
        ip("link add link lan name lan100 type vlan id 100");
        ip("addr add 10.3.0.1/24 dev lan100");
        ip("link set lan100 up");
        ip("neigh add 10.3.0.10 lladdr 02:00:00:00:02:03 dev lan100 nud permanent");
        engine.follow_network().unwrap();
        let after = arrives(&mut engine).unwrap();
        assert_eq!((&after[..6], &after[12..]), (&before[..6], &before[12..]));
        assert_sound(&mut engine, [1, 0]);
    });
}

#[test]
fn one_interface_for_both_comes_back_too() {
    in_own_namespace(|config| {
        let config = EngineConfig { wan: "lan".to_owned(), ..config.clone() };
        let mut engine = Engine::start(&config).unwrap();
        assert_sound(&mut engine, [0, 0]);
        lay_lan_anew();
        engine.follow_network().unwrap();
        assert_sound(&mut engine, [1, 1]);
        drop(engine);
        // From there to two interfaces and back, whatever is attached where.
        for (lan, wan) in [("wan", "lan"), ("lan", "wan"), ("wan", "wan"), ("lan", "wan")] {
            let config = EngineConfig { lan: lan.to_owned(), wan: wan.to_owned(), ..config.clone() };
            let mut engine = Engine::start(&config).unwrap();
            assert_sound(&mut engine, [0, 0]);
            let links = std::fs::read_dir(config.pin_dir.join("links")).unwrap().count();
            assert_eq!(links, if lan == wan { 1 } else { 2 });
        }
    });
}
