//! What the programs may cost the verifier, kernel by kernel: a tenth more than when it was last recorded.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;

use super::row::{Outcome, Program, Row};

/// Growth that is nothing, whatever a tenth is: the smallest programs have two instructions.
const SLACK: u64 = 16;

const HEADING: &str = "\
# What the XDP programs cost the verifier of each kernel when this was recorded: instructions after its rewriting, instructions that it
# looked at on all paths together, and bytes of stack. `cargo xtask matrix` fails where one is a tenth above; `--record` writes it anew.
";

/// By kernel and program.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Budgets(BTreeMap<String, BTreeMap<String, Program>>);

impl Budgets {
    /// Reads the file; nothing is recorded where there is none.
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        if !file.exists() {
            return Ok(Self::default());
        }
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        Self::parse(&text).with_context(|| format!("{} is not as --record writes it", file.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let table: toml::Table = text.parse()?;
        let mut budgets = Self::default();
        for (line, programs) in &table {
            for (name, costs) in programs.as_table().with_context(|| format!("{line} is no table"))? {
                let cost = |key: &str| {
                    let cost = costs.get(key).and_then(toml::Value::as_integer).and_then(|cost| cost.try_into().ok());
                    cost.with_context(|| format!("{line} {name} has no {key}"))
                };
                let program = Program {
                    name: name.clone(),
                    instructions: cost("instructions")?,
                    verified: cost("verified")?,
                    stack_bytes: cost("stack_bytes")?,
                };
                budgets.0.entry(line.clone()).or_default().insert(name.clone(), program);
            }
        }
        Ok(budgets)
    }

    /// Takes what kernels just said in the place of what they said before.
    pub(crate) fn record(&mut self, rows: &[Row]) {
        for row in rows {
            if let Outcome::Serves(serving) = &row.outcome
                && row.faults.is_empty()
            {
                let programs = serving.programs.iter().map(|program| (program.name.clone(), program.clone()));
                self.0.insert(row.line.name.to_owned(), programs.collect());
            }
        }
    }

    pub(crate) fn write(&self, file: &Path) -> anyhow::Result<()> {
        std::fs::write(file, self.text()).with_context(|| format!("cannot write {}", file.display()))
    }

    fn text(&self) -> String {
        let mut text = HEADING.to_owned();
        for (line, programs) in &self.0 {
            let _ = writeln!(text, "\n[\"{line}\"]");
            for Program { name, instructions, verified, stack_bytes } in programs.values() {
                let costs =
                    format!("instructions = {instructions}, verified = {verified}, stack_bytes = {stack_bytes}");
                let _ = writeln!(text, "{name} = {{ {costs} }}");
            }
        }
        text
    }

    /// What costs more than it may, or is not on record as it should be.
    pub(crate) fn exceeded(&self, row: &Row) -> Vec<String> {
        let Outcome::Serves(serving) = &row.outcome else { return Vec::new() };
        let mut exceeded = Vec::new();
        let none = BTreeMap::new();
        let recorded = self.0.get(row.line.name).unwrap_or(&none);
        for program in &serving.programs {
            let name = &program.name;
            let Some(budget) = recorded.get(name) else {
                exceeded.push(format!("nothing is recorded of {name}: run with --record"));
                continue;
            };
            for (what, is, was) in [
                ("instructions", program.instructions, budget.instructions),
                ("instructions looked at by the verifier", program.verified, budget.verified),
                ("bytes of stack", program.stack_bytes, budget.stack_bytes),
            ] {
                if is * 10 > was * 11 && is > was + SLACK {
                    exceeded.push(format!("{name} takes {is} {what}, more than a tenth above the {was} on record"));
                }
            }
        }
        for gone in recorded.keys().filter(|name| !serving.programs.iter().any(|program| program.name == **name)) {
            exceeded.push(format!("{gone} is on record and was not loaded: run with --record"));
        }
        exceeded
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::LINES;
    use super::super::row::Serving;
    use super::*;

    fn row(programs: &[(&str, u64, u64, u64)]) -> Row {
        let programs = programs.iter().map(|(name, instructions, verified, stack_bytes)| Program {
            name: (*name).to_owned(),
            instructions: *instructions,
            verified: *verified,
            stack_bytes: *stack_bytes,
        });
        let serving = Serving { programs: programs.collect(), ..Serving::default() };
        Row { outcome: Outcome::Serves(serving), faults: Vec::new(), ..Row::failed(&LINES[1], String::new()) }
    }

    #[test]
    fn what_is_recorded_is_read_again() {
        let mut budgets = Budgets::default();
        budgets.record(&[row(&[("a", 100, 1_000, 200), ("b", 2, 3, 0)]), Row::skipped(&LINES[2], String::new())]);
        budgets.record(&[Row { faults: vec!["it is not sound".to_owned()], ..row(&[]) }]);
        let text = budgets.text();
        assert!(
            text.contains("[\"6.1\"]\na = { instructions = 100, verified = 1000, stack_bytes = 200 }\nb"),
            "{text}"
        );
        assert_eq!(Budgets::parse(&text).unwrap(), budgets);
        assert!(Budgets::parse("[\"6.1\"]\na = { verified = 1 }").is_err());
        assert!(Budgets::parse("[\"6.1\"]\na = { instructions = -1, verified = 1, stack_bytes = 1 }").is_err());
    }

    #[test]
    fn a_tenth_is_allowed_and_no_more() {
        let mut budgets = Budgets::default();
        budgets.record(&[row(&[("a", 100, 1_000, 200)])]);
        assert_eq!(budgets.exceeded(&row(&[("a", 110, 1_100, 220)])), [""; 0]);
        assert_eq!(budgets.exceeded(&row(&[("a", 1, 1, 1)])), [""; 0]);
        budgets.record(&[row(&[("a", 2, 1_000, 0)])]);
        assert_eq!(budgets.exceeded(&row(&[("a", 18, 1_016, 16)])), [""; 0]);
        assert_eq!(budgets.exceeded(&row(&[("a", 19, 1_101, 17)])).len(), 3);
        budgets.record(&[row(&[("a", 100, 1_000, 200)])]);
        for worse in [("a", 117, 1, 1), ("a", 1, 1_101, 1), ("a", 1, 1, 221)] {
            let exceeded = budgets.exceeded(&row(&[worse]));
            assert_eq!(exceeded.len(), 1);
            assert!(exceeded[0].contains("on record"), "{exceeded:?}");
        }
    }

    #[test]
    fn programs_and_record_are_the_same() {
        let mut budgets = Budgets::default();
        assert!(budgets.exceeded(&row(&[("a", 1, 1, 1)]))[0].contains("nothing is recorded of a"));
        budgets.record(&[row(&[("a", 1, 1, 1), ("b", 1, 1, 1)])]);
        assert_eq!(budgets.exceeded(&row(&[("a", 1, 1, 1)])), ["b is on record and was not loaded: run with --record"]);
        assert_eq!(budgets.exceeded(&Row::skipped(&LINES[1], String::new())), [""; 0]);
    }
}
