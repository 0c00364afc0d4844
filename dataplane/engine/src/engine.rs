//! Puts policies in force and takes them out again.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use aya::Ebpf;
use aya::programs::links::PinnedLink;
use turnpike_fastpath::contract::{BEST_EFFORT_ENTRIES, VERSION, program, table};
use turnpike_fastpath::entry::{
    Aggregate, Config, Inner, LOCAL_MAX, PEERS_MAX, Pool, Port, UNADMITTED_DROP, UNADMITTED_LIMIT, UNADMITTED_PASS,
};
use turnpike_fastpath::meter::{PoolRate, aggregate_burst_bytes_min, pool_rate};
use turnpike_fastpath::wire::tag;
use turnpike_fastpath::{Direction, Reason};

use crate::config::{EngineConfig, Unadmitted};
use crate::error::EngineError;
use crate::netlink::{Interface, Netlink};
use crate::next_hop::{NO_NEXT_HOP, NextHops, Ports};
use crate::policy::{Counters, Policy, PolicyId};
use crate::program::{self as programs, Attachment, CoarseClock};
use crate::status::{InterfaceStatus, Status, TableStatus, verdicts};
use crate::sys::grace_period;
use crate::table::{Note, Noted, Tables, memory_bytes, next_hops_max, read_back, sizes};
use crate::{adopt, flow_table};

/// What the path may clump together, as time: an incoming policy takes so much more at once than its sender may send.
pub(crate) const PATH_JITTER_NS: u64 = 100_000_000;

const LAN: u16 = 0;
const WAN: u16 = 1;

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
    const fn new(name: &'static str, max: u32) -> Self {
        Self { indexes: VecDeque::new(), name, max, full: 0 }
    }

    pub(crate) fn take(&mut self) -> Result<u32, EngineError> {
        self.indexes.pop_front().ok_or_else(|| {
            self.full += 1;
            EngineError::TableFull { table: self.name, max: self.max }
        })
    }

    fn status(&self, used: usize) -> TableStatus {
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
    pub(crate) flow_ends: BTreeMap<[u8; 12], PolicyId>,
    pub(crate) next_hops: NextHops,
    pub(crate) free_flows: Free,
    pub(crate) free_aggregates: Free,
    pub(crate) labels_full: u64,
    pub(crate) packet_bytes_max: u32,
    netlink: Netlink,
    ports: Ports,
    clock: CoarseClock,
    adopted: Vec<PolicyId>,
    _links: Vec<PinnedLink>,
}

impl Engine {
    /// Loads the programs and attaches them. If an earlier process left its pins, its policies and counters are taken over and the
    /// programs are exchanged under traffic.
    ///
    /// # Errors
    /// Whatever is wrong with the configuration, the host or the pins; then nothing was changed that was not there before.
    pub fn start(config: &EngineConfig) -> Result<Self, EngineError> {
        config.check()?;
        let mut netlink = Netlink::open().map_err(EngineError::kernel("opening netlink"))?;
        let lan = interface(&mut netlink, &config.lan)?;
        let wan = interface(&mut netlink, &config.wan)?;
        let cpus =
            u32::try_from(aya::util::nr_cpus().map_err(|(_, error)| EngineError::kernel("counting CPUs")(error))?)
                .unwrap_or(u32::MAX);
        let (mut object, adopting) = programs::load(config, cpus)?;
        let tables = Tables::map(&object, config, cpus)?;
        programs::check_version(&config.pin_dir, &tables)?;
        let clock = programs::measure_clock(&mut object, &tables)?;

        let before = [LAN, WAN].map(|port| tables.port(u32::from(port)).ifindex);
        let ports = Ports::from([(lan.index, LAN), (wan.index, WAN)]);
        for (port, interface) in [(LAN, &lan), (WAN, &wan)] {
            let entry = Port { mac: interface.mac, reserved: 0, mtu_bytes: interface.mtu, ifindex: interface.index };
            tables.set_port(u32::from(port), entry);
            programs::set_device(&mut object, u32::from(port), interface.index)?;
        }
        let old = tables.config();
        let seed = if adopting && old.hash_seed != 0 { old.hash_seed } else { random_seed()? };
        tables.set_config(table_config(
            config,
            &mut netlink,
            [lan.index, wan.index],
            &tables,
            seed,
            clock.tick_ns,
            &old,
        )?);

        let mut engine = Self {
            config: config.clone(),
            tables,
            cpus,
            seed,
            policies: BTreeMap::new(),
            flow_ends: BTreeMap::new(),
            next_hops: NextHops::new(next_hops_max(config)),
            free_flows: Free::new("flows", config.flows_max),
            free_aggregates: Free::new("aggregates", config.aggregates_max),
            labels_full: 0,
            packet_bytes_max: lan.mtu.max(wan.mtu),
            netlink,
            ports,
            clock,
            adopted: Vec::new(),
            _links: Vec::new(),
            object,
        };
        adopt::adopt(&mut engine);
        engine.adopted = engine.policies.keys().copied().collect();
        engine.renew();
        let attachments = [
            (program::OUT, "lan", &config.lan, lan.index, before[usize::from(LAN)]),
            (program::IN, "wan", &config.wan, wan.index, before[usize::from(WAN)]),
        ];
        for (program, role, interface, index, index_before) in attachments {
            let attachment = Attachment { program, role, interface, index, index_before };
            match programs::attach(&mut engine.object, &attachment, config) {
                Ok(link) => engine._links.push(link),
                Err(error) => {
                    if !adopting {
                        engine._links.clear();
                        // What is reported is why it could not attach.
                        let _ = Self::detach(&config.pin_dir);
                    }
                    return Err(error);
                }
            }
        }
        Ok(engine)
    }

    /// The policies that were in force when this engine started.
    #[must_use]
    pub fn adopted(&self) -> &[PolicyId] {
        &self.adopted
    }

    /// Puts all of these in force, or none; what was written is read back through the kernel. An aggregate comes before its flows.
    ///
    /// # Errors
    /// Why the first one that failed did; nothing of the list is in force.
    pub fn install(&mut self, policies: &[(PolicyId, Policy)]) -> Result<(), EngineError> {
        for (done, (id, policy)) in policies.iter().enumerate() {
            if let Err(error) = self.install_one(*id, policy) {
                let undo: Vec<_> = policies[..done].iter().rev().map(|(id, _)| *id).collect();
                self.deinstall(&undo);
                return Err(error);
            }
        }
        Ok(())
    }

    fn install_one(&mut self, id: PolicyId, policy: &Policy) -> Result<(), EngineError> {
        if id == 0 || self.policies.contains_key(&id) {
            return Err(EngineError::PolicyExists(id));
        }
        let placed = match policy {
            Policy::AggregateOut { peer, rate_bps, burst_bytes, dscp } => {
                let rate = self.pool_rate(*rate_bps, *burst_bytes, 0)?;
                self.install_aggregate(id, Kind::AggregateOut, *peer, *dscp, rate)?
            }
            Policy::AggregateIn { peer, rate_bps, burst_bytes } => {
                let rate = self.pool_rate(*rate_bps, *burst_bytes, PATH_JITTER_NS)?;
                self.install_aggregate(id, Kind::AggregateIn, *peer, 0, rate)?
            }
            Policy::FlowOut { aggregate, source, destination, label, meter } => {
                self.install_flow_out(id, *aggregate, *source, *destination, *label, meter)?
            }
            Policy::FlowIn { aggregate, source, destination, label, meter } => {
                self.install_flow_in(id, *aggregate, *source, *destination, *label, meter)?
            }
        };
        self.policies.insert(id, placed);
        Ok(())
    }

    fn pool_rate(&self, rate_bps: u64, burst_bytes: u32, allowance_ns: u64) -> Result<PoolRate, EngineError> {
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
                allowed: "must be from 1 to 1000000000000".to_owned(),
            })?;
        rate.depth_ns = rate.depth_ns.saturating_add(allowance_ns);
        Ok(rate)
    }

    fn install_aggregate(
        &mut self,
        id: PolicyId,
        kind: Kind,
        peer: Ipv4Addr,
        dscp: u8,
        rate: PoolRate,
    ) -> Result<Placed, EngineError> {
        if dscp > 63 {
            return Err(EngineError::Rate {
                field: "dscp",
                value: u64::from(dscp),
                allowed: "must be from 0 to 63".to_owned(),
            });
        }
        let index = self.free_aggregates.take()?;
        // Only the way out needs to know where the peer is.
        let next_hop = if kind == Kind::AggregateOut {
            self.next_hops.acquire(&self.tables, &mut self.netlink, &self.ports, peer)
        } else {
            Ok(NO_NEXT_HOP)
        };
        let next_hop = match next_hop {
            Ok(next_hop) => next_hop,
            Err(error) => {
                self.free_aggregates.indexes.push_back(index);
                return Err(error);
            }
        };
        let entry = Aggregate {
            peer: peer.octets(),
            local: self.config.tag_address.octets(),
            tag_port: self.config.tag_port.to_be_bytes(),
            tos: dscp << 2,
            next_hop,
            quantum_bytes: rate.quantum_bytes,
            quantum_ns: rate.quantum_ns,
            depth_ns: rate.depth_ns,
            ..Aggregate::default()
        };
        self.tables.clear_shares(Noted::Aggregate, index);
        self.tables.set_pool(index, Pool::default());
        self.tables.set_aggregate(index, entry);
        self.tables.set_note(Noted::Aggregate, index, Note { policy: id, detail: kind as u64 });
        let placed = Placed { kind, index };
        let wanted: [u64; 8] = zerocopy::transmute!(entry);
        if read_back(&self.object, table::AGGREGATES, index)? != wanted {
            self.retire(placed);
            return Err(EngineError::ReadBack(id));
        }
        Ok(placed)
    }

    /// The entry of an installed aggregate of this kind.
    pub(crate) fn carrier(&self, id: PolicyId, kind: Kind) -> Result<(u16, Aggregate), EngineError> {
        let placed =
            self.policies.get(&id).filter(|placed| placed.kind == kind).ok_or(EngineError::UnknownAggregate(id))?;
        let index = u16::try_from(placed.index).map_err(|_| EngineError::UnknownAggregate(id))?;
        Ok((index, self.tables.aggregate(placed.index)))
    }

    pub(crate) fn next_hop_to(&mut self, address: Ipv4Addr) -> Result<u16, EngineError> {
        self.next_hops.acquire(&self.tables, &mut self.netlink, &self.ports, address)
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

    /// Takes these out of force and returns what they counted, in the same order; zeros for what was not installed. When this returns, no
    /// packet is counted by them any more. Flows of an aggregate that is taken out are taken out with it.
    pub fn deinstall(&mut self, policies: &[PolicyId]) -> Vec<Counters> {
        let mut leaving: Vec<PolicyId> = policies.to_vec();
        for id in policies {
            leaving.extend(self.carried_by(*id).into_iter().filter(|flow| !policies.contains(flow)));
        }
        let placed: Vec<_> = leaving.iter().map(|id| self.policies.remove(id)).collect();
        for placed in placed.iter().flatten() {
            self.withdraw(*placed);
        }
        if placed.iter().any(Option::is_some) {
            grace_period();
        }
        let counters: Vec<_> = placed
            .iter()
            .map(|placed| {
                placed.map_or_else(Counters::default, |placed| self.tables.counters(placed.kind.table(), placed.index))
            })
            .collect();
        for placed in placed.into_iter().flatten() {
            self.retire(placed);
        }
        counters[..policies.len()].to_vec()
    }

    /// The flows that an aggregate carries.
    fn carried_by(&self, id: PolicyId) -> Vec<PolicyId> {
        let Some(carrier) = self.policies.get(&id).filter(|placed| placed.kind.table() == Noted::Aggregate) else {
            return Vec::new();
        };
        let carries = |placed: &Placed| match placed.kind {
            Kind::FlowOut => u32::from(self.tables.flow(placed.index).aggregate) == carrier.index,
            Kind::FlowIn => u32::from(self.tables.label(placed.index).aggregate) == carrier.index,
            Kind::AggregateOut | Kind::AggregateIn => false,
        };
        self.policies.iter().filter(|(_, placed)| carries(placed)).map(|(id, _)| *id).collect()
    }

    /// Hides a policy from packets that come from now on.
    pub(crate) fn withdraw(&mut self, placed: Placed) {
        match placed.kind {
            Kind::FlowOut => {
                let flow = self.tables.flow(placed.index);
                let ends = flow_ends(&flow);
                self.flow_ends.remove(&ends_key(&ends));
                flow_table::withdraw(&self.tables, self.seed, &ends, placed.index);
            }
            Kind::FlowIn => {
                // The generation stays, so that a late packet is known for what it is.
                self.tables.withdraw_label(placed.index);
            }
            // Found only through its flows.
            Kind::AggregateOut | Kind::AggregateIn => {}
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

    /// What a policy counted so far.
    #[must_use]
    pub fn counters(&self, policy: PolicyId) -> Option<Counters> {
        let placed = self.policies.get(&policy)?;
        Some(self.tables.counters(placed.kind.table(), placed.index))
    }

    /// Puts off the time at which flows lapse. To be called several times in [`EngineConfig::lapse_after`].
    pub fn renew(&mut self) {
        let expires_ns = self.expiry_ns();
        for placed in self.policies.values() {
            self.tables.set_expiry(placed.kind.table(), placed.index, expires_ns);
        }
    }

    /// Brings next hops and ports up to date with the kernel's.
    ///
    /// # Errors
    /// The kernel does not answer; what was known stays.
    pub fn refresh_next_hops(&mut self) -> Result<(), EngineError> {
        self.next_hops.refresh(&self.tables, &mut self.netlink, &self.ports)
    }

    /// How fast packets of no admitted flow may go together under [`Unadmitted::Limit`]; zero stops them.
    ///
    /// # Errors
    /// The rate is above 1 Tbit/s.
    pub fn set_best_effort_rate(&mut self, rate_bps: u64) -> Result<(), EngineError> {
        let burst_min = aggregate_burst_bytes_min(self.cpus, self.packet_bytes_max);
        // Enough for a round trip of 100 ms.
        let burst = u32::try_from((rate_bps / 80).max(burst_min)).unwrap_or(u32::MAX);
        let entry = match rate_bps {
            0 => Aggregate::default(),
            _ => {
                let rate = self.pool_rate(rate_bps, burst, 0)?;
                Aggregate {
                    quantum_bytes: rate.quantum_bytes,
                    quantum_ns: rate.quantum_ns,
                    depth_ns: rate.depth_ns,
                    ..Aggregate::default()
                }
            }
        };
        let mut config = self.tables.config();
        let old = self.tables.aggregate(config.best_effort);
        if (old.quantum_bytes, old.quantum_ns, old.depth_ns) == (entry.quantum_bytes, entry.quantum_ns, entry.depth_ns)
        {
            return Ok(());
        }
        // A second entry takes over as a whole; it starts where the first one's pool stands, so that no burst is given twice.
        let next = (config.best_effort + 1) % BEST_EFFORT_ENTRIES;
        self.tables.clear_shares(Noted::Aggregate, next);
        self.tables.set_aggregate(next, entry);
        self.tables.set_pool(next, self.tables.pool(config.best_effort));
        config.best_effort = next;
        self.tables.set_config(config);
        grace_period();
        Ok(())
    }

    /// The state of ports, tables and counters.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn status(&mut self) -> Result<Status, EngineError> {
        let mut interfaces = Vec::new();
        for (role, name, tag_bytes) in
            [("lan", self.config.lan.clone(), 0), ("wan", self.config.wan.clone(), tag::HEADER_LENGTH)]
        {
            let found = self.netlink.interface(&name).map_err(EngineError::kernel("looking up an interface"))?;
            let (mtu, xdp_mode) = found.map_or((0, "none"), |found| (found.mtu, found.xdp.unwrap_or("none")));
            let packet_bytes_max = mtu.saturating_sub(u32::from(tag_bytes));
            interfaces.push(InterfaceStatus { name, role, xdp_mode, mtu, packet_bytes_max });
        }
        let count = |table: Noted| self.policies.values().filter(|placed| placed.kind.table() == table).count();
        let labels = TableStatus {
            name: "labels",
            used: count(Noted::Label) as u64,
            max: u64::from(self.config.flows_max),
            full: self.labels_full,
        };
        let tables = vec![
            self.free_flows.status(count(Noted::Flow)),
            labels,
            self.free_aggregates.status(count(Noted::Aggregate)),
            self.next_hops.status(),
        ];
        let memory_bytes = memory_bytes(&sizes(&self.config, self.cpus));
        Ok(Status { interfaces, tables, verdicts: verdicts(&self.tables), memory_bytes })
    }

    /// Packets and bytes that ended for a reason.
    #[must_use]
    pub fn verdict(&self, direction: Direction, reason: Reason) -> (u64, u64) {
        self.tables.reason(reason.row(direction))
    }

    /// Takes the programs off their interfaces and removes everything that is pinned there. Says what was removed.
    ///
    /// # Errors
    /// Something could not be removed.
    pub fn detach(pin_dir: &Path) -> Result<Vec<String>, EngineError> {
        let mut removed = Vec::new();
        for folder in ["links", "maps"] {
            let folder = pin_dir.join(folder);
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries {
                let path = entry.map_err(EngineError::kernel("listing pins"))?.path();
                fs::remove_file(&path).map_err(EngineError::kernel("removing a pin"))?;
                removed.push(path.display().to_string());
            }
            fs::remove_dir(&folder).map_err(EngineError::kernel("removing a folder of pins"))?;
        }
        if pin_dir.exists() {
            fs::remove_dir(pin_dir).map_err(EngineError::kernel("removing the folder of pins"))?;
        }
        Ok(removed)
    }
}

/// The ends of a flow, in the bytes of its packets.
pub(crate) const fn flow_ends(flow: &turnpike_fastpath::entry::Flow) -> Inner {
    Inner {
        source: flow.source,
        destination: flow.destination,
        source_port: flow.source_port,
        destination_port: flow.destination_port,
    }
}

/// The ends as a key of a map.
pub(crate) const fn ends_key(ends: &Inner) -> [u8; 12] {
    let ([a, b, c, d], [e, f, g, h]) = (ends.source, ends.destination);
    let ([i, j], [k, l]) = (ends.source_port, ends.destination_port);
    [a, b, c, d, e, f, g, h, i, j, k, l]
}

fn interface(netlink: &mut Netlink, name: &str) -> Result<Interface, EngineError> {
    let found = netlink.interface(name).map_err(EngineError::kernel("looking up an interface"))?;
    let found = found.ok_or_else(|| EngineError::InterfaceMissing { name: name.to_owned() })?;
    let unfit = |detail: &str| EngineError::InterfaceUnfit { name: name.to_owned(), detail: detail.to_owned() };
    if !found.ethernet {
        return Err(unfit("its frames have no Ethernet header; Turnpike needs an Ethernet device"));
    }
    if !found.up {
        return Err(unfit("it is down; `ip link set up` brings it up"));
    }
    Ok(found)
}

fn table_config(
    config: &EngineConfig,
    netlink: &mut Netlink,
    interfaces: [u32; 2],
    tables: &Tables,
    hash_seed: u64,
    tick_ns: u64,
    old: &Config,
) -> Result<Config, EngineError> {
    let mut local = [[0; 4]; LOCAL_MAX];
    let mut found = Vec::new();
    for interface in interfaces {
        found.extend(netlink.addresses(interface).map_err(EngineError::kernel("listing addresses"))?);
    }
    if found.len() > LOCAL_MAX {
        tracing::warn!(
            found = found.len(),
            max = LOCAL_MAX,
            "more addresses than are kept; the rest count as unadmitted traffic"
        );
    }
    for (local, address) in local.iter_mut().zip(&found) {
        *local = address.octets();
    }
    let mut peers = [[0; 4]; PEERS_MAX];
    for (peer, address) in peers.iter_mut().zip(&config.peers) {
        *peer = address.octets();
    }
    Ok(Config {
        version: VERSION,
        tick_ns,
        hash_seed,
        bucket_mask: tables.bucket_mask(),
        unadmitted: match config.unadmitted {
            Unadmitted::Pass => UNADMITTED_PASS,
            Unadmitted::Limit => UNADMITTED_LIMIT,
            Unadmitted::Drop => UNADMITTED_DROP,
        },
        best_effort: old.best_effort,
        reserved: 0,
        tag_address: config.tag_address.octets(),
        tag_port: config.tag_port.to_be_bytes(),
        peers_count: u16::try_from(config.peers.len()).unwrap_or(0),
        local,
        peers,
    })
}

fn random_seed() -> Result<u64, EngineError> {
    let mut bytes = [0; 8];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .map_err(EngineError::kernel("reading random bytes"))?;
    Ok(u64::from_ne_bytes(bytes) | 1)
}
