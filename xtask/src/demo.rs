//! `cargo xtask demo`: builds the node and the demo, and runs it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::Context as _;

use crate::{Workspace, is_root, must, setup};

pub(crate) fn run(workspace: &Workspace, args: &[OsString]) -> anyhow::Result<ExitCode> {
    setup::run(workspace)?;
    println!("building   turnpike and turnpike-demo, release");
    must(workspace.cargo()?.args(["build", "--release", "--quiet", "-p", "turnpike-node", "-p", "turnpike-demo"]))?;
    let release = workspace.target().join("release");
    let binary = release.join("turnpike-demo");
    let mut command = if is_root() {
        Command::new(&binary)
    } else {
        println!("sudo       the demo makes network namespaces and loads XDP programs: it needs root");
        let mut sudo = Command::new("sudo");
        sudo.arg(&binary);
        sudo
    };
    command.arg("--turnpike").arg(release.join("turnpike")).args(args);
    // Takes our place, so that Ctrl-C reaches it alone and it can clean up.
    Err(command.exec()).with_context(|| format!("cannot start {}", binary.display()))
}
