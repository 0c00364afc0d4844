//! What each program costs per packet.

use std::collections::BTreeMap;

use anyhow::ensure;

use crate::rounds::{Case, Ends, First, Team};
use crate::scene::Scene;
use crate::stats::Quantiles;

pub(crate) const XDP_DROP: u32 = 1;
pub(crate) const XDP_REDIRECT: u32 = 4;

const PLAIN: First = First::Plain(64);

/// The rows of the curve.
pub(crate) const CURVE: [&str; 2] = ["out_redirect", "in_redirect"];

/// So many keys stay in the first caches, whatever other rows do.
const KEYS_CACHED: u32 = 1_024;

/// Packets of one call: some milliseconds.
pub(crate) const REPEAT: u32 = 100_000;

/// Which flows each of two CPUs has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    /// All.
    None,
    /// Every other one: as receive-side scaling has it, neighbours in a table belong to different CPUs.
    Neighbours,
    /// Every other 64: whole pages of a table belong to one CPU, so that what its prefetchers guess is its own.
    Pages,
}

impl Own {
    /// The bit of a flow's index.
    const fn bit(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Neighbours => 1,
            Self::Pages => 64,
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// Name in results.
    pub(crate) name: &'static str,
    /// What it is, for people.
    pub(crate) title: &'static str,
    /// The row that it stands on.
    pub(crate) floor: Option<&'static str>,
    own_flows: Own,
    case: Case,
}

const fn piece(name: &'static str, title: &'static str, program: &'static str) -> Row {
    let case = Case { program, first: PLAIN, ends: Ends::Passed, action: XDP_DROP, live: None };
    Row { name, title, floor: Some("rotate"), own_flows: Own::Neighbours, case }
}

const fn floor(name: &'static str, title: &'static str, program: &'static str) -> Row {
    Row { floor: None, ..piece(name, title, program) }
}

const fn out(name: &'static str, title: &'static str, program: &'static str, action: u32) -> Row {
    let case = Case { program, first: PLAIN, ends: Ends::Passed, action, live: None };
    Row { name, title, floor: Some("floor_out"), own_flows: Own::Neighbours, case }
}

const fn inbound(name: &'static str, title: &'static str, program: &'static str, action: u32) -> Row {
    let case = Case { program, first: First::Tagged, ends: Ends::Passed, action, live: None };
    Row { name, title, floor: Some("floor_in"), own_flows: Own::Neighbours, case }
}

const fn refused(row: Row) -> Row {
    Row { floor: Some("floor_refused"), case: Case { ends: Ends::Refused, ..row.case }, ..row }
}

/// All CPUs have all keys.
const fn shared(row: Row) -> Row {
    Row { own_flows: Own::None, ..row }
}

/// The same with the CPUs' flows apart.
const fn apart(name: &'static str, title: &'static str, row: Row) -> Row {
    Row { name, title, own_flows: Own::Pages, ..row }
}

const fn contended(row: Row) -> Row {
    shared(Row { case: Case { ends: Ends::Contended, ..row.case }, ..row })
}

/// All that is measured with full meters.
pub(crate) const ROWS: &[Row] = &[
    Row {
        case: Case { program: "tb_drop", first: PLAIN, ends: Ends::Uncounted, action: XDP_DROP, live: None },
        ..floor("drop", "floor: return XDP_DROP", "tb_drop")
    },
    floor("rotate", "floor: parse, next packet", "tb_rotate"),
    floor("rotate_pair", "floor: the same, grow 8, shrink 8", "tb_rotate_pair"),
    floor("floor_out", "floor of out: one head move, next packet", "tb_floor_out"),
    floor("floor_refused", "floor of refused: next packet", "tb_floor_refused"),
    Row {
        case: Case { program: "tb_floor_in", first: First::Tagged, ends: Ends::Passed, action: XDP_DROP, live: None },
        ..floor("floor_in", "floor of in: the same with a tag", "tb_floor_in")
    },
    piece("lookup", "flow table lookup", "tb_lookup"),
    piece("lines", "the tables' lines of a packet out, unused", "tb_lines"),
    piece("flow_meter", "flow meter, coarse clock", "tb_flow_coarse"),
    contended(piece("flow_meter_shared", "  the same flow on all CPUs", "tb_flow_coarse")),
    apart("flow_meter_apart", "  CPUs' flows in pages apart", piece("flow_meter", "", "tb_flow_coarse")),
    piece("flow_meter_exact", "flow meter, exact clock", "tb_flow_exact"),
    shared(piece("aggregate_meter", "aggregate meter", "tb_aggregate")),
    piece("both_meters", "both meters", "tb_both"),
    apart("both_meters_apart", "  CPUs' flows in pages apart", piece("both_meters", "", "tb_both")),
    piece("counters", "all counters of a packet", "tb_counters"),
    piece("reception", "what arrived: RTP in order", "tb_reception"),
    piece("reception_jitter", "  with jitter of one packet in 16", "tb_reception_jitter"),
    out("out_stop", "out up to the hop count: parse, lookup, count", "tb_out_stop", XDP_DROP).stopped(),
    out("out", "out, whole, no redirect call", "tb_out", XDP_DROP),
    out("out_redirect", "out, whole, as shipped", "tb_out_redirect", XDP_REDIRECT),
    apart("out_apart", "  CPUs' flows in pages apart", out("out", "", "tb_out_redirect", XDP_REDIRECT)),
    inbound("in", "in, whole, no redirect call", "tb_in", XDP_DROP),
    inbound("in_redirect", "in, whole, as shipped", "tb_in_redirect", XDP_REDIRECT),
    piece("clock", "baseline: the exact clock alone", "tb_clock"),
    contended(piece("baseline_cas", "baseline: clock + compare-and-swap", "tb_schedule")),
    shared(piece("baseline_lock", "baseline: clock + spin lock", "tb_locked")),
    shared(piece("baseline_window", "baseline: clock + 5 ms window, unlocked", "tb_window")),
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

    /// Refused on its last hop.
    const fn stopped(self) -> Self {
        let row = refused(self);
        Self { case: Case { first: First::Plain(1), ..row.case }, ..row }
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

/// Measures these rows, or all if none is named, interleaved: in each round every row once on one CPU and once on two.
pub(crate) fn measure(
    team: &Team<'_>,
    scene: &mut Scene,
    keys: &[u32],
    rounds: u32,
    names: &[String],
) -> anyhow::Result<Costs> {
    let mut costs = Costs::default();
    let wanted = wanted(names)?;
    for keys in keys {
        measure_rows(team, scene, &wanted, *keys, rounds, team.size(), &mut costs)?;
    }
    if !names.is_empty() {
        return Ok(costs);
    }
    let floor = ROWS.iter().find(|row| row.name == "floor_refused");
    let control = |row: Row| floor.copied().into_iter().chain([row]).collect::<Vec<_>>();
    for keys in keys.iter().filter(|keys| **keys <= 1_024) {
        // With one key, each of two CPUs has a flow.
        let used = 0..(*keys).max(128);
        scene.empty_pools(used.clone())?;
        measure_rows(team, scene, &control(EMPTY_POOL), *keys, rounds, team.size(), &mut costs)?;
        scene.refill(used.clone())?;
        scene.spend_flows(used.clone())?;
        measure_rows(team, scene, &control(SPENT_FLOW), *keys, rounds, team.size(), &mut costs)?;
        scene.refill(used)?;
    }
    Ok(costs)
}

/// What packets cost with more and more flows, on one CPU: the whole ways and their floors.
pub(crate) fn measure_curve(team: &Team<'_>, scene: &mut Scene, keys: &[u32], rounds: u32) -> anyhow::Result<Costs> {
    let mut costs = Costs::default();
    let rows = wanted(&CURVE.map(str::to_owned))?;
    for keys in keys {
        measure_rows(team, scene, &rows, *keys, rounds, 1, &mut costs)?;
    }
    Ok(costs)
}

/// The rows of these names and what they stand on; all of them without a name.
fn wanted(names: &[String]) -> anyhow::Result<Vec<Row>> {
    if names.is_empty() {
        return Ok(ROWS.to_vec());
    }
    for name in names {
        ensure!(ROWS.iter().any(|row| row.name == name), "there is no row {name}");
    }
    let named = |row: &&Row| names.iter().any(|name| name == row.name);
    let floors: Vec<_> = ROWS.iter().filter(named).filter_map(|row| row.floor).collect();
    Ok(ROWS.iter().filter(|row| named(row) || floors.contains(&row.name)).copied().collect())
}

fn measure_rows(
    team: &Team<'_>,
    scene: &mut Scene,
    rows: &[Row],
    keys: u32,
    rounds: u32,
    cpus_max: usize,
    costs: &mut Costs,
) -> anyhow::Result<()> {
    // The first round warms up and sees whether verdicts are right.
    for round in 0..=rounds as usize {
        for cpus in 1..=cpus_max {
            for row in order(rows, round) {
                scene.plan(keys, if cpus > 1 { row.own_flows.bit() } else { 0 })?;
                if keys > KEYS_CACHED || row.case.first == First::Tagged {
                    // What other rows left in the caches is not this one's cost, nor that flows come from another CPU than before.
                    let all = if round == 0 { REPEAT.max(2 * keys) } else { REPEAT };
                    team.sample(scene, &row.case, all, cpus)?;
                }
                let sample = team.sample(scene, &row.case, REPEAT, cpus)?;
                if round > 0 {
                    costs.samples.entry((row.name, keys, cpus)).or_default().push(sample);
                }
            }
        }
    }
    Ok(())
}

/// All rows, in another order each round, so that none always follows the same other one.
fn order(rows: &[Row], round: usize) -> impl Iterator<Item = &Row> {
    let steps: Vec<_> = (1..=rows.len()).filter(|step| gcd(*step, rows.len()) == 1).collect();
    let step = steps[round % steps.len()];
    (0..rows.len()).map(move |at| &rows[(at * step + round) % rows.len()])
}

const fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Plan;

    #[test]
    fn every_round_has_every_row_once() {
        for round in 0..100 {
            let mut names: Vec<_> = order(ROWS, round).map(|row| row.name).collect();
            names.sort_unstable();
            let mut all: Vec<_> = ROWS.iter().map(|row| row.name).collect();
            all.sort_unstable();
            assert_eq!(names, all);
        }
    }

    #[test]
    fn every_round_of_keys_has_each_key_of_a_cpu_once_and_in_another_order() {
        for (key_bits, own_flows) in [(0, 0), (0, 1), (10, 0), (9, 1), (9, 64), (16, 0)] {
            let keys = 1_u64 << key_bits;
            let plan = Plan { key_mask: keys - 1, key_bits, own_flows, reserved: 0 };
            let mut seen = std::collections::BTreeSet::new();
            for cpu in 0..=own_flows.min(1) {
                let round = |number: u64| -> Vec<_> { (0..keys).map(|at| plan.key(number * keys + at, cpu)).collect() };
                let (first, second) = (round(5), round(6));
                assert!(keys == 1 || first.iter().zip(&second).any(|(one, other)| one.0 != other.0));
                assert!(first.iter().all(|key| key.1 == 5) && second.iter().all(|key| key.1 == 6));
                let [mut one, mut other] =
                    [first, second].map(|round| round.iter().map(|key| key.0).collect::<Vec<_>>());
                one.sort_unstable();
                other.sort_unstable();
                assert_eq!(one, other);
                assert!(one.iter().all(|key| own_flows == 0 || u64::from(*key) / own_flows % 2 == cpu));
                seen.extend(one);
            }
            assert_eq!(seen.len() as u64, keys << own_flows.min(1));
            assert!(seen.iter().all(|key| u64::from(*key) < keys << own_flows.min(1) || own_flows > keys));
        }
    }

    #[test]
    fn every_floor_is_a_row() {
        for floor in rows().filter_map(|row| row.floor) {
            assert!(ROWS.iter().any(|row| row.name == floor && row.floor.is_none()), "{floor}");
        }
    }
}
