//! Puts flows in force: outgoing ones in the flow table, incoming ones under their label.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use turnpike_fastpath::contract::table;
use turnpike_fastpath::entry::{Aggregate, EVERY_PACKET, EXACT_CLOCK, FlowRate, OUTER_V6, RTCP_NEXT_PORT, TERMINALS};
use turnpike_fastpath::meter::flow_rate;
use turnpike_fastpath::plan::{Ends, Outer, Plan};
use turnpike_fastpath::reception::clock_factor;
use turnpike_fastpath::wire::tag;
use turnpike_fastpath::{FlowKey, flow_hash};

use crate::engine::{Engine, Kind, PATH_JITTER_NS, Placed, all_ends};
use crate::error::EngineError;
use crate::flow_table;
use crate::next_hop::NO_NEXT_HOP;
use crate::policy::{Media, Meter, PolicyId};
use crate::sys::grace_period;
use crate::table::{Note, Noted};

/// First of the source ports of tagged packets: the dynamic ports of RFC 6335. The rest of the port is the flow's hash, so
/// that devices on the way spread flows and keep each in order.
const ENTROPY_PORT: u16 = 0xc000;

/// The coarse clock serves bursts of at least so many ticks.
const COARSE_TICKS_MIN: u64 = 8;

/// A flow that comes in, or all that a label lets in whose tags tell their terminals.
pub(crate) struct Incoming {
    pub(crate) ends: Option<Ends>,
    pub(crate) label: u64,
    pub(crate) rtcp_next_port: bool,
    pub(crate) media: Media,
}

/// Stands where packets tell their own.
const NO_ENDS: Ends = Ends {
    source: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
    destination: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
};

/// A flow that goes out.
pub(crate) struct Outgoing {
    pub(crate) ends: Ends,
    pub(crate) label: u64,
    pub(crate) rtcp_next_port: bool,
    pub(crate) terminals: bool,
}

/// The rates of a flow, as its meter wants them.
pub(crate) struct Rates {
    pub(crate) rate: FlowRate,
    pub(crate) excess: Option<FlowRate>,
    pub(crate) flags: u16,
}

/// Sees to it that the ends can be those of packets.
fn check_ends(ends: &Ends, rtcp_next_port: bool) -> Result<(), EngineError> {
    let wrong =
        |value: SocketAddr, allowed| Err(EngineError::Family { what: "endpoint", value: value.to_string(), allowed });
    if ends.source.is_ipv4() != ends.destination.is_ipv4() {
        return wrong(ends.destination, "must be of the same family as the source");
    }
    for end in [ends.source, ends.destination] {
        let is_mapped = matches!(end.ip(), IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
        if end.ip().is_unspecified() || end.ip().is_multicast() || is_mapped {
            return wrong(end, "must be a unicast address of its own family");
        }
        // Packets look for their flow on the even port.
        if rtcp_next_port && (end.port() == u16::MAX || !ends.destination.port().is_multiple_of(2)) {
            return wrong(end, "must have an even port where RTCP is on the next one (RFC 3550, section 11)");
        }
    }
    Ok(())
}

fn outer(aggregate: &Aggregate, source: [u8; 16], destination: [u8; 16]) -> Outer {
    let address = |octets: [u8; 16]| match aggregate.flags & OUTER_V6 {
        0 => std::net::Ipv6Addr::from(octets).to_canonical(),
        _ => IpAddr::from(octets),
    };
    Outer {
        source: address(source),
        destination: address(destination),
        tag_port: u16::from_be_bytes(aggregate.tag_port),
    }
}

impl Engine {
    pub(crate) fn install_flow_out(
        &mut self,
        id: PolicyId,
        aggregate: PolicyId,
        outgoing: Outgoing,
        meter: &Meter,
    ) -> Result<Placed, EngineError> {
        let Outgoing { ends, label, rtcp_next_port, terminals } = outgoing;
        if label > tag::LABEL_MAX {
            return Err(EngineError::Label { label, detail: "must have at most 40 bits" });
        }
        check_ends(&ends, rtcp_next_port)?;
        let (carrier, entry) = self.carrier(aggregate, Kind::AggregateOut)?;
        let Rates { rate, excess, flags } = self.rates(carrier, meter, 0)?;
        let all_ends = all_ends(&ends, rtcp_next_port);
        if let Some(other) = all_ends.iter().find_map(|ends| self.flow_ends.get(ends)) {
            return Err(EngineError::EndpointsInUse(*other));
        }
        let index = self.free_flows.take()?;
        let plan = Plan {
            ends,
            outer: outer(&entry, entry.local, entry.peer),
            label,
            aggregate: carrier,
            flags: flags | if rtcp_next_port { RTCP_NEXT_PORT } else { 0 } | if terminals { TERMINALS } else { 0 },
            rate,
            excess,
            packet_bytes_min: meter.packet_bytes_min,
            expires_ns: self.expiry_ns(),
        };
        let hash = flow_hash(self.seed, &FlowKey::new(self.seed, &ends));
        let entropy_port = (ENTROPY_PORT | (hash >> 48) as u16).to_be_bytes();
        let (flow, detail) = plan.flow(self.seed, entropy_port);
        self.tables.clear_shares(Noted::Flow, index);
        self.tables.set_detail(Noted::Flow, index, detail);
        let wanted: [u64; 8] = zerocopy::transmute!(flow);
        self.tables.set_flow(index, zerocopy::transmute!(wanted));
        let placed = Placed { kind: Kind::FlowOut, index };
        // Read back before packets find it: afterwards its meter moves.
        let published = self.check_entry(id, table::FLOWS, index, wanted, 8).and_then(|()| {
            self.tables.set_note(Noted::Flow, index, Note { policy: id, detail: 0 });
            flow_table::publish(&self.tables, self.seed, &ends, index)?;
            let found = flow_table::is_published(&self.tables, self.seed, &ends, index);
            if found { Ok(()) } else { Err(EngineError::ReadBack(id)) }
        });
        if let Err(error) = published {
            self.retire(placed);
            return Err(error);
        }
        for ends in all_ends {
            self.flow_ends.insert(ends, id);
        }
        Ok(placed)
    }

    pub(crate) fn install_flow_in(
        &mut self,
        id: PolicyId,
        aggregate: PolicyId,
        incoming: Incoming,
        meter: &Meter,
    ) -> Result<Placed, EngineError> {
        let Incoming { ends, label, rtcp_next_port, media } = incoming;
        if label > tag::LABEL_MAX {
            return Err(EngineError::Label { label, detail: "must have at most 40 bits" });
        }
        if let Some(ends) = &ends {
            check_ends(ends, rtcp_next_port)?;
        }
        let index = tag::index(label);
        if index >= self.config.flows_max {
            self.labels_full += 1;
            return Err(EngineError::TableFull { table: "label", max: self.config.flows_max });
        }
        if self.tables.note(Noted::Label, index).policy != 0 {
            return Err(EngineError::Label { label, detail: "its index is in use" });
        }
        let (carrier, entry) = self.carrier(aggregate, Kind::AggregateIn)?;
        let Rates { rate, excess, flags } = self.rates(carrier, meter, PATH_JITTER_NS)?;
        let next_hop = ends.map_or(Ok(NO_NEXT_HOP), |ends| self.next_hop_to(ends.destination.ip()))?;
        let plan = Plan {
            ends: ends.unwrap_or(NO_ENDS),
            outer: outer(&entry, entry.peer, entry.local),
            label,
            aggregate: carrier,
            flags: flags
                | if rtcp_next_port { RTCP_NEXT_PORT } else { 0 }
                | if media.every_packet { EVERY_PACKET } else { 0 }
                | if ends.is_none() { TERMINALS } else { 0 },
            rate,
            excess,
            packet_bytes_min: meter.packet_bytes_min,
            expires_ns: self.expiry_ns(),
        };
        let (flow, detail) = plan.label(next_hop, clock_factor(media.clock_rate_hz));
        self.tables.clear_shares(Noted::Label, index);
        self.tables.set_detail(Noted::Label, index, detail);
        let wanted: [u64; 8] = zerocopy::transmute!(flow);
        self.tables.set_note(Noted::Label, index, Note { policy: id, detail: 0 });
        self.tables.set_label(index, zerocopy::transmute!(wanted));
        let placed = Placed { kind: Kind::FlowIn, index };
        // The last word is the meter's, and packets may have come already.
        let checked = self.check_entry(id, table::LABELS, index, wanted, 7);
        if checked.is_err() {
            self.tables.withdraw_label(index);
            grace_period();
            self.retire(placed);
        }
        checked.map(|()| placed)
    }

    /// The numbers of both meters of a flow that this aggregate carries, and which clock they read.
    pub(crate) fn rates(&self, carrier: u16, meter: &Meter, allowance_ns: u64) -> Result<Rates, EngineError> {
        let (rate, flags) = self.meter(meter.rate_bps, meter.burst_bytes, meter.packet_bytes_min, allowance_ns)?;
        let Some(excess) = meter.excess else { return Ok(Rates { rate, excess: None, flags }) };
        let (excess, excess_flags) =
            self.meter(excess.rate_bps, excess.burst_bytes, meter.packet_bytes_min, allowance_ns)?;
        let flags = flags | excess_flags;
        let (aggregate, pool) = (self.tables.aggregate(u32::from(carrier)), self.tables.pool(u32::from(carrier)));
        if aggregate.depth_ns < pool.reserve_ns.saturating_add(aggregate.quantum_ns) {
            let least = 8 * self.cpus * self.packet_bytes_max;
            return Err(EngineError::Rate {
                field: "excess",
                value: 0,
                allowed: format!(
                    "needs an aggregate whose burst_bytes are above {least}, so that something can be idle"
                ),
            });
        }
        Ok(Rates { rate, excess: Some(excess), flags })
    }

    /// The meter's numbers and which clock it reads.
    fn meter(
        &self,
        rate_bps: u64,
        burst_bytes: u32,
        packet_bytes_min: u16,
        allowance_ns: u64,
    ) -> Result<(FlowRate, u16), EngineError> {
        let wrong =
            |field, value: u64, allowed: &str| Err(EngineError::Rate { field, value, allowed: allowed.to_owned() });
        if !(1_000..=400_000_000_000).contains(&rate_bps) {
            return wrong("rate_bps", rate_bps, "must be from 1000 to 400000000000");
        }
        if burst_bytes < u32::from(packet_bytes_min) || burst_bytes < 28 {
            return wrong("burst_bytes", u64::from(burst_bytes), "must be at least one packet");
        }
        let tick_ns = self.tick_ns();
        let exact = flow_rate(rate_bps, burst_bytes, allowance_ns);
        let coarse = flow_rate(rate_bps, burst_bytes, allowance_ns + tick_ns);
        match (exact, coarse) {
            (Some(exact), _) if exact.burst_ns < COARSE_TICKS_MIN * tick_ns => Ok((exact, EXACT_CLOCK)),
            (Some(_), Some(coarse)) => Ok((coarse, 0)),
            _ => wrong("rate_bps", rate_bps, "with this burst, the numbers leave 64 bits"),
        }
    }
}
