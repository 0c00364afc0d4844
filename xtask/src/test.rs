//! `cargo xtask test`: everything that must hold, cheap things first, with one closing line.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context as _;
use serde_json::Value;

use crate::{Workspace, check, find_program, is_root, matrix, setup, succeeds};

/// A test program that takes longer hangs.
const BINARY_SECONDS_MAX: u32 = 900;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    pub(crate) fn good(self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// A run as far as it went.
#[derive(Debug, Default)]
struct Run {
    tally: Tally,
    failed: Vec<String>,
}

impl Run {
    /// Checks are not tests: they count only when they fail.
    fn check(&mut self, name: &str, holds: bool) {
        if !holds {
            self.tally.failed += 1;
            self.failed.push(name.to_owned());
        }
    }

    fn tests(&mut self, name: &str, tally: Tally) {
        self.tally.add(tally);
        if tally.failed > 0 {
            self.failed.push(format!("tests of {name}"));
        }
    }
}

/// How much is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Neither integration tests nor documentation.
    Fast,
    /// All that this machine's kernel can show.
    Full,
    /// Other kernels too.
    Ci,
}

/// Runs checks and tests.
pub(crate) fn run(workspace: &Workspace, extent: Extent) -> anyhow::Result<ExitCode> {
    let fast = extent == Extent::Fast;
    heading("setup");
    setup::run(workspace)?;
    let mut run = Run::default();

    heading("format");
    run.check("format", succeeds(&mut cargo(workspace, "fmt --all --check")?)?);
    heading("rules");
    run.check("import rules", check::report("import rules", &check::imports(workspace)?));
    run.check("source rules", check::report("source rules", &check::sources(workspace)?));
    heading("clippy");
    let clippy = "clippy --quiet --workspace --exclude turnpike-ebpf-programs --all-targets -- -D warnings";
    run.check("clippy", succeeds(&mut cargo(workspace, clippy)?)?);
    if !fast {
        heading("documentation");
        let doc = "doc --quiet --workspace --exclude turnpike-ebpf-programs --no-deps";
        run.check("documentation", succeeds(cargo(workspace, doc)?.env("RUSTDOCFLAGS", "-D warnings"))?);
    }
    heading("tests");
    tests(workspace, fast, &mut run)?;
    if extent == Extent::Ci {
        heading("kernels and drivers");
        run.tests("kernels and drivers", matrix::check(workspace, &matrix::Options::all())?);
    }

    println!();
    if !run.failed.is_empty() {
        println!("failed: {}", run.failed.join(", "));
    }
    println!("{}", run.tally);
    Ok(if run.tally.good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn heading(text: &str) {
    println!("== {text}");
}

/// The eBPF crate has its own target and core library; the engine's build script builds it.
fn cargo(workspace: &Workspace, words: &str) -> anyhow::Result<Command> {
    let mut command = workspace.cargo()?;
    command.args(words.split_whitespace());
    Ok(command)
}

fn tests(workspace: &Workspace, fast: bool, run: &mut Run) -> anyhow::Result<()> {
    let Some(binaries) = build(workspace, fast)? else {
        run.check("building the tests", false);
        return Ok(());
    };
    let turnpike = workspace.target().join("debug/turnpike");
    if !fast {
        // The end-to-end tests start the node as its users do.
        let node = succeeds(&mut cargo(workspace, "build --quiet -p turnpike-node")?)?;
        run.check("building turnpike", node);
    }
    let mut to_root = Root::Unknown;
    for binary in &binaries {
        println!("-- {} {}", binary.package, binary.name);
        let mut outcome = binary.run(&turnpike, &[])?;
        if outcome.needs_root
            && !is_root()
            && let Some(prefix) = to_root.prefix()
        {
            println!("-- {} {} again, as root", binary.package, binary.name);
            outcome = binary.run(&turnpike, &prefix)?;
        }
        run.tests(&format!("{} {}", binary.package, binary.name), outcome.tally);
    }
    if !fast {
        println!("-- documentation");
        let doc = "test --quiet --workspace --exclude turnpike-ebpf-programs --doc -- --show-output";
        run.tests("documentation", collect(&mut cargo(workspace, doc)?)?.tally);
    }
    Ok(())
}

/// How to become root, asked for once and only when something needs it.
enum Root {
    Unknown,
    Prefix(Vec<String>),
    Never,
}

impl Root {
    fn prefix(&mut self) -> Option<Vec<String>> {
        if matches!(self, Self::Unknown) {
            *self = Self::find();
        }
        match self {
            Self::Prefix(prefix) => Some(prefix.clone()),
            Self::Unknown | Self::Never => None,
        }
    }

    fn find() -> Self {
        if find_program("sudo").is_none() {
            return Self::Never;
        }
        let quiet = Command::new("sudo").args(["-n", "true"]).stderr(Stdio::null()).status();
        if quiet.is_ok_and(|status| status.success()) {
            return Self::Prefix(vec!["sudo".to_owned(), "-n".to_owned()]);
        }
        if std::io::stdin().is_terminal() {
            println!("sudo: tests of the kernel and of network namespaces need root");
            let asked = Command::new("sudo").arg("true").status();
            if asked.is_ok_and(|status| status.success()) {
                return Self::Prefix(vec!["sudo".to_owned()]);
            }
        }
        Self::Never
    }
}

struct TestBinary {
    package: String,
    name: String,
    file: PathBuf,
    dir: PathBuf,
    integration: bool,
}

impl TestBinary {
    fn run(&self, turnpike: &Path, prefix: &[String]) -> anyhow::Result<Outcome> {
        let limit = BINARY_SECONDS_MAX.to_string();
        let mut words: Vec<&OsStr> = prefix.iter().map(OsStr::new).collect();
        words.extend(["timeout", "--kill-after=10", &limit, "env"].map(OsStr::new));
        let mut set_turnpike = std::ffi::OsString::from("TURNPIKE_BIN=");
        set_turnpike.push(turnpike);
        words.extend([&set_turnpike, self.file.as_os_str(), OsStr::new("--show-output")]);
        let Some((program, args)) = words.split_first() else { anyhow::bail!("nothing to run") };
        collect(Command::new(program).args(args).current_dir(&self.dir))
    }
}

/// Builds the test programs, cheap ones first; nothing if they do not compile.
fn build(workspace: &Workspace, fast: bool) -> anyhow::Result<Option<Vec<TestBinary>>> {
    let words = "test --quiet --workspace --exclude turnpike-ebpf-programs --no-run";
    let mut command = cargo(workspace, words)?;
    command.arg("--message-format=json-render-diagnostics");
    if fast {
        command.args(["--lib", "--bins"]);
    }
    let output = command.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8(output.stdout).context("cargo did not write text")?;
    let mut binaries: Vec<_> = text.lines().filter_map(test_binary).collect();
    binaries.sort_by_key(|binary| (binary.integration, binary.package == "demo", binary.name.clone()));
    Ok(Some(binaries))
}

fn test_binary(line: &str) -> Option<TestBinary> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let dir = Path::new(message["manifest_path"].as_str()?).parent()?.to_path_buf();
    Some(TestBinary {
        package: dir.file_name()?.to_string_lossy().into_owned(),
        name: message["target"]["name"].as_str()?.to_owned(),
        file: PathBuf::from(message["executable"].as_str()?),
        dir,
        integration: message["target"]["kind"][0] == "test",
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Outcome {
    tally: Tally,
    needs_root: bool,
}

/// Runs a test program, shows what it says as it says it, and counts.
fn collect(command: &mut Command) -> anyhow::Result<Outcome> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let mut lines = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let mut shown = true;
        for line in BufReader::new(stdout).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            // What passed tests wrote is only read for why they skipped.
            shown = (shown || line == "failures:" || line.starts_with("test result: ")) && line != "successes:";
            if (shown && !line.is_empty() && line != "running 0 tests") || line.starts_with("skipped: ") {
                println!("{line}");
            }
            lines.push(line);
        }
    }
    let status = child.wait()?;
    let mut outcome = count(&lines);
    if !status.success() && outcome.tally.failed == 0 {
        println!("it ended with {status} before it could say what failed");
        outcome.tally.failed = 1;
    }
    Ok(outcome)
}

/// Counts from libtest's output with `--show-output`. A test that cannot run says `skipped: <reason>` and passes; it
/// counts as skipped only. A reason with the word root means that it could run as root.
fn count(lines: &[String]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut test = None;
    let mut skipped = BTreeSet::new();
    for line in lines {
        if let Some(name) = line.strip_prefix("---- ").and_then(|line| line.strip_suffix(" stdout ----")) {
            test = Some(name);
        } else if let (Some(name), Some(reason)) = (test, line.strip_prefix("skipped: ")) {
            skipped.insert(name);
            outcome.needs_root |= reason.split(|c: char| !c.is_alphanumeric()).any(|word| word == "root");
        } else if let Some(result) = line.strip_prefix("test result: ") {
            let number = |what: &str| -> usize {
                let words: Vec<_> = result.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect();
                words.windows(2).find(|pair| pair[1] == what).and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
            };
            outcome.tally.passed += number("passed").saturating_sub(skipped.len());
            outcome.tally.failed += number("failed");
            outcome.tally.skipped += number("ignored") + skipped.len();
            skipped.clear();
            test = None;
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn skipped_tests_are_not_counted_as_passed() {
        let text = "
running 4 tests
test a ... ok
test b ... ok

successes:

---- a stdout ----
skipped: needs root for network namespaces
skipped: again

---- b stdout ----
all is well

successes:
    a
    b

test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
";
        let outcome = count(&lines(text));
        assert_eq!(outcome.tally, Tally { passed: 2, failed: 0, skipped: 2 });
        assert!(outcome.needs_root);
    }

    #[test]
    fn several_programs_add_up() {
        let text = "
---- a stdout ----
skipped: no recording
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";
        let outcome = count(&lines(text));
        assert_eq!(outcome.tally, Tally { passed: 3, failed: 2, skipped: 1 });
        assert!(!outcome.needs_root);
    }

    #[test]
    fn nothing_passed_is_not_good() {
        assert!(!Tally { passed: 0, failed: 0, skipped: 3 }.good());
        assert!(!Tally { passed: 9, failed: 1, skipped: 0 }.good());
        assert!(Tally { passed: 1, failed: 0, skipped: 0 }.good());
    }

    #[test]
    fn a_program_that_dies_has_failed() {
        let outcome = collect(&mut Command::new("false")).unwrap();
        assert_eq!(outcome.tally, Tally { passed: 0, failed: 1, skipped: 0 });
    }

    #[test]
    fn only_test_programs_are_run() {
        let line = r#"{"reason":"compiler-artifact","manifest_path":"/w/a/Cargo.toml","target":{"name":"t"},"profile":{"test":true},"executable":"/w/target/t-1"}"#;
        let binary = test_binary(line).unwrap();
        assert_eq!((binary.package.as_str(), binary.dir.as_path()), ("a", Path::new("/w/a")));
        assert!(test_binary(&line.replace("true", "false")).is_none());
        assert!(test_binary("not json").is_none());
    }
}
