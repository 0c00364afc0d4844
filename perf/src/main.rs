//! Turnpike's benchmarks. `perf/README.md` says how they measure and what their results mean.
#![forbid(unsafe_code)]

mod accuracy;
mod broker;
#[cfg(test)]
mod contention;
#[path = "../../ebpf-programs/src/bench/contract.rs"]
mod contract;
mod cost;
mod fastpath;
mod host;
mod live;
mod object;
mod plot;
#[cfg(test)]
mod reception;
mod record;
mod report;
mod request;
mod rounds;
mod scene;
mod stamp;
mod stats;
mod ways;
#[path = "../../dataplane/fastpath/tests/world/mod.rs"]
#[allow(clippy::panic, reason = "the tests' own scene")]
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Turnpike's benchmarks.
#[derive(Parser)]
#[command(name = "turnpike-perf")]
struct Command {
    /// The commit that was built.
    #[arg(long, default_value = "unknown")]
    commit: String,
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// What a packet costs in the XDP programs, piece by piece and as a whole, and how exactly the meters police.
    Fastpath(Options),
    /// What a decision of the broker costs, beside an insertion into a BTreeMap.
    Broker(BrokerOptions),
    /// How long it takes from a REST request to the first packet that is policed by it, beside a round trip over loopback.
    Request(RequestOptions),
    /// Draws the curve of cost over flows that a run of `fastpath` wrote.
    Plot {
        /// The run's lines of JSON; the picture gets the same name and the extension svg.
        file: PathBuf,
    },
}

/// Parts of `fastpath`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// What packets cost.
    Cost,
    /// What they cost with up to a million flows.
    Curve,
    /// What those cost that are not plain.
    Ways,
    /// Forwarding over a veth pair.
    Live,
    /// How exactly meters police.
    Accuracy,
}

/// How to measure.
#[derive(Args)]
pub(crate) struct Options {
    /// Write each result as a line of JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Interleaved rounds: 31, or 9 with --quick; results worth keeping need 31.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(3..))]
    pub(crate) rounds: Option<u32>,
    /// Measure only this part.
    #[arg(long, value_enum)]
    pub(crate) part: Option<Part>,
    /// Measure only these rows, and what they stand on.
    #[arg(long, value_delimiter = ',', value_name = "ROW")]
    pub(crate) rows: Vec<String>,
    /// Rotate over so many keys, powers of two.
    #[arg(long, value_delimiter = ',', value_name = "N")]
    pub(crate) keys: Vec<u32>,
    /// Fewer keys, rounds and rates: about half a minute.
    #[arg(long)]
    pub(crate) quick: bool,
}

/// How to measure the broker.
#[derive(Args)]
pub(crate) struct BrokerOptions {
    /// Write each result as a line of JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Interleaved rounds: 31, or 9 with --quick.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(3..))]
    pub(crate) rounds: Option<u32>,
    /// Measure only these rows.
    #[arg(long, value_delimiter = ',', value_name = "ROW")]
    pub(crate) rows: Vec<String>,
    /// Fewer rounds.
    #[arg(long)]
    pub(crate) quick: bool,
}

/// How to measure requests.
#[derive(Args)]
pub(crate) struct RequestOptions {
    /// Write each result as a line of JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Sessions asked for, one after the other: 2,000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) requests: Option<u32>,
    /// The program to measure, instead of the `turnpike` beside this one.
    #[arg(long, value_name = "FILE")]
    pub(crate) turnpike: Option<PathBuf>,
}

fn main() -> ExitCode {
    let Command { commit, bench } = Command::parse();
    let outcome = match bench {
        Bench::Fastpath(options) => fastpath::run(&options, &commit),
        Bench::Broker(options) => broker::run(&options, &commit),
        Bench::Request(options) => request::run(&options, &commit),
        Bench::Plot { file } => plot::run(&file).map(|target| println!("drawn to {}", target.display())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
