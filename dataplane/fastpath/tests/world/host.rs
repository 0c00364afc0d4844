//! The scene in plain memory.

use turnpike_fastpath::entry::{
    Aggregate, AggregateShare, Bucket, Config, Detail, Flow, FlowRate, FlowShare, LabelEntry, NextHop, OUTER_V6, Pool,
    Port, RTCP_NEXT_PORT, ReasonShare, TERMINALS as TERMINALS_FLAG, TO_SITE, UNADMITTED_LIMIT, mac_bits,
};
use turnpike_fastpath::memory::MemoryTables;
use turnpike_fastpath::meter::{flow_rate, pool_rate};
use turnpike_fastpath::plan::{Outer, Plan};
use turnpike_fastpath::reception::Reception;
use turnpike_fastpath::verdict::REASONS_MAX;
use turnpike_fastpath::wire::tag;
use turnpike_fastpath::{Direction, FlowKey, Reason, bucket_of, fingerprint, flow_hash};

use super::*;

pub const TICK_NS: u64 = 4_000_000;
pub const START_TICKS: u64 = 1_000_000;
const SEED: u64 = 0x1234_5678_9abc_def1;
const BUCKETS: u32 = 16;
const FLOWS: usize = 32;
pub const ENTROPY_PORT: [u8; 2] = [0xc1, 0x23];

/// Indexes of aggregates: out by IPv4 and IPv6, in from each peer.
pub const OUT: u16 = 2;
pub const OUT6: u16 = 3;
pub const IN: u16 = 4;
pub const IN6: u16 = 5;
pub const IN_OTHER: u16 = 6;

/// Memory for [`MemoryTables`].
pub struct World {
    pub config: Config,
    pub buckets: Vec<Bucket>,
    pub flows: Vec<Flow>,
    pub flow_details: Vec<Detail>,
    pub flow_shares: Vec<FlowShare>,
    pub labels: Vec<LabelEntry>,
    pub label_details: Vec<Detail>,
    pub label_shares: Vec<FlowShare>,
    pub receptions: Vec<Reception>,
    pub aggregates: Vec<Aggregate>,
    pub pools: Vec<Pool>,
    pub aggregate_shares: Vec<AggregateShare>,
    pub reasons: Vec<ReasonShare>,
    pub next_hops: Vec<NextHop>,
    pub ports: Vec<Port>,
    pub routes: Vec<([u8; 16], NextHop)>,
}

fn many<T: Default>(count: usize) -> Vec<T> {
    std::iter::repeat_with(T::default).take(count).collect()
}

fn blank<T: zerocopy::FromZeros>(count: usize) -> Vec<T> {
    std::iter::repeat_with(zerocopy::FromZeros::new_zeroed).take(count).collect()
}

/// What the kernel's routes say, in the namespace of the tests too; there may be no VLANs there.
pub fn routes(vlans: bool) -> Vec<([u8; 16], NextHop)> {
    let way = |address, port, last| (wide(address), NextHop::new(port, [2, 0, 0, 0, 2, last]));
    vec![
        way(SITE_A, 0, 2),
        way(SITE_A6, 0, 2),
        way(VLAN_A, if vlans { 2 } else { 0 }, 3),
        way(QINQ_A6, if vlans { 3 } else { 0 }, 4),
        way(SITE_B, 1, 1),
        way(SITE_B6, 1, 1),
        way(PEER, 1, 1),
        way(PEER6, 1, 1),
    ]
}

pub fn ample() -> FlowRate {
    flow_rate(1_000_000_000, 1 << 20, 0).unwrap()
}

/// Less than a packet of the scene.
fn scanty() -> FlowRate {
    flow_rate(1_000, 50, 0).unwrap()
}

fn aggregate(peer: IpAddr, local: IpAddr) -> (Aggregate, Pool) {
    let rate = pool_rate(1_000_000_000, 1 << 20, 2, 1_508).unwrap();
    let entry = Aggregate {
        peer: wide(peer),
        local: wide(local),
        tag_port: TAG_PORT.to_be_bytes(),
        tos: 46 << 2,
        tos_excess: 0,
        next_hop: u16::from(peer.is_ipv6()) * 2,
        flags: if peer.is_ipv6() { OUTER_V6 } else { 0 },
        reserved: 0,
        quantum_bytes: rate.quantum_bytes,
        quantum_ns: rate.quantum_ns,
        depth_ns: rate.depth_ns,
    };
    (entry, rate.pool())
}

impl World {
    /// The scene: everything at 1 Gbit/s, and one MTU for all.
    pub fn new() -> Self {
        let mut world = Self::of(node(PEER), node(PEER6), [PEER, PEER6, OTHER_PEER]);
        for (index, flow) in flows_out().into_iter().enumerate() {
            world.add_flow(index as u32, &flow);
        }
        for flow in flows_in() {
            world.add_label(&flow);
        }
        world
    }

    /// A node without flows.
    pub fn of(tag_address: IpAddr, tag_address6: IpAddr, peers: [IpAddr; 3]) -> Self {
        let mut config: Config = zerocopy::FromZeros::new_zeroed();
        config.tick_ns = TICK_NS;
        config.hash_seed = SEED;
        config.bucket_mask = BUCKETS - 1;
        config.unadmitted = UNADMITTED_LIMIT;
        if let (IpAddr::V4(address), IpAddr::V6(address6)) = (tag_address, tag_address6) {
            (config.tag_address_v4, config.tag_address_v6) = (address.octets(), address6.octets());
        }
        config.tag_port = TAG_PORT.to_be_bytes();
        (config.local[0], config.local[1]) = (wide(NODE_AT_SITE), wide(NODE_AT_SITE6));
        config.peers_count = 3;
        for (place, peer) in config.peers.iter_mut().zip(peers) {
            *place = wide(peer);
        }
        for (index, dscp) in config.dscp_out.iter_mut().enumerate() {
            *dscp = 63 - index as u8;
        }
        config.dscp_in = config.dscp_out;
        let [peer, peer6, other] = peers;
        let (mut aggregates, mut pools) = (many(8), many(8));
        for (index, (peer, local)) in [
            (0, (peer, tag_address)),
            (1, (peer, tag_address)),
            (OUT, (peer, tag_address)),
            (OUT6, (peer6, tag_address6)),
            (IN, (peer, tag_address)),
            (IN6, (peer6, tag_address6)),
            (IN_OTHER, (other, tag_address)),
        ] {
            (aggregates[usize::from(index)], pools[usize::from(index)]) = aggregate(peer, local);
        }
        let port = |last, vlans, vlans_count, flags| Port {
            mac_bits: mac_bits([2, 0, 0, 0, 1, last]),
            mtu_bytes: u32::from(MTU),
            ifindex: 1,
            vlans,
            vlans_count,
            flags,
        };
        let (one, two) = ([[0x81, 0, 0, 100], [0; 4]], [[0x88, 0xa8, 0, 200], [0x81, 0, 0, 30]]);
        Self {
            config,
            buckets: many(BUCKETS as usize),
            flows: blank(FLOWS),
            flow_details: blank(FLOWS),
            flow_shares: many(FLOWS),
            labels: blank(FLOWS),
            label_details: blank(FLOWS),
            label_shares: many(FLOWS),
            receptions: many(FLOWS),
            aggregates,
            pools,
            aggregate_shares: many(8),
            reasons: many(2 * REASONS_MAX as usize),
            next_hops: vec![
                NextHop::new(1, [2, 0, 0, 0, 2, 1]),
                NextHop::new(0, [2, 0, 0, 0, 2, 2]),
                NextHop::new(1, [2, 0, 0, 0, 2, 1]),
                NextHop::new(2, [2, 0, 0, 0, 2, 3]),
                NextHop::new(3, [2, 0, 0, 0, 2, 4]),
            ],
            ports: vec![
                port(0, [[0; 4]; 2], 0, TO_SITE),
                port(1, [[0; 4]; 2], 0, 0),
                port(0, one, 1, TO_SITE),
                port(0, two, 2, TO_SITE),
            ],
            routes: routes(true),
        }
    }

    pub fn add_flow(&mut self, index: u32, flow: &FlowOut) {
        let plan = Plan {
            ends: flow.ends,
            outer: Outer { source: node(flow.peer), destination: flow.peer, tag_port: TAG_PORT },
            label: LABEL_OUT,
            aggregate: if flow.peer.is_ipv6() { OUT6 } else { OUT },
            flags: if flow.rtcp_next_port { RTCP_NEXT_PORT } else { 0 }
                | if flow.terminals { TERMINALS_FLAG } else { 0 },
            rate: if flow.spent { scanty() } else { ample() },
            excess: flow.excess.then(ample),
            packet_bytes_min: 28,
            expires_ns: u64::MAX,
        };
        let (entry, detail) = plan.flow(SEED, ENTROPY_PORT);
        self.flows[index as usize] = entry;
        self.flow_details[index as usize] = detail;
        let hash = flow_hash(SEED, &FlowKey::new(SEED, &flow.ends));
        let bucket = &mut self.buckets[bucket_of(hash, BUCKETS - 1) as usize];
        let slot = bucket.slots.iter().position(|slot| *slot == 0).unwrap();
        bucket.slots[slot] = u64::from(fingerprint(hash)) << 32 | u64::from(index + 1);
    }

    pub fn add_label(&mut self, flow: &FlowIn) {
        self.add_label_at(flow, node(flow.peer));
    }

    /// The same at the node with this tag address.
    pub fn add_label_at(&mut self, flow: &FlowIn, local: IpAddr) {
        let index = tag::index(flow.label) as usize;
        let next_hop = match flow.ends.map(|ends| ends.destination.ip()) {
            None => u16::MAX,
            Some(VLAN_A) => 3,
            Some(QINQ_A6) => 4,
            Some(_) => 1,
        };
        let plan = Plan {
            ends: flow.ends.unwrap_or_else(|| in_ends(1)),
            outer: Outer { source: flow.peer, destination: local, tag_port: TAG_PORT },
            label: flow.label,
            aggregate: match flow.peer {
                OTHER_PEER => IN_OTHER,
                IpAddr::V4(_) => IN,
                IpAddr::V6(_) => IN6,
            },
            flags: if flow.rtcp_next_port { RTCP_NEXT_PORT } else { 0 }
                | if flow.ends.is_none() { TERMINALS_FLAG } else { 0 },
            rate: if flow.spent { scanty() } else { ample() },
            excess: flow.excess.then(ample),
            packet_bytes_min: 28,
            expires_ns: u64::MAX,
        };
        (self.labels[index], self.label_details[index]) = plan.label(next_hop, 0);
    }

    pub fn tables(&self) -> MemoryTables<'_> {
        MemoryTables {
            config: &self.config,
            buckets: &self.buckets,
            flows: &self.flows,
            flow_details: &self.flow_details,
            flow_shares: &self.flow_shares,
            labels: &self.labels,
            label_details: &self.label_details,
            label_shares: &self.label_shares,
            receptions: &self.receptions,
            aggregates: &self.aggregates,
            pools: &self.pools,
            aggregate_shares: &self.aggregate_shares,
            reasons: &self.reasons,
            next_hops: &self.next_hops,
            ports: &self.ports,
            routes: &self.routes,
            exact_ns: (START_TICKS * TICK_NS).into(),
            ticks: START_TICKS.into(),
        }
    }

    /// Packets counted for a reason.
    pub fn counted(&self, direction: Direction, reason: Reason) -> u64 {
        self.reasons[reason.row(direction) as usize].packets.get()
    }
}
