//! Series: bookings that recur.

use serde::{Deserialize, Serialize};
use turnpike_broker::name::SessionId;
use turnpike_broker::record::SessionState;
use turnpike_broker::series::SeriesState;

/// How a session recurs. The period is a fixed time: a change to summer time does not move an occurrence. One of `count` and `until`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recurrence {
    /// From the start of one occurrence to the start of the next, in seconds; at least as long as an occurrence.
    pub period_s: u64,
    /// How many occurrences, the first included; 1 to 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// No occurrence starts after this, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// A series, until its last occurrence is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeriesView {
    /// Made by the client.
    pub id: SessionId,
    /// Where it is in its life.
    pub state: SeriesState,
    /// From the start of one occurrence to the start of the next, in seconds.
    pub period_s: u64,
    /// How many occurrences it has.
    pub count: u32,
    /// Its occurrences. Each is a session of its own, `<id>.1` and so on.
    pub occurrences: Vec<OccurrenceView>,
}

/// An occurrence of a series.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OccurrenceView {
    /// Its session.
    pub session: SessionId,
    /// Where that is in its life; absent if it is not known any more, or not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<SessionState>,
    /// Its start, RFC 3339.
    pub starts_at: String,
    /// Its end, RFC 3339.
    pub ends_at: String,
}
