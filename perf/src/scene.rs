//! What the tables hold: flows each way, four to an aggregate or more.

use std::sync::atomic::AtomicU64;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::net::if_::if_nametoindex;
use turnpike_fastpath::contract::{AGGREGATES_MAX, VERSION, table};
use turnpike_fastpath::entry::{
    Aggregate, AggregateShare, Bucket, ClockReading, Config, Flow, FlowRate, Interim, LOCAL_MAX, LabelEntry, NextHop,
    PEERS_MAX, Port, TO_SITE, UNADMITTED_DROP, mac_bits, mapped,
};
use turnpike_fastpath::meter::{PoolRate, aggregate_burst_bytes_min, flow_rate, pool_rate};
use turnpike_fastpath::plan::{Ends, Outer, Plan as FlowPlan};
use turnpike_fastpath::wire::tag;
use turnpike_fastpath::{FlowKey, alternative, bucket_of, fingerprint, flow_hash};
use zerocopy::transmute;

use crate::contract::{
    DESTINATION, DESTINATION_PORT, GENERATION, HashKey, METERS_MAX, NODE, PEER, Plan, SOURCE, SOURCE_PORT,
    ScheduleMeter, State, TAG_PORT, WindowMeter, carrier,
};
use crate::object::{Maps, Programs, bench_map, buckets_of};

const SEED: u64 = 0x1d0c_77a1_93b5_4e2f;
pub(crate) const MTU_BYTES: u32 = 1_500;
/// So much that no row is held by it: several times what one CPU can offer.
pub(crate) const AMPLE_BPS: u64 = 1_000_000_000_000;
pub(crate) const AMPLE_BURST_BYTES: u32 = 1 << 30;
/// Far from now, and far from the end of 64 bits.
const FAR_NS: u64 = u64::MAX >> 1;

/// The tables and what is known of the host.
pub(crate) struct Scene {
    pub(crate) maps: Maps,
    pub(crate) cpus: u32,
    /// Flows and labels in the tables.
    pub(crate) flows: u32,
    pub(crate) tick_ns: u64,
}

impl Scene {
    /// Fills all tables with so many flows and labels, so that nothing is refused.
    pub(crate) fn set_up(
        programs: &Programs,
        mut maps: Maps,
        device: &str,
        cpus: u32,
        flows: u32,
    ) -> anyhow::Result<Self> {
        maps.set_device(0, if_nametoindex(device).context("the spare device is gone")?)?;
        let mut scene = Self::bare(programs, maps, cpus, flows)?;
        scene.fill()?;
        Ok(scene)
    }

    /// With tables as they are.
    pub(crate) fn bare(programs: &Programs, maps: Maps, cpus: u32, flows: u32) -> anyhow::Result<Self> {
        let tick_ns = tick_ns(programs, &maps)?;
        Ok(Self { maps, cpus, flows, tick_ns })
    }

    fn fill(&mut self) -> anyhow::Result<()> {
        let words: [u64; size_of::<Config>() / 8] = transmute!(Config {
            version: VERSION,
            tick_ns: self.tick_ns,
            hash_seed: SEED,
            bucket_mask: buckets_of(self.flows) - 1,
            unadmitted: UNADMITTED_DROP,
            fragments_drop: 0,
            best_effort: 0,
            tag_address_v4: NODE,
            tag_address_v6: [0; 16],
            tag_port: TAG_PORT,
            peers_count: 1,
            zero: 0,
            local: [[0; 16]; LOCAL_MAX],
            peers: [mapped(PEER); PEERS_MAX],
            dscp_out: [0; 64],
            dscp_in: [0; 64],
            interim: Interim::default(),
        });
        self.maps.write(table::CONFIG, [(0, words)])?;
        self.maps.write(table::NEXT_HOPS, [(0, [NextHop::new(0, [2, 0, 0, 0, 0, 9]).0])])?;
        let port: [u64; 4] = transmute!(Port {
            mac_bits: mac_bits([2, 0, 0, 0, 0, 8]),
            mtu_bytes: MTU_BYTES,
            flags: TO_SITE,
            ..Port::default()
        });
        self.maps.write(table::PORTS, [(0, port)])?;
        let rate = flow_rate(AMPLE_BPS, AMPLE_BURST_BYTES, self.tick_ns).context("the ample rate does not fit")?;
        self.set_flows(0..self.flows, rate, 0)?;
        let pool =
            pool_rate(AMPLE_BPS, AMPLE_BURST_BYTES, self.cpus, MTU_BYTES).context("the ample rate does not fit")?;
        self.set_aggregates(0..AGGREGATES_MAX, pool, 0)?;
        self.maps.write(table::BUCKETS, buckets(self.flows)?)?;
        self.maps.write_hash((0..METERS_MAX).map(|index| {
            let key = HashKey::new(source(index), DESTINATION, SOURCE_PORT, DESTINATION_PORT);
            (transmute!(key), u64::from(index))
        }))?;
        self.fill_baselines()
    }

    fn fill_baselines(&mut self) -> anyhow::Result<()> {
        let rate = flow_rate(AMPLE_BPS, AMPLE_BURST_BYTES, 0).context("the ample rate does not fit")?;
        self.maps.write(bench_map::SCHEDULES, (0..METERS_MAX).map(|index| (index, schedule_words(rate))))?;
        self.maps.write(bench_map::WINDOWS, (0..METERS_MAX).map(|index| (index, window_words(AMPLE_BPS))))?;
        // 2^20 tokens are a byte, so a nanosecond at 1 Tbit/s brings 125 × 2^20.
        let locked = [0, u64::from(AMPLE_BURST_BYTES) << 20, u64::from(AMPLE_BURST_BYTES) << 20, 125 << 20, 0, 0, 0, 0];
        self.maps.write(bench_map::LOCKED, (0..METERS_MAX).map(|index| (index, locked)))
    }

    /// Gives flows and labels this rate and a meter that stands at `due`.
    pub(crate) fn set_flows(&mut self, indexes: std::ops::Range<u32>, rate: FlowRate, due: u64) -> anyhow::Result<()> {
        self.maps.write::<8>(table::FLOWS, indexes.clone().map(|index| (index, transmute!(flow(index, rate, due)))))?;
        let exact = indexes.clone().take(METERS_MAX as usize);
        let exact = exact.map(|index| (index, transmute!(flow(index, rate, due))));
        self.maps.write::<8>(bench_map::EXACT_FLOWS, exact)?;
        self.maps.write::<8>(table::LABELS, indexes.map(|index| (index, transmute!(label(index, rate, due)))))
    }

    /// Gives aggregates this rate, a pool that is spent up to `spent_ns`, and no credit.
    pub(crate) fn set_aggregates(
        &mut self,
        indexes: std::ops::Range<u32>,
        rate: PoolRate,
        spent_ns: u64,
    ) -> anyhow::Result<()> {
        let words: [u64; 8] = transmute!(Aggregate {
            peer: mapped(PEER),
            local: mapped(NODE),
            tag_port: TAG_PORT,
            tos: 46 << 2,
            quantum_bytes: rate.quantum_bytes,
            quantum_ns: rate.quantum_ns,
            depth_ns: rate.depth_ns,
            ..Aggregate::default()
        });
        self.maps.write(table::AGGREGATES, indexes.clone().map(|index| (index, words)))?;
        let mut pool = rate.pool();
        pool.spent_ns = AtomicU64::new(spent_ns);
        let pool: [u64; 8] = transmute!(pool);
        self.maps.write(table::POOLS, indexes.clone().map(|index| (index, pool)))?;
        for cpu in 0..self.cpus {
            let share: [u64; 8] = transmute!(AggregateShare::default());
            let shares = indexes.clone().map(|index| (cpu * AGGREGATES_MAX + index, share));
            self.maps.write(table::AGG_SHARES, shares)?;
        }
        Ok(())
    }

    /// Empties the pools of these aggregates for longer than any run.
    pub(crate) fn empty_pools(&mut self, indexes: std::ops::Range<u32>) -> anyhow::Result<()> {
        let pool =
            pool_rate(AMPLE_BPS, AMPLE_BURST_BYTES, self.cpus, MTU_BYTES).context("the ample rate does not fit")?;
        self.set_aggregates(indexes, pool, FAR_NS)
    }

    /// Spends the meters of these flows for longer than any run.
    pub(crate) fn spend_flows(&mut self, indexes: std::ops::Range<u32>) -> anyhow::Result<()> {
        let rate = flow_rate(AMPLE_BPS, AMPLE_BURST_BYTES, self.tick_ns).context("the ample rate does not fit")?;
        self.set_flows(indexes, rate, FAR_NS)
    }

    /// Fills what was emptied.
    pub(crate) fn refill(&mut self, indexes: std::ops::Range<u32>) -> anyhow::Result<()> {
        let rate = flow_rate(AMPLE_BPS, AMPLE_BURST_BYTES, self.tick_ns).context("the ample rate does not fit")?;
        self.set_flows(indexes.clone(), rate, 0)?;
        let pool =
            pool_rate(AMPLE_BPS, AMPLE_BURST_BYTES, self.cpus, MTU_BYTES).context("the ample rate does not fit")?;
        self.set_aggregates(indexes, pool, 0)
    }

    /// Gives the first flow, the first aggregate and the first of each baseline this rate and full buckets. Returns the burst: `burst_ms` at
    /// the rate, or the least that an aggregate can have, and what a coarse clock adds.
    pub(crate) fn set_rate(&mut self, coarse: bool, rate_bps: u64, burst_ms: u64) -> anyhow::Result<u64> {
        let least = aggregate_burst_bytes_min(self.cpus, MTU_BYTES);
        let burst_bytes = u32::try_from((rate_bps / 8_000 * burst_ms).max(least))?;
        let allowance_ns = if coarse { self.tick_ns } else { 0 };
        let rate = flow_rate(rate_bps, burst_bytes, allowance_ns).context("the rate does not fit")?;
        self.set_flows(0..1, rate, 0)?;
        let pool = pool_rate(rate_bps, burst_bytes, self.cpus, MTU_BYTES).context("the rate does not fit")?;
        self.set_aggregates(0..1, pool, 0)?;
        self.set_baselines(rate_bps, burst_bytes)?;
        // The clock may be late by one tick, and one is allowed for that (docs/life-of-a-packet.md).
        let tick_bytes = 2 * u128::from(allowance_ns) * u128::from(rate_bps) / 8_000_000_000;
        Ok(u64::from(burst_bytes) + u64::try_from(tick_bytes)?)
    }

    /// Gives the first aggregate of the baselines this rate.
    fn set_baselines(&mut self, rate_bps: u64, burst_bytes: u32) -> anyhow::Result<()> {
        let rate = flow_rate(rate_bps, burst_bytes, 0).context("the rate does not fit")?;
        self.maps.write(bench_map::SCHEDULES, [(0, schedule_words(rate))])?;
        self.maps.write(bench_map::WINDOWS, [(0, window_words(rate_bps))])?;
        let (tokens, per_ns) =
            (u64::from(burst_bytes) << 20, u64::try_from((u128::from(rate_bps) << 20) / 8_000_000_000)?);
        self.maps.write(bench_map::LOCKED, [(0, [0, tokens, tokens, per_ns, 0, 0, 0, 0])])
    }

    /// What the next runs rotate over.
    pub(crate) fn plan(&mut self, keys: u32, own_flows: u64) -> anyhow::Result<()> {
        ensure!(keys.is_power_of_two() && keys <= self.flows, "{keys} keys, and there are {} flows", self.flows);
        // With one key, each of two CPUs has a flow.
        let own_keys = if own_flows == 0 { keys } else { (keys / 2).max(1) };
        let key_bits = u64::from(own_keys.trailing_zeros());
        let plan = Plan { key_mask: u64::from(own_keys - 1), key_bits, own_flows, reserved: 0 };
        self.maps.write::<4>(bench_map::PLAN, [(0, transmute!(plan))])
    }

    /// Packets of a CPU so far, and those that did not end as they should.
    pub(crate) fn state(&self, cpu: u32) -> anyhow::Result<(u64, u64)> {
        let state: State = transmute!(self.maps.read::<8>(bench_map::STATE, cpu)?);
        Ok((state.turns.get(), state.refused.get()))
    }

    /// Packets that arrived at the far end so far.
    pub(crate) fn arrived(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for cpu in 0..self.cpus {
            let state: State = transmute!(self.maps.read::<8>(bench_map::STATE, cpu)?);
            sum += state.arrived.get();
        }
        Ok(sum)
    }
}

fn schedule_words(rate: FlowRate) -> [u64; 8] {
    transmute!(ScheduleMeter {
        due_ns: AtomicU64::new(0),
        byte_cost: rate.byte_cost,
        burst_ns: rate.burst_ns,
        reserved: [0; 5],
    })
}

fn window_words(rate_bps: u64) -> [u64; 8] {
    transmute!(WindowMeter { used_ns: 0.into(), rate_bps, reserved: [0; 6] })
}

fn source(index: u32) -> [u8; 4] {
    (SOURCE + index).to_be_bytes()
}

fn ends(index: u32) -> Ends {
    let end = |address: [u8; 4], port| (address, u16::from_be_bytes(port)).into();
    Ends { source: end(source(index), SOURCE_PORT), destination: end(DESTINATION, DESTINATION_PORT) }
}

fn aggregate_of(index: u32) -> u16 {
    u16::try_from(carrier(index)).unwrap_or(0)
}

fn plan(index: u32, rate: FlowRate, from: [u8; 4], to: [u8; 4]) -> FlowPlan {
    FlowPlan {
        ends: ends(index),
        outer: Outer { source: from.into(), destination: to.into(), tag_port: u16::from_be_bytes(TAG_PORT) },
        label: GENERATION << tag::INDEX_BITS | u64::from(index),
        aggregate: aggregate_of(index),
        flags: 0,
        rate,
        excess: None,
        packet_bytes_min: 28,
        expires_ns: u64::MAX,
    }
}

fn flow(index: u32, rate: FlowRate, due: u64) -> Flow {
    let (mut flow, _) = plan(index, rate, NODE, PEER).flow(SEED, [0xc1, 0x23]);
    flow.due = AtomicU64::new(due);
    flow
}

fn label(index: u32, rate: FlowRate, due: u64) -> LabelEntry {
    let (mut label, _) = plan(index, rate, PEER, NODE).label(0, 0);
    label.due = AtomicU64::new(due);
    label
}

/// The flow table with all flows in it: half of its slots, as the engine sizes it.
fn buckets(flows: u32) -> anyhow::Result<Vec<(u32, [u64; 8])>> {
    let mut table: Vec<Bucket> = vec![Bucket::default(); buckets_of(flows) as usize];
    let mask = buckets_of(flows) - 1;
    for index in 0..flows {
        let hash = flow_hash(SEED, &FlowKey::new(SEED, &ends(index)));
        let fingerprint = fingerprint(hash);
        let value = u64::from(fingerprint) << 32 | u64::from(index + 1);
        let first = bucket_of(hash, mask);
        let homes = [first, alternative(first, fingerprint, mask)];
        let free = |table: &[Bucket], home: u32| table[home as usize].slots.iter().position(|slot| *slot == 0);
        let place = homes.into_iter().find_map(|home| free(&table, home).map(|slot| (home, slot)));
        let place = place.or_else(|| {
            // One of the first bucket's flows moves to its other bucket.
            (0..8).find_map(|slot| {
                let moved = table[first as usize].slots[slot];
                let other = alternative(first, u32::try_from(moved >> 32).ok()?, mask);
                let there = free(&table, other)?;
                table[other as usize].slots[there] = moved;
                Some((first, slot))
            })
        });
        let Some((home, slot)) = place else { bail!("flow {index} finds no place") };
        table[home as usize].slots[slot] = value;
    }
    Ok((0..).zip(table.into_iter().map(|bucket| bucket.slots)).collect())
}

/// Finds out how long a tick is, as the engine does.
fn tick_ns(programs: &Programs, maps: &Maps) -> anyhow::Result<u64> {
    let read = || -> anyhow::Result<ClockReading> {
        programs.run_once("tb_clocks")?;
        Ok(transmute!(maps.read::<2>(table::CLOCK, 0)?))
    };
    let first = read()?;
    sleep(Duration::from_millis(240));
    let second = read()?;
    let measured_ns = (second.exact_ns - first.exact_ns) / (second.ticks - first.ticks).max(1);
    [100_u64, 250, 300, 1_000, 1_024]
        .map(|frequency| 1_000_000_000 / frequency)
        .into_iter()
        .min_by_key(|tick_ns| tick_ns.abs_diff(measured_ns))
        .context("no tick")
}
