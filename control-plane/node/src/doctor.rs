//! `turnpike doctor`: what keeps this host from working, or from working well, and the commands that put it right.

#[cfg(feature = "engine")]
use std::fmt::Write as _;
#[cfg(feature = "engine")]
use std::path::Path;
use std::path::PathBuf;

use clap::Args;
#[cfg(feature = "engine")]
use serde::Serialize;
#[cfg(feature = "engine")]
use turnpike_engine::doctor::{Finding, Level, Scope, examine};

use crate::client::Failure;
#[cfg(feature = "engine")]
use crate::config::{Config, ConfigError};

/// `turnpike doctor`
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The configuration that is to work here, TOML. Without it only the host and the interfaces named are looked at.
    #[arg(long, conflicts_with_all = ["lan", "wan"])]
    config: Option<PathBuf>,
    /// Interface towards the site.
    #[arg(long, requires = "wan")]
    lan: Option<String>,
    /// Interface towards the peers.
    #[arg(long, requires = "lan")]
    wan: Option<String>,
}

/// What is printed, and whether there was no problem.
pub(crate) struct Diagnosis {
    pub(crate) text: String,
    pub(crate) ok: bool,
}

#[cfg(not(feature = "engine"))]
impl Doctor {
    pub(crate) fn run(&self, _: bool) -> Result<Diagnosis, Failure> {
        Err(Failure::Failed(crate::detach::WITHOUT_ENGINE.to_owned()))
    }
}

#[cfg(feature = "engine")]
impl Doctor {
    pub(crate) fn run(&self, json: bool) -> Result<Diagnosis, Failure> {
        let (config, scope) = match (&self.config, &self.lan, &self.wan) {
            (Some(path), _, _) => (Config::load(path), Scope::All),
            (None, Some(lan), Some(wan)) => (defaults(lan, wan), Scope::Interfaces),
            _ => (defaults("lan", "wan"), Scope::Host),
        };
        let config = config.map_err(|error| Failure::Usage(error.to_string()))?;
        let mut findings = examine(&crate::engine::engine_config(&config), scope);
        for fix in findings.iter_mut().filter_map(|finding| finding.fix.as_mut()) {
            self.complete(fix);
        }
        let ok = findings.iter().all(|finding| finding.level != Level::Problem);
        let text = if json { as_json(&findings, ok)? } else { as_text(&findings) };
        Ok(Diagnosis { text, ok })
    }

    /// The engine knows neither the file nor how this command was called.
    fn complete(&self, fix: &mut String) {
        let file = self.config.as_ref().map(|path| path.display().to_string());
        if fix.ends_with("turnpike doctor") {
            match (&file, &self.lan, &self.wan) {
                (Some(file), _, _) => *fix += &format!(" --config {file}"),
                (None, Some(lan), Some(wan)) => *fix += &format!(" --lan {lan} --wan {wan}"),
                _ => {}
            }
        } else if let Some(file) = file {
            *fix = fix.replace("<file>", &file);
        }
    }
}

/// A configuration with nothing but interfaces.
#[cfg(feature = "engine")]
fn defaults(lan: &str, wan: &str) -> Result<Config, ConfigError> {
    let (lan, wan) = (toml::Value::from(lan), toml::Value::from(wan));
    let text = format!(
        "node = \"doctor\"\n\
         state_dir = \"/var/lib/turnpike\"\n\
         data_plane = {{ lan = {lan}, wan = {wan}, tag_address = \"192.0.2.1\" }}\n\
         link = {{ rate_out_bps = 1000000, rate_in_bps = 1000000 }}\n"
    );
    Config::parse(&text, Path::new("command line"))
}

/// What `--json` prints.
#[cfg(feature = "engine")]
#[derive(Serialize)]
struct Report<'a> {
    findings: Vec<Row<'a>>,
    ok: bool,
}

#[cfg(feature = "engine")]
#[derive(Serialize)]
struct Row<'a> {
    check: &'a str,
    level: &'a str,
    found: &'a str,
    why: &'a str,
    fix: Option<&'a str>,
}

#[cfg(feature = "engine")]
fn as_json(findings: &[Finding], ok: bool) -> Result<String, Failure> {
    let rows = findings.iter().map(|Finding { check, level, found, why, fix }| Row {
        check,
        level: level.name(),
        found,
        why,
        fix: fix.as_deref(),
    });
    let report = Report { findings: rows.collect(), ok };
    let text = serde_json::to_string_pretty(&report).map_err(|error| Failure::Failed(error.to_string()))?;
    Ok(text + "\n")
}

#[cfg(feature = "engine")]
fn as_text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
    let level_width = Level::Problem.name().len();
    let mut text = String::new();
    for finding in findings {
        let why = if finding.why.is_empty() { String::new() } else { format!(": {}", finding.why) };
        let (level, check) = (finding.level.name(), finding.check);
        let _ = writeln!(text, "{level:level_width$}  {check:width$}  {}{why}", finding.found);
        if let Some(fix) = &finding.fix {
            let _ = writeln!(text, "{:indent$}fix: {fix}", "", indent = level_width + width + 4);
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let _ = writeln!(text, "\nproblems: {}, warnings: {}", count(Level::Problem), count(Level::Warning));
    text
}

#[cfg(all(test, feature = "engine"))]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        let finding = |check, level, found: &str, why: &str, fix: Option<&str>| Finding {
            check,
            level,
            found: found.to_owned(),
            why: why.to_owned(),
            fix: fix.map(str::to_owned),
        };
        vec![
            finding("kernel", Level::Ok, "Linux 6.12", "", None),
            finding("interface", Level::Problem, "lan eth0 is down", "nothing starts", Some("ip link set dev eth0 up")),
        ]
    }

    #[test]
    fn one_line_a_finding_and_one_for_its_fix() {
        let expected = "\
ok       kernel     Linux 6.12
problem  interface  lan eth0 is down: nothing starts
                    fix: ip link set dev eth0 up

problems: 1, warnings: 0
";
        assert_eq!(as_text(&findings()), expected);
    }

    #[test]
    fn json_has_the_five_fields() {
        let json: serde_json::Value = serde_json::from_str(&as_json(&findings(), false).unwrap()).unwrap();
        assert_eq!(json["ok"], false);
        assert_eq!(json["findings"][0]["fix"], serde_json::Value::Null);
        let expected = serde_json::json!({
            "check": "interface",
            "level": "problem",
            "found": "lan eth0 is down",
            "why": "nothing starts",
            "fix": "ip link set dev eth0 up",
        });
        assert_eq!(json["findings"][1], expected);
    }

    #[test]
    fn interfaces_alone_make_a_configuration() {
        let config = defaults("eth\"0", "eth1").unwrap();
        assert_eq!((config.data_plane.lan.as_str(), config.data_plane.wan.as_str()), ("eth\"0", "eth1"));
        assert!(defaults("eth0", "eth0").is_ok() && defaults("a/b", "eth0").is_err());
    }

    #[test]
    fn commands_are_completed_by_what_was_given() {
        let completed = |doctor: &Doctor, fix: &str| {
            let mut fix = fix.to_owned();
            doctor.complete(&mut fix);
            fix
        };
        let file = Doctor { config: Some("a.toml".into()), lan: None, wan: None };
        assert_eq!(completed(&file, "turnpike detach --config <file>"), "turnpike detach --config a.toml");
        assert_eq!(completed(&file, "sudo turnpike doctor"), "sudo turnpike doctor --config a.toml");
        let ports = Doctor { config: None, lan: Some("eth0".to_owned()), wan: Some("eth1".to_owned()) };
        assert_eq!(completed(&ports, "sudo turnpike doctor"), "sudo turnpike doctor --lan eth0 --wan eth1");
        let host = Doctor { config: None, lan: None, wan: None };
        assert_eq!(completed(&host, "turnpike detach --config <file>"), "turnpike detach --config <file>");
    }

    #[test]
    fn a_host_is_looked_at_whoever_asks() {
        let doctor = Doctor { config: None, lan: None, wan: None };
        assert!(doctor.run(false).unwrap().text.contains("kernel"));
        let absent = Doctor { config: None, lan: Some("tpk-none-0".to_owned()), wan: Some("tpk-none-1".to_owned()) };
        let diagnosis = absent.run(true).unwrap();
        assert!(!diagnosis.ok && diagnosis.text.contains("tpk-none-1 does not exist here"), "{}", diagnosis.text);
    }
}
