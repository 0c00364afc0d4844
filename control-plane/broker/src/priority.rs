//! Priorities of sessions (RFC 3181): who may take room from whom, and who is called first.

use serde::{Deserialize, Serialize};

use crate::refusal::Refusal;

/// How a session stands to others that want the same room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Priority {
    /// With which it asks for room: RFC 3181's preemption priority. Higher wins.
    #[serde(default, skip_serializing_if = "is_zero", rename = "setup_priority")]
    pub setup: u16,
    /// With which it keeps what it has: RFC 3181's defending priority; at least `setup`.
    #[serde(default, skip_serializing_if = "is_zero", rename = "holding_priority")]
    pub holding: u16,
    /// It may use what aggregates keep for emergencies, goes before every session that is none, and keeps its room against all of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub emergency: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
const fn is_zero(number: &u16) -> bool {
    *number == 0
}

/// Where a session stands: emergencies above all others, then by number. Greater is higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    emergency: bool,
    number: u16,
}

impl Priority {
    /// What a session has that says nothing: it takes nothing from anybody, and everybody above 0 may take from it.
    pub const LOWEST: Self = Self { setup: 0, holding: 0, emergency: false };

    /// With which it asks.
    pub(crate) const fn setup_rank(self) -> Rank {
        Rank { emergency: self.emergency, number: self.setup }
    }

    /// With which it keeps.
    pub(crate) const fn holding_rank(self) -> Rank {
        Rank { emergency: self.emergency, number: self.holding }
    }

    /// Whether its ask may end a session that has `other`. Never at the same rank. No ring of sessions can go on ending each other: what
    /// ends another asks with a higher rank than that one kept with, which is no lower than the rank that one asked with.
    #[must_use]
    pub fn may_preempt(self, other: Self) -> bool {
        self.setup_rank() > other.holding_rank()
    }

    /// A session that kept its room with less than it took it with could lose it to one that it has taken it from (RFC 3181, section 4).
    pub(crate) fn check(self) -> Result<(), Refusal> {
        if self.holding < self.setup {
            let allowed = format!("{}, the setup_priority, to {}", self.setup, u16::MAX);
            return Err(Refusal::invalid("holding_priority", self.holding, allowed));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::Reason;
    use proptest::prelude::*;

    const fn priority(setup: u16, holding: u16, emergency: bool) -> Priority {
        Priority { setup, holding, emergency }
    }

    #[test]
    fn only_a_higher_rank_takes_from_a_lower_one() {
        let cases = [
            (priority(1, 1, false), priority(0, 0, false), true),
            (priority(1, 1, false), priority(0, 1, false), false),
            (priority(1, 9, false), priority(1, 1, false), false),
            (priority(0, 0, true), priority(u16::MAX, u16::MAX, false), true),
            (priority(u16::MAX, u16::MAX, false), priority(0, 0, true), false),
            (priority(1, 1, true), priority(0, 0, true), true),
            (priority(1, 1, true), priority(1, 1, true), false),
        ];
        for (asks, has, may) in cases {
            assert_eq!(asks.may_preempt(has), may, "{asks:?} {has:?}");
        }
    }

    #[test]
    fn what_keeps_with_less_than_it_asked_with_is_refused() {
        assert_eq!(priority(3, 3, false).check(), Ok(()));
        assert_eq!(priority(3, 4, false).check(), Ok(()));
        let refusal = priority(3, 2, true).check().unwrap_err();
        assert_eq!((refusal.reason, refusal.field.as_deref()), (Reason::InvalidValue, Some("holding_priority")));
    }

    proptest! {
        /// Each of a chain ends the one before; the first cannot end the last.
        #[test]
        fn no_ring_of_sessions_ends_each_other(
            chain in prop::collection::vec((0u16..5, 0u16..5, any::<bool>()), 2..6),
        ) {
            let chain: Vec<_> = chain.into_iter().map(|(setup, more, emergency)| priority(setup, setup + more, emergency)).collect();
            let ends = chain.windows(2).all(|pair| pair[1].may_preempt(pair[0]));
            prop_assert!(!(ends && chain[0].may_preempt(chain[chain.len() - 1])));
        }
    }
}
