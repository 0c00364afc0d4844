//! Two windows of one flow become one: another table went on counting in the middle of it.

use super::{HISTORY_SHIFT, PLACE_MASK, SOURCE_MASK, WINDOW, leaving};

/// Bits of the history, with the number that left it last.
const HISTORY_MASK: u64 = (1 << (64 - HISTORY_SHIFT)) - 1;

/// What [`join`] finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Joined {
    /// The word to go on with.
    pub window: u64,
    /// Packets that left the old window unseen and that nobody has counted.
    pub lost: u64,
    /// Gaps that begin with them.
    pub gaps: u64,
    /// 1 if the new window is another run's.
    pub restarts: u64,
}

/// Joins the window of a table that packets do not find any more to that of the table after it, which began with zero: as long as nobody
/// knew better, it took everything before its first packet for seen. What was missing in the old window may still come in the new one.
///
/// Numbers between the last packet of the old window and the first of the new one are nobody's, as they are before a run's first packet.
#[must_use]
pub const fn join(old: u64, new: u64) -> Joined {
    if old == 0 || new == 0 {
        return Joined { window: old | new, lost: 0, gaps: 0, restarts: 0 };
    }
    let (old_history, new_history) = (old >> HISTORY_SHIFT, new >> HISTORY_SHIFT);
    let ahead = new.wrapping_sub(old) & 0xffff;
    let behind = old.wrapping_sub(new) & 0xffff;
    let restarts = (old ^ new) & SOURCE_MASK != 0;
    if !restarts && behind < ahead {
        // Only packets that were late have come since.
        let seen = if behind < WINDOW as u64 { 1 << behind } else { 0 };
        let window = (old_history | seen) << HISTORY_SHIFT | old & PLACE_MASK;
        return Joined { window, lost: 0, gaps: 0, restarts: 0 };
    }
    if restarts || ahead > WINDOW as u64 {
        // It is over, as far as it was known.
        let (lost, gaps) = leaving(old_history, WINDOW as u64);
        return Joined { window: new, lost, gaps, restarts: restarts as u64 };
    }
    let (lost, gaps) = leaving(old_history, ahead);
    // Of the numbers that move it ahead, none has left it.
    let since = (1 << ahead) - 1;
    let history = (new_history & since) | (old_history << ahead & HISTORY_MASK & !since);
    Joined { window: history << HISTORY_SHIFT | new & PLACE_MASK, lost, gaps, restarts: 0 }
}
