//! How the data plane is set up.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use turnpike_fastpath::contract::{AGGREGATES_MAX, BEST_EFFORT_ENTRIES, FLOWS_MAX};
use turnpike_fastpath::entry::PEERS_MAX;

use crate::error::EngineError;
use crate::layout::Shape;

/// How programs are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// Native where the drivers of both ports can, else generic on both.
    Auto,
    /// In the driver.
    Native,
    /// Behind the driver, on socket buffers.
    Generic,
}

/// What becomes of packets from the site that no admitted flow has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unadmitted {
    /// They pass.
    Pass,
    /// They pass as best effort, together no faster than [`crate::Engine::set_best_effort_rate`] says.
    Limit,
    /// They are dropped.
    Drop,
}

/// A map of DSCPs that changes none.
#[allow(clippy::cast_possible_truncation, reason = "64 of them")]
pub const DSCP_UNCHANGED: [u8; 64] = {
    let mut map = [0; 64];
    let mut dscp = 0;
    while dscp < map.len() {
        map[dscp] = dscp as u8;
        dscp += 1;
    }
    map
};

/// What becomes of fragments from the site. Only the first has ports, so none is of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragments {
    /// What becomes of packets of no admitted flow.
    Unadmitted,
    /// They are dropped.
    Drop,
}

/// All of it.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Folder on a BPF file system that keeps what has to outlive this process.
    pub pin_dir: PathBuf,
    /// Interface towards the site.
    pub lan: String,
    /// Interface towards the peers; may be the same.
    pub wan: String,
    /// How to attach.
    pub xdp_mode: XdpMode,
    /// Where peers send tagged packets: one address, or one of each family.
    pub tag_addresses: Vec<IpAddr>,
    /// UDP port of tagged packets.
    pub tag_port: u16,
    /// Tag addresses of the peers; at most 64.
    pub peers: Vec<IpAddr>,
    /// What becomes of the rest.
    pub unadmitted: Unadmitted,
    /// What becomes of fragments from the site, which belong to no flow.
    pub fragments: Fragments,
    /// For [`crate::policy::Dscp::Map`] on the way out: the new DSCP by the old one.
    pub dscp_map_out: [u8; 64],
    /// The same on the way in.
    pub dscp_map_in: [u8; 64],
    /// Outgoing flows, and as many incoming ones; a power of two up to 1,048,576.
    pub flows_max: u32,
    /// Aggregates, both directions together; up to 65,534.
    pub aggregates_max: u32,
    /// Policies that are not renewed for so long lapse.
    pub lapse_after: Duration,
}

impl EngineConfig {
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        let wrong = |key, value: &dyn ToString, allowed: &str| {
            Err(EngineError::Config { key, value: value.to_string(), allowed: allowed.to_owned() })
        };
        self.check_sizes()?;
        if self.tag_port == 0 {
            return wrong("tag_port", &self.tag_port, "must be from 1 to 65535");
        }
        if self.peers.len() > PEERS_MAX {
            return wrong("peers", &self.peers.len(), "must be at most 64");
        }
        for address in self.tag_addresses.iter().chain(&self.peers) {
            let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
            if address.is_unspecified() || address.is_multicast() || broadcast {
                return wrong("tag_addresses", address, "must be a unicast address");
            }
        }
        if self.tag_addresses.is_empty() {
            return wrong("tag_addresses", &"", "must have an address");
        }
        if self.tag_addresses.iter().filter(|address| address.is_ipv4()).count() > 1
            || self.tag_addresses.iter().filter(|address| address.is_ipv6()).count() > 1
        {
            return wrong("tag_addresses", &self.tag_addresses.len(), "must have at most one address of each family");
        }
        for (key, map) in [("dscp_map_out", &self.dscp_map_out), ("dscp_map_in", &self.dscp_map_in)] {
            if let Some(dscp) = map.iter().find(|dscp| **dscp > 63) {
                return wrong(key, dscp, "must be from 0 to 63");
            }
        }
        if self.lapse_after < Duration::from_secs(4) {
            return wrong("lapse_after", &self.lapse_after.as_secs(), "must be at least 4 seconds");
        }
        Ok(())
    }

    fn check_sizes(&self) -> Result<(), EngineError> {
        let wrong = |key, value: u32, allowed: &str| {
            Err(EngineError::Config { key, value: value.to_string(), allowed: allowed.to_owned() })
        };
        if !self.flows_max.is_power_of_two() || self.flows_max < 8 || self.flows_max > FLOWS_MAX {
            return wrong("flows_max", self.flows_max, "must be a power of two from 8 to 1048576");
        }
        if self.aggregates_max == 0 || self.aggregates_max > AGGREGATES_MAX - BEST_EFFORT_ENTRIES {
            return wrong("aggregates_max", self.aggregates_max, "must be from 1 to 65534");
        }
        Ok(())
    }

    /// The most kernel memory that the tables of these sizes take on this host, bytes. All of it is taken at start. While tables of other
    /// sizes take over, there are both.
    ///
    /// # Errors
    /// The sizes are out of range, or the number of possible CPUs cannot be read.
    pub fn memory_bytes(&self) -> Result<u64, EngineError> {
        self.check_sizes()?;
        let shape = Shape::of(self, possible_cpus()?);
        shape.check()?;
        Ok(shape.memory_bytes())
    }

    /// Where peers of this family send tagged packets.
    #[must_use]
    pub fn tag_address(&self, v6: bool) -> Option<IpAddr> {
        self.tag_addresses.iter().copied().find(|address| address.is_ipv6() == v6)
    }

    /// Entries of the aggregate table.
    pub(crate) const fn aggregate_entries(&self) -> u32 {
        self.aggregates_max + BEST_EFFORT_ENTRIES
    }
}

/// CPUs that this host may ever have.
pub(crate) fn possible_cpus() -> Result<u32, EngineError> {
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| EngineError::kernel("counting CPUs")(error))?;
    Ok(u32::try_from(cpus).unwrap_or(u32::MAX))
}
