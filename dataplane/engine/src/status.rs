//! What the data plane says of itself.

use turnpike_fastpath::wire::tag;
use turnpike_fastpath::{Direction, Reason};

use crate::engine::Engine;
use crate::error::EngineError;
use crate::table::{Noted, Tables, memory_bytes, sizes};

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The ports.
    pub interfaces: Vec<InterfaceStatus>,
    /// The tables.
    pub tables: Vec<TableStatus>,
    /// Where packets ended; every reason in both directions.
    pub verdicts: Vec<VerdictStatus>,
    /// Kernel memory of the tables.
    pub memory_bytes: u64,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceStatus {
    /// Of the operating system.
    pub name: String,
    /// `lan` or `wan`.
    pub role: &'static str,
    /// `native` or `generic`; `none` if the program is gone.
    pub xdp_mode: &'static str,
    /// Bytes.
    pub mtu: u32,
    /// Largest IP packet of a flow that this port can send, bytes: less by the tag towards the peers.
    pub packet_bytes_max: u32,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableStatus {
    /// Which.
    pub name: &'static str,
    /// Entries in use.
    pub used: u64,
    /// Entries in all.
    pub max: u64,
    /// Installations refused because it was full.
    pub full: u64,
}

/// One end of packets' way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerdictStatus {
    /// `out` or `in`.
    pub direction: &'static str,
    /// Stable, in snake case.
    pub reason: &'static str,
    /// `pass`, `redirect` or `drop`.
    pub action: &'static str,
    /// Packets.
    pub packets: u64,
    /// IP bytes.
    pub bytes: u64,
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

impl Engine {
    /// The state of ports, tables and counters.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn status(&mut self) -> Result<Status, EngineError> {
        let mut interfaces = Vec::new();
        for (role, name, tag_bytes) in
            [("lan", self.config.lan.clone(), 0), ("wan", self.config.wan.clone(), tag::HEADER_LENGTH)]
        {
            let found = self.netlink.interface(&name).map_err(EngineError::kernel("looking up an interface"))?;
            let (mtu, xdp_mode) = found.map_or((0, "none"), |found| (found.mtu, found.xdp.unwrap_or("none")));
            let packet_bytes_max = mtu.saturating_sub(u32::from(tag_bytes));
            interfaces.push(InterfaceStatus { name, role, xdp_mode, mtu, packet_bytes_max });
        }
        let count = |table: Noted| self.policies.values().filter(|placed| placed.kind.table() == table).count();
        let labels = TableStatus {
            name: "labels",
            used: count(Noted::Label) as u64,
            max: u64::from(self.config.flows_max),
            full: self.labels_full,
        };
        let tables = vec![
            self.free_flows.status(count(Noted::Flow)),
            labels,
            self.free_aggregates.status(count(Noted::Aggregate)),
            self.next_hops.status(),
        ];
        let memory_bytes = memory_bytes(&sizes(&self.config, self.cpus));
        Ok(Status { interfaces, tables, verdicts: verdicts(&self.tables), memory_bytes })
    }

    /// Packets and bytes that ended for a reason.
    #[must_use]
    pub fn verdict(&self, direction: Direction, reason: Reason) -> (u64, u64) {
        self.tables.reason(reason.row(direction))
    }
}
