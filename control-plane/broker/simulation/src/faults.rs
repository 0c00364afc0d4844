//! Faults by chance: partitions, pauses, crashes. Everything that a host, a process or a path does wrong but for single messages.

use crate::network::Weather;
use crate::random::Random;
use crate::time::{MS, S};
use crate::world::{Event, World};

/// The longest time that a node is away or a direction cut.
const LONGEST_NS: u64 = 40 * S;

/// What clocks that agree show about when a world begins.
const AGREED_NS: u64 = 1_000 * S;

/// How bad a world is; each has its own mixture.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Climate {
    pub(crate) weather: Weather,
    /// Chances per million of a death at each place where one is possible.
    pub(crate) crash: u64,
    /// Chances per million that an installation fails.
    pub(crate) install_failure: u64,
    /// Between two partitions somewhere, and between two pauses.
    partition_every_ns: u64,
    pause_every_ns: u64,
    /// How far clocks may drift.
    pub(crate) drift_ppm_max: u64,
}

impl Climate {
    pub(crate) fn of(random: &mut Random, faults: bool, nodes: usize) -> Self {
        if !faults {
            let weather = Weather { loss: 0, duplication: 0, straggling: 0 };
            return Self {
                weather,
                crash: 0,
                install_failure: 0,
                partition_every_ns: 0,
                pause_every_ns: 0,
                drift_ppm_max: 0,
            };
        }
        let weather = Weather {
            loss: random.between(1_000, 120_000),
            duplication: random.between(1_000, 100_000),
            straggling: random.between(1_000, 80_000),
        };
        let nodes = nodes as u64;
        Self {
            weather,
            crash: random.between(100, 3_000),
            install_failure: random.between(0, 20_000),
            partition_every_ns: random.between(60, 400) * S / nodes,
            pause_every_ns: random.between(60, 400) * S / nodes,
            drift_ppm_max: random.between(0, 10_000),
        }
    }
}

impl Climate {
    /// Where a node's clock begins. Most agree within what sessions with a start or an end need, few do not at all.
    pub(crate) fn clock_begins(&self, random: &mut Random) -> u64 {
        if self.drift_ppm_max > 0 && random.chance(40_000) {
            return random.between(1, 2 * AGREED_NS);
        }
        AGREED_NS + random.below(4 * S)
    }
}

impl World {
    /// The first of each kind; each schedules the next.
    pub(crate) fn begin_faults(&mut self) {
        for (every_ns, event) in
            [(self.climate.partition_every_ns, Event::Partition), (self.climate.pause_every_ns, Event::Pause)]
        {
            if every_ns > 0 {
                let at = self.now.plus(self.random.below(2 * every_ns));
                self.queue.at(at, event);
            }
        }
    }

    /// Short ones are frequent, long ones are rare.
    fn how_long(&mut self) -> u64 {
        match self.random.below(4) {
            0 | 1 => self.random.between(10 * MS, S),
            2 => self.random.between(S, 8 * S),
            _ => self.random.between(8 * S, LONGEST_NS),
        }
    }

    /// Cuts one direction of one path, both, or all that one node sends or receives.
    pub(crate) fn partition(&mut self) {
        let until = self.now.plus(self.how_long());
        let (a, b) = self.pairs[self.random.index(self.pairs.len())];
        let (a, b) = if self.random.chance(500_000) { (a, b) } else { (b, a) };
        let ways: Vec<(usize, usize)> = match self.random.below(4) {
            0 => vec![(a, b)],
            1 => vec![(a, b), (b, a)],
            which => {
                let of_a = self.pairs.iter().filter(|pair| pair.0 == a || pair.1 == a);
                let others: Vec<usize> = of_a.map(|&(x, y)| if x == a { y } else { x }).collect();
                others.into_iter().map(|other| if which == 2 { (a, other) } else { (other, a) }).collect()
            }
        };
        for (from, to) in ways {
            self.network.cut(from, to, until);
            self.network.partitions += 1;
        }
        let next = self.now.plus(self.random.below(2 * self.climate.partition_every_ns));
        self.queue.at(next, Event::Partition);
    }

    /// One process does nothing for a time; what comes waits.
    pub(crate) fn pause(&mut self) {
        let length_ns = self.how_long();
        let until = self.now.plus(length_ns);
        let index = self.random.index(self.nodes.len());
        let node = &mut self.nodes[index];
        if !node.down {
            node.paused_until = until.max(node.paused_until);
            node.well_since = node.paused_until;
            self.pauses.0 += 1;
            self.pauses.1 += u64::from(length_ns > node.config.timers.hold.0);
        }
        let next = self.now.plus(self.random.below(2 * self.climate.pause_every_ns));
        self.queue.at(next, Event::Pause);
    }

    /// Whether the process dies here, having done this last.
    pub(crate) fn dies(&mut self, index: usize, after: &'static str) -> bool {
        let point = self.crash_points;
        self.crash_points += 1;
        let chosen = self.crash_at == Some(point);
        if !chosen && (self.is_calm || !self.random.chance(self.climate.crash)) {
            return false;
        }
        if self.options.trace {
            println!("{} n{index} dies {after}", self.now.0);
        }
        *self.crashes.entry(after).or_default() += 1;
        let with_host = !chosen && self.random.chance(100_000);
        self.kill(index, with_host);
        true
    }

    fn kill(&mut self, index: usize, with_host: bool) {
        if with_host {
            self.hosts_lost += 1;
            self.checker.host_lost(index, &self.nodes[index]);
            self.clients.host_lost(index);
            self.nodes[index].plane = crate::plane::Plane::default();
        }
        let asking: Vec<_> = self.nodes[index].incoming.values().cloned().collect();
        self.nodes[index].kill();
        self.checker.killed(index);
        for incoming in asking {
            self.break_off(index, incoming.from, incoming.from_life, incoming.ticket);
        }
        for step in self.clients.broken(index) {
            self.try_again(step);
        }
        let back = self.now.plus(if self.is_calm { S } else { self.random.below(20 * S) });
        self.queue.at(back, Event::Restart { node: index });
    }

    /// Some notice at once that nobody is there any more; others wait for their time-out.
    pub(crate) fn break_off(&mut self, by: usize, to: usize, life: u32, ticket: u64) {
        if self.random.chance(500_000) {
            let answer = Err("the connection broke".to_owned());
            for at in self.network.send(by, to, self.now) {
                let answer = answer.clone();
                self.queue.at(at, Event::Reply { to, life, ticket, answer });
            }
        }
    }
}
