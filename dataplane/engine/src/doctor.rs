//! Looks at a host without changing anything, and says what keeps the data plane from working there, or from working well.
//!
//! `facts` gathers; every check is a function from facts to findings, and is tested with facts made up.

mod driver;
mod ethtool;
mod facts;
mod host;
mod network;
mod port;
#[cfg(test)]
mod sample;

use facts::Facts;

use crate::config::EngineConfig;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but less well than it could, or could not be looked at.
    Warning,
    /// Something that the configuration promises does not work.
    Problem,
}

impl Level {
    /// In snake case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// What was looked at, and what came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at; stable, in snake case.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was seen.
    pub found: String,
    /// Why it matters.
    pub why: String,
    /// The command that puts it right. What only the reader knows stands between `<` and `>`.
    pub fix: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: String) -> Self {
        Self { check, level: Level::Ok, found, why: String::new(), fix: None }
    }

    fn warning(check: &'static str, found: String, why: &str) -> Self {
        Self { check, level: Level::Warning, found, why: why.to_owned(), fix: None }
    }

    fn problem(check: &'static str, found: String, why: &str) -> Self {
        Self { level: Level::Problem, ..Self::warning(check, found, why) }
    }

    fn unseen(check: &'static str, what: &str, reason: &str) -> Self {
        Self::warning(
            check,
            format!("{what} could not be looked at: {reason}"),
            "it may be wrong without being seen here",
        )
    }

    fn because(self, why: &str) -> Self {
        Self { why: why.to_owned(), ..self }
    }

    fn fix(self, command: String) -> Self {
        Self { fix: Some(command), ..self }
    }
}

/// How much of a configuration is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Only the host: neither interfaces nor addresses are given.
    Host,
    /// The host and the two interfaces.
    Interfaces,
    /// All of it.
    All,
}

/// Looks at this host. Never fails: what cannot be seen is a finding too.
#[must_use]
pub fn examine(config: &EngineConfig, scope: Scope) -> Vec<Finding> {
    if let Err(error) = config.check() {
        let why = "`turnpike serve` refuses it, and nothing else is worth looking at before";
        return vec![Finding::problem("config", error.to_string(), why)];
    }
    findings(&Facts::gather(config, scope), config)
}

fn findings(facts: &Facts, config: &EngineConfig) -> Vec<Finding> {
    let mut findings = host::findings(&facts.host);
    for port in &facts.ports {
        findings.extend(port::findings(port, config, facts.host.kernel, facts.host.cpus_online));
    }
    findings.extend(port::tag_room(&facts.ports));
    if let Some(network) = &facts.network {
        findings.extend(network::findings(network, config));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_is_refused_is_all_there_is_to_say() {
        let findings = examine(&EngineConfig { flows_max: u32::MAX, ..sample::config() }, Scope::All);
        let [finding] = &findings[..] else { panic!("{findings:#?}") };
        sample::bad(finding, Level::Problem, "flows_max");
    }

    #[test]
    fn every_check_is_documented() {
        let document = include_str!("../../../docs/doctor.md");
        let sources =
            [include_str!("doctor/host.rs"), include_str!("doctor/port.rs"), include_str!("doctor/network.rs")];
        let named = sources.iter().flat_map(|source| source.lines()).filter_map(|line| {
            let line = line.trim();
            line.strip_prefix("const CHECK: &str = \"").or_else(|| line.strip_prefix("const LOAD: &str = \""))
        });
        for name in named.filter_map(|rest| rest.strip_suffix("\";")) {
            assert!(document.contains(&format!("| `{name}` |")), "{name}");
        }
    }
}
