//! Keeps the ports on their interfaces: one that was deleted and made anew gets its program, its device entry and its next hops back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use turnpike_fastpath::contract::program;
use turnpike_fastpath::entry::{NextHop, Port, mac_bits};

use crate::engine::{Engine, LAN, WAN};
use crate::error::EngineError;
use crate::netlink::Interface;
use crate::next_hop::NextHops;
use crate::program::{self as programs, Attachment};
use crate::table::Tables;

/// A network that was rebuilt forgot its neighbours; for so long after that they are asked for at once and not in turn.
const ASKING: Duration = Duration::from_secs(10);

/// A port by its number, its role, and the program at it.
pub(crate) const PORTS: [(u16, &str, &str); 2] = [(LAN, "lan", program::OUT), (WAN, "wan", program::IN)];

/// What became of the ports since the engine started.
#[derive(Debug, Default)]
pub(crate) struct PortStates {
    states: [State; PORTS.len()],
    restored_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct State {
    restored: u64,
    /// Next hops through a port whose interface is gone.
    suspended: Option<BTreeMap<u16, NextHop>>,
    /// Why the program cannot be attached; told once.
    fault: Option<String>,
}

impl PortStates {
    /// How often a port got a new interface.
    pub(crate) fn restored(&self, port: u16) -> u64 {
        self.states[usize::from(port)].restored
    }

    /// Whether neighbours are to be asked for at once.
    pub(crate) fn is_asking(&self) -> bool {
        self.restored_at.is_some_and(|at| at.elapsed() < ASKING)
    }
}

impl Engine {
    pub(crate) fn interface_name(&self, port: u16) -> &str {
        if port == LAN { &self.config.lan } else { &self.config.wan }
    }

    /// Brings ports up to date with the kernel's interfaces.
    pub(crate) fn follow_ports(&mut self) -> Result<(), EngineError> {
        for (port, role, program) in PORTS {
            let name = self.interface_name(port).to_owned();
            let found = self.netlink.interface(&name).map_err(EngineError::kernel("looking up an interface"))?;
            let Some(found) = found.filter(|found| found.ethernet) else {
                self.suspend(port, &name);
                continue;
            };
            if !self.is_sound(port, &found) {
                self.restore(port, role, program, &found, &name);
            }
            let entry = Port { mac_bits: mac_bits(found.mac), mtu_bytes: found.mtu, ifindex: found.index };
            if self.tables.port(u32::from(port)) != entry {
                tracing::info!(interface = name, mtu = found.mtu, "port changed");
                self.tables.set_port(u32::from(port), entry);
            }
        }
        Ok(())
    }

    /// Whether packets come in and go out there. The kernel empties the device entry and the link of an interface that goes.
    fn is_sound(&self, port: u16, found: &Interface) -> bool {
        self.ports.get(&found.index) == Some(&port)
            && found.xdp.is_some()
            && programs::device(&self.object, u32::from(port)) == Some(found.index)
    }

    /// Packets through a port that is gone would be counted as passed and lie in no device.
    fn suspend(&mut self, port: u16, name: &str) {
        let state = &mut self.port_states.states[usize::from(port)];
        if state.suspended.is_some() {
            return;
        }
        tracing::warn!(interface = name, "the port's interface is gone; its packets are dropped until it is back");
        state.suspended = Some(take_next_hops(&self.next_hops, &self.tables, port));
        self.ports.retain(|_, known| *known != port);
    }

    /// Puts a port on the interface that has its name now. What does not succeed is tried again when the next hops are looked up.
    fn restore(&mut self, port: u16, role: &'static str, program: &'static str, found: &Interface, name: &str) {
        let index = found.index;
        let entry = Port { mac_bits: mac_bits(found.mac), mtu_bytes: found.mtu, ifindex: index };
        self.tables.set_port(u32::from(port), entry);
        let attachment = Attachment { program, role, interface: name, index };
        let attached = programs::set_device(&mut self.object, u32::from(port), index).and_then(|()| {
            self.ports.retain(|_, known| *known != port);
            self.ports.insert(index, port);
            programs::attach(&mut self.object, &attachment, &self.config)
        });
        let state = &mut self.port_states.states[usize::from(port)];
        for (next_hop, value) in state.suspended.take().into_iter().flatten() {
            // Unless it was released meanwhile, or goes another way now.
            if self.next_hops.is_used(next_hop) && self.tables.next_hop(u32::from(next_hop)) == NextHop::default() {
                self.tables.set_next_hop(u32::from(next_hop), value);
            }
        }
        self.port_states.restored_at = Some(Instant::now());
        match attached {
            Ok(link) => {
                self.links[usize::from(port)] = link;
                state.restored += 1;
                state.fault = None;
                tracing::warn!(
                    interface = name,
                    index,
                    "the port's interface was made anew; its program is attached again"
                );
            }
            Err(error) => {
                let fault = Some(error.to_string());
                if state.fault != fault {
                    tracing::error!(interface = name, index, %error, "the port has no program; trying again");
                    state.fault = fault;
                }
            }
        }
    }
}

/// Takes the next hops through a port out of use, and returns what they were.
fn take_next_hops(next_hops: &NextHops, tables: &Tables, port: u16) -> BTreeMap<u16, NextHop> {
    let through = |index: &u16| tables.next_hop(u32::from(*index)).port() == Some(u32::from(port));
    let taken = next_hops.used().filter(through).map(|index| {
        let value = tables.next_hop(u32::from(index));
        tables.set_next_hop(u32::from(index), NextHop::default());
        (index, value)
    });
    taken.collect()
}
