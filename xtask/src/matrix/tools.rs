//! QEMU and what guests need of others' programs, unpacked with all libraries into a folder of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::apt::{Apt, unpack};
use super::fresh_dir;

/// The first release whose QEMU has igb.
const SUITE: &str = "trixie";
const PACKAGES: [&str; 3] = ["qemu-system-x86", "busybox-static", "bpftool"];
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// The folder.
#[derive(Debug)]
pub(crate) struct Tools {
    root: PathBuf,
}

impl Tools {
    /// The tools, fetched if they were not before.
    pub(crate) fn obtain(cache: &Path, refresh: bool) -> anyhow::Result<Self> {
        anyhow::ensure!(cfg!(target_arch = "x86_64"), "the guests are x86-64, and so has to be this machine");
        let root = cache.join("tools");
        // Written last.
        let stamp = root.join("complete");
        if refresh || !stamp.is_file() {
            println!("fetching   {} from Debian {SUITE}", PACKAGES.join(", "));
            let apt = Apt::open(cache, SUITE)?;
            let files = apt.download_with_depends(&PACKAGES)?;
            let root = fresh_dir(root.clone())?;
            for file in &files {
                unpack(file, &root)?;
            }
            apt.forget()?;
            std::fs::write(&stamp, "").with_context(|| format!("cannot write {}", stamp.display()))?;
        }
        Ok(Self { root })
    }

    /// The dynamic loader that their programs were built for.
    pub(crate) fn loader(&self) -> PathBuf {
        self.root.join(LIBRARIES).join("ld-linux-x86-64.so.2")
    }

    pub(crate) fn libraries(&self) -> PathBuf {
        self.root.join(LIBRARIES)
    }

    pub(crate) fn bpftool(&self) -> PathBuf {
        self.root.join("usr/sbin/bpftool")
    }

    pub(crate) fn busybox(&self) -> PathBuf {
        self.root.join("usr/bin/busybox")
    }

    /// QEMU with its own libraries, whatever this machine has.
    pub(crate) fn qemu(&self) -> Command {
        let mut command = self.with_loader(&self.root.join("usr/bin/qemu-system-x86_64"));
        for folder in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(self.root.join(folder));
        }
        command
    }

    /// A program of theirs.
    pub(crate) fn with_loader(&self, program: &Path) -> Command {
        let mut command = Command::new(self.loader());
        command.arg("--library-path").arg(self.libraries()).arg(program);
        command
    }
}
