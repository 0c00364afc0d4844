//! Tables move to other sizes under real packets, and the move is cut off at every step.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation, reason = "a test")]

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use turnpike_fastpath::{Direction, Reason};

use super::Step;
use crate::EngineConfig;
use crate::engine::Engine;
use crate::generation::{self, Left, Place};
use crate::policy::{Counters, PolicyId};

#[path = "../../tests/host/mod.rs"]
mod host;

use host::in_own_namespace;
use host::load::{self, AGGREGATE_IN, AGGREGATE_OUT, FLOWS, Wire, flow_in, flow_out};

thread_local! {
    static CUT_AT: Cell<Option<Step>> = const { Cell::new(None) };
}

/// Thrown where a test has the process end.
struct CutOff;

pub(super) fn reached(step: Step) {
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

/// What every party counted is the same, to the packet.
fn assert_exact(engine: &Engine, reports: &[load::Report; 2]) {
    for (report, aggregate, flow, direction, reason) in [
        (&reports[0], AGGREGATE_OUT, flow_out as fn(u16) -> PolicyId, Direction::Out, Reason::Tagged),
        (&reports[1], AGGREGATE_IN, flow_in as fn(u16) -> PolicyId, Direction::In, Reason::Restored),
    ] {
        assert!(report.sent > 500, "too little traffic to tell: {report:?}");
        assert_eq!((report.missing.len(), report.doubled, report.strange), (0, 0, 0), "{:?}", report.missing);
        let flows: Vec<_> = (0..FLOWS).map(|index| engine.counters(flow(index)).unwrap()).collect();
        assert_eq!(flows.iter().map(|flow| flow.offered_packets).sum::<u64>(), report.sent);
        assert_eq!(flows.iter().map(|flow| flow.passed_packets).sum::<u64>(), report.sent);
        assert_eq!(engine.counters(aggregate).unwrap().passed_packets, report.sent);
        assert_eq!(engine.verdict(direction, reason).0, report.sent);
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
            // Whichever generation is in force, it carries on while nobody is there.
            load.wait_for(200);
            engine = Engine::start(&other).unwrap();
            assert_eq!(engine.adopted().len(), 2 + 2 * usize::from(FLOWS), "{step:?}");
            assert_eq!(folders(&config.pin_dir), [Place::Current], "{step:?}");
            assert_monotone(&before, &all_counters(&engine));
        }
        load.wait_for(200);
        let reports = load.end();
        println!("{} steps; sent {} out, {} in", STEPS.len(), reports[0].sent, reports[1].sent);
        assert_exact(&engine, &reports);
    });
}
