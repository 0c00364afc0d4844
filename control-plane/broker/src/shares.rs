//! What an aggregate keeps for emergencies.
//!
//! That is a pool of its own beside the whole: the whole counts every flow, the other only flows that are no emergency, up to the capacity
//! without the part that is kept. So it holds at every instant, for bookings as well. A flow takes of all its pools or of none.

use crate::aggregate::Aggregate;
use crate::cost::Cost;
use crate::pool::Pool;
use crate::record::AggregateRecord;
use crate::refusal::Refusal;

/// One of an aggregate's pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// All of it.
    Whole,
    /// What flows that are no emergency may have together.
    Ordinary,
}

/// What is left of `value` without that many per cent, rounded down.
fn without(value: u64, percent: u8) -> u64 {
    let rest = u128::from(value) * u128::from(100u8.saturating_sub(percent)) / 100;
    u64::try_from(rest).unwrap_or(u64::MAX)
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
pub(crate) const fn is_no_percent(percent: &u8) -> bool {
    *percent == 0
}

/// `emergency_percent` is one.
pub(crate) fn check_percent(emergency_percent: u8) -> Result<(), Refusal> {
    if emergency_percent > 100 {
        return Err(Refusal::invalid("emergency_percent", emergency_percent, "0 to 100"));
    }
    Ok(())
}

/// The pool of flows that are no emergency; none if nothing is kept.
pub(crate) fn ordinary(capacity: Cost, emergency_percent: u8) -> Option<Pool> {
    let rest = Cost {
        rate_bps: without(capacity.rate_bps, emergency_percent),
        burst_bytes: without(capacity.burst_bytes, emergency_percent),
    };
    (emergency_percent > 0).then(|| Pool::new(rest))
}

impl Aggregate {
    /// One of its pools. Without a part for emergencies both are the whole.
    pub(crate) fn share(&self, share: Share) -> &Pool {
        match share {
            Share::Whole => &self.pool,
            Share::Ordinary => self.ordinary.as_ref().unwrap_or(&self.pool),
        }
    }

    /// The narrowest pool that counts such flows.
    pub(crate) const fn share_of(&self, emergency: bool) -> Share {
        if emergency || self.ordinary.is_none() { Share::Whole } else { Share::Ordinary }
    }

    /// What refusals call one of its pools.
    pub(crate) fn share_name(&self, share: Share) -> String {
        let AggregateRecord { name, emergency_percent, .. } = &self.record;
        match share {
            Share::Whole => format!("aggregate {name}"),
            Share::Ordinary => format!("aggregate {name} but for {emergency_percent} % for emergencies"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_rounded_down_and_never_wraps() {
        let rest = |value, percent| without(value, percent);
        assert_eq!([rest(1_000, 0), rest(1_000, 1), rest(999, 10), rest(1_000, 100)], [1_000, 990, 899, 0]);
        assert_eq!(rest(u64::MAX, 50), u64::MAX / 2);
        assert_eq!((check_percent(100), check_percent(101).is_err()), (Ok(()), true));
    }
}
