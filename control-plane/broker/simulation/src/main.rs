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
    /// One world for each place where a process of a seed's world can die, in which it dies there, and nothing else goes wrong. For small
    /// worlds.
    #[arg(long, conflicts_with = "crash_at")]
    every_place: bool,
    /// Write all that goes into and comes out of brokers. For one seed.
    #[arg(long)]
    trace: bool,
}

impl Arguments {
    fn options(&self, seed: u64, crash_at: Option<u64>) -> Options {
        Options {
            nodes: self.nodes.into(),
            sessions: self.sessions,
            busy_s: self.busy_s,
            trace: self.trace,
            faults: crash_at.is_none() && !self.every_place,
            crash_at,
            ..Options::new(seed)
        }
    }
}

/// What has happened so far.
struct Progress {
    report: Report,
    again: Vec<String>,
    told: Instant,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (next, failed) = (AtomicU64::new(arguments.from), AtomicBool::new(false));
    let progress = Mutex::new(Progress { report: Report::default(), again: Vec::new(), told: Instant::now() });
    let world = |seed: u64, crash_at: Option<u64>| {
        let report = run(&arguments.options(seed, crash_at));
        let crash_points = report.crash_points;
        let mut progress = progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !report.violations.is_empty() {
            failed.store(true, Ordering::Relaxed);
            let Arguments { nodes, sessions, busy_s, .. } = arguments;
            let place = crash_at.map(|place| format!(" --crash-at {place}")).unwrap_or_default();
            progress.again.push(format!(
                "again: cargo xtask simulate --seeds 1 --from {seed} --nodes {nodes} --sessions {sessions} --busy-s {busy_s}{place}"
            ));
        }
        progress.report.add(report);
        if progress.told.elapsed() >= Duration::from_secs(5) {
            println!("{} worlds", progress.report.worlds);
            progress.told = Instant::now();
        }
        crash_points
    };
    let worker = || {
        while !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed - arguments.from >= arguments.seeds {
                break;
            }
            let places = world(seed, arguments.crash_at);
            let places = if arguments.every_place { places } else { 0 };
            for place in (0..places).take_while(|_| !failed.load(Ordering::Relaxed)) {
                world(seed, Some(place));
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(worker);
        }
    });
    let Progress { report, again, .. } = progress.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    print!("{report}");
    again.iter().for_each(|line| println!("{line}"));
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
