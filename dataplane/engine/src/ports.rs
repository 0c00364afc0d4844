//! The ports that packets leave by: the two interfaces, and the VLANs on them that routes lead to.

use std::collections::BTreeMap;

use aya::Ebpf;
use turnpike_fastpath::contract::PORTS_MAX;
use turnpike_fastpath::entry::{Port, TO_SITE, mac_bits};
use turnpike_fastpath::wire::vlan::TAGS_MAX;

use crate::error::EngineError;
use crate::netlink::{Interface, Netlink};
use crate::program;
use crate::table::Tables;

/// Index of the port towards the site.
pub(crate) const LAN: u16 = 0;
/// Index of the port towards the peers; the same device as [`LAN`] where there is only one.
pub(crate) const WAN: u16 = 1;

/// Indexes of VLANs.
#[allow(clippy::cast_possible_truncation, reason = "64 ports")]
const VLANS: std::ops::Range<u16> = WAN + 1..PORTS_MAX as u16;

/// The ports by interface. What is looked for and not there is looked up, and becomes a port if it is a VLAN on one of the two.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    by_interface: BTreeMap<u32, u16>,
    lan: u32,
    wan: u32,
    full: u64,
}

impl Ports {
    /// The two interfaces, and what an earlier process found on them.
    pub(crate) fn start(
        tables: &Tables,
        object: &mut Ebpf,
        netlink: &mut Netlink,
        lan: &Interface,
        wan: &Interface,
    ) -> Result<Self, EngineError> {
        let mut ports = Self { by_interface: BTreeMap::new(), lan: lan.index, wan: wan.index, full: 0 };
        for (index, interface, flags) in [(LAN, lan, TO_SITE), (WAN, wan, 0)] {
            let flags = if lan.index == wan.index { TO_SITE } else { flags };
            set(tables, object, index, entry(interface, flags, &[]), interface.index)?;
            ports.by_interface.insert(interface.index, index);
        }
        for index in VLANS {
            let old = tables.port(u32::from(index));
            if old.ifindex == 0 {
                continue;
            }
            match ports.vlan(netlink, old.ifindex)? {
                Some((found, device)) if found.vlans == old.vlans => {
                    set(tables, object, index, found, device)?;
                    ports.by_interface.insert(found.ifindex, index);
                }
                // Next hops are looked up anew, and do not lead there any more.
                _ => tables.set_port(u32::from(index), Port::default()),
            }
        }
        Ok(ports)
    }

    /// The interface of one of the two.
    pub(crate) const fn base(&self, port: u16) -> u32 {
        if port == LAN { self.lan } else { self.wan }
    }

    /// Puts one of the two on an interface that was made anew; both if there is only one.
    pub(crate) fn put(
        &mut self,
        tables: &Tables,
        object: &mut Ebpf,
        port: u16,
        interface: &Interface,
    ) -> Result<(), EngineError> {
        let one = self.lan == self.wan;
        self.by_interface.remove(&self.base(port));
        for (index, base, flags) in [(LAN, &mut self.lan, TO_SITE), (WAN, &mut self.wan, 0)] {
            if one || index == port {
                *base = interface.index;
                let flags = if one { TO_SITE } else { flags };
                set(tables, object, index, entry(interface, flags, &[]), interface.index)?;
                self.by_interface.insert(interface.index, index);
            }
        }
        Ok(())
    }

    /// The port of an interface; none if it is neither a port nor a VLAN on one.
    pub(crate) fn of(
        &mut self,
        tables: &Tables,
        object: &mut Ebpf,
        netlink: &mut Netlink,
        interface: u32,
    ) -> Result<Option<u16>, EngineError> {
        if let Some(port) = self.by_interface.get(&interface) {
            return Ok(Some(*port));
        }
        let Some((found, device)) = self.vlan(netlink, interface)? else { return Ok(None) };
        // A VLAN that was made anew gets its old port back.
        let (mut free, mut same) = (None, None);
        for index in VLANS {
            let old = tables.port(u32::from(index));
            if old.ifindex == 0 {
                free = free.or(Some(index));
            } else if old.vlans == found.vlans && old.flags == found.flags {
                same = Some((index, old.ifindex));
            }
        }
        if let Some((_, old)) = same {
            self.by_interface.remove(&old);
        }
        let Some(index) = same.map(|(index, _)| index).or(free) else {
            self.full += 1;
            return Err(EngineError::TableFull { table: "port", max: PORTS_MAX });
        };
        set(tables, object, index, found, device)?;
        self.by_interface.insert(interface, index);
        tracing::info!(interface, port = index, vlans = found.vlans_count, "a VLAN became a port");
        Ok(Some(index))
    }

    /// A VLAN on one of the two interfaces as a port, and the interface.
    fn vlan(&self, netlink: &mut Netlink, interface: u32) -> Result<Option<(Port, u32)>, EngineError> {
        let mut tags = Vec::new();
        let mut device = interface;
        let mut top = None;
        while device != self.lan && device != self.wan {
            let link = netlink.link_at(device, None).map_err(EngineError::kernel("looking up an interface"))?;
            let Some(link) = link else { return Ok(None) };
            let (Some(tag), Some((below, None))) = (link.vlan, link.peer) else { return Ok(None) };
            if tags.len() == TAGS_MAX {
                return Ok(None);
            }
            tags.insert(0, tag);
            device = below;
            top.get_or_insert(link.interface);
        }
        let flags = if device == self.lan { TO_SITE } else { 0 };
        Ok(top.map(|top| (entry(&top, flags, &tags), device)))
    }

    /// Brings MAC addresses and MTUs up to date.
    pub(crate) fn refresh(&self, tables: &Tables, netlink: &mut Netlink) -> Result<(), EngineError> {
        for (interface, port) in &self.by_interface {
            let link = netlink.link_at(*interface, None).map_err(EngineError::kernel("looking up an interface"))?;
            // One that is gone keeps its last facts until something takes its place.
            let Some(found) = link.map(|link| link.interface) else { continue };
            for port in if self.lan == self.wan && *interface == self.lan { [LAN, WAN] } else { [*port, *port] } {
                let old = tables.port(u32::from(port));
                let new = Port { mac_bits: mac_bits(found.mac), mtu_bytes: found.mtu, ..old };
                if old != new {
                    tracing::info!(interface, mtu = found.mtu, "port changed");
                    tables.set_port(u32::from(port), new);
                }
            }
        }
        Ok(())
    }

    /// The interfaces that are ports.
    pub(crate) fn interfaces(&self) -> impl Iterator<Item = u32> {
        self.by_interface.keys().copied()
    }

    pub(crate) fn status(&self) -> crate::status::TableStatus {
        let used = self.by_interface.len() as u64;
        crate::status::TableStatus { name: "ports", used, max: u64::from(PORTS_MAX), full: self.full }
    }
}

fn entry(interface: &Interface, flags: u32, tags: &[[u8; 4]]) -> Port {
    let mut vlans = [[0; 4]; TAGS_MAX];
    for (place, tag) in vlans.iter_mut().zip(tags) {
        *place = *tag;
    }
    Port {
        mac_bits: mac_bits(interface.mac),
        mtu_bytes: interface.mtu,
        ifindex: interface.index,
        vlans,
        vlans_count: u32::try_from(tags.len()).unwrap_or(0),
        flags,
    }
}

fn set(tables: &Tables, object: &mut Ebpf, index: u16, port: Port, device: u32) -> Result<(), EngineError> {
    tables.set_port(u32::from(index), port);
    program::set_device(object, u32::from(index), device)
}
