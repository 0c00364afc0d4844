//! Terminals that no policy names: their packets tell them, and go by the kernel's own routes (R-003-13).

use std::fs;
use std::net::IpAddr;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::next_hop::Surroundings;

impl Engine {
    /// Sees to it that the kernel can lead packets of a [`TerminalsIn`](crate::policy::Policy::TerminalsIn) to these terminals: it forwards what
    /// comes from the WAN, its routes lead to the site, and their neighbours answer. Nothing is kept of it: later the kernel's own tables decide.
    ///
    /// # Errors
    /// What the first one that cannot be reached lacks.
    pub fn reach(&mut self, terminals: &[IpAddr]) -> Result<(), EngineError> {
        for address in terminals {
            forwards(&self.config.wan, *address)?;
            let Self { tables, object, netlink, ports, .. } = self;
            let mut surroundings = Surroundings { tables, object, netlink, ports };
            let next_hop = self.next_hops.reach(&mut surroundings, *address)?;
            if !next_hop.port().is_some_and(|port| self.tables.port(port).is_lan()) {
                let detail = "the route leaves by the wan, and a terminal is in the site; correct the route".to_owned();
                return Err(EngineError::NextHop { address: *address, detail });
            }
        }
        Ok(())
    }
}

/// Packets that ask the kernel's routes need what those that it forwards itself need.
fn forwards(wan: &str, address: IpAddr) -> Result<(), EngineError> {
    let (version, key) = match address {
        IpAddr::V4(_) => (4, "net.ipv4.ip_forward"),
        IpAddr::V6(_) => (6, "net.ipv6.conf.all.forwarding"),
    };
    let fail = |detail: String| Err(EngineError::NextHop { address, detail });
    let path = format!("/proc/sys/net/ipv{version}/conf/{wan}/forwarding");
    match fs::read_to_string(&path) {
        Ok(on) if on.trim() != "0" => Ok(()),
        Ok(_) => fail(format!(
            "IPv{version} forwarding is off on {wan}, and packets whose tags tell their terminals need it; `sysctl -w {key}=1`"
        )),
        Err(error) => fail(format!("{path}: {error}")),
    }
}
