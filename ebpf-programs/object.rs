//! Builds the XDP programs for their own target, for the build scripts that include this file. The objects are put into `OUT_DIR`.
//!
//! The stable compiler does it with `RUSTC_BOOTSTRAP=1`, which must not reach the other crates, and with the linker of
//! `cargo xtask setup`. Both are environment, so the script calls itself once with them set.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain, build_ebpf};

const SECOND_CALL: &str = "TURNPIKE_BUILD_EBPF";

/// Builds the programs with these features of the crate. To be called first thing in a build script.
pub(crate) fn build(workspace: &Path, features: &[&str]) -> Result<()> {
    if env::var_os(SECOND_CALL).is_some() {
        return build_here(workspace, features);
    }
    for source in [
        "dataplane/fastpath/src",
        "ebpf-programs/src",
        "ebpf-programs/build.rs",
        "ebpf-programs/object.rs",
        "ebpf-programs/Cargo.toml",
    ] {
        println!("cargo:rerun-if-changed={}", workspace.join(source).display());
    }
    let tools = workspace.join("target/tools/bin");
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(std::iter::once(tools).chain(env::split_paths(&path)))?;
    let status = Command::new(env::current_exe()?)
        .env(SECOND_CALL, "1")
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TERM_QUIET", "true")
        .env("PATH", path)
        .status()?;
    if !status.success() {
        bail!("the XDP programs were not built; `cargo xtask setup` installs what that needs");
    }
    Ok(())
}

fn build_here(workspace: &Path, features: &[&str]) -> Result<()> {
    let root_dir = workspace.join("ebpf-programs");
    let root_dir = root_dir.to_str().context("the path of the workspace is not UTF-8")?;
    let toolchain = env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "1.95.0".to_owned());
    build_ebpf(
        [Package { name: "turnpike-ebpf-programs", root_dir, features, ..Package::default() }],
        Toolchain::Custom(&toolchain),
    )
}
