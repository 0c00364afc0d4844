//! Keeps the next hops of peers and terminals: the port that packets leave by, and the neighbour's MAC address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use aya::Ebpf;
use turnpike_fastpath::entry::NextHop;

use crate::error::EngineError;
use crate::netlink::Netlink;
use crate::ports::Ports;
use crate::status::TableStatus;
use crate::table::{Note, Noted, Tables};

/// Longest time that an installation waits for a neighbour to answer.
const ANSWER_STEPS_MAX: u32 = 25;
const ANSWER_STEP: Duration = Duration::from_millis(20);

/// A neighbour that did not answer is not waited for again so soon: one that is gone must not hold up everybody's installations.
const SILENT_FOR: Duration = Duration::from_secs(2);
const SILENT_MAX: usize = 1_024;

/// Stands for no next hop where an index is asked for.
pub(crate) const NO_NEXT_HOP: u16 = u16::MAX;

/// The addresses in use, and their entries.
#[derive(Debug)]
pub(crate) struct NextHops {
    by_address: BTreeMap<IpAddr, Used>,
    by_index: BTreeMap<u16, IpAddr>,
    /// No index from here on was ever used.
    fresh: u16,
    freed: Vec<u16>,
    max: u32,
    full: u64,
    silent: BTreeMap<IpAddr, Instant>,
}

#[derive(Debug)]
struct Used {
    index: u16,
    users: u32,
}

/// What next hops are looked up in.
pub(crate) struct Surroundings<'e> {
    pub(crate) tables: &'e Tables,
    pub(crate) object: &'e mut Ebpf,
    pub(crate) netlink: &'e mut Netlink,
    pub(crate) ports: &'e mut Ports,
}

impl Surroundings<'_> {
    fn port(&mut self, interface: u32) -> Result<Option<u16>, EngineError> {
        self.ports.of(self.tables, self.object, self.netlink, interface)
    }
}

/// An address as the note beside its entry keeps it.
fn note_of(address: IpAddr) -> Note {
    let bits = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    };
    #[allow(clippy::cast_possible_truncation, reason = "the two halves")]
    let (policy, detail) = ((bits >> 64) as u64, bits as u64);
    Note { policy, detail }
}

fn address_of(note: Note) -> IpAddr {
    let bits = u128::from(note.policy) << 64 | u128::from(note.detail);
    std::net::Ipv6Addr::from_bits(bits).to_canonical()
}

impl NextHops {
    pub(crate) const fn new(max: u32) -> Self {
        Self {
            by_address: BTreeMap::new(),
            by_index: BTreeMap::new(),
            fresh: 0,
            freed: Vec::new(),
            max,
            full: 0,
            silent: BTreeMap::new(),
        }
    }

    pub(crate) fn status(&self) -> TableStatus {
        TableStatus { name: "next_hops", used: self.by_address.len() as u64, max: u64::from(self.max), full: self.full }
    }

    /// The entries in use.
    pub(crate) fn used(&self) -> impl Iterator<Item = u16> {
        self.by_index.keys().copied()
    }

    pub(crate) fn is_used(&self, index: u16) -> bool {
        self.by_index.contains_key(&index)
    }

    /// Counts a user of an entry that was found after a restart; whether there is such an entry. What died while it was being installed may
    /// still name the entry of the one before it.
    pub(crate) fn adopt(&mut self, tables: &Tables, index: u16) -> bool {
        if u32::from(index) >= self.max {
            return false;
        }
        let note = tables.note(Noted::NextHop, u32::from(index));
        if note == Note::default() {
            return false;
        }
        let address = address_of(note);
        self.by_address.entry(address).or_insert(Used { index, users: 0 }).users += 1;
        self.by_index.insert(index, address);
        true
    }

    /// Frees what nobody uses, once all users are counted: it was being taken or released when its process died.
    pub(crate) fn free_rest(&mut self, tables: &Tables) {
        self.fresh = self.by_index.keys().next_back().map_or(0, |last| last.saturating_add(1));
        self.freed = (0..self.fresh).filter(|index| !self.by_index.contains_key(index)).collect();
        for index in (0..self.max).filter(|index| tables.note(Noted::NextHop, *index) != Note::default()) {
            if !u16::try_from(index).is_ok_and(|index| self.by_index.contains_key(&index)) {
                tables.set_next_hop(index, NextHop::default());
                tables.set_note(Noted::NextHop, index, Note::default());
            }
        }
    }

    /// The entry for an address; resolved before this returns.
    pub(crate) fn acquire(&mut self, surroundings: &mut Surroundings<'_>, address: IpAddr) -> Result<u16, EngineError> {
        if let Some(used) = self.by_address.get_mut(&address) {
            used.users += 1;
            return Ok(used.index);
        }
        let next_hop = self.reach(surroundings, address)?;
        let index = self.take_index()?;
        surroundings.tables.set_next_hop(u32::from(index), next_hop);
        surroundings.tables.set_note(Noted::NextHop, u32::from(index), note_of(address));
        self.by_address.insert(address, Used { index, users: 1 });
        self.by_index.insert(index, address);
        Ok(index)
    }

    /// Where packets to an address go; its neighbour is asked for if it is not known.
    pub(crate) fn reach(
        &mut self,
        surroundings: &mut Surroundings<'_>,
        address: IpAddr,
    ) -> Result<NextHop, EngineError> {
        let patience = if self.is_silent(address) { 1 } else { ANSWER_STEPS_MAX };
        resolve(surroundings, address, patience).inspect_err(|_| {
            if self.silent.len() < SILENT_MAX {
                self.silent.insert(address, Instant::now());
            }
        })
    }

    fn is_silent(&mut self, address: IpAddr) -> bool {
        self.silent.retain(|_, since| since.elapsed() < SILENT_FOR);
        self.silent.contains_key(&address)
    }

    fn take_index(&mut self) -> Result<u16, EngineError> {
        if let Some(index) = self.freed.pop() {
            return Ok(index);
        }
        if u32::from(self.fresh) >= self.max {
            self.full += 1;
            return Err(EngineError::TableFull { table: "next hop", max: self.max });
        }
        self.fresh += 1;
        Ok(self.fresh - 1)
    }

    /// Ends one use. To be called only when no packet can still be using the entry.
    pub(crate) fn release(&mut self, tables: &Tables, index: u16) {
        let Some(address) = self.by_index.get(&index).copied() else { return };
        let Some(used) = self.by_address.get_mut(&address) else { return };
        used.users = used.users.saturating_sub(1);
        if used.users == 0 {
            self.by_address.remove(&address);
            self.by_index.remove(&index);
            self.freed.push(index);
            tables.set_next_hop(u32::from(index), NextHop::default());
            tables.set_note(Noted::NextHop, u32::from(index), Note::default());
        }
    }

    /// Looks everything up again. What cannot be resolved keeps the last answer; `probe` has the kernel ask for it.
    pub(crate) fn refresh(&self, surroundings: &mut Surroundings<'_>, probe: bool) -> Result<(), EngineError> {
        let known = surroundings.netlink.neighbours().map_err(EngineError::kernel("listing neighbours"))?;
        let known: BTreeMap<_, _> =
            known.into_iter().map(|(interface, address, mac)| ((interface, address), mac)).collect();
        for (address, used) in &self.by_address {
            let route = surroundings.netlink.route(*address).map_err(EngineError::kernel("looking up a route"))?;
            let Some((interface, neighbour)) = route else {
                tracing::debug!(%address, "no route any more; packets go on to the last next hop");
                continue;
            };
            let Some(port) = surroundings.port(interface)? else { continue };
            if let Some(mac) = known.get(&(interface, neighbour)) {
                let next_hop = NextHop::new(port, *mac);
                let tables = surroundings.tables;
                if tables.next_hop(u32::from(used.index)) != next_hop {
                    tracing::info!(%address, %neighbour, "next hop changed");
                    tables.set_next_hop(u32::from(used.index), next_hop);
                }
            } else if probe {
                surroundings.netlink.probe(interface, neighbour).map_err(EngineError::kernel("probing a neighbour"))?;
            }
        }
        Ok(())
    }
}

/// Asks the kernel where packets to an address go, and has it ask the neighbour if it does not know.
fn resolve(surroundings: &mut Surroundings<'_>, address: IpAddr, patience: u32) -> Result<NextHop, EngineError> {
    let fail = |detail: String| EngineError::NextHop { address, detail };
    let route = surroundings.netlink.route(address).map_err(EngineError::kernel("looking up a route"))?;
    let (interface, neighbour) = route.ok_or_else(|| fail("there is no route; `ip route get` shows".to_owned()))?;
    let port = surroundings.port(interface)?.ok_or_else(|| {
        fail(format!("the route leaves by interface {interface}, which is no port of this node; correct the route"))
    })?;
    let netlink = &mut *surroundings.netlink;
    for step in 0..patience {
        let mac = netlink.neighbour(interface, neighbour).map_err(EngineError::kernel("looking up a neighbour"))?;
        if let Some(mac) = mac {
            return Ok(NextHop::new(port, mac));
        }
        if step == 0 {
            netlink.probe(interface, neighbour).map_err(EngineError::kernel("probing a neighbour"))?;
        }
        std::thread::sleep(ANSWER_STEP);
    }
    Err(fail(format!("{neighbour} does not answer; is it up and on the right network?")))
}
