//! `turnpike-simulation`, which `cargo xtask simulate` builds and runs: many seeds, on all CPUs.
#![forbid(unsafe_code)]

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use turnpike_simulation::{Options, Report, run};

/// Runs seeded worlds of many brokers and checks what must hold in them.
#[derive(Parser)]
#[command(name = "cargo xtask simulate", bin_name = "cargo xtask simulate")]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Nodes of each world, 3 or more.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(3..=1_000))]
    nodes: u16,
    /// Sessions that clients want in each world.
    #[arg(long, default_value_t = 3_000)]
    sessions: usize,
    /// Seconds of virtual time with clients and faults.
    #[arg(long, default_value_t = 240)]
    busy_s: u64,
    /// The process that is at this place, in the count of all places where one can die, dies there, and nothing else goes wrong.
    #[arg(long)]
    crash_at: Option<u64>,
    /// Write all that goes into and comes out of brokers. For one seed.
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Arguments { seeds, from, nodes, sessions, busy_s, crash_at, trace } = arguments;
    let (next, failed) = (AtomicU64::new(from), AtomicBool::new(false));
    let total = Mutex::new((Report::default(), Instant::now()));
    let worker = || {
        while !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed - from >= seeds {
                break;
            }
            let report = run(&Options {
                nodes: nodes.into(),
                sessions,
                busy_s,
                trace,
                crash_at,
                faults: crash_at.is_none(),
                ..Options::new(seed)
            });
            failed.fetch_or(!report.violations.is_empty(), Ordering::Relaxed);
            let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            total.0.add(report);
            if total.1.elapsed() >= Duration::from_secs(5) {
                println!("{} of {seeds} seeds", total.0.worlds);
                total.1 = Instant::now();
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(worker);
        }
    });
    let (report, _) = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    print!("{report}");
    for (seed, _) in &report.violations {
        let place = crash_at.map(|place| format!(" --crash-at {place}")).unwrap_or_default();
        println!(
            "again: cargo xtask simulate --seeds 1 --from {seed} --nodes {nodes} --sessions {sessions} --busy-s {busy_s}{place}"
        );
    }
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
