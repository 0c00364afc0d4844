//! Media-processing slots: places of a node for what is done to media, such as transcoding or mixing, counted by name (R-002-14).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::name::{Nanos, SlotName};
use crate::record::Side;

/// How many of each.
pub type SlotCounts = BTreeMap<SlotName, u32>;

/// What a session needs at each side, for its interval.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MediaSlots {
    /// At the node that the client asks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub first: SlotCounts,
    /// At the other node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub second: SlotCounts,
}

impl MediaSlots {
    /// None at either side.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_empty() && self.second.is_empty()
    }

    /// As the second side knows them: its own.
    #[must_use]
    pub(crate) const fn of_second(second: SlotCounts) -> Self {
        Self { first: SlotCounts::new(), second }
    }

    /// At one side.
    #[must_use]
    pub const fn of(&self, side: Side) -> &SlotCounts {
        match side {
            Side::First => &self.first,
            Side::Second => &self.second,
        }
    }
}

/// Slots of one name at the moment of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotState {
    /// Which.
    pub name: SlotName,
    /// The node that has them.
    pub node: String,
    /// How many there are.
    pub capacity_slots: u64,
    /// How many are held: now, or in a refusal of a session with a start or an end the most at any time of it.
    pub used_slots: u64,
    /// How many are free from now on without end; in a refusal of a session with a start or an end throughout.
    pub free_slots: u64,
    /// In a refusal: the earliest time from which on what was asked would fit, for as long as asked, if nothing changes; none if it would at no time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fits_at: Option<Nanos>,
}
