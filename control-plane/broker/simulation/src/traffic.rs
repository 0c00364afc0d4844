//! Packets: they come to flows that are installed, whatever their control plane does, and arrive by their labels.

use turnpike_broker::policy::Policy;

use crate::checker::{Held, Rule, hold};
use crate::time::{MS, S};
use crate::world::{Event, World};

impl World {
    /// Some flows of a node send.
    pub(crate) fn traffic(&mut self, node: usize) -> Held {
        for _ in 0..3 {
            let flows = self.nodes[node].plane.flows_out();
            if flows.is_empty() {
                break;
            }
            let id = flows[self.random.index(flows.len())];
            let offered = self.random.between(1, 200);
            let dropped = if self.random.chance(200_000) { self.random.below(offered) } else { 0 };
            self.nodes[node].plane.count(id, offered, dropped);
            self.checker.traffic(node, id, offered, dropped);
            self.arrive(node, id, offered - dropped)?;
        }
        let next = self.now.plus(self.random.between(500 * MS, 2 * S));
        self.queue.at(next, Event::Traffic { node });
        Ok(())
    }

    fn arrive(&mut self, from: usize, id: turnpike_broker::name::PolicyId, sent: u64) -> Held {
        let plane = &self.nodes[from].plane;
        let Some(Policy::FlowOut { aggregate, label, endpoints, .. }) = plane.policy(id) else {
            return Ok(());
        };
        let Some(Policy::AggregateOut { peer, .. }) = plane.policy(*aggregate) else {
            return Err((Rule::DataPlane, format!("flow {id:?} has no aggregate")));
        };
        let Some(to) = self.nodes.iter().position(|node| node.config.node == *peer) else {
            return Ok(());
        };
        let (label, endpoints) = (*label, *endpoints);
        let lost = if self.random.chance(100_000) { self.random.below(sent + 1) } else { 0 };
        let arrived = sent - lost;
        let Some(into) = self.nodes[to].plane.by_label(label) else {
            return Ok(());
        };
        if let Some(Policy::FlowIn { endpoints: theirs, .. }) = self.nodes[to].plane.policy(into) {
            hold(Rule::DataPlane, *theirs == endpoints, || {
                format!("packets of {endpoints:?} are delivered as {theirs:?}, by the label {label:?} of n{to}")
            })?;
        }
        if arrived > 0 {
            self.nodes[to].plane.count(into, arrived, 0);
            self.checker.traffic(to, into, arrived, 0);
        }
        Ok(())
    }
}
