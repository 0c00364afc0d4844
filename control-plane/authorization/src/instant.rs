//! Times of day, in whole seconds.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Seconds of the Unix epoch; RFC 3339 in text, in UTC when written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// So many seconds later.
    #[must_use]
    pub const fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// Reads RFC 3339; parts of a second are dropped.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let time =
            OffsetDateTime::parse(text, &Rfc3339).map_err(|error| format!("{text:?} is no RFC 3339 time: {error}"))?;
        let seconds = u64::try_from(time.unix_timestamp()).map_err(|_| format!("{text:?} is before 1970"))?;
        Ok(Self(seconds))
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = i64::try_from(self.0).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
        match time.and_then(|time| time.format(&Rfc3339).ok()) {
            Some(text) => f.write_str(&text),
            None => write!(f, "{} s after 1970", self.0),
        }
    }
}

impl Serialize for Instant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Instant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        let time = Instant(1_795_190_400);
        assert_eq!(time.to_string(), "2026-11-20T16:00:00Z");
        assert_eq!(Instant::parse("2026-11-20T17:00:00.9+01:00"), Ok(time));
        for wrong in ["", "2026-11-20", "2026-13-20T16:00:00Z", "1969-12-31T23:59:59Z", "1795190400"] {
            assert!(Instant::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Instant(u64::MAX).to_string(), format!("{} s after 1970", u64::MAX));
    }
}
