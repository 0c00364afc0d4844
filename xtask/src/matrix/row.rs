//! What a guest reported, and whether that is as it has to be.

use std::collections::BTreeMap;

use super::kernel::{Driver, Line, known};

/// A kernel's row of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) line: &'static Line,
    /// Debian's version of the kernel; empty if it was not there.
    pub(crate) version: String,
    pub(crate) outcome: Outcome,
    /// What is not as it has to be.
    pub(crate) faults: Vec<String>,
    /// What is not, and is known not to be.
    pub(crate) known: Vec<String>,
    /// Checks that held.
    pub(crate) passed: usize,
}

/// What became of a kernel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It could not be tried.
    Skipped { reason: String },
    /// It did not get as far as to tell.
    Failed,
    /// Turnpike does not run on it, and said so.
    Refused { code: String, message: String },
    /// Turnpike runs on it.
    Serves(Serving),
}

/// What was seen where Turnpike runs.
#[derive(Debug, PartialEq, Eq, Default)]
pub(crate) struct Serving {
    /// Frames that ended alike in the kernel and on the host.
    pub(crate) frames_equal: u64,
    /// Tests of the life of policies that passed.
    pub(crate) lifecycle_tests: u64,
    pub(crate) programs: Vec<Program>,
    /// By the name of the driver.
    pub(crate) drivers: BTreeMap<&'static str, Cell>,
}

/// What a program costs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Program {
    pub(crate) name: String,
    /// After the verifier's rewriting.
    pub(crate) instructions: u64,
    /// Looked at by the verifier, all paths together.
    pub(crate) verified: u64,
    /// All subprograms together, an upper bound.
    pub(crate) stack_bytes: u64,
}

/// What a driver did.
#[derive(Debug, PartialEq, Eq, Default)]
pub(crate) struct Cell {
    /// Nothing if the driver does not run XDP programs.
    pub(crate) native: Option<Played>,
    /// With the modes that are chosen where native mode is not to be had at every port; nothing if that is the same.
    pub(crate) automatic: Option<Automatic>,
    pub(crate) generic: Option<Played>,
}

/// What came of modes that were chosen automatically.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Automatic {
    /// The call was played.
    Played(Played),
    /// It was not, as is known.
    Known,
}

/// Packets of the call in one mode, both directions together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Played {
    pub(crate) sent: u64,
    /// Refused by a meter that was made to.
    pub(crate) metered: u64,
    pub(crate) delivered: u64,
}

/// What one job wrote, and how it ended.
#[derive(Debug, Default)]
struct Job<'t> {
    lines: Vec<&'t str>,
    status: Option<u32>,
}

impl Job<'_> {
    /// The rest of the one line that starts so.
    fn after(&self, start: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| line.strip_prefix(start))
    }

    /// What it says of its failure: a panic with its message, or the last that it wrote.
    fn why(&self) -> String {
        let panic = self.lines.iter().position(|line| line.contains(" panicked at "));
        let lines = match panic {
            Some(at) => self.lines.iter().skip(at).take(4),
            None => self.lines.iter().skip(self.lines.len().saturating_sub(4)).take(4),
        };
        lines.copied().collect::<Vec<_>>().join("; ")
    }

    /// Counts of libtest's closing line.
    fn passed(&self) -> u64 {
        let result = self.after("test result: ok. ").and_then(|rest| rest.split_once(" passed"));
        result.and_then(|(count, _)| count.parse().ok()).unwrap_or(0)
    }
}

fn jobs(text: &str) -> BTreeMap<&str, Job<'_>> {
    let mut jobs: BTreeMap<&str, Job<'_>> = BTreeMap::new();
    let mut now = None;
    for line in text.lines().map(str::trim_end) {
        if let Some(name) = line.strip_prefix("begin ") {
            now = Some(name);
            jobs.insert(name, Job::default());
        } else if let Some((name, status)) = line.strip_prefix("end ").and_then(|rest| rest.rsplit_once(' '))
            && now == Some(name)
        {
            jobs.entry(name).or_default().status = status.parse().ok();
            now = None;
        } else if let Some(name) = now {
            jobs.entry(name).or_default().lines.push(line);
        }
    }
    jobs
}

impl Row {
    const fn new(line: &'static Line, version: String, outcome: Outcome) -> Self {
        Self { line, version, outcome, faults: Vec::new(), known: Vec::new(), passed: 0 }
    }

    pub(crate) const fn skipped(line: &'static Line, reason: String) -> Self {
        Self::new(line, String::new(), Outcome::Skipped { reason })
    }

    pub(crate) fn failed(line: &'static Line, fault: String) -> Self {
        Self { faults: vec![fault], ..Self::new(line, String::new(), Outcome::Failed) }
    }

    /// Reads a guest's report; `fault` is how the guest itself ended badly.
    pub(crate) fn read(
        line: &'static Line,
        version: String,
        drivers: &[&'static Driver],
        text: &str,
        fault: Option<String>,
    ) -> Self {
        let mut reader = Reader { jobs: jobs(text), faults: fault.into_iter().collect(), known: Vec::new(), passed: 0 };
        if !text.lines().any(|line| line.trim_end() == "done") {
            reader.faults.push("the guest did not come to its end".to_owned());
        }
        for line in text.lines().filter(|line| line.starts_with("skipped: ") || line.starts_with("no module ")) {
            reader.faults.push(format!("in the guest: {}", line.trim_end()));
        }
        let outcome = reader.outcome(line, drivers);
        reader.ended("sound", 0);
        Self { faults: reader.faults, known: reader.known, passed: reader.passed, ..Self::new(line, version, outcome) }
    }
}

struct Reader<'t> {
    jobs: BTreeMap<&'t str, Job<'t>>,
    faults: Vec<String>,
    known: Vec<String>,
    passed: usize,
}

impl Reader<'_> {
    fn outcome(&mut self, line: &Line, drivers: &[&'static Driver]) -> Outcome {
        self.ended("kernel", 0);
        let Some(said) = self.jobs.get("kernel").and_then(|job| job.after("matrix: kernel ")) else {
            self.faults.push("the test `kernel` does not say whether Turnpike runs here".to_owned());
            return Outcome::Failed;
        };
        let refusal = said.strip_prefix("refused ").and_then(|rest| rest.split_once(' '));
        let refusal = refusal.map(|(code, message)| (code.to_owned(), message.to_owned()));
        if refusal.is_none() != line.serves {
            let wanted = if line.serves { "to run" } else { "to be refused" };
            self.faults.push(format!("Turnpike was {wanted} here, and `kernel` says: {said}"));
        }
        let Some((code, message)) = refusal else { return Outcome::Serves(self.serving(line, drivers)) };
        self.refused_by_doctor();
        Outcome::Refused { code, message }
    }

    /// The status of a job; another than the wanted one is a fault.
    fn ended(&mut self, name: &str, wanted: u32) -> bool {
        let status = self.jobs.get(name).map(|job| job.status);
        match status {
            Some(Some(status)) if status == wanted => {
                self.passed += 1;
                return true;
            }
            Some(Some(status)) => {
                let why = self.jobs.get(name).map(Job::why).unwrap_or_default();
                self.faults.push(format!("`{name}` ended with {status}, not {wanted}: {why}"));
            }
            Some(None) => self.faults.push(format!("`{name}` did not end")),
            None => self.faults.push(format!("`{name}` did not run")),
        }
        false
    }

    /// `turnpike doctor` has to know too.
    fn refused_by_doctor(&mut self) {
        self.ended("doctor", 1);
        let text = self.jobs.get("doctor").map(|job| job.lines.join("\n")).unwrap_or_default();
        let report: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let findings = report["findings"].as_array().into_iter().flatten();
        if !findings.into_iter().any(|finding| finding["check"] == "kernel" && finding["level"] == "problem") {
            self.faults.push("`turnpike doctor` finds no fault with the kernel".to_owned());
        }
    }

    fn serving(&mut self, line: &Line, drivers: &[&'static Driver]) -> Serving {
        for job in ["doctor", "verifier", "differential", "lifecycle"] {
            self.ended(job, 0);
        }
        let none = Job::default();
        let serving = Serving {
            frames_equal: frames_equal(self.jobs.get("differential").unwrap_or(&none)),
            lifecycle_tests: self.jobs.get("lifecycle").unwrap_or(&none).passed(),
            programs: programs(self.jobs.get("verifier").unwrap_or(&none)),
            drivers: drivers.iter().map(|driver| (driver.name, self.cell(line, driver))).collect(),
        };
        if serving.frames_equal == 0 {
            self.faults.push("`differential` does not say how many frames were equal".to_owned());
        }
        if serving.lifecycle_tests == 0 {
            self.faults.push("`lifecycle` ran no test".to_owned());
        }
        let complete = |program: &Program| program.instructions > 0 && program.verified > 0;
        if serving.programs.is_empty() || !serving.programs.iter().all(complete) {
            self.faults.push("the verifier does not say what the programs cost".to_owned());
        }
        serving
    }

    fn cell(&mut self, line: &Line, driver: &Driver) -> Cell {
        let native = self.played(driver, "native", driver.native_on(line));
        let automatic = if driver.native_on(line) { None } else { self.automatic(line, driver) };
        let generic = self.played(driver, "generic", true);
        Cell { native, automatic, generic }
    }

    fn automatic(&mut self, line: &Line, driver: &Driver) -> Option<Automatic> {
        let Some(known) = known(line, driver, "auto") else {
            return self.played(driver, "auto", true).map(Automatic::Played);
        };
        let name = format!("{}-auto", driver.name);
        let seen = |job: &Job<'_>| job.status != Some(0) && job.lines.iter().any(|line| line.contains(known.says));
        if self.jobs.get(name.as_str()).is_some_and(seen) {
            self.known.push(format!("`{name}`: {}", known.why));
            return Some(Automatic::Known);
        }
        self.faults.push(format!("`{name}` is known to fail, and did not as it is known to: {}", known.why));
        None
    }

    /// The call over a driver's cards in one mode.
    fn played(&mut self, driver: &Driver, mode: &str, wanted: bool) -> Option<Played> {
        let job = &format!("{}-{mode}", driver.name);
        if !self.ended(job, 0) {
            return None;
        }
        let said = self.jobs.get(job.as_str()).and_then(|job| job.after(&format!("matrix: wire {mode} ")));
        let said = said.unwrap_or_default().to_owned();
        let played = played(&said);
        match played {
            Some(Played { sent, metered, delivered }) if sent == 0 || sent != metered + delivered => {
                self.faults.push(format!("`{job}` lost packets: {said}"));
            }
            Some(_) if wanted => {}
            Some(_) => self.faults.push(format!("`{job}` was to be refused by the driver, and it played")),
            None if !wanted && said.starts_with("refused attach_failed ") => {}
            None => self.faults.push(format!("`{job}` did not play: {said}")),
        }
        played
    }
}

/// `sent N metered N delivered N`
fn played(said: &str) -> Option<Played> {
    let words: Vec<_> = said.split(' ').collect();
    let ["sent", sent, "metered", metered, "delivered", delivered] = words[..] else { return None };
    Some(Played { sent: sent.parse().ok()?, metered: metered.parse().ok()?, delivered: delivered.parse().ok()? })
}

/// The sum of the test's table of reasons: direction, reason, frames in the kernel, frames on the host.
fn frames_equal(job: &Job<'_>) -> u64 {
    let rows = job.lines.iter().filter_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let ["out" | "in", _, kernel, host] = words[..] else { return None };
        (kernel == host).then(|| kernel.parse::<u64>().ok())?
    });
    rows.sum()
}

/// From bpftool's log and its list of programs.
fn programs(job: &Job<'_>) -> Vec<Program> {
    let mut programs: BTreeMap<String, Program> = BTreeMap::new();
    let mut now = String::new();
    for line in &job.lines {
        if let Some((name, _)) = line.strip_prefix("libbpf: prog '").and_then(|rest| rest.split_once('\'')) {
            now = name.to_owned();
        } else if let Some(depths) = line.strip_prefix("stack depth ") {
            let depths = depths.split(" max ").next().unwrap_or_default();
            let bytes = depths.split('+').filter_map(|depth| depth.trim().parse::<u64>().ok()).sum();
            programs.entry(now.clone()).or_default().stack_bytes = bytes;
        } else if let Some((count, _)) = line.strip_prefix("processed ").and_then(|rest| rest.split_once(" insns")) {
            programs.entry(now.clone()).or_default().verified = count.parse().unwrap_or(0);
        } else if let Some((name, bytes)) =
            line.strip_prefix("translated ").and_then(|rest| rest.split_once(" xlated "))
        {
            programs.entry(name.to_owned()).or_default().instructions = bytes.parse::<u64>().unwrap_or(0) / 8;
        }
    }
    programs.into_iter().map(|(name, program)| Program { name, ..program }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::kernel::{DRIVERS, LINES};
    use super::*;

    const REFUSED: &str = "release 5.10.0\r
begin kernel\r
matrix: kernel refused kernel_too_old kernel 5.10.0 is too old: Turnpike needs 5.15\r
test result: ok. 1 passed; 0 failed\r
end kernel 0\r
begin doctor\r
{\"findings\":[{\"check\":\"kernel\",\"level\":\"problem\"}],\r
\"ok\":false}\r
end doctor 1\r
begin sound\r
end sound 0\r
done\r
";

    const SERVES: &str = "release 6.1.0
begin kernel
matrix: kernel serves 6.1.0
end kernel 0
begin doctor
end doctor 0
begin verifier
libbpf: prog 'turnpike_in': -- BEGIN PROG LOAD LOG --
stack depth 200+16 max 224
processed 4446 insns (limit 1000000) max_states_per_insn 4
translated turnpike_in xlated 7144
end verifier 0
begin differential
seed 0x7a, 120000 frames
 out tagged                     61000   61000
  in restored                    1000    1000
test result: ok. 2 passed; 0 failed
end differential 0
begin lifecycle
test result: ok. 17 passed; 0 failed
end lifecycle 0
begin vmxnet3-native
matrix: wire native refused attach_failed cannot attach to lan
end vmxnet3-native 0
begin vmxnet3-auto
assertion failed: packets were lost
end vmxnet3-auto 101
begin vmxnet3-generic
matrix: wire generic sent 624 metered 18 delivered 606
end vmxnet3-generic 0
begin sound
end sound 0
done
";

    fn read(line: &str, text: &str) -> Row {
        let line = LINES.iter().find(|one| one.name == line).unwrap();
        Row::read(line, "1".to_owned(), &[&DRIVERS[2]], text, None)
    }

    fn faulty(line: &str, text: &str, fault: &str) {
        let row = read(line, text);
        assert!(row.faults.iter().any(|found| found.contains(fault)), "{fault}: {:?}", row.faults);
    }

    #[test]
    fn a_kernel_that_is_refused_says_so_twice() {
        let row = read("5.10", REFUSED);
        assert_eq!(row.faults, [""; 0]);
        let Outcome::Refused { code, message } = row.outcome else { panic!("refused") };
        assert_eq!((code.as_str(), message.contains("too old")), ("kernel_too_old", true));
        faulty("6.1", REFUSED, "was to run here");
        faulty("5.10", &REFUSED.replace("end kernel 0", "end kernel 101"), "`kernel` ended with 101");
        faulty("5.10", &REFUSED.replace("problem", "ok"), "finds no fault with the kernel");
        faulty("5.10", &REFUSED.replace("done\r\n", ""), "did not come to its end");
        faulty("5.10", &REFUSED.replace("matrix: kernel", "matrix"), "does not say whether");
    }

    #[test]
    fn a_kernel_that_serves_shows_all_that_was_looked_at() {
        let row = read("6.1", SERVES);
        assert_eq!(row.faults, [""; 0]);
        assert_eq!((row.passed, row.known.len()), (8, 1));
        let Outcome::Serves(serving) = &row.outcome else { panic!("serves") };
        assert_eq!((serving.frames_equal, serving.lifecycle_tests), (62_000, 17));
        let program = Program { name: "turnpike_in".to_owned(), instructions: 893, verified: 4_446, stack_bytes: 216 };
        assert_eq!(serving.programs, [program]);
        let played = Played { sent: 624, metered: 18, delivered: 606 };
        assert_eq!(
            serving.drivers["vmxnet3"],
            Cell { native: None, automatic: Some(Automatic::Known), generic: Some(played) }
        );
    }

    #[test]
    fn whatever_is_amiss_is_a_fault() {
        faulty("5.10", SERVES, "was to be refused here");
        faulty("6.1", &SERVES.replace("delivered 606", "delivered 605"), "lost packets");
        faulty("6.1", &SERVES.replace("refused attach_failed", "sent 1 metered 0 delivered 1 "), "did not play");
        faulty("6.1", &SERVES.replace("refused attach_failed", "refused load_failed"), "did not play");
        faulty("6.12", SERVES, "`vmxnet3-native` did not play");
        faulty("6.1", &SERVES.replace("matrix: wire generic", "nothing"), "`vmxnet3-generic` did not play");
        faulty("6.1", &SERVES.replace("61000\n", "61001\n").replace("1000    1000", "1000    1001"), "how many frames");
        faulty("6.1", &SERVES.replace("end vmxnet3-auto 101", "end vmxnet3-auto 0"), "is known to fail");
        faulty("6.1", &SERVES.replace("packets were lost", "out of memory"), "is known to fail");
        faulty("6.1", &SERVES.replace("end sound 0", "kernel BUG at x.c:1\nend sound 1"), "`sound` ended with 1");
        faulty("6.1", &SERVES.replace("ok. 17 passed", "ok. 0 passed"), "ran no test");
        faulty("6.1", &SERVES.replace("processed", "thought of"), "what the programs cost");
        faulty("6.1", &SERVES.replace("end lifecycle 0", ""), "`lifecycle` did not end");
        let panic = "thread 't' panicked at wire.rs:1:\nassertion failed: it is\nend vmxnet3-generic 101";
        faulty(
            "6.1",
            &SERVES.replace("end vmxnet3-generic 0", panic),
            "101, not 0: thread 't' panicked at wire.rs:1:; as",
        );
        faulty("6.1", &SERVES.replace("end verifier 0", "end verifier 2"), "2, not 0: libbpf: prog 'turnpike_in'");
        faulty("6.1", &SERVES.replace("begin lifecycle", "skipped: no root"), "in the guest: skipped: no root");
        let line = &LINES[1];
        let row = Row::read(line, String::new(), &[], SERVES, Some("still running".to_owned()));
        assert_eq!(row.faults, ["still running"]);
    }
}
