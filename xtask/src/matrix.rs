//! `cargo xtask matrix`: Turnpike in guests with other kernels and with the drivers of network cards.
//!
//! Kernels, QEMU and tools come from Debian's archive into `target/matrix`; nothing of it is installed, and nothing needs root. Each
//! kernel boots once, emulated, and runs the engine's own tests ([`init.sh`](matrix/init.sh) is its first process).

mod apt;
mod budgets;
mod guest;
mod initramfs;
mod kernel;
mod programs;
mod row;
mod table;
mod tools;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;

use crate::test::Tally;
use crate::{Workspace, setup};
use budgets::Budgets;
use kernel::{DRIVERS, Driver, LINES, Line};
use row::{Outcome, Row};
use tools::Tools;

/// What to run, and what to do with the result.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only this kernel, such as 6.12; can be given several times.
    #[arg(long)]
    kernel: Vec<String>,
    /// Only this driver, such as igb; can be given several times.
    #[arg(long)]
    driver: Vec<String>,
    /// Rewrite the tables in docs/matrix.md, unless something failed.
    #[arg(long, conflicts_with_all = ["kernel", "driver"])]
    write: bool,
    /// Record what the programs cost the verifier now as what they may cost.
    #[arg(long)]
    record: bool,
    /// Look for newer packages instead of using those fetched before.
    #[arg(long)]
    refresh: bool,
    /// Guests at a time.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    guests: u8,
}

impl Options {
    /// All of it, and nothing rewritten.
    pub(crate) fn all() -> Self {
        Self { kernel: Vec::new(), driver: Vec::new(), write: false, record: false, refresh: false, guests: 2 }
    }

    fn lines(&self) -> anyhow::Result<Vec<&'static Line>> {
        chosen(&LINES, &self.kernel, |line| line.name)
    }

    fn drivers(&self) -> anyhow::Result<Vec<&'static Driver>> {
        chosen(&DRIVERS, &self.driver, |driver| driver.name)
    }
}

/// Those that are named, or all.
fn chosen<T>(all: &'static [T], names: &[String], name: fn(&T) -> &'static str) -> anyhow::Result<Vec<&'static T>> {
    for wanted in names {
        let known: Vec<_> = all.iter().map(name).collect();
        anyhow::ensure!(known.contains(&wanted.as_str()), "{wanted} is none of {}", known.join(", "));
    }
    Ok(all.iter().filter(|one| names.is_empty() || names.iter().any(|wanted| wanted == name(one))).collect())
}

/// The command.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<ExitCode> {
    setup::run(workspace)?;
    let tally = check(workspace, options)?;
    println!("{tally}");
    Ok(if tally.good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Boots the guests, prints the tables and what is wrong, and counts.
pub(crate) fn check(workspace: &Workspace, options: &Options) -> anyhow::Result<Tally> {
    let (lines, drivers) = (options.lines()?, options.drivers()?);
    let cache = workspace.target().join("matrix");
    let rows = match Tools::obtain(&cache, options.refresh) {
        Ok(tools) => {
            let matrix = Matrix { workspace, tools, cache: &cache, drivers: &drivers, refresh: options.refresh };
            matrix.rows(&lines, usize::from(options.guests))?
        }
        // Without an emulator there is no guest.
        Err(error) => lines.iter().map(|line| Row::skipped(line, format!("{error:#}"))).collect(),
    };

    let file = workspace.root().join("docs/verifier-budgets.toml");
    let mut budgets = Budgets::read(&file)?;
    if options.record {
        budgets.record(&rows);
        budgets.write(&file)?;
        println!("recorded   {}", file.display());
    }
    let tables = table::render(&rows, &drivers);
    println!("\n{tables}");
    let mut tally = Tally::default();
    for row in &rows {
        let faults: Vec<_> = row.faults.iter().cloned().chain(budgets.exceeded(row)).collect();
        for fault in &faults {
            println!("failed     {}: {fault}", row.line.name);
        }
        if let Outcome::Skipped { reason } = &row.outcome {
            println!("skipped: {}: {reason}", row.line.name);
            tally.skipped += 1;
        }
        tally.failed += faults.len();
        tally.passed += row.passed;
    }
    if options.write && tally.failed == 0 {
        table::write(&workspace.root().join("docs/matrix.md"), &tables)?;
    }
    if tally.failed > 0 {
        println!("           the guests' whole output is in {}", cache.join("log").display());
    }
    Ok(tally)
}

/// What all guests of a run have in common.
struct Matrix<'a> {
    workspace: &'a Workspace,
    tools: Tools,
    cache: &'a Path,
    drivers: &'a [&'static Driver],
    refresh: bool,
}

impl Matrix<'_> {
    /// One row for each kernel, in their order.
    fn rows(&self, lines: &[&'static Line], guests: usize) -> anyhow::Result<Vec<Row>> {
        let programs = programs::build(self.workspace)?;
        let common = initramfs::common(self.cache, self.workspace, &self.tools, &programs)?;
        let waiting = Mutex::new(lines.iter().copied().enumerate().collect::<VecDeque<_>>());
        let mut rows = Vec::new();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..guests).map(|_| scope.spawn(|| self.work(&waiting, &common))).collect();
            for worker in workers {
                match worker.join() {
                    Ok(done) => rows.extend(done),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
        rows.sort_by_key(|(number, _)| *number);
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    fn work(&self, waiting: &Mutex<VecDeque<(usize, &'static Line)>>, common: &Path) -> Vec<(usize, Row)> {
        let mut rows = Vec::new();
        loop {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((number, line)) = next else { return rows };
            let row = self.row(line, common).unwrap_or_else(|error| Row::failed(line, format!("{error:#}")));
            rows.push((number, row));
        }
    }

    fn row(&self, line: &'static Line, common: &Path) -> anyhow::Result<Row> {
        let kernel = match kernel::obtain(self.cache, line, self.refresh) {
            Ok(kernel) => kernel,
            Err(error) => return Ok(Row::skipped(line, format!("{error:#}"))),
        };
        println!("booting    {} (Debian {}, {})", line.name, kernel.version, line.suite);
        let initramfs = initramfs::of_kernel(self.cache, &self.tools, &kernel, self.drivers, common)?;
        let log = self.cache.join("log").join(line.name);
        let mut ended = guest::run(&self.tools, &kernel, &initramfs, self.drivers, &log)?;
        if ended.crashed {
            println!("again      {}: {}", line.name, ended.fault.unwrap_or_default());
            ended = guest::run(&self.tools, &kernel, &initramfs, self.drivers, &log)?;
        }
        println!("ended      {} after {} s", line.name, ended.after.as_secs());
        let text = std::fs::read(log.join("result")).context("the guest left no result")?;
        Ok(Row::read(line, kernel.version, self.drivers, &String::from_utf8_lossy(&text), ended.fault))
    }
}

/// A folder made empty.
fn fresh_dir(path: PathBuf) -> anyhow::Result<PathBuf> {
    if path.exists() {
        std::fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_chosen_by_name() {
        let options = Options { kernel: vec!["6.12".to_owned()], driver: vec!["igb".to_owned()], ..Options::all() };
        assert_eq!(options.lines().unwrap().iter().map(|line| line.name).collect::<Vec<_>>(), ["6.12"]);
        assert_eq!(options.drivers().unwrap().iter().map(|driver| driver.name).collect::<Vec<_>>(), ["igb"]);
        assert_eq!(Options::all().lines().unwrap().len(), LINES.len());
        let error = Options { kernel: vec!["2.4".to_owned()], ..Options::all() }.lines().err().unwrap();
        assert!(error.to_string().contains("2.4 is none of 5.10, 6.1"), "{error}");
    }
}
