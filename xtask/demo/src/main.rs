//! Shows on this machine what Turnpike does: calls admitted onto reserved bandwidth, enforced packet by packet, carried
//! by tag, accounted for exactly, and not disturbed by the death of the control plane.
#![forbid(unsafe_code)]

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Parser;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use turnpike_demo::story::{self, Options};

/// Shows what Turnpike does, with real calls in network namespaces of its own. Needs root.
#[derive(Parser)]
#[command(name = "turnpike-demo", version)]
struct Args {
    /// The program to show.
    #[arg(long, value_name = "FILE", default_value = "target/release/turnpike")]
    turnpike: PathBuf,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How long media goes on.
    #[arg(long, value_name = "N", default_value_t = 45)]
    seconds: u64,
    /// Go on with the calls until Ctrl-C, then hang up.
    #[arg(long)]
    keep: bool,
    /// Play this pcap file of a G.711 A-law call instead of the one of the package sip-tester.
    #[arg(long, value_name = "FILE")]
    recording: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if error.is::<story::Interrupted>() => {
            eprintln!("interrupted; everything that was made is removed");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<bool> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let options = Options {
        turnpike: args.turnpike,
        recording: args.recording,
        media: Duration::from_secs(args.seconds),
        aggregate_rate_bps: 1_040_000,
        keep: args.keep,
        live: std::io::stdout().is_terminal(),
    };
    story::check(&options)?;
    let summary = story::run(&options, &stop)?;
    println!("\n{summary}");
    if let Some(path) = args.json {
        summary.write_json(&path)?;
        println!("figures in {}", path.display());
    }
    Ok(summary.holds())
}
