//! What each program costs per packet.

use std::collections::BTreeMap;

use crate::contract::KEYS_MAX;
use crate::rounds::{Case, Ends, Team};
use crate::scene::Scene;
use crate::stats::Quantiles;

const XDP_DROP: u32 = 1;
const XDP_REDIRECT: u32 = 4;

/// Packets of one call: some milliseconds.
const REPEAT: u32 = 100_000;

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// Name in results.
    pub(crate) name: &'static str,
    /// What it is, for people.
    pub(crate) title: &'static str,
    /// The row that it stands on.
    pub(crate) floor: Option<&'static str>,
    /// Whether each CPU has flows of its own, as receive-side scaling sees to.
    own_flows: bool,
    case: Case,
}

const fn piece(name: &'static str, title: &'static str, program: &'static str) -> Row {
    let case = Case { program, tagged: false, ends: Ends::Passed, action: XDP_DROP };
    Row { name, title, floor: Some("rotate"), own_flows: true, case }
}

const fn floor(name: &'static str, title: &'static str, program: &'static str) -> Row {
    Row { floor: None, ..piece(name, title, program) }
}

const fn out(name: &'static str, title: &'static str, program: &'static str, action: u32) -> Row {
    let case = Case { program, tagged: false, ends: Ends::Passed, action };
    Row { name, title, floor: Some("floor_out"), own_flows: true, case }
}

const fn inbound(name: &'static str, title: &'static str, program: &'static str, action: u32) -> Row {
    let case = Case { program, tagged: true, ends: Ends::Passed, action };
    Row { name, title, floor: Some("floor_in"), own_flows: true, case }
}

const fn refused(row: Row) -> Row {
    Row { floor: Some("rotate"), case: Case { ends: Ends::Refused, ..row.case }, ..row }
}

const fn contended(row: Row, own_flows: bool) -> Row {
    Row { own_flows, case: Case { ends: Ends::Contended, ..row.case }, ..row }
}

/// All that is measured with full meters.
pub(crate) const ROWS: &[Row] = &[
    Row {
        case: Case { program: "tb_drop", tagged: false, ends: Ends::Uncounted, action: XDP_DROP },
        ..floor("drop", "floor: return XDP_DROP", "tb_drop")
    },
    floor("rotate", "floor: next key, write headers, parse", "tb_rotate"),
    floor("rotate_pair", "floor: the same, grow 8, shrink 8", "tb_rotate_pair"),
    floor("floor_out", "floor of out: next key, write headers, one head move", "tb_floor_out"),
    Row {
        case: Case { program: "tb_floor_in", tagged: true, ends: Ends::Passed, action: XDP_DROP },
        ..floor("floor_in", "floor of in: the same with a tag", "tb_floor_in")
    },
    piece("lookup", "flow table lookup", "tb_lookup"),
    piece("flow_meter", "flow meter, coarse clock", "tb_flow_coarse"),
    contended(piece("flow_meter_shared", "  the same flow on all CPUs", "tb_flow_coarse"), false),
    piece("flow_meter_exact", "flow meter, exact clock", "tb_flow_exact"),
    piece("aggregate_meter", "aggregate meter", "tb_aggregate"),
    piece("both_meters", "both meters", "tb_both"),
    piece("counters", "all counters of a packet", "tb_counters"),
    out("out_stop", "out up to the hop count: parse, lookup, count", "tb_out_stop", XDP_DROP).stopped(),
    out("out", "out, whole, no redirect call", "tb_out", XDP_DROP),
    out("out_redirect", "out, whole, as shipped", "tb_out_redirect", XDP_REDIRECT),
    inbound("in", "in, whole, no redirect call", "tb_in", XDP_DROP),
    inbound("in_redirect", "in, whole, as shipped", "tb_in_redirect", XDP_REDIRECT),
    piece("clock", "baseline: the exact clock alone", "tb_clock"),
    contended(piece("baseline_cas", "baseline: clock + compare-and-swap", "tb_schedule"), true),
    piece("baseline_lock", "baseline: clock + spin lock", "tb_locked"),
    piece("baseline_window", "baseline: clock + 5 ms window, unlocked", "tb_window"),
    piece("baseline_hash", "baseline: kernel hash lookup", "tb_hash"),
];

/// Measured with pools that are empty.
pub(crate) const EMPTY_POOL: Row =
    refused(out("out_empty_pool", "control: out refused, pool empty", "tb_out", XDP_DROP));
/// Measured with flow meters that are spent.
pub(crate) const SPENT_FLOW: Row =
    refused(out("out_spent_flow", "control: out refused, flow over rate", "tb_out", XDP_DROP));

impl Row {
    /// What is run.
    pub(crate) const fn program(&self) -> &'static str {
        self.case.program
    }

    /// Refused on purpose, before anything moved.
    const fn stopped(self) -> Self {
        refused(self)
    }
}

/// Samples of every row.
#[derive(Debug, Default)]
pub(crate) struct Costs {
    samples: BTreeMap<(&'static str, u32, usize), Vec<f64>>,
}

impl Costs {
    /// What a row took in all.
    pub(crate) fn total(&self, name: &'static str, keys: u32, cpus: usize) -> Option<Quantiles> {
        Quantiles::of(self.samples.get(&(name, keys, cpus))?)
    }

    /// What a row took above its floor.
    pub(crate) fn above_floor(&self, row: &Row, keys: u32, cpus: usize) -> Option<f64> {
        let total = self.total(row.name, keys, cpus)?.p25;
        let Some(floor) = row.floor else { return Some(total) };
        Some(total - self.total(floor, keys, cpus)?.p25)
    }

    /// The same by name.
    pub(crate) fn above_floor_of(&self, name: &str, keys: u32, cpus: usize) -> Option<f64> {
        self.above_floor(rows().find(|row| row.name == name)?, keys, cpus)
    }

    /// How often a row was measured.
    pub(crate) fn runs(&self, name: &'static str, keys: u32, cpus: usize) -> usize {
        self.samples.get(&(name, keys, cpus)).map_or(0, Vec::len)
    }

    /// The keys and CPUs that were measured.
    pub(crate) fn columns(&self) -> Vec<(usize, u32)> {
        let mut columns: Vec<_> = self.samples.keys().map(|(_, keys, cpus)| (*cpus, *keys)).collect();
        columns.sort_unstable();
        columns.dedup();
        columns
    }
}

/// All rows, in the order of the table.
pub(crate) fn rows() -> impl Iterator<Item = &'static Row> {
    ROWS.iter().chain([&EMPTY_POOL, &SPENT_FLOW])
}

/// Measures all rows, interleaved: in each round every row once on one CPU and once on two.
pub(crate) fn measure(team: &Team<'_>, scene: &mut Scene, keys: &[u32], rounds: u32) -> anyhow::Result<Costs> {
    let mut costs = Costs::default();
    for keys in keys {
        measure_rows(team, scene, ROWS, *keys, rounds, &mut costs)?;
    }
    let rotate = ROWS.iter().find(|row| row.name == "rotate");
    let control = |row: Row| rotate.copied().into_iter().chain([row]).collect::<Vec<_>>();
    for keys in keys.iter().filter(|keys| **keys <= 1_024) {
        scene.empty_pools(0..*keys)?;
        measure_rows(team, scene, &control(EMPTY_POOL), *keys, rounds, &mut costs)?;
        scene.refill(0..*keys)?;
        for cpu in 0..2 {
            scene.spend_flows(cpu * KEYS_MAX..cpu * KEYS_MAX + keys)?;
        }
        measure_rows(team, scene, &control(SPENT_FLOW), *keys, rounds, &mut costs)?;
        for cpu in 0..2 {
            scene.refill(cpu * KEYS_MAX..cpu * KEYS_MAX + keys)?;
        }
    }
    Ok(costs)
}

fn measure_rows(
    team: &Team<'_>,
    scene: &mut Scene,
    rows: &[Row],
    keys: u32,
    rounds: u32,
    costs: &mut Costs,
) -> anyhow::Result<()> {
    // The first round warms up and sees whether verdicts are right.
    for round in 0..=rounds as usize {
        for cpus in 1..=team.size() {
            // Another row goes first each time, so that none always runs in the caches that the same other one left.
            for at in 0..rows.len() {
                let row = &rows[(at + round) % rows.len()];
                scene.plan(keys, row.own_flows)?;
                let sample = team.sample(scene, &row.case, REPEAT, cpus)?;
                if round > 0 {
                    costs.samples.entry((row.name, keys, cpus)).or_default().push(sample);
                }
            }
        }
    }
    Ok(())
}
