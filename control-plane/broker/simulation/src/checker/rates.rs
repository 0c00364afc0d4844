//! Rates that change: what is enforced is held, receivers are never below their senders, both ends take a change or neither, and the ledger
//! has every rate with what was counted at it.

use std::collections::BTreeMap;

use turnpike_broker::name::{FlowId, NodeName, PolicyId, SessionId};
use turnpike_broker::policy::{Meter, Policy};
use turnpike_broker::rate_change::RateWish;
use turnpike_broker::record::{Direction, SessionRecord, SessionState, Side, UsageKind, UsageRecord};

use super::{Checker, Held, Rule, hold};
use crate::node::Node;

#[derive(Default)]
pub(crate) struct Rates {
    /// The last change that a first side asked to commit.
    asked: BTreeMap<(usize, SessionId), u64>,
    /// The last change of a first side's that a second side has confirmed.
    taken: BTreeMap<(usize, usize, SessionId), u64>,
    /// What a client was told last, while nobody has asked for anything else.
    told: BTreeMap<(usize, SessionId), Vec<Meter>>,
    /// Offered and dropped when meters were changed last.
    readings: BTreeMap<(usize, PolicyId), (u64, u64)>,
    /// By the ledger, since a session's start: of each flow its rate.
    in_ledger: BTreeMap<(usize, SessionId), BTreeMap<FlowId, u64>>,
}

impl Rates {
    pub(super) fn commit_is_asked(&mut self, index: usize, id: &SessionId, change: u64) {
        self.asked.insert((index, id.clone()), change);
    }

    /// Before a record is made durable.
    pub(super) fn keeps(&mut self, index: usize, record: &SessionRecord) -> Held {
        let key = (index, record.id.clone());
        if record.side == Side::First && record.state == SessionState::Held {
            self.told.remove(&key);
        }
        let Some(known) = self.in_ledger.get(&key).filter(|_| record.state == SessionState::Active) else {
            return Ok(());
        };
        let rates = record.flows.iter().map(|flow| (flow.id.clone(), flow.meter.rate_bps));
        let same = *known == rates.collect();
        hold(Rule::Usage, same, || format!("the ledger has {known:?} for {record:?}"))
    }

    /// A line of the ledger, before it is made durable.
    pub(super) fn enters(&mut self, index: usize, name: &NodeName, line: &UsageRecord) -> Held {
        let key = (index, line.session.clone());
        let own = line.flows.iter().filter(|usage| usage.node == *name);
        let rates = own.map(|usage| (usage.flow.clone(), usage.reserved_rate_bps));
        match line.kind {
            UsageKind::Start => drop(self.in_ledger.insert(key, rates.collect())),
            UsageKind::Change => self.in_ledger.entry(key).or_default().extend(rates),
            UsageKind::Final => {
                let known = self.in_ledger.remove(&key).unwrap_or_default();
                let last: BTreeMap<_, _> = rates.collect();
                hold(Rule::Usage, known == last, || {
                    format!("{} ends in the ledger with {last:?}, and had {known:?}", line.session)
                })?;
            }
        }
        Ok(())
    }

    pub(super) fn reading(&self, of: (usize, PolicyId)) -> (u64, u64) {
        self.readings.get(&of).copied().unwrap_or_default()
    }
}

const fn is_within(meter: Meter, of: Meter) -> bool {
    meter.rate_bps <= of.rate_bps && meter.burst_bytes <= of.burst_bytes
}

impl Checker {
    /// A data plane has changed meters.
    pub(crate) fn reads(&mut self, index: usize, policies: &[PolicyId]) {
        for policy in policies {
            let reading = self.usage.traffic(index, *policy);
            self.rates.readings.insert((index, *policy), reading);
        }
    }

    /// After a node has worked: no data plane lets a flow have more than is held for it.
    pub(super) fn enforces_what_is_held(node: &Node) -> Held {
        for record in node.broker.sessions() {
            for flow in record.flows.iter().filter(|flow| flow.has_policy()) {
                let Some(meter) = node.plane.meter(flow.policy) else { continue };
                let held = record.held_meter(flow);
                hold(Rule::DataPlane, is_within(meter, held), || {
                    format!(
                        "flow {} of {} at {} has {meter:?} in force, and {held:?} is held",
                        flow.id, record.id, node.config.node
                    )
                })?;
            }
        }
        Ok(())
    }

    /// After a data plane has worked on these: what it has is held, and no sender has more than its receiver.
    pub(crate) fn rates_fit(&self, nodes: &[Node], index: usize, touched: &[PolicyId]) -> Held {
        if touched.is_empty() {
            return Ok(());
        }
        Self::enforces_what_is_held(&nodes[index])?;
        for policy in touched {
            match nodes[index].plane.policy(*policy) {
                Some(Policy::FlowOut { .. }) => receiver_has_no_less(nodes, index, *policy)?,
                Some(Policy::FlowIn { label, .. }) => {
                    for (from, node) in nodes.iter().enumerate() {
                        let to_it = node.plane.flows_out().iter().filter(|out| {
                            matches!(node.plane.policy(**out), Some(Policy::FlowOut { label: theirs, .. }) if theirs == label)
                        });
                        for out in to_it {
                            receiver_has_no_less(nodes, from, *out)?;
                        }
                    }
                }
                Some(Policy::AggregateOut { .. } | Policy::AggregateIn { .. } | Policy::TerminalsIn { .. }) | None => {}
            }
        }
        Ok(())
    }

    /// Before a second side says so: the record has the rates, and the data plane no others.
    pub(super) fn confirms_rates(
        &mut self,
        node: &Node,
        index: usize,
        from: usize,
        id: &SessionId,
        change: u64,
    ) -> Held {
        let Some(record) = node.store.sessions.get(id) else {
            return Err((Rule::Confirmation, format!("rates of {id} are confirmed, and it is not on disk")));
        };
        hold(Rule::Confirmation, record.rate_change_done == change, || {
            format!("change {change} of {id} is confirmed, and on disk {} is the last", record.rate_change_done)
        })?;
        for flow in record.flows.iter().filter(|flow| flow.has_policy()) {
            // After a loss of the host it may be about to be installed again.
            let Some(meter) = node.plane.meter(flow.policy) else { continue };
            let fits = match flow.direction {
                Direction::Out => meter == flow.meter,
                // A later change may be under way.
                Direction::In => meter == flow.meter || record.rate_change.is_some() && is_within(flow.meter, meter),
            };
            hold(Rule::Confirmation, fits, || {
                format!("change {change} of {id} is confirmed, and flow {} has {meter:?} for {:?}", flow.id, flow.meter)
            })?;
        }
        self.rates.taken.insert((index, from, id.clone()), change);
        Ok(())
    }

    /// A client asks for other rates: those that it was told are not promised any more.
    pub(crate) fn rates_are_asked(&mut self, index: usize, id: &SessionId) {
        self.rates.told.remove(&(index, id.clone()));
    }

    /// A client is told that a session has other rates: both ends have them.
    pub(super) fn rates_are_taken(
        &mut self,
        nodes: &[Node],
        index: usize,
        record: &SessionRecord,
        wishes: &[RateWish],
        created: bool,
    ) -> Held {
        for wish in wishes {
            let flow = record.flows.iter().find(|flow| flow.id == wish.id);
            let has = flow.is_some_and(|flow| {
                let bursts = wish.burst_bytes.is_none_or(|burst_bytes| burst_bytes == flow.meter.burst_bytes);
                bursts && (wish.rate_bps_min..=wish.rate_bps).contains(&flow.meter.rate_bps)
            });
            hold(Rule::Confirmation, has, || format!("asked for {wish:?}, and told {flow:?}"))?;
        }
        hold(Rule::Confirmation, record.rate_change.is_none(), || format!("told with a change under way: {record:?}"))?;
        let key = (index, record.id.clone());
        if created {
            let peer = nodes.iter().position(|node| node.config.node == record.peer).unwrap_or_default();
            let (asked, taken) = (self.rates.asked.get(&key), self.rates.taken.get(&(peer, index, record.id.clone())));
            hold(Rule::Confirmation, asked.is_some() && asked == taken, || {
                format!("{} is told to have other rates by change {asked:?}, and {taken:?} is confirmed", record.id)
            })?;
        }
        self.rates.told.insert(key, record.flows.iter().map(|flow| flow.meter).collect());
        Ok(())
    }

    /// At rest: no change is half done, data planes have what records say, and rates are those that clients were told.
    pub(super) fn rates_rest(&self, index: usize, node: &Node) -> Held {
        let name = &node.config.node;
        for record in node.broker.sessions() {
            hold(Rule::Leak, record.rate_change.is_none(), || {
                format!("a change of rates of {} at {name} is half done: {:?}", record.id, record.rate_change)
            })?;
            for flow in record.flows.iter().filter(|flow| flow.has_policy()) {
                let meter = node.plane.meter(flow.policy);
                hold(Rule::Leak, meter == Some(flow.meter), || {
                    format!("flow {} of {} at {name} has {meter:?} in force for {:?}", flow.id, record.id, flow.meter)
                })?;
            }
            let told = self.rates.told.get(&(index, record.id.clone()));
            let has: Vec<Meter> = record.flows.iter().map(|flow| flow.meter).collect();
            hold(Rule::Durability, told.is_none_or(|told| *told == has), || {
                format!("{} was told to have {told:?} at {name}, and has {has:?}", record.id)
            })?;
        }
        Ok(())
    }
}

/// A flow that is sent has no more in force than there, where it is received.
fn receiver_has_no_less(nodes: &[Node], from: usize, out: PolicyId) -> Held {
    let plane = &nodes[from].plane;
    let Some(Policy::FlowOut { aggregate, label, meter, .. }) = plane.policy(out) else { return Ok(()) };
    let Some(Policy::AggregateOut { peer, .. }) = plane.policy(*aggregate) else { return Ok(()) };
    let Some(to) = nodes.iter().find(|node| node.config.node == *peer) else { return Ok(()) };
    let into = to.plane.by_label(*label).and_then(|into| to.plane.meter(into));
    hold(Rule::DataPlane, into.is_none_or(|into| is_within(*meter, into)), || {
        format!("{} sends {meter:?} by {label:?}, and {peer} lets {into:?} in", nodes[from].config.node)
    })
}
