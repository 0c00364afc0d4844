//! A package manager of our own beside the machine's: one folder for each release of Debian, in which nothing is ever installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::Context as _;

use crate::find_program;

const MIRROR: &str = "http://deb.debian.org/debian";
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One release of Debian.
pub(crate) struct Apt {
    root: PathBuf,
    options: Vec<String>,
}

impl Apt {
    /// Fetches the lists of packages of a release.
    pub(crate) fn open(cache: &Path, suite: &str) -> anyhow::Result<Self> {
        for program in ["apt-get", "dpkg-deb"] {
            anyhow::ensure!(find_program(program).is_some(), "no {program}: kernels come as Debian's packages");
        }
        anyhow::ensure!(Path::new(KEYS).is_file(), "no {KEYS}: install debian-archive-keyring");
        let root = cache.join("apt").join(suite);
        for folder in ["lists/partial", "archives/partial", "none"] {
            let folder = root.join(folder);
            std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let write = |name: &str, text: String| {
            let file = root.join(name);
            std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
        };
        write("status", String::new())?;
        write("sources.list", format!("deb [signed-by={KEYS}] {} {suite} main\n", mirror()))?;
        let at = |name: &str| root.join(name).display().to_string();
        let options = [
            ("Dir::State", at("")),
            ("Dir::State::lists", at("lists")),
            ("Dir::State::status", at("status")),
            ("Dir::Cache", at("")),
            ("Dir::Cache::archives", at("archives")),
            ("Dir::Etc::sourcelist", at("sources.list")),
            ("Dir::Etc::sourceparts", at("none")),
            ("Dir::Etc::preferences", at("none")),
            ("Dir::Etc::preferencesparts", at("none")),
            ("APT::Architecture", "amd64".to_owned()),
            ("APT::Architectures", "amd64".to_owned()),
            ("APT::Install-Recommends", "false".to_owned()),
            ("APT::Sandbox::User", "root".to_owned()),
            // Without it an update from nowhere is no error.
            ("APT::Update::Error-Mode", "any".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
            ("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", "false".to_owned()),
            ("Acquire::Retries", "2".to_owned()),
            ("Acquire::http::Timeout", "20".to_owned()),
        ];
        let options = options.into_iter().flat_map(|(name, value)| ["-o".to_owned(), format!("{name}={value}")]);
        let apt = Self { root, options: options.collect() };
        apt.output("apt-get", &["update", "--quiet=2"], &apt.root)?;
        Ok(apt)
    }

    fn output(&self, program: &str, arguments: &[&str], dir: &Path) -> anyhow::Result<String> {
        let mut command = Command::new(program);
        command.args(&self.options).args(arguments).current_dir(dir).stdin(Stdio::null());
        let output = command.output().with_context(|| format!("cannot start {program}"))?;
        anyhow::ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), cause(&output));
        String::from_utf8(output.stdout).with_context(|| format!("{program} did not write text"))
    }

    /// What a package depends on, by name.
    pub(crate) fn depends(&self, package: &str) -> anyhow::Result<Vec<String>> {
        let text = self.output("apt-cache", &["depends", package], &self.root)?;
        Ok(text.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned).collect())
    }

    /// Fetches these packages alone; their files.
    pub(crate) fn download(&self, packages: &[String]) -> anyhow::Result<Vec<PathBuf>> {
        let dir = super::fresh_dir(self.root.join("download"))?;
        let arguments: Vec<_> =
            ["download", "--quiet=2"].into_iter().chain(packages.iter().map(String::as_str)).collect();
        self.output("apt-get", &arguments, &dir)?;
        files(&dir)
    }

    /// Fetches these packages and all that they need, down to the C library; their files.
    pub(crate) fn download_with_depends(&self, packages: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
        let archives = super::fresh_dir(self.root.join("archives"))?;
        let arguments =
            ["install", "--download-only", "--yes", "--quiet=2"].into_iter().chain(packages.iter().copied());
        self.output("apt-get", &arguments.collect::<Vec<_>>(), &self.root)?;
        files(&archives)
    }

    /// Removes what was fetched and is unpacked by now.
    pub(crate) fn forget(&self) -> anyhow::Result<()> {
        std::fs::remove_dir_all(&self.root).with_context(|| format!("cannot remove {}", self.root.display()))
    }
}

/// The packages of a folder.
fn files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let files: Vec<_> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "deb"))
        .collect();
    anyhow::ensure!(!files.is_empty(), "nothing was fetched into {}", dir.display());
    Ok(files)
}

/// Of all that was written, what could not be fetched and why, or the error.
fn cause(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let find = |wanted: &str| text.lines().find(|line| line.contains(wanted));
    let line = find("Failed to fetch").or_else(|| find("E: ")).or_else(|| text.lines().next_back());
    line.map_or("no message", |line| line.trim_start_matches(['W', 'E', ':', ' '])).trim_end().to_owned()
}

/// The machine's own mirror of Debian, if it is one.
fn mirror() -> String {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = std::fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.filter_map(Result::ok).map(|entry| entry.path()));
    }
    files.sort();
    let enabled = files.iter().filter(|file| file.extension().is_some_and(|end| end == "list" || end == "sources"));
    let texts = enabled.filter_map(|file| std::fs::read_to_string(file).ok());
    texts.into_iter().find_map(|text| mirror_in(&text)).unwrap_or_else(|| MIRROR.to_owned())
}

fn mirror_in(sources: &str) -> Option<String> {
    let lines = sources.lines().filter(|line| !line.trim_start().starts_with('#'));
    let words = lines.flat_map(str::split_whitespace).map(|word| word.trim_end_matches('/'));
    let mut mirrors = words.filter(|word| word.starts_with("http") && word.ends_with("/debian"));
    mirrors.next().map(str::to_owned)
}

/// Unpacks a package into a folder.
pub(crate) fn unpack(package: &Path, into: &Path) -> anyhow::Result<()> {
    crate::must(Command::new("dpkg-deb").arg("--extract").arg(package).arg(into))
}

/// The version of a package.
pub(crate) fn version(package: &Path) -> anyhow::Result<String> {
    let text = crate::output(Command::new("dpkg-deb").arg("--field").arg(package).arg("Version"))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_machines_own() {
        let ours = "# deb http://old.example/debian x main\nTypes: deb\nURIs: http://mirror.example/debian/\nSuites: bookworm\n";
        assert_eq!(mirror_in(ours).as_deref(), Some("http://mirror.example/debian"));
        assert_eq!(
            mirror_in("deb https://a.example/debian bookworm main").as_deref(),
            Some("https://a.example/debian")
        );
        assert_eq!(mirror_in("deb http://security.example/debian-security bookworm main"), None);
        assert_eq!(mirror_in("deb http://archive.example/ubuntu noble main"), None);
    }
}
