//! A picture of the tables.

use turnpike_fastpath::entry::{
    Aggregate, AggregateShare, Bucket, Config, Detail, Flow, FlowShare, LabelEntry, NextHop, Pool, Port, ReasonShare,
};
use turnpike_fastpath::memory::MemoryTables;
use turnpike_fastpath::reception::{Reception, ReceptionCounters};

/// The tables at one moment, with the shares of one CPU.
#[derive(Debug)]
pub struct Snapshot {
    pub(crate) config: Config,
    pub(crate) buckets: Vec<Bucket>,
    pub(crate) flows: Vec<Flow>,
    pub(crate) flow_details: Vec<Detail>,
    pub(crate) flow_shares: Vec<FlowShare>,
    pub(crate) labels: Vec<LabelEntry>,
    pub(crate) label_details: Vec<Detail>,
    pub(crate) label_shares: Vec<FlowShare>,
    pub(crate) receptions: Vec<Reception>,
    pub(crate) aggregates: Vec<Aggregate>,
    pub(crate) pools: Vec<Pool>,
    pub(crate) aggregate_shares: Vec<AggregateShare>,
    pub(crate) reasons: Vec<ReasonShare>,
    pub(crate) next_hops: Vec<NextHop>,
    pub(crate) ports: Vec<Port>,
    /// What the kernel's routes say, which is not in the tables: by destination, sixteen bytes.
    pub routes: Vec<([u8; 16], NextHop)>,
    pub(crate) ticks: u64,
    pub(crate) exact_ns: u64,
}

impl Snapshot {
    /// The tables as the packet logic takes them; what it writes stays in this snapshot. The clocks stand at the moment of the snapshot.
    #[must_use]
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
            exact_ns: self.exact_ns.into(),
            ticks: self.ticks.into(),
        }
    }

    fn arrivals(&self) -> Vec<(u64, ReceptionCounters)> {
        let window = |reception: &Reception| reception.window.load(std::sync::atomic::Ordering::Relaxed);
        self.receptions.iter().map(|reception| (window(reception), reception.counters(0))).collect()
    }

    /// Whether every counter and all unspent credit are the same in both.
    #[must_use]
    pub fn counts_like(&self, other: &Self) -> bool {
        self.flow_shares == other.flow_shares
            && self.label_shares == other.label_shares
            && self.aggregate_shares == other.aggregate_shares
            && self.reasons == other.reasons
            && self.arrivals() == other.arrivals()
    }
}
