//! Puts policies in force and takes them out again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use aya::Ebpf;
use aya::programs::links::PinnedLink;
use turnpike_fastpath::contract::table;
use turnpike_fastpath::entry::{Aggregate, DSCP_COPY, DSCP_MAP, EXCESS_REMARK, OUTER_V6, RTCP_NEXT_PORT, mapped};
use turnpike_fastpath::meter::{PoolRate, aggregate_burst_bytes_min, pool_rate};
use turnpike_fastpath::plan::Ends;

use crate::clock::CoarseClock;
use crate::config::{EngineConfig, XdpMode};
use crate::error::EngineError;
use crate::flow::{Incoming, Outgoing};
use crate::flow_table;
use crate::monitor::Monitor;
use crate::netlink::Netlink;
use crate::next_hop::{NO_NEXT_HOP, NextHops, Surroundings};
use crate::policy::{Counters, Dscp, Media, Policy, PolicyId};
use crate::ports::Ports;
use crate::recovery::Recovery;
use crate::status::TableStatus;
use crate::sys::grace_period;
use crate::table::{Note, Noted, Tables, read_back};

/// What the path may clump together, as time: an incoming policy takes so much more at once than its sender may send.
pub(crate) const PATH_JITTER_NS: u64 = 100_000_000;

/// Flag in the note of an aggregate that is out of force. Flows are so when packets do not find them.
pub(crate) const ENDED: u64 = 1 << 32;

/// Where an installed policy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) kind: Kind,
    pub(crate) index: u32,
}

/// What an installed policy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    AggregateOut,
    AggregateIn,
    FlowOut,
    FlowIn,
}

impl Kind {
    pub(crate) const fn table(self) -> Noted {
        match self {
            Self::AggregateOut | Self::AggregateIn => Noted::Aggregate,
            Self::FlowOut => Noted::Flow,
            Self::FlowIn => Noted::Label,
        }
    }
}

/// Free entries of a table, the longest unused first.
#[derive(Debug)]
pub(crate) struct Free {
    pub(crate) indexes: VecDeque<u32>,
    pub(crate) name: &'static str,
    pub(crate) max: u32,
    full: u64,
}

impl Free {
    pub(crate) const fn new(name: &'static str, max: u32) -> Self {
        Self { indexes: VecDeque::new(), name, max, full: 0 }
    }

    pub(crate) fn take(&mut self) -> Result<u32, EngineError> {
        self.indexes.pop_front().ok_or_else(|| {
            self.full += 1;
            EngineError::TableFull { table: self.name, max: self.max }
        })
    }

    pub(crate) fn status(&self, used: usize) -> TableStatus {
        TableStatus { name: self.name, used: used as u64, max: u64::from(self.max), full: self.full }
    }
}

/// The data plane of one node. What it installed stays in force when it is dropped, until it lapses.
#[derive(Debug)]
pub struct Engine {
    pub(crate) config: EngineConfig,
    pub(crate) object: Ebpf,
    pub(crate) tables: Tables,
    pub(crate) cpus: u32,
    pub(crate) seed: u64,
    pub(crate) policies: BTreeMap<PolicyId, Placed>,
    /// Out of force, and not yet forgotten.
    pub(crate) ended: BTreeMap<PolicyId, Placed>,
    pub(crate) flow_ends: BTreeMap<Ends, PolicyId>,
    pub(crate) next_hops: NextHops,
    pub(crate) free_flows: Free,
    pub(crate) free_aggregates: Free,
    pub(crate) labels_full: u64,
    pub(crate) packet_bytes_max: u32,
    pub(crate) netlink: Netlink,
    pub(crate) monitor: Monitor,
    pub(crate) ports: Ports,
    pub(crate) recovery: Recovery,
    pub(crate) clock: CoarseClock,
    pub(crate) adopted: Vec<PolicyId>,
    /// In which programs are attached: one for all ports.
    pub(crate) mode: XdpMode,
    /// By port. Kept open; the pins keep them attached.
    pub(crate) links: Vec<PinnedLink>,
}

impl Engine {
    /// Puts all of these in force, or none; what was written is read back through the kernel. An aggregate comes before its flows.
    ///
    /// # Errors
    /// Why the first one that failed did; nothing of the list is in force.
    pub fn install(&mut self, policies: &[(PolicyId, Policy)]) -> Result<(), EngineError> {
        for (done, (id, policy)) in policies.iter().enumerate() {
            if let Err(error) = self.install_one(*id, policy) {
                let undo: Vec<_> = policies[..done].iter().rev().map(|(id, _)| *id).collect();
                self.deinstall(&undo);
                self.forget(&undo);
                return Err(error);
            }
        }
        Ok(())
    }

    fn install_one(&mut self, id: PolicyId, policy: &Policy) -> Result<(), EngineError> {
        if id == 0 || self.policies.contains_key(&id) || self.ended.contains_key(&id) {
            return Err(EngineError::PolicyExists(id));
        }
        let placed = match policy {
            Policy::AggregateOut { peer, rate_bps, burst_bytes, dscp, excess_dscp } => {
                let rate = self.pool_rate(*rate_bps, *burst_bytes, 0)?;
                let carrier = Carrier { kind: Kind::AggregateOut, peer: *peer, dscp: *dscp, excess_dscp: *excess_dscp };
                self.install_aggregate(id, carrier, rate)?
            }
            Policy::AggregateIn { peer, rate_bps, burst_bytes, dscp } => {
                let rate = self.pool_rate(*rate_bps, *burst_bytes, PATH_JITTER_NS)?;
                let carrier = Carrier { kind: Kind::AggregateIn, peer: *peer, dscp: *dscp, excess_dscp: None };
                self.install_aggregate(id, carrier, rate)?
            }
            Policy::FlowOut { aggregate, source, destination, label, meter, rtcp_next_port, terminals } => {
                let ends = Ends { source: *source, destination: *destination };
                let (label, rtcp_next_port, terminals) = (*label, *rtcp_next_port, *terminals);
                self.install_flow_out(id, *aggregate, Outgoing { ends, label, rtcp_next_port, terminals }, meter)?
            }
            Policy::FlowIn { aggregate, source, destination, label, meter, rtcp_next_port, media } => {
                let ends = Some(Ends { source: *source, destination: *destination });
                let (label, rtcp_next_port, media) = (*label, *rtcp_next_port, *media);
                self.install_flow_in(id, *aggregate, Incoming { ends, label, rtcp_next_port, media }, meter)?
            }
            Policy::TerminalsIn { aggregate, label, meter } => {
                let incoming = Incoming { ends: None, label: *label, rtcp_next_port: false, media: Media::default() };
                self.install_flow_in(id, *aggregate, incoming, meter)?
            }
        };
        self.policies.insert(id, placed);
        Ok(())
    }

    pub(crate) fn pool_rate(
        &self,
        rate_bps: u64,
        burst_bytes: u32,
        allowance_ns: u64,
    ) -> Result<PoolRate, EngineError> {
        let burst_min = aggregate_burst_bytes_min(self.cpus, self.packet_bytes_max);
        if u64::from(burst_bytes) < burst_min {
            return Err(EngineError::Rate {
                field: "burst_bytes",
                value: u64::from(burst_bytes),
                allowed: format!(
                    "must be at least {burst_min} on {} CPUs with packets of {} bytes",
                    self.cpus, self.packet_bytes_max
                ),
            });
        }
        let mut rate =
            pool_rate(rate_bps, burst_bytes, self.cpus, self.packet_bytes_max).ok_or_else(|| EngineError::Rate {
                field: "rate_bps",
                value: rate_bps,
                allowed: "must be from 1000 to 1000000000000".to_owned(),
            })?;
        rate.depth_ns = rate.depth_ns.saturating_add(allowance_ns);
        Ok(rate)
    }

    fn install_aggregate(&mut self, id: PolicyId, carrier: Carrier, rate: PoolRate) -> Result<Placed, EngineError> {
        let Carrier { kind, peer, dscp, excess_dscp } = carrier;
        let local = self.config.tag_address(peer.is_ipv6()).ok_or_else(|| EngineError::Family {
            what: "peer",
            value: peer.to_string(),
            allowed: "must be of a family in which this node has a tag address",
        })?;
        let (tos, mut flags) = match dscp {
            Dscp::Set(dscp) => (dscp_bits(dscp)?, 0),
            Dscp::Copy => (0, DSCP_COPY),
            Dscp::Map => (0, DSCP_MAP),
        };
        let tos_excess = excess_dscp.map(dscp_bits).transpose()?;
        flags |= if tos_excess.is_some() { EXCESS_REMARK } else { 0 };
        flags |= if peer.is_ipv6() { OUTER_V6 } else { 0 };
        let index = self.free_aggregates.take()?;
        // Only the way out needs to know where the peer is.
        let next_hop = if kind == Kind::AggregateOut { self.next_hop_to(peer) } else { Ok(NO_NEXT_HOP) };
        let next_hop = match next_hop {
            Ok(next_hop) => next_hop,
            Err(error) => {
                self.free_aggregates.indexes.push_back(index);
                return Err(error);
            }
        };
        let entry = Aggregate {
            peer: wide(peer),
            local: wide(local),
            tag_port: self.config.tag_port.to_be_bytes(),
            tos,
            tos_excess: tos_excess.unwrap_or(0),
            next_hop,
            flags,
            quantum_bytes: rate.quantum_bytes,
            quantum_ns: rate.quantum_ns,
            depth_ns: rate.depth_ns,
            ..Aggregate::default()
        };
        self.tables.clear_shares(Noted::Aggregate, index);
        self.tables.set_pool(index, rate.pool());
        self.tables.set_aggregate(index, entry);
        self.tables.set_note(Noted::Aggregate, index, Note { policy: id, detail: kind as u64 });
        let placed = Placed { kind, index };
        let wanted: [u64; 8] = zerocopy::transmute!(entry);
        let checked = self.check_entry(id, table::AGGREGATES, index, wanted, 8);
        if checked.is_err() {
            self.retire(placed);
        }
        checked.map(|()| placed)
    }

    /// Reads an entry back through the kernel and compares its first words.
    pub(crate) fn check_entry(
        &self,
        id: PolicyId,
        table: &'static str,
        index: u32,
        wanted: [u64; 8],
        words: usize,
    ) -> Result<(), EngineError> {
        let found: [u64; 8] = read_back(&self.object, table, index)?;
        if found[..words] == wanted[..words] { Ok(()) } else { Err(EngineError::ReadBack(id)) }
    }

    /// The entry of an installed aggregate of this kind.
    pub(crate) fn carrier(&self, id: PolicyId, kind: Kind) -> Result<(u16, Aggregate), EngineError> {
        let placed =
            self.policies.get(&id).filter(|placed| placed.kind == kind).ok_or(EngineError::UnknownAggregate(id))?;
        let index = u16::try_from(placed.index).map_err(|_| EngineError::UnknownAggregate(id))?;
        Ok((index, self.tables.aggregate(placed.index)))
    }

    pub(crate) fn next_hop_to(&mut self, address: IpAddr) -> Result<u16, EngineError> {
        let Self { tables, object, netlink, ports, .. } = self;
        self.next_hops.acquire(&mut Surroundings { tables, object, netlink, ports }, address)
    }

    /// When a policy that is written now would lapse.
    pub(crate) fn expiry_ns(&self) -> u64 {
        let lapse_ns = u64::try_from(self.config.lapse_after.as_nanos()).unwrap_or(u64::MAX);
        self.clock.now_ns().saturating_add(lapse_ns)
    }

    pub(crate) fn coarse_ticks(&self) -> u64 {
        self.clock.now_ns() / self.clock.tick_ns
    }

    /// The clock that `bpf_ktime_get_ns` reads.
    pub(crate) fn exact_ns(&self) -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
    }

    pub(crate) const fn tick_ns(&self) -> u64 {
        self.clock.tick_ns
    }

    /// Takes these out of force and returns what they counted, in the same order; zeros for what is not known. When this returns, no
    /// packet is counted by them any more. Flows of an aggregate that is taken out are taken out with it.
    ///
    /// Their entries and counters stay until [`Engine::forget`], also when this process dies meanwhile: asked again, the answer is the
    /// same.
    pub fn deinstall(&mut self, policies: &[PolicyId]) -> Vec<Counters> {
        let mut leaving: Vec<PolicyId> = policies.to_vec();
        leaving.extend(self.carried_by(policies));
        let mut changed = false;
        for id in &leaving {
            if let Some(placed) = self.policies.remove(id) {
                self.withdraw(*id, placed);
                self.ended.insert(*id, placed);
                changed = true;
            }
        }
        if changed {
            grace_period();
        }
        let reading = |id| self.ended.get(id).map(|placed| self.reading(*placed, true));
        policies.iter().map(|id| reading(id).unwrap_or_default()).collect()
    }

    /// Frees the entries of policies that are out of force, once their final counters are safe elsewhere.
    pub fn forget(&mut self, policies: &[PolicyId]) {
        for id in policies {
            if let Some(placed) = self.ended.remove(id) {
                self.retire(placed);
            }
        }
    }

    /// The flows that these aggregates carry. Looks through all flows once, however many aggregates there are.
    fn carried_by(&self, policies: &[PolicyId]) -> Vec<PolicyId> {
        let installed = policies.iter().filter_map(|id| self.policies.get(id));
        let carriers: BTreeSet<u32> =
            installed.filter(|placed| placed.kind.table() == Noted::Aggregate).map(|placed| placed.index).collect();
        if carriers.is_empty() {
            return Vec::new();
        }
        let carried = |placed: &Placed| match placed.kind {
            Kind::FlowOut => carriers.contains(&self.tables.flow(placed.index).aggregate.into()),
            Kind::FlowIn => carriers.contains(&self.tables.label(placed.index).aggregate.into()),
            Kind::AggregateOut | Kind::AggregateIn => false,
        };
        self.policies.iter().filter(|(_, placed)| carried(placed)).map(|(id, _)| *id).collect()
    }

    /// Hides a policy from packets that come from now on.
    fn withdraw(&mut self, id: PolicyId, placed: Placed) {
        match placed.kind {
            Kind::FlowOut => {
                let (ends, flags) = self.tables.flow_ends(placed.index);
                for ends in all_ends(&ends, flags & RTCP_NEXT_PORT != 0) {
                    self.flow_ends.remove(&ends);
                }
                flow_table::withdraw(&self.tables, self.seed, &ends, placed.index);
            }
            Kind::FlowIn => {
                // The generation stays, so that a late packet is known for what it is.
                self.tables.withdraw_label(placed.index);
            }
            // Found only through its flows.
            Kind::AggregateOut | Kind::AggregateIn => {
                let detail = placed.kind as u64 | ENDED;
                self.tables.set_note(Noted::Aggregate, placed.index, Note { policy: id, detail });
            }
        }
    }

    /// Frees the entry of a policy that no packet can be using.
    pub(crate) fn retire(&mut self, placed: Placed) {
        self.tables.set_note(placed.kind.table(), placed.index, Note::default());
        match placed.kind {
            Kind::FlowOut => self.free_flows.indexes.push_back(placed.index),
            Kind::FlowIn => self.next_hops.release(&self.tables, self.tables.label(placed.index).next_hop),
            Kind::AggregateOut | Kind::AggregateIn => {
                self.next_hops.release(&self.tables, self.tables.aggregate(placed.index).next_hop);
                self.free_aggregates.indexes.push_back(placed.index);
            }
        }
    }

    /// Puts off the time at which flows lapse. To be called several times in [`EngineConfig::lapse_after`].
    pub fn renew(&mut self) {
        let expires_ns = self.expiry_ns();
        for placed in self.policies.values() {
            self.tables.set_expiry(placed.kind.table(), placed.index, expires_ns);
        }
    }

    /// Brings ports and next hops up to date with the kernel's, and has it ask for neighbours that it does not know.
    ///
    /// # Errors
    /// The kernel does not answer; what was known stays.
    pub fn refresh_next_hops(&mut self) -> Result<(), EngineError> {
        self.refresh(true)
    }

    /// Does the same if the kernel has told of a change meanwhile, but asks for nobody. Costs one system call if not.
    ///
    /// # Errors
    /// The kernel does not answer; what was known stays.
    pub fn follow_network(&mut self) -> Result<(), EngineError> {
        if self.monitor.changed().map_err(EngineError::kernel("listening for changes of the network"))? {
            self.refresh(false)?;
        }
        Ok(())
    }

    fn refresh(&mut self, probe: bool) -> Result<(), EngineError> {
        self.follow_ports()?;
        let probe = probe || self.recovery.is_asking();
        let Self { tables, object, netlink, ports, .. } = self;
        self.next_hops.refresh(&mut Surroundings { tables, object, netlink, ports }, probe)?;
        self.suspend_next_hops();
        Ok(())
    }
}

/// What an aggregate is asked to be.
struct Carrier {
    kind: Kind,
    peer: IpAddr,
    dscp: Dscp,
    excess_dscp: Option<u8>,
}

/// A DSCP where headers have it.
fn dscp_bits(dscp: u8) -> Result<u8, EngineError> {
    if dscp > 63 {
        let allowed = "must be from 0 to 63".to_owned();
        return Err(EngineError::Rate { field: "dscp", value: u64::from(dscp), allowed });
    }
    Ok(dscp << 2)
}

/// An address as tables have it.
pub(crate) fn wide(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}

/// All ends whose packets a flow takes: its own, and the next ports if its RTCP is there.
pub(crate) fn all_ends(ends: &Ends, rtcp_next_port: bool) -> Vec<Ends> {
    let mut all = vec![*ends];
    if rtcp_next_port {
        let mut next = *ends;
        next.source.set_port(ends.source.port().wrapping_add(1));
        next.destination.set_port(ends.destination.port().wrapping_add(1));
        all.push(next);
    }
    all
}
