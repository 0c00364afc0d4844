//! One result as a line of JSON. Every bench writes this and nothing else; `perf/README.md` says what the fields mean.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use crate::stamp::Stamp;
use crate::stats::Quantiles;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Record {
    pub(crate) bench: &'static str,
    pub(crate) case: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) floor: Option<String>,
    pub(crate) ratio: Option<f64>,
    pub(crate) against: Option<String>,
    pub(crate) p25: Option<f64>,
    pub(crate) p50: Option<f64>,
    pub(crate) p90: Option<f64>,
    pub(crate) runs: usize,
    pub(crate) goal: Option<String>,
    pub(crate) met: Option<bool>,
    pub(crate) stamp: Stamp,
}

impl Record {
    /// A value that stands for itself.
    pub(crate) fn new(bench: &'static str, case: String, value: f64, unit: &'static str, stamp: Stamp) -> Self {
        Self {
            bench,
            case,
            value,
            unit,
            floor: None,
            ratio: None,
            against: None,
            p25: None,
            p50: None,
            p90: None,
            runs: 1,
            goal: None,
            met: None,
            stamp,
        }
    }

    /// With the distribution that it comes from.
    pub(crate) fn from(self, quantiles: Quantiles, runs: usize) -> Self {
        Self { p25: Some(quantiles.p25), p50: Some(quantiles.p50), p90: Some(quantiles.p90), runs, ..self }
    }

    /// Above this case.
    pub(crate) fn over(self, floor: String) -> Self {
        Self { floor: Some(floor), ..self }
    }

    /// As a multiple of this case.
    pub(crate) fn against(self, ratio: f64, case: String) -> Self {
        Self { ratio: Some(ratio), against: Some(case), ..self }
    }

    /// With what it should be.
    pub(crate) fn goal(self, goal: String, met: bool) -> Self {
        Self { goal: Some(goal), met: Some(met), ..self }
    }
}

/// Writes one line for each record.
pub(crate) fn write(path: &Path, records: &[Record]) -> anyhow::Result<()> {
    let mut file = BufWriter::new(File::create(path).with_context(|| format!("cannot write {}", path.display()))?);
    for record in records {
        writeln!(file, "{}", serde_json::to_string(record)?)?;
    }
    file.flush().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: [&str; 14] = [
        "against", "bench", "case", "floor", "goal", "met", "p25", "p50", "p90", "ratio", "runs", "stamp", "unit",
        "value",
    ];
    const STAMP_FIELDS: [&str; 7] = ["commit", "cpu", "driver", "kernel", "load", "mitigations", "xdp_mode"];

    fn stamp() -> Stamp {
        Stamp {
            kernel: "6.18.0".to_owned(),
            cpu: "a CPU".to_owned(),
            mitigations: "retbleed: Mitigation: x".to_owned(),
            driver: "veth",
            xdp_mode: "native",
            commit: "abc".to_owned(),
            load: 0.5,
        }
    }

    fn names(value: &serde_json::Value) -> Vec<&str> {
        let mut names: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn every_line_has_every_field() {
        let plain = Record::new("fastpath", "a/1/1".to_owned(), 1.5, "ns", stamp());
        let full = plain
            .clone()
            .from(Quantiles { p25: 1.0, p50: 2.0, p90: 3.0 }, 31)
            .over("floor/1/1".to_owned())
            .against(0.5, "b/1/1".to_owned())
            .goal("at most 2 ns".to_owned(), true);
        for record in [plain, full] {
            let value = serde_json::to_value(&record).unwrap();
            assert_eq!(names(&value), FIELDS);
            assert_eq!(names(&value["stamp"]), STAMP_FIELDS);
        }
    }

    #[test]
    fn what_does_not_apply_is_null() {
        let value = serde_json::to_value(Record::new("fastpath", "a".to_owned(), 1.5, "ns", stamp())).unwrap();
        for field in ["floor", "ratio", "against", "p25", "p50", "p90", "goal", "met"] {
            assert!(value[field].is_null(), "{field}");
        }
        assert_eq!((value["value"].as_f64(), value["runs"].as_u64()), (Some(1.5), Some(1)));
    }

    #[test]
    fn a_file_has_one_line_for_each_record() {
        let dir = std::env::temp_dir().join(format!("turnpike-perf-{}", std::process::id()));
        let records = vec![Record::new("fastpath", "a".to_owned(), 1.0, "ns", stamp()); 3];
        write(&dir, &records).unwrap();
        let text = std::fs::read_to_string(&dir).unwrap();
        std::fs::remove_file(&dir).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    }
}
