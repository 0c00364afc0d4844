//! At every step: what a broker says of its pools is at most what they have, and is what its sessions and aggregates take.

use std::collections::BTreeMap;

use turnpike_broker::name::AggregateName;
use turnpike_broker::record::{Direction, SessionRecord, SessionState, Side};
use turnpike_broker::{Cost, overhead_bytes};

use super::{Checker, Held, Rule, hold};
use crate::node::Node;
use crate::plane::TAG_FAMILY;

/// It has given everything back: it is being ended, and all of it is counted.
fn is_clean(record: &SessionRecord, node: &Node) -> bool {
    let ending = matches!(record.state, SessionState::Releasing | SessionState::Ended);
    ending && record.usage.iter().filter(|usage| usage.node == node.config.node).count() == record.flows.len()
}

impl Checker {
    /// After its answers have left it: a hold is over at its end, by its owner's clock.
    pub(crate) fn holds_end(&self, index: usize, node: &Node) -> Held {
        let held = |record: &&SessionRecord| record.side == Side::Second && record.state == SessionState::Held;
        for record in node.broker.sessions().filter(held) {
            if let Some((_, since)) = self.holds.get(&(index, record.peer.clone(), record.id.clone())) {
                let end = since.plus(node.config.timers.hold);
                hold(Rule::Lapse, node.shown < end, || {
                    format!("session {} is held until {} ns, and it is {}", record.id, end.0, node.shown.0)
                })?;
            }
        }
        Ok(())
    }

    /// After a node has worked.
    pub(crate) fn worked(&mut self, node: &Node) -> Held {
        self.checks += 1;
        let mut taken: BTreeMap<&AggregateName, (u64, u64)> = BTreeMap::new();
        for record in node.broker.sessions().filter(|record| !is_clean(record, node)) {
            for flow in &record.flows {
                let overhead = overhead_bytes(flow.endpoints.family(), TAG_FAMILY, flow.tag);
                let cost = Cost::of(&flow.meter, overhead).unwrap_or_default();
                let (rate_bps, burst_bytes) = taken.entry(&flow.aggregate).or_default();
                *rate_bps += cost.rate_bps;
                *burst_bytes += cost.burst_bytes;
            }
        }
        let (mut out_bps, mut into_bps) = (0, 0);
        for record in node.broker.aggregates() {
            match record.direction {
                Direction::Out => out_bps += record.rate_bps,
                Direction::In => into_bps += record.rate_bps,
            }
            let (rate_bps, burst_bytes) = taken.remove(&record.name).unwrap_or_default();
            let Some(pool) = node.broker.pool(&record.name) else {
                return Err((Rule::Capacity, format!("aggregate {} has no pool", record.name)));
            };
            hold(Rule::Capacity, pool.used_bps <= pool.capacity_bps, || format!("{pool:?}"))?;
            hold(Rule::Capacity, pool.used_bps == rate_bps, || format!("sessions take {rate_bps} bit/s of {pool:?}"))?;
            let used_bytes = pool.burst_capacity_bytes - pool.burst_free_bytes;
            hold(Rule::Capacity, used_bytes == burst_bytes, || {
                format!("sessions take {burst_bytes} bytes of {pool:?}")
            })?;
        }
        hold(Rule::Capacity, taken.is_empty(), || format!("sessions take of aggregates that are gone: {taken:?}"))?;
        for (_, out, into) in node.broker.links() {
            for (pool, rate_bps) in [(out, out_bps), (into, into_bps)] {
                hold(Rule::Capacity, pool.used_bps <= pool.capacity_bps, || format!("{pool:?}"))?;
                hold(Rule::Capacity, pool.used_bps == rate_bps, || {
                    format!("aggregates take {rate_bps} bit/s of {pool:?}")
                })?;
            }
        }
        for table in node.broker.tables() {
            hold(Rule::Capacity, table.used <= table.max, || format!("{table:?}"))?;
        }
        Ok(())
    }
}
