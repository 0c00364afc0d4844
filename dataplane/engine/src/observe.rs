//! Reads what the data plane counted.

use turnpike_fastpath::entry::TERMINALS;
use turnpike_fastpath::reception::clock_rate_hz;
use turnpike_fastpath::wire::tag;
use turnpike_fastpath::{Direction, Reason};

use crate::engine::{Engine, Kind, Placed};
use crate::error::EngineError;
use crate::layout::Shape;
use crate::table::Tables;

use crate::policy::{Counters, PolicyId};
use crate::ports::{LAN, WAN};
use crate::status::{InterfaceStatus, Status, TableStatus, VerdictStatus};

impl Engine {
    /// What a policy counted so far.
    #[must_use]
    pub fn counters(&self, policy: PolicyId) -> Option<Counters> {
        if let Some(placed) = self.policies.get(&policy) {
            return Some(self.reading(*placed, false));
        }
        self.ended.get(&policy).map(|placed| self.reading(*placed, true))
    }

    /// What a policy counted; `ended` if no more can come.
    pub(crate) fn reading(&self, placed: Placed, ended: bool) -> Counters {
        let mut counters = self.tables.counters(placed.kind.table(), placed.index);
        if placed.kind == Kind::FlowIn {
            let label = self.tables.label(placed.index);
            let (reception, rate) = (self.tables.reception(placed.index), clock_rate_hz(label.clock_factor));
            // Where tags tell their terminals, nobody follows single flows.
            if label.flags & TERMINALS == 0 {
                let found = if ended { reception.final_counters(rate) } else { reception.counters(rate) };
                counters.reception = Some(found);
            }
        }
        counters
    }

    /// The state of ports, tables and counters.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn status(&mut self) -> Result<Status, EngineError> {
        let mut interfaces = Vec::new();
        for (port, role) in [(LAN, "lan"), (WAN, "wan")] {
            let name = self.interface_name(port).to_owned();
            let found = self.netlink.interface(&name).map_err(EngineError::kernel("looking up an interface"))?;
            let state = found.as_ref().map_or("gone", |found| if found.up { "up" } else { "down" });
            let (mtu, xdp_mode) = found.map_or((0, "none"), |found| (found.mtu, found.xdp.unwrap_or("none")));
            let tag_bytes = if port == WAN { tag::HEADER_LENGTH } else { 0 };
            let packet_bytes_max = mtu.saturating_sub(u32::from(tag_bytes));
            let restored = self.recovery.restored(if self.has_one_interface() { LAN } else { port });
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
            self.ports.status(),
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
