//! `cargo xtask bench`: builds the benchmarks and runs one.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context as _;

use crate::{Workspace, is_root, must, setup};

pub(crate) fn run(workspace: &Workspace, args: &[OsString]) -> anyhow::Result<ExitCode> {
    setup::run(workspace)?;
    println!("building   turnpike and turnpike-perf, release");
    must(workspace.cargo()?.args(["build", "--release", "--quiet", "-p", "turnpike-node", "-p", "turnpike-perf"]))?;
    let binary = workspace.target().join("release/turnpike-perf");
    let mut command = if is_root() {
        Command::new(&binary)
    } else {
        println!("sudo       benchmarks make a network namespace and load XDP programs: they need root");
        let mut sudo = Command::new("sudo");
        sudo.arg(&binary);
        sudo
    };
    command.args(["--commit", &commit(workspace)]).args(args);
    // Takes our place, so that Ctrl-C reaches it alone.
    Err(command.exec()).with_context(|| format!("cannot start {}", binary.display()))
}

/// The commit that was built, and whether the sources differ from it.
fn commit(workspace: &Workspace) -> String {
    let git = Command::new("git")
        .current_dir(workspace.root())
        .args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
        .stderr(Stdio::null())
        .output();
    match git {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Ok(_) | Err(_) => "unknown".to_owned(),
    }
}
