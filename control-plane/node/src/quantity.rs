//! Rates and sizes as people write them: `80k`, `1M`, `64Ki`.

use std::time::Duration;

const UNITS: [(&str, u64); 6] =
    [("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10), ("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000)];

/// A whole number, perhaps with k, M, G (thousands) or Ki, Mi, Gi (1024s) behind it.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let (digits, factor) = UNITS
        .iter()
        .find_map(|(unit, factor)| text.strip_suffix(unit).map(|digits| (digits, *factor)))
        .unwrap_or((text, 1));
    let whole = digits.chars().all(|c| c.is_ascii_digit()).then(|| digits.parse::<u64>().ok()).flatten();
    whole
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| format!("{text:?} must be a whole number, perhaps with k, M, G or Ki, Mi, Gi behind it"))
}

/// The same for numbers of 32 bits.
pub(crate) fn parse_u32(text: &str) -> Result<u32, String> {
    let number = parse(text)?;
    u32::try_from(number).map_err(|_| format!("{text:?} must be at most {}", u32::MAX))
}

/// A whole number with s, m, h or d behind it.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let units = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];
    let found = units.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, *seconds)));
    let whole = found.filter(|(digits, _)| digits.chars().all(|c| c.is_ascii_digit()));
    whole
        .and_then(|(digits, seconds)| digits.parse::<u64>().ok()?.checked_mul(seconds))
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs)
        .ok_or_else(|| format!("{text:?} must be a whole number above 0 with s, m, h or d behind it"))
}

/// The shortest exact text, which [`parse`] reads back.
pub(crate) fn text(number: u64) -> String {
    let unit =
        UNITS.iter().find(|(unit, factor)| unit.len() == 1 && number >= *factor && number.is_multiple_of(*factor));
    unit.map_or_else(|| number.to_string(), |(unit, factor)| format!("{}{unit}", number / factor))
}

/// Memory for people: one figure behind the point is enough.
#[cfg(feature = "engine")]
#[allow(clippy::cast_precision_loss, reason = "only shown")]
pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_and_written_exactly() {
        let cases =
            [("0", 0), ("80k", 80_000), ("1M", 1_000_000), ("64Ki", 65_536), ("400G", 400_000_000_000), ("7", 7)];
        for (written, number) in cases {
            assert_eq!(parse(written), Ok(number));
            assert_eq!(parse(&text(number)), Ok(number));
        }
        assert_eq!(text(1_500_000), "1500k");
    }

    #[test]
    fn durations_are_read_exactly() {
        for (text, seconds) in [("90s", 90), ("45m", 2_700), ("2h", 7_200), ("1d", 86_400)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "s", "0s", "90", "-1s", "1.5h", "1h30m", "213503982334602d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "k", "-1", "+1", "1.5M", "1 k", "1kk", "20000000000G", "0x10"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse_u32("5G").is_err());
    }
}
