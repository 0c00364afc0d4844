//! The tables that user space and the programs share, mapped and typed.

use std::sync::atomic::AtomicU64;

use aya::Ebpf;
use aya::maps::{Array, Map, MapData};
use turnpike_fastpath::contract::{BUCKET_SLOTS, PORTS_MAX, table};
use turnpike_fastpath::entry::{
    Aggregate, Bucket, ClockReading, Config, Detail, Flow, Interim, LABEL_VALID, LabelEntry, NextHop, Pool, Port,
};
use turnpike_fastpath::plan::Ends;
use turnpike_fastpath::reception::Reception;
use turnpike_fastpath::verdict::REASONS_MAX;
use zerocopy::{FromBytes, IntoBytes, transmute};

use crate::error::EngineError;
use crate::layout::{LAYOUTS, Layout, Shape};
use crate::map::Mapped;
use crate::policy::{Counters, PolicyId};
use crate::snapshot::Snapshot;

/// What this engine keeps beside an entry, to find its way after a restart. A zero policy means that the entry is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes)]
#[repr(C)]
pub(crate) struct Note {
    pub(crate) policy: PolicyId,
    pub(crate) detail: u64,
}

/// First word of a [`Reception`] that is a counter.
pub(crate) const RECEPTION_COUNTERS: usize = std::mem::offset_of!(Reception, lost) / 8;

/// Which table a note belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Noted {
    Flow,
    Label,
    Aggregate,
    NextHop,
}

/// All tables.
#[derive(Debug)]
pub(crate) struct Tables {
    cpus: u32,
    flows_max: u32,
    aggregates: u32,
    next_hops_max: u32,
    config: Mapped,
    buckets: Mapped,
    flows: Mapped,
    labels: Mapped,
    flow_details: Mapped,
    label_details: Mapped,
    receptions: Mapped,
    carriers: Mapped,
    pools: Mapped,
    aggregate_shares: Mapped,
    flow_shares: Mapped,
    label_shares: Mapped,
    reasons: Mapped,
    next_hops: Mapped,
    ports: Mapped,
    clock: Mapped,
    notes: Mapped,
}

impl Tables {
    /// The tables of an object.
    pub(crate) fn map(object: &Ebpf, shape: Shape) -> Result<Self, EngineError> {
        Self::open(shape, |layout| map_array(array(object, layout.name)?, shape, layout))
    }

    /// Tables of a known shape; `open` maps each.
    pub(crate) fn open(
        shape: Shape,
        open: impl Fn(&Layout) -> Result<Mapped, EngineError>,
    ) -> Result<Self, EngineError> {
        let mapped =
            |name: &'static str| open(LAYOUTS.iter().find(|layout| layout.name == name).ok_or_else(|| missing(name))?);
        Ok(Self {
            cpus: shape.cpus,
            flows_max: shape.flows,
            aggregates: shape.aggregates,
            next_hops_max: shape.next_hops(),
            config: mapped(table::CONFIG)?,
            buckets: mapped(table::BUCKETS)?,
            flows: mapped(table::FLOWS)?,
            labels: mapped(table::LABELS)?,
            flow_details: mapped(table::FLOW_DETAILS)?,
            label_details: mapped(table::LABEL_DETAILS)?,
            receptions: mapped(table::RECEPTIONS)?,
            carriers: mapped(table::AGGREGATES)?,
            pools: mapped(table::POOLS)?,
            aggregate_shares: mapped(table::AGG_SHARES)?,
            flow_shares: mapped(table::FLOW_SHARES)?,
            label_shares: mapped(table::LABEL_SHARES)?,
            reasons: mapped(table::REASONS)?,
            next_hops: mapped(table::NEXT_HOPS)?,
            ports: mapped(table::PORTS)?,
            clock: mapped(table::CLOCK)?,
            notes: mapped(table::NOTES)?,
        })
    }

    pub(crate) fn config(&self) -> Config {
        let words: [u64; size_of::<Config>() / 8] = self.config.read(0);
        transmute!(words)
    }

    pub(crate) fn set_config(&self, config: Config) {
        let words: [u64; size_of::<Config>() / 8] = transmute!(config);
        self.config.write(0, words);
    }

    /// The slots of a bucket, each to be replaced as a whole.
    pub(crate) fn bucket(&self, index: u32) -> Bucket {
        transmute!(self.buckets.read::<8>(index))
    }

    pub(crate) fn set_slot(&self, bucket: u32, slot: usize, value: u64) {
        self.buckets.word((bucket * BUCKET_SLOTS) as usize + slot).store(value, std::sync::atomic::Ordering::Release);
    }

    pub(crate) const fn bucket_mask(&self) -> u32 {
        2 * self.flows_max / BUCKET_SLOTS - 1
    }

    pub(crate) fn flow(&self, index: u32) -> Flow {
        transmute!(self.flows.read::<8>(index))
    }

    pub(crate) fn set_flow(&self, index: u32, flow: Flow) {
        let words: [u64; 8] = transmute!(flow);
        self.flows.write(index, words);
    }

    /// What packets may still add to, so only of an entry that they do not find.
    pub(crate) fn set_detail(&self, table: Noted, index: u32, detail: Detail) {
        let words: [u64; 8] = transmute!(detail);
        self.details(table).write(index, words);
    }

    pub(crate) fn detail(&self, table: Noted, index: u32) -> Detail {
        transmute!(self.details(table).read::<8>(index))
    }

    const fn details(&self, table: Noted) -> &Mapped {
        if matches!(table, Noted::Label) { &self.label_details } else { &self.flow_details }
    }

    /// What arrived, in this generation of tables and in those before it.
    pub(crate) fn reception(&self, index: u32) -> Reception {
        let mut words = self.receptions.read::<8>(index);
        let carried_over = self.receptions.read::<8>(self.flows_max + index);
        for (word, carried_over) in words.iter_mut().zip(carried_over).skip(RECEPTION_COUNTERS) {
            *word += carried_over;
        }
        transmute!(words)
    }

    /// The ends of an outgoing flow, and its flags.
    pub(crate) fn flow_ends(&self, index: u32) -> (Ends, u16) {
        let flow = self.flow(index);
        (Ends::of(&flow, &self.detail(Noted::Flow, index)), flow.flags)
    }

    pub(crate) fn label(&self, index: u32) -> LabelEntry {
        transmute!(self.labels.read::<8>(index))
    }

    /// Writes an entry that packets can find as soon as its first word, which holds the generation, is there.
    pub(crate) fn set_label(&self, index: u32, label: LabelEntry) {
        let mut words: [u64; 8] = transmute!(label);
        let first = std::mem::replace(&mut words[0], self.labels.word(index as usize * 8).load(ORDER));
        self.labels.write(index, words);
        if cfg!(not(target_arch = "x86_64")) {
            // There a CPU could read the rest of the entry before its first word.
            crate::sys::grace_period();
        }
        self.labels.word(index as usize * 8).store(first, std::sync::atomic::Ordering::Release);
    }

    /// Ends a label: packets do not find it any more, and its generation stays to be read.
    pub(crate) fn withdraw_label(&self, index: u32) {
        let mut label = self.label(index);
        label.generation &= !LABEL_VALID;
        let words: [u64; 8] = transmute!(label);
        self.labels.word(index as usize * 8).store(words[0], std::sync::atomic::Ordering::Release);
    }

    /// Coarse time at which a flow or a label lapses; may be moved while packets use the entry.
    pub(crate) fn set_expiry(&self, table: Noted, index: u32, expires_ns: u64) {
        let (mapped, offset) = match table {
            Noted::Flow => (&self.flows, std::mem::offset_of!(Flow, expires_ns)),
            Noted::Label => (&self.labels, std::mem::offset_of!(LabelEntry, expires_ns)),
            Noted::Aggregate | Noted::NextHop => return,
        };
        mapped.word(index as usize * 8 + offset / 8).store(expires_ns, std::sync::atomic::Ordering::Release);
    }

    /// The words of an entry, to be changed one by one while packets use it.
    pub(crate) fn words(&self, table: &'static str, index: u32) -> &[AtomicU64] {
        let mapped = match table {
            table::FLOWS => &self.flows,
            table::LABELS => &self.labels,
            table::FLOW_DETAILS => &self.flow_details,
            table::LABEL_DETAILS => &self.label_details,
            table::AGGREGATES => &self.carriers,
            table::POOLS => &self.pools,
            _ => return &[],
        };
        mapped.slice(index as usize * 8, 8)
    }

    /// What the policy goes by that is being changed.
    pub(crate) fn interim(&self) -> Interim {
        self.config().interim
    }

    /// The same, written; no policy may be going by it.
    pub(crate) fn set_interim(&self, interim: Interim) {
        let words: [u64; size_of::<Interim>() / 8] = transmute!(interim);
        let target = self.config.slice(std::mem::offset_of!(Config, interim) / 8, words.len());
        for (target, word) in target.iter().zip(words) {
            target.store(word, std::sync::atomic::Ordering::Release);
        }
    }

    pub(crate) fn aggregate(&self, index: u32) -> Aggregate {
        transmute!(self.carriers.read::<8>(index))
    }

    pub(crate) fn set_aggregate(&self, index: u32, aggregate: Aggregate) {
        let words: [u64; 8] = transmute!(aggregate);
        self.carriers.write(index, words);
    }

    pub(crate) fn pool(&self, index: u32) -> Pool {
        transmute!(self.pools.read::<8>(index))
    }

    pub(crate) fn set_pool(&self, index: u32, pool: Pool) {
        let words: [u64; 8] = transmute!(pool);
        self.pools.write(index, words);
    }

    pub(crate) fn next_hop(&self, index: u32) -> NextHop {
        transmute!(self.next_hops.read::<1>(index))
    }

    pub(crate) fn set_next_hop(&self, index: u32, next_hop: NextHop) {
        self.next_hops.write(index, [next_hop.0]);
    }

    pub(crate) fn port(&self, index: u32) -> Port {
        transmute!(self.ports.read::<4>(index))
    }

    pub(crate) fn set_port(&self, index: u32, port: Port) {
        let words: [u64; 4] = transmute!(port);
        self.ports.write(index, words);
    }

    pub(crate) fn clock(&self) -> ClockReading {
        transmute!(self.clock.read::<2>(0))
    }

    pub(crate) fn note(&self, table: Noted, index: u32) -> Note {
        transmute!(self.notes.read::<2>(self.note_index(table, index)))
    }

    pub(crate) fn set_note(&self, table: Noted, index: u32, note: Note) {
        let words: [u64; 2] = transmute!(note);
        self.notes.write(self.note_index(table, index), words);
    }

    const fn note_index(&self, table: Noted, index: u32) -> u32 {
        index
            + match table {
                Noted::Flow => 0,
                Noted::Label => self.flows_max,
                Noted::Aggregate => 2 * self.flows_max,
                Noted::NextHop => 2 * self.flows_max + self.aggregates,
            }
    }

    /// Sets an unused entry's counters, and an aggregate's credit, to zero on every CPU and in what was carried over.
    pub(crate) fn clear_shares(&self, table: Noted, index: u32) {
        for (mapped, entry) in self.shares(table, index) {
            mapped.write(entry, [0; 8]);
        }
        if table == Noted::Label {
            for entry in [index, self.flows_max + index] {
                self.receptions.write(entry, [0; 8]);
            }
        }
    }

    /// What all CPUs counted, in this generation of tables and in those before it.
    pub(crate) fn counters(&self, table: Noted, index: u32) -> Counters {
        counters(table, self.shares(table, index))
    }

    /// What all CPUs counted in this generation of tables.
    pub(crate) fn counters_of_cpus(&self, table: Noted, index: u32) -> Counters {
        counters(table, self.shares(table, index).take(self.cpus as usize))
    }

    fn shares(&self, table: Noted, index: u32) -> impl Iterator<Item = (&Mapped, u32)> {
        let (mapped, size) = match table {
            Noted::Flow => (&self.flow_shares, self.flows_max),
            Noted::Label => (&self.label_shares, self.flows_max),
            Noted::Aggregate | Noted::NextHop => (&self.aggregate_shares, self.aggregates),
        };
        // Behind the CPUs' lines is the one of what was carried over.
        (0..=self.cpus).map(move |cpu| (mapped, cpu * size + index))
    }

    /// Copies everything, with the shares of one CPU.
    pub(crate) fn snapshot(&self, cpu: u32, ticks: u64, exact_ns: u64) -> Snapshot {
        let flows = 0..self.flows_max;
        let carriers = 0..self.aggregates;
        let flow_share = cpu * self.flows_max;
        let carrier_share = cpu * self.aggregates;
        let reason_share = cpu * 2 * REASONS_MAX;
        Snapshot {
            config: self.config(),
            buckets: (0..=self.bucket_mask()).map(|index| self.bucket(index)).collect(),
            flows: flows.clone().map(|index| self.flow(index)).collect(),
            flow_shares: flows
                .clone()
                .map(|index| transmute!(self.flow_shares.read::<8>(flow_share + index)))
                .collect(),
            flow_details: flows.clone().map(|index| self.detail(Noted::Flow, index)).collect(),
            labels: flows.clone().map(|index| self.label(index)).collect(),
            label_details: flows.clone().map(|index| self.detail(Noted::Label, index)).collect(),
            receptions: flows.clone().map(|index| self.reception(index)).collect(),
            label_shares: flows.map(|index| transmute!(self.label_shares.read::<8>(flow_share + index))).collect(),
            aggregates: carriers.clone().map(|index| self.aggregate(index)).collect(),
            pools: carriers.clone().map(|index| self.pool(index)).collect(),
            aggregate_shares: carriers
                .map(|index| transmute!(self.aggregate_shares.read::<8>(carrier_share + index)))
                .collect(),
            reasons: (0..2 * REASONS_MAX).map(|row| transmute!(self.reasons.read::<2>(reason_share + row))).collect(),
            next_hops: (0..self.next_hops_max).map(|index| self.next_hop(index)).collect(),
            ports: (0..PORTS_MAX).map(|index| self.port(index)).collect(),
            routes: Vec::new(),
            ticks,
            exact_ns,
        }
    }

    /// Packets and bytes of a row of the verdict table.
    pub(crate) fn reason(&self, row: u32) -> (u64, u64) {
        (0..=self.cpus)
            .map(|cpu| self.reasons.read::<2>(cpu * 2 * REASONS_MAX + row))
            .fold((0, 0), |(packets, bytes), [more_packets, more_bytes]| (packets + more_packets, bytes + more_bytes))
    }
}

fn counters<'t>(table: Noted, shares: impl Iterator<Item = (&'t Mapped, u32)>) -> Counters {
    let offset = if table == Noted::Aggregate { 2 } else { 0 };
    let mut sum = [0_u64; 8];
    for (mapped, entry) in shares {
        let words: [u64; 8] = mapped.read(entry);
        for (sum, word) in sum.iter_mut().zip(&words[offset..]) {
            *sum += word;
        }
    }
    let [offered_packets, offered_bytes, passed_packets, passed_bytes, dropped_packets, dropped_bytes, ..] = sum;
    // Aggregates have no colours of their own, and credit where flows have them.
    let [.., excess_packets, excess_bytes] = if offset == 0 { sum } else { [0; 8] };
    Counters {
        offered_packets,
        offered_bytes,
        passed_packets,
        passed_bytes,
        dropped_packets,
        dropped_bytes,
        excess_packets,
        excess_bytes,
        reception: None,
    }
}

const ORDER: std::sync::atomic::Ordering = std::sync::atomic::Ordering::Acquire;

fn missing(name: &'static str) -> EngineError {
    EngineError::Load { detail: format!("the object has no table {name}") }
}

/// Maps a table that has the size of this shape.
pub(crate) fn map_array(map: &MapData, shape: Shape, layout: &Layout) -> Result<Mapped, EngineError> {
    Mapped::new(map.fd(), shape.entries(layout), layout.entry_bytes).map_err(EngineError::kernel("mapping a table"))
}

/// The map of a table.
pub(crate) fn array<'o>(object: &'o Ebpf, name: &'static str) -> Result<&'o MapData, EngineError> {
    match object.map(name) {
        Some(Map::Array(data)) => Ok(data),
        _ => Err(missing(name)),
    }
}

/// Reads an entry of `N` words through the kernel, not through the mapping by which it was written.
pub(crate) fn read_back<const N: usize>(
    object: &Ebpf,
    name: &'static str,
    index: u32,
) -> Result<[u64; N], EngineError> {
    let map = object.map(name).ok_or_else(|| missing(name))?;
    let array: Array<_, [u64; N]> =
        Array::try_from(map).map_err(|error| EngineError::Load { detail: error.to_string() })?;
    array
        .get(&index, 0)
        .map_err(|error| EngineError::Kernel { action: "reading back an entry", source: std::io::Error::other(error) })
}
