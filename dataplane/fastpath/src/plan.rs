//! How a flow is written into its entries. User space's part of what [`crate::outbound()`] and [`crate::inbound()`] do.

use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::AtomicU64;

use crate::checksum::Change;
use crate::classify::FlowKey;
use crate::entry::{Detail, EXCESS, Flow, FlowRate, INNER_V6, LABEL_VALID, LabelEntry, TERMINALS};
use crate::wire::{ipv4, tag};

/// The two ends of a flow as its packets carry them; both of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ends {
    /// Where its packets come from.
    pub source: SocketAddr,
    /// Where they go.
    pub destination: SocketAddr,
}

impl Ends {
    /// Of an outgoing flow.
    #[must_use]
    pub fn of(flow: &Flow, detail: &Detail) -> Self {
        let [a, b, c, d] = flow.ports.to_ne_bytes();
        let end = |octets: [u8; 16], port: [u8; 2]| {
            let [e, f, g, h, ..] = octets;
            let address = if flow.flags & INNER_V6 == 0 { IpAddr::from([e, f, g, h]) } else { IpAddr::from(octets) };
            SocketAddr::new(address, u16::from_be_bytes(port))
        };
        Self { source: end(detail.source, [a, b]), destination: end(detail.destination, [c, d]) }
    }
}

/// The two ends of the tagged packets; both of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outer {
    /// The sending node's tag address.
    pub source: IpAddr,
    /// The receiving node's tag address.
    pub destination: IpAddr,
    /// The receiving node's tag port.
    pub tag_port: u16,
}

/// One flow, at the node that sends it or at the one that receives it.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// What its packets are, or are restored to.
    pub ends: Ends,
    /// What they are between the nodes.
    pub outer: Outer,
    /// What the receiver knows it by, 40 bits.
    pub label: u64,
    /// Index of what carries it.
    pub aggregate: u16,
    /// Of [`Flow::flags`]; [`INNER_V6`] and [`EXCESS`] are added where they belong.
    pub flags: u16,
    /// What it may send.
    pub rate: FlowRate,
    /// What it may send beyond that.
    pub excess: Option<FlowRate>,
    /// A smaller packet is counted as this many bytes.
    pub packet_bytes_min: u16,
    /// Coarse time at which it lapses.
    pub expires_ns: u64,
}

const ONE_HOP: [u8; 2] = [1, 0];

/// Sixteen bytes, or four and zeros, as sums of words do not tell them apart.
fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(address) => address.octets(),
    }
}

fn first_four(bytes: [u8; 16]) -> [u8; 4] {
    let [a, b, c, d, ..] = bytes;
    [a, b, c, d]
}

/// The kind of tag of a plain packet between such ends.
#[must_use]
pub const fn kind(inner_v6: bool, outer_v6: bool, terminals: bool) -> u8 {
    match (terminals, inner_v6) {
        (true, false) => tag::KIND_TERMINALS_V4,
        (true, true) => tag::KIND_TERMINALS_V6,
        (false, _) if inner_v6 == outer_v6 => tag::KIND_LABEL,
        (false, _) => tag::KIND_OTHER_FAMILY,
    }
}

/// Bytes that a plain packet of a flow grows by on its way between nodes; negative if it shrinks.
#[must_use]
pub const fn growth_bytes(inner_v6: bool, outer_v6: bool, terminals: bool) -> i32 {
    let tag_bytes = match tag::bytes_of(kind(inner_v6, outer_v6, terminals)) {
        Some(bytes) => bytes as i32,
        None => 0,
    };
    tag_bytes + if outer_v6 { 40 } else { 20 } - if inner_v6 { 40 } else { 20 }
}

impl Plan {
    fn inner_v6(&self) -> bool {
        self.ends.source.is_ipv6()
    }

    fn terminals(&self) -> bool {
        self.flags & TERMINALS != 0
    }

    fn flags(&self) -> u16 {
        let family = if self.inner_v6() { INNER_V6 } else { 0 };
        self.flags | family | if self.excess.is_some() { EXCESS } else { 0 }
    }

    fn kind(&self) -> u8 {
        kind(self.inner_v6(), self.outer.source.is_ipv6(), self.terminals())
    }

    fn ends_in(&self, change: Change) -> Change {
        change.plus_address(octets(self.ends.source.ip())).plus_address(octets(self.ends.destination.ip()))
    }

    fn ends_off(&self, change: Change) -> Change {
        change.minus_address(octets(self.ends.source.ip())).minus_address(octets(self.ends.destination.ip()))
    }

    fn outer_in(&self, change: Change) -> Change {
        change.plus_address(octets(self.outer.source)).plus_address(octets(self.outer.destination))
    }

    fn outer_off(&self, change: Change) -> Change {
        change.minus_address(octets(self.outer.source)).minus_address(octets(self.outer.destination))
    }

    fn ports(&self) -> ([u8; 2], [u8; 2]) {
        (self.ends.source.port().to_be_bytes(), self.ends.destination.port().to_be_bytes())
    }

    fn detail(&self) -> Detail {
        Detail {
            source: octets(self.ends.source.ip()),
            destination: octets(self.ends.destination.ip()),
            excess: self.excess.unwrap_or_default(),
            excess_due: AtomicU64::new(0),
            reserved: 0,
        }
    }

    /// The entries at the node that sends the flow. `hash_seed` is the flow table's.
    #[must_use]
    pub fn flow(&self, hash_seed: u64, entropy_port: [u8; 2]) -> (Flow, Detail) {
        let key = FlowKey::new(hash_seed, &self.ends);
        let kind = self.kind();
        let tag = tag::template(kind, self.label);
        let tag_bytes = tag::bytes_of(kind).unwrap_or(0).to_be_bytes();
        let (source_port, destination_port) = self.ports();
        let outer_v6 = self.outer.source.is_ipv6();
        let ip_change = match (self.inner_v6(), outer_v6) {
            (false, false) => self.outer_in(self.ends_off(Change::NONE)).plus(tag_bytes).minus(ONE_HOP),
            (true, false) => self.outer_in(ipv4_always()),
            (_, true) => Change::NONE,
        };
        // Terminals in the tag stay in the sum: they move from the pseudo-header to the payload.
        let moved = if self.terminals() {
            Change::NONE
        } else {
            self.ends_off(Change::NONE).minus(source_port).minus(destination_port)
        };
        let (high, low) = halves(tag);
        let udp_change = self
            .outer_in(Change::folded(moved.fold()))
            .plus(entropy_port)
            .plus(self.outer.tag_port.to_be_bytes())
            .plus(tag_bytes)
            .plus(tag_bytes)
            .plus_long(high)
            .plus_long(low);
        let flow = Flow {
            addresses: key.addresses,
            ports: key.ports,
            aggregate: self.aggregate,
            flags: self.flags(),
            ip_change: ip_change.fold(),
            udp_change: udp_change.fold(),
            packet_bytes_min: self.packet_bytes_min,
            entropy_port,
            tag,
            expires_ns: self.expires_ns,
            rate: self.rate,
            due: AtomicU64::new(0),
        };
        (flow, self.detail())
    }

    /// The entries at the node that receives the flow. With [`TERMINALS`], the ends are nobody's: each packet tells its own.
    #[must_use]
    pub fn label(&self, next_hop: u16, clock_factor: u32) -> (LabelEntry, Detail) {
        let template = tag::template(self.kind(), self.label);
        let tag_bytes = tag::bytes_of(self.kind()).unwrap_or(0).to_be_bytes();
        let (source_port, destination_port) = self.ports();
        let outer_v6 = self.outer.source.is_ipv6();
        let outer = self.outer_off(Change::NONE);
        let (ip_change, udp_change) = if self.terminals() {
            let ip = if outer_v6 { ipv4_always() } else { outer.minus(ONE_HOP) };
            (ip, outer.minus(self.outer.tag_port.to_be_bytes()))
        } else {
            let ip = match (self.inner_v6(), outer_v6) {
                (false, false) => self.ends_in(outer).minus(tag_bytes).minus(ONE_HOP),
                (false, true) => self.ends_in(ipv4_always()),
                (true, _) => Change::NONE,
            };
            let (high, low) = halves(template);
            let udp = self
                .ends_in(Change::folded(outer.fold()))
                .minus(self.outer.tag_port.to_be_bytes())
                .plus(source_port)
                .plus(destination_port)
                .minus(tag_bytes)
                .minus(tag_bytes)
                .minus_long(high)
                .minus_long(low);
            (ip, udp)
        };
        let entry = LabelEntry {
            generation: tag::generation(template) | LABEL_VALID,
            clock_factor,
            source: first_four(octets(self.ends.source.ip())),
            destination: first_four(octets(self.ends.destination.ip())),
            source_port,
            destination_port,
            aggregate: self.aggregate,
            flags: self.flags(),
            ip_change: ip_change.fold(),
            udp_change: udp_change.fold(),
            packet_bytes_min: self.packet_bytes_min,
            next_hop,
            expires_ns: self.expires_ns,
            rate: self.rate,
            due: AtomicU64::new(0),
        };
        (entry, self.detail())
    }
}

/// The words of a new IPv4 header that do not depend on the packet, but for the addresses.
fn ipv4_always() -> Change {
    Change::NONE.plus([ipv4::VERSION_IHL, 0]).plus([0, ipv4::UDP])
}

fn halves(template: u64) -> ([u8; 4], [u8; 4]) {
    let [a, b, c, d, e, f, g, h] = template.to_be_bytes();
    ([a, b, c, d], [e, f, g, h])
}
