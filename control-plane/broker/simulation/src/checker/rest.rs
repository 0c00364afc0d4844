//! At rest: nothing has leaked, and both nodes, both stores and both data planes tell the same story.

use std::collections::{BTreeMap, BTreeSet};

use turnpike_broker::name::{Epoch, PolicyId, SessionId};
use turnpike_broker::record::{AggregateState, Direction, FlowRecord, SessionRecord, SessionState, UsageKind};

use super::{Checker, Held, Rule, hold};
use crate::clients::{Call, Clients};
use crate::node::Node;

fn leak(holds: bool, detail: impl FnOnce() -> String) -> Held {
    hold(Rule::Leak, holds, detail)
}

impl Checker {
    /// The world goes on and on though nobody has bad luck any more; what both ends tell may say why.
    pub(crate) fn is_stuck(nodes: &[Node]) -> Held {
        ends_agree(nodes)?;
        Err((Rule::Liveness, "the world does not come to rest".to_owned()))
    }

    /// Nothing is under way, no timer is set, and nobody has bad luck any more.
    pub(crate) fn rests(&mut self, nodes: &[Node], clients: &Clients) -> Held {
        for (index, node) in nodes.iter().enumerate() {
            hold(Rule::Liveness, node.is_idle(), || format!("somebody waits for an answer of {}", node.config.node))?;
            self.worked(index, node)?;
            rests(node)?;
        }
        ends_agree(nodes)?;
        self.bookings_came_up(clients)?;
        let stays = |call: &&Call| call.told && !call.end_asked && !call.host_lost && !call.has_end;
        for call in clients.calls.iter().filter(stays) {
            for end in [call.first, call.second] {
                let state = nodes[end].broker.session(&call.request.id).map(|record| record.state);
                hold(Rule::Durability, state == Some(SessionState::Active), || {
                    format!(
                        "session {} was answered as active and not ended, and is {state:?} at n{end}",
                        call.request.id
                    )
                })?;
            }
        }
        Ok(())
    }

    /// All sessions were ended, and all aggregates given up.
    pub(crate) fn is_empty(&mut self, nodes: &[Node], clients: &Clients) -> Held {
        self.rests(nodes, clients)?;
        for node in nodes {
            let name = &node.config.node;
            leak(node.broker.sessions().next().is_none(), || format!("{name} has sessions"))?;
            leak(node.broker.aggregates().next().is_none(), || format!("{name} has aggregates"))?;
            leak(node.plane.adopted().is_empty(), || format!("{name} has policies in its data plane"))?;
        }
        self.all_is_in_the_ledger()
    }
}

fn rests(node: &Node) -> Held {
    let name = &node.config.node;
    let sessions: Vec<&SessionRecord> = node.broker.sessions().collect();
    for session in &sessions {
        leak(session.state == SessionState::Active && session.schedule.ends_at.is_none(), || {
            format!("session {} at {name} is {:?}, with {:?}", session.id, session.state, session.schedule)
        })?;
    }
    let waiting = node.broker.waiting().next();
    leak(waiting.is_none(), || format!("session {:?} waits at {name}", waiting.map(|record| &record.id)))?;
    let stored = node.store.sessions.values().filter(|record| record.state != SessionState::Ended);
    leak(stored.eq(sessions.iter().copied()), || format!("store and broker of {name} have other sessions"))?;
    for aggregate in node.broker.aggregates() {
        leak(aggregate.state == AggregateState::Active, || {
            format!("aggregate {} at {name} is {:?}", aggregate.name, aggregate.state)
        })?;
    }
    leak(node.store.aggregates.values().eq(node.broker.aggregates()), || {
        format!("store and broker of {name} have other aggregates")
    })?;
    let flows = || sessions.iter().flat_map(|session| &session.flows).filter(|flow| flow.has_policy());
    let of_aggregates = node.broker.aggregates().flat_map(turnpike_broker::record::AggregateRecord::policies);
    let known: BTreeSet<PolicyId> = of_aggregates.chain(flows().map(|flow| flow.policy)).collect();
    leak(node.plane.ids().eq(known.iter().copied()), || {
        let there: BTreeSet<PolicyId> = node.plane.ids().collect();
        format!(
            "the data plane of {name} has policies that are no record's, or lacks some: {:?}",
            there.symmetric_difference(&known)
        )
    })?;
    leak(node.plane.retired().is_empty(), || {
        format!("{name} keeps final readings that are recorded: {:?}", node.plane.retired())
    })?;
    let labels = flows().filter(|flow| flow.direction == Direction::In).count()
        + node.broker.aggregates().filter(|record| record.direction == Direction::In && record.label.is_some()).count();
    let used: BTreeMap<_, _> = node.broker.tables().into_iter().map(|table| (table.name, table.used)).collect();
    let flows_out = flows().filter(|flow| flow.direction == Direction::Out).count() as u64;
    let expected = [
        ("flows", flows_out),
        ("labels", labels as u64),
        ("sessions", sessions.len() as u64),
        ("questions", 0),
        ("watches", 0),
    ];
    for (table, expected) in expected {
        leak(used.get(table) == Some(&expected), || {
            format!("{name} uses {:?} {table}, and {expected} are known", used.get(table))
        })?;
    }
    ledger_is_whole(node, &sessions)
}

/// Starts and ends in turn, without a gap, and open for who is active.
fn ledger_is_whole(node: &Node, active: &[&SessionRecord]) -> Held {
    let name = &node.config.node;
    let mut open: BTreeSet<&SessionId> = BTreeSet::new();
    let mut last: BTreeMap<Epoch, u64> = BTreeMap::new();
    for line in &node.store.ledger {
        let sequence = last.entry(line.epoch).or_default();
        *sequence += 1;
        hold(Rule::Usage, line.sequence == *sequence, || {
            format!("the ledger of {name} has a gap before {}", line.sequence)
        })?;
        let in_turn = match line.kind {
            UsageKind::Start => open.insert(&line.session),
            UsageKind::Change => open.contains(&line.session),
            UsageKind::Final => open.remove(&line.session),
        };
        hold(Rule::Usage, in_turn, || format!("{} at {name} has two lines {:?} in turn", line.session, line.kind))?;
    }
    hold(Rule::Usage, open.iter().copied().eq(active.iter().map(|record| &record.id)), || {
        format!("the ledger of {name} has other sessions under way than its broker: {open:?}")
    })
}

/// What the other end of a session or an aggregate must have, too.
fn ends_agree(nodes: &[Node]) -> Held {
    let by_name: BTreeMap<&str, &Node> = nodes.iter().map(|node| (node.config.node.as_str(), node)).collect();
    for node in nodes {
        let name = &node.config.node;
        for record in node.broker.sessions() {
            let theirs = by_name.get(record.peer.as_str()).and_then(|peer| peer.broker.session(&record.id));
            let told = |record: &SessionRecord| -> Vec<_> {
                let flow =
                    |flow: &FlowRecord| (flow.id.clone(), flow.endpoints, flow.meter, flow.label, flow.rtcp, flow.tag);
                record.flows.iter().map(flow).collect()
            };
            let same = theirs.is_some_and(|theirs| {
                (theirs.peer == *name) && theirs.state == SessionState::Active && told(theirs) == told(record)
            });
            leak(same, || {
                let state = theirs.map(|theirs| theirs.state);
                format!("session {} is active at {name}, and at {} it is {state:?}, or another", record.id, record.peer)
            })?;
        }
        for record in node.broker.aggregates() {
            let theirs = by_name.get(record.peer.as_str()).and_then(|peer| peer.broker.aggregate(&record.name));
            let same = theirs.is_some_and(|theirs| {
                (theirs.rate_bps, theirs.burst_bytes, theirs.marking, theirs.tag, theirs.label)
                    == (record.rate_bps, record.burst_bytes, record.marking, record.tag, record.label)
                    && theirs.direction != record.direction
            });
            leak(same, || {
                format!("aggregate {} is active at {name}, and {} has it not, or another", record.name, record.peer)
            })?;
        }
    }
    Ok(())
}
