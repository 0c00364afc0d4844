//! What a figure depends on beside the code.

use std::fs;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// The host at the time of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Stamp {
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) mitigations: String,
    pub(crate) driver: &'static str,
    pub(crate) xdp_mode: &'static str,
    pub(crate) commit: String,
    pub(crate) load: f64,
}

impl Stamp {
    /// Of this host, now.
    pub(crate) fn now(driver: &'static str, xdp_mode: &'static str, commit: &str) -> Self {
        Self {
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu: cpu_model(&read("/proc/cpuinfo")),
            mitigations: mitigations(),
            driver,
            xdp_mode,
            commit: commit.to_owned(),
            load: load(),
        }
    }
}

/// Load average of the last minute.
pub(crate) fn load() -> f64 {
    read("/proc/loadavg").split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(f64::NAN)
}

/// How busy the host's CPUs have been, to tell other work from the bench's own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Busy {
    host_s: f64,
    own_s: f64,
    at: Instant,
}

impl Busy {
    /// So far.
    pub(crate) fn now() -> Self {
        let own = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from);
        Self { host_s: busy_s(&read("/proc/stat")), own_s: own.as_secs_f64(), at: Instant::now() }
    }

    /// CPUs that other work has taken since, on average.
    pub(crate) fn others_since(self) -> f64 {
        let now = Self::now();
        let (host_s, own_s) = (now.host_s - self.host_s, now.own_s - self.own_s);
        ((host_s - own_s) / (now.at - self.at).as_secs_f64()).max(0.0)
    }
}

/// Seconds in which CPUs were not idle: all columns of the first line but idle and waiting, in hundredths.
fn busy_s(stat: &str) -> f64 {
    let columns = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
    let busy = columns.enumerate().filter(|(column, _)| !matches!(column, 3 | 4));
    busy.filter_map(|(_, ticks)| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn cpu_model(cpuinfo: &str) -> String {
    let value = |key: &str| {
        let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key))?;
        line.split_once(':').map(|(_, value)| value.trim())
    };
    match (value("model name"), value("cpu family"), value("model")) {
        (Some(name), Some(family), Some(model)) => format!("{name} (family {family}, model {model})"),
        (Some(name), _, _) => name.to_owned(),
        (None, _, _) => "unknown".to_owned(),
    }
}

/// What the kernel does about its processor's faults, without those that it does not have.
fn mitigations() -> String {
    let Ok(entries) = fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else { return "unknown".to_owned() };
    let mut found: Vec<_> = entries
        .filter_map(Result::ok)
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), read(&entry.path().to_string_lossy())))
        .filter(|(_, state)| state != "Not affected")
        .map(|(name, state)| format!("{name}: {state}"))
        .collect();
    found.sort();
    found.join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_cpus_are_not_busy() {
        let text = "cpu  100 200 300 9999 9999 50 25 25 77 77\ncpu0 1 1 1 1\n";
        assert!((busy_s(text) - 7.0).abs() < 1e-9);
        assert!(busy_s("").abs() < 1e-9);
    }

    #[test]
    fn the_model_of_the_first_cpu_is_taken() {
        let text = "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\n";
        assert_eq!(cpu_model(text), "AMD EPYC (family 26, model 2)");
        assert_eq!(cpu_model("processor: 0"), "unknown");
    }
}
