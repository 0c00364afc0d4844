//! One node: the real broker, and models of the shell, the disk and the data plane around it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use turnpike_broker::message::PeerRequest;
use turnpike_broker::name::{AggregateName, Nanos, PolicyId, SessionId};
use turnpike_broker::policy::{InstallError, Meter, Policy};
use turnpike_broker::record::Change;
use turnpike_broker::{Broker, Config, Input, Output, Request};

use crate::checker::Broken;
use crate::checker::questions::{Told, is_question};
use crate::plane::Plane;
use crate::store::Store;
use crate::time::{Clock, Time};

/// A request of a peer's that is not answered.
#[derive(Debug, Clone)]
pub(crate) struct Incoming {
    pub(crate) from: usize,
    pub(crate) from_life: u32,
    pub(crate) ticket: u64,
    /// A later life of the asking node was heard before it.
    pub(crate) is_stale: bool,
    pub(crate) request: PeerRequest,
}

/// What a client that waits for an answer has asked for, as far as the answer is judged by it.
#[derive(Debug)]
pub(crate) enum Asked {
    GiveUp(AggregateName),
    ChangeEnd(SessionId, Option<Nanos>),
    Other,
}

impl Asked {
    pub(crate) fn of(request: &Request) -> Self {
        match request {
            Request::DeleteAggregate(name) => Self::GiveUp(name.clone()),
            Request::ChangeSessionEnd { id, ends_at } => Self::ChangeEnd(id.clone(), *ends_at),
            Request::CreateAggregate(_)
            | Request::CreateSession(_)
            | Request::WaitForSession { .. }
            | Request::WouldAdmit(_)
            | Request::ChangeSessionRates { .. }
            | Request::ChangeLink(_)
            | Request::CreateSeries { .. }
            | Request::DeleteSeries(_)
            | Request::DeleteSession(_) => Self::Other,
        }
    }
}

/// What the data plane's thread has to do, one after the other.
#[derive(Debug)]
pub(crate) enum Job {
    Install {
        ticket: u64,
        policies: Vec<(PolicyId, Policy)>,
        fails: bool,
    },
    Change {
        ticket: u64,
        meters: Vec<(PolicyId, Meter, Meter)>,
        fails: bool,
    },
    Deinstall {
        ticket: u64,
        policies: Vec<PolicyId>,
    },
    /// The final readings of these are on disk.
    Forget {
        policies: Vec<PolicyId>,
    },
}

/// What comes to the thread that owns the broker.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) input: Input,
    /// With [`Input::Deinstalled`]: what is out of force.
    pub(crate) deinstalled: Vec<PolicyId>,
}

impl From<Input> for Message {
    fn from(input: Input) -> Self {
        Self { input, deinstalled: Vec::new() }
    }
}

pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) broker: Broker,
    pub(crate) store: Store,
    pub(crate) plane: Plane,
    pub(crate) clock: Clock,
    /// What the clock showed when the broker was last given something.
    pub(crate) shown: Nanos,
    /// Counts processes: what is scheduled for an earlier one is void.
    pub(crate) life: u32,
    pub(crate) down: bool,
    pub(crate) paused_until: Time,
    pub(crate) inbox: Vec<Message>,
    pub(crate) work_is_due: bool,
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) wake: Option<Nanos>,
    pub(crate) incoming: BTreeMap<u64, Incoming>,
    pub(crate) outgoing: BTreeSet<u64>,
    /// Clients' tickets that are not answered.
    pub(crate) asked: BTreeMap<u64, Asked>,
    /// Since when it could do what it has to: the process is there and does not pause.
    pub(crate) well_since: Time,
    /// When the broker last asked to be woken.
    next_timer: Option<Nanos>,
    recorded: Vec<PolicyId>,
}

impl Node {
    pub(crate) fn new(config: Config, clock: Clock, prepare: fn(&mut Broker)) -> Self {
        let mut broker = Broker::new(config.clone());
        prepare(&mut broker);
        Self {
            config,
            broker,
            store: Store::default(),
            plane: Plane::default(),
            clock,
            shown: Nanos(0),
            life: 0,
            down: false,
            paused_until: Time(0),
            inbox: Vec::new(),
            work_is_due: false,
            jobs: VecDeque::new(),
            wake: None,
            incoming: BTreeMap::new(),
            outgoing: BTreeSet::new(),
            asked: BTreeMap::new(),
            well_since: Time(0),
            next_timer: None,
            recorded: Vec::new(),
        }
    }

    /// All that has come is handled before anything is carried out: changes for one transaction, then the effects.
    pub(crate) fn handle_all(&mut self, now: Time) -> Result<(Vec<Change>, VecDeque<Output>), Broken> {
        let shown = self.clock.at(now);
        self.shown = shown;
        let (mut changes, mut effects) = (Vec::new(), VecDeque::new());
        for Message { input, deinstalled } in std::mem::take(&mut self.inbox) {
            // What a timer does is not the question's doing.
            let question = is_question(&input) && self.next_timer.is_none_or(|at| at > shown);
            let before = question.then(|| Told::by(&self.broker));
            self.broker.handle(input, shown);
            self.recorded.extend(deinstalled);
            let drained = self.drain();
            if let Some(before) = before {
                before.is_still_told(self, &drained)?;
            }
            changes.extend(drained.0);
            effects.extend(drained.1);
        }
        Ok((changes, effects))
    }

    fn drain(&mut self) -> (Vec<Change>, VecDeque<Output>) {
        let (mut changes, mut effects) = (Vec::new(), VecDeque::new());
        while let Some(output) = self.broker.poll() {
            match output {
                Output::Persist(change) => changes.push(change),
                effect @ (Output::Install { .. }
                | Output::ChangeMeters { .. }
                | Output::Deinstall { .. }
                | Output::Send { .. }
                | Output::Answer { .. }
                | Output::PeerAnswer { .. }
                | Output::Notify { .. }) => effects.push_back(effect),
                effect @ Output::WakeAt(at) => {
                    self.next_timer = Some(at);
                    effects.push_back(effect);
                }
            }
        }
        (changes, effects)
    }

    /// One transaction. What is final in it may go from the data plane.
    pub(crate) fn persist(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.store.apply(change);
        }
        if !self.recorded.is_empty() {
            let policies = std::mem::take(&mut self.recorded);
            self.jobs.push_back(Job::Forget { policies });
        }
    }

    /// The next job of the data plane; its report. The outer error is a broken promise of the broker's.
    pub(crate) fn do_job(&mut self) -> Result<Option<Message>, String> {
        let Some(job) = self.jobs.pop_front() else {
            return Ok(None);
        };
        Ok(match job {
            Job::Install { ticket, fails: true, .. } | Job::Change { ticket, fails: true, .. } => {
                let error = InstallError {
                    code: "flow_table_full".to_owned(),
                    detail: "a fault of the simulation".to_owned(),
                    of_request: false,
                };
                Some(Input::InstallFailed { ticket, error }.into())
            }
            Job::Change { ticket, meters, fails: false } => {
                Some(Input::MetersChanged { ticket, counters: self.plane.change(&meters)? }.into())
            }
            Job::Install { ticket, policies, fails: false } => {
                let over = self.broker.sessions().filter(|record| record.schedule.interval().end() <= self.shown);
                self.plane.are_late(over.flat_map(|record| &record.flows).map(|flow| flow.policy));
                Some(match self.plane.install(policies)? {
                    Ok(()) => Input::Installed { ticket }.into(),
                    Err(error) => Input::InstallFailed { ticket, error }.into(),
                })
            }
            Job::Deinstall { ticket, policies } => {
                let counters = self.plane.deinstall(&policies);
                Some(Message { input: Input::Deinstalled { ticket, counters }, deinstalled: policies })
            }
            Job::Forget { policies } => {
                self.plane.forget(&policies);
                None
            }
        })
    }

    /// `kill -9`: policies stay in force, what is on disk stays, everything else is gone.
    pub(crate) fn kill(&mut self) {
        self.life += 1;
        self.down = true;
        self.paused_until = Time(0);
        self.work_is_due = false;
        self.inbox.clear();
        self.jobs.clear();
        self.wake = None;
        self.incoming.clear();
        self.outgoing.clear();
        self.asked.clear();
        self.recorded.clear();
    }

    /// Starts the next process on what is left. Its first effects are to be carried out.
    pub(crate) fn start(&mut self, now: Time, prepare: fn(&mut Broker)) -> (Vec<Change>, VecDeque<Output>) {
        self.down = false;
        self.well_since = now;
        self.next_timer = None;
        self.shown = self.clock.at(now);
        // Durable before anything else is done.
        self.config.epoch.0 += 1;
        self.broker = Broker::new(self.config.clone());
        prepare(&mut self.broker);
        let aggregates = self.store.aggregates.values().cloned().collect();
        let sessions = self.store.sessions.values().cloned().collect();
        self.broker.restore_links(self.store.links.values().cloned().collect(), self.clock.at(now));
        self.broker.restore_series(self.store.series.values().cloned().collect());
        self.broker.restore(aggregates, sessions, &self.plane.adopted(), self.clock.at(now));
        self.drain()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.inbox.is_empty()
            && self.jobs.is_empty()
            && self.incoming.is_empty()
            && self.outgoing.is_empty()
            && self.asked.is_empty()
    }
}
