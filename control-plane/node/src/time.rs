//! The node's time: nanoseconds of the Unix epoch that never go backwards.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use turnpike_broker::name::Nanos;

/// Reads the system's time once and goes on by the monotonic clock, so that setting the system's clock neither stalls
/// nor fires a timer.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    base: Nanos,
    start: Instant,
}

impl Clock {
    /// Starts now, or at `earliest` where the system's clock is behind what an earlier life has written.
    #[must_use]
    pub fn start(earliest: Nanos) -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { base: nanos(unix).max(earliest), start: Instant::now() }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.base.plus(nanos(self.start.elapsed()))
    }

    /// How long it is from now to `time`; zero if it has passed.
    #[must_use]
    pub fn until(&self, time: Nanos) -> Duration {
        Duration::from_nanos(time.0.saturating_sub(self.now().0))
    }
}

fn nanos(duration: Duration) -> Nanos {
    Nanos(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

/// As RFC 3339 with milliseconds, in UTC.
#[must_use]
pub fn rfc3339(time: Nanos) -> String {
    let (seconds, millis) = (time.0 / 1_000_000_000, time.0 / 1_000_000 % 1_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, in eras of 400 years, so that the leap day is the last of its year.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999_999_999, "2000-02-29T23:59:59.999Z"),
            (1_709_164_800_000_000_000, "2024-02-29T00:00:00.000Z"),
            (1_735_689_599_001_000_000, "2024-12-31T23:59:59.001Z"),
            (4_107_542_400_000_000_000, "2100-03-01T00:00:00.000Z"),
        ];
        for (nanos, text) in cases {
            assert_eq!(rfc3339(Nanos(nanos)), text);
        }
    }

    #[test]
    fn time_does_not_go_back_behind_an_earlier_life() {
        let late = Nanos(u64::MAX / 2);
        let clock = Clock::start(late);
        assert!(clock.now() >= late);
        assert_eq!(clock.until(Nanos(1)), Duration::ZERO);
    }
}
