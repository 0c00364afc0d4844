//! Virtual time: one true time that nobody in the world can read, and a clock for each node that drifts from it.

use std::collections::BTreeMap;

use turnpike_broker::name::Nanos;

pub(crate) const US: u64 = 1_000;
pub(crate) const MS: u64 = 1_000_000;
pub(crate) const S: u64 = 1_000_000_000;

/// True time, ns since the world began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Time(pub(crate) u64);

impl Time {
    pub(crate) const fn plus(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }
}

/// One node's clock: begins somewhere, and goes faster or slower than true time. It never goes back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    pub(crate) offset_ns: u64,
    /// How much faster it goes, in parts per million.
    pub(crate) drift_ppm: i32,
}

impl Clock {
    const PPM: i128 = 1_000_000;

    pub(crate) fn at(self, time: Time) -> Nanos {
        let gone = i128::from(time.0) * (Self::PPM + i128::from(self.drift_ppm)) / Self::PPM;
        Nanos(self.offset_ns.saturating_add(u64::try_from(gone).unwrap_or(u64::MAX)))
    }

    /// The first true time at which the clock shows this, or more.
    pub(crate) fn when(self, shown: Nanos) -> Time {
        let gone = i128::from(shown.0.saturating_sub(self.offset_ns));
        let ppm = Self::PPM + i128::from(self.drift_ppm);
        Time(u64::try_from((gone * Self::PPM + ppm - 1) / ppm).unwrap_or(u64::MAX))
    }
}

/// What is to happen, in the order of time, and at one time in the order of scheduling.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    events: BTreeMap<(Time, u64), E>,
    sequence: u64,
}

impl<E> Queue<E> {
    pub(crate) const fn new() -> Self {
        Self { events: BTreeMap::new(), sequence: 0 }
    }

    pub(crate) fn at(&mut self, time: Time, event: E) {
        self.sequence += 1;
        self.events.insert((time, self.sequence), event);
    }

    pub(crate) fn pop(&mut self) -> Option<(Time, E)> {
        self.events.pop_first().map(|((time, _), event)| (time, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_shows_a_time_when_it_says_so_and_not_before() {
        for drift_ppm in [-10_000, -7, 0, 13, 10_000] {
            let clock = Clock { offset_ns: 5 * S, drift_ppm };
            for shown in [5 * S, 5 * S + 1, 7 * S + 3, 1_000 * S + 999] {
                let when = clock.when(Nanos(shown));
                assert!(clock.at(when) >= Nanos(shown), "{drift_ppm} {shown}");
                assert!(when.0 == 0 || clock.at(Time(when.0 - 1)) < Nanos(shown), "{drift_ppm} {shown}");
            }
        }
    }

    #[test]
    fn what_is_at_one_time_comes_in_the_order_of_scheduling() {
        let mut queue = Queue::new();
        for (time, event) in [(2, 'c'), (1, 'a'), (2, 'd'), (1, 'b')] {
            queue.at(Time(time), event);
        }
        let order: String = std::iter::from_fn(|| queue.pop()).map(|(_, event)| event).collect();
        assert_eq!(order, "abcd");
    }
}
