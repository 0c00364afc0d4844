//! What a policy in force may send changes, and nothing else of it does.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod host;
#[path = "../../fastpath/tests/world/mod.rs"]
mod world;

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use host::in_own_namespace;
use turnpike_engine::policy::{Change, Dscp, Excess, Media, Meter, Policy, PolicyId};
use turnpike_engine::{Engine, EngineConfig};
use turnpike_fastpath::entry::{Config, EXACT_CLOCK, EXCESS, FlowRate, INTERIM, Interim};
use turnpike_fastpath::plan::Ends;
use turnpike_fastpath::wire::tag;
use turnpike_fastpath::{Direction, Reason, Tables};
use world::*;

const OUT: PolicyId = 1;
const IN: PolicyId = 2;
const FLOW_OUT: PolicyId = 3;
const FLOW_IN: PolicyId = 4;
/// Installed as the other one is to become.
const LIKE_OUT: PolicyId = 5;

/// A packet takes 1.6 seconds to come back: more than the test takes between two of its steps.
const METER: Meter = Meter { rate_bps: 1_000, burst_bytes: 1_600, packet_bytes_min: 200, excess: None };
const EXCESS_RATE: Excess = Excess { rate_bps: 1_000, burst_bytes: 2_000 };

fn flow_out(port: u16, meter: Meter) -> Policy {
    let Ends { source, destination } = out_ends(port);
    let (rtcp_next_port, terminals) = (false, false);
    Policy::FlowOut { aggregate: OUT, source, destination, label: LABEL_OUT, meter, rtcp_next_port, terminals }
}

fn flow_in(meter: Meter) -> Policy {
    let Ends { source, destination } = in_ends(FREE);
    let (rtcp_next_port, media) = (false, Media::default());
    Policy::FlowIn { aggregate: IN, source, destination, label: LABEL_IN, meter, rtcp_next_port, media }
}

fn aggregates(rate_bps: u64, burst_bytes: u32) -> [(PolicyId, Policy); 2] {
    let (peer, dscp, excess_dscp) = (PEER, Dscp::Set(46), None);
    let inward = Policy::AggregateIn { peer, rate_bps, burst_bytes, dscp: Dscp::Copy };
    [(OUT, Policy::AggregateOut { peer, rate_bps, burst_bytes, dscp, excess_dscp }), (IN, inward)]
}

fn start(config: &EngineConfig) -> Engine {
    let mut engine = Engine::start(config).unwrap();
    engine.install(&aggregates(100_000_000, 1 << 20)).unwrap();
    engine.install(&[(FLOW_OUT, flow_out(FREE, METER)), (FLOW_IN, flow_in(METER))]).unwrap();
    engine
}

/// How many of so many packets go on.
fn passed(engine: &mut Engine, direction: Direction, offered: u64) -> u64 {
    let frame = match direction {
        Direction::Out => udp_frame(&out_ends(FREE), &rtp(), 0, 64),
        Direction::In => tagged_frame(PEER, tag_bytes(1, 1, LABEL_IN, 172), &rtp()),
    };
    (0..offered).filter(|_| engine.trial(direction, &frame).unwrap().action == 4).count() as u64
}

/// Everything of a flow that a change may touch: rate, excess, flags of the meters, smallest packet; and that no change is under way.
fn written(engine: &Engine, place: Place) -> (FlowRate, FlowRate, u16, u16) {
    let snapshot = engine.snapshot(0);
    let tables = snapshot.tables();
    let (rate, flags, packet_bytes_min, due, detail) = match place {
        Place::Flow(index) => {
            let flow = &tables.flows[index];
            (flow.rate, flow.flags, flow.packet_bytes_min, &flow.due, &tables.flow_details[index])
        }
        Place::Label => {
            let index = tag::index(LABEL_IN) as usize;
            let label = &tables.labels[index];
            (label.rate, label.flags, label.packet_bytes_min, &label.due, &tables.label_details[index])
        }
    };
    for word in [due, &detail.excess_due] {
        assert_eq!(word.load(Ordering::Relaxed) & INTERIM, 0, "a change is under way");
    }
    let excess = if flags & EXCESS == 0 { FlowRate::default() } else { detail.excess };
    (rate, excess, flags & (EXCESS | EXACT_CLOCK), packet_bytes_min)
}

#[derive(Clone, Copy)]
enum Place {
    Flow(usize),
    Label,
}

#[test]
fn what_is_changed_is_as_if_it_had_been_installed_so() {
    in_own_namespace(|config| {
        let mut engine = start(config);
        assert_eq!(passed(&mut engine, Direction::Out, 2), 2);
        assert_eq!(passed(&mut engine, Direction::In, 1), 1);
        let before = [FLOW_OUT, FLOW_IN].map(|id| engine.counters(id).unwrap());
        let excess = Some(EXCESS_RATE);
        for (port, rate_bps, burst_bytes, packet_bytes_min, excess) in [
            (20_201, 16_000, 3_200, 100, None),
            (20_202, 400_000_000_000, 1_600, 28, None),
            (20_203, 400_000_000_000, 1 << 30, 28, excess),
            (20_204, 8_000, 200, 200, excess),
            (20_205, 64_000, 200, 200, None),
            (20_206, 8_000, 1_600, 200, None),
        ] {
            let meter = Meter { rate_bps, burst_bytes, packet_bytes_min, excess };
            for id in [FLOW_OUT, FLOW_IN] {
                engine.change(id, &Change::Meter(meter)).unwrap();
            }
            let found = (written(&engine, Place::Flow(0)), written(&engine, Place::Label));
            engine.install(&[(LIKE_OUT, flow_out(port, meter))]).unwrap();
            let snapshot = engine.snapshot(0);
            let like =
                snapshot.tables().flows.iter().position(|flow| flow.ports.to_ne_bytes()[..2] == u16::to_be_bytes(port));
            assert_eq!(found.0, written(&engine, Place::Flow(like.unwrap())));
            engine.deinstall(&[LIKE_OUT, FLOW_IN]);
            engine.forget(&[LIKE_OUT, FLOW_IN]);
            engine.install(&[(FLOW_IN, flow_in(meter))]).unwrap();
            assert_eq!(found.1, written(&engine, Place::Label));
        }
        assert_eq!(engine.counters(FLOW_OUT).unwrap(), before[0], "a change is no packet");

        for (rate_bps, burst_bytes) in [(1_000_000, 65_536), (400_000_000_000, 1 << 24), (100_000_000, 1 << 20)] {
            let state = |engine: &Engine| {
                let snapshot = engine.snapshot(0);
                let tables = snapshot.tables();
                let numbers = |index: usize| {
                    let (aggregate, pool) = (tables.aggregates[index], &tables.pools[index]);
                    assert_eq!(pool.spent_ns.load(Ordering::Relaxed) & INTERIM, 0);
                    (aggregate, pool.byte_cost, pool.reserve_ns)
                };
                [numbers(2), numbers(3)]
            };
            for id in [OUT, IN] {
                engine.change(id, &Change::Aggregate { rate_bps, burst_bytes }).unwrap();
            }
            let changed = state(&engine);
            engine.deinstall(&[OUT, IN]);
            engine.forget(&[OUT, IN, FLOW_OUT, FLOW_IN]);
            drop(engine);
            // The indexes that are free longest are those just given back, once a process starts afresh.
            engine = Engine::start(config).unwrap();
            engine.install(&aggregates(rate_bps, burst_bytes)).unwrap();
            assert_eq!(
                changed.map(|(aggregate, ..)| aggregate.peer),
                state(&engine).map(|(aggregate, ..)| aggregate.peer)
            );
            assert_eq!(changed, state(&engine));
        }
    });
}

#[test]
fn the_bucket_keeps_its_bytes_up_to_the_new_burst() {
    in_own_namespace(|config| {
        let mut engine = start(config);
        // One more than said is the clock's tick.
        let near =
            |passed: u64, wanted: u64| assert!((wanted..=wanted + 1).contains(&passed), "{passed}, not {wanted}");
        // Three of eight are gone, and a larger burst does not bring them back.
        assert_eq!(passed(&mut engine, Direction::Out, 3), 3);
        engine.change(FLOW_OUT, &Change::Meter(Meter { rate_bps: 1_100, burst_bytes: 16_000, ..METER })).unwrap();
        near(passed(&mut engine, Direction::Out, 20), 5);
        near(passed(&mut engine, Direction::Out, 20), 0);
        // Nor does a smaller one.
        engine.change(FLOW_OUT, &Change::Meter(Meter { burst_bytes: 400, ..METER })).unwrap();
        near(passed(&mut engine, Direction::Out, 20), 0);
        // A full bucket is cut to the new burst, and that is all of it if the burst comes back.
        for _ in 0..3 {
            engine.change(FLOW_IN, &Change::Meter(Meter { burst_bytes: 800, ..METER })).unwrap();
            engine.change(FLOW_IN, &Change::Meter(Meter { burst_bytes: 16_000, ..METER })).unwrap();
        }
        near(passed(&mut engine, Direction::In, 20), 4);
        // A rate forty million times as high brings bytes only from now on, and one so low again takes none of them away.
        engine
            .change(FLOW_IN, &Change::Meter(Meter { rate_bps: 40_000_000_000, burst_bytes: 4_000, ..METER }))
            .unwrap();
        thread::sleep(Duration::from_millis(1));
        engine.change(FLOW_IN, &Change::Meter(Meter { burst_bytes: 4_000, ..METER })).unwrap();
        near(passed(&mut engine, Direction::In, 40), 20);
        // Excess that is new starts empty.
        engine.change(FLOW_IN, &Change::Meter(Meter { excess: Some(EXCESS_RATE), ..METER })).unwrap();
        near(passed(&mut engine, Direction::In, 20), 0);
        let counters = engine.counters(FLOW_IN).unwrap();
        assert_eq!(counters.offered_packets, counters.passed_packets + counters.dropped_packets);
    });
}

#[test]
fn a_change_that_cannot_be_changes_nothing() {
    in_own_namespace(|config| {
        let mut engine = start(config);
        let before = (written(&engine, Place::Flow(0)), written(&engine, Place::Label));
        let aggregate = |rate_bps, burst_bytes| Change::Aggregate { rate_bps, burst_bytes };
        for (id, change, code) in [
            (99, Change::Meter(METER), "unknown_policy"),
            (OUT, Change::Meter(METER), "unknown_policy"),
            (FLOW_OUT, aggregate(1_000_000, 65_536), "unknown_policy"),
            (FLOW_OUT, Change::Meter(Meter { rate_bps: 999, ..METER }), "rate"),
            (FLOW_IN, Change::Meter(Meter { burst_bytes: 199, ..METER }), "rate"),
            (OUT, aggregate(1_000_000, 1_000), "rate"),
            (IN, aggregate(0, 65_536), "rate"),
        ] {
            let error = engine.change(id, &change).unwrap_err();
            assert_eq!(error.code(), code, "{error}");
        }
        // Where an aggregate can have nothing idle there is no excess.
        let small = u32::try_from(turnpike_fastpath::meter::aggregate_burst_bytes_min(
            aya::util::nr_cpus().unwrap() as u32,
            u32::from(MTU),
        ))
        .unwrap();
        engine.change(OUT, &aggregate(1_000_000, small)).unwrap();
        let error = engine.change(FLOW_OUT, &Change::Meter(Meter { excess: Some(EXCESS_RATE), ..METER })).unwrap_err();
        assert_eq!(error.code(), "rate", "{error}");
        assert_eq!((written(&engine, Place::Flow(0)), written(&engine, Place::Label)), before);
        engine.deinstall(&[FLOW_OUT]);
        assert_eq!(engine.change(FLOW_OUT, &Change::Meter(METER)).unwrap_err().code(), "unknown_policy");
    });
}

fn map<const N: usize>(config: &EngineConfig, name: &str) -> Array<MapData, [u64; N]> {
    Map::Array(MapData::from_pin(config.pin_dir.join("maps").join(name)).unwrap()).try_into().unwrap()
}

/// Numbers by which a flow may send freely.
fn ample() -> Interim {
    let rate = turnpike_fastpath::meter::flow_rate(10_000_000_000, 1 << 30, 0).unwrap();
    let pool = turnpike_fastpath::meter::pool_rate(1_000_000_000, 1 << 20, 2, 1_500).unwrap();
    Interim {
        rate,
        flags: EXACT_CLOCK,
        packet_bytes_min: 28,
        quantum_bytes: pool.quantum_bytes,
        quantum_ns: pool.quantum_ns,
        depth_ns: pool.depth_ns,
        byte_cost: pool.byte_cost,
        reserve_ns: pool.reserve_ns,
        ..Interim::default()
    }
}

/// Leaves the tables as a process does that dies in the middle of a change: policies by the first of these words go by the interim numbers.
fn die_amid_change(config: &EngineConfig, words: &[(&str, u32, usize)]) {
    let mut table: Array<_, [u64; 200]> = map(config, "TP_CONFIG");
    let mut entry: Config = zerocopy::transmute!(table.get(&0, 0).unwrap());
    entry.interim = ample();
    let entry: [u64; 200] = zerocopy::transmute!(entry);
    table.set(0, entry, 0).unwrap();
    for (name, index, word) in words {
        let mut table: Array<_, [u64; 8]> = map(config, name);
        let mut entry = table.get(index, 0).unwrap();
        entry[*word] |= INTERIM;
        table.set(*index, entry, 0).unwrap();
    }
}

#[test]
fn packets_go_by_the_interim_numbers_and_the_next_process_completes_the_change() {
    in_own_namespace(|config| {
        let mut engine = start(config);
        assert!(passed(&mut engine, Direction::Out, 20) < 10);
        let label = tag::index(LABEL_IN);
        let (contended, tagged) = (Reason::Contended, Reason::Tagged);
        let before = [contended, tagged].map(|reason| engine.verdict(Direction::Out, reason).0);
        die_amid_change(config, &[("TP_FLOWS", 0, 7), ("TP_LABELS", label, 7), ("TP_POOLS", 2, 0), ("TP_POOLS", 3, 0)]);
        // The flow out had spent its bucket on the other clock, and the change died before it came to the excess.
        let mut flows: Array<_, [u64; 8]> = map(config, "TP_FLOWS");
        let mut flow = flows.get(&0, 0).unwrap();
        flow[7] = INTERIM;
        flows.set(0, flow, 0).unwrap();
        assert_eq!(passed(&mut engine, Direction::Out, 300), 300);
        assert_eq!(passed(&mut engine, Direction::In, 300), 300);
        let after = [contended, tagged].map(|reason| engine.verdict(Direction::Out, reason).0);
        assert_eq!([after[0] - before[0], after[1] - before[1]], [0, 300]);
        drop(engine);
        let mut engine = Engine::start(config).unwrap();
        assert_eq!(engine.adopted(), [OUT, IN, FLOW_OUT, FLOW_IN]);
        let snapshot = engine.snapshot(0);
        let tables = snapshot.tables();
        let wanted = ample();
        let number = (wanted.rate, FlowRate::default(), EXACT_CLOCK, 28);
        assert_eq!(written(&engine, Place::Flow(0)), number);
        assert_eq!(written(&engine, Place::Label), number);
        for index in [2, 3] {
            let (aggregate, pool) = (tables.aggregate(index).unwrap(), tables.pool(index).unwrap());
            assert_eq!((aggregate.quantum_ns, aggregate.depth_ns), (wanted.quantum_ns, wanted.depth_ns));
            assert_eq!((pool.byte_cost, pool.reserve_ns), (wanted.byte_cost, wanted.reserve_ns));
            assert_eq!(pool.spent_ns.load(Ordering::Relaxed) & INTERIM, 0);
        }
        assert_eq!(passed(&mut engine, Direction::Out, 300), 300);
        assert_eq!(passed(&mut engine, Direction::In, 300), 300);
    });
}
