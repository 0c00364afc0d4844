//! `turnpike-perf fastpath`.

use std::thread;

use anyhow::{Context as _, anyhow};

use crate::cost::Costs;
use crate::record::{self, Record};
use crate::rounds::Team;
use crate::scene::Scene;
use crate::stamp::{Busy, Stamp};
use crate::{Options, Part, accuracy, cost, host, live, object, report, ways};

const KEYS: &[u32] = &[1, 1_024, 32_768, 65_536];
const KEYS_QUICK: &[u32] = &[1, 1_024];
const KEYS_CURVE: &[u32] = &[1, 1_024, 32_768, 65_536, 262_144, 1_048_576];
const ROUNDS: u32 = 31;
const ROUNDS_QUICK: u32 = 9;

/// Measures, prints, and writes what was asked for.
pub(crate) fn run(options: &Options, commit: &str) -> anyhow::Result<()> {
    host::enter_namespace()?;
    let cpus = aya::util::nr_cpus().map_err(|(file, error)| anyhow!("{file}: {error}"))?;
    let cpus = u32::try_from(cpus)?;
    let stamp = Stamp::now("veth", "test run, attached native", commit);
    report::head(&stamp);
    let busy = Busy::now();
    let rounds = options.rounds.unwrap_or(if options.quick { ROUNDS_QUICK } else { ROUNDS });
    // A quick run, or one of some rows, leaves out what takes tables or devices of its own.
    let all = !options.quick && options.rows.is_empty();
    let wants = |part| options.part.map_or(all, |wanted| wanted == part);
    let mut records = meters(options, cpus, rounds, &stamp)?;
    if wants(Part::Curve) {
        let costs = curve(cpus, rounds)?;
        report::curve(&costs, KEYS_CURVE);
        records.extend(report::curve_records(&costs, &stamp));
    }
    if wants(Part::Ways) {
        let ways = ways::measure(cpus, rounds)?;
        report::ways(&ways);
        records.extend(report::way_records(&ways, &stamp));
    }
    if wants(Part::Live) {
        let forwarding = live::measure(cpus, rounds)?;
        report::forwarding(&forwarding);
        records.extend(report::forwarding_records(&forwarding, &stamp));
    }
    report::goals(&records);
    report::disturbance(busy);
    if let Some(path) = &options.json {
        record::write(path, &records)?;
        println!("\n{} results written to {}", records.len(), path.display());
    }
    Ok(())
}

/// Costs and accuracies, with tables of the product's default size.
fn meters(options: &Options, cpus: u32, rounds: u32, stamp: &Stamp) -> anyhow::Result<Vec<Record>> {
    let (cost, accurate) = match options.part {
        None => (true, true),
        Some(part) => (part == Part::Cost, part == Part::Accuracy),
    };
    if !cost && !accurate {
        return Ok(Vec::new());
    }
    let (mut programs, maps) = object::load(cpus, object::FLOWS)?;
    let device = programs.attach("spare")?;
    let mut scene = Scene::set_up(&programs, maps, &device, cpus, object::FLOWS)?;
    let keys = match (&*options.keys, options.quick) {
        ([], true) => KEYS_QUICK,
        ([], false) => KEYS,
        (keys, _) => keys,
    };
    let (costs, accuracies) = thread::scope(|scope| {
        let team = Team::start(scope, &programs, cpus);
        let (mut costs, mut accuracies) = (Costs::default(), Vec::new());
        if cost {
            costs = cost::measure(&team, &mut scene, keys, rounds, &options.rows)?;
            report::costs(&costs);
        }
        if accurate {
            accuracies = accuracy::measure(&team, &mut scene, options.quick)?;
            report::accuracies(&accuracies);
        }
        anyhow::Ok((costs, accuracies))
    })?;
    let mut records: Vec<Record> = report::cost_records(&costs, stamp);
    records.extend(report::accuracy_records(&accuracies, stamp));
    records.extend(report::size_records(&programs, stamp)?);
    Ok(records)
}

/// The whole ways with more and more flows, in tables for all of them.
fn curve(cpus: u32, rounds: u32) -> anyhow::Result<Costs> {
    let flows = KEYS_CURVE.iter().copied().max().context("no keys")?;
    let (mut programs, maps) = object::load(cpus, flows)?;
    let device = programs.attach("curve")?;
    let mut scene = Scene::set_up(&programs, maps, &device, cpus, flows)?;
    thread::scope(|scope| {
        let team = Team::start(scope, &programs, cpus);
        cost::measure_curve(&team, &mut scene, KEYS_CURVE, rounds)
    })
}
