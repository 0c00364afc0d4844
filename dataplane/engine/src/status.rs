//! What the data plane says of itself.

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
    /// `up`, `down`, or `gone` if there is no such interface.
    pub state: &'static str,
    /// `native` or `generic`; `none` if the program is gone.
    pub xdp_mode: &'static str,
    /// Bytes.
    pub mtu: u32,
    /// Largest IP packet of a flow that this port can send, bytes: less by the tag towards the peers.
    pub packet_bytes_max: u32,
    /// How often since the start the interface was deleted and made anew, and got its program again.
    pub restored: u64,
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
