//! What a guest reported, and whether that is as it has to be.

use std::collections::BTreeMap;

use super::kernel::{Driver, Line};

/// A kernel's row of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) line: &'static Line,
    /// Debian's version of the kernel; empty if it was not there.
    pub(crate) version: String,
    pub(crate) outcome: Outcome,
    /// What is not as it has to be.
    pub(crate) faults: Vec<String>,
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
    /// All functions together, an upper bound.
    pub(crate) stack_bytes: u64,
}

/// What a driver did.
#[derive(Debug, PartialEq, Eq, Default)]
pub(crate) struct Cell {
    /// Nothing if the driver does not run XDP programs.
    pub(crate) native: Option<Played>,
    /// With the mode that is chosen where native mode is not to be had at every port; nothing if that is the same.
    pub(crate) automatic: Option<Played>,
    pub(crate) generic: Option<Played>,
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
        let cut = |line: &&str| line.chars().take(WHY_CHARS_MAX).collect::<String>();
        lines.map(cut).collect::<Vec<_>>().join("; ")
    }
}

/// Of a line that says why: tests that compare packets print them.
const WHY_CHARS_MAX: usize = 200;

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
        Self { line, version, outcome, faults: Vec::new(), passed: 0 }
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
        let mut reader = Reader { jobs: jobs(text), faults: fault.into_iter().collect(), passed: 0 };
        if !text.lines().any(|line| line.trim_end() == "done") {
            reader.faults.push("the guest did not come to its end".to_owned());
        }
        for line in text.lines().filter(|line| line.starts_with("skipped: ") || line.starts_with("no module ")) {
            reader.faults.push(format!("in the guest: {}", line.trim_end()));
        }
        let outcome = reader.outcome(line, drivers);
        reader.ended("sound", 0);
        Self { faults: reader.faults, passed: reader.passed, ..Self::new(line, version, outcome) }
    }
}

struct Reader<'t> {
    jobs: BTreeMap<&'t str, Job<'t>>,
    faults: Vec<String>,
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
        for job in ["doctor", "verifier", "differential", "lifecycle", "vlans"] {
            self.ended(job, 0);
        }
        let none = Job::default();
        let serving = Serving {
            frames_equal: frames_equal(self.jobs.get("differential").unwrap_or(&none)),
            programs: self.programs(),
            drivers: drivers.iter().map(|driver| (driver.name, self.cell(line, driver))).collect(),
        };
        if serving.frames_equal == 0 {
            self.faults.push("`differential` does not say how many frames were equal".to_owned());
        }
        let complete = |program: &Program| program.instructions > 0 && program.verified > 0;
        if serving.programs.is_empty() || !serving.programs.iter().all(complete) {
            self.faults.push(format!("it is not known what every program costs: {:?}", serving.programs));
        }
        serving
    }

    /// What the engine's programs cost: their names and the verifier's work from `kernel`, the rest from `verifier`.
    fn programs(&self) -> Vec<Program> {
        let lines = |name: &str| self.jobs.get(name).map(|job| job.lines.as_slice()).unwrap_or_default();
        let mut programs: BTreeMap<String, Program> = BTreeMap::new();
        for line in lines("kernel") {
            if let ["matrix:", "program", name, "verified", count] = words(line)[..] {
                programs.entry(name.to_owned()).or_default().verified = count.parse().unwrap_or(0);
            }
        }
        for line in lines("verifier") {
            if let ["program", name, "xlated", bytes, "stack", depths] = words(line)[..]
                && let Some(program) = programs.get_mut(name)
            {
                program.instructions = bytes.parse::<u64>().unwrap_or(0) / 8;
                program.stack_bytes = depths.split('+').filter_map(|depth| depth.parse::<u64>().ok()).sum();
            }
        }
        programs.into_iter().map(|(name, program)| Program { name, ..program }).collect()
    }

    fn cell(&mut self, line: &Line, driver: &Driver) -> Cell {
        let native = self.played(driver, "native", driver.native_on(line));
        let automatic = if driver.native_on(line) { None } else { self.played(driver, "auto", true) };
        let generic = self.played(driver, "generic", true);
        Cell { native, automatic, generic }
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
    let ["sent", sent, "metered", metered, "delivered", delivered] = words(said)[..] else { return None };
    Some(Played { sent: sent.parse().ok()?, metered: metered.parse().ok()?, delivered: delivered.parse().ok()? })
}

/// The sum of the test's table of reasons: direction, reason, frames in the kernel, frames on the host.
fn frames_equal(job: &Job<'_>) -> u64 {
    let rows = job.lines.iter().filter_map(|line| {
        let ["out" | "in", _, kernel, host] = words(line)[..] else { return None };
        (kernel == host).then(|| kernel.parse::<u64>().ok())?
    });
    rows.sum()
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
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
matrix: program turnpike_in verified 4446
matrix: kernel serves 6.1.0
end kernel 0
begin doctor
end doctor 0
begin verifier
program turnpike_in xlated 7144 stack 200+16
program turnpike_pass xlated 16 stack 0
end verifier 0
begin differential
seed 0x7a, 120000 frames
 out tagged                     61000   61000
  in restored                    1000    1000
test result: ok. 2 passed; 0 failed
end differential 0
begin lifecycle
test result: ok. 1 passed; 0 failed
end lifecycle 0
begin vlans
test result: ok. 1 passed; 0 failed
end vlans 0
begin vmxnet3-native
matrix: wire native refused attach_failed cannot attach to lan
end vmxnet3-native 0
begin vmxnet3-auto
matrix: wire auto sent 624 metered 18 delivered 606
end vmxnet3-auto 0
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
        assert_eq!(row.passed, 10);
        let Outcome::Serves(serving) = &row.outcome else { panic!("serves") };
        assert_eq!(serving.frames_equal, 62_000);
        let program = Program { name: "turnpike_in".to_owned(), instructions: 893, verified: 4_446, stack_bytes: 216 };
        assert_eq!(serving.programs, [program]);
        let played = Played { sent: 624, metered: 18, delivered: 606 };
        assert_eq!(serving.drivers["vmxnet3"], Cell { native: None, automatic: Some(played), generic: Some(played) });
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
        faulty("6.1", &SERVES.replace("wire auto sent", "nothing"), "`vmxnet3-auto` did not play");
        faulty("6.1", &SERVES.replace("end sound 0", "kernel BUG at x.c:1\nend sound 1"), "`sound` ended with 1");
        faulty("6.1", &SERVES.replace("turnpike_in verified", "turnpike_on verified"), "what every program costs");
        faulty("6.1", &SERVES.replace("xlated 7144", "xlated 7"), "what every program costs");
        faulty("6.1", &SERVES.replace("end lifecycle 0", ""), "`lifecycle` did not end");
        let panic = "thread 't' panicked at wire.rs:1:\nassertion failed: it is\nend vmxnet3-generic 101";
        faulty(
            "6.1",
            &SERVES.replace("end vmxnet3-generic 0", panic),
            "101, not 0: thread 't' panicked at wire.rs:1:; as",
        );
        faulty("6.1", &SERVES.replace("end verifier 0", "end verifier 2"), "2, not 0: program turnpike_in xlated");
        faulty("6.1", &SERVES.replace("begin lifecycle", "skipped: no root"), "in the guest: skipped: no root");
        let line = &LINES[1];
        let row = Row::read(line, String::new(), &[], SERVES, Some("still running".to_owned()));
        assert_eq!(row.faults, ["still running"]);
    }
}
