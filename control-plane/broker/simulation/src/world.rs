//! The world: what happens next, and what comes of it.

use turnpike_broker::message::{PeerAnswer, PeerRequest};
use turnpike_broker::name::{Epoch, Nanos};
use turnpike_broker::record::{Direction, Side};
use turnpike_broker::{Broker, Credential, Input, Request};

use crate::Options;
use crate::checker::{Checker, Held, Violation};
use crate::clients::{Clients, Step};
use crate::faults::Climate;
use crate::network::Network;
use crate::node::{Asked, Incoming, Node};
use crate::random::Random;
use crate::report::{Crashes, Report};
use crate::time::{Clock, MS, Queue, S, Time};
use crate::topology::{config, pairs};

/// Between two looks at those that wait.
const LOOK_EVERY_NS: u64 = 5 * S;
/// So much later the world must be at rest.
const REST_NS_MAX: u64 = 3_600 * S;

#[derive(Debug)]
pub(crate) enum Event {
    /// The broker's thread takes what has come.
    Work {
        node: usize,
        life: u32,
    },
    /// The data plane's thread takes its next job.
    Job {
        node: usize,
        life: u32,
    },
    /// A timer of the broker's.
    Wake {
        node: usize,
        life: u32,
        at: Nanos,
    },
    /// A message arrives.
    Request {
        from: usize,
        from_life: u32,
        ticket: u64,
        to: usize,
        to_life: u32,
        epoch: Epoch,
        request: PeerRequest,
    },
    /// An answer arrives, or its absence is noticed.
    Reply {
        to: usize,
        life: u32,
        ticket: u64,
        answer: Result<PeerAnswer, String>,
    },
    Restart {
        node: usize,
    },
    Partition,
    Pause,
    Traffic {
        node: usize,
    },
    Client(Step),
    Dial,
    Calm,
    /// When all is calm: does anybody wait for room that there is?
    Look,
}

pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) now: Time,
    pub(crate) at_work: Option<usize>,
    pub(crate) queue: Queue<Event>,
    pub(crate) random: Random,
    pub(crate) climate: Climate,
    pub(crate) is_calm: bool,
    pub(crate) nodes: Vec<Node>,
    pub(crate) pairs: Vec<(usize, usize)>,
    pub(crate) network: Network,
    pub(crate) clients: Clients,
    pub(crate) checker: Checker,
    pub(crate) crash_at: Option<u64>,
    pub(crate) crash_points: u64,
    pub(crate) crashes: Crashes,
    pub(crate) hosts_lost: u64,
    pub(crate) pauses: (u64, u64),
    restarts: u64,
    pub(crate) installs_failed: u64,
    tickets: u64,
    pub(crate) digest: u64,
}

impl World {
    pub(crate) fn new(options: &Options) -> Self {
        let mut random = Random::new(options.seed);
        let mut places = random.fork();
        let pairs = pairs(options.nodes, &mut places);
        let climate = Climate::of(&mut random, options.faults, options.nodes);
        let nodes = (0..options.nodes).map(|node| {
            let drift_ppm = i32::try_from(places.below(2 * climate.drift_ppm_max + 1)).unwrap_or_default()
                - i32::try_from(climate.drift_ppm_max).unwrap_or_default();
            let clock = Clock { offset_ns: climate.clock_begins(&mut places), drift_ppm };
            Node::new(config(node, &pairs, &mut places), clock, options.prepare)
        });
        let nodes = nodes.collect();
        let network = Network::new(random.fork(), climate.weather, pairs.iter().copied());
        let clients = Clients::new(random.fork(), pairs.iter().copied());
        Self {
            options: *options,
            now: Time(0),
            at_work: None,
            queue: Queue::new(),
            random,
            climate,
            is_calm: false,
            nodes,
            pairs: pairs.into_iter().collect(),
            network,
            clients,
            checker: Checker::default(),
            crash_at: options.crash_at,
            crash_points: 0,
            crashes: Crashes::new(),
            hosts_lost: 0,
            pauses: (0, 0),
            restarts: 0,
            installs_failed: 0,
            tickets: 0,
            digest: 0xcbf2_9ce4_8422_2325,
        }
    }

    /// Clients and faults, then rest, then the end of everything that is left.
    pub(crate) fn run(&mut self) -> Result<(), Violation> {
        self.begin();
        self.settle()?;
        let rests = self.checker.rests(&self.nodes, &self.clients);
        self.judge(rests)?;
        self.clients.calls.iter_mut().for_each(|call| call.end_asked = true);
        self.end_all(|broker| {
            let first = broker.sessions().filter(|record| record.side == Side::First);
            first.map(|record| Request::DeleteSession(record.id.clone())).collect()
        })?;
        self.end_all(|broker| {
            let out = broker.aggregates().filter(|record| record.direction == Direction::Out);
            out.map(|record| Request::DeleteAggregate(record.name.clone())).collect()
        })?;
        let empty = self.checker.is_empty(&self.nodes, &self.clients);
        self.judge(empty)
    }

    /// Asks for the end of these, and once more where a process died on it.
    fn end_all(&mut self, of: impl Fn(&Broker) -> Vec<Request>) -> Result<(), Violation> {
        for _ in 0..2 {
            for node in 0..self.nodes.len() {
                for request in of(&self.nodes[node].broker) {
                    self.ask(node, request);
                }
            }
            self.settle()?;
        }
        Ok(())
    }

    fn begin(&mut self) {
        for trunk in 0..self.clients.trunks.len() {
            let at = Time(self.random.below(5 * S));
            self.queue.at(at, Event::Client(Step::Reserve(trunk)));
        }
        for node in 0..self.nodes.len() {
            self.queue.at(Time(self.random.below(2 * S)), Event::Traffic { node });
        }
        self.queue.at(Time(5 * S), Event::Dial);
        self.queue.at(Time(self.options.busy_s * S), Event::Calm);
        self.begin_faults();
    }

    /// Until nothing is left to happen.
    fn settle(&mut self) -> Result<(), Violation> {
        let mut end = None;
        while let Some((at, event)) = self.queue.pop() {
            self.now = at.max(self.now);
            self.at_work = None;
            let held = self.step(event);
            self.judge(held)?;
            if self.is_calm && self.now > *end.get_or_insert_with(|| self.now.plus(REST_NS_MAX)) {
                return self.judge(Checker::is_stuck(&self.nodes));
            }
        }
        self.at_work = None;
        Ok(())
    }

    fn judge(&self, held: Held) -> Result<(), Violation> {
        held.map_err(|broken| Checker::violation(broken, self.now, self.at_work))
    }

    fn is_alive(&mut self, node: usize, life: u32) -> bool {
        self.at_work = Some(node);
        self.nodes[node].life == life && !self.nodes[node].down
    }

    fn step(&mut self, event: Event) -> Held {
        match event {
            Event::Work { node, life } => {
                if self.is_alive(node, life) {
                    return self.work(node, life);
                }
            }
            Event::Job { node, life } => {
                if self.is_alive(node, life) {
                    return self.job(node, life);
                }
            }
            Event::Wake { node, life, at } => {
                if self.is_alive(node, life) && self.nodes[node].wake == Some(at) {
                    self.nodes[node].wake = None;
                    self.give(node, Input::Tick.into());
                }
            }
            Event::Request { from, from_life, ticket, to, to_life, epoch, request } => {
                if self.is_alive(to, to_life) {
                    let own = self.next_ticket();
                    let peer = self.nodes[from].config.node.clone();
                    let is_stale = self.checker.heard(to, from, epoch);
                    let incoming = Incoming { from, from_life, ticket, is_stale, request: request.clone() };
                    self.nodes[to].incoming.insert(own, incoming);
                    self.give(
                        to,
                        Input::PeerRequest { ticket: own, peer, epoch, request, credential: Credential::default() }
                            .into(),
                    );
                } else {
                    // The connection it was sent on has gone with the process.
                    self.break_off(to, from, from_life, ticket);
                }
            }
            Event::Reply { to, life, ticket, answer } => {
                if self.is_alive(to, life) && self.nodes[to].outgoing.remove(&ticket) {
                    self.give(to, Input::PeerAnswered { ticket, answer }.into());
                }
            }
            Event::Restart { node } => {
                self.at_work = Some(node);
                self.restarts += 1;
                let (changes, effects) = self.nodes[node].start(self.now, self.options.prepare);
                self.checker.worked(node, &self.nodes[node])?;
                return self.carry_out(node, changes, effects);
            }
            Event::Calm => {
                self.is_calm = true;
                self.network.calm();
                self.nodes.iter_mut().for_each(|node| node.paused_until = Time(0));
                self.queue.at(self.now.plus(LOOK_EVERY_NS), Event::Look);
            }
            Event::Look => {
                if self.checker.nobody_waits_in_vain(&self.nodes, self.now)? {
                    self.queue.at(self.now.plus(LOOK_EVERY_NS), Event::Look);
                }
            }
            // Nobody does anything more of their own.
            Event::Partition | Event::Pause | Event::Traffic { .. } | Event::Client(_) | Event::Dial
                if self.is_calm => {}
            Event::Partition => self.partition(),
            Event::Pause => self.pause(),
            Event::Traffic { node } => {
                self.checker.is_enforced_in_time(node, &self.nodes[node], self.now)?;
                return self.traffic(node);
            }
            Event::Client(step) => self.client(step),
            Event::Dial => self.dial(),
        }
        Ok(())
    }

    const fn next_ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    fn dial(&mut self) {
        if self.clients.calls.len() >= self.options.sessions {
            return;
        }
        let (nodes, now) = (&self.nodes, self.now);
        let step = self.clients.dial(|node| nodes[node].clock.at(now));
        self.queue.at(self.now, Event::Client(step));
        let every_ns = self.options.busy_s.saturating_sub(5).max(1) * S / (self.options.sessions as u64).max(1);
        let next = self.now.plus(self.random.below(2 * every_ns));
        self.queue.at(next, Event::Dial);
    }

    fn client(&mut self, step: Step) {
        let (nodes, now) = (&self.nodes, self.now);
        let (node, request) = self.clients.request(step, |node| nodes[node].clock.at(now));
        if self.nodes[node].down {
            return self.try_again(step);
        }
        let ticket = self.ask(node, request);
        self.clients.asked(node, ticket, step);
    }

    fn ask(&mut self, node: usize, request: Request) -> u64 {
        let ticket = self.next_ticket();
        if let Request::DeleteSession(id) = &request {
            self.checker.end_is_wanted(id);
        }
        self.nodes[node].asked.insert(ticket, Asked::of(&request));
        self.give(node, Input::Request { ticket, request, credential: Credential::default() }.into());
        ticket
    }

    pub(crate) fn try_again(&mut self, step: Step) {
        if let Some((after_ns, step)) = self.clients.not_answered(step) {
            self.queue.at(self.now.plus(after_ns), Event::Client(step));
        }
    }

    pub(crate) fn report(self, violation: Option<Violation>) -> Report {
        let seed = self.options.seed;
        Report {
            seed,
            seed_last: seed,
            worlds: 1,
            nodes: self.options.nodes,
            virtual_ms: self.now.0 / MS,
            crash_points: self.crash_points,
            crashes: self.crashes,
            hosts_lost: self.hosts_lost,
            restarts: self.restarts,
            pauses: self.pauses,
            partitions: self.network.partitions,
            installs_failed: self.installs_failed,
            checks: self.checker.checks,
            packets: self.checker.packets(),
            bookings: self.checker.bookings(),
            digest: self.digest,
            violations: violation.into_iter().map(|violation| (seed, violation)).collect(),
            seen: self.clients.seen,
            fates: self.network.fates,
        }
    }
}
