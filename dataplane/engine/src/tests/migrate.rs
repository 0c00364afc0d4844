//! Tables move to other sizes under real packets, and the move is cut off at every step.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, reason = "a test")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aya::maps::MapInfo;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::loaded_programs;
use turnpike_fastpath::contract::table;
use turnpike_fastpath::entry::{Detail, Flow, Pool};
use turnpike_fastpath::plan::Ends;
use turnpike_fastpath::reception::Reception;
use turnpike_fastpath::{Direction, Reason};

use super::host::load::{self, AGGREGATE_IN, AGGREGATE_OUT, FLOWS, Wire, assert_exact, flow_in, flow_out};
use super::host::{in_own_namespace, ip};
use super::world;
use crate::engine::Engine;
use crate::generation::{self, Generation, Left, Pinned, Place};
use crate::layout::LAYOUTS;
use crate::migrate::Step;
use crate::policy::{Counters, Meter, Policy, PolicyId};
use crate::table::Noted;
use crate::{EngineConfig, Takeover};

thread_local! {
    static CUT_AT: Cell<Option<Step>> = const { Cell::new(None) };
}

/// Thrown where a test has the process end.
struct CutOff;

pub(crate) fn reached(step: Step) {
    if CUT_AT.get() == Some(step) {
        CUT_AT.set(None);
        // Without the message of a panic.
        resume_unwind(Box::new(CutOff));
    }
}

/// Starts, and ends at this step as if the process had been killed: nothing is put right, and the kernel closes what was open.
fn start_cut_off(config: &EngineConfig, step: Step) {
    CUT_AT.set(Some(step));
    let cut = catch_unwind(AssertUnwindSafe(|| Engine::start(config))).expect_err("it came to the end");
    assert!(cut.is::<CutOff>());
}

fn all_counters(engine: &Engine) -> Vec<(PolicyId, Counters)> {
    let flows = (0..FLOWS).flat_map(|flow| [flow_out(flow), flow_in(flow)]);
    [AGGREGATE_OUT, AGGREGATE_IN].into_iter().chain(flows).map(|id| (id, engine.counters(id).unwrap())).collect()
}

fn assert_monotone(before: &[(PolicyId, Counters)], after: &[(PolicyId, Counters)]) {
    for ((id, before), (_, after)) in before.iter().zip(after) {
        assert!(
            after.offered_packets >= before.offered_packets && after.passed_bytes >= before.passed_bytes,
            "policy {id}: {before:?}, later {after:?}"
        );
    }
}

fn folders(pin_dir: &Path) -> Vec<Place> {
    Place::ALL.into_iter().filter(|place| place.folder(pin_dir).exists()).collect()
}

const STEPS: [Step; 8] = [
    Step::Filled,
    Step::Pinned,
    Step::Named,
    Step::ExchangedOne,
    Step::Exchanged,
    Step::Settled,
    Step::OldRenamed,
    Step::Renamed,
];

#[test]
fn cut_off_anywhere_nothing_is_lost() {
    in_own_namespace(|config| {
        let Some(wire) = Wire::new() else { return };
        let mut engine = Engine::start(config).unwrap();
        engine.install(&load::policies()).unwrap();
        let load = wire.start();
        let mut flows_max = config.flows_max;
        for step in STEPS {
            load.wait_for(200);
            let before = all_counters(&engine);
            drop(engine);
            // Up and down: half of the moves are to smaller tables.
            flows_max = if flows_max == 256 { 1_024 } else { 256 };
            let other = EngineConfig { flows_max, aggregates_max: 2 + flows_max / 64, ..config.clone() };
            start_cut_off(&other, step);
            let left = generation::left(&config.pin_dir);
            let both = matches!(step, Step::Named | Step::ExchangedOne | Step::Exchanged | Step::Settled);
            assert_eq!(left == Left::Both, both, "{step:?}: {:?}", folders(&config.pin_dir));
            // Whichever generation is in force, it carries on while nobody is there, and somebody who looks changes nothing.
            load.wait_for(200);
            let survey = Engine::survey(&other).unwrap();
            let wanted = match step {
                Step::Filled | Step::Pinned => {
                    matches!(&survey.takeover, Takeover::Moves(how) if how.contains("flows become"))
                }
                Step::OldRenamed | Step::Renamed => survey.takeover == Takeover::AsItIs,
                Step::Named | Step::ExchangedOne | Step::Exchanged | Step::Settled => {
                    survey.takeover == Takeover::Completes
                }
            };
            assert!(wanted, "{step:?}: {:?}", survey.takeover);
            assert!(survey.policies.iter().all(|policy| policy.in_force));
            let surveyed: BTreeMap<_, _> = survey.policies.iter().map(|policy| (policy.id, policy.counters)).collect();
            let surveyed: Vec<_> = before.iter().map(|(id, _)| (*id, surveyed[id])).collect();
            assert_monotone(&before, &surveyed);
            engine = Engine::start(&other).unwrap();
            assert_eq!(engine.adopted().len(), 2 + 2 * usize::from(FLOWS), "{step:?}");
            assert_eq!(folders(&config.pin_dir), [Place::Current], "{step:?}");
            assert_monotone(&surveyed, &all_counters(&engine));
        }
        load.wait_for(200);
        let reports = load.end();
        println!("{} steps; sent {} out, {} in", STEPS.len(), reports[0].sent, reports[1].sent);
        assert_exact(&engine, &reports);
    });
}

fn endpoint(last: u8, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, last), port)
}

const OTHER_SITE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 2, 0, 10), 5_000);
const WIDE: Meter = Meter { rate_bps: 100_000_000, burst_bytes: 1 << 20, packet_bytes_min: 28, excess: None };

fn carrier_out() -> Policy {
    load::aggregate_out(1_000_000_000, 1 << 20)
}

fn carrier_in() -> Policy {
    load::aggregate_in(1_000_000_000, 1 << 20)
}

fn out(aggregate: PolicyId, port: u16) -> Policy {
    load::out(aggregate, endpoint(10, port), OTHER_SITE, 7, WIDE)
}

fn inward(aggregate: PolicyId, terminal: u8, label: u64) -> Policy {
    load::inward(aggregate, OTHER_SITE, endpoint(terminal, 4_000), label, WIDE)
}

fn frame_out(port: u16) -> Vec<u8> {
    let ends = Ends { source: endpoint(10, port).into(), destination: OTHER_SITE.into() };
    world::udp_frame(&ends, &world::rtp(), 0, 64)
}

fn frame_in(label: u64) -> Vec<u8> {
    world::tagged_frame(world::PEER, world::tag_bytes(1, 1, label, 172), &world::rtp())
}

/// Where a frame went, or nothing.
fn went_to(engine: &mut Engine, direction: Direction, frame: &[u8]) -> Option<[u8; 6]> {
    let trial = engine.trial(direction, frame).unwrap();
    (trial.action == 4).then(|| trial.frame[..6].try_into().unwrap())
}

/// Only the last of many flows, aggregates and next hops are left, and none of them is where it would be in small tables.
fn sparse(engine: &mut Engine) {
    let aggregates: Vec<_> = (0..12).map(|id| (100 + id, carrier_out())).chain([(200, carrier_in())]).collect();
    engine.install(&aggregates).unwrap();
    let terminals: Vec<_> = (20..120).collect();
    for terminal in &terminals {
        ip(&format!("neigh add 10.1.0.{terminal} lladdr 02:00:00:00:03:{terminal:02x} dev lan nud permanent"));
    }
    let flows: Vec<_> = (0..300).map(|number| (1_000 + number, out(111, 10_000 + number as u16))).collect();
    engine.install(&flows).unwrap();
    let inward =
        |(number, terminal): (u64, &u8)| (2_000 + number, inward(200, *terminal, 0x77_7770_0000 | (number % 60)));
    // Each label's index twice, so that it is only known for what it is by its last flow.
    for (number, terminal) in terminals.iter().enumerate() {
        let (id, policy) = inward((number as u64, terminal));
        engine.install(&[(id, policy)]).unwrap();
        if number < 98 {
            engine.deinstall(&[id]);
            if number >= 2 {
                let before = id - 2;
                engine.forget(&[before]);
            }
        }
    }
    let all: Vec<_> = (0..11).map(|id| 100 + id).chain((0..297).map(|number| 1_000 + number)).collect();
    engine.deinstall(&all);
    engine.forget(&all);
    engine.forget(&[2_096, 2_097]);
}

#[test]
fn what_is_beyond_the_end_of_smaller_tables_moves() {
    in_own_namespace(|config| {
        let large = EngineConfig { flows_max: 1_024, aggregates_max: 40, ..config.clone() };
        let mut engine = Engine::start(&large).unwrap();
        sparse(&mut engine);
        let labels = [0x77_7770_0000 | 38, 0x77_7770_0000 | 39];
        let check = |engine: &mut Engine| {
            for port in 10_297..10_300 {
                assert_eq!(went_to(engine, Direction::Out, &frame_out(port)), Some([2, 0, 0, 0, 2, 1]));
            }
            assert_eq!(went_to(engine, Direction::Out, &frame_out(10_296)), None);
            for (label, terminal) in labels.into_iter().zip([118, 119]) {
                assert_eq!(went_to(engine, Direction::In, &frame_in(label)), Some([2, 0, 0, 0, 3, terminal]));
            }
            let late = engine.verdict(Direction::In, Reason::StaleGeneration).0;
            assert_eq!(went_to(engine, Direction::In, &frame_in(labels[0] - 1)), None);
            assert_eq!(engine.verdict(Direction::In, Reason::StaleGeneration).0, late + 1, "a late packet is known");
        };
        check(&mut engine);
        engine.deinstall(&[1_299]);
        let used =
            |engine: &mut Engine| engine.status().unwrap().tables.iter().map(|table| table.used).collect::<Vec<_>>();
        let before = used(&mut engine);
        assert_eq!(before, [2, 2, 2, 3, 2]);
        let all = [111, 200, 1_297, 1_298, 1_299, 2_098, 2_099];
        let counted = |engine: &Engine| all.map(|id| engine.counters(id).unwrap());
        let mut counters = counted(&engine);
        for (flows_max, aggregates_max) in [(64, 2), (256, 9), (64, 3)] {
            drop(engine);
            engine = Engine::start(&EngineConfig { flows_max, aggregates_max, ..config.clone() }).unwrap();
            assert_eq!((engine.adopted().len(), used(&mut engine)), (7, before.clone()));
            assert_eq!(counted(&engine), counters);
            engine.forget(&[9_999]);
            for port in 10_297..10_299 {
                assert!(went_to(&mut engine, Direction::Out, &frame_out(port)).is_some());
            }
            assert_eq!(
                went_to(&mut engine, Direction::Out, &frame_out(10_299)),
                None,
                "out of force stays out of force"
            );
            for label in labels {
                assert!(went_to(&mut engine, Direction::In, &frame_in(label)).is_some());
            }
            let late = engine.verdict(Direction::In, Reason::StaleGeneration).0;
            assert_eq!(went_to(&mut engine, Direction::In, &frame_in(labels[0] - 1)), None);
            assert_eq!(engine.verdict(Direction::In, Reason::StaleGeneration).0, late + 1, "a late packet is known");
            counters = counted(&engine);
        }
        engine.deinstall(&all);
        engine.forget(&all);
        assert_eq!(used(&mut engine), [0, 0, 0, 0, 2], "something is left over");
        // Everything can be used again, to the last entry.
        engine.install(&[(300, carrier_out()), (301, carrier_in())]).unwrap();
        let flows: Vec<_> = (0..64).map(|number| (3_000 + number, out(300, 30_000 + number as u16))).collect();
        engine.install(&flows).unwrap();
        assert_eq!(engine.install(&[(4_000, out(300, 40_000))]).unwrap_err().code(), "table_full");
    });
}

#[test]
fn what_does_not_fit_is_refused_with_what_would() {
    in_own_namespace(|config| {
        let mut engine = Engine::start(config).unwrap();
        let aggregates: Vec<_> = (0..5).map(|id| (100 + id, carrier_out())).chain([(200, carrier_in())]).collect();
        engine.install(&aggregates).unwrap();
        let flows: Vec<_> = (0..40).map(|number| (1_000 + number, out(100, 10_000 + number as u16))).collect();
        engine.install(&flows).unwrap();
        engine.install(&[(2_000, inward(200, 10, 0x77_7770_0000 | 70))]).unwrap();
        drop(engine);
        let cases = [
            (
                64,
                16,
                "flows_max = 64 is too small",
                "label index 70 is in use, and is part of what the peer sends; it needs 128",
            ),
            (256, 5, "aggregates_max = 5 is too small", "6 aggregates are in use; it needs 6 or more"),
        ];
        let refused = |flows_max, aggregates_max| {
            let error = Engine::start(&EngineConfig { flows_max, aggregates_max, ..config.clone() }).unwrap_err();
            assert_eq!(error.code(), "does_not_fit", "{error}");
            assert_eq!(folders(&config.pin_dir), [Place::Current]);
            error.to_string()
        };
        for (flows_max, aggregates_max, what, why) in cases {
            let error = refused(flows_max, aggregates_max);
            assert!(error.contains(what) && error.contains(why), "{error}");
        }
        let mut engine = Engine::start(config).unwrap();
        assert_eq!(engine.adopted().len(), 47);
        engine.deinstall(&[2_000]);
        engine.forget(&[2_000]);
        drop(engine);
        let error = refused(32, 16);
        assert!(error.contains("40 flows are in use; it needs 64 or more"), "{error}");
        let engine = Engine::start(&EngineConfig { flows_max: 64, aggregates_max: 6, ..config.clone() }).unwrap();
        assert_eq!(engine.adopted().len(), 46);
    });
}

/// Time up to which an aggregate's pool is spent, less what CPUs hold of it.
fn held_ns(engine: &Engine, id: PolicyId) -> u64 {
    let index = engine.policies[&id].index;
    let pool = engine.tables.pool(index).spent_ns.into_inner();
    let credit = |cpu| engine.snapshot(cpu).tables().aggregate_shares[index as usize].credit_bytes.get();
    let credit: u64 = (0..engine.cpus).map(credit).sum();
    let rate = engine.tables.aggregate(index);
    pool - credit * rate.quantum_ns / rate.quantum_bytes
}

#[test]
fn meters_go_on_where_they_were() {
    in_own_namespace(|config| {
        let mut engine = Engine::start(config).unwrap();
        // So slow that what time brings does not matter.
        let carrier = load::aggregate_out(1_000, 65_536);
        engine.install(&[(100, carrier.clone()), (101, carrier.clone()), (102, carrier_out())]).unwrap();
        let slow = Meter { rate_bps: 1_000, burst_bytes: 2_000, packet_bytes_min: 200, excess: None };
        let flow = |aggregate, port, meter| load::out(aggregate, endpoint(10, port), OTHER_SITE, 7, meter);
        engine
            .install(&[(1, flow(100, 1_000, WIDE)), (2, flow(101, 1_001, WIDE)), (3, flow(102, 1_002, slow))])
            .unwrap();
        let passed = |engine: &mut Engine, port, packets: usize| {
            (0..packets).filter(|_| went_to(engine, Direction::Out, &frame_out(port)).is_some()).count()
        };
        let whole = passed(&mut engine, 1_000, 1_000);
        assert!((150..400).contains(&whole), "{whole}");
        // The CPU holds credit for part of what it borrowed.
        let before = passed(&mut engine, 1_001, whole / 2 + 5);
        assert_eq!(before, whole / 2 + 5);
        let held = held_ns(&engine, 101);
        let of_flow = passed(&mut engine, 1_002, 100);
        assert!((10..=11).contains(&of_flow), "{of_flow}");
        for flows_max in [1_024, 256] {
            let start = Instant::now();
            drop(engine);
            engine = Engine::start(&EngineConfig { flows_max, ..config.clone() }).unwrap();
            let passed = passed(&mut engine, 1_002, 100);
            // 125 bytes a second, and packets of 200.
            let allowed = 1 + start.elapsed().as_millis() as usize * 125 / 1_000 / 200;
            assert!(passed <= allowed, "a flow got its burst again: {passed} packets, {allowed} allowed");
        }
        assert!(held_ns(&engine, 101).abs_diff(held) < 10, "credit was lost, or given twice");
        let after = passed(&mut engine, 1_001, 1_000);
        // What is less than a quantum stays in the pool.
        assert!((before + after).abs_diff(whole) <= 40, "{before} and {after}, {whole} without a change");
        assert!(passed(&mut engine, 1_000, 100) <= 10, "an aggregate got its burst again");
    });
}

#[test]
fn another_number_of_cpus_shares_credit_anew() {
    in_own_namespace(|config| {
        let cpus = u32::try_from(aya::util::nr_cpus().unwrap()).unwrap();
        let mut engine = Engine::start(config).unwrap();
        // Just enough for so many CPUs.
        let carrier = load::aggregate_out(10_000, 8 * 4 * cpus * 1_500);
        engine.install(&[(100, carrier), (1_000, out(100, 1_000))]).unwrap();
        let sent = 40;
        for _ in 0..sent {
            assert!(went_to(&mut engine, Direction::Out, &frame_out(1_000)).is_some());
        }
        let before = engine.counters(1_000);
        let quantum = |engine: &Engine| engine.tables.aggregate(engine.policies[&100].index).quantum_bytes;
        assert_eq!(quantum(&engine), 6_000);
        for (now, quantum_bytes) in [(2 * cpus, 3_000), (4 * cpus, 1_500), (cpus, 1_500)] {
            drop(engine);
            engine = Engine::start_on(config, now).unwrap();
            assert_eq!(engine.counters(1_000), before);
            assert_eq!(quantum(&engine), quantum_bytes, "on {now} CPUs");
        }
        drop(engine);
        let error = Engine::start_on(config, 2 * cpus).unwrap_err();
        assert!(error.code() == "does_not_fit" && error.to_string().contains("CPUs = "), "{error}");
        let mut engine = Engine::start(config).unwrap();
        assert!(went_to(&mut engine, Direction::Out, &frame_out(1_000)).is_some());
        assert_eq!(engine.counters(1_000).unwrap().passed_packets, sent + 1);
    });
}

/// The kernel's numbers of everything that is pinned: tables, links, and their programs.
fn kernel_ids(pin_dir: &Path) -> (Vec<u32>, Vec<u32>) {
    let pins = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let maps = Place::ALL.into_iter().flat_map(|place| pins(place.folder(pin_dir)));
    let programs = pins(pin_dir.join("links")).map(|path| {
        let link: FdLink = PinnedLink::from_pin(path).unwrap().into();
        link.info().unwrap().program_id()
    });
    (maps.map(|path| MapInfo::from_pin(path).unwrap().id()).collect(), programs.collect())
}

#[test]
fn a_detach_leaves_nothing_of_a_change_that_was_cut_off() {
    in_own_namespace(|config| {
        for step in STEPS {
            let mut engine = Engine::start(config).unwrap();
            engine.install(&load::policies()).unwrap();
            drop(engine);
            start_cut_off(&EngineConfig { flows_max: 512, ..config.clone() }, step);
            let (maps, programs) = kernel_ids(&config.pin_dir);
            assert!(maps.len() >= 19 && programs.len() == 2, "{step:?}: {maps:?} {programs:?}");
            let removed = Engine::detach(&config.pin_dir).unwrap();
            assert_eq!(removed.len(), maps.len() + programs.len(), "{step:?}: {removed:?}");
            assert!(!config.pin_dir.exists());
            // The kernel frees what nobody holds a little later. Not asked too often: each time takes a hold of the table of programs for
            // a moment, and Linux 6.18 loses count of those if the one before it is still being emptied.
            let left = || {
                let maps: Vec<_> = maps.iter().filter(|id| MapInfo::from_id(**id).is_ok()).collect();
                let loaded: Vec<_> = loaded_programs().filter_map(Result::ok).map(|program| program.id()).collect();
                (maps.len(), programs.iter().filter(|id| loaded.contains(id)).count())
            };
            let gone = (0..15).any(|_| {
                std::thread::sleep(Duration::from_secs(1));
                left() == (0, 0)
            });
            assert!(gone, "{step:?}: tables and programs left: {:?}", left());
            assert!(Engine::detach(&config.pin_dir).unwrap().is_empty());
        }
    });
}

#[test]
fn a_first_start_that_was_cut_off_is_made_anew() {
    in_own_namespace(|config| {
        let folder = Place::New.folder(&config.pin_dir);
        drop(Engine::start(config).unwrap());
        std::fs::rename(Place::Current.folder(&config.pin_dir), &folder).unwrap();
        std::fs::remove_file(folder.join("TP_FLOWS")).unwrap();
        let engine = Engine::start(config).unwrap();
        assert!(engine.adopted().is_empty());
        assert_eq!(folders(&config.pin_dir), [Place::Current]);
    });
}

#[test]
fn what_meters_did_while_nobody_was_there_counts() {
    in_own_namespace(|config| {
        let mut engine = Engine::start(config).unwrap();
        let label = 0x77_7770_0000 | 9;
        let policies =
            [(100, carrier_out()), (1_000, out(100, 1_000)), (200, carrier_in()), (2_000, inward(200, 10, label))];
        engine.install(&policies).unwrap();
        let [aggregate, flow] = [100, 1_000].map(|id| engine.policies[&id].index);
        assert!(went_to(&mut engine, Direction::In, &frame_in(label)).is_some());
        let arrived = |engine: &Engine| engine.counters(2_000).unwrap().reception.unwrap();
        assert_eq!(arrived(&engine).lost_packets, 0);
        drop(engine);
        start_cut_off(&EngineConfig { flows_max: 512, ..config.clone() }, Step::Named);
        // As packets do it: the programs still use these tables.
        let current = Place::Current.folder(&config.pin_dir);
        let Pinned::Tables(shape) = generation::look(&current).unwrap() else { panic!("nothing is pinned") };
        let old = Generation::open(&current, shape).unwrap();
        let (spent_ns, due) = (u64::MAX >> 8, u64::MAX >> 7);
        old.tables.set_pool(aggregate, Pool { spent_ns: spent_ns.into(), ..Pool::default() });
        old.tables.set_flow(flow, Flow { due: due.into(), ..old.tables.flow(flow) });
        let detail = old.tables.detail(Noted::Flow, flow);
        old.tables.set_detail(Noted::Flow, flow, Detail { excess_due: due.into(), ..detail });
        let receptions = LAYOUTS.iter().find(|layout| layout.name == table::RECEPTIONS).unwrap();
        let lost = std::mem::offset_of!(Reception, lost) / 8;
        old.raw(receptions).entry(9, 8)[lost].store(5, Ordering::Release);
        let mut engine = Engine::start(&EngineConfig { flows_max: 512, ..config.clone() }).unwrap();
        assert_eq!(engine.tables.pool(aggregate).spent_ns.into_inner(), spent_ns);
        assert_eq!(engine.tables.flow(flow).due.into_inner(), due);
        assert_eq!(engine.tables.detail(Noted::Flow, flow).excess_due.into_inner(), due);
        // The window goes on, too: the same packet again is a duplicate.
        assert!(went_to(&mut engine, Direction::In, &frame_in(label)).is_some());
        assert_eq!((arrived(&engine).lost_packets, arrived(&engine).duplicated_packets), (5, 1));
        drop(engine);
        let mut engine = Engine::start(config).unwrap();
        assert_eq!((arrived(&engine).lost_packets, arrived(&engine).duplicated_packets), (5, 1));
        assert_eq!(went_to(&mut engine, Direction::Out, &frame_out(1_000)), None);
    });
}
