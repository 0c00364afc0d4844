//! What a guest boots into: one archive that all have in common, and one with modules and orders for each kernel.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::fresh_dir;
use super::guest::mac_start;
use super::kernel::{Driver, Kernel};
use super::programs::Programs;
use super::tools::Tools;
use crate::{Workspace, find_program, must, output};

const INIT: &str = include_str!("init.sh");

/// Files at their places below a folder, to become an archive.
struct Stage {
    root: PathBuf,
}

impl Stage {
    fn new(dir: PathBuf) -> anyhow::Result<Self> {
        Ok(Self { root: fresh_dir(dir)? })
    }

    fn place(&self, to: &str) -> anyhow::Result<PathBuf> {
        let path = self.root.join(to.trim_start_matches('/'));
        let parent = path.parent().unwrap_or(&self.root);
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        Ok(path)
    }

    fn copy(&self, from: &Path, to: &str) -> anyhow::Result<()> {
        let place = self.place(to)?;
        std::fs::copy(from, &place).with_context(|| format!("cannot copy {}", from.display()))?;
        Ok(())
    }

    fn write(&self, to: &str, text: &str) -> anyhow::Result<()> {
        let place = self.place(to)?;
        std::fs::write(&place, text).with_context(|| format!("cannot write {}", place.display()))
    }

    fn copy_files(&self, from: &Path, to: &str) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
            let entry = entry?;
            self.copy(&entry.path(), &format!("{to}/{}", entry.file_name().to_string_lossy()))?;
        }
        Ok(())
    }

    /// A program of this machine without its debugging information, and the libraries that it names, where it looks for them.
    fn program(&self, file: &Path, name: &str, libraries: &mut BTreeSet<String>) -> anyhow::Result<()> {
        let to = self.place(&format!("matrix/bin/{name}"))?;
        must(Command::new("strip").arg("-o").arg(&to).arg(file))?;
        libraries.extend(libraries_in(&output(Command::new("ldd").arg(file))?));
        Ok(())
    }

    /// Packs it.
    fn archive(&self, tools: &Tools, file: &Path) -> anyhow::Result<()> {
        let pack = "busybox=$0; archive=$1; $busybox find . | $busybox cpio -o -H newc >$archive 2>/dev/null";
        must(Command::new("sh").args(["-c", pack]).arg(tools.busybox()).arg(file).current_dir(&self.root))
    }
}

/// Paths in what `ldd` says.
fn libraries_in(text: &str) -> impl Iterator<Item = String> {
    let words = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(str::to_owned)
}

/// Packs what all guests have.
pub(crate) fn common(
    cache: &Path,
    workspace: &Workspace,
    tools: &Tools,
    programs: &Programs,
) -> anyhow::Result<PathBuf> {
    let stage = Stage::new(cache.join("guest/common"))?;
    stage.copy(&tools.busybox(), "bin/busybox")?;
    let mut libraries = BTreeSet::new();
    for (name, file) in &programs.executables {
        stage.program(file, name, &mut libraries)?;
    }
    for name in ["ip", "ethtool"] {
        let file = find_program(name).with_context(|| format!("no {name}: `cargo xtask setup` installs it"))?;
        stage.program(&file, name, &mut libraries)?;
    }
    for library in &libraries {
        stage.copy(Path::new(library), library)?;
    }
    // bpftool is of another release and brings its own libraries.
    stage.copy(&tools.bpftool(), "matrix/bpftool/bpftool")?;
    let list = output(tools.with_loader(Path::new("--list")).arg(tools.bpftool()))?;
    for library in libraries_in(&list) {
        let library = Path::new(&library);
        let name = library.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        stage.copy(&tools.libraries().join(&name), &format!("matrix/bpftool/{name}"))?;
    }
    stage.copy(&programs.object, "matrix/turnpike-xdp")?;
    // The tests look for the fuzzers' corpus where it was when they were built.
    let corpus = workspace.root().join("dataplane/fastpath/fuzz/corpus/any_frame");
    stage.copy_files(&corpus, &corpus.display().to_string())?;
    stage.write(&format!("{}/.here", programs.dir.display()), "")?;
    stage.write("matrix/dir", &programs.dir.display().to_string())?;
    stage.write("init", INIT)?;
    for file in ["init", "matrix/bpftool/bpftool"] {
        executable(&stage.root.join(file))?;
    }
    let archive = cache.join("guest/common.cpio");
    stage.archive(tools, &archive)?;
    Ok(archive)
}

/// Packs what a kernel has to do, with the rest.
pub(crate) fn of_kernel(
    cache: &Path,
    tools: &Tools,
    kernel: &Kernel,
    drivers: &[&'static Driver],
    common: &Path,
) -> anyhow::Result<PathBuf> {
    let name = kernel.line.name;
    let stage = Stage::new(cache.join("guest").join(name))?;
    stage.copy_files(&kernel.modules(), "matrix/modules")?;
    let mut orders = String::new();
    for driver in drivers {
        let _ = writeln!(orders, "{} {}", driver.name, mac_start(driver));
    }
    stage.write("matrix/drivers", &orders)?;
    let own = cache.join("guest").join(format!("{name}-own.cpio"));
    stage.archive(tools, &own)?;
    let mut archive = std::fs::read(common).context("cannot read the common archive")?;
    archive.extend(std::fs::read(&own).context("cannot read the kernel's archive")?);
    let file = cache.join("guest").join(format!("{name}.cpio"));
    std::fs::write(&file, archive).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

fn executable(file: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let permissions = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(file, permissions).with_context(|| format!("cannot make {} executable", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_those_with_a_path() {
        let text = "\tlinux-vdso.so.1 (0x0)\n\tlibc.so.6 => /lib/libc.so.6 (0x1)\n\t/lib64/ld.so.2 (0x2)\n";
        assert_eq!(libraries_in(text).collect::<Vec<_>>(), ["/lib/libc.so.6", "/lib64/ld.so.2"]);
        assert_eq!(libraries_in("\tstatically linked\n").count(), 0);
    }
}
