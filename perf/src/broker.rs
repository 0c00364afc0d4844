//! What a decision of the broker costs, in this process and beside a bare `BTreeMap`.

mod decisions;
mod pair;

use std::collections::BTreeMap;

use anyhow::Context as _;
use nix::time::{ClockId, clock_gettime};

use crate::BrokerOptions;
use crate::record::{self, Record};
use crate::report;
use crate::stamp::{Busy, Stamp};
use crate::stats::Quantiles;

const BENCH: &str = "broker";
const ROUNDS: u32 = 31;
const ROUNDS_QUICK: u32 = 9;

/// Live sessions; a tenth as many bookings, of which 10,000 at most.
const LIVE: [u32; 3] = [1_000, 100_000, 1_000_000];
/// Beyond, brokers of both sides take more memory than a small host has; calendars do not.
const WHOLE_MAX: u32 = 100_000;

/// Decisions per second and core with 100,000 live sessions and 10,000 bookings.
const RATE_GOAL: f64 = 2e6;
/// What a decision may cost with a million sessions, over what it costs with a thousand.
const GROWTH_GOAL: f64 = 2.0;

/// Nanoseconds of CPU time per operation, of every round, by row and live sessions.
type Samples = BTreeMap<(&'static str, u32), Vec<f64>>;

/// A row of one scene: does its operations once, and tells the nanoseconds of each.
type Row = (&'static str, Box<dyn FnMut() -> f64>);

/// CPU time of this thread, in nanoseconds.
fn cpu_ns() -> f64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(f64::NAN, |time| {
        #[allow(clippy::cast_precision_loss, reason = "2^53 ns are a hundred days")]
        let (seconds, nanos) = (time.tv_sec() as f64, time.tv_nsec() as f64);
        seconds * 1e9 + nanos
    })
}

/// Nanoseconds of CPU time of each of so many operations.
fn each(count: u32, mut work: impl FnMut(u32)) -> f64 {
    let before = cpu_ns();
    (0..count).for_each(&mut work);
    (cpu_ns() - before) / f64::from(count)
}

pub(crate) fn run(options: &BrokerOptions, commit: &str) -> anyhow::Result<()> {
    let stamp = Stamp::now("none", "none", commit);
    report::head(&stamp);
    let busy = Busy::now();
    let rounds = options.rounds.unwrap_or(if options.quick { ROUNDS_QUICK } else { ROUNDS });
    let mut samples = Samples::new();
    for live in LIVE {
        let mut rows = decisions::rows(live);
        if live <= WHOLE_MAX {
            rows.extend(pair::rows(live).context("the two brokers do not do as they should")?);
        }
        let wanted = |name: &str| options.rows.is_empty() || options.rows.iter().any(|row| row == name);
        rows.retain(|(name, _)| wanted(name));
        for round in 0..rounds as usize {
            // Another row first in each round.
            let count = rows.len();
            for offset in 0..count {
                let (name, work) = &mut rows[(round + offset) % count];
                samples.entry((name, live)).or_default().push(work());
            }
        }
        println!("measured   {live} live sessions");
    }
    let records = report(&samples, &stamp);
    report::disturbance(busy);
    if let Some(path) = &options.json {
        record::write(path, &records)?;
        println!("\n{} results written to {}", records.len(), path.display());
    }
    Ok(())
}

/// Prints the table and the goals.
fn report(samples: &Samples, stamp: &Stamp) -> Vec<Record> {
    let of = |name: &'static str, live: u32| Quantiles::of(samples.get(&(name, live))?);
    let mut names: Vec<&'static str> = Vec::new();
    for (name, _) in samples.keys() {
        if !names.contains(name) {
            names.push(name);
        }
    }
    println!(
        "\nns of CPU time for each operation (p25 / p50), and over an insertion into a BTreeMap of as many entries"
    );
    println!("{:<28}{:>26}{:>26}{:>26}", "live sessions", LIVE[0], LIVE[1], LIVE[2]);
    let mut records = Vec::new();
    for name in names {
        let mut line = format!("{name:<28}");
        for live in LIVE {
            let Some(found) = of(name, live) else {
                line.push_str(&format!("{:>26}", "-"));
                continue;
            };
            let mut record = Record::new(BENCH, format!("{name}/{live}"), found.p25, "ns", stamp.clone());
            record = record.from(found, samples.get(&(name, live)).map_or(0, Vec::len));
            let ratio = of("map_insert", live).map(|map| found.p25 / map.p25);
            if let Some(ratio) = ratio {
                record = record.against(ratio, format!("map_insert/{live}"));
            }
            let cell = format!("{:.0} / {:.0} ({:.1}×)", found.p25, found.p50, ratio.unwrap_or(f64::NAN));
            line.push_str(&format!("{cell:>26}"));
            records.push(record);
        }
        println!("{line}");
    }
    println!("\ngoals");
    for name in ["decide_open", "decide_interval"] {
        if let Some(found) = of(name, LIVE[1]) {
            let rate = 1e9 / found.p25;
            goal(
                &mut records,
                format!("rate/{name}/{}", LIVE[1]),
                rate,
                "per s",
                rate >= RATE_GOAL,
                "at least 2 M",
                stamp,
            );
        }
        if let (Some(few), Some(many)) = (of(name, LIVE[0]), of(name, LIVE[2])) {
            let growth = many.p25 / few.p25;
            let met = growth <= GROWTH_GOAL;
            goal(&mut records, format!("growth/{name}"), growth, "ratio", met, "at most 2", stamp);
        }
    }
    records
}

fn goal(records: &mut Vec<Record>, case: String, value: f64, unit: &'static str, met: bool, text: &str, stamp: &Stamp) {
    println!("{} {case:<40}{value:>14.2} {unit:<8}{text}", if met { "met   " } else { "MISSED" });
    records.push(Record::new(BENCH, case, value, unit, stamp.clone()).goal(text.to_owned(), met));
}
