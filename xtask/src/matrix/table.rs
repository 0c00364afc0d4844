//! The tables as they stand in docs/matrix.md.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;

use super::kernel::Driver;
use super::row::{Cell, Outcome, Played, Row};

const BEGIN: &str = "<!-- written by `cargo xtask matrix --write` -->\n";
const END: &str = "<!-- end of what is written -->\n";

/// Kernels by drivers, and what the programs cost.
pub(crate) fn render(rows: &[Row], drivers: &[&'static Driver]) -> String {
    let mut text = String::from("| kernel | programs | frames equal |");
    for driver in drivers {
        let _ = write!(text, " {} |", driver.name);
    }
    let _ = writeln!(text, "\n|---|---|---|{}", "---|".repeat(drivers.len()));
    for row in rows {
        let (programs, frames) = match &row.outcome {
            Outcome::Skipped { reason } => (format!("skipped: {}", reason.replace(['|', '\n'], " ")), String::new()),
            Outcome::Failed => ("**failed**".to_owned(), String::new()),
            Outcome::Refused { code, .. } => (format!("refused: `{code}`"), String::new()),
            Outcome::Serves(serving) => ("load".to_owned(), thousands(serving.frames_equal)),
        };
        let _ = write!(text, "| {} | {programs} | {frames} |", title(row));
        for driver in drivers {
            let cell = match &row.outcome {
                Outcome::Serves(serving) => {
                    let native = driver.native_on(row.line);
                    serving.drivers.get(driver.name).map(|found| cell(found, native)).unwrap_or_default()
                }
                Outcome::Skipped { .. } | Outcome::Failed | Outcome::Refused { .. } => String::new(),
            };
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    for row in rows {
        if let Outcome::Refused { message, .. } = &row.outcome {
            let _ = writeln!(text, "\nOn {}: `{message}`", row.line.name);
        }
    }
    if rows.iter().any(|row| matches!(row.outcome, Outcome::Serves(_))) {
        costs(&mut text, rows);
    }
    text
}

fn title(row: &Row) -> String {
    if row.version.is_empty() { row.line.name.to_owned() } else { format!("{} ({})", row.line.name, row.version) }
}

/// The modes that have to work, with their packets; in bold what does not.
fn cell(cell: &Cell, native: bool) -> String {
    let packets = |played: &Played| format!("{}/{}", played.delivered, played.sent - played.metered);
    let generic = cell.generic.as_ref().map_or_else(|| "**failed**".to_owned(), packets);
    let automatic = cell.automatic.as_ref().map_or_else(String::new, |played| format!(", auto {}", packets(played)));
    match &cell.native {
        Some(native) => format!("native {}, generic {generic}", packets(native)),
        None if native => format!("native **failed**, generic {generic}"),
        None => format!("generic {generic}{automatic}"),
    }
}

fn costs(text: &mut String, rows: &[Row]) {
    text.push_str(
        "\n| kernel | program | instructions | looked at by the verifier | bytes of stack |\n|---|---|---|---|---|\n",
    );
    for row in rows {
        let Outcome::Serves(serving) = &row.outcome else { continue };
        for program in &serving.programs {
            let (instructions, verified) = (thousands(program.instructions), thousands(program.verified));
            let _ = writeln!(
                text,
                "| {} | `{}` | {instructions} | {verified} | {} |",
                row.line.name, program.name, program.stack_bytes
            );
        }
    }
}

/// With a comma between groups of three digits.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Puts the tables into the document, in the place of those before.
pub(crate) fn write(file: &Path, tables: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let text = replaced(&text, tables).with_context(|| format!("{} has no place for the tables", file.display()))?;
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    println!("written    {}", file.display());
    Ok(())
}

fn replaced(text: &str, tables: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{tables}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::super::kernel::{DRIVERS, LINES};
    use super::super::row::{Program, Serving};
    use super::*;

    fn played(delivered: u64) -> Option<Played> {
        Some(Played { sent: 624, metered: 18, delivered })
    }

    #[test]
    fn every_outcome_has_its_row() {
        let refused =
            Outcome::Refused { code: "kernel_too_old".to_owned(), message: "kernel 5.10 is too old".to_owned() };
        let serving = Serving {
            frames_equal: 120_099,
            programs: vec![Program { name: "p".to_owned(), instructions: 893, verified: 4_446, stack_bytes: 200 }],
            drivers: [
                ("virtio-net", Cell { native: None, automatic: None, generic: None }),
                ("igb", Cell { native: played(606), automatic: None, generic: played(605) }),
                ("vmxnet3", Cell { native: None, automatic: played(600), generic: None }),
            ]
            .into(),
        };
        let rows = [
            Row { outcome: refused, version: "5.10.223-1".to_owned(), ..Row::failed(&LINES[0], String::new()) },
            Row { outcome: Outcome::Serves(serving), ..Row::failed(&LINES[1], String::new()) },
            Row::skipped(&LINES[2], "no | network".to_owned()),
            Row::failed(&LINES[3], "it hung".to_owned()),
        ];
        let expected = "\
| kernel | programs | frames equal | virtio-net | igb | vmxnet3 |
|---|---|---|---|---|---|
| 5.10 (5.10.223-1) | refused: `kernel_too_old` |  |  |  |  |
| 6.1 | load | 120,099 | native **failed**, generic **failed** | native 606/606, generic 605/606 | generic **failed**, auto 600/606 |
| 6.12 | skipped: no   network |  |  |  |  |
| 7.2 | **failed** |  |  |  |  |

On 5.10: `kernel 5.10 is too old`

| kernel | program | instructions | looked at by the verifier | bytes of stack |
|---|---|---|---|---|
| 6.1 | `p` | 893 | 4,446 | 200 |
";
        assert_eq!(render(&rows, &[&DRIVERS[0], &DRIVERS[1], &DRIVERS[2]]), expected);
    }

    #[test]
    fn tables_are_replaced_and_the_rest_is_kept() {
        let text = format!("# Title\n{BEGIN}old\n{END}rest\n");
        assert_eq!(replaced(&text, "new\n").unwrap(), format!("# Title\n{BEGIN}\nnew\n\n{END}rest\n"));
        assert_eq!(replaced("# Title\n", "new\n"), None);
    }
}
