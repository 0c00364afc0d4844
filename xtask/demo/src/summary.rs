//! What the demo expects, what it got, and the file with the figures.

use std::fmt::Display;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

/// One thing that must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expectation {
    /// What.
    pub what: String,
    /// What it should be.
    pub expected: String,
    /// What it was.
    pub actual: String,
    /// Whether it holds.
    pub holds: bool,
}

/// The figures of one run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Figures {
    /// Calls with a reservation.
    pub calls_admitted: usize,
    /// Calls refused before media began.
    pub calls_refused: usize,
    /// The refusal's stable code.
    pub refusal_reason: Option<String>,
    /// What the refusal offered instead.
    pub counter_offer_rate_bps: Option<u64>,
    /// Packets of calls that keep to their rate.
    pub conforming_sent: u64,
    /// Of these, the different ones that came.
    pub conforming_delivered: u64,
    /// Packets that were not, byte for byte, what was sent, or came twice.
    pub conforming_payload_mismatch: u64,
    /// Packets of the greedy direction of one call.
    pub greedy_sent: u64,
    /// Of these, the ones that came.
    pub greedy_delivered: u64,
    /// Rate that came over rate that was reserved.
    pub greedy_rate_ratio: f64,
    /// Packets of no session.
    pub unadmitted_sent: u64,
    /// Of these, the ones that came.
    pub unadmitted_delivered: u64,
    /// Packets delivered by tag beyond those of the sessions.
    pub unadmitted_delivered_tagged: i64,
    /// Whether both nodes counted every flow as its ends did.
    pub usage_exact: bool,
    /// Packets that came while one node's process was dead.
    pub delivered_while_control_plane_dead: u64,
    /// Conforming packets sent in that time that never came.
    pub conforming_lost_while_control_plane_dead: u64,
    /// Sends that the sites' own kernel refused.
    pub sends_refused_by_kernel: u64,
    /// Busiest second at the receiving end of the wan, in IP bits.
    pub wan_peak_bps: u64,
    /// The same from a second after the unadmitted traffic began, when its burst is spent.
    pub wan_settled_peak_bps: u64,
    /// Of the link in each direction.
    pub link_rate_bps: u64,
    /// How the programs are attached.
    pub xdp_mode: String,
    /// From first step to last.
    pub duration_s: f64,
    /// Of this machine.
    pub kernel: String,
}

/// A run's outcome.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// The figures.
    #[serde(flatten)]
    pub figures: Figures,
    /// What must hold.
    pub expectations: Vec<Expectation>,
}

impl Summary {
    /// Notes one thing that must hold.
    pub fn expect(&mut self, what: &str, expected: impl Display, actual: impl Display, holds: bool) {
        let (expected, actual) = (expected.to_string(), actual.to_string());
        self.expectations.push(Expectation { what: what.to_owned(), expected, actual, holds });
    }

    /// Notes that two values must be equal.
    pub fn expect_equal<T: Display + PartialEq>(&mut self, what: &str, expected: T, actual: T) {
        let holds = expected == actual;
        self.expect(what, expected, actual, holds);
    }

    /// Whether everything holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.expectations.is_empty() && self.expectations.iter().all(|expectation| expectation.holds)
    }

    /// Writes everything as JSON.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(self).context("cannot write JSON")?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = |text: fn(&Expectation) -> &str| {
            self.expectations.iter().map(|expectation| text(expectation).chars().count()).max().unwrap_or(0)
        };
        let (what, expected) = (width(|e| &e.what), width(|e| &e.expected).max("expected".len()));
        writeln!(f, "        {:what$}  {:expected$}  actual", "", "expected")?;
        for e in &self.expectations {
            let mark = if e.holds { "ok" } else { "FAILED" };
            writeln!(f, "{mark:6}  {:what$}  {:expected$}  {}", e.what, e.expected, e.actual)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_expectation_breaks_the_run() {
        let mut summary = Summary::default();
        assert!(!summary.holds(), "a run without expectations shows nothing");
        summary.expect_equal("conforming packets lost", 0, 0);
        assert!(summary.holds());
        summary.expect("greedy rate over its reservation", "0.99 to 1.01", 1.2, false);
        assert!(!summary.holds());
        let text = summary.to_string();
        assert!(text.contains("ok      conforming packets lost"), "{text}");
        assert!(text.contains("FAILED  greedy rate over its reservation  0.99 to 1.01  1.2"), "{text}");
    }

    #[test]
    fn the_figures_are_at_the_top_of_the_file() {
        let mut summary = Summary::default();
        summary.figures.calls_admitted = 12;
        let value = serde_json::to_value(&summary).unwrap();
        assert_eq!(value["calls_admitted"], 12);
        assert_eq!(value["refusal_reason"], serde_json::Value::Null);
        assert!(value["expectations"].is_array());
    }
}
