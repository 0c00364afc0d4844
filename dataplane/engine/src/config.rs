//! How the data plane is set up.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use turnpike_fastpath::contract::{AGGREGATES_MAX, BEST_EFFORT_ENTRIES, FLOWS_MAX};
use turnpike_fastpath::entry::PEERS_MAX;

use crate::error::EngineError;
use crate::layout::Shape;

/// How programs are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// Native where the driver can, else generic.
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

/// All of it.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Folder on a BPF file system that keeps what has to outlive this process.
    pub pin_dir: PathBuf,
    /// Interface towards the site.
    pub lan: String,
    /// Interface towards the peers.
    pub wan: String,
    /// How to attach.
    pub xdp_mode: XdpMode,
    /// Where peers send tagged packets.
    pub tag_address: Ipv4Addr,
    /// UDP port of tagged packets.
    pub tag_port: u16,
    /// Tag addresses of the peers; at most 64.
    pub peers: Vec<Ipv4Addr>,
    /// What becomes of the rest.
    pub unadmitted: Unadmitted,
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
        if self.lan == self.wan {
            return wrong("wan", &self.wan, "must be another interface than lan");
        }
        self.check_sizes()?;
        if self.tag_port == 0 {
            return wrong("tag_port", &self.tag_port, "must be from 1 to 65535");
        }
        if self.peers.len() > PEERS_MAX {
            return wrong("peers", &self.peers.len(), "must be at most 64");
        }
        for address in std::iter::once(&self.tag_address).chain(&self.peers) {
            if address.is_unspecified() || address.is_multicast() || address.is_broadcast() {
                return wrong("tag_address", address, "must be a unicast address");
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
