//! What really was counted, against what the ledgers say.

use std::collections::{BTreeMap, BTreeSet};

use turnpike_broker::name::{FlowId, Label, PolicyId, SessionId};
use turnpike_broker::policy::{Counters, Policy};
use turnpike_broker::record::{Change, FlowUsage, SessionRecord, SessionState, UsageKind, UsageRecord};

use super::{Checker, Held, Rule, hold};
use crate::node::Node;

/// A flow of a session on a node: its policy, whether it has that one in the data plane, and the label that both ends know it by.
type Flow = (FlowId, PolicyId, bool, Option<Label>);

/// A policy of a node's.
type Installed = (usize, PolicyId);

#[derive(Default)]
pub(crate) struct Usage {
    /// Offered, dropped: packets that came while it was in force.
    traffic: BTreeMap<Installed, (u64, u64)>,
    /// The data plane forgot what it had counted of it.
    lost: BTreeSet<Installed>,
    /// A session's own policies, as last kept.
    flows: BTreeMap<(usize, SessionId), Vec<Flow>>,
    /// All policies that a session's flow ever had on a node, with their labels as last kept.
    ever: BTreeMap<(usize, SessionId, FlowId), BTreeMap<PolicyId, Option<Label>>>,
    /// Those of sessions that were active, and whether the ledger has their end.
    active: BTreeMap<Installed, bool>,
    pub(crate) offered_packets: u64,
    pub(crate) offered_of_sessions: u64,
    pub(crate) ledger_packets: u64,
    pub(crate) lost_packets: u64,
}

impl Usage {
    pub(super) fn installs(&mut self, node: usize, id: PolicyId, policy: &Policy) {
        if matches!(policy, Policy::FlowOut { .. } | Policy::FlowIn { .. }) {
            self.traffic.entry((node, id)).or_default();
        }
    }

    pub(super) fn host_lost(&mut self, index: usize, node: &Node) {
        self.lost.extend(node.plane.adopted().into_iter().map(|id| (index, id)));
    }

    fn keeps(&mut self, node: usize, record: &SessionRecord) {
        let flows = record.flows.iter().map(|flow| (flow.id.clone(), flow.policy, flow.has_policy(), flow.label));
        self.flows.insert((node, record.id.clone()), flows.collect());
        for flow in record.flows.iter().filter(|flow| flow.has_policy()) {
            self.ever.entry((node, record.id.clone(), flow.id.clone())).or_default().insert(flow.policy, flow.label);
            if record.state == SessionState::Active {
                self.active.entry((node, flow.policy)).or_insert(false);
            }
        }
    }

    /// What a reading of it must be; or, after a loss, must not exceed.
    fn is_right(&self, of: Installed, counters: &Counters) -> bool {
        let (offered, dropped) = self.traffic.get(&of).copied().unwrap_or_default();
        let consistent = counters.offered_packets == counters.passed_packets + counters.dropped_packets;
        let exact = (counters.offered_packets, counters.dropped_packets) == (offered, dropped);
        let less = counters.offered_packets <= offered && counters.dropped_packets <= dropped;
        consistent && if self.lost.contains(&of) { less } else { exact }
    }

    fn own(&mut self, node: usize, line: &UsageRecord, usage: &FlowUsage) -> Held {
        let flows = self.flows.get(&(node, line.session.clone())).map(Vec::as_slice).unwrap_or_default();
        let found =
            flows.iter().find(|(id, ..)| *id == usage.flow).map(|(_, policy, has_policy, _)| (*policy, *has_policy));
        let Some((policy, has_policy)) = found else {
            return Err((
                Rule::Usage,
                format!("the ledger has flow {} of {}, which it has not", usage.flow, line.session),
            ));
        };
        hold(Rule::Usage, usage.counters.is_some() == has_policy, || {
            format!("flow {} of {} has the reading {:?}", usage.flow, line.session, usage.counters)
        })?;
        let Some(counters) = &usage.counters else { return Ok(()) };
        hold(Rule::Usage, self.is_right((node, policy), counters), || {
            let traffic = self.traffic.get(&(node, policy));
            format!(
                "flow {} of {} has {counters:?} in the ledger; offered and dropped were {traffic:?}",
                usage.flow, line.session
            )
        })?;
        match self.active.get_mut(&(node, policy)) {
            Some(ended @ false) => *ended = true,
            other => {
                return Err((
                    Rule::Usage,
                    format!("flow {} of {} ends in the ledger: {other:?}", usage.flow, line.session),
                ));
            }
        }
        self.ledger_packets += counters.offered_packets;
        Ok(())
    }

    fn peers(&self, node: usize, peer: usize, line: &UsageRecord, usage: &FlowUsage) -> Held {
        let Some(counters) = &usage.counters else { return Ok(()) };
        let flows = self.flows.get(&(node, line.session.clone())).map(Vec::as_slice).unwrap_or_default();
        let label = flows.iter().find(|(id, ..)| *id == usage.flow).and_then(|(.., label)| *label);
        let ever = self.ever.get(&(peer, line.session.clone(), usage.flow.clone())).into_iter().flatten();
        let mut same = ever.filter(|(_, theirs)| **theirs == label);
        hold(Rule::Usage, same.any(|(policy, _)| self.is_right((peer, *policy), counters)), || {
            format!("flow {} of {} has {counters:?} of the peer in the ledger", usage.flow, line.session)
        })
    }
}

impl Checker {
    /// Packets came to a policy that was in force.
    pub(crate) fn traffic(&mut self, node: usize, policy: PolicyId, offered: u64, dropped: u64) {
        let traffic = self.usage.traffic.entry((node, policy)).or_default();
        traffic.0 += offered;
        traffic.1 += dropped;
        self.usage.offered_packets += offered;
    }

    /// Before a change is made durable.
    pub(crate) fn change(&mut self, nodes: &[Node], index: usize, change: &Change) -> Held {
        let line = match change {
            Change::PutSession(record) => {
                self.ends_for_a_reason(nodes, index, record)?;
                self.note_booking(index, record, nodes[index].shown);
                self.waiting.keeps(index, record);
                // Who waits has no policies.
                if record.state != SessionState::Waiting {
                    self.usage.keeps(index, record);
                }
                return Ok(());
            }
            Change::AppendUsage(line) if line.kind == UsageKind::Final => line,
            Change::AppendUsage(_)
            | Change::PutAggregate(_)
            | Change::DeleteAggregate(_)
            | Change::DeleteSession(_)
            | Change::PutLink(_)
            | Change::PutSeries(_)
            | Change::DeleteSeries(_)
            | Change::PutToken(_)
            | Change::DeleteToken { .. } => return Ok(()),
        };
        for usage in &line.flows {
            match nodes.iter().position(|node| node.config.node == usage.node) {
                Some(node) if node == index => self.usage.own(index, line, usage)?,
                Some(peer) => self.usage.peers(index, peer, line, usage)?,
                None => return Err((Rule::Usage, format!("{} has counted, which is no node", usage.node))),
            }
        }
        Ok(())
    }

    /// When all sessions have ended: what was active is in the ledger, with all that was counted of it.
    pub(super) fn all_is_in_the_ledger(&mut self) -> Held {
        let usage = &mut self.usage;
        for (of, ended) in &usage.active {
            hold(Rule::Usage, *ended, || format!("policy {of:?} was active, and its end is in no ledger"))?;
            let (offered, _) = usage.traffic.get(of).copied().unwrap_or_default();
            usage.offered_of_sessions += offered;
            if usage.lost.contains(of) {
                usage.lost_packets += offered;
            }
        }
        let (offered, ledger, lost) = (usage.offered_of_sessions, usage.ledger_packets, usage.lost_packets);
        hold(Rule::Usage, ledger <= offered && ledger + lost >= offered, || {
            format!(
                "{offered} packets came to sessions, {ledger} are in the ledgers, {lost} at most were lost with their hosts"
            )
        })
    }

    /// Packets that came, those of sessions that were active, and those in the ledgers.
    pub(crate) const fn packets(&self) -> (u64, u64, u64) {
        (self.usage.offered_packets, self.usage.offered_of_sessions, self.usage.ledger_packets)
    }
}
