//! The packet logic in the kernel against the same logic on the host: the same frames, the same tables, and equal bytes, verdicts and
//! counters.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod host;
#[path = "../../fastpath/tests/world/mod.rs"]
mod world;

use std::net::{Ipv4Addr, SocketAddrV4};

use host::in_own_namespace;
use turnpike_engine::policy::{Media, Meter, Policy};
use turnpike_engine::{Engine, EngineConfig};
use turnpike_fastpath::buffer::Buffer;
use turnpike_fastpath::entry::Inner;
use turnpike_fastpath::memory::MemoryTables;
use turnpike_fastpath::{Direction, Reason, Verdict, inbound, outbound};
use world::*;

const RANDOM_FRAMES: usize = 120_000;

const AGGREGATE_OUT: u64 = 1;
const AGGREGATE_IN: u64 = 2;
const AGGREGATE_IN_OTHER: u64 = 3;

fn ends(inner: &Inner) -> (SocketAddrV4, SocketAddrV4) {
    let address = |ip: [u8; 4], port: [u8; 2]| SocketAddrV4::new(Ipv4Addr::from(ip), u16::from_be_bytes(port));
    (address(inner.source, inner.source_port), address(inner.destination, inner.destination_port))
}

/// The scene of [`world`], installed through the engine.
fn start(config: &EngineConfig) -> Engine {
    let mut engine = Engine::start(config).unwrap();
    let wide = Meter { rate_bps: 10_000_000_000, burst_bytes: 1 << 30, packet_bytes_min: 28 };
    // One packet is counted as nine thousand bytes, which take 72 seconds to come back.
    let narrow = Meter { rate_bps: 1_000, burst_bytes: 9_000, packet_bytes_min: 9_000 };
    let rate = (100_000_000_000, 1 << 24);
    let flow_out = |port, meter| {
        let (source, destination) = ends(&out_ends(port));
        Policy::FlowOut { aggregate: AGGREGATE_OUT, source, destination, label: LABEL_OUT, meter }
    };
    let flow_in = |aggregate, port, label| {
        let (source, destination) = ends(&in_ends(port));
        Policy::FlowIn { aggregate, source, destination, label, meter: wide, media: Media::default() }
    };
    let peer = Ipv4Addr::from(PEER);
    let other = Ipv4Addr::from(OTHER_PEER);
    engine
        .install(&[
            (AGGREGATE_OUT, Policy::AggregateOut { peer, rate_bps: rate.0, burst_bytes: rate.1, dscp: 46 }),
            (AGGREGATE_IN, Policy::AggregateIn { peer, rate_bps: rate.0, burst_bytes: rate.1 }),
            (AGGREGATE_IN_OTHER, Policy::AggregateIn { peer: other, rate_bps: rate.0, burst_bytes: rate.1 }),
            (10, flow_out(FREE, wide)),
            (11, flow_out(SPENT, narrow)),
            (12, flow_in(AGGREGATE_IN, FREE, LABEL_IN)),
            (13, flow_in(AGGREGATE_IN_OTHER, FREE + 100, LABEL_OTHER)),
        ])
        .unwrap();
    engine.set_best_effort_rate(rate.0).unwrap();
    // Spends the narrow flow's meter.
    let spend = engine.trial(Direction::Out, &udp_frame(&out_ends(SPENT), &rtp(), 0, 64)).unwrap();
    assert_eq!(spend.action, 4);
    engine
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
                frame = udp_frame(&out_ends(FREE), &payload, self.next() as u8, self.next() as u8);
                frame[40] ^= (self.next() & 1) as u8;
            }
            4 => {
                let payload: Vec<u8> = (0..self.below(1_400)).map(|_| self.next() as u8).collect();
                frame = tagged_frame(PEER, tag_bytes(1, 1, LABEL_IN, payload.len() as u16), &payload);
                frame[22] = self.next() as u8;
                frame[34] = self.next() as u8;
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
            if trial.action == 4 {
                assert!(checksums_hold(&trial.frame), "{}", case.name);
            }
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
        let host = engine.snapshot(0);
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
        for policy in [AGGREGATE_OUT, AGGREGATE_IN, 10, 11, 12, 13] {
            let counters = engine.counters(policy).unwrap();
            assert_eq!(counters.offered_packets, counters.passed_packets + counters.dropped_packets);
            assert_eq!(counters.offered_bytes, counters.passed_bytes + counters.dropped_bytes);
        }
    });
}
