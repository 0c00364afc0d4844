//! Tables in plain memory: the packet logic's host where there is no kernel.

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::entry::{
    Aggregate, AggregateShare, Bucket, Config, Detail, Flow, FlowShare, LabelEntry, NextHop, Pool, Port, ReasonShare,
};
use crate::reception::Reception;
use crate::tables::{Route, Tables};

/// Borrowed tables, the shares of one CPU, and clocks that stand where they are put.
#[derive(Debug)]
pub struct MemoryTables<'m> {
    /// See [`Tables::config`].
    pub config: &'m Config,
    /// See [`Tables::bucket`].
    pub buckets: &'m [Bucket],
    /// See [`Tables::flow`].
    pub flows: &'m [Flow],
    /// See [`Tables::flow_detail`].
    pub flow_details: &'m [Detail],
    /// See [`Tables::flow_share`].
    pub flow_shares: &'m [FlowShare],
    /// See [`Tables::label`].
    pub labels: &'m [LabelEntry],
    /// See [`Tables::label_detail`].
    pub label_details: &'m [Detail],
    /// See [`Tables::label_share`].
    pub label_shares: &'m [FlowShare],
    /// See [`Tables::reception`].
    pub receptions: &'m [Reception],
    /// See [`Tables::aggregate`].
    pub aggregates: &'m [Aggregate],
    /// See [`Tables::pool`].
    pub pools: &'m [Pool],
    /// See [`Tables::aggregate_share`].
    pub aggregate_shares: &'m [AggregateShare],
    /// See [`Tables::reason_share`].
    pub reasons: &'m [ReasonShare],
    /// See [`Tables::next_hop`].
    pub next_hops: &'m [NextHop],
    /// See [`Tables::port`].
    pub ports: &'m [Port],
    /// See [`Tables::route`]: the destinations that have one.
    pub routes: &'m [([u8; 16], NextHop)],
    /// See [`Tables::exact_ns`].
    pub exact_ns: Cell<u64>,
    /// See [`Tables::ticks`].
    pub ticks: Cell<u64>,
}

fn entry<T>(table: &[T], index: u32) -> Option<&T> {
    table.get(usize::try_from(index).ok()?)
}

impl Tables for MemoryTables<'_> {
    fn config(&self) -> Option<&Config> {
        Some(self.config)
    }
    fn bucket(&self, index: u32) -> Option<&Bucket> {
        entry(self.buckets, index)
    }
    fn flow(&self, index: u32) -> Option<&Flow> {
        entry(self.flows, index)
    }
    fn flow_detail(&self, index: u32) -> Option<&Detail> {
        entry(self.flow_details, index)
    }
    fn flow_share(&self, index: u32) -> Option<&FlowShare> {
        entry(self.flow_shares, index)
    }
    fn label(&self, index: u32) -> Option<&LabelEntry> {
        entry(self.labels, index)
    }
    fn label_detail(&self, index: u32) -> Option<&Detail> {
        entry(self.label_details, index)
    }
    fn label_share(&self, index: u32) -> Option<&FlowShare> {
        entry(self.label_shares, index)
    }
    fn reception(&self, index: u32) -> Option<&Reception> {
        entry(self.receptions, index)
    }
    fn aggregate(&self, index: u32) -> Option<&Aggregate> {
        entry(self.aggregates, index)
    }
    fn pool(&self, index: u32) -> Option<&Pool> {
        entry(self.pools, index)
    }
    fn aggregate_share(&self, index: u32) -> Option<&AggregateShare> {
        entry(self.aggregate_shares, index)
    }
    fn reason_share(&self, row: u32) -> Option<&ReasonShare> {
        entry(self.reasons, row)
    }
    fn next_hop(&self, index: u32) -> Option<NextHop> {
        entry(self.next_hops, index).copied()
    }
    fn port(&self, index: u32) -> Option<&Port> {
        entry(self.ports, index)
    }
    fn route(&self, route: &Route<'_>) -> Option<NextHop> {
        self.routes.iter().find(|(destination, _)| destination == route.destination).map(|(_, next_hop)| *next_hop)
    }
    fn exact_ns(&self) -> u64 {
        self.exact_ns.get()
    }
    fn ticks(&self) -> u64 {
        self.ticks.get()
    }
    fn load(&self, word: &AtomicU64) -> u64 {
        word.load(Ordering::Relaxed)
    }
    fn replace(&self, word: &AtomicU64, old: u64, new: u64) -> bool {
        word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
    fn add(&self, word: &AtomicU64, value: u64) {
        word.fetch_add(value, Ordering::Relaxed);
    }
    fn touch<E>(&self, _: &E) {}
    fn opaque(&self, value: u64) -> u64 {
        value
    }
    fn unknown(&self, value: u64) -> u64 {
        value
    }
}
