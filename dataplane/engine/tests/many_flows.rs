//! A million flows: tables of the largest size, filled to the last entry.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod host;
#[path = "../../fastpath/tests/world/mod.rs"]
mod world;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use aya::maps::MapData;
use host::{in_own_namespace, load};
use turnpike_engine::policy::{Meter, Policy, PolicyId};
use turnpike_engine::{Engine, EngineConfig, EngineError};
use turnpike_fastpath::Direction;
use turnpike_fastpath::plan::Ends;
use world::{PEER, rtp, tag_bytes, tagged_frame, udp_frame};

const FLOWS: u32 = 1 << 20;
const OUT: PolicyId = 1;
const IN: PolicyId = 2;
const METER: Meter = Meter { rate_bps: 100_000, burst_bytes: 4_000, packet_bytes_min: 28, excess: None };

/// Each flow has its own caller behind the site.
fn ends(number: u32) -> (SocketAddrV4, SocketAddrV4) {
    let caller = Ipv4Addr::from_bits(Ipv4Addr::new(10, 64, 0, 0).to_bits() + number / 16);
    (SocketAddrV4::new(caller, 10_000 + (number % 16) as u16), SocketAddrV4::new(Ipv4Addr::new(10, 2, 0, 10), 5_000))
}

fn label(number: u32) -> u64 {
    0x5a_5a50_0000 ^ u64::from(number)
}

fn out(number: u32) -> (PolicyId, Policy) {
    let (source, destination) = ends(number);
    (PolicyId::from(number) + 10, load::out(OUT, source, destination, label(number), METER))
}

/// All come to one terminal: next hops have their own limit.
fn inward(number: u32) -> (PolicyId, Policy) {
    let source = ends(number).0;
    let destination = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 10), 4_000);
    (PolicyId::from(number) + 10 + u64::from(FLOWS), load::inward(IN, source, destination, label(number), METER))
}

fn passes(engine: &mut Engine, number: u32) -> bool {
    let (source, destination) = ends(number);
    let ends = Ends { source: source.into(), destination: destination.into() };
    let out = udp_frame(&ends, &rtp(), 0, 64);
    let inward = tagged_frame(PEER, tag_bytes(1, 1, label(number), 172), &rtp());
    [(Direction::Out, out), (Direction::In, inward)]
        .iter()
        .all(|(direction, frame)| engine.trial(*direction, frame).unwrap().action == 4)
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    println!("{what}: {:.1?}", start.elapsed());
    result
}

/// Installs all of these. By chance two of a million flows cannot be told apart by the table; the later one is refused and left out.
fn install(engine: &mut Engine, numbers: Range<u32>) {
    let all: Vec<_> = numbers.clone().map(out).collect();
    match engine.install(&all) {
        Err(EngineError::HashCollision) => {
            for policy in all {
                match engine.install(&[policy]) {
                    Err(EngineError::HashCollision) => println!("two flows with one hash"),
                    result => result.unwrap(),
                }
            }
        }
        result => result.unwrap(),
    }
    let all: Vec<_> = numbers.map(inward).collect();
    engine.install(&all).unwrap();
}

/// A field of this process's status, bytes.
fn memory(file: &str, field: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1_024
}

/// What the kernel says that the pinned tables take.
fn charged_bytes(config: &EngineConfig) -> u64 {
    let pins = std::fs::read_dir(config.pin_dir.join("maps")).unwrap();
    let held: Vec<_> = pins.map(|pin| MapData::from_pin(pin.unwrap().path()).unwrap()).collect();
    let charge = |map: &MapData| {
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("memlock:")).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    held.iter().map(charge).sum()
}

/// No table takes more than is said, and what is said is not much more than the truth.
fn assert_memory_is_as_stated(engine: &mut Engine, config: &EngineConfig) {
    let stated = config.memory_bytes().unwrap();
    assert_eq!(engine.status().unwrap().memory_bytes, stated);
    let charged = charged_bytes(config);
    println!("{} flows: {stated} bytes stated, {charged} charged", config.flows_max);
    assert!(charged <= stated && stated - charged < 64 << 10, "{stated} bytes stated, {charged} charged");
}

#[test]
fn the_memory_stated_is_what_the_kernel_charges() {
    in_own_namespace(|config| {
        for (flows_max, aggregates_max) in [(8, 1), (65_536, 4_096), (8_192, 65_534)] {
            let config = EngineConfig { flows_max, aggregates_max, ..config.clone() };
            let mut engine = Engine::start(&config).unwrap();
            assert_memory_is_as_stated(&mut engine, &config);
        }
    });
}

#[test]
fn a_million_flows_each_way() {
    in_own_namespace(|config| {
        let config = EngineConfig { flows_max: FLOWS, lapse_after: Duration::from_secs(3_600), ..config.clone() };
        // The tables, and as much again for two million policies in this process.
        let (needed, free) = (2 * config.memory_bytes().unwrap(), memory("/proc/meminfo", "MemAvailable:"));
        if free < needed {
            println!("skipped: needs {} MiB of memory, and {} are free", needed >> 20, free >> 20);
            return;
        }
        let mut engine = timed("start", || Engine::start(&config).unwrap());
        assert_memory_is_as_stated(&mut engine, &config);
        let (rate_bps, burst_bytes) = (100_000_000_000, 1 << 24);
        let aggregates =
            [(OUT, load::aggregate_out(rate_bps, burst_bytes)), (IN, load::aggregate_in(rate_bps, burst_bytes))];
        engine.install(&aggregates).unwrap();
        let own_before = memory("/proc/self/status", "RssAnon:");
        for part in 0..8 {
            timed("an eighth", || install(&mut engine, part * (FLOWS / 8)..(part + 1) * (FLOWS / 8)));
        }
        let own = memory("/proc/self/status", "RssAnon:") - own_before;
        println!("this process took {} bytes for each flow and label", own / u64::from(FLOWS));
        let some = [0, 1, FLOWS / 3, FLOWS / 2, FLOWS - 2, FLOWS - 1];
        let used = |engine: &mut Engine| {
            let status = timed("status", || engine.status().unwrap());
            status.tables.into_iter().map(|table| (table.name, table.used)).collect::<BTreeMap<_, _>>()
        };
        let before = used(&mut engine);
        assert!(before["flows"] > u64::from(FLOWS) - 5 && before["labels"] == u64::from(FLOWS), "{before:?}");
        for number in some {
            assert!(passes(&mut engine, number), "flow {number}");
        }
        if before["flows"] == u64::from(FLOWS) {
            let one_more = load::out(OUT, "10.63.0.1:5".parse().unwrap(), ends(0).1, 0, METER);
            assert_eq!(engine.install(&[(5, one_more)]).unwrap_err().code(), "table_full");
        }
        timed("renew", || engine.renew());
        drop(engine);

        let mut engine = timed("start, taking all over", || Engine::start(&config).unwrap());
        assert_eq!(engine.adopted().len() as u64, before["flows"] + before["labels"] + 2);
        assert_eq!(used(&mut engine), before);
        for number in some {
            assert!(passes(&mut engine, number), "flow {number}");
            assert_eq!(engine.counters(out(number).0).unwrap().passed_packets, 2);
            assert_eq!(engine.counters(inward(number).0).unwrap().passed_packets, 2);
        }
        let all: Vec<_> = engine.adopted().to_vec();
        let counted = timed("deinstall", || engine.deinstall(&all));
        assert_eq!(counted.iter().map(|counters| counters.passed_packets).sum::<u64>(), 8 * some.len() as u64);
        timed("forget", || engine.forget(&all));
        assert!(used(&mut engine).iter().all(|(name, used)| *used == 0 || *name == "ports"), "something is left over");
        assert!(!passes(&mut engine, 0));
    });
}
