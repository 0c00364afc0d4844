//! Keeps the next hops of peers and terminals: the port that packets leave by, and the neighbour's MAC address.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use turnpike_fastpath::entry::NextHop;

use crate::error::EngineError;
use crate::netlink::Netlink;
use crate::table::{Note, Noted, Tables};

/// Longest time that an installation waits for a neighbour to answer.
const ANSWER_STEPS_MAX: u32 = 25;
const ANSWER_STEP: Duration = Duration::from_millis(20);

/// The addresses in use, and their entries.
#[derive(Debug, Default)]
pub(crate) struct NextHops {
    by_address: BTreeMap<Ipv4Addr, Used>,
    max: u32,
}

#[derive(Debug)]
struct Used {
    index: u16,
    users: u32,
}

/// The ports by interface index.
pub(crate) type Ports = BTreeMap<u32, u16>;

impl NextHops {
    pub(crate) fn new(max: u32) -> Self {
        Self { by_address: BTreeMap::new(), max }
    }

    /// Entries in use.
    pub(crate) fn len(&self) -> usize {
        self.by_address.len()
    }

    /// Entries in all.
    pub(crate) const fn max(&self) -> u32 {
        self.max
    }

    /// Counts a user of an entry that was found after a restart.
    pub(crate) fn adopt(&mut self, tables: &Tables, index: u16) {
        let note = tables.note(Noted::NextHop, u32::from(index));
        if let Ok(bits) = u32::try_from(note.detail) {
            self.by_address.entry(Ipv4Addr::from_bits(bits)).or_insert(Used { index, users: 0 }).users += 1;
        }
    }

    /// The entry for an address; resolved before this returns.
    pub(crate) fn acquire(
        &mut self,
        tables: &Tables,
        netlink: &mut Netlink,
        ports: &Ports,
        address: Ipv4Addr,
    ) -> Result<u16, EngineError> {
        if let Some(used) = self.by_address.get_mut(&address) {
            used.users += 1;
            return Ok(used.index);
        }
        let next_hop = resolve(netlink, ports, address)?;
        let index = self.free_index()?;
        tables.set_next_hop(u32::from(index), next_hop);
        tables.set_note(Noted::NextHop, u32::from(index), Note { policy: 1, detail: u64::from(address.to_bits()) });
        self.by_address.insert(address, Used { index, users: 1 });
        Ok(index)
    }

    fn free_index(&self) -> Result<u16, EngineError> {
        let mut taken: Vec<u16> = self.by_address.values().map(|used| used.index).collect();
        taken.sort_unstable();
        let free = (0_u16..).zip(&taken).find_map(|(index, taken)| (index != *taken).then_some(index));
        let free = free.map_or(taken.len(), usize::from);
        if free >= self.max as usize {
            return Err(EngineError::TableFull { table: "next hop", max: self.max });
        }
        u16::try_from(free).map_err(|_| EngineError::TableFull { table: "next hop", max: self.max })
    }

    /// Ends one use. To be called only when no packet can still be using the entry.
    pub(crate) fn release(&mut self, tables: &Tables, index: u16) {
        let Some(address) =
            self.by_address.iter().find_map(|(address, used)| (used.index == index).then_some(*address))
        else {
            return;
        };
        if let Some(used) = self.by_address.get_mut(&address) {
            used.users = used.users.saturating_sub(1);
            if used.users == 0 {
                self.by_address.remove(&address);
                tables.set_next_hop(u32::from(index), NextHop::default());
                tables.set_note(Noted::NextHop, u32::from(index), Note::default());
            }
        }
    }

    /// Looks everything up again. What cannot be resolved keeps the last answer.
    pub(crate) fn refresh(&self, tables: &Tables, netlink: &mut Netlink, ports: &Ports) -> Result<(), EngineError> {
        let known = netlink.neighbours().map_err(EngineError::kernel("listing neighbours"))?;
        for (address, used) in &self.by_address {
            let route = netlink.route(*address).map_err(EngineError::kernel("looking up a route"))?;
            let Some((interface, neighbour)) = route else {
                tracing::warn!(%address, "no route any more; packets go on to the last next hop");
                continue;
            };
            let Some(port) = ports.get(&interface) else { continue };
            let found = known.iter().find(|(index, address, _)| *index == interface && *address == neighbour);
            match found {
                Some((_, _, mac)) => {
                    let next_hop = NextHop::new(*port, *mac);
                    if tables.next_hop(u32::from(used.index)) != next_hop {
                        tracing::info!(%address, %neighbour, "next hop changed");
                        tables.set_next_hop(u32::from(used.index), next_hop);
                    }
                }
                None => netlink.probe(interface, neighbour).map_err(EngineError::kernel("probing a neighbour"))?,
            }
        }
        Ok(())
    }
}

/// Asks the kernel where packets to an address go, and has it ask the neighbour if it does not know.
fn resolve(netlink: &mut Netlink, ports: &Ports, address: Ipv4Addr) -> Result<NextHop, EngineError> {
    let fail = |detail: String| EngineError::NextHop { address, detail };
    let route = netlink.route(address).map_err(EngineError::kernel("looking up a route"))?;
    let (interface, neighbour) = route.ok_or_else(|| fail("there is no route; `ip route get` shows".to_owned()))?;
    let port = *ports.get(&interface).ok_or_else(|| {
        fail(format!("the route leaves by interface {interface}, which is no port of this node; correct the route"))
    })?;
    for step in 0..ANSWER_STEPS_MAX {
        let known = netlink.neighbours().map_err(EngineError::kernel("listing neighbours"))?;
        if let Some((_, _, mac)) = known.iter().find(|(index, address, _)| *index == interface && *address == neighbour)
        {
            return Ok(NextHop::new(port, *mac));
        }
        if step == 0 {
            netlink.probe(interface, neighbour).map_err(EngineError::kernel("probing a neighbour"))?;
        }
        std::thread::sleep(ANSWER_STEP);
    }
    Err(fail(format!("{neighbour} does not answer ARP; is it up and on the right network?")))
}
