//! `turnpike-perf fastpath`.

use std::thread;

use anyhow::anyhow;

use crate::cost::Costs;
use crate::record::{self, Record};
use crate::rounds::Team;
use crate::scene::Scene;
use crate::stamp::{Busy, Stamp};
use crate::{Options, Part, accuracy, cost, host, object, report};

const KEYS: &[u32] = &[1, 1_024, 32_768, 65_536];
const KEYS_QUICK: &[u32] = &[1, 1_024];
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
    let (mut programs, maps) = object::load(cpus)?;
    let device = programs.attach()?;
    let mut scene = Scene::set_up(&programs, maps, &device, cpus)?;
    let keys = match (&*options.keys, options.quick) {
        ([], true) => KEYS_QUICK,
        ([], false) => KEYS,
        (keys, _) => keys,
    };
    let rounds = options.rounds.unwrap_or(if options.quick { ROUNDS_QUICK } else { ROUNDS });
    let (costs, accuracies) = thread::scope(|scope| {
        let team = Team::start(scope, &programs, cpus);
        let (mut costs, mut accuracies) = (Costs::default(), Vec::new());
        if options.part != Some(Part::Accuracy) {
            costs = cost::measure(&team, &mut scene, keys, rounds, &options.rows)?;
            report::costs(&costs);
        }
        if options.part != Some(Part::Cost) {
            accuracies = accuracy::measure(&team, &mut scene, options.quick)?;
            report::accuracies(&accuracies);
        }
        anyhow::Ok((costs, accuracies))
    })?;
    let mut records: Vec<Record> = report::cost_records(&costs, &stamp);
    records.extend(report::accuracy_records(&accuracies, &stamp));
    records.extend(report::size_records(&programs, &stamp)?);
    report::goals(&records);
    report::disturbance(busy);
    if let Some(path) = &options.json {
        record::write(path, &records)?;
        println!("\n{} results written to {}", records.len(), path.display());
    }
    Ok(())
}
