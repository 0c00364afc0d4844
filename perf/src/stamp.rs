//! What a figure depends on beside the code.

use std::fs;

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
    fn the_model_of_the_first_cpu_is_taken() {
        let text = "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\n";
        assert_eq!(cpu_model(text), "AMD EPYC (family 26, model 2)");
        assert_eq!(cpu_model("processor: 0"), "unknown");
    }
}
