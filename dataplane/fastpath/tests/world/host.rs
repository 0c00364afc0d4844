//! The scene in plain memory.

use std::sync::atomic::AtomicU64;

use turnpike_fastpath::entry::{
    Aggregate, AggregateShare, Bucket, Config, Flow, FlowShare, LABEL_VALID, LabelEntry, NextHop, Pool, Port,
    ReasonShare, UNADMITTED_LIMIT, changes_in, changes_out, mac_bits,
};
use turnpike_fastpath::memory::MemoryTables;
use turnpike_fastpath::meter::{flow_rate, pool_rate};
use turnpike_fastpath::verdict::REASONS_MAX;
use turnpike_fastpath::wire::tag;
use turnpike_fastpath::{FlowKey, bucket_of, fingerprint, flow_hash};

use super::*;

pub const TICK_NS: u64 = 4_000_000;
pub const START_TICKS: u64 = 1_000_000;
const SEED: u64 = 0x1234_5678_9abc_def1;
const BUCKETS: u32 = 4;

/// Memory for [`MemoryTables`].
pub struct World {
    pub config: Config,
    pub buckets: Vec<Bucket>,
    pub flows: Vec<Flow>,
    pub flow_shares: Vec<FlowShare>,
    pub labels: Vec<LabelEntry>,
    pub label_shares: Vec<FlowShare>,
    pub aggregates: Vec<Aggregate>,
    pub pools: Vec<Pool>,
    pub aggregate_shares: Vec<AggregateShare>,
    pub reasons: Vec<ReasonShare>,
    pub next_hops: Vec<NextHop>,
    pub ports: Vec<Port>,
}

fn many<T: Default>(count: usize) -> Vec<T> {
    std::iter::repeat_with(T::default).take(count).collect()
}

pub fn blank_flow() -> Flow {
    zerocopy::FromZeros::new_zeroed()
}

pub fn blank_label() -> LabelEntry {
    zerocopy::FromZeros::new_zeroed()
}

impl World {
    /// The scene: aggregates 2 (out) and 3 (in) at 1 Gbit/s, and one MTU for all.
    pub fn new() -> Self {
        let mut config: Config = zerocopy::FromZeros::new_zeroed();
        config.tick_ns = TICK_NS;
        config.hash_seed = SEED;
        config.bucket_mask = BUCKETS - 1;
        config.unadmitted = UNADMITTED_LIMIT;
        config.tag_address = NODE;
        config.tag_port = TAG_PORT.to_be_bytes();
        config.local[0] = NODE_AT_SITE;
        (config.peers[0], config.peers[1], config.peers_count) = (PEER, OTHER_PEER, 2);
        let rate = pool_rate(1_000_000_000, 1 << 20, 2, 1_508).unwrap();
        let aggregate = Aggregate {
            peer: PEER,
            local: NODE,
            tag_port: TAG_PORT.to_be_bytes(),
            tos: 46 << 2,
            next_hop: 0,
            quantum_bytes: rate.quantum_bytes,
            quantum_ns: rate.quantum_ns,
            depth_ns: rate.depth_ns,
            ..Aggregate::default()
        };
        let port = |last| Port { mac_bits: mac_bits([2, 0, 0, 0, 1, last]), mtu_bytes: u32::from(MTU), ifindex: 1 };
        let mut world = Self {
            config,
            buckets: many(BUCKETS as usize),
            flows: std::iter::repeat_with(blank_flow).take(8).collect(),
            flow_shares: many(8),
            labels: std::iter::repeat_with(blank_label).take(8).collect(),
            label_shares: many(8),
            aggregates: vec![aggregate; 4],
            pools: many(4),
            aggregate_shares: many(4),
            reasons: many(2 * REASONS_MAX as usize),
            next_hops: vec![NextHop::new(1, [2, 0, 0, 0, 2, 1]), NextHop::new(0, [2, 0, 0, 0, 2, 2])],
            ports: vec![port(0), port(1)],
        };
        world.add_flow(0, FREE, 1_000_000_000, 1 << 20);
        world.add_flow(1, SPENT, 1_000, 100);
        world.add_label(5, PEER, LABEL_IN, FREE);
        world.add_label(6, OTHER_PEER, LABEL_OTHER, FREE + 100);
        world
    }

    pub fn add_flow(&mut self, index: u32, port: u16, rate_bps: u64, burst_bytes: u32) {
        let ends = out_ends(port);
        let outer = Outer { source: NODE, destination: PEER, tag_port: TAG_PORT.to_be_bytes() };
        let entropy_port = [0xc1, 0x23];
        let template = tag::template(LABEL_OUT);
        let (ip_change, udp_change) = changes_out(&ends, &outer, entropy_port, template);
        self.flows[index as usize] = Flow {
            source: ends.source,
            destination: ends.destination,
            source_port: ends.source_port,
            destination_port: ends.destination_port,
            aggregate: 2,
            flags: 0,
            ip_change,
            udp_change,
            packet_bytes_min: 28,
            entropy_port,
            tag: template,
            expires_ns: u64::MAX,
            rate: flow_rate(rate_bps, burst_bytes, 0).unwrap(),
            due: AtomicU64::new(0),
        };
        let hash = flow_hash(SEED, &FlowKey::new(&ends));
        let bucket = &mut self.buckets[bucket_of(hash, BUCKETS - 1) as usize];
        let slot = bucket.slots.iter().position(|slot| *slot == 0).unwrap();
        bucket.slots[slot] = u64::from(fingerprint(hash)) << 32 | u64::from(index + 1);
    }

    pub fn add_label(&mut self, index: usize, peer: [u8; 4], label: u64, port: u16) {
        let ends = in_ends(port);
        let template = tag::template(label);
        assert_eq!(tag::index(template) as usize, index);
        let (ip_change, udp_change) = changes_in(&ends, &outer_from(peer), template);
        self.labels[index] = LabelEntry {
            generation: tag::generation(template) | LABEL_VALID,
            peer,
            source: ends.source,
            destination: ends.destination,
            source_port: ends.source_port,
            destination_port: ends.destination_port,
            aggregate: 3,
            flags: 0,
            ip_change,
            udp_change,
            packet_bytes_min: 28,
            next_hop: 1,
            expires_ns: u64::MAX,
            rate: flow_rate(1_000_000_000, 1 << 20, 0).unwrap(),
            due: AtomicU64::new(0),
        };
    }

    pub fn tables(&self) -> MemoryTables<'_> {
        MemoryTables {
            config: &self.config,
            buckets: &self.buckets,
            flows: &self.flows,
            flow_shares: &self.flow_shares,
            labels: &self.labels,
            label_shares: &self.label_shares,
            aggregates: &self.aggregates,
            pools: &self.pools,
            aggregate_shares: &self.aggregate_shares,
            reasons: &self.reasons,
            next_hops: &self.next_hops,
            ports: &self.ports,
            exact_ns: (START_TICKS * TICK_NS).into(),
            ticks: START_TICKS.into(),
        }
    }

    /// Packets counted for a reason.
    pub fn counted(&self, direction: Direction, reason: Reason) -> u64 {
        self.reasons[reason.row(direction) as usize].packets.get()
    }
}
