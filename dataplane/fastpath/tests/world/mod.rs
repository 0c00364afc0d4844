//! One scene for all tests of the packet logic, on the host and in the kernel: flows out and in, of both families, and frames with names.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

pub mod cases;
pub mod check;
pub mod frames;
pub mod harness;
pub mod host;
pub mod meter;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use turnpike_fastpath::plan::Ends;

#[allow(unused_imports, reason = "each test uses its part")]
pub use cases::{Case, cases};
pub use check::{checksums_hold, fix_checksums};
pub use frames::{Build, rtp, tag_bytes, tagged_frame, udp_frame};

const fn v6(site: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, site, 0, 0, 0, 0, host))
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

pub const SITE_A: IpAddr = v4(10, 1, 0, 10);
pub const SITE_B: IpAddr = v4(10, 2, 0, 10);
pub const SITE_A6: IpAddr = v6(1, 10);
pub const SITE_B6: IpAddr = v6(2, 10);
/// A terminal behind a VLAN of the site, and one behind two.
pub const VLAN_A: IpAddr = v4(10, 3, 0, 10);
pub const QINQ_A6: IpAddr = v6(4, 10);
/// A terminal of the site that nobody has heard of.
pub const SILENT: IpAddr = v4(10, 1, 0, 99);
/// The node under test.
pub const NODE: IpAddr = v4(198, 18, 0, 1);
pub const NODE6: IpAddr = v6(0xf, 1);
pub const NODE_AT_SITE: IpAddr = v4(10, 1, 0, 1);
pub const NODE_AT_SITE6: IpAddr = v6(1, 1);
pub const PEER: IpAddr = v4(198, 18, 0, 2);
pub const PEER6: IpAddr = v6(0xf, 2);
pub const OTHER_PEER: IpAddr = v4(198, 18, 0, 3);
pub const STRANGER: IpAddr = v4(203, 0, 113, 9);
pub const STRANGER6: IpAddr = v6(0xbad, 9);
pub const TAG_PORT: u16 = 47_700;
pub const MTU: u16 = 1_500;

/// What the peer knows the flows out by.
pub const LABEL_OUT: u64 = 0xab_cde0_0007;
/// Flows in from [`PEER`] and [`PEER6`], by the families inside and outside.
pub const LABEL_IN: u64 = 0x12_3450_0005;
pub const LABEL_IN_66: u64 = 0x12_3450_0008;
pub const LABEL_IN_46: u64 = 0x12_3450_0009;
pub const LABEL_IN_64: u64 = 0x12_3450_000a;
/// A flow in from [`OTHER_PEER`].
pub const LABEL_OTHER: u64 = 0x54_3210_0006;
/// A flow in from [`PEER`] whose RTCP is on the next ports.
pub const LABEL_PAIR: u64 = 0x12_3450_000b;
/// What [`PEER`] and [`PEER6`] send whose tags tell the terminals.
pub const LABEL_TERMINALS: u64 = 0x12_3450_000c;
pub const LABEL_TERMINALS6: u64 = 0x12_3450_000d;
/// A flow in to a terminal behind a VLAN, and one behind two.
pub const LABEL_VLAN: u64 = 0x12_3450_000e;
pub const LABEL_QINQ: u64 = 0x12_3450_000f;
/// A flow in whose meter is spent, and one with an excess rate besides.
pub const LABEL_SPENT: u64 = 0x12_3450_0010;
pub const LABEL_EXCESS: u64 = 0x12_3450_0011;
/// Within the table, of no flow.
pub const LABEL_UNUSED: u64 = 0x12_3450_0003;
/// Outside the table.
pub const LABEL_OUTSIDE: u64 = 0x12_345f_ffff;

/// Ports of flows: one that may send freely in each pair of families (inside, outside), one whose meter is spent, one with an excess rate
/// besides, one whose RTCP is on the next ports, one whose tag tells its terminals in each pair, and none.
pub const FREE: u16 = 20_000;
pub const FREE_46: u16 = 20_100;
pub const FREE_66: u16 = 20_000;
pub const FREE_64: u16 = 20_100;
pub const SPENT: u16 = 20_004;
pub const EXCESS: u16 = 20_006;
pub const PAIR: u16 = 20_010;
pub const TERMINALS: u16 = 20_020;
pub const TERMINALS_46: u16 = 20_120;
pub const NONE: u16 = 30_000;

fn ends(source: IpAddr, source_port: u16, destination: IpAddr, destination_port: u16) -> Ends {
    Ends { source: SocketAddr::new(source, source_port), destination: SocketAddr::new(destination, destination_port) }
}

/// The IPv4 flow out of this port.
pub fn out_ends(port: u16) -> Ends {
    ends(SITE_A, port, SITE_B, port + 2_000)
}

/// The IPv6 flow out of this port.
pub fn out_ends6(port: u16) -> Ends {
    ends(SITE_A6, port, SITE_B6, port + 2_000)
}

/// The IPv4 flow in to this port.
pub fn in_ends(port: u16) -> Ends {
    ends(SITE_B, port + 2_000, SITE_A, port)
}

/// The IPv6 flow in to this port.
pub fn in_ends6(port: u16) -> Ends {
    ends(SITE_B6, port + 2_000, SITE_A6, port)
}

/// From a site far away to a terminal of this one.
pub fn in_to(terminal: IpAddr, port: u16) -> Ends {
    ends(if terminal.is_ipv4() { SITE_B } else { SITE_B6 }, port + 2_000, terminal, port)
}

/// The next ports.
pub fn next(mut ends: Ends) -> Ends {
    ends.source.set_port(ends.source.port() + 1);
    ends.destination.set_port(ends.destination.port() + 1);
    ends
}

/// Addresses in the sixteen bytes of tables.
pub fn wide(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// This node's tag address in the family of a peer's.
pub const fn node(peer: IpAddr) -> IpAddr {
    if peer.is_ipv4() { NODE } else { NODE6 }
}

/// One flow of the scene.
pub struct FlowOut {
    pub ends: Ends,
    pub peer: IpAddr,
    pub spent: bool,
    pub excess: bool,
    pub rtcp_next_port: bool,
    pub terminals: bool,
}

/// The flows out.
pub fn flows_out() -> Vec<FlowOut> {
    let flow =
        |ends, peer| FlowOut { ends, peer, spent: false, excess: false, rtcp_next_port: false, terminals: false };
    vec![
        flow(out_ends(FREE), PEER),
        flow(out_ends(FREE_46), PEER6),
        flow(out_ends6(FREE_66), PEER6),
        flow(out_ends6(FREE_64), PEER),
        FlowOut { spent: true, ..flow(out_ends(SPENT), PEER) },
        FlowOut { spent: true, excess: true, ..flow(out_ends(EXCESS), PEER) },
        FlowOut { rtcp_next_port: true, ..flow(out_ends(PAIR), PEER) },
        FlowOut { rtcp_next_port: true, ..flow(out_ends6(PAIR), PEER) },
        FlowOut { terminals: true, ..flow(out_ends(TERMINALS), PEER) },
        FlowOut { terminals: true, ..flow(out_ends(TERMINALS_46), PEER6) },
        FlowOut { terminals: true, ..flow(out_ends6(TERMINALS), PEER6) },
        FlowOut { terminals: true, rtcp_next_port: true, ..flow(out_ends6(TERMINALS_46), PEER) },
    ]
}

/// One incoming flow of the scene; without ends, one label for all whose tags tell their terminals.
pub struct FlowIn {
    pub ends: Option<Ends>,
    pub peer: IpAddr,
    pub label: u64,
    pub spent: bool,
    pub excess: bool,
    pub rtcp_next_port: bool,
}

/// The flows in.
pub fn flows_in() -> Vec<FlowIn> {
    let flow = |ends, peer, label| FlowIn {
        ends: Some(ends),
        peer,
        label,
        spent: false,
        excess: false,
        rtcp_next_port: false,
    };
    let terminals = |peer, label| FlowIn { ends: None, ..flow(in_ends(1), peer, label) };
    vec![
        flow(in_ends(FREE), PEER, LABEL_IN),
        flow(in_ends6(FREE), PEER6, LABEL_IN_66),
        flow(in_ends(FREE_46), PEER6, LABEL_IN_46),
        flow(in_ends6(FREE_64), PEER, LABEL_IN_64),
        flow(in_ends(FREE + 200), OTHER_PEER, LABEL_OTHER),
        FlowIn { rtcp_next_port: true, ..flow(in_ends(PAIR), PEER, LABEL_PAIR) },
        terminals(PEER, LABEL_TERMINALS),
        terminals(PEER6, LABEL_TERMINALS6),
        flow(in_to(VLAN_A, FREE), PEER, LABEL_VLAN),
        flow(in_to(QINQ_A6, FREE), PEER, LABEL_QINQ),
        FlowIn { spent: true, ..flow(in_ends(SPENT), PEER, LABEL_SPENT) },
        FlowIn { spent: true, excess: true, ..flow(in_ends(EXCESS), PEER, LABEL_EXCESS) },
    ]
}
