//! Two brokers, `a` and `b`, in one simulated world: virtual time, a network that may lose, delay and repeat messages,
//! data planes that may refuse, stores, crashes and restarts. Everything is deterministic.
#![allow(dead_code, reason = "each test file uses its own part of this")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected is a failed test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use turnpike_broker::address::Family;
use turnpike_broker::capacity::{LinkChange, LinkRecord, LinkState};
use turnpike_broker::class::{Class, Quality};
use turnpike_broker::media::Media;
use turnpike_broker::message::{HoldFlow, Offer, PeerAnswer, PeerRequest};
use turnpike_broker::name::{AggregateName, Epoch, LinkName, Nanos, NodeName, PolicyId, SessionId};
use turnpike_broker::policy::{Counters, Dscp, Endpoints, InstallError, Marking, Meter, Policy, Reception, Rtcp, Tag};
use turnpike_broker::policy_state::PolicyState;
use turnpike_broker::rate_change::RateWish;
use turnpike_broker::record::{
    AggregateRecord, AggregateState, Change, Direction, FlowRecord, SessionRecord, SessionState, Side, UsageKind,
    UsageRecord,
};
use turnpike_broker::refusal::{Reason, Refusal};
use turnpike_broker::series::SeriesRecord;
use turnpike_broker::{
    AggregateRequest, Answer, Authorization, Broker, Capacity, Config, Cost, Credential, FlowRequest, Input, Limits,
    Link, Output, Peer, Request, Schedule, SecondSide, SessionRequest, TakenToken, Timers, WhenFull, overhead_bytes,
};

mod answers;
mod invariant;
mod wishes;

pub(crate) use wishes::*;

#[allow(unused_imports, reason = "each test file uses its own part of this")]
pub(crate) use answers::{reason, refusal, session};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const A: usize = 0;
pub(crate) const B: usize = 1;

/// What travels, by kind: `offer`, `withdraw`, `hold`, `question`, `book`, `commit`, `change`, `hold rates`, `commit rates`, `void rates`, `release`, or `answer`.
pub(crate) type Kind = &'static str;

/// For a message of a kind from a node: the delays of its copies, in ms; none if it is lost.
pub(crate) type Network = Box<dyn FnMut(usize, Kind) -> Vec<u64>>;

enum Event {
    Input {
        node: usize,
        life: u32,
        input: Input,
    },
    Request {
        from: usize,
        from_life: u32,
        ticket: u64,
        to_life: u32,
        epoch: Epoch,
        request: PeerRequest,
        token: Option<String>,
    },
    Reply {
        to: usize,
        life: u32,
        ticket: u64,
        answer: Result<PeerAnswer, String>,
    },
    Tick {
        node: usize,
        life: u32,
        at: Nanos,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Store {
    pub(crate) aggregates: BTreeMap<AggregateName, AggregateRecord>,
    pub(crate) sessions: BTreeMap<SessionId, SessionRecord>,
    pub(crate) links: BTreeMap<LinkName, LinkRecord>,
    pub(crate) series: BTreeMap<SessionId, SeriesRecord>,
    pub(crate) ledger: Vec<UsageRecord>,
    pub(crate) tokens: BTreeMap<(String, String), TakenToken>,
}

/// What a node's shell finds of a token.
pub(crate) type Judge = fn(&str) -> Result<Authorization, Box<Refusal>>;

pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) broker: Broker,
    pub(crate) store: Store,
    pub(crate) plane: BTreeMap<PolicyId, Policy>,
    /// Terminals that its kernel's routes had to lead to, as they came.
    pub(crate) sought: Vec<IpAddr>,
    /// Without one it asks for no token and looks at none.
    pub(crate) judge: Option<Judge>,
    /// So many installations from now on are refused.
    pub(crate) install_failures: u32,
    /// So many changes of meters from now on are refused.
    pub(crate) change_failures: u32,
    /// The next drain that persists something ends in a crash right after that.
    pub(crate) dies_after_persist: bool,
    /// Its data plane takes so long to take something out of force.
    pub(crate) deinstall_ms: u64,
    pub(crate) answers: BTreeMap<u64, Answer>,
    /// Installations, deinstallations and sends, as they came.
    pub(crate) log: Vec<String>,
    /// What clients may be told.
    pub(crate) notices: Vec<String>,
    asked: BTreeSet<u64>,
    life: u32,
    down: bool,
    /// Its data plane may have less than it has confirmed, until it is all installed again.
    host_was_lost: bool,
    /// It was configured with less than what is held of it.
    pub(crate) was_shrunk: bool,
    /// Its clock is that much ahead of the world's time.
    pub(crate) ahead: Nanos,
    time_of_last_input: Nanos,
    wake: Option<Nanos>,
    /// Peers' requests that are not answered: who asked, in which life, by which ticket.
    incoming: BTreeMap<u64, (usize, u32, u64)>,
    outgoing: BTreeSet<u64>,
    /// Those of them that ask for another end, for which it may hold more than its records say.
    changing: BTreeSet<u64>,
}

pub(crate) struct World {
    pub(crate) now: Nanos,
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    events: BTreeMap<(Nanos, u64), Event>,
    sequence: u64,
}

pub(crate) fn kind(request: &PeerRequest) -> Kind {
    match request {
        PeerRequest::OfferAggregate(_) => "offer",
        PeerRequest::WithdrawAggregate { .. } => "withdraw",
        PeerRequest::HoldSession { .. } => "hold",
        PeerRequest::WouldHoldSession { .. } => "question",
        PeerRequest::BookSession { .. } => "book",
        PeerRequest::CommitSession { .. } => "commit",
        PeerRequest::ChangeSessionEnd { .. } => "change",
        PeerRequest::HoldRates { .. } => "hold rates",
        PeerRequest::CommitRates { .. } => "commit rates",
        PeerRequest::VoidRates { .. } => "void rates",
        PeerRequest::ReleaseSession { .. } => "release",
    }
}

/// What the fake data plane counts for a policy: any number will do that tells policies apart.
pub(crate) fn counted(policy: PolicyId) -> Counters {
    let packets = policy.0 & 0xffff;
    Counters {
        offered_packets: packets,
        offered_bytes: packets * 200,
        passed_packets: packets,
        passed_bytes: packets * 200,
        reception: Some(Reception { lost_packets: packets, gaps: 1, ..Reception::default() }),
        excess_packets: packets.div_ceil(4),
        excess_bytes: packets.div_ceil(4) * 200,
        ..Counters::default()
    }
}

impl Node {
    fn new(config: Config) -> Self {
        Self {
            broker: Broker::new(config.clone()),
            config,
            store: Store::default(),
            plane: BTreeMap::new(),
            sought: Vec::new(),
            judge: None,
            install_failures: 0,
            change_failures: 0,
            dies_after_persist: false,
            deinstall_ms: 2,
            answers: BTreeMap::new(),
            log: Vec::new(),
            notices: Vec::new(),
            asked: BTreeSet::new(),
            life: 0,
            down: false,
            host_was_lost: false,
            was_shrunk: false,
            ahead: Nanos(0),
            time_of_last_input: Nanos(0),
            wake: None,
            incoming: BTreeMap::new(),
            outgoing: BTreeSet::new(),
            changing: BTreeSet::new(),
        }
    }

    fn keep(&mut self, change: Change) {
        match change {
            Change::PutAggregate(record) => drop(self.store.aggregates.insert(record.name.clone(), record)),
            Change::DeleteAggregate(name) => drop(self.store.aggregates.remove(&name)),
            Change::PutSession(record) => drop(self.store.sessions.insert(record.id.clone(), record)),
            Change::DeleteSession(id) => drop(self.store.sessions.remove(&id)),
            Change::PutLink(record) => drop(self.store.links.insert(record.name.clone(), record)),
            Change::PutSeries(record) => drop(self.store.series.insert(record.id.clone(), record)),
            Change::DeleteSeries(id) => drop(self.store.series.remove(&id)),
            Change::AppendUsage(line) => self.store.ledger.push(line),
            Change::PutToken(taken) => {
                drop(self.store.tokens.insert((taken.issuer.clone(), taken.token_id.clone()), taken));
            }
            Change::DeleteToken { issuer, token_id } => drop(self.store.tokens.remove(&(issuer, token_id))),
        }
    }

    fn credential(&self, token: Option<String>) -> Credential {
        let found = self.judge.zip(token.as_deref()).map(|(judge, token)| judge(token));
        Credential { token, found }
    }

    fn install(&mut self, policies: Vec<(PolicyId, Policy)>, terminals: &[IpAddr]) -> Result<(), InstallError> {
        if self.install_failures > 0 {
            self.install_failures -= 1;
            return Err(InstallError {
                code: "flow_table_full".into(),
                detail: "told to fail".into(),
                of_request: false,
            });
        }
        let before = self.plane.clone();
        for (id, policy) in policies {
            let carried = match &policy {
                Policy::FlowOut { aggregate, .. } => {
                    matches!(self.plane.get(aggregate), Some(Policy::AggregateOut { .. }))
                }
                Policy::FlowIn { aggregate, .. } | Policy::TerminalsIn { aggregate, .. } => {
                    matches!(self.plane.get(aggregate), Some(Policy::AggregateIn { .. }))
                }
                Policy::AggregateOut { .. } | Policy::AggregateIn { .. } => true,
            };
            if !carried {
                self.plane = before;
                return Err(InstallError {
                    code: "unknown_aggregate".into(),
                    detail: format!("{policy:?}"),
                    of_request: false,
                });
            }
            assert!(self.plane.insert(id, policy).is_none(), "policy {id:?} is installed twice");
        }
        self.sought.extend(terminals);
        Ok(())
    }

    /// All or none, and what is said to be in force must be.
    fn change(&mut self, meters: &[(PolicyId, Meter, Meter)]) -> Result<Vec<Counters>, InstallError> {
        if self.change_failures > 0 {
            self.change_failures -= 1;
            return Err(InstallError { code: "not_changed".into(), detail: "told to fail".into(), of_request: false });
        }
        for (id, _, to) in meters {
            match self.plane.get_mut(id) {
                Some(Policy::FlowOut { meter, .. } | Policy::FlowIn { meter, .. }) => *meter = *to,
                other => panic!("{id:?} is changed, and is {other:?}"),
            }
        }
        Ok(meters.iter().map(|(id, ..)| counted(*id)).collect())
    }

    fn deinstall(&mut self, policies: &[PolicyId]) -> Vec<Counters> {
        let taken = policies.iter().map(|id| (id, self.plane.remove(id)));
        taken.map(|(id, policy)| policy.map_or_else(Counters::default, |_| counted(*id))).collect()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.incoming.is_empty() && self.asked.iter().all(|ticket| self.answers.contains_key(ticket))
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with([config(A), config(B)])
    }

    pub(crate) fn with(configs: [Config; 2]) -> Self {
        Self {
            now: Nanos(MS),
            nodes: configs.into_iter().map(Node::new).collect(),
            network: perfect(),
            events: BTreeMap::new(),
            sequence: 0,
        }
    }

    /// With an aggregate each way, `ab` and `ba`, of 1 Mbit/s.
    pub(crate) fn connected() -> Self {
        Self::connected_with([config(A), config(B)])
    }

    pub(crate) fn connected_with(configs: [Config; 2]) -> Self {
        Self::connected_by(configs, [Tag::Label; 2])
    }

    /// The same, with tags of these kinds on `ab` and on `ba`.
    pub(crate) fn connected_by(configs: [Config; 2], tags: [Tag; 2]) -> Self {
        Self::connected_as(configs, tags.map(|tag| AggregateRequest { tag, ..aggregate("any", "any", 1_000_000) }))
    }

    /// The same, with aggregates as these but for their names.
    pub(crate) fn connected_as(configs: [Config; 2], aggregates: [AggregateRequest; 2]) -> Self {
        let mut world = Self::with(configs);
        for ((node, own, peer), aggregate) in [(A, "ab", "b"), (B, "ba", "a")].into_iter().zip(aggregates) {
            let request = AggregateRequest { name: name(own), peer: name(peer), ..aggregate };
            let answer = world.ask(node, Request::CreateAggregate(request));
            assert!(matches!(answer, Answer::Aggregate { created: true, .. }), "{answer:?}");
        }
        world
    }

    /// Loses every message of this kind from now on.
    pub(crate) fn lose(&mut self, lost: Kind) {
        self.network = Box::new(move |_, kind| if kind == lost { vec![] } else { vec![1] });
    }

    /// A node's time.
    pub(crate) fn clock(&self, node: usize) -> Nanos {
        self.now.plus(self.nodes[node].ahead)
    }

    /// When a node's clock shows that.
    fn world_time(&self, node: usize, time: Nanos) -> Nanos {
        Nanos(time.0.saturating_sub(self.nodes[node].ahead.0))
    }

    fn at(&mut self, at: Nanos, event: Event) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }

    fn after(&mut self, delay_ms: u64, event: Event) {
        self.at(self.now.plus(Nanos(delay_ms * MS)), event);
    }

    /// Asks a node, and does not wait.
    pub(crate) fn request(&mut self, node: usize, request: Request) -> u64 {
        self.request_with(node, request, None)
    }

    /// The same with a token.
    pub(crate) fn request_with(&mut self, node: usize, request: Request, token: Option<&str>) -> u64 {
        self.sequence += 1;
        let ticket = self.sequence;
        self.nodes[node].asked.insert(ticket);
        let credential = self.nodes[node].credential(token.map(str::to_owned));
        self.input(node, Input::Request { ticket, request, credential });
        ticket
    }

    /// Asks a node, and waits for its answer.
    pub(crate) fn ask(&mut self, node: usize, request: Request) -> Answer {
        let ticket = self.request(node, request);
        self.wait(node, ticket)
    }

    pub(crate) fn wait(&mut self, node: usize, ticket: u64) -> Answer {
        while !self.nodes[node].answers.contains_key(&ticket) {
            assert!(self.step(), "the world is at rest and ticket {ticket} is not answered");
        }
        self.nodes[node].answers[&ticket].clone()
    }

    pub(crate) fn create(&mut self, node: usize, request: SessionRequest) -> Answer {
        self.ask(node, Request::CreateSession(request))
    }

    /// Asks for a session that may wait so long.
    pub(crate) fn wait_for(&mut self, node: usize, request: SessionRequest, ms: u64) -> Answer {
        let until = self.clock(node).plus(Nanos(ms * MS));
        self.ask(node, Request::WaitForSession { request, until })
    }

    /// What a session would be answered now.
    pub(crate) fn would_admit(&mut self, node: usize, request: SessionRequest) -> Answer {
        self.ask(node, Request::WouldAdmit(request))
    }

    /// The same session from a time of the world on and up to another, in ms from now.
    pub(crate) fn schedule(&self, starts_in_ms: Option<u64>, ends_in_ms: Option<u64>) -> Schedule {
        let from_now = |ms: u64| self.now.plus(Nanos(ms * MS));
        Schedule { starts_at: starts_in_ms.map(from_now), ends_at: ends_in_ms.map(from_now) }
    }

    pub(crate) fn change_end(&mut self, node: usize, id: &str, ends_at: Option<Nanos>) -> Answer {
        self.ask(node, Request::ChangeSessionEnd { id: name(id), ends_at })
    }

    /// Asks for other rates: flow, rate, smallest rate.
    pub(crate) fn change_rates(&mut self, node: usize, id: &str, flows: &[(&str, u64, u64)]) -> Answer {
        self.ask(node, rates(id, flows))
    }

    pub(crate) fn delete(&mut self, node: usize, id: &str) -> Answer {
        self.ask(node, Request::DeleteSession(name(id)))
    }

    /// A peer's message as it comes in; answered into `answers_to_peer`.
    pub(crate) fn peer_request(&mut self, to: usize, epoch: u32, request: PeerRequest) -> PeerAnswer {
        self.sequence += 1;
        let ticket = self.sequence;
        let peer: NodeName = self.nodes[1 - to].config.node.clone();
        let now = self.clock(to);
        let node = &mut self.nodes[to];
        node.time_of_last_input = now;
        node.broker.handle(
            Input::PeerRequest { ticket, peer, epoch: Epoch(epoch), request, credential: Credential::default() },
            now,
        );
        let mut outputs: Vec<Output> = std::iter::from_fn(|| node.broker.poll()).collect();
        let place = outputs.iter().position(|o| matches!(o, Output::PeerAnswer { ticket: t, .. } if *t == ticket));
        let answer = place.map(|place| outputs.remove(place));
        self.carry_out(to, outputs);
        match answer {
            Some(Output::PeerAnswer { answer, .. }) => answer,
            other => panic!("no answer at once: {other:?}"),
        }
    }

    /// The answer to the oldest message of a node that is on its way, as it comes in.
    pub(crate) fn answer_sent(&mut self, node: usize, answer: PeerAnswer) {
        let ticket = self.nodes[node].outgoing.pop_first().unwrap();
        self.input(node, Input::PeerAnswered { ticket, answer: Ok(answer) });
    }

    /// Until nothing is under way and no timer is set. The network must let retries through at some time.
    pub(crate) fn rest(&mut self) {
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < 100_000, "the world does not come to rest");
        }
    }

    /// As far as a time from now.
    pub(crate) fn run(&mut self, ms: u64) {
        let end = self.now.plus(Nanos(ms * MS));
        while self.events.first_key_value().is_some_and(|((at, _), _)| *at <= end) {
            self.step();
        }
        self.now = end;
    }

    /// The next event. False if there is none.
    pub(crate) fn step(&mut self) -> bool {
        let Some(((at, _), event)) = self.events.pop_first() else {
            return false;
        };
        self.now = at.max(self.now);
        match event {
            Event::Input { node, life, input } if self.nodes[node].life == life => self.input(node, input),
            Event::Reply { to, life, ticket, answer } if self.nodes[to].life == life => {
                if self.nodes[to].outgoing.remove(&ticket) {
                    self.nodes[to].changing.remove(&ticket);
                    self.input(to, Input::PeerAnswered { ticket, answer });
                }
            }
            Event::Request { from, from_life, ticket, to_life, epoch, request, token } => {
                let (to, peer) = (1 - from, self.nodes[from].config.node.clone());
                if self.nodes[to].life == to_life && !self.nodes[to].down {
                    self.sequence += 1;
                    let own = self.sequence;
                    self.nodes[to].incoming.insert(own, (from, from_life, ticket));
                    let credential = self.nodes[to].credential(token);
                    self.input(to, Input::PeerRequest { ticket: own, peer, epoch, request, credential });
                }
            }
            Event::Tick { node, life, at } if self.nodes[node].life == life && self.nodes[node].wake == Some(at) => {
                self.nodes[node].wake = None;
                self.input(node, Input::Tick);
            }
            Event::Input { .. } | Event::Reply { .. } | Event::Tick { .. } => {}
        }
        self.check();
        true
    }

    fn input(&mut self, node: usize, input: Input) {
        if self.nodes[node].down {
            return;
        }
        let now = self.clock(node);
        self.nodes[node].time_of_last_input = now;
        self.nodes[node].broker.handle(input, now);
        self.drain(node);
    }

    fn drain(&mut self, node: usize) {
        let broker = &mut self.nodes[node].broker;
        let outputs: Vec<Output> = std::iter::from_fn(|| broker.poll()).collect();
        self.carry_out(node, outputs);
    }

    fn carry_out(&mut self, node: usize, outputs: Vec<Output>) {
        let (changes, others): (Vec<_>, Vec<_>) =
            outputs.into_iter().partition(|output| matches!(output, Output::Persist(_)));
        let persisted = !changes.is_empty();
        for change in changes {
            let Output::Persist(change) = change else { continue };
            self.nodes[node].keep(change);
        }
        if persisted && std::mem::take(&mut self.nodes[node].dies_after_persist) {
            self.crash(node);
            self.restart(node);
            return;
        }
        for output in others {
            self.carry_out_one(node, output);
        }
    }

    fn carry_out_one(&mut self, node: usize, output: Output) {
        let life = self.nodes[node].life;
        match output {
            Output::Persist(_) => {}
            Output::Notify { session, state, preempted } => {
                let what = if preempted { "preempted".to_owned() } else { format!("{state:?}") };
                self.nodes[node].notices.push(format!("{session} {what}"));
            }
            Output::Install { ticket, policies, terminals } => {
                for (_, policy) in &policies {
                    self.nodes[node].log.push(format!("install {}", policy_kind(policy)));
                }
                let input = match self.nodes[node].install(policies, &terminals) {
                    Ok(()) => Input::Installed { ticket },
                    Err(error) => Input::InstallFailed { ticket, error },
                };
                self.after(2, Event::Input { node, life, input });
            }
            Output::ChangeMeters { ticket, meters } => {
                self.nodes[node].log.push(format!("change {}", meters.len()));
                let input = match self.nodes[node].change(&meters) {
                    Ok(counters) => Input::MetersChanged { ticket, counters },
                    Err(error) => Input::InstallFailed { ticket, error },
                };
                self.after(2, Event::Input { node, life, input });
            }
            Output::Deinstall { ticket, policies } => {
                for id in &policies {
                    let line = self.nodes[node].plane.get(id).map_or("nothing", policy_kind);
                    self.nodes[node].log.push(format!("deinstall {line}"));
                }
                let counters = self.nodes[node].deinstall(&policies);
                let after_ms = self.nodes[node].deinstall_ms;
                self.after(after_ms, Event::Input { node, life, input: Input::Deinstalled { ticket, counters } });
            }
            Output::Send { ticket, request, token, deadline, .. } => {
                let kind = kind(&request);
                let epoch = self.nodes[node].config.epoch;
                let to_life = self.nodes[1 - node].life;
                self.nodes[node].log.push(format!("send {kind}"));
                self.nodes[node].outgoing.insert(ticket);
                if kind == "change" {
                    self.nodes[node].changing.insert(ticket);
                }
                for delay in (self.network)(node, kind) {
                    let (request, token) = (request.clone(), token.clone());
                    let event = Event::Request { from: node, from_life: life, ticket, to_life, epoch, request, token };
                    self.after(delay, event);
                }
                let answer = Err("no answer in time".to_owned());
                self.at(self.world_time(node, deadline), Event::Reply { to: node, life, ticket, answer });
            }
            Output::Answer { ticket, answer } => {
                self.check_answer(node, &answer);
                let earlier = self.nodes[node].answers.insert(ticket, answer);
                assert!(earlier.is_none(), "ticket {ticket} is answered twice");
            }
            Output::PeerAnswer { ticket, answer } => {
                let (to, life, ticket) = self.nodes[node].incoming.remove(&ticket).expect("answers what was asked");
                for delay in (self.network)(node, "answer") {
                    self.after(delay, Event::Reply { to, life, ticket, answer: Ok(answer.clone()) });
                }
            }
            Output::WakeAt(at) => {
                self.nodes[node].wake = Some(at);
                self.at(self.world_time(node, at), Event::Tick { node, life, at });
            }
        }
    }

    /// `kill -9`: what is installed stays, what is on the way to the node is lost, what it has sent is on the wire.
    pub(crate) fn crash(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.life += 1;
        node.down = true;
        node.wake = None;
        node.asked.clear();
        node.incoming.clear();
        node.outgoing.clear();
        node.changing.clear();
        node.broker = Broker::new(node.config.clone());
    }

    /// The host goes down too: its data plane forgets everything.
    pub(crate) fn crash_host(&mut self, node: usize) {
        self.crash(node);
        self.nodes[node].plane.clear();
        self.nodes[node].host_was_lost = true;
    }

    pub(crate) fn restart(&mut self, node: usize) {
        let now = self.clock(node);
        let this = &mut self.nodes[node];
        this.time_of_last_input = now;
        this.down = false;
        this.life += 1;
        this.config.epoch.0 += 1;
        this.broker = Broker::new(this.config.clone());
        let installed = this.plane.keys().copied().collect();
        let aggregates = this.store.aggregates.values().cloned().collect();
        let sessions = this.store.sessions.values().cloned().collect();
        this.broker.restore_links(this.store.links.values().cloned().collect(), now);
        this.broker.restore_series(this.store.series.values().cloned().collect());
        this.broker.restore_tokens(this.store.tokens.values().cloned().collect());
        this.broker.restore(aggregates, sessions, &installed, now);
        self.drain(node);
    }

    pub(crate) fn is_down(&self, node: usize) -> bool {
        self.nodes[node].down
    }

    /// Gives a node's only link other rates out, for what is to come of an interval in ms from now.
    pub(crate) fn set_rate_out(
        &mut self,
        node: usize,
        rate_out_bps: u64,
        from: Option<u64>,
        until: Option<u64>,
    ) -> Answer {
        let at = |ms: u64| self.clock(node).plus(Nanos(ms * MS));
        let (from, until) = (from.map(at), until.map(at));
        let change =
            LinkChange { link: name("wan0"), rate_out_bps: Some(rate_out_bps), rate_in_bps: None, from, until };
        self.ask(node, Request::ChangeLink(change))
    }

    pub(crate) fn link(&self, node: usize) -> LinkState {
        self.nodes[node].broker.link(&name("wan0")).unwrap()
    }

    /// Whom a node's only link cannot carry, now or later.
    pub(crate) fn uncarried(&self, node: usize) -> Vec<String> {
        self.link(node).uncarried.into_iter().map(|uncarried| uncarried.aggregate.to_string()).collect()
    }

    pub(crate) fn pool_used(&self, node: usize, aggregate: &str) -> u64 {
        self.nodes[node].broker.pool(&name(aggregate)).unwrap().used_bps
    }

    pub(crate) fn state(&self, node: usize, id: &str) -> Option<SessionState> {
        self.nodes[node].broker.session(&name(id)).map(|record| record.state)
    }

    pub(crate) fn flows_in_plane(&self, node: usize) -> usize {
        let is_flow = |policy: &&Policy| matches!(policy, Policy::FlowOut { .. } | Policy::FlowIn { .. });
        self.nodes[node].plane.values().filter(is_flow).count()
    }
}

pub(crate) fn perfect() -> Network {
    Box::new(|_, _| vec![1])
}

pub(crate) fn policy_kind(policy: &Policy) -> Kind {
    match policy {
        Policy::AggregateOut { .. } => "aggregate out",
        Policy::AggregateIn { .. } => "aggregate in",
        Policy::FlowOut { .. } => "flow out",
        Policy::FlowIn { .. } => "flow in",
        Policy::TerminalsIn { .. } => "terminals in",
    }
}
