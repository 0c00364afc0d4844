//! What must hold in the world, found out from the outside: by what the brokers say in public, and by what really is in the stores and
//! data planes.

mod answers;
mod intervals;
mod pools;
pub(crate) mod questions;
mod rest;
mod usage;
mod waiting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use turnpike_broker::message::PeerRequest;
use turnpike_broker::name::{AggregateName, Epoch, Nanos, NodeName, SessionId};
use turnpike_broker::{Input, Output};

use crate::node::{Message, Node};
use crate::time::Time;

/// What must hold; `docs/simulation.md` says how it is found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// The sum of holds and commits is at most the capacity, on every pool and at every instant, and is what the sessions and aggregates of
    /// the node take.
    Capacity,
    /// A session is in force in its interval only, by the node's own clock.
    Interval,
    /// What is in the data planes fits: no endpoints and no label twice, and no aggregate with more than it has.
    DataPlane,
    /// Nothing is answered before it is confirmed.
    Confirmation,
    /// A hold that was not committed ends in time.
    Lapse,
    /// An attempt that is over is not heard again.
    Fence,
    /// Few of those that wait are called at once, and nobody waits while there is room.
    Waiting,
    /// A question changes nothing.
    Question,
    /// At rest nothing is left over, and both ends tell the same.
    Leak,
    /// What a client was told is there, until somebody ends it.
    Durability,
    /// The ledger has exactly the traffic that was.
    Usage,
    /// Every request is answered, and the world comes to rest.
    Liveness,
    /// The broker stopped at one of its own assertions.
    Panic,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Capacity => "capacity",
            Self::Interval => "interval",
            Self::Waiting => "waiting",
            Self::Question => "question",
            Self::DataPlane => "data plane",
            Self::Confirmation => "confirmation",
            Self::Lapse => "lapse",
            Self::Fence => "fence",
            Self::Leak => "leak",
            Self::Durability => "durability",
            Self::Usage => "usage",
            Self::Liveness => "liveness",
            Self::Panic => "panic",
        })
    }
}

/// What did not hold, when and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which rule.
    pub rule: Rule,
    /// True time, ns.
    pub at_ns: u64,
    /// The node that was at work, if it was one.
    pub node: Option<usize>,
    /// For people.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, at_ns, node, detail } = self;
        let ms = at_ns / 1_000_000;
        write!(f, "{rule} at {}.{:03} s", ms / 1_000, ms % 1_000)?;
        if let Some(node) = node {
            write!(f, ", node n{node}")?;
        }
        write!(f, ": {detail}")
    }
}

/// A rule and how it was broken.
pub(crate) type Broken = (Rule, String);
pub(crate) type Held = Result<(), Broken>;

/// Holds, or is broken in this way.
pub(crate) fn hold(rule: Rule, holds: bool, detail: impl FnOnce() -> String) -> Held {
    if holds { Ok(()) } else { Err((rule, detail())) }
}

/// Remembers what it has seen, by the numbers of nodes.
#[derive(Default)]
pub(crate) struct Checker {
    /// The last attempt that a first side asked to commit.
    commits_asked: BTreeMap<(usize, SessionId), u64>,
    /// Attempts of a first side's that a second side has confirmed while all was in force there.
    commits: BTreeSet<(usize, usize, SessionId, u64)>,
    offers_asked: BTreeMap<(usize, AggregateName), u64>,
    offers: BTreeSet<(usize, AggregateName, u64)>,
    /// Attempts of a first side's that a second side has booked, and ends that it has taken.
    books: BTreeSet<(usize, usize, SessionId, u64)>,
    ends_taken: BTreeSet<(usize, usize, SessionId, Option<Nanos>)>,
    /// Other ends that a second side was asked for and has not answered, by the node that asks.
    ends_asked: BTreeMap<(usize, SessionId), EndAsked>,
    /// The last attempt of a first side's that a second side has held, when, by the second side's clock, and whether for an offer.
    holds: BTreeMap<(usize, NodeName, SessionId), (u64, Nanos, bool)>,
    /// By their first sides: booked sessions that came up, and those that failed with a reason.
    came_up: BTreeSet<(usize, SessionId)>,
    failed: BTreeSet<(usize, SessionId)>,
    /// The end that a node keeps for a session, and since when, by its clock.
    ends_known: BTreeMap<(usize, SessionId), (Option<Nanos>, Nanos)>,
    /// The earliest end that a session of this name ever had at a node.
    ends_earliest: BTreeMap<SessionId, Nanos>,
    /// Sessions whose end was asked for, and nodes whose hosts went down.
    ends_wanted: BTreeSet<SessionId>,
    hosts_lost: BTreeSet<usize>,
    waiting: waiting::Waiting,
    /// The last attempt that is over, and the ticket of the request with whose answer it was: by the node that says so, the node that asked,
    /// and what it is about.
    over: BTreeMap<(usize, usize, String), (u64, u64)>,
    /// The highest epoch that a process has heard of another node.
    epochs: BTreeMap<(usize, usize), Epoch>,
    usage: usage::Usage,
    pub(crate) checks: u64,
    /// Instants of pools that were looked at.
    pub(crate) instants: u64,
}

/// Another end that a second side was asked for.
pub(crate) struct EndAsked {
    ticket: u64,
    attempt: u64,
    ends_at: Option<Nanos>,
}

impl Checker {
    /// A process is gone, and with it all connections to it.
    pub(crate) fn killed(&mut self, index: usize) {
        self.over.retain(|(node, ..), _| *node != index);
        self.epochs.retain(|(node, _), _| *node != index);
        self.ends_asked.retain(|(node, _), _| *node != index);
        self.waiting.killed(index);
    }

    /// Before a node handles this.
    pub(crate) fn hears(&mut self, index: usize, inbox: &[Message]) {
        for message in inbox {
            if let Input::PeerAnswered { ticket, .. } = message.input {
                self.ends_asked.retain(|(node, _), asked| *node != index || asked.ticket != ticket);
            }
        }
    }

    /// After that, with what it wants done.
    pub(crate) fn sends(&mut self, index: usize, effects: &VecDeque<Output>) {
        for effect in effects {
            self.waiting.sends(index, effect);
            if let Output::Send { ticket, request, .. } = effect
                && let PeerRequest::ChangeSessionEnd { session, attempt, ends_at, .. } = request
            {
                let asked = EndAsked { ticket: *ticket, attempt: *attempt, ends_at: *ends_at };
                self.ends_asked.insert((index, session.clone()), asked);
            }
        }
    }

    /// A message comes to a process; whether it is one of an earlier life of its sender's than was heard before.
    pub(crate) fn heard(&mut self, by: usize, from: usize, epoch: Epoch) -> bool {
        let highest = self.epochs.entry((by, from)).or_insert(epoch);
        *highest = epoch.max(*highest);
        epoch < *highest
    }

    /// A data plane is about to forget everything.
    pub(crate) fn host_lost(&mut self, index: usize, node: &Node) {
        self.hosts_lost.insert(index);
        self.usage.host_lost(index, node);
    }

    /// What names the violation.
    pub(crate) fn violation((rule, detail): Broken, now: Time, node: Option<usize>) -> Violation {
        Violation { rule, at_ns: now.0, node, detail }
    }
}
