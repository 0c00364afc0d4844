//! `[capacity]` and `[media_slots]`.

use std::collections::BTreeMap;

use serde::Deserialize;
use turnpike_broker::name::SlotName;

use super::Faults;

/// Most names of media slots, so that a node's view stays small.
const SLOT_NAMES_MAX: usize = 64;

/// `[capacity]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capacity {
    /// What the node as a whole can forward, on the wire.
    pub rate_bps: Option<u64>,
}

/// `[media_slots]`: how many there are, by name.
pub type MediaSlots = BTreeMap<SlotName, u32>;

pub(super) fn check(capacity: &Capacity, media_slots: &MediaSlots, faults: &mut Faults) {
    if let Some(rate) = capacity.rate_bps {
        faults.check("capacity.rate_bps", rate, 1_000..=400_000_000_000);
    }
    if media_slots.len() > SLOT_NAMES_MAX {
        faults.add("media_slots", format!("{} names", media_slots.len()), &format!("at most {SLOT_NAMES_MAX}"));
    }
    for (name, count) in media_slots {
        faults.check(&format!("media_slots.{name}"), (*count).into(), 1..=1_000_000);
    }
}
