//! Puts flows in force: outgoing ones in the flow table, incoming ones under their label.

use std::net::SocketAddrV4;
use std::sync::atomic::AtomicU64;

use turnpike_fastpath::contract::table;
use turnpike_fastpath::entry::{
    EXACT_CLOCK, Flow, FlowRate, Inner, LABEL_VALID, LabelEntry, Outer, changes_in, changes_out,
};
use turnpike_fastpath::meter::flow_rate;
use turnpike_fastpath::wire::tag;
use turnpike_fastpath::{FlowKey, flow_hash};

use crate::engine::{Engine, Kind, PATH_JITTER_NS, Placed, ends_key};
use crate::error::EngineError;
use crate::flow_table;
use crate::policy::{Meter, PolicyId};
use crate::sys::grace_period;
use crate::table::{Note, Noted};

/// First of the source ports of tagged packets: the dynamic ports of RFC 6335. The rest of the port is the flow's hash, so
/// that devices on the way spread flows and keep each in order.
const ENTROPY_PORT: u16 = 0xc000;

/// The coarse clock serves bursts of at least so many ticks.
const COARSE_TICKS_MIN: u64 = 8;

fn inner(source: SocketAddrV4, destination: SocketAddrV4) -> Inner {
    Inner {
        source: source.ip().octets(),
        destination: destination.ip().octets(),
        source_port: source.port().to_be_bytes(),
        destination_port: destination.port().to_be_bytes(),
    }
}

impl Engine {
    pub(crate) fn install_flow_out(
        &mut self,
        id: PolicyId,
        aggregate: PolicyId,
        source: SocketAddrV4,
        destination: SocketAddrV4,
        label: u64,
        meter: &Meter,
    ) -> Result<Placed, EngineError> {
        if label > tag::LABEL_MAX {
            return Err(EngineError::Label { label, detail: "must have at most 40 bits" });
        }
        let (carrier, entry) = self.carrier(aggregate, Kind::AggregateOut)?;
        let (rate, flags) = self.meter(meter, 0)?;
        let ends = inner(source, destination);
        if let Some(other) = self.flow_ends.get(&ends_key(&ends)) {
            return Err(EngineError::EndpointsInUse(*other));
        }
        let index = self.free_flows.take()?;
        let outer = Outer { source: entry.local, destination: entry.peer, tag_port: entry.tag_port };
        let template = tag::template(label);
        let hash = flow_hash(self.seed, &FlowKey::new(&ends));
        let entropy_port = (ENTROPY_PORT | (hash >> 48) as u16).to_be_bytes();
        let (ip_change, udp_change) = changes_out(&ends, &outer, entropy_port, template);
        let flow = Flow {
            source: ends.source,
            destination: ends.destination,
            source_port: ends.source_port,
            destination_port: ends.destination_port,
            aggregate: carrier,
            flags,
            ip_change,
            udp_change,
            packet_bytes_min: meter.packet_bytes_min,
            entropy_port,
            tag: template,
            expires_ns: self.expiry_ns(),
            rate,
            due: AtomicU64::new(0),
        };
        self.tables.clear_shares(Noted::Flow, index);
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
        self.flow_ends.insert(ends_key(&ends), id);
        Ok(placed)
    }

    pub(crate) fn install_flow_in(
        &mut self,
        id: PolicyId,
        aggregate: PolicyId,
        source: SocketAddrV4,
        destination: SocketAddrV4,
        label: u64,
        meter: &Meter,
    ) -> Result<Placed, EngineError> {
        if label > tag::LABEL_MAX {
            return Err(EngineError::Label { label, detail: "must have at most 40 bits" });
        }
        let template = tag::template(label);
        let (index, generation) = (tag::index(template), tag::generation(template));
        if index >= self.config.flows_max {
            self.labels_full += 1;
            return Err(EngineError::TableFull { table: "label", max: self.config.flows_max });
        }
        if self.tables.note(Noted::Label, index).policy != 0 {
            return Err(EngineError::Label { label, detail: "its index is in use" });
        }
        let (carrier, entry) = self.carrier(aggregate, Kind::AggregateIn)?;
        let (rate, flags) = self.meter(meter, PATH_JITTER_NS)?;
        let ends = inner(source, destination);
        let outer = Outer { source: entry.peer, destination: entry.local, tag_port: entry.tag_port };
        let (ip_change, udp_change) = changes_in(&ends, &outer, template);
        let next_hop = self.next_hop_to(*destination.ip())?;
        let flow = LabelEntry {
            generation: generation | LABEL_VALID,
            peer: entry.peer,
            source: ends.source,
            destination: ends.destination,
            source_port: ends.source_port,
            destination_port: ends.destination_port,
            aggregate: carrier,
            flags,
            ip_change,
            udp_change,
            packet_bytes_min: meter.packet_bytes_min,
            next_hop,
            expires_ns: self.expiry_ns(),
            rate,
            due: AtomicU64::new(0),
        };
        self.tables.clear_shares(Noted::Label, index);
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

    /// The meter's numbers and which clock it reads.
    fn meter(&self, meter: &Meter, allowance_ns: u64) -> Result<(FlowRate, u16), EngineError> {
        let wrong =
            |field, value: u64, allowed: &str| Err(EngineError::Rate { field, value, allowed: allowed.to_owned() });
        if meter.rate_bps < 1_000 || meter.rate_bps > 400_000_000_000 {
            return wrong("rate_bps", meter.rate_bps, "must be from 1000 to 400000000000");
        }
        if meter.burst_bytes < u32::from(meter.packet_bytes_min) || meter.burst_bytes < 28 {
            return wrong("burst_bytes", u64::from(meter.burst_bytes), "must be at least one packet");
        }
        let tick_ns = self.tick_ns();
        let exact = flow_rate(meter.rate_bps, meter.burst_bytes, allowance_ns);
        let coarse = flow_rate(meter.rate_bps, meter.burst_bytes, allowance_ns + tick_ns);
        match (exact, coarse) {
            (Some(exact), _) if exact.burst_ns < COARSE_TICKS_MIN * tick_ns => Ok((exact, EXACT_CLOCK)),
            (Some(_), Some(coarse)) => Ok((coarse, 0)),
            _ => wrong("rate_bps", meter.rate_bps, "with this burst, the numbers leave 64 bits"),
        }
    }
}
