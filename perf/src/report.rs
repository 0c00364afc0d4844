//! Results for people and for machines.

use turnpike_fastpath::Direction;

use crate::accuracy::Accuracy;
use crate::cost::{CURVE, Costs, Row, rows};
use crate::live::Forwarding;
use crate::object::Programs;
use crate::record::Record;
use crate::stamp::{Busy, Stamp, load};
use crate::stats::Quantiles;
use crate::ways::Way;

const BENCH: &str = "fastpath";
const LOAD_MAX: f64 = 2.0;
const OTHERS_MAX: f64 = 0.2;

/// Most nanoseconds above the floor, on one CPU.
const COST_GOALS: &[(&str, u32, f64)] = &[
    ("both_meters", 1_024, 8.0),
    ("both_meters", 65_536, 20.0),
    ("reception", 1_024, 8.0),
    ("out_redirect", 1_024, 45.0),
    ("out_redirect", 32_768, 75.0),
    ("in_redirect", 1_024, 35.0),
    ("in_redirect", 32_768, 60.0),
];

/// Rows that must not cost more on two CPUs, and the factor that is allowed.
const TWO_CPU_GOALS: &[&str] = &["aggregate_meter", "both_meters", "out_redirect", "in_redirect"];
const TWO_CPU_FACTOR: f64 = 1.05;

/// Packets forwarded per second, over those of a program that sends them back.
const LIVE_GOAL: f64 = 0.85;

/// What rows are compared with.
const AGAINST: &[(&str, &[&str])] = &[
    ("lookup", &["baseline_hash"]),
    ("flow_meter", &["baseline_cas"]),
    ("aggregate_meter", &["baseline_cas", "baseline_lock", "baseline_window"]),
    ("both_meters", &["baseline_cas", "baseline_lock", "baseline_window"]),
];

/// Prints where this is.
pub(crate) fn head(stamp: &Stamp) {
    println!("kernel {}, {}, commit {}", stamp.kernel, stamp.cpu, stamp.commit);
    println!("mitigations: {}", stamp.mitigations);
    println!("{}, {}; load average {:.2}", stamp.driver, stamp.xdp_mode, stamp.load);
    load_warning(stamp);
}

/// Says so if the host was busy when the bench came.
fn load_warning(stamp: &Stamp) {
    if stamp.load > LOAD_MAX {
        println!("WARNING: load average above {LOAD_MAX}: not for publication; run again on a quiet machine");
    }
}

/// Says how much other work there was meanwhile.
pub(crate) fn disturbance(before: Busy) {
    let others = before.others_since();
    println!("\nload average {:.2} now; other work took {others:.2} CPUs meanwhile", load());
    if others > OTHERS_MAX {
        println!(
            "WARNING: more than {OTHERS_MAX}: wide rows and accuracies are disturbed; run again on a quiet machine"
        );
    }
}

fn case(name: &str, keys: u32, cpus: usize) -> String {
    format!("{name}/{keys}/{cpus}")
}

/// Prints the table of costs.
pub(crate) fn costs(costs: &Costs) {
    let columns = costs.columns();
    println!(
        "\nns of CPU time per packet above the named floor (p25; rows without a floor: all of it), by CPUs × keys"
    );
    let heads: Vec<_> = columns.iter().map(|(cpus, keys)| format!("{:>9}", format!("{cpus}×{keys}"))).collect();
    println!("{:<54}{:<12}{}", "", "floor", heads.concat());
    for row in rows() {
        let cells: Vec<_> = columns
            .iter()
            .map(|(cpus, keys)| match costs.above_floor(row, *keys, *cpus) {
                Some(ns) => format!("{ns:>9.1}"),
                None => format!("{:>9}", "-"),
            })
            .collect();
        println!("{:<54}{:<12}{}", row.title, row.floor.unwrap_or("none"), cells.concat());
    }
    println!("\nthe same, p50 / p90 of all of it");
    for row in rows() {
        let cells: Vec<_> = columns
            .iter()
            .map(|(cpus, keys)| match costs.total(row.name, *keys, *cpus) {
                Some(total) => format!(" {:>6.1}/{:<6.1}", total.p50, total.p90),
                None => format!("{:>14}", "-"),
            })
            .collect();
        println!("{:<54}{}", row.title, cells.concat());
    }
    println!("\nours over baseline (below 1 is cheaper)");
    for (name, others) in AGAINST {
        for other in *others {
            let cells: Vec<_> = columns
                .iter()
                .map(|(cpus, keys)| match ratio(costs, name, other, *keys, *cpus) {
                    Some(ratio) => format!("{ratio:>9.2}"),
                    None => format!("{:>9}", "-"),
                })
                .collect();
            println!("{:<66}{}", format!("{name} / {other}"), cells.concat());
        }
    }
}

fn ratio(costs: &Costs, name: &str, other: &str, keys: u32, cpus: usize) -> Option<f64> {
    Some(costs.above_floor_of(name, keys, cpus)? / costs.above_floor_of(other, keys, cpus)?)
}

/// Prints the curve of cost over flows.
pub(crate) fn curve(costs: &Costs, keys: &[u32]) {
    println!("\nns above the floor by flows in use, in tables for the most of them (p25, one CPU)");
    let heads: Vec<_> = keys.iter().map(|keys| format!("{keys:>10}")).collect();
    println!("{:<20}{}", "", heads.concat());
    for name in CURVE {
        let cells = keys.iter().map(|keys| costs.above_floor_of(name, *keys, 1).unwrap_or(f64::NAN));
        println!("{name:<20}{}", cells.map(|ns| format!("{ns:>10.1}")).collect::<String>());
    }
}

/// The curve as records.
pub(crate) fn curve_records(costs: &Costs, stamp: &Stamp) -> Vec<Record> {
    let rows = rows().filter(|row| CURVE.contains(&row.name));
    let columns = || costs.columns().into_iter();
    let record = |(row, (cpus, keys)): (&Row, (usize, u32))| {
        let record = cost_record(costs, row, keys, cpus, stamp)?;
        let floor = record.floor.map(|floor| format!("curve/{floor}"));
        // Goals are for tables of the default size.
        Some(Record { case: format!("curve/{}", record.case), floor, goal: None, met: None, ..record })
    };
    rows.flat_map(|row| columns().map(move |column| (row, column))).filter_map(record).collect()
}

/// Prints what packets cost that are not plain, the cheapest first.
pub(crate) fn ways(ways: &[Way]) {
    println!("\nns above the floor of single named frames, the redirect call included (p25, one CPU, one flow)");
    let mut sorted: Vec<_> = ways.iter().collect();
    sorted.sort_by(|one, other| {
        let key = |way: &Way| (way.direction == Direction::In, way.above_floor_ns);
        key(one).partial_cmp(&key(other)).unwrap_or(std::cmp::Ordering::Equal)
    });
    for way in sorted {
        println!("{:<76}{:>8.1}", way.name, way.above_floor_ns);
    }
}

/// The same as records.
pub(crate) fn way_records(ways: &[Way], stamp: &Stamp) -> Vec<Record> {
    let record = |way: &Way| {
        let name = format!("way/{}", way.name);
        Record::new(BENCH, name, way.above_floor_ns, "ns", stamp.clone())
            .from(way.total, way.runs)
            .over("way/floor".to_owned())
    };
    ways.iter().map(record).collect()
}

/// Prints what was forwarded.
pub(crate) fn forwarding(found: &Forwarding) {
    println!(
        "\nforwarding over veth, 1,024 flows, one CPU for both ends (wall time of each packet that arrived, p25 / p50)"
    );
    for (title, time, arrived) in [
        ("bare XDP_TX", found.bare, found.arrived[0]),
        ("tagged, through the device map", found.ours, found.arrived[1]),
    ] {
        println!("{title:<34}{:>8.1} /{:>7.1} ns   {:>6.2} % arrived", time.p25, time.p50, 100.0 * arrived);
    }
    println!("{:<34}{:>8.3}", "ours over bare, packets per second", found.ratio());
}

/// The same as records.
pub(crate) fn forwarding_records(found: &Forwarding, stamp: &Stamp) -> Vec<Record> {
    let row = |name: &str, time: Quantiles| {
        Record::new(BENCH, format!("live/{name}"), time.p25, "ns", stamp.clone()).from(time, found.runs)
    };
    let ratio = found.ratio();
    let goal = Record::new(BENCH, "live/out_over_tx".to_owned(), ratio, "ratio", stamp.clone())
        .against(ratio, "live/tx".to_owned())
        .goal(format!("at least {LIVE_GOAL}"), ratio >= LIVE_GOAL);
    vec![row("tx", found.bare), row("out", found.ours), goal]
}

/// Prints how much the meters admitted.
pub(crate) fn accuracies(accuracies: &[Accuracy]) {
    println!(
        "\nadmitted of configured, % (± one packet on each CPU and one call), most of rate × time + burst, offered"
    );
    for found in accuracies {
        println!(
            "{:<30}{:>12} bit/s {} CPU {:>10.3} ±{:<8.3}{:>9.3} {:>12.0}",
            found.meter.title,
            found.rate_bps,
            found.cpus,
            found.per_cent,
            found.resolution_per_cent,
            found.ceiling_per_cent,
            found.offered_per_cent
        );
    }
}

/// Costs as records, with the goals that they have.
pub(crate) fn cost_records(costs: &Costs, stamp: &Stamp) -> Vec<Record> {
    let mut records = Vec::new();
    for row in rows() {
        for (cpus, keys) in costs.columns() {
            records.extend(cost_record(costs, row, keys, cpus, stamp));
        }
    }
    for (name, others) in AGAINST {
        for (other, (cpus, keys)) in
            others.iter().flat_map(|other| costs.columns().into_iter().map(move |c| (other, c)))
        {
            let Some(ratio) = ratio(costs, name, other, keys, cpus) else { continue };
            let record =
                Record::new(BENCH, case(&format!("{name}_over_{other}"), keys, cpus), ratio, "ratio", stamp.clone());
            records.push(record.against(ratio, case(other, keys, cpus)));
        }
    }
    for name in TWO_CPU_GOALS {
        for (_, keys) in costs.columns().into_iter().filter(|(cpus, _)| *cpus == 2) {
            let (Some(one), Some(two)) = (costs.total(name, keys, 1), costs.total(name, keys, 2)) else { continue };
            let ratio = two.p25 / one.p25;
            let record = Record::new(BENCH, case(&format!("{name}_two_cpus"), keys, 2), ratio, "ratio", stamp.clone())
                .against(ratio, case(name, keys, 1));
            records.push(record.goal(format!("at most {TWO_CPU_FACTOR}"), ratio <= TWO_CPU_FACTOR));
        }
    }
    records
}

fn cost_record(costs: &Costs, row: &Row, keys: u32, cpus: usize, stamp: &Stamp) -> Option<Record> {
    let (value, total) = (costs.above_floor(row, keys, cpus)?, costs.total(row.name, keys, cpus)?);
    let runs = costs.runs(row.name, keys, cpus);
    let mut record = Record::new(BENCH, case(row.name, keys, cpus), value, "ns", stamp.clone()).from(total, runs);
    if let Some(floor) = row.floor {
        record = record.over(case(floor, keys, cpus));
    }
    let goal = COST_GOALS.iter().find(|goal| (goal.0, goal.1, 1) == (row.name, keys, cpus));
    if let Some((_, _, most)) = goal {
        record = record.goal(format!("at most {most} ns"), value <= *most);
    }
    Some(record)
}

/// Accuracies as records, with the goals that they have.
pub(crate) fn accuracy_records(accuracies: &[Accuracy], stamp: &Stamp) -> Vec<Record> {
    let mut records = Vec::new();
    for found in accuracies {
        let name = |what: &str| format!("{what}/{}/{}/{}", found.meter.name, found.rate_bps, found.cpus);
        let accuracy = Record::new(BENCH, name("accuracy"), found.per_cent, "percent", stamp.clone());
        let ceiling = Record::new(BENCH, name("ceiling"), found.ceiling_per_cent, "percent", stamp.clone());
        if found.meter.is_ours() {
            let within = if found.rate_bps >= 100_000_000 { 0.1 } else { 1.0 };
            let met = (found.per_cent - 100.0).abs() <= within;
            records.push(accuracy.goal(format!("100 ± {within} %"), met));
            records
                .push(ceiling.goal("at most 100 % of rate × time + burst".to_owned(), found.ceiling_per_cent <= 100.0));
        } else {
            records.extend([accuracy, ceiling]);
        }
    }
    records
}

/// Sizes of the programs as records.
pub(crate) fn size_records(programs: &Programs, stamp: &Stamp) -> anyhow::Result<Vec<Record>> {
    rows()
        .map(|row| {
            let size = programs.instructions(row.program())?;
            Ok(Record::new(BENCH, format!("size/{}", row.name), f64::from(size), "instructions", stamp.clone()))
        })
        .collect()
}

/// Prints which goals are met.
pub(crate) fn goals(records: &[Record]) {
    println!("\ngoals");
    for record in records {
        let (Some(goal), Some(met)) = (&record.goal, record.met) else { continue };
        let mark = if met { "met   " } else { "MISSED" };
        println!("{mark} {:<44}{:>10.3} {:<8}{goal}", record.case, record.value, record.unit);
    }
    let with_goal = records.iter().filter_map(|record| record.met);
    println!("{} met, {} missed", with_goal.clone().filter(|met| *met).count(), with_goal.filter(|met| !met).count());
}
