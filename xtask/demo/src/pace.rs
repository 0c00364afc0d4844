//! When to send the next packet: on an absolute schedule, and never faster than the flow's meter allows.

use std::time::{Duration, Instant};

/// Late by more than this many intervals, the schedule itself moves: a sleeper does not make up for lost time.
const LATE_INTERVALS_MAX: u32 = 2;

/// One stream's schedule.
#[derive(Debug, Clone)]
pub struct Pace {
    /// When the next packet should have gone had nothing been late.
    planned: Instant,
    /// Not before this.
    due: Instant,
    interval: Duration,
    gap_min: Duration,
}

impl Pace {
    /// Every `interval` from `start` on. After a late packet the next comes no sooner than three quarters of an interval.
    #[must_use]
    pub fn new(start: Instant, interval: Duration) -> Self {
        Self { planned: start, due: start, interval, gap_min: interval * 3 / 4 }
    }

    /// When the next packet goes.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.due
    }

    /// The packet that was due went at `now`.
    pub fn sent(&mut self, now: Instant) {
        let late_max = self.interval * LATE_INTERVALS_MAX;
        if now.saturating_duration_since(self.planned) > late_max {
            self.planned = now;
        }
        self.planned += self.interval;
        self.due = self.planned.max(now + self.gap_min);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(20);

    #[test]
    fn in_time_it_keeps_the_schedule() {
        let start = Instant::now();
        let mut pace = Pace::new(start, INTERVAL);
        for n in 1..=1000 {
            pace.sent(pace.due() + Duration::from_micros(300));
            assert_eq!(pace.due(), start + INTERVAL * n);
        }
    }

    #[test]
    fn a_gap_may_stretch_but_not_shrink() {
        let start = Instant::now();
        let mut pace = Pace::new(start, INTERVAL);
        let late = start + Duration::from_millis(17);
        pace.sent(late);
        assert_eq!(pace.due(), late + Duration::from_millis(15));
        let very_late = pace.due() + Duration::from_secs(3);
        pace.sent(very_late);
        assert_eq!(pace.due(), very_late + INTERVAL, "three seconds are not made up for");
    }

    /// A voice flow of 200-byte packets at 80 kbit/s with a burst of 1600 bytes, woken late at random.
    #[test]
    fn whatever_the_delays_a_call_conforms_to_its_meter() {
        let mut random = 1_u64;
        let mut next_random = move |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let start = Instant::now();
        let mut pace = Pace::new(start, INTERVAL);
        let (mut tokens, mut last) = (1600.0_f64, start);
        for n in 0..200_000 {
            let late = match next_random(100) {
                0 => next_random(2_000_000),
                1..10 => next_random(60_000),
                _ => next_random(2_000),
            };
            let now = pace.due() + Duration::from_micros(late);
            assert!(n == 0 || now - last >= Duration::from_millis(15));
            tokens = (tokens + (now - last).as_secs_f64() * 10_000.0).min(1600.0) - 200.0;
            assert!(tokens >= 0.0, "packet {n} exceeds the meter");
            last = now;
            pace.sent(now);
        }
    }
}
