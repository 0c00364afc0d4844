//! Keeps the two ports on their interfaces: one that was deleted and made anew gets its program, its device entry and its next hops back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use turnpike_fastpath::entry::NextHop;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::netlink::Interface;
use crate::ports::{LAN, WAN};
use crate::program::{self as programs, Attachment, Role};

/// A network that was rebuilt forgot its neighbours; for so long after that they are asked for at once and not in turn.
const ASKING: Duration = Duration::from_secs(10);

/// What became of the ports since the engine started.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    states: [State; 2],
    restored_at: Option<Instant>,
    /// Next hops through ports whose interface is gone.
    suspended: BTreeMap<u16, NextHop>,
}

#[derive(Debug, Default)]
struct State {
    restored: u64,
    gone: bool,
    /// Why the program cannot be attached; told once.
    fault: Option<String>,
}

impl Recovery {
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
        if port == WAN { &self.config.wan } else { &self.config.lan }
    }

    /// Whether the site and the peers are behind the same interface.
    pub(crate) fn has_one_interface(&self) -> bool {
        self.config.lan == self.config.wan
    }

    /// Brings ports up to date with the kernel's interfaces.
    pub(crate) fn follow_ports(&mut self) -> Result<(), EngineError> {
        for role in programs::roles(self.has_one_interface()) {
            let name = self.interface_name(role.0).to_owned();
            let found = self.netlink.interface(&name).map_err(EngineError::kernel("looking up an interface"))?;
            match found.filter(|found| found.ethernet) {
                Some(found) if self.is_sound(role.0, &found) => {}
                Some(found) => self.restore(*role, &found, &name),
                None => self.suspend(role.0, &name),
            }
        }
        self.suspend_next_hops();
        self.ports.refresh(&self.tables, &mut self.netlink)
    }

    /// Whether packets come in and go out there. The kernel empties the device entry and the link of an interface that goes.
    fn is_sound(&self, port: u16, found: &Interface) -> bool {
        self.ports.base(port) == found.index
            && found.xdp.is_some()
            && programs::device(&self.object, u32::from(port)) == Some(found.index)
    }

    fn suspend(&mut self, port: u16, name: &str) {
        let state = &mut self.recovery.states[usize::from(port)];
        if !state.gone {
            state.gone = true;
            tracing::warn!(interface = name, "the port's interface is gone; its packets are dropped until it is back");
        }
    }

    /// Takes next hops out of use whose port has no device, and puts them back as they were when it has one again. Packets there would be
    /// counted as passed and lie nowhere. What is known of neighbours by then is looked up besides.
    pub(crate) fn suspend_next_hops(&mut self) {
        let Self { tables, object, next_hops, recovery, .. } = self;
        let mut devices = BTreeMap::new();
        let mut has_device = |value: NextHop| {
            value
                .port()
                .is_some_and(|port| *devices.entry(port).or_insert_with(|| programs::device(object, port).is_some()))
        };
        recovery.suspended.retain(|index, value| {
            // Unless it was released meanwhile, or goes another way now.
            if !next_hops.is_used(*index) || tables.next_hop(u32::from(*index)) != NextHop::default() {
                return false;
            }
            let is_back = has_device(*value);
            if is_back {
                tables.set_next_hop(u32::from(*index), *value);
            }
            !is_back
        });
        for index in next_hops.used() {
            let value = tables.next_hop(u32::from(index));
            if value != NextHop::default() && !has_device(value) {
                tables.set_next_hop(u32::from(index), NextHop::default());
                recovery.suspended.insert(index, value);
            }
        }
    }

    /// Puts a port on the interface that has its name now. What does not succeed is tried again when next hops are looked up.
    fn restore(&mut self, (port, role, program): Role, found: &Interface, name: &str) {
        let index = found.index;
        let attachment = Attachment { program, role, interface: name, index };
        let Self { ports, tables, object, config, mode, .. } = self;
        let attached =
            ports.put(tables, object, port, found).and_then(|()| programs::attach(object, &attachment, config, *mode));
        self.recovery.restored_at = Some(Instant::now());
        let state = &mut self.recovery.states[usize::from(port)];
        state.gone = false;
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

const _: () = assert!(LAN == 0 && WAN == 1, "links and states are kept by port");
