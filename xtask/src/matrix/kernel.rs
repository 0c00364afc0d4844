//! The kernels and drivers, and how they are fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;

use super::apt::{Apt, unpack, version};
use super::fresh_dir;

/// A line of kernels.
#[derive(Debug)]
pub(crate) struct Line {
    /// Its first two numbers.
    pub(crate) name: &'static str,
    /// The release of Debian that has it.
    pub(crate) suite: &'static str,
    /// Whether Turnpike runs on it; otherwise it has to say so.
    pub(crate) serves: bool,
}

pub(crate) const LINES: [Line; 4] = [
    Line { name: "5.10", suite: "bullseye", serves: false },
    Line { name: "6.1", suite: "bookworm", serves: true },
    Line { name: "6.12", suite: "trixie", serves: true },
    Line { name: "7.2", suite: "trixie-backports", serves: true },
];

impl Line {
    fn number(&self) -> (u32, u32) {
        let (major, minor) = self.name.split_once('.').unwrap_or((self.name, ""));
        (major.parse().unwrap_or(0), minor.parse().unwrap_or(0))
    }
}

/// A driver of network cards.
#[derive(Debug)]
pub(crate) struct Driver {
    /// What it is called in the table.
    pub(crate) name: &'static str,
    /// QEMU's card for it.
    pub(crate) device: &'static str,
    modules: &'static [&'static str],
    /// The first kernel in which it runs XDP programs itself.
    native_since: (u32, u32),
}

pub(crate) const DRIVERS: [Driver; 3] = [
    Driver {
        name: "virtio-net",
        device: "virtio-net-pci",
        modules: &["virtio_pci", "virtio_net"],
        native_since: (4, 10),
    },
    Driver { name: "igb", device: "igb", modules: &["igb"], native_since: (5, 10) },
    Driver { name: "vmxnet3", device: "vmxnet3", modules: &["vmxnet3"], native_since: (6, 6) },
];

impl Driver {
    /// Whether it runs XDP programs itself on this kernel.
    pub(crate) fn native_on(&self, line: &Line) -> bool {
        line.number() >= self.native_since
    }
}

/// A kernel that is there.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) line: &'static Line,
    /// Debian's.
    pub(crate) version: String,
    dir: PathBuf,
}

impl Kernel {
    pub(crate) fn image(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// A folder of modules, in whose file `order` each comes after those that it needs.
    pub(crate) fn modules(&self) -> PathBuf {
        self.dir.join("modules")
    }
}

/// The kernel of a line, fetched if it was not before.
pub(crate) fn obtain(cache: &Path, line: &'static Line, refresh: bool) -> anyhow::Result<Kernel> {
    let dir = cache.join("kernels").join(line.name);
    // Written last.
    let stamp = dir.join("version");
    if !refresh && let Ok(version) = std::fs::read_to_string(&stamp) {
        return Ok(Kernel { line, version, dir });
    }
    println!("fetching   {} from Debian {}", line.name, line.suite);
    let apt = Apt::open(cache, line.suite)?;
    let packages = packages(&apt)?;
    let files = apt.download(&packages)?;
    let dir = fresh_dir(dir)?;
    let unpacked = fresh_dir(dir.join("unpacked"))?;
    for file in &files {
        unpack(file, &unpacked)?;
    }
    let mut found = BTreeMap::new();
    let mut image = None;
    walk(&unpacked, &mut |path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with("vmlinuz") {
            image = Some(path.to_owned());
        } else if let Some(module) = name.strip_suffix(".ko").or_else(|| name.strip_suffix(".ko.xz")) {
            found.insert(module.replace('-', "_"), path.to_owned());
        }
    })?;
    let image = image.with_context(|| format!("no kernel in {}", packages.join(", ")))?;
    copy(&image, &dir.join("vmlinuz"))?;
    let modules = fresh_dir(dir.join("modules"))?;
    let mut order = Vec::new();
    for wanted in DRIVERS.iter().flat_map(|driver| driver.modules).chain(&["veth", "8021q"]) {
        add_module(wanted, &found, &modules, &mut order, &mut BTreeSet::new())?;
    }
    write(&modules.join("order"), &(order.join("\n") + "\n"))?;
    std::fs::remove_dir_all(&unpacked).context("cannot remove what was unpacked")?;
    let version = version(files.first().context("no package")?)?;
    apt.forget()?;
    write(&stamp, &version)?;
    Ok(Kernel { line, version, dir })
}

/// The packages with the kernel and its modules: one or, in newer releases, several that one depends on.
fn packages(apt: &Apt) -> anyhow::Result<Vec<String>> {
    let is_part =
        |name: &String| ["linux-image-", "linux-binary-", "linux-modules-"].iter().any(|start| name.starts_with(start));
    let image = apt
        .depends("linux-image-amd64")?
        .into_iter()
        .find(is_part)
        .context("linux-image-amd64 depends on no kernel")?;
    let mut packages: Vec<_> = apt.depends(&image)?.into_iter().filter(is_part).collect();
    packages.push(image);
    Ok(packages)
}

fn walk(dir: &Path, visit: &mut dyn FnMut(&Path)) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), visit)?;
        } else {
            visit(&entry.path());
        }
    }
    Ok(())
}

/// Puts a module into the folder after those that it needs. One that is not there is built into the kernel; if it is not, its driver will
/// find no card.
fn add_module(
    name: &str,
    found: &BTreeMap<String, PathBuf>,
    into: &Path,
    order: &mut Vec<String>,
    under_way: &mut BTreeSet<String>,
) -> anyhow::Result<()> {
    let Some(path) = found.get(name) else { return Ok(()) };
    let file = format!("{name}.ko");
    if order.contains(&file) || !under_way.insert(name.to_owned()) {
        return Ok(());
    }
    let content = if path.extension().is_some_and(|end| end == "xz") {
        let output = Command::new("xz").args(["--decompress", "--stdout"]).arg(path).stderr(Stdio::inherit()).output();
        let output = output.context("cannot start xz")?;
        anyhow::ensure!(output.status.success(), "xz cannot unpack {}", path.display());
        output.stdout
    } else {
        std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?
    };
    for needed in needed_by(&content) {
        add_module(&needed, found, into, order, under_way)?;
    }
    std::fs::write(into.join(&file), content).with_context(|| format!("cannot write {file}"))?;
    order.push(file);
    Ok(())
}

/// Modules that a module says it needs.
fn needed_by(module: &[u8]) -> Vec<String> {
    let strings = module.split(|byte| *byte == 0);
    let needed = strings.filter_map(|string| string.strip_prefix(b"depends="));
    let needed = needed.flat_map(|names| names.split(|byte| *byte == b',')).filter(|name| !name.is_empty());
    needed.map(|name| String::from_utf8_lossy(name).replace('-', "_")).collect()
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_native_from_their_kernel_on() {
        let native = |driver: &str, line: &str| {
            let driver = DRIVERS.iter().find(|one| one.name == driver).unwrap();
            driver.native_on(LINES.iter().find(|one| one.name == line).unwrap())
        };
        assert!(!native("vmxnet3", "6.1") && native("vmxnet3", "6.12") && native("vmxnet3", "7.2"));
        assert!(native("igb", "6.1") && native("virtio-net", "6.1"));
    }

    #[test]
    fn modules_name_what_they_need() {
        assert_eq!(needed_by(b"\x7fELF\0license=GPL\0depends=i2c-algo-bit,dca\0name=igb\0"), ["i2c_algo_bit", "dca"]);
        assert_eq!(needed_by(b"\0depends=\0"), [""; 0]);
    }

    #[test]
    fn a_module_comes_after_those_that_it_needs() {
        let dir = std::env::temp_dir().join(format!("turnpike-modules-{}", std::process::id()));
        let (from, into) = (fresh_dir(dir.join("from")).unwrap(), fresh_dir(dir.join("into")).unwrap());
        let mut found = BTreeMap::new();
        for (name, needs) in [("a", "b,c"), ("b", "c"), ("c", "built-in")] {
            let path = from.join(format!("{name}.ko"));
            std::fs::write(&path, format!("\0depends={needs}\0")).unwrap();
            found.insert(name.to_owned(), path);
        }
        let mut order = Vec::new();
        add_module("a", &found, &into, &mut order, &mut BTreeSet::new()).unwrap();
        assert_eq!(order, ["c.ko", "b.ko", "a.ko"]);
        assert!(into.join("c.ko").is_file());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
