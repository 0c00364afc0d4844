//! The node's time: nanoseconds of the Unix epoch that never go backwards.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use turnpike_broker::name::Nanos;

/// Reads the system's time once and goes on by the monotonic clock, so that setting the system's clock neither stalls
/// nor fires a timer.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    base: Nanos,
    start: Instant,
}

impl Clock {
    /// Starts now, or at `earliest` where the system's clock is behind what an earlier life has written.
    #[must_use]
    pub fn start(earliest: Nanos) -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { base: nanos(unix).max(earliest), start: Instant::now() }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.base.plus(nanos(self.start.elapsed()))
    }

    /// How long it is from now to `time`; zero if it has passed.
    #[must_use]
    pub fn until(&self, time: Nanos) -> Duration {
        Duration::from_nanos(time.0.saturating_sub(self.now().0))
    }
}

fn nanos(duration: Duration) -> Nanos {
    Nanos(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_does_not_go_back_behind_an_earlier_life() {
        let late = Nanos(u64::MAX / 2);
        let clock = Clock::start(late);
        assert!(clock.now() >= late);
        assert_eq!(clock.until(Nanos(1)), Duration::ZERO);
    }
}
