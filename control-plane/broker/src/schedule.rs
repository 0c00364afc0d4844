//! When a session is to be in force, and what is refused of that.

use serde::{Deserialize, Serialize};

use crate::calendar::{Interval, OPEN};
use crate::config::Timers;
use crate::name::Nanos;
use crate::record::Side;
use crate::refusal::{Reason, Refusal};

/// When a session is to be in force: Unix time, by the clock of each node for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Schedule {
    /// Its first instant; from when it is asked for if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<Nanos>,
    /// The first instant after it; until it is deleted if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<Nanos>,
}

impl Schedule {
    /// From now on, without end.
    pub const OPEN: Self = Self { starts_at: None, ends_at: None };

    /// What it holds of a pool; of an interval that has begun only the rest counts there.
    #[must_use]
    pub fn interval(self) -> Interval {
        let (start, end) = (self.starts_at.unwrap_or_default(), self.ends_at.unwrap_or(OPEN));
        // Checked when it was asked for.
        Interval::new(start, end).unwrap_or(Interval::ALWAYS)
    }

    /// The same with another end.
    #[must_use]
    pub const fn ending(self, ends_at: Option<Nanos>) -> Self {
        Self { ends_at, ..self }
    }

    /// How long it is from `now` or its start on; none without end.
    pub(crate) fn duration(self, now: Nanos) -> Option<Nanos> {
        self.ends_at.map(|end| Nanos(end.0.saturating_sub(self.begin(now).0)))
    }

    /// What is to come of its interval; all of it if nothing is.
    pub(crate) fn ahead(self, now: Nanos) -> Interval {
        let interval = self.interval();
        Interval::new(self.begin(now), interval.end()).unwrap_or(interval)
    }

    /// Its start, or now if that has come.
    pub(crate) fn begin(self, now: Nanos) -> Nanos {
        self.starts_at.unwrap_or_default().max(now)
    }

    /// Whether its end has come.
    pub(crate) fn is_over(self, now: Nanos) -> bool {
        self.ends_at.is_some_and(|end| end <= now)
    }

    /// Until when it may still come up on that side, if it is a booking. The second side leaves it to the first to give up.
    pub(crate) fn deadline(self, side: Side, timers: &Timers) -> Nanos {
        let start = self.starts_at.unwrap_or_default().plus(timers.start);
        let deadline = match side {
            Side::First => start,
            Side::Second => start.plus(timers.clock_difference),
        };
        deadline.min(self.ends_at.unwrap_or(OPEN))
    }

    /// Whether a client may ask for it: to come, and not empty.
    pub(crate) fn check(self, now: Nanos) -> Result<(), Refusal> {
        if let Some(start) = self.starts_at
            && !(now < start && start < OPEN)
        {
            return Err(not_to_come("starts_at", start, now, "; leave it out to start now"));
        }
        self.check_end(now)
    }

    /// Whether its end is to come, and after its start.
    pub(crate) fn check_end(self, now: Nanos) -> Result<(), Refusal> {
        let Some(end) = self.ends_at else { return Ok(()) };
        if let Some(start) = self.starts_at
            && end <= start
        {
            let allowed = format!("a time after starts_at, {start}");
            return Err(Refusal::invalid("ends_at", end, allowed));
        }
        if now < end && end < OPEN {
            Ok(())
        } else {
            Err(not_to_come("ends_at", end, now, "; leave it out for no end"))
        }
    }

    /// Clocks that tell different times would keep another interval at each end. `sent_at` is the other node's.
    pub(crate) fn check_clocks(self, sent_at: Nanos, now: Nanos, timers: &Timers) -> Result<(), Refusal> {
        if self == Self::OPEN {
            return Ok(());
        }
        let difference = sent_at.0.abs_diff(now.0);
        if difference > timers.clock_difference.0 {
            let detail = format!(
                "the nodes' clocks, with the message's way, differ by {} ms; sessions with a start or an end need {} ms at most; set them by NTP or PTP, and restart the node whose clock was wrong",
                difference / 1_000_000,
                timers.clock_difference.0 / 1_000_000
            );
            return Err(Refusal::new(Reason::ClocksDiffer, detail));
        }
        Ok(())
    }

    /// The same as [`Self::check`] for another node's: what has begun there may have begun here.
    pub(crate) fn check_peers(self, sent_at: Nanos, now: Nanos, timers: &Timers) -> Result<(), Refusal> {
        self.check_clocks(sent_at, now, timers)?;
        if self.starts_at.is_some_and(|start| start == OPEN || self.deadline(Side::Second, timers) <= now) {
            let allowed = "a time to come, or not long ago";
            return Err(Refusal::invalid("starts_at", self.starts_at.unwrap_or_default(), allowed));
        }
        self.check_end(now)
    }
}

fn not_to_come(field: &str, time: Nanos, now: Nanos, instead: &str) -> Refusal {
    let allowed = format!("a time to come, before {OPEN}; it is {now} now{instead}");
    Refusal::invalid(field, time, allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn schedule(starts_at: Option<u64>, ends_at: Option<u64>) -> Schedule {
        const fn nanos(time: Option<u64>) -> Option<Nanos> {
            match time {
                Some(time) => Some(Nanos(time)),
                None => None,
            }
        }
        Schedule { starts_at: nanos(starts_at), ends_at: nanos(ends_at) }
    }

    #[test]
    fn only_what_is_to_come_and_not_empty_may_be_asked_for() {
        let now = Nanos(100);
        for good in [(None, None), (Some(101), None), (None, Some(101)), (Some(101), Some(102))] {
            assert_eq!(schedule(good.0, good.1).check(now), Ok(()), "{good:?}");
        }
        let bad = [
            (Some(100), None, "starts_at"),
            (Some(u64::MAX), None, "starts_at"),
            (None, Some(100), "ends_at"),
            (None, Some(u64::MAX), "ends_at"),
            (Some(110), Some(110), "ends_at"),
            (Some(110), Some(109), "ends_at"),
            (Some(110), Some(u64::MAX), "ends_at"),
        ];
        for (start, end, field) in bad {
            let refusal = schedule(start, end).check(now).unwrap_err();
            assert_eq!(
                (refusal.reason, refusal.field.as_deref()),
                (Reason::InvalidValue, Some(field)),
                "{start:?} {end:?}"
            );
        }
    }

    #[test]
    fn a_peers_start_may_be_past_for_a_while_and_its_clock_may_differ_a_little() {
        let timers = Timers { start: Nanos(50), clock_difference: Nanos(5), ..Timers::default() };
        let check = |start, end, sent_at, now| schedule(start, end).check_peers(Nanos(sent_at), Nanos(now), &timers);
        assert_eq!(check(Some(100), Some(200), 144, 149), Ok(()));
        assert_eq!(check(Some(100), Some(200), 154, 149), Ok(()));
        assert_eq!(check(None, None, 1, 149), Ok(()), "no time is told");
        let reason = |start, end, sent_at, now| check(start, end, sent_at, now).map_err(|refusal| refusal.reason);
        assert_eq!(reason(Some(100), Some(200), 143, 149), Err(Reason::ClocksDiffer));
        assert_eq!(reason(Some(100), Some(200), 155, 149), Err(Reason::ClocksDiffer));
        assert_eq!(check(Some(100), Some(200), 154, 154), Ok(()));
        assert_eq!(reason(Some(100), Some(200), 155, 155), Err(Reason::InvalidValue));
        assert_eq!(reason(Some(100), Some(120), 120, 120), Err(Reason::InvalidValue));
        assert_eq!(reason(None, Some(120), 120, 120), Err(Reason::InvalidValue));
    }
}
