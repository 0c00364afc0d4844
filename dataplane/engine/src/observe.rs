//! Reads what the data plane counted.

use turnpike_fastpath::wire::tag;
use turnpike_fastpath::{Direction, Reason};

use crate::engine::{Engine, Kind, WAN};
use crate::error::EngineError;
use crate::layout::Shape;
use crate::table::Tables;

use crate::policy::{Counters, PolicyId};
use crate::port::PORTS;
use crate::status::{InterfaceStatus, Status, TableStatus, VerdictStatus};

impl Engine {
    /// What a policy counted so far.
    #[must_use]
    pub fn counters(&self, policy: PolicyId) -> Option<Counters> {
        let placed = self.policies.get(&policy).or_else(|| self.ended.get(&policy))?;
        Some(self.tables.counters(placed.kind.table(), placed.index))
    }

    /// The state of ports, tables and counters.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn status(&mut self) -> Result<Status, EngineError> {
        let mut interfaces = Vec::new();
        for (port, role, _) in PORTS {
            let name = self.interface_name(port).to_owned();
            let found = self.netlink.interface(&name).map_err(EngineError::kernel("looking up an interface"))?;
            let state = found.as_ref().map_or("gone", |found| if found.up { "up" } else { "down" });
            let (mtu, xdp_mode) = found.map_or((0, "none"), |found| (found.mtu, found.xdp.unwrap_or("none")));
            let tag_bytes = if port == WAN { tag::HEADER_LENGTH } else { 0 };
            let packet_bytes_max = mtu.saturating_sub(u32::from(tag_bytes));
            let restored = self.port_states.restored(port);
            interfaces.push(InterfaceStatus { name, role, state, xdp_mode, mtu, packet_bytes_max, restored });
        }
        let [mut flows, mut labels, mut aggregates] = [0_usize; 3];
        for placed in self.policies.values() {
            match placed.kind {
                Kind::FlowOut => flows += 1,
                Kind::FlowIn => labels += 1,
                Kind::AggregateOut | Kind::AggregateIn => aggregates += 1,
            }
        }
        let label_table = TableStatus {
            name: "labels",
            used: labels as u64,
            max: u64::from(self.config.flows_max),
            full: self.labels_full,
        };
        let tables = vec![
            self.free_flows.status(flows),
            label_table,
            self.free_aggregates.status(aggregates),
            self.next_hops.status(),
        ];
        let memory_bytes = Shape::of(&self.config, self.cpus).memory_bytes();
        Ok(Status { interfaces, tables, verdicts: verdicts(&self.tables), memory_bytes })
    }

    /// Packets and bytes that ended for a reason.
    #[must_use]
    pub fn verdict(&self, direction: Direction, reason: Reason) -> (u64, u64) {
        self.tables.reason(reason.row(direction))
    }
}

pub(crate) fn verdicts(tables: &Tables) -> Vec<VerdictStatus> {
    let rows =
        Direction::ALL.into_iter().flat_map(|direction| Reason::ALL.iter().map(move |reason| (direction, *reason)));
    rows.map(|(direction, reason)| {
        let (packets, bytes) = tables.reason(reason.row(direction));
        VerdictStatus { direction: direction.name(), reason: reason.name(), action: reason.action(), packets, bytes }
    })
    .collect()
}
