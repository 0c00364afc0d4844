//! `turnpike adopt`: what runs under the pins, and what the next `turnpike serve` would do with it. Changes nothing.

use crate::client::Failure;
use crate::config::Config;
use crate::doctor::Diagnosis;

#[cfg(not(feature = "engine"))]
pub(crate) fn adopt(_: &Config, _: bool) -> Result<Diagnosis, Failure> {
    Err(Failure::Failed(crate::detach::WITHOUT_ENGINE.to_owned()))
}

/// Looks, and says so; not well if a start would refuse what is there.
#[cfg(feature = "engine")]
pub(crate) fn adopt(config: &Config, json: bool) -> Result<Diagnosis, Failure> {
    let survey = turnpike_engine::Engine::survey(&crate::engine::engine_config(config))
        .map_err(|error| Failure::Failed(error.to_string()))?;
    let report = report::Report::new(&survey);
    let text = if json {
        serde_json::to_string_pretty(&report).map_err(|error| Failure::Failed(error.to_string()))? + "\n"
    } else {
        report.text(&config.pin_dir)
    };
    Ok(Diagnosis { text, ok: report.is_ok() })
}

#[cfg(feature = "engine")]
mod report {
    use std::fmt::Write as _;
    use std::path::Path;

    use serde::Serialize;
    use turnpike_engine::{PolicySurvey, Survey, Takeover};

    use crate::quantity::mebibytes;
    use crate::show::table;

    const KINDS: [&str; 5] = ["aggregate_out", "aggregate_in", "flow_out", "flow_in", "terminals_in"];

    /// What `--json` prints.
    #[derive(Serialize)]
    pub(super) struct Report<'s> {
        takeover: &'static str,
        detail: Option<&'s str>,
        links: Vec<Link>,
        memory_bytes: u64,
        policies: Vec<Policy>,
    }

    #[derive(Serialize)]
    struct Link {
        role: &'static str,
        interface_index: Option<u32>,
    }

    #[derive(Serialize)]
    struct Policy {
        policy: u64,
        kind: &'static str,
        in_force: bool,
        lapses_in_s: Option<f64>,
        offered_packets: u64,
        passed_packets: u64,
        passed_bytes: u64,
        dropped_packets: u64,
    }

    impl Policy {
        fn new(policy: &PolicySurvey) -> Self {
            Self {
                policy: policy.id,
                kind: policy.kind,
                in_force: policy.in_force,
                lapses_in_s: policy.lapses_in.map(|lapses_in| lapses_in.as_secs_f64()),
                offered_packets: policy.counters.offered_packets,
                passed_packets: policy.counters.passed_packets,
                passed_bytes: policy.counters.passed_bytes,
                dropped_packets: policy.counters.dropped_packets,
            }
        }

        fn has_lapsed(&self) -> bool {
            self.lapses_in_s == Some(0.0)
        }
    }

    impl<'s> Report<'s> {
        pub(super) fn new(survey: &'s Survey) -> Self {
            let (takeover, detail) = match &survey.takeover {
                Takeover::Nothing => ("nothing", None),
                Takeover::AsItIs => ("as_it_is", None),
                Takeover::Moves(how) => ("moves", Some(how.as_str())),
                Takeover::Completes => ("completes", None),
                Takeover::Refused(_, why) => ("refused", Some(why.as_str())),
            };
            let link = |link: &turnpike_engine::LinkSurvey| Link { role: link.role, interface_index: link.interface };
            Self {
                takeover,
                detail,
                links: survey.links.iter().map(link).collect(),
                memory_bytes: survey.memory_bytes,
                policies: survey.policies.iter().map(Policy::new).collect(),
            }
        }

        pub(super) fn is_ok(&self) -> bool {
            self.takeover != "refused"
        }

        pub(super) fn text(&self, pin_dir: &Path) -> String {
            let pin_dir = pin_dir.display();
            let detail = self.detail.unwrap_or_default();
            let mut out = match self.takeover {
                "nothing" => return format!("nothing runs at {pin_dir}; `turnpike serve` makes everything new\n"),
                "as_it_is" => format!("{pin_dir}: `turnpike serve` takes over what runs, as it is\n"),
                "moves" => {
                    format!("{pin_dir}: `turnpike serve` takes over what runs, in tables of other sizes: {detail}\n")
                }
                "completes" => {
                    format!(
                        "{pin_dir}: a change of sizes was cut off; `turnpike serve` completes it and takes over what runs\n"
                    )
                }
                _ => format!("{pin_dir}: `turnpike serve` refuses what is there: {detail}\n"),
            };
            let links = self.links.iter().map(|link| {
                let interface = match link.interface_index {
                    Some(index) => format!("interface {index} (`ip link` lists their numbers)"),
                    None => "no interface: packets pass as if Turnpike were not there".to_owned(),
                };
                [link.role.to_owned(), interface]
            });
            let _ = write!(out, "\n{}", table(["PORT", "PROGRAM AT"], links));
            if self.memory_bytes == 0 {
                // It is not understood, so nothing more can be said of it.
                return out;
            }
            let rows = KINDS.iter().map(|kind| self.row(kind));
            let head = ["POLICIES", "IN FORCE", "LAPSED", "ENDED", "PASSED", "DROPPED", "NEXT LAPSES IN"];
            let _ = write!(out, "\n{}", table(head, rows));
            let _ = write!(out, "\nthe tables take {} of kernel memory\n", mebibytes(self.memory_bytes));
            out
        }

        fn row(&self, kind: &str) -> [String; 7] {
            let all = || self.policies.iter().filter(|policy| policy.kind == kind);
            let in_force = || all().filter(|policy| policy.in_force && !policy.has_lapsed());
            let next = in_force().filter_map(|policy| policy.lapses_in_s).reduce(f64::min);
            let count = |policies: usize| policies.to_string();
            [
                kind.to_owned(),
                count(in_force().count()),
                count(all().filter(|policy| policy.in_force && policy.has_lapsed()).count()),
                count(all().filter(|policy| !policy.in_force).count()),
                all().map(|policy| policy.passed_packets).sum::<u64>().to_string(),
                all().map(|policy| policy.dropped_packets).sum::<u64>().to_string(),
                next.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.0} s")),
            ]
        }
    }
}
