//! A session is in force in its interval only, by the clock of each node for itself; and what was booked comes up, or fails with a reason.

use turnpike_broker::calendar::OPEN;
use turnpike_broker::name::{Nanos, PolicyId, SessionId};
use turnpike_broker::record::{Direction, FlowRecord, SessionRecord, SessionState, Side};

use super::{Checker, Held, Rule, hold};
use crate::clients::Clients;
use crate::node::Node;
use crate::time::{S, Time};

/// So long a data plane and a broker that are well may take for what they have to do.
const AT_WORK_NS: u64 = S / 2;

fn of_policy(node: &Node, id: PolicyId) -> Option<&SessionRecord> {
    node.broker.sessions().find(|record| record.flows.iter().any(|flow| flow.policy == id))
}

impl Checker {
    /// Before policies are installed: their sessions have begun by the node's own clock, and are not over.
    pub(super) fn installs_in_time(node: &Node, ids: impl Iterator<Item = PolicyId>) -> Held {
        for id in ids {
            let Some(record) = of_policy(node, id) else { continue };
            let interval = record.schedule.interval();
            hold(Rule::Interval, interval.start() <= node.shown, || {
                format!("session {} starts at {} and is installed at {}", record.id, interval.start(), node.shown)
            })?;
        }
        Ok(())
    }

    /// A node that is well has nothing in force whose end was some time ago by its own clock: what it sends at once, what it receives once
    /// the peer has stopped or was silent for as long as an answer may take.
    pub(crate) fn is_enforced_in_time(&self, index: usize, node: &Node, now: Time) -> Held {
        let clock = node.clock;
        if node.down || now < node.well_since {
            return Ok(());
        }
        let (shown, well_since) = (clock.at(now), clock.at(node.well_since));
        for record in node.broker.sessions() {
            let end = record.schedule.interval().end();
            if shown <= end {
                continue;
            }
            // It may have heard late of an end.
            let known = self.ends_known.get(&(index, record.id.clone())).map(|(_, since)| *since).unwrap_or_default();
            let since = end.max(well_since).max(known);
            let is_late = |flow: &&FlowRecord| {
                let reply_ns = match flow.direction {
                    Direction::Out => 0,
                    Direction::In => node.config.timers.reply.0,
                };
                let until = since.plus(Nanos(reply_ns + AT_WORK_NS));
                until < shown && flow.has_policy() && node.plane.has(flow.policy)
            };
            let late = record.flows.iter().find(is_late);
            hold(Rule::Interval, late.is_none(), || {
                format!("session {} ended at {end} and is in force at {shown}: {late:?}", record.id)
            })?;
        }
        Ok(())
    }

    /// Before a record is made durable.
    pub(super) fn note_booking(&mut self, index: usize, record: &SessionRecord, shown: Nanos) {
        let key = (index, record.id.clone());
        let known = self.ends_known.entry(key.clone()).or_insert((None, shown));
        if known.0 != record.schedule.ends_at {
            *known = (record.schedule.ends_at, shown);
        }
        let is_first_sides = record.booked && record.side == Side::First;
        if is_first_sides && record.state == SessionState::Active {
            self.came_up.insert(key);
        } else if is_first_sides && record.state == SessionState::Ended && record.failure.is_some() {
            self.failed.insert(key);
        }
    }

    /// Before a record is made durable: what a first side has as active ends because somebody asks for it, because its end has come at
    /// either node, or because a host was lost.
    pub(super) fn ends_for_a_reason(&mut self, nodes: &[Node], index: usize, record: &SessionRecord) -> Held {
        let node = &nodes[index];
        let earliest = self.ends_earliest.entry(record.id.clone()).or_insert(OPEN);
        *earliest = record.schedule.interval().end().min(*earliest);
        let was_active = node.store.sessions.get(&record.id).is_some_and(|before| before.state == SessionState::Active);
        if record.side == Side::Second || record.state != SessionState::Releasing || !was_active {
            return Ok(());
        }
        let Some(peer) = nodes.iter().position(|node| node.config.node == record.peer) else { return Ok(()) };
        let has_come = nodes[peer].shown.max(node.shown) >= *earliest;
        let host_lost = [index, peer].iter().any(|node| self.hosts_lost.contains(node));
        hold(Rule::Durability, has_come || host_lost || self.ends_wanted.contains(&record.id), || {
            format!("session {} is ended at {}, and nobody asked for it: {record:?}", record.id, node.shown)
        })
    }

    /// A client asks for the end of a session.
    pub(crate) fn end_is_wanted(&mut self, id: &SessionId) {
        self.ends_wanted.insert(id.clone());
    }

    /// At rest all starts have come.
    pub(super) fn bookings_came_up(&self, clients: &Clients) -> Held {
        for call in clients.calls.iter().filter(|call| call.booked && !call.end_asked && !call.host_lost) {
            let key = (call.first, call.request.id.clone());
            hold(Rule::Durability, self.came_up.contains(&key) || self.failed.contains(&key), || {
                format!("session {} was answered as booked, has not come up, and no failure is told", call.request.id)
            })?;
        }
        Ok(())
    }

    /// Sessions that were booked and came up at their first side, and those that failed there.
    pub(crate) fn bookings(&self) -> (u64, u64) {
        (self.came_up.len() as u64, self.failed.difference(&self.came_up).count() as u64)
    }
}
