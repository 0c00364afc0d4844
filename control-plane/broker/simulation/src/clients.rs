//! Clients: they reserve aggregates and give some of them up, ask for sessions of all kinds, wait for them, change and end them, and ask
//! again when they are not answered.

mod operators;
mod series;
mod wish;

use std::collections::BTreeMap;

use turnpike_broker::Authorization;
use turnpike_broker::class::Quality;
use turnpike_broker::media::Media;
use turnpike_broker::media_slots::MediaSlots;
use turnpike_broker::name::{AggregateName, Nanos, SessionId};
use turnpike_broker::policy::{Endpoints, Meter, Rtcp, Tag};
use turnpike_broker::rate_change::RateWish;
use turnpike_broker::record::SessionState;
use turnpike_broker::refusal::Reason;
use turnpike_broker::{AggregateRequest, Answer, FlowRequest, Priority, Request, SessionRequest, WhenFull};

use crate::plane::PACKET_BYTES;
use crate::random::Random;
use crate::time::{MS, S};
use crate::topology::{name, node_name};
use series::Line;
use wish::Wish;

/// How often a client asks for the same thing.
const TRIES_MAX: u32 = 8;

/// What a client does next. The number is that of an aggregate, or of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Reserve(usize),
    GiveUp(usize),
    /// What would it be answered?
    Question(usize),
    Begin(usize),
    /// It waits, and looks for itself.
    Look(usize),
    ChangeEnd(usize),
    ChangeRates(usize),
    /// It waits no longer.
    Cancel(usize),
    End(usize),
    /// All occurrences of a series, or none.
    Series(usize),
    /// One occurrence of it ends.
    EndOne(usize),
    EndSeries(usize),
    /// The operator of a node says what its link can carry.
    ChangeLink(usize),
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
    pub(crate) wish: Wish,
    /// A client was told that it is active.
    pub(crate) told: bool,
    /// A client was told that it is booked.
    pub(crate) booked: bool,
    /// A client was told that it waits.
    waits: bool,
    /// It may end by itself: it has an end, or may have been given one.
    pub(crate) has_end: bool,
    /// Another end that it was asked for, until that is answered for good.
    new_end: Option<Option<Nanos>>,
    /// Other rates, likewise.
    new_rates: Option<Vec<RateWish>>,
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
    pub(crate) booked: u64,
    /// Booked ones that begin when another one ends, with the same endpoints.
    pub(crate) relays: u64,
    pub(crate) waiting: u64,
    pub(crate) offered: u64,
    pub(crate) taken: u64,
    pub(crate) cancelled: u64,
    pub(crate) ends_changed: u64,
    pub(crate) rates_changed: u64,
    /// Series of which all occurrences were booked, and those that were given up.
    pub(crate) series: u64,
    pub(crate) series_ended: u64,
    pub(crate) links_changed: u64,
    /// Questions that were answered with yes, and with no.
    pub(crate) questions: (u64, u64),
    pub(crate) ended: u64,
    pub(crate) repeated: u64,
    pub(crate) not_answered: u64,
    pub(crate) refused: BTreeMap<Reason, u64>,
}

pub(crate) struct Clients {
    random: Random,
    pub(crate) trunks: Vec<Trunk>,
    pub(crate) calls: Vec<Call>,
    lines: Vec<Line>,
    /// What those that somebody has are worth.
    pub(crate) tokens: BTreeMap<String, Authorization>,
    /// How often operators were not answered.
    operators_tries: u32,
    pub(crate) seen: Seen,
    pending: BTreeMap<(usize, u64), Step>,
    /// By its sender and receiver.
    between: BTreeMap<(usize, usize), Vec<AggregateName>>,
    /// Half of the sessions are between these: their pools are nearly full.
    busy: Vec<(usize, usize)>,
    by_id: BTreeMap<SessionId, Vec<usize>>,
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
                    burst_bytes: Some(20_000),
                    class: None,
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
        let pairs: Vec<(usize, usize)> = between.keys().copied().collect();
        let busy = (0..pairs.len().div_ceil(32)).map(|_| pairs[random.index(pairs.len())]).collect();
        Self {
            random,
            trunks,
            calls: Vec::new(),
            lines: Vec::new(),
            tokens: BTreeMap::new(),
            operators_tries: 0,
            seen: Seen::default(),
            pending: BTreeMap::new(),
            between,
            busy,
            by_id: BTreeMap::new(),
        }
    }

    /// One more session that somebody wants, and the first step towards it. `clock` tells what a node's clock shows.
    pub(crate) fn dial(&mut self, clock: impl Fn(usize) -> Nanos) -> Step {
        let number = self.calls.len();
        let before = self.random.chance(120_000).then(|| self.random.index(number + 1));
        let before =
            before.and_then(|before| self.calls.get(before)).map(|call| (call.first, call.second, &call.request));
        let relay = before.and_then(|(first, second, request)| {
            let end = request.schedule.ends_at.filter(|end| *end > clock(first).plus(Nanos(2 * S)))?;
            Some((first, second, request.flows.clone(), end))
        });
        let (first, second, flows, end) = match relay {
            Some((first, second, flows, end)) => (first, second, flows, Some(end)),
            None => {
                let (first, second) = self.choose_pair();
                (first, second, self.flows(first, second), None)
            }
        };
        let mut wish = Wish::draw(&mut self.random, clock(first), end);
        if self.random.chance(150_000) {
            wish.token = Some(self.some_token(number, &flows, clock(first)));
        }
        let media_slots =
            if self.random.chance(250_000) { Wish::slots(&mut self.random) } else { MediaSlots::default() };
        // Few of them take the name of an earlier one.
        let named = if self.random.chance(20_000) { self.random.index(number + 1) } else { number };
        let request = SessionRequest {
            id: name(&format!("s{named}")),
            flows,
            media_slots,
            schedule: wish.schedule,
            priority: Priority::LOWEST,
        };
        self.seen.relays += u64::from(end.is_some());
        self.by_id.entry(request.id.clone()).or_default().push(number);
        let step = if wish.questions { Step::Question(number) } else { Step::Begin(number) };
        self.calls.push(Call {
            first,
            second,
            request,
            told: false,
            booked: false,
            waits: false,
            has_end: wish.schedule.ends_at.is_some(),
            new_end: None,
            new_rates: None,
            end_asked: false,
            host_lost: false,
            tries: 0,
            wish,
        });
        step
    }

    fn choose_pair(&mut self) -> (usize, usize) {
        if self.random.chance(500_000) {
            return self.busy[self.random.index(self.busy.len())];
        }
        let pairs: Vec<(usize, usize)> = self.between.keys().copied().collect();
        pairs[self.random.index(pairs.len())]
    }

    fn flows(&mut self, first: usize, second: usize) -> Vec<FlowRequest> {
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
                quality: Quality::default(),
            }
        });
        flows.collect()
    }

    /// Whom a client asks, and what.
    pub(crate) fn request(&mut self, step: Step, clock: impl Fn(usize) -> Nanos) -> (usize, Request) {
        match step {
            Step::Reserve(trunk) => {
                let Trunk { sender, request, .. } = &self.trunks[trunk];
                (*sender, Request::CreateAggregate(request.clone()))
            }
            Step::GiveUp(trunk) => {
                let Trunk { sender, request, .. } = &self.trunks[trunk];
                (*sender, Request::DeleteAggregate(request.name.clone()))
            }
            Step::Question(call) => {
                let Call { first, request, .. } = &self.calls[call];
                (*first, Request::WouldAdmit(request.clone()))
            }
            Step::Begin(call) | Step::Look(call) => {
                let Call { first, request, wish, .. } = &self.calls[call];
                // An offer may be taken by either request.
                let asks_plainly = self.random.chance(100_000);
                let request = match wish.wait_until.filter(|_| !asks_plainly) {
                    Some(until) => Request::WaitForSession { request: request.clone(), until },
                    None => Request::CreateSession(request.clone()),
                };
                (*first, request)
            }
            Step::ChangeEnd(number) => {
                let Call { first, request, new_end, .. } = &mut self.calls[number];
                let (first, id, schedule) = (*first, request.id.clone(), request.schedule);
                let another = || Wish::another_end(&mut self.random, schedule, clock(first));
                let ends_at = *new_end.get_or_insert_with(another);
                // It may be another's of this name.
                for call in self.by_id.get(&id).into_iter().flatten() {
                    self.calls[*call].has_end = true;
                }
                (first, Request::ChangeSessionEnd { id, ends_at })
            }
            Step::ChangeRates(number) => {
                let Call { first, request, new_rates, .. } = &mut self.calls[number];
                let other = || Wish::other_rates(&mut self.random, &request.flows);
                let flows = new_rates.get_or_insert_with(other).clone();
                (*first, Request::ChangeSessionRates { id: request.id.clone(), flows })
            }
            Step::Series(line) | Step::EndOne(line) | Step::EndSeries(line) => self.series_request(step, line),
            Step::ChangeLink(node) => (node, self.link_request(node, clock(node))),
            Step::End(call) | Step::Cancel(call) => {
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
            Step::Series(line) | Step::EndOne(line) | Step::EndSeries(line) => &mut self.lines[line].tries,
            Step::ChangeLink(_) => &mut self.operators_tries,
            Step::Question(call)
            | Step::Begin(call)
            | Step::Look(call)
            | Step::ChangeEnd(call)
            | Step::ChangeRates(call)
            | Step::Cancel(call)
            | Step::End(call) => &mut self.calls[call].tries,
        };
        *tries += 1;
        (*tries < TRIES_MAX).then(|| (self.random.between(500 * MS, 8 * S), step))
    }

    /// What a client makes of an answer: what it does next, and after how long.
    pub(crate) fn answered(&mut self, node: usize, ticket: u64, answer: &Answer) -> Vec<(u64, Step)> {
        let Some(step) = self.pending.remove(&(node, ticket)) else {
            return Vec::new();
        };
        if let Step::Question(number) = step {
            let yes = !matches!(answer, Answer::Refused(_));
            *(if yes { &mut self.seen.questions.0 } else { &mut self.seen.questions.1 }) += 1;
            return vec![(self.random.below(S), Step::Begin(number))];
        }
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
                if may_pass {
                    return self.again(step).into_iter().collect();
                }
                if let Step::ChangeEnd(number) = step {
                    self.calls[number].new_end = None;
                }
                if let Step::ChangeRates(number) = step {
                    self.calls[number].new_rates = None;
                    return self.changes_rates(number).into_iter().collect();
                }
                Vec::new()
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
            // Only to questions; the others they do not ask.
            Answer::WouldAdmit { .. } => Vec::new(),
            Answer::Link(_) => {
                self.seen.links_changed += 1;
                self.operators_tries = 0;
                vec![(self.random.between(5 * S, 60 * S), step)]
            }
            Answer::Series { created, .. } => self.has_series(step, *created),
            Answer::SeriesDeleted => {
                self.seen.series_ended += 1;
                Vec::new()
            }
            Answer::Session { record, created } => self.told(step, record.state, *created),
        }
    }

    fn told(&mut self, step: Step, state: SessionState, created: bool) -> Vec<(u64, Step)> {
        match (step, state) {
            (Step::Begin(number) | Step::Look(number), SessionState::Active | SessionState::Booked) => {
                self.has(number, state, created)
            }
            (Step::Begin(number) | Step::Look(number), SessionState::Waiting) => self.waits(number),
            (Step::ChangeEnd(number), _) => {
                self.seen.ends_changed += 1;
                let call = &mut self.calls[number];
                if let Some(ends_at) = call.new_end.take() {
                    call.request.schedule.ends_at = ends_at;
                    call.has_end = ends_at.is_some();
                }
                self.changes_end(number).into_iter().collect()
            }
            (Step::ChangeRates(number), _) => {
                self.seen.rates_changed += u64::from(created);
                let call = &mut self.calls[number];
                for wish in call.new_rates.take().unwrap_or_default() {
                    if let Some(flow) = call.request.flows.iter_mut().find(|flow| flow.id == wish.id) {
                        flow.meter.rate_bps = wish.rate_bps;
                        flow.meter.burst_bytes = wish.burst_bytes.unwrap_or(flow.meter.burst_bytes);
                        flow.rate_bps_min = wish.rate_bps_min;
                    }
                }
                self.changes_rates(number).into_iter().collect()
            }
            (Step::Cancel(_), _) => {
                self.seen.cancelled += 1;
                Vec::new()
            }
            (Step::End(number), _) => {
                *(if created { &mut self.seen.ended } else { &mut self.seen.repeated }) += 1;
                if self.random.chance(50_000) {
                    vec![(self.random.between(MS, 10 * S), Step::End(number))]
                } else {
                    Vec::new()
                }
            }
            (
                Step::Question(_)
                | Step::Begin(_)
                | Step::Look(_)
                | Step::Reserve(_)
                | Step::GiveUp(_)
                | Step::Series(_)
                | Step::EndOne(_)
                | Step::EndSeries(_)
                | Step::ChangeLink(_),
                _,
            ) => {
                self.seen.repeated += 1;
                Vec::new()
            }
        }
    }

    /// A client has its session, now or for later.
    fn has(&mut self, number: usize, state: SessionState, created: bool) -> Vec<(u64, Step)> {
        let counter = match (created, state) {
            (false, _) => &mut self.seen.repeated,
            (true, SessionState::Booked) => &mut self.seen.booked,
            (true, _) => &mut self.seen.admitted,
        };
        *counter += 1;
        let call = &mut self.calls[number];
        let first = !call.told && !call.booked;
        *(if state == SessionState::Booked { &mut call.booked } else { &mut call.told }) = true;
        let mut next = Vec::new();
        if first {
            call.tries = 0;
            self.seen.taken += u64::from(created && call.waits);
            next.extend(call.wish.ends_after_ns.map(|after_ns| (after_ns, Step::End(number))));
            next.extend(self.changes_end(number));
            next.extend(self.changes_rates(number));
        }
        if self.random.chance(50_000) {
            next.push((self.random.between(MS, 10 * S), Step::Begin(number)));
        }
        next
    }

    /// A client is to be called. Some look for themselves, or want it no longer.
    fn waits(&mut self, number: usize) -> Vec<(u64, Step)> {
        let call = &mut self.calls[number];
        if std::mem::replace(&mut call.waits, true) {
            self.seen.repeated += 1;
            return Vec::new();
        }
        self.seen.waiting += 1;
        call.tries = 0;
        let mut next: Vec<_> =
            call.wish.cancels_after_ns.map(|after_ns| (after_ns, Step::Cancel(number))).into_iter().collect();
        if self.random.chance(300_000) {
            next.push((self.random.between(S, 60 * S), Step::Look(number)));
        }
        next
    }

    /// Those that follow a session hear of it: it is offered to those that wait.
    pub(crate) fn noticed(&mut self, node: usize, id: &SessionId, state: SessionState) -> Vec<(u64, Step)> {
        if state != SessionState::Offered {
            return Vec::new();
        }
        self.seen.offered += 1;
        let calls = self.by_id.get(id).into_iter().flatten().map(|number| (*number, &self.calls[*number]));
        let waiting = calls.filter(|(_, call)| call.first == node && call.waits);
        waiting.filter_map(|(number, call)| Some((call.wish.takes_after_ns?, Step::Begin(number)))).collect()
    }

    fn changes_end(&mut self, number: usize) -> Option<(u64, Step)> {
        let wish = &mut self.calls[number].wish;
        wish.changes = wish.changes.checked_sub(1)?;
        self.calls[number].tries = 0;
        Some((self.random.between(MS, 30 * S), Step::ChangeEnd(number)))
    }

    fn changes_rates(&mut self, number: usize) -> Option<(u64, Step)> {
        let wish = &mut self.calls[number].wish;
        wish.rate_changes = wish.rate_changes.checked_sub(1)?;
        self.calls[number].tries = 0;
        Some((self.random.between(MS, 20 * S), Step::ChangeRates(number)))
    }
}
