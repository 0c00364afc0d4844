//! The network between the nodes: each direction of each pair has its own delay, and its own bad times.

use std::collections::BTreeMap;

use crate::random::Random;
use crate::time::{MS, S, Time};

/// How bad it is, in chances per million for each message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    pub(crate) loss: u64,
    pub(crate) duplication: u64,
    /// Of a delay that other messages overtake, and that may be longer than every time-out for an answer.
    pub(crate) straggling: u64,
}

/// What became of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Fates {
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    pub(crate) cut_off: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
}

#[derive(Debug, Clone, Copy)]
struct Way {
    delay_ns: u64,
    cut_until: Time,
    latest: Time,
}

pub(crate) struct Network {
    random: Random,
    /// None: nothing is lost, repeated or late.
    weather: Option<Weather>,
    ways: BTreeMap<(usize, usize), Way>,
    pub(crate) fates: Fates,
    pub(crate) partitions: u64,
}

impl Network {
    pub(crate) fn new(mut random: Random, weather: Weather, pairs: impl Iterator<Item = (usize, usize)>) -> Self {
        let mut ways = BTreeMap::new();
        for (a, b) in pairs {
            for way in [(a, b), (b, a)] {
                let delay_ns = random.between(MS / 10, 40 * MS);
                ways.insert(way, Way { delay_ns, cut_until: Time(0), latest: Time(0) });
            }
        }
        Self { random, weather: Some(weather), ways, fates: Fates::default(), partitions: 0 }
    }

    /// No more bad luck, and all partitions end.
    pub(crate) fn calm(&mut self) {
        self.weather = None;
        self.ways.values_mut().for_each(|way| way.cut_until = Time(0));
    }

    /// Nothing gets from one node to the other until then; the other way may stay open.
    pub(crate) fn cut(&mut self, from: usize, to: usize, until: Time) {
        if let Some(way) = self.ways.get_mut(&(from, to)) {
            way.cut_until = until.max(way.cut_until);
        }
    }

    /// When the copies of a message that is sent now arrive; none if it is lost.
    pub(crate) fn send(&mut self, from: usize, to: usize, now: Time) -> Vec<Time> {
        let Some(way) = self.ways.get_mut(&(from, to)) else {
            return Vec::new();
        };
        self.fates.sent += 1;
        if now < way.cut_until {
            self.fates.cut_off += 1;
            return Vec::new();
        }
        let Some(Weather { loss, duplication, straggling }) = self.weather else {
            return vec![now.plus(way.delay_ns)];
        };
        if self.random.chance(loss) {
            self.fates.lost += 1;
            return Vec::new();
        }
        let copies = if self.random.chance(duplication) { 2 } else { 1 };
        self.fates.duplicated += copies - 1;
        let random = &mut self.random;
        let arrivals: Vec<Time> = (0..copies)
            .map(|_| {
                let jitter_ns = random.below(2 * MS);
                let late_ns = if random.chance(straggling) { random.below(9 * S) } else { 0 };
                now.plus(way.delay_ns + jitter_ns + late_ns)
            })
            .collect();
        for &arrival in &arrivals {
            self.fates.reordered += u64::from(arrival < way.latest);
            way.latest = arrival.max(way.latest);
        }
        arrivals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEATHER: Weather = Weather { loss: 100_000, duplication: 100_000, straggling: 100_000 };

    fn network() -> Network {
        Network::new(Random::new(1), WEATHER, [(0, 1)].into_iter())
    }

    #[test]
    fn bad_weather_loses_repeats_and_reorders_at_its_rates() {
        let mut network = network();
        for ms in 0..10_000 {
            network.send(0, 1, Time(ms * MS));
        }
        let Fates { sent, lost, cut_off, duplicated, reordered } = network.fates;
        assert_eq!((sent, cut_off), (10_000, 0));
        assert!((900..1_100).contains(&lost) && (800..1_000).contains(&duplicated), "{lost} {duplicated}");
        assert!(reordered > 1_000, "{reordered}");
    }

    #[test]
    fn a_partition_cuts_one_way_and_ends() {
        let mut network = network();
        network.calm();
        network.cut(0, 1, Time(S));
        assert_eq!(network.send(0, 1, Time(S - 1)).len(), 0);
        assert_eq!(network.send(1, 0, Time(0)).len(), 1);
        assert_eq!(network.send(0, 1, Time(S)).len(), 1);
        assert_eq!(network.fates.cut_off, 1);
    }
}
