//! `cargo xtask setup`: says what is there, installs what is not.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;

use crate::{Workspace, find_program, is_root, must, output};

const BPF_LINKER_VERSION: &str = "0.13.0";

/// How to see that a package is there, on any distribution.
enum Probe {
    Program(&'static str),
    File(&'static str),
}

impl Probe {
    fn found(&self) -> bool {
        match self {
            Self::Program(name) => find_program(name).is_some(),
            Self::File(path) => Path::new(path).is_file(),
        }
    }
}

struct Package {
    name: &'static str,
    probe: Probe,
    why: &'static str,
}

/// Names as in Debian.
const PACKAGES: &[Package] = &[
    Package { name: "build-essential", probe: Probe::Program("cc"), why: "compiles SQLite and ring" },
    Package { name: "iproute2", probe: Probe::Program("ip"), why: "makes the namespaces of tests and demo" },
    Package { name: "tshark", probe: Probe::Program("tshark"), why: "judges in tests what the dissector shows" },
    Package { name: "ethtool", probe: Probe::Program("ethtool"), why: "sets offloads of the veths in tests and demo" },
    Package { name: "procps", probe: Probe::Program("sysctl"), why: "runs what `turnpike doctor` says, in its tests" },
    Package {
        name: "sip-tester",
        probe: Probe::File("/usr/share/sip-tester/g711a.pcap"),
        why: "has the recorded G.711 call that tests and demo play",
    },
];

/// A rustup component and a file of it below the sysroot.
const COMPONENTS: &[(&str, &str, &str)] = &[
    ("rust-src", "lib/rustlib/src/rust/library/core/src/lib.rs", "the eBPF programs build their own core library"),
    ("clippy", "bin/cargo-clippy", "checks the sources"),
    ("rustfmt", "bin/cargo-fmt", "checks the format"),
];

pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    packages()?;
    let sysroot = sysroot(workspace)?;
    components(workspace, &sysroot)?;
    bpf_linker(workspace, &sysroot)
}

fn packages() -> anyhow::Result<()> {
    let (present, missing): (Vec<_>, Vec<_>) = PACKAGES.iter().partition(|package| package.probe.found());
    for package in present {
        println!("present    {}", package.name);
    }
    if missing.is_empty() {
        return Ok(());
    }
    for package in &missing {
        println!("missing    {} ({})", package.name, package.why);
    }
    let names: Vec<_> = missing.iter().map(|package| package.name).collect();
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    anyhow::ensure!(
        is_debian(&release),
        "this is not a Debian or Ubuntu: install what gives the same as Debian's {}, then run this again",
        names.join(" ")
    );
    println!("installing {} with apt-get", names.join(" "));
    must(as_root("apt-get")?.arg("update").arg("--quiet=2"))?;
    must(as_root("apt-get")?.args(["install", "--yes", "--quiet=2", "--no-install-recommends"]).args(&names))?;
    for package in &missing {
        anyhow::ensure!(package.probe.found(), "{} is installed but not what it was installed for", package.name);
    }
    Ok(())
}

fn is_debian(os_release: &str) -> bool {
    os_release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .flat_map(|value| value.trim_matches('"').split_whitespace())
        .any(|id| id == "debian" || id == "ubuntu")
}

fn as_root(program: &str) -> anyhow::Result<Command> {
    let mut command = if is_root() {
        Command::new("env")
    } else {
        anyhow::ensure!(find_program("sudo").is_some(), "{program} needs root and there is no sudo: run it as root");
        println!("           (through sudo: {program} needs root)");
        let mut sudo = Command::new("sudo");
        sudo.arg("env");
        sudo
    };
    command.arg("DEBIAN_FRONTEND=noninteractive").arg(program);
    Ok(command)
}

fn sysroot(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let text = output(Command::new(rustc).args(["--print", "sysroot"]).current_dir(workspace.root()))?;
    Ok(PathBuf::from(text.trim()))
}

fn components(workspace: &Workspace, sysroot: &Path) -> anyhow::Result<()> {
    for (name, file, why) in COMPONENTS {
        if sysroot.join(file).is_file() {
            println!("present    {name}");
            continue;
        }
        println!("installing {name} with rustup ({why})");
        must(Command::new("rustup").args(["component", "add", name]).current_dir(workspace.root()))?;
    }
    Ok(())
}

/// The linker is built against the LLVM inside the Rust toolchain, so that no other LLVM is needed.
fn bpf_linker(workspace: &Workspace, sysroot: &Path) -> anyhow::Result<()> {
    let tools = workspace.tools();
    let binary = tools.join("bin/bpf-linker");
    if linker_version(&binary).as_deref() == Some(BPF_LINKER_VERSION) {
        println!("present    bpf-linker {BPF_LINKER_VERSION}");
        return Ok(());
    }
    println!(
        "installing bpf-linker {BPF_LINKER_VERSION} into {} (links the eBPF programs; takes a minute or two)",
        tools.display()
    );
    let lib = sysroot.join("lib");
    let llvm = toolchain_llvm(&lib)?;
    let prefix = tools.join("llvm");
    let prefix_lib = prefix.join("lib");
    std::fs::create_dir_all(&prefix_lib).with_context(|| format!("cannot make {}", prefix_lib.display()))?;
    let link = prefix_lib.join("libLLVM.so");
    if link.symlink_metadata().is_ok() {
        std::fs::remove_file(&link).with_context(|| format!("cannot replace {}", link.display()))?;
    }
    std::os::unix::fs::symlink(&llvm, &link).with_context(|| format!("cannot make {}", link.display()))?;
    must(
        workspace
            .cargo()?
            .args(["install", "bpf-linker", "--version", BPF_LINKER_VERSION, "--locked", "--force"])
            .args(["--no-default-features", "--features", "llvm-22", "--root"])
            .arg(&tools)
            .env("LLVM_PREFIX", &prefix)
            .env("RUSTFLAGS", format!("-C link-arg=-Wl,-rpath,{}", lib.display()))
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env("CARGO_TARGET_DIR", workspace.root().join("target/bpf-linker-build")),
    )?;
    anyhow::ensure!(
        linker_version(&binary).as_deref() == Some(BPF_LINKER_VERSION),
        "{} was built but does not run",
        binary.display()
    );
    Ok(())
}

fn toolchain_llvm(lib: &Path) -> anyhow::Result<PathBuf> {
    let entries = std::fs::read_dir(lib).with_context(|| format!("cannot read {}", lib.display()))?;
    entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            name.starts_with("libLLVM.so.") && name.contains("-rust-")
        })
        .with_context(|| {
            format!(
                "no libLLVM.so.*-rust-* in {}: the toolchain must come from rustup (rust-toolchain.toml)",
                lib.display()
            )
        })
}

fn linker_version(binary: &Path) -> Option<String> {
    let output = Command::new(binary).arg("--version").stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.split_whitespace().last().map(str::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_debian_and_what_is_like_it() {
        assert!(is_debian("NAME=\"Debian GNU/Linux\"\nID=debian\n"));
        assert!(is_debian("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!is_debian("ID=fedora\nVARIANT_ID=debian\n"));
        assert!(!is_debian(""));
    }

    #[test]
    fn a_linker_that_does_not_run_has_no_version() {
        assert_eq!(linker_version(Path::new("/nonexistent/bpf-linker")), None);
        assert_eq!(linker_version(Path::new("/bin/false")), None);
    }
}
