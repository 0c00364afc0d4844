//! Endpoints: which may be asked for, and which are carried already. The data plane finds a flow by them.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::address::{Family, allowed_instead};
use crate::policy::{Endpoints, Rtcp};
use crate::record::{Direction, FlowRecord};
use crate::refusal::Refusal;

fn check_end(field: &str, end: SocketAddr) -> Result<(), Refusal> {
    if let Some(allowed) = allowed_instead(end.ip()) {
        return Err(Refusal::invalid(field, end, allowed));
    }
    if let SocketAddr::V6(v6) = end
        && (v6.scope_id() != 0 || v6.flowinfo() != 0)
    {
        return Err(Refusal::invalid(field, end, "an address without a scope"));
    }
    if end.port() == 0 {
        return Err(Refusal::invalid(field, end, "a port from 1 to 65535"));
    }
    Ok(())
}

/// Whether a flow, with its RTCP where that is, can be between these ends.
pub(crate) fn check_endpoints(field: &str, endpoints: &Endpoints, rtcp: Rtcp) -> Result<(), Refusal> {
    let Endpoints { source, destination } = *endpoints;
    let ends = [(format!("{field}.source"), source), (format!("{field}.destination"), destination)];
    for (field, end) in &ends {
        check_end(field, *end)?;
        if rtcp == Rtcp::NextPort && !end.port().is_multiple_of(2) {
            return Err(Refusal::invalid(field, end, "an even port, because rtcp is next_port (RFC 3550 section 11)"));
        }
    }
    let [_, (field, _)] = ends;
    if Family::of(destination.ip()) != endpoints.family() {
        let allowed = format!("an {} address, as the source has", endpoints.family());
        return Err(Refusal::invalid(field, destination, allowed));
    }
    if source == destination {
        return Err(Refusal::invalid(field, destination, "another than the source"));
    }
    Ok(())
}

/// Every pair of ends that a flow's packets can have: its own, and those of its RTCP.
pub(crate) fn occupied(endpoints: Endpoints, rtcp: Rtcp) -> impl Iterator<Item = Endpoints> {
    std::iter::once(endpoints).chain(of_rtcp(endpoints, rtcp))
}

fn of_rtcp(endpoints: Endpoints, rtcp: Rtcp) -> Option<Endpoints> {
    match rtcp {
        Rtcp::SamePort => None,
        Rtcp::NextPort => endpoints.next_ports(),
    }
}

/// The endpoints of all flows on this node.
#[derive(Default)]
pub(crate) struct Carried {
    out: Ends,
    into: Ends,
}

#[derive(Default)]
struct Ends {
    /// One for each flow.
    flows: BTreeSet<Endpoints>,
    /// One more for each flow whose RTCP is on the next ports.
    rtcp: BTreeSet<Endpoints>,
}

impl Carried {
    pub(crate) fn insert(&mut self, flow: &FlowRecord) {
        let ends = self.of(flow.direction);
        ends.flows.insert(flow.endpoints);
        ends.rtcp.extend(of_rtcp(flow.endpoints, flow.rtcp));
    }

    pub(crate) fn remove(&mut self, flow: &FlowRecord) {
        let ends = self.of(flow.direction);
        ends.flows.remove(&flow.endpoints);
        if let Some(rtcp) = of_rtcp(flow.endpoints, flow.rtcp) {
            ends.rtcp.remove(&rtcp);
        }
    }

    pub(crate) fn has(&self, direction: Direction, endpoints: &Endpoints) -> bool {
        let ends = match direction {
            Direction::Out => &self.out,
            Direction::In => &self.into,
        };
        ends.flows.contains(endpoints) || ends.rtcp.contains(endpoints)
    }

    /// How many flows this node sends.
    pub(crate) fn flows_out(&self) -> usize {
        self.out.flows.len()
    }

    const fn of(&mut self, direction: Direction) -> &mut Ends {
        match direction {
            Direction::Out => &mut self.out,
            Direction::In => &mut self.into,
        }
    }
}
