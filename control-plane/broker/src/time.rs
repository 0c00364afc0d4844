//! Unix time as people and other programs write it: RFC 3339, to the millisecond.

use std::fmt;
use std::str::FromStr;

use crate::name::Nanos;

const SECOND: u64 = 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;
/// Days from 0000-03-01 to 1970-01-01. Years that begin in March have the leap day as their last.
const DAYS_BEFORE_1970: u64 = 719_468;

impl Nanos {
    /// The first whole millisecond that is not before.
    #[must_use]
    pub const fn to_next_millisecond(self) -> Self {
        match self.0.checked_next_multiple_of(MILLISECOND) {
            Some(time) => Self(time),
            None => self,
        }
    }
}

/// As RFC 3339 with milliseconds, in UTC.
impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.0 / SECOND, self.0 / MILLISECOND % 1_000);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // In eras of 400 years.
        let days = days + DAYS_BEFORE_1970;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = era * 400 + year + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

/// Why a text is not a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} must be a time as in RFC 3339 with its zone, such as 2030-06-01T14:00:00Z or 2030-06-01T16:00:00.500+02:00, from 1970 to 2554"
)]
pub struct TimeError(String);

/// From RFC 3339, rounded down to a millisecond.
impl FromStr for Nanos {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        parse(text).ok_or_else(|| TimeError(text.chars().take(40).collect()))
    }
}

fn parse(text: &str) -> Option<Nanos> {
    let (date, rest) = text.split_once(['T', 't'])?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let zone = rest.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = rest.split_at(zone);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    if !(1..=12).contains(&month) || day == 0 || day > days_of(year, month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    if !(1..=9).contains(&fraction.len()) || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let millis = format!("{fraction:0<3}")[..3].parse::<u64>().ok()?;
    let (years, months) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = 365 * years + years / 4 - years / 100 + years / 400 + (153 * months + 2) / 5 + day - 1;
    let minutes = days.checked_sub(DAYS_BEFORE_1970)? * 1_440 + hour * 60 + minute;
    let minutes = match (zone.get(..1)?, zone.get(1..)?) {
        ("Z" | "z", "") => minutes,
        ("+", offset) => minutes.checked_sub(minutes_of(offset)?)?,
        ("-", offset) => minutes + minutes_of(offset)?,
        _ => return None,
    };
    let nanos = (minutes * 60 + second).checked_mul(SECOND)?;
    nanos.checked_add(millis * MILLISECOND).map(Nanos)
}

/// Numbers of that many digits.
fn numbers<const N: usize>(text: &str, separator: char, digits: [usize; N]) -> Option<[u64; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part = parts.next()?;
        if part.len() != digits || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

fn minutes_of(offset: &str) -> Option<u64> {
    let [hours, minutes] = numbers(offset, ':', [2, 2])?;
    (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
}

const fn days_of(year: u64, month: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339_and_read_back() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999_999_999, "2000-02-29T23:59:59.999Z"),
            (1_709_164_800_000_000_000, "2024-02-29T00:00:00.000Z"),
            (1_735_689_599_001_000_000, "2024-12-31T23:59:59.001Z"),
            (4_107_542_400_000_000_000, "2100-03-01T00:00:00.000Z"),
            (u64::MAX, "2554-07-21T23:34:33.709Z"),
        ];
        for (nanos, text) in cases {
            assert_eq!(Nanos(nanos).to_string(), text);
            assert_eq!(text.parse(), Ok(Nanos(nanos / MILLISECOND * MILLISECOND)));
        }
    }

    #[test]
    fn every_day_is_read_back() {
        for day in 0..213_000 {
            let time = Nanos(day * 86_400 * SECOND + 3_600 * SECOND);
            assert_eq!(time.to_string().parse(), Ok(time));
        }
    }

    #[test]
    fn zones_fractions_and_small_letters_are_understood() {
        let cases = [
            ("2024-12-31T23:59:59Z", 1_735_689_599_000_000_000),
            ("2025-01-01T01:59:59+02:00", 1_735_689_599_000_000_000),
            ("2024-12-31t18:29:59.5-05:30", 1_735_689_599_500_000_000),
            ("2024-12-31T23:59:59.1239999z", 1_735_689_599_123_000_000),
        ];
        for (text, nanos) in cases {
            assert_eq!(text.parse(), Ok(Nanos(nanos)), "{text}");
        }
        assert_eq!(Nanos(1).to_next_millisecond(), Nanos(MILLISECOND));
        assert_eq!(Nanos(MILLISECOND).to_next_millisecond(), Nanos(MILLISECOND));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let bad = [
            "",
            "T",
            "2024-12-31",
            "2024-12-31T23:59:59",
            "2024-12-31 23:59:59Z",
            "2024-13-01T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2024-00-01T00:00:00Z",
            "2024-01-00T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:60:00Z",
            "2024-01-01T00:00:60Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00.1234567890Z",
            "2024-01-01T00:00:00.-1Z",
            "2024-01-01T00:00:00+0200",
            "2024-01-01T00:00:00+24:00",
            "2024-01-01T00:00:00Z0",
            "+024-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "2554-07-21T23:34:33.710Z",
            "9999-12-31T23:59:59Z",
            "0000-01-01T00:00:00Z",
            "2024-01-01T00:00:00é",
            "1735689599",
        ];
        for text in bad {
            assert!(text.parse::<Nanos>().is_err(), "{text}");
        }
    }
}
