//! Links: what they have, what is said of them, and whom they cannot carry.

use serde::{Deserialize, Serialize};
use turnpike_broker::name::{AggregateName, LinkName};
use turnpike_broker::record::Direction;

use crate::PoolView;

/// Body of `PATCH /v1/links/{name}`: other rates for what the link carries, at once or for a time to come. At least one of the rates.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkChange {
    /// Bits per second that this node may send, 1,000 to 400,000,000,000; as it is if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_out_bps: Option<u64>,
    /// Bits per second that this node may receive, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_in_bps: Option<u64>,
    /// From when on, RFC 3339; at once if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Up to when, RFC 3339; if absent until further notice: until it is changed again, or the configuration says another rate at a start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkView {
    /// Its name.
    pub name: LinkName,
    /// Towards the peers.
    pub out: PoolView,
    /// From the peers.
    pub r#in: PoolView,
    /// Towards the peers, of each class that has a share of it in the configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes_out: Vec<PoolView>,
    /// From the peers, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes_in: Vec<PoolView>,
    /// What the configuration says, bits per second.
    #[serde(default)]
    pub configured_rate_out_bps: u64,
    /// What the configuration says, bits per second.
    #[serde(default)]
    pub configured_rate_in_bps: u64,
    /// Other rates than those, in force or to come.
    #[serde(default)]
    pub changes: Vec<LinkChangeView>,
    /// How many aggregates it cannot carry at some time from now on.
    #[serde(default)]
    pub cannot_carry_aggregates: u64,
    /// How many sessions they carry, or have booked on them; one on two of them is counted twice.
    #[serde(default)]
    pub cannot_carry_sessions: u64,
    /// Which these are, in the order in which they would have to go until what is left fits: those towards the peers first, and of each direction
    /// what is being given up anyway, then the newest. Nothing is taken down by itself. At most the first 1,000.
    #[serde(default)]
    pub cannot_carry: Vec<UncarriedView>,
}

/// Another rate of a link, in one direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkChangeView {
    /// Seen from this node.
    pub direction: Direction,
    /// Bits per second.
    pub rate_bps: u64,
    /// From when on, RFC 3339.
    pub from: String,
    /// Up to when, RFC 3339; absent if until further notice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// An aggregate that its link cannot carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UncarriedView {
    /// Which.
    pub aggregate: AggregateName,
    /// Seen from this node.
    pub direction: Direction,
    /// Bits per second.
    pub rate_bps: u64,
    /// Sessions that it carries, or that are booked on it.
    pub sessions: u64,
    /// When, from now on.
    pub times: Vec<TimesView>,
}

/// From one time to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimesView {
    /// RFC 3339.
    pub from: String,
    /// RFC 3339; absent if there is no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}
