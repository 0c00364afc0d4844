//! How busy the wan was in its busiest second.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::topology::{Namespace, WAN, received};
use crate::worker::Worker;

const SAMPLE: Duration = Duration::from_millis(250);
const WINDOW: Duration = Duration::from_secs(1);

/// Watches a port until it is dropped.
#[derive(Debug)]
pub struct WanWatch {
    peaks: Arc<Peaks>,
    _worker: Worker,
}

#[derive(Debug, Default)]
struct Peaks {
    now_bps: AtomicU64,
    peak_bps: AtomicU64,
    settled: AtomicBool,
    settled_peak_bps: AtomicU64,
}

impl WanWatch {
    /// Watches what the wan port of `namespace` receives, in IP bits.
    ///
    /// # Errors
    ///
    /// When there can be no thread or the port's counters cannot be read.
    pub fn start(namespace: &Namespace) -> anyhow::Result<Self> {
        let peaks = Arc::new(Peaks::default());
        let theirs = Arc::clone(&peaks);
        // A thread keeps the namespace of the one that starts it.
        let worker = namespace.run(|| {
            received(WAN)?;
            Worker::start("wan", move |stop| watch(stop, &theirs))
        })?;
        Ok(Self { peaks, _worker: worker })
    }

    /// In the last second.
    #[must_use]
    pub fn now_bps(&self) -> u64 {
        self.peaks.now_bps.load(Ordering::Relaxed)
    }

    /// From now on bursts are spent: seconds that begin later count for [`Self::settled_peak_bps`].
    pub fn settle(&self) {
        self.peaks.settled.store(true, Ordering::Relaxed);
    }

    /// In the busiest second after [`Self::settle`].
    #[must_use]
    pub fn settled_peak_bps(&self) -> u64 {
        self.peaks.settled_peak_bps.load(Ordering::Relaxed)
    }

    /// In the busiest second of all.
    #[must_use]
    pub fn peak_bps(&self) -> u64 {
        self.peaks.peak_bps.load(Ordering::Relaxed)
    }
}

fn watch(stop: &AtomicBool, peaks: &Peaks) {
    let (mut all, mut settled) = (Window::default(), Window::default());
    while !stop.load(Ordering::Relaxed) {
        let bytes = match received(WAN) {
            Ok(count) => count.ip_bytes,
            Err(error) => {
                eprintln!("cannot watch the wan: {error:#}");
                return;
            }
        };
        let now = Instant::now();
        if let Some(rate) = all.add(now, bytes) {
            peaks.now_bps.store(rate, Ordering::Relaxed);
            peaks.peak_bps.fetch_max(rate, Ordering::Relaxed);
        }
        if peaks.settled.load(Ordering::Relaxed)
            && let Some(rate) = settled.add(now, bytes)
        {
            peaks.settled_peak_bps.fetch_max(rate, Ordering::Relaxed);
        }
        std::thread::sleep(SAMPLE);
    }
}

#[derive(Default)]
struct Window {
    samples: VecDeque<(Instant, u64)>,
}

impl Window {
    /// Bits per second over the last second or a little more; nothing before a second is over.
    fn add(&mut self, now: Instant, bytes: u64) -> Option<u64> {
        self.samples.push_back((now, bytes));
        while self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW) {
            self.samples.pop_front();
        }
        let (at, before) = self.samples.front()?;
        let time = now.duration_since(*at);
        if time < WINDOW {
            return None;
        }
        let bits = u128::from(bytes.saturating_sub(*before)) * 8 * 1_000_000_000;
        u64::try_from(bits / time.as_nanos()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_seen_in_its_second() {
        let start = Instant::now();
        let mut window = Window::default();
        let at = |n: u32| start + SAMPLE * n;
        let rates: Vec<_> =
            (0..13).map(|n| window.add(at(n), u64::from(n) * 1000 + if n > 5 { 50_000 } else { 0 })).collect();
        assert_eq!(rates[..4], [None; 4]);
        assert_eq!(rates[4..6], [Some(32_000); 2]);
        assert_eq!(rates[6..10], [Some(432_000); 4]);
        assert_eq!(rates[10..], [Some(32_000); 3]);
    }
}
