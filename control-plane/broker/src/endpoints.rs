//! Endpoints: which may be asked for, and which are carried already. The data plane finds a flow by them.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::address::{Family, allowed_instead};
use crate::calendar::Interval;
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

/// The endpoints of all flows on this node, each for its session's interval.
#[derive(Default)]
pub(crate) struct Carried {
    out: Ends,
    into: Ends,
    flows_out: usize,
}

#[derive(Default)]
struct Ends {
    /// One for each flow, and one for each extension that is under way.
    flows: BTreeSet<(Endpoints, Interval)>,
    /// One more for each where RTCP is on the next ports.
    rtcp: BTreeSet<(Endpoints, Interval)>,
}

impl Carried {
    pub(crate) fn insert(&mut self, flow: &FlowRecord, interval: Interval) {
        self.extend(flow, interval);
        self.flows_out += usize::from(flow.direction == Direction::Out);
    }

    pub(crate) fn remove(&mut self, flow: &FlowRecord, interval: Interval) {
        self.shorten(flow, interval);
        self.flows_out -= usize::from(flow.direction == Direction::Out);
    }

    /// A flow that is there has its endpoints for that, too.
    pub(crate) fn extend(&mut self, flow: &FlowRecord, extension: Interval) {
        let ends = self.of(flow.direction);
        ends.flows.insert((flow.endpoints, extension));
        ends.rtcp.extend(of_rtcp(flow.endpoints, flow.rtcp).map(|rtcp| (rtcp, extension)));
    }

    /// The reverse of [`Self::extend`].
    pub(crate) fn shorten(&mut self, flow: &FlowRecord, extension: Interval) {
        let ends = self.of(flow.direction);
        ends.flows.remove(&(flow.endpoints, extension));
        if let Some(rtcp) = of_rtcp(flow.endpoints, flow.rtcp) {
            ends.rtcp.remove(&(rtcp, extension));
        }
    }

    /// Whether another flow has them at some time of an interval.
    pub(crate) fn has(&self, direction: Direction, endpoints: &Endpoints, interval: Interval) -> bool {
        let ends = match direction {
            Direction::Out => &self.out,
            Direction::In => &self.into,
        };
        let of_these = (*endpoints, Interval::FIRST)..=(*endpoints, Interval::LAST);
        let mut all = ends.flows.range(of_these.clone()).chain(ends.rtcp.range(of_these));
        all.any(|(_, carried)| carried.overlaps(interval))
    }

    /// How many flows this node sends.
    pub(crate) const fn flows_out(&self) -> usize {
        self.flows_out
    }

    const fn of(&mut self, direction: Direction) -> &mut Ends {
        match direction {
            Direction::Out => &mut self.out,
            Direction::In => &mut self.into,
        }
    }
}
