//! Where a packet leaves, and with which DSCP.

use crate::entry::{Aggregate, Colour, DSCP_COPY, DSCP_MAP, EXCESS_REMARK, NextHop, Port};
use crate::tables::{Route, Tables};
use crate::verdict::{Detour, Reason, Stop};
use crate::wire::ipv4::ECN_MASK;

/// The way out for one packet.
pub(crate) struct Way<'t> {
    pub(crate) port_index: u32,
    pub(crate) port: &'t Port,
    pub(crate) next_hop: NextHop,
    /// The cached next hop was not known, and the kernel's own route was taken.
    pub(crate) by_route: bool,
}

/// By the cached next hop, or by the kernel's route as long as that is not resolved.
#[inline(always)]
pub(crate) fn way<'t, 'r, T: Tables>(
    tables: &'t T,
    next_hop: u16,
    route: impl FnOnce() -> Route<'r>,
) -> Result<Way<'t>, Reason> {
    let cached = tables.next_hop(u32::from(next_hop)).unwrap_or_default();
    if let Some(port_index) = cached.port() {
        let port = tables.port(port_index).ok_or(Reason::Internal)?;
        return Ok(Way { port_index, port, next_hop: cached, by_route: false });
    }
    let next_hop = tables.route(&route()).ok_or(Reason::NextHopUnresolved)?;
    let port_index = next_hop.port().ok_or(Reason::NextHopUnresolved)?;
    let port = tables.port(port_index).ok_or(Reason::Internal)?;
    Ok(Way { port_index, port, next_hop, by_route: tables.unknown(1) != 0 })
}

/// By the cached next hop, if it is resolved and in no VLAN.
#[inline(always)]
pub(crate) fn plain_way<T: Tables>(tables: &T, next_hop: u16, detour: Detour) -> Result<Way<'_>, Stop> {
    let next_hop = tables.next_hop(u32::from(next_hop)).ok_or(Stop::Detour(detour))?;
    let port_index = next_hop.port().ok_or(Stop::Detour(detour))?;
    let port = tables.port(port_index).ok_or(Stop::Detour(detour))?;
    if port.vlans_count != 0 {
        return Err(Stop::Detour(detour));
    }
    Ok(Way { port_index, port, next_hop, by_route: false })
}

/// DSCP and ECN of a packet that an aggregate carries.
#[inline(always)]
pub(crate) fn class(aggregate: &Aggregate, map: &[u8; 64], old: u8, colour: Colour) -> u8 {
    let flags = aggregate.flags;
    let dscp = if colour == Colour::Yellow && flags & EXCESS_REMARK != 0 {
        aggregate.tos_excess
    } else if flags & (DSCP_COPY | DSCP_MAP) == 0 {
        aggregate.tos
    } else if flags & DSCP_COPY != 0 {
        old & !ECN_MASK
    } else {
        map[usize::from(old >> 2)] << 2
    };
    dscp | (old & ECN_MASK)
}
