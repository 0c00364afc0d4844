//! Set-up, tests, checks, benchmarks and the demo of Turnpike.
//!
//! It imports nothing of Turnpike's, so that it builds before what it sets up is there.
#![forbid(unsafe_code)]

mod bench;
mod check;
mod demo;
mod matrix;
mod setup;
mod simulate;
mod test;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use clap::Parser;
use test::Extent;

/// Set-up, tests, checks, benchmarks and the demo of Turnpike.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Install what building and testing need and is not there yet.
    Setup,
    /// Set up, check the rules and run all tests.
    Test {
        /// Only checks and unit tests: no integration tests, no documentation.
        #[arg(long)]
        fast: bool,
    },
    /// Only the rules on imports and sources.
    Check,
    /// What continuous integration runs: all of `test`, and `matrix`.
    Ci,
    /// Boot other kernels with the drivers of network cards, and see what works there.
    Matrix(matrix::Options),
    /// Run many brokers in one virtual world with seeded faults, and check what must hold; it gets all further arguments.
    #[command(disable_help_flag = true)]
    Simulate {
        /// Such as `--seeds N`, `--from S`, `--nodes N`, or `--help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Set up, build and run the demo; it gets all further arguments.
    Demo {
        /// Arguments of the demo, such as `--json FILE` or `--seconds N`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Set up, build and run a benchmark, such as `fastpath`; it gets all further arguments.
    Bench {
        /// The benchmark and its arguments, such as `--json FILE`, `--rounds N` or `--quick`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let outcome = match Task::parse() {
        Task::Setup => setup::run(&Workspace::find()).map(|()| ExitCode::SUCCESS),
        Task::Test { fast: true } => test::run(&Workspace::find(), Extent::Fast),
        Task::Test { fast: false } => test::run(&Workspace::find(), Extent::Full),
        Task::Check => check::run(&Workspace::find()),
        Task::Ci => test::run(&Workspace::find(), Extent::Ci),
        Task::Matrix(options) => matrix::run(&Workspace::find(), &options),
        Task::Simulate { args } => simulate::run(&Workspace::find(), &args),
        Task::Demo { args } => demo::run(&Workspace::find(), &args),
        Task::Bench { args } => bench::run(&Workspace::find(), &args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Where things are.
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    fn find() -> Self {
        let manifest_dir = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest_dir.parent().map_or_else(|| manifest_dir.clone(), Path::to_path_buf);
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn target(&self) -> PathBuf {
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.root.join("target"), |dir| self.root.join(dir))
    }

    /// Not below CARGO_TARGET_DIR: the build script of the engine looks for the linker here.
    pub(crate) fn tools(&self) -> PathBuf {
        self.root.join("target/tools")
    }

    /// Cargo at the root, with our tools first in the path.
    pub(crate) fn cargo(&self) -> anyhow::Result<Command> {
        let mut path = OsString::from(self.tools().join("bin"));
        if let Some(rest) = std::env::var_os("PATH") {
            path.push(":");
            path.push(rest);
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = Command::new(cargo);
        command.current_dir(&self.root).env("PATH", path);
        Ok(command)
    }
}

/// Runs it with our own output and says whether it went well.
pub(crate) fn succeeds(command: &mut Command) -> anyhow::Result<bool> {
    let status = command.status().with_context(|| format!("cannot start {}", name_of(command)))?;
    Ok(status.success())
}

/// Runs it; anything but success is an error.
pub(crate) fn must(command: &mut Command) -> anyhow::Result<()> {
    if succeeds(command)? {
        return Ok(());
    }
    let args: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    anyhow::bail!("{} {} failed", name_of(command), args.join(" "))
}

/// Runs it and gives back what it wrote to its standard output.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", name_of(command)))?;
    anyhow::ensure!(output.status.success(), "{} failed", name_of(command));
    String::from_utf8(output.stdout).with_context(|| format!("{} did not write text", name_of(command)))
}

fn name_of(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    // The owner of our own /proc entry is our effective user.
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// A program in the path or where administrators' programs are.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
