//! The packet logic in the kernel against the same logic on the host: the same frames, the same tables, and equal bytes, verdicts and
//! counters.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod host;
#[path = "../../fastpath/tests/world/mod.rs"]
mod world;

use std::net::IpAddr;

use aya::maps::{Array, DevMap, Map, MapData};
use host::{has_vlans, in_own_namespace};
use turnpike_engine::policy::{Dscp, Excess, Media, Meter, Policy};
use turnpike_engine::{Engine, EngineConfig};
use turnpike_fastpath::buffer::Buffer;
use turnpike_fastpath::entry::{Config, EXACT_CLOCK, INTERIM, Interim, NextHop, Port};
use turnpike_fastpath::memory::MemoryTables;
use turnpike_fastpath::meter::{flow_rate, pool_rate};
use turnpike_fastpath::{Direction, Reason, Verdict, inbound, outbound};
use world::host::routes;
use world::*;

const RANDOM_FRAMES: usize = 120_000;

const AGGREGATE_OUT: u64 = 1;
const AGGREGATE_OUT_6: u64 = 2;
const AGGREGATE_IN: u64 = 3;
const AGGREGATE_IN_6: u64 = 4;
const AGGREGATE_IN_OTHER: u64 = 5;
const FLOWS: u64 = 10;

const WIDE: Meter = Meter { rate_bps: 10_000_000_000, burst_bytes: 1 << 30, packet_bytes_min: 28, excess: None };

/// One packet is counted as nine thousand bytes, which take 72 seconds to come back.
fn meter(spent: bool, excess: bool) -> Meter {
    let narrow = Meter { rate_bps: 1_000, burst_bytes: 9_000, packet_bytes_min: 9_000, excess: None };
    let excess = excess.then_some(Excess { rate_bps: 10_000_000_000, burst_bytes: 1 << 30 });
    Meter { excess, ..if spent { narrow } else { WIDE } }
}

/// The scene of [`world`], installed through the engine.
fn start(config: &EngineConfig) -> Engine {
    let mut engine = Engine::start(config).unwrap();
    let (rate_bps, burst_bytes) = (100_000_000_000, 1 << 24);
    let out = |peer| {
        let dscp = Dscp::Set(46);
        Policy::AggregateOut { peer, rate_bps, burst_bytes, dscp, excess_dscp: Some(10) }
    };
    let inward = |peer| Policy::AggregateIn { peer, rate_bps, burst_bytes, dscp: Dscp::Copy };
    let mut policies = vec![
        (AGGREGATE_OUT, out(PEER)),
        (AGGREGATE_OUT_6, out(PEER6)),
        (AGGREGATE_IN, inward(PEER)),
        (AGGREGATE_IN_6, inward(PEER6)),
        (AGGREGATE_IN_OTHER, inward(OTHER_PEER)),
    ];
    for flow in flows_out() {
        let policy = Policy::FlowOut {
            aggregate: if flow.peer.is_ipv6() { AGGREGATE_OUT_6 } else { AGGREGATE_OUT },
            source: flow.ends.source,
            destination: flow.ends.destination,
            label: LABEL_OUT,
            meter: meter(flow.spent, flow.excess),
            rtcp_next_port: flow.rtcp_next_port,
            terminals: flow.terminals,
        };
        policies.push((FLOWS + policies.len() as u64, policy));
    }
    for flow in flows_in() {
        let aggregate = match flow.peer {
            OTHER_PEER => AGGREGATE_IN_OTHER,
            IpAddr::V4(_) => AGGREGATE_IN,
            IpAddr::V6(_) => AGGREGATE_IN_6,
        };
        let (label, meter) = (flow.label, meter(flow.spent, flow.excess));
        let policy = match flow.ends {
            Some(ends) => Policy::FlowIn {
                aggregate,
                source: ends.source,
                destination: ends.destination,
                label,
                meter,
                rtcp_next_port: flow.rtcp_next_port,
                media: Media::default(),
            },
            None => Policy::TerminalsIn { aggregate, label, meter },
        };
        policies.push((FLOWS + policies.len() as u64, policy));
    }
    engine.install(&policies).unwrap();
    engine.set_best_effort_rate(rate_bps).unwrap();
    // Spends the narrow meters.
    for port in [SPENT, EXCESS] {
        let spend = engine.trial(Direction::Out, &udp_frame(&out_ends(port), &rtp(), 0, 64)).unwrap();
        assert_eq!(spend.action, 4);
    }
    for label in [LABEL_SPENT, LABEL_EXCESS] {
        // The path's jitter is allowed besides, but comes to less than a packet here.
        let spend = tagged_frame(PEER, tag_bytes(1, 1, label, 172), &rtp());
        assert_eq!(engine.trial(Direction::In, &spend).unwrap().action, 4);
    }
    if !has_vlans() {
        println!("this kernel has no VLAN interfaces: the ports of VLANs are written by hand");
        write_vlans(config);
    }
    engine
}

/// Puts the two terminals behind VLANs where the kernel has none.
fn write_vlans(config: &EngineConfig) {
    let map = |name: &str| MapData::from_pin(config.pin_dir.join("maps").join(name)).unwrap();
    let mut ports: Array<_, [u64; 4]> = Map::Array(map("TP_PORTS")).try_into().unwrap();
    let mut devices: DevMap<_> = Map::DevMap(map("TP_DEVICES")).try_into().unwrap();
    let mut next_hops: Array<_, u64> = Map::Array(map("TP_NEXT_HOPS")).try_into().unwrap();
    let lan: Port = zerocopy::transmute!(ports.get(&0, 0).unwrap());
    let one = Port { vlans: [[0x81, 0, 0, 100], [0; 4]], vlans_count: 1, ..lan };
    let two = Port { vlans: [[0x88, 0xa8, 0, 200], [0x81, 0, 0, 30]], vlans_count: 2, ..lan };
    for (index, port, last) in [(2_u16, one, 3), (3, two, 4)] {
        let words: [u64; 4] = zerocopy::transmute!(port);
        ports.set(u32::from(index), words, 0).unwrap();
        devices.set(u32::from(index), lan.ifindex, None, 0).unwrap();
        let direct = NextHop::new(0, [2, 0, 0, 0, 2, last]).0;
        for place in 0..next_hops.len() {
            if next_hops.get(&place, 0).unwrap() == direct {
                next_hops.set(place, NextHop::new(index, [2, 0, 0, 0, 2, last]).0, 0).unwrap();
            }
        }
    }
}

fn on_host(tables: &MemoryTables<'_>, direction: Direction, frame: &[u8]) -> (u32, Vec<u8>) {
    let mut buffer = Buffer::new(frame).unwrap();
    let verdict = match direction {
        Direction::Out => outbound(&mut buffer, tables),
        Direction::In => inbound(&mut buffer, tables),
    };
    let action = match verdict {
        Verdict::Drop => 1,
        Verdict::Pass => 2,
        Verdict::Redirect(_) => 4,
    };
    (action, buffer.as_slice().to_vec())
}

/// A small generator, so that a seed names all of a run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// A frame near a named one, or nothing of the kind.
    fn frame(&mut self, cases: &[Case]) -> (Direction, Vec<u8>) {
        let case = &cases[self.below(cases.len())];
        let mut frame = case.frame.clone();
        match self.below(8) {
            0 => frame = (0..14 + self.below(300)).map(|_| self.next() as u8).collect(),
            1 => frame.truncate(14 + self.below(frame.len().max(15) - 14)),
            2 => frame.extend((0..self.below(64)).map(|_| self.next() as u8)),
            // One of the fields that decide.
            3 => {
                let at = [12, 14, 15, 16, 17, 20, 21, 22, 23, 26, 30, 34, 36, 38, 39, 42, 43, 44, 45, 46, 47, 48, 49];
                let at = at[self.below(at.len())];
                if at < frame.len() {
                    frame[at] = self.next() as u8;
                }
            }
            // A good packet with another payload, hop count, TOS and checksum.
            4 if case.direction == Direction::Out => {
                let payload: Vec<u8> = (0..self.below(1_400)).map(|_| self.next() as u8).collect();
                let flows = flows_out();
                let ends = flows[self.below(flows.len())].ends;
                frame = udp_frame(&ends, &payload, self.next() as u8, self.next() as u8);
                frame[40] ^= (self.next() & 1) as u8;
            }
            4 => {
                let payload: Vec<u8> = (0..self.below(1_400)).map(|_| self.next() as u8).collect();
                let v6 = self.below(2) == 1;
                let (peer, label) = if v6 { (PEER6, LABEL_IN_66) } else { (PEER, LABEL_IN) };
                frame = tagged_frame(peer, tag_bytes(1, 1, label, payload.len() as u16), &payload);
                let (hops, port) = if v6 { (21, 54) } else { (22, 34) };
                frame[hops] = self.next() as u8;
                frame[port] = self.next() as u8;
            }
            _ => {
                for _ in 0..1 + self.below(4) {
                    let at = self.below(frame.len());
                    frame[at] ^= 1 << self.below(8);
                }
            }
        }
        let direction = if self.below(16) == 0 { opposite(case.direction) } else { case.direction };
        (direction, frame)
    }
}

fn opposite(direction: Direction) -> Direction {
    match direction {
        Direction::Out => Direction::In,
        Direction::In => Direction::Out,
    }
}

/// What the fuzzers kept, but for frames that a test run does not take.
fn corpus() -> Vec<(Direction, Vec<u8>)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fastpath/fuzz/corpus/any_frame");
    let inputs = std::fs::read_dir(folder).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    let frames = inputs.filter_map(|input| {
        let (direction, frame) = input.split_first()?;
        let direction = if direction & 1 == 0 { Direction::Out } else { Direction::In };
        (14..=3_000).contains(&frame.len()).then(|| (direction, frame.to_vec()))
    });
    let frames: Vec<_> = frames.collect();
    assert!(frames.len() > 20, "the fuzzers' corpus is not there");
    frames
}

/// Has all meters go by interim numbers, as if a change were under way: those of flows that may send freely, in wide aggregates.
fn put_amid_change(config: &EngineConfig) {
    let map = |name: &str| Map::Array(MapData::from_pin(config.pin_dir.join("maps").join(name)).unwrap());
    let pool = pool_rate(100_000_000_000, 1 << 24, aya::util::nr_cpus().unwrap() as u32, u32::from(MTU)).unwrap();
    let interim = Interim {
        rate: flow_rate(WIDE.rate_bps, WIDE.burst_bytes, 0).unwrap(),
        excess: flow_rate(WIDE.rate_bps, WIDE.burst_bytes, 0).unwrap(),
        flags: EXACT_CLOCK,
        packet_bytes_min: 28,
        quantum_bytes: pool.quantum_bytes,
        quantum_ns: pool.quantum_ns,
        depth_ns: pool.depth_ns,
        byte_cost: pool.byte_cost,
        reserve_ns: pool.reserve_ns,
        ..Interim::default()
    };
    let mut table: Array<_, [u64; size_of::<Config>() / 8]> = map("TP_CONFIG").try_into().unwrap();
    let mut entry: Config = zerocopy::transmute!(table.get(&0, 0).unwrap());
    entry.interim = interim;
    let words: [u64; size_of::<Config>() / 8] = zerocopy::transmute!(entry);
    table.set(0, words, 0).unwrap();
    for (name, moving) in
        [("TP_FLOWS", 7), ("TP_LABELS", 7), ("TP_FLOW_DETAILS", 6), ("TP_LBL_DETAILS", 6), ("TP_POOLS", 0)]
    {
        let mut table: Array<_, [u64; 8]> = map(name).try_into().unwrap();
        for index in 0..table.len() {
            let mut words = table.get(&index, 0).unwrap();
            words[moving] = INTERIM;
            table.set(index, words, 0).unwrap();
        }
    }
}

#[test]
fn named_frames_end_in_the_kernel_as_they_are_said_to() {
    in_own_namespace(|config| {
        let mut engine = start(config);
        for case in cases() {
            let (before, _) = engine.verdict(case.direction, case.reason);
            let trial = engine.trial(case.direction, &case.frame).unwrap();
            let (after, _) = engine.verdict(case.direction, case.reason);
            let action = match case.reason.action() {
                "drop" => 1,
                "pass" => 2,
                _ => 4,
            };
            assert_eq!((trial.action, after - before), (action, 1), "{}", case.name);
            // What was damaged stays so.
            if trial.action == 4 && !case.name.contains("wrong") {
                assert!(checksums_hold(&trial.frame), "{}", case.name);
            }
        }
    });
}

#[test]
fn the_kernel_and_the_host_agree_amid_a_change() {
    in_own_namespace(|config| {
        let mut engine = start(config);
        put_amid_change(config);
        let mut host = engine.snapshot(0);
        host.routes = routes(has_vlans());
        let tables = host.tables();
        let (mut random, cases) = (Random(0x1357_9bdf_0246_8ace), cases());
        let mut frames: Vec<_> = cases.iter().map(|case| (case.direction, case.frame.clone())).collect();
        frames.extend((0..10_000).map(|_| random.frame(&cases)));
        for (direction, frame) in frames {
            let trial = engine.trial(direction, &frame).unwrap();
            let (action, after) = on_host(&tables, direction, &frame);
            assert_eq!((trial.action, &trial.frame), (action, &after), "{direction:?}: {frame:02x?}");
        }
        assert!(engine.snapshot(0).counts_like(&host), "counters differ");
        // Meters that are spent by their own numbers are not by these.
        for direction in Direction::ALL {
            assert_eq!(engine.verdict(direction, Reason::FlowOverRate).0, 0);
            assert_eq!(engine.verdict(direction, Reason::Contended).0, 0);
        }
        for flow in tables.flows.iter().filter(|flow| flow.expires_ns != 0) {
            assert_eq!(flow.due.load(std::sync::atomic::Ordering::Relaxed) & INTERIM, INTERIM);
        }
    });
}

#[test]
fn the_kernel_and_the_host_agree_on_bytes_verdicts_and_counters() {
    in_own_namespace(|config| {
        let seed = 0x7a3d_91c5_0b2e_4f68;
        println!("seed {seed:#x}, {RANDOM_FRAMES} frames");
        let mut random = Random(seed);
        let mut engine = start(config);
        let mut host = engine.snapshot(0);
        host.routes = routes(has_vlans());
        let tables = host.tables();
        let cases = cases();
        let mut named: Vec<_> = cases.iter().map(|case| (case.direction, case.frame.clone())).collect();
        named.extend(corpus());
        for number in 0..RANDOM_FRAMES + named.len() {
            let (direction, frame) = named.get(number).cloned().unwrap_or_else(|| random.frame(&cases));
            let trial = engine.trial(direction, &frame).unwrap();
            let (action, after) = on_host(&tables, direction, &frame);
            assert_eq!((trial.action, &trial.frame), (action, &after), "frame {number} {direction:?}: {frame:02x?}");
        }
        let kernel = engine.snapshot(0);
        for direction in Direction::ALL {
            for reason in Reason::ALL {
                let row = reason.row(direction);
                let host = turnpike_fastpath::Tables::reason_share(&tables, row).unwrap().packets.get();
                let (kernel, _) = engine.verdict(direction, *reason);
                if kernel + host > 0 {
                    println!("{:>4} {:<24} {kernel:>7} {host:>7}", direction.name(), reason.name());
                }
            }
        }
        assert!(kernel.counts_like(&host), "counters differ");
        for reason in [Reason::Tagged, Reason::Unadmitted, Reason::BadLength, Reason::FlowOverRate] {
            assert!(engine.verdict(Direction::Out, reason).0 > 500, "too few frames were {}", reason.name());
        }
        for reason in [Reason::Restored, Reason::Stranger, Reason::StaleGeneration, Reason::BadLength] {
            assert!(engine.verdict(Direction::In, reason).0 > 500, "too few frames were {}", reason.name());
        }
        for policy in (1..=5).chain(FLOWS + 5..FLOWS + 29) {
            let counters = engine.counters(policy).unwrap();
            assert_eq!(counters.offered_packets, counters.passed_packets + counters.dropped_packets);
            assert_eq!(counters.offered_bytes, counters.passed_bytes + counters.dropped_bytes);
        }
    });
}
