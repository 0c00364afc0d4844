//! Sessions that wait: few are called at once, offers lapse, and nobody waits for long while there is room.

use std::collections::BTreeMap;

use turnpike_broker::message::PeerRequest;
use turnpike_broker::name::{AggregateName, Nanos, PolicyId, SessionId};
use turnpike_broker::record::{AggregateState, FlowRecord, SessionRecord, SessionState, Side};
use turnpike_broker::{Cost, Output};

use super::pools::{Taken, cost};
use super::{Checker, Held, Rule, hold};
use crate::node::Node;
use crate::time::{S, Time};

/// As `docs/life-of-a-reservation.md` has it.
const CALLS_MAX: usize = 4;
/// Who is first in turn and has room for that long was called meanwhile, when nothing is lost: tries are at most 30 s apart.
const IN_VAIN_NS: u64 = 60 * S;

#[derive(Default)]
pub(crate) struct Waiting {
    /// Second sides that were asked to hold for one that waits, and have not been offered to it.
    calls: BTreeMap<(usize, SessionId), PolicyId>,
    /// Since when somebody could have been called.
    room_since: BTreeMap<(usize, SessionId), Time>,
}

impl Waiting {
    pub(super) fn killed(&mut self, index: usize) {
        self.calls.retain(|(node, _), _| *node != index);
    }

    pub(super) fn sends(&mut self, index: usize, effect: &Output) {
        if let Output::Send { request: PeerRequest::HoldSession { session, attempt, offer: true, .. }, .. } = effect {
            self.calls.insert((index, session.clone()), PolicyId(*attempt));
        }
    }

    pub(super) fn keeps(&mut self, index: usize, record: &SessionRecord) {
        if record.state != SessionState::Held {
            self.calls.remove(&(index, record.id.clone()));
        }
    }
}

impl Checker {
    /// After a node has worked.
    pub(super) fn few_are_called(&self, index: usize, node: &Node) -> Held {
        let called = |record: &&SessionRecord| {
            let attempt = record.flows.first().map(|flow| flow.policy);
            record.side == Side::First
                && record.state == SessionState::Held
                && attempt.as_ref() == self.waiting.calls.get(&(index, record.id.clone()))
        };
        let calls = node.broker.sessions().filter(called).count();
        hold(Rule::Waiting, calls <= CALLS_MAX, || format!("{calls} that wait are called at once"))?;
        for record in node.broker.sessions().filter(|record| record.state == SessionState::Offered) {
            let until = record.wait.and_then(|wait| wait.offered_until).unwrap_or_default();
            hold(Rule::Lapse, node.shown < until, || {
                format!("session {} is offered until {until}, and it is {}", record.id, node.shown)
            })?;
        }
        for record in node.broker.waiting() {
            let until = record.wait.map_or(Nanos(0), |wait| wait.until);
            hold(Rule::Lapse, node.shown < until, || {
                format!("session {} waits until {until}, and it is {}", record.id, node.shown)
            })?;
        }
        Ok(())
    }

    /// When all is calm, from time to time. Whether anybody waits at all.
    pub(crate) fn nobody_waits_in_vain(&mut self, nodes: &[Node], now: Time) -> Result<bool, super::Broken> {
        let mut waits = false;
        let mut room_since = BTreeMap::new();
        for (index, node) in nodes.iter().enumerate() {
            for record in node.broker.waiting() {
                waits = true;
                if !has_room(nodes, node, record) {
                    continue;
                }
                let key = (index, record.id.clone());
                let since = self.waiting.room_since.get(&key).copied().unwrap_or(now);
                hold(Rule::Waiting, now.0 - since.0 <= IN_VAIN_NS, || {
                    format!("session {} waits at {} while there is room for it", record.id, node.config.node)
                })?;
                room_since.insert(key, since);
            }
        }
        self.waiting.room_since = room_since;
        Ok(waits)
    }
}

/// Whether both ends have all that it wants, and nobody that waits for any of it came before.
fn has_room(nodes: &[Node], node: &Node, record: &SessionRecord) -> bool {
    let number = |record: &SessionRecord| record.wait.map_or(u64::MAX, |wait| wait.number);
    let shares = |other: &SessionRecord| {
        other.flows.iter().any(|theirs| record.flows.iter().any(|flow| flow.aggregate == theirs.aggregate))
    };
    let mut others = node.broker.waiting().chain(node.broker.sessions());
    if others.any(|other| other.wait.is_some() && number(other) < number(record) && shares(other)) {
        return false;
    }
    let Some(peer) = nodes.iter().find(|peer| peer.config.node == record.peer) else { return false };
    [node, peer].into_iter().all(|end| fits(end, record))
}

/// Whether one node has all that a session wants of it. Rather no than yes.
fn fits(node: &Node, record: &SessionRecord) -> bool {
    let limits = &node.config.limits;
    if node.down || node.broker.sessions().count() >= limits.sessions_max {
        return false;
    }
    let places = |name: &str| {
        let used =
            node.broker.tables().into_iter().find(|table| table.name == name).map_or(u64::MAX, |table| table.used);
        used.saturating_add(record.flows.len() as u64) <= u64::from(limits.flows_max)
    };
    if !(places("flows") && places("labels")) {
        return false;
    }
    // Few ports: RTCP's may be another's.
    let near = |a: &FlowRecord, b: &FlowRecord| {
        a.endpoints.source.ip() == b.endpoints.source.ip()
            && a.endpoints.source.port().abs_diff(b.endpoints.source.port()) <= 1
    };
    let mut sessions = node.broker.sessions();
    if sessions.any(|other| other.flows.iter().any(|theirs| record.flows.iter().any(|flow| near(flow, theirs)))) {
        return false;
    }
    let taken = Taken::of(node, &BTreeMap::new(), 0);
    let mut wanted: BTreeMap<&AggregateName, Cost> = BTreeMap::new();
    for flow in &record.flows {
        let wanted = wanted.entry(&flow.aggregate).or_default();
        wanted.rate_bps += cost(flow).rate_bps;
        wanted.burst_bytes += cost(flow).burst_bytes;
    }
    wanted.into_iter().all(|(name, wanted)| {
        let active = node.broker.aggregate(name).is_some_and(|record| record.state == AggregateState::Active);
        let Some(pool) = node.broker.pool(name) else { return false };
        let mut peaks = taken
            .levels(name, node.shown)
            .into_iter()
            .filter(|(at, _)| *at >= record.schedule.interval().start() && *at < record.schedule.interval().end());
        let free = peaks.all(|(_, used)| {
            used.rate_bps + wanted.rate_bps <= pool.capacity_bps
                && used.burst_bytes + wanted.burst_bytes <= pool.burst_capacity_bytes
        });
        active && free
    })
}
