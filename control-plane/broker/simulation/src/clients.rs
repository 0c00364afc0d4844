//! Clients: they reserve aggregates and give some of them up, begin sessions and end them, and ask again when they are not answered.

use std::collections::BTreeMap;

use turnpike_broker::media::Media;
use turnpike_broker::name::AggregateName;
use turnpike_broker::policy::{Endpoints, Meter, Rtcp, Tag};
use turnpike_broker::record::SessionState;
use turnpike_broker::refusal::Reason;
use turnpike_broker::{AggregateRequest, Answer, FlowRequest, Priority, Request, Schedule, SessionRequest, WhenFull};

use crate::plane::PACKET_BYTES;
use crate::random::Random;
use crate::time::{MS, S};
use crate::topology::{name, node_name};

/// How often a client asks for the same thing.
const TRIES_MAX: u32 = 8;

/// What a client does next. The number is that of an aggregate, or of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Reserve(usize),
    GiveUp(usize),
    Begin(usize),
    End(usize),
}

/// An aggregate that somebody wants.
#[derive(Debug)]
pub(crate) struct Trunk {
    pub(crate) sender: usize,
    pub(crate) request: AggregateRequest,
    /// Comes and goes.
    spare: bool,
    tries: u32,
}

/// A session that somebody wants.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) first: usize,
    pub(crate) second: usize,
    pub(crate) request: SessionRequest,
    /// A client was told that it is active.
    pub(crate) told: bool,
    /// A client has asked for its end.
    pub(crate) end_asked: bool,
    /// The host of one of its nodes went down after it was begun.
    pub(crate) host_lost: bool,
    tries: u32,
}

/// What clients have seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    pub(crate) asked: u64,
    pub(crate) reserved: u64,
    pub(crate) given_up: u64,
    pub(crate) admitted: u64,
    pub(crate) ended: u64,
    pub(crate) repeated: u64,
    pub(crate) not_answered: u64,
    pub(crate) refused: BTreeMap<Reason, u64>,
}

pub(crate) struct Clients {
    random: Random,
    pub(crate) trunks: Vec<Trunk>,
    pub(crate) calls: Vec<Call>,
    pub(crate) seen: Seen,
    pending: BTreeMap<(usize, u64), Step>,
    /// By its sender and receiver.
    between: BTreeMap<(usize, usize), Vec<AggregateName>>,
}

impl Clients {
    pub(crate) fn new(mut random: Random, pairs: impl Iterator<Item = (usize, usize)>) -> Self {
        let (mut trunks, mut between) = (Vec::new(), BTreeMap::<_, Vec<_>>::new());
        for (sender, receiver) in pairs.flat_map(|(a, b)| [(a, b), (b, a)]) {
            for spare in [false, true] {
                if spare && !random.chance(300_000) {
                    continue;
                }
                let what = if spare { "-spare" } else { "" };
                let own: AggregateName = name(&format!("n{sender}-to-n{receiver}{what}"));
                between.entry((sender, receiver)).or_default().push(own.clone());
                let request = AggregateRequest {
                    name: own,
                    peer: node_name(receiver),
                    rate_bps: random.between(8, 24) * 100_000,
                    burst_bytes: 20_000,
                    dscp_policy: None,
                    dscp: Some(46),
                    excess_dscp: None,
                    deliver_dscp_policy: None,
                    deliver_dscp: None,
                    tag: if random.chance(250_000) { Tag::Terminals } else { Tag::Label },
                    when_full: WhenFull::Refuse,
                    emergency_percent: 0,
                };
                trunks.push(Trunk { sender, request, spare, tries: 0 });
            }
        }
        Self { random, trunks, calls: Vec::new(), seen: Seen::default(), pending: BTreeMap::new(), between }
    }

    /// One more session that somebody wants.
    pub(crate) fn dial(&mut self) -> usize {
        let number = self.calls.len();
        let pairs: Vec<(usize, usize)> = self.between.keys().copied().collect();
        let (first, second) = pairs[self.random.index(pairs.len())];
        let ways: &[(usize, usize)] = match self.random.below(10) {
            0..=5 => &[(first, second), (second, first)],
            6 | 7 => &[(first, second)],
            8 => &[(second, first)],
            _ => &[(first, second), (second, first), (first, second)],
        };
        let rate_bps = self.random.between(5, 40) * 10_000;
        let rate_bps_min = if self.random.chance(500_000) { rate_bps / 2 } else { rate_bps };
        let rtcp = if self.random.chance(200_000) { Rtcp::NextPort } else { Rtcp::SamePort };
        let flows = ways.iter().enumerate().map(|(place, &(from, to))| {
            // Few ports: sessions want the same ones now and then.
            let port = 10_000 + u16::try_from(self.random.below(400) * 2).unwrap_or_default();
            let carriers = &self.between[&(from, to)];
            let host = |node: usize| {
                [10, u8::try_from(node >> 8).unwrap_or(u8::MAX), u8::try_from(node & 0xff).unwrap_or(u8::MAX), 1]
            };
            FlowRequest {
                id: name(&format!("f{place}")),
                aggregate: carriers[self.random.index(carriers.len())].clone(),
                endpoints: Endpoints { source: (host(from), port).into(), destination: (host(to), port).into() },
                rtcp,
                meter: Meter { rate_bps, burst_bytes: 400, packet_bytes_min: PACKET_BYTES, excess: None },
                rate_bps_min,
                media: Media::default(),
            }
        });
        let flows = flows.collect();
        // Few of them take the name of an earlier one.
        let named = if self.random.chance(20_000) { self.random.index(number + 1) } else { number };
        let request = SessionRequest {
            id: name(&format!("s{named}")),
            flows,
            schedule: Schedule::OPEN,
            priority: Priority::LOWEST,
        };
        self.calls.push(Call { first, second, request, told: false, end_asked: false, host_lost: false, tries: 0 });
        number
    }

    /// Whom a client asks, and what.
    pub(crate) fn request(&mut self, step: Step) -> (usize, Request) {
        match step {
            Step::Reserve(trunk) => {
                let Trunk { sender, request, .. } = &self.trunks[trunk];
                (*sender, Request::CreateAggregate(request.clone()))
            }
            Step::GiveUp(trunk) => {
                let Trunk { sender, request, .. } = &self.trunks[trunk];
                (*sender, Request::DeleteAggregate(request.name.clone()))
            }
            Step::Begin(call) => {
                let Call { first, request, .. } = &self.calls[call];
                (*first, Request::CreateSession(request.clone()))
            }
            Step::End(call) => {
                let at_second = self.random.chance(250_000);
                let id = self.calls[call].request.id.clone();
                // It ends every one of this name.
                for other in self.calls.iter_mut().filter(|call| call.request.id == id) {
                    other.end_asked = true;
                }
                let Call { first, second, .. } = self.calls[call];
                (if at_second { second } else { first }, Request::DeleteSession(id))
            }
        }
    }

    pub(crate) fn asked(&mut self, node: usize, ticket: u64, step: Step) {
        self.seen.asked += 1;
        self.pending.insert((node, ticket), step);
    }

    /// The node is not there, or went away before it answered.
    pub(crate) fn not_answered(&mut self, step: Step) -> Option<(u64, Step)> {
        self.seen.not_answered += 1;
        self.again(step)
    }

    /// All that waited for an answer of a node which is gone.
    pub(crate) fn broken(&mut self, node: usize) -> Vec<Step> {
        let mine: Vec<_> = self.pending.range((node, 0)..=(node, u64::MAX)).map(|(key, _)| *key).collect();
        mine.iter().filter_map(|key| self.pending.remove(key)).collect()
    }

    /// Sessions of this node may be ended, because they cannot be installed again.
    pub(crate) fn host_lost(&mut self, node: usize) {
        for call in self.calls.iter_mut().filter(|call| call.first == node || call.second == node) {
            call.host_lost = true;
        }
    }

    fn again(&mut self, step: Step) -> Option<(u64, Step)> {
        let tries = match step {
            Step::Reserve(trunk) | Step::GiveUp(trunk) => &mut self.trunks[trunk].tries,
            Step::Begin(call) | Step::End(call) => &mut self.calls[call].tries,
        };
        *tries += 1;
        (*tries < TRIES_MAX).then(|| (self.random.between(500 * MS, 8 * S), step))
    }

    /// What a client makes of an answer: what it does next, and after how long.
    pub(crate) fn answered(&mut self, node: usize, ticket: u64, answer: &Answer) -> Vec<(u64, Step)> {
        let Some(step) = self.pending.remove(&(node, ticket)) else {
            return Vec::new();
        };
        match answer {
            Answer::Refused(refusal) => {
                *self.seen.refused.entry(refusal.reason).or_default() += 1;
                let may_pass = matches!(
                    refusal.reason,
                    Reason::PeerUnreachable
                        | Reason::Busy
                        | Reason::InstallFailed
                        | Reason::StaleEpoch
                        | Reason::AggregateInUse
                );
                if may_pass { self.again(step).into_iter().collect() } else { Vec::new() }
            }
            Answer::Aggregate { created, .. } => {
                *(if *created { &mut self.seen.reserved } else { &mut self.seen.repeated }) += 1;
                if let Step::Reserve(trunk) = step
                    && self.trunks[trunk].spare
                {
                    self.trunks[trunk].tries = 0;
                    return vec![(self.random.between(20 * S, 100 * S), Step::GiveUp(trunk))];
                }
                Vec::new()
            }
            Answer::AggregateDeleted => {
                self.seen.given_up += 1;
                let Step::GiveUp(trunk) = step else { return Vec::new() };
                self.trunks[trunk].tries = 0;
                vec![(self.random.between(S, 30 * S), Step::Reserve(trunk))]
            }
            // They do not ask that.
            Answer::WouldAdmit(_) => Vec::new(),
            Answer::Session { record, created } => self.told(step, record.state, *created),
        }
    }

    fn told(&mut self, step: Step, state: SessionState, created: bool) -> Vec<(u64, Step)> {
        match (step, state) {
            (Step::Begin(number), SessionState::Active) => {
                *(if created { &mut self.seen.admitted } else { &mut self.seen.repeated }) += 1;
                let call = &mut self.calls[number];
                let first = !std::mem::replace(&mut call.told, true);
                let mut next = Vec::new();
                if first {
                    call.tries = 0;
                    next.push((self.random.between(S, 120 * S), Step::End(number)));
                }
                if self.random.chance(50_000) {
                    next.push((self.random.between(MS, 10 * S), Step::Begin(number)));
                }
                next
            }
            (Step::End(number), _) => {
                *(if created { &mut self.seen.ended } else { &mut self.seen.repeated }) += 1;
                if self.random.chance(50_000) {
                    vec![(self.random.between(MS, 10 * S), Step::End(number))]
                } else {
                    Vec::new()
                }
            }
            (Step::Begin(_) | Step::Reserve(_) | Step::GiveUp(_), _) => {
                self.seen.repeated += 1;
                Vec::new()
            }
        }
    }
}
