//! What a node can do as a whole.

use serde::{Deserialize, Serialize};
use turnpike_broker::name::SlotName;

/// Media-processing slots of a node, of one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaSlotsView {
    /// Which.
    pub name: SlotName,
    /// The node that has them.
    pub node: String,
    /// How many there are.
    pub capacity_slots: u64,
    /// How many sessions hold: now, or in a refusal of a session with a start or an end the most at any time of it.
    pub used_slots: u64,
    /// How many are free from now on without end; in a refusal of a session with a start or an end throughout.
    pub free_slots: u64,
    /// In a refusal: the earliest time from which on what was asked would fit for as long as asked, if nothing changes, RFC 3339; absent if
    /// it would at no time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fits_at: Option<String>,
}
