//! `cargo xtask simulate`: builds the simulation for speed, and runs it. It needs no set-up: there is no kernel in it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::Context as _;

use crate::{Workspace, must};

pub(crate) fn run(workspace: &Workspace, args: &[OsString]) -> anyhow::Result<ExitCode> {
    println!("building   turnpike-simulation, release");
    must(workspace.cargo()?.args(["build", "--release", "--quiet", "-p", "turnpike-simulation"]))?;
    let binary = workspace.target().join("release/turnpike-simulation");
    Err(Command::new(&binary).args(args).exec()).with_context(|| format!("cannot start {}", binary.display()))
}
