//! Builds the programs of the benchmarks for their own target, in the way of `dataplane/engine/build.rs`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain, build_ebpf};

const SECOND_CALL: &str = "TURNPIKE_BUILD_EBPF";

fn main() -> Result<()> {
    let workspace =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR is not set")?).join("..");
    if env::var_os(SECOND_CALL).is_some() {
        return build(&workspace);
    }
    for source in ["dataplane/fastpath/src", "ebpf-programs/src", "ebpf-programs/build.rs", "ebpf-programs/Cargo.toml"]
    {
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
        bail!("the programs of the benchmarks were not built; `cargo xtask setup` installs what that needs");
    }
    Ok(())
}

fn build(workspace: &Path) -> Result<()> {
    let root_dir = workspace.join("ebpf-programs");
    let root_dir = root_dir.to_str().context("the path of the workspace is not UTF-8")?;
    let toolchain = env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "1.95.0".to_owned());
    build_ebpf(
        [Package { name: "turnpike-ebpf-programs", root_dir, features: &["bench"], ..Package::default() }],
        Toolchain::Custom(&toolchain),
    )
}
