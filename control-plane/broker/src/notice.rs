//! What a peer still has to be told when something is given up, until it has confirmed.

use crate::config::Timers;
use crate::name::Nanos;

/// A release or a withdrawal on its way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Notice {
    state: State,
    failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Due,
    Asked(u64),
    Settled,
}

impl Notice {
    /// The peer is to be told.
    pub(crate) const DUE: Self = Self { state: State::Due, failures: 0 };
    /// The peer knows, or never heard of it.
    pub(crate) const SETTLED: Self = Self { state: State::Settled, failures: 0 };

    pub(crate) fn is_due(&self) -> bool {
        self.state == State::Due
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.state == State::Settled
    }

    /// Whether the first answer may still come.
    pub(crate) fn is_fresh(&self) -> bool {
        matches!(self.state, State::Asked(_)) && self.failures == 0
    }

    pub(crate) fn is_asked_by(&self, ticket: u64) -> bool {
        self.state == State::Asked(ticket)
    }

    pub(crate) const fn has_failed(&self) -> bool {
        self.failures > 0
    }

    pub(crate) const fn asked(&mut self, ticket: u64) {
        self.state = State::Asked(ticket);
    }

    pub(crate) const fn settle(&mut self) {
        self.state = State::Settled;
    }

    /// No answer; says how long to wait before the next try. It is not due again before that: see [`Self::again`].
    pub(crate) fn failed(&mut self, timers: &Timers) -> Nanos {
        self.state = State::Asked(0);
        let factor = 1u64.checked_shl(self.failures).unwrap_or(u64::MAX);
        self.failures = self.failures.saturating_add(1);
        Nanos(timers.retry.0.saturating_mul(factor)).min(timers.retry_max)
    }

    /// The wait is over.
    pub(crate) fn again(&mut self) {
        if self.state == State::Asked(0) {
            self.state = State::Due;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_come_at_doubling_intervals_up_to_the_longest() {
        let timers = Timers::default();
        let mut notice = Notice::DUE;
        let waits: Vec<u64> = (0..9).map(|_| notice.failed(&timers).0 / 1_000_000).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
        for _ in 0..100 {
            notice.failed(&timers);
        }
        assert_eq!(notice.failed(&timers), timers.retry_max);
    }

    #[test]
    fn a_failed_notice_is_due_again_only_after_the_wait() {
        let mut notice = Notice::DUE;
        notice.asked(7);
        notice.again();
        assert!(notice.is_fresh() && notice.is_asked_by(7));
        notice.failed(&Timers::default());
        assert!(!notice.is_due() && !notice.is_fresh());
        notice.again();
        assert!(notice.is_due());
    }
}
