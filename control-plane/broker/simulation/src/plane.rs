//! A data plane as the broker sees one: policies that outlive the process as pinned maps do, and what they count.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use turnpike_broker::address::Family;
use turnpike_broker::name::{Label, PolicyId};
use turnpike_broker::policy::{Counters, Endpoints, InstallError, Meter, Policy, Rtcp, Tag};
use turnpike_broker::record::Direction;
use turnpike_broker::{Cost, overhead_bytes};

/// All nodes have tag addresses of this family.
pub(crate) const TAG_FAMILY: Family = Family::Ipv4;
pub(crate) const PACKET_BYTES: u16 = 200;

#[derive(Debug)]
struct Entry {
    policy: Policy,
    counters: Counters,
}

/// It keeps its places until its reading is recorded.
#[derive(Debug, Clone, Copy)]
struct Retired {
    counters: Counters,
    label: Option<Label>,
}

#[derive(Debug, Default)]
pub(crate) struct Plane {
    in_force: BTreeMap<PolicyId, Entry>,
    /// Out of force, and its final reading not known to be recorded.
    retired: BTreeMap<PolicyId, Retired>,
    by_label: BTreeMap<Label, PolicyId>,
    ends: BTreeSet<(Direction, Endpoints)>,
    /// They only let in what is still on its way: their endpoints and their parts of aggregates may be others' by now.
    late: BTreeSet<PolicyId>,
    /// Of each aggregate, what its flows cost together, bits per second.
    carried_bps: BTreeMap<PolicyId, u64>,
    flows_out: Vec<PolicyId>,
}

/// What a flow costs on the wire, bits per second; none of another policy.
fn flow_cost_bps(policy: &Policy) -> Option<(PolicyId, u64)> {
    match policy {
        Policy::FlowOut { aggregate, endpoints, meter, tag, .. } => {
            Some((*aggregate, cost_bps(meter, endpoints, *tag)))
        }
        Policy::FlowIn { aggregate, endpoints, meter, .. } => {
            Some((*aggregate, cost_bps(meter, endpoints, Tag::Label)))
        }
        Policy::AggregateOut { .. } | Policy::AggregateIn { .. } | Policy::TerminalsIn { .. } => None,
    }
}

pub(crate) fn cost_bps(meter: &Meter, endpoints: &Endpoints, tag: Tag) -> u64 {
    Cost::of(meter, overhead_bytes(endpoints.family(), TAG_FAMILY, tag)).map_or(u64::MAX, |cost| cost.rate_bps)
}

const fn index(label: &Label) -> u64 {
    label.0 & ((1 << Label::INDEX_BITS) - 1)
}

/// All ends that a flow has, those of its RTCP among them.
fn all_ends(policy: &Policy) -> Vec<(Direction, Endpoints)> {
    let (direction, ends, rtcp) = match policy {
        Policy::FlowOut { endpoints, rtcp, .. } => (Direction::Out, *endpoints, *rtcp),
        Policy::FlowIn { endpoints, rtcp, .. } => (Direction::In, *endpoints, *rtcp),
        Policy::AggregateOut { .. } | Policy::AggregateIn { .. } | Policy::TerminalsIn { .. } => return Vec::new(),
    };
    let next = |end: SocketAddr| SocketAddr::new(end.ip(), end.port() + 1);
    let of_rtcp =
        (rtcp == Rtcp::NextPort).then(|| Endpoints { source: next(ends.source), destination: next(ends.destination) });
    std::iter::once(ends).chain(of_rtcp).map(|ends| (direction, ends)).collect()
}

fn refused(code: &str, detail: impl Into<String>) -> InstallError {
    InstallError { code: code.to_owned(), detail: detail.into(), of_request: false }
}

impl Plane {
    /// What is left when a process comes back: also what is out of force and not recorded.
    pub(crate) fn adopted(&self) -> BTreeSet<PolicyId> {
        self.in_force.keys().chain(self.retired.keys()).copied().collect()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = PolicyId> {
        self.in_force.keys().copied()
    }

    pub(crate) fn has(&self, id: PolicyId) -> bool {
        self.in_force.contains_key(&id)
    }

    pub(crate) fn retired(&self) -> Vec<PolicyId> {
        self.retired.keys().copied().collect()
    }

    pub(crate) fn flows_out(&self) -> &[PolicyId] {
        &self.flows_out
    }

    /// The flow or terminals that a label means.
    pub(crate) fn by_label(&self, label: Label) -> Option<PolicyId> {
        self.by_label.get(&label).copied()
    }

    pub(crate) fn policy(&self, id: PolicyId) -> Option<&Policy> {
        self.in_force.get(&id).map(|entry| &entry.policy)
    }

    /// All or nothing. The outer error is a broken promise of the broker's.
    pub(crate) fn install(&mut self, policies: Vec<(PolicyId, Policy)>) -> Result<Result<(), InstallError>, String> {
        for (index, (id, policy)) in policies.iter().enumerate() {
            if let Err(error) = self.install_one(*id, policy)? {
                for (id, _) in &policies[..index] {
                    self.remove(*id);
                }
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    fn install_one(&mut self, id: PolicyId, policy: &Policy) -> Result<Result<(), InstallError>, String> {
        let carrier = match policy {
            Policy::FlowOut { aggregate, .. } => self.rate_of(*aggregate, Direction::Out),
            Policy::FlowIn { aggregate, .. } | Policy::TerminalsIn { aggregate, .. } => {
                self.rate_of(*aggregate, Direction::In)
            }
            Policy::AggregateOut { .. } | Policy::AggregateIn { .. } => Some(u64::MAX),
        };
        let Some(rate_bps_max) = carrier else {
            return Ok(Err(refused("unknown_aggregate", format!("{policy:?}"))));
        };
        if let Policy::FlowIn { label, .. } | Policy::TerminalsIn { label, .. } = policy
            && self.retired.values().filter_map(|retired| retired.label).any(|other| index(&other) == index(label))
        {
            return Ok(Err(refused("label", format!("the index of {label:?} is in use"))));
        }
        if self.in_force.contains_key(&id) || self.retired.contains_key(&id) {
            return Err(format!("policy {id:?} is installed twice"));
        }
        for ends in all_ends(policy) {
            if !self.ends.insert(ends) {
                return Err(format!("{ends:?} is carried twice"));
            }
        }
        if let Some((aggregate, cost_bps)) = flow_cost_bps(policy) {
            let carried_bps = self.carried_bps.entry(aggregate).or_default();
            *carried_bps = carried_bps.saturating_add(cost_bps);
            if *carried_bps > rate_bps_max {
                return Err(format!("{carried_bps} bit/s are installed on an aggregate of {rate_bps_max}"));
            }
        }
        match policy {
            Policy::FlowIn { label, .. } | Policy::TerminalsIn { label, .. } => {
                if self.by_label.keys().any(|other| index(other) == index(label)) {
                    return Err(format!("the index of {label:?} is used twice"));
                }
                self.by_label.insert(*label, id);
            }
            Policy::FlowOut { .. } => self.flows_out.push(id),
            Policy::AggregateOut { .. } | Policy::AggregateIn { .. } => {}
        }
        self.in_force.insert(id, Entry { policy: policy.clone(), counters: Counters::default() });
        Ok(Ok(()))
    }

    /// Readings after all of these have what they are to have. The outer error is a broken promise of the broker's.
    pub(crate) fn change(&mut self, meters: &[(PolicyId, Meter, Meter)]) -> Result<Vec<Counters>, String> {
        let mut readings = Vec::with_capacity(meters.len());
        for (id, _, to) in meters {
            let before = self.policy(*id).and_then(flow_cost_bps);
            let Some(Entry { policy, counters }) = self.in_force.get_mut(id) else {
                return Err(format!("policy {id:?} is changed, and is not in force"));
            };
            let (Policy::FlowOut { meter, .. } | Policy::FlowIn { meter, .. }) = policy else {
                return Err(format!("{policy:?} is changed"));
            };
            *meter = *to;
            let after = flow_cost_bps(policy);
            readings.push(*counters);
            // What is late does not count any more.
            if self.late.contains(id) {
                continue;
            }
            let (Some((aggregate, before_bps)), Some((_, after_bps))) = (before, after) else { continue };
            let rate_bps_max = [Direction::Out, Direction::In].into_iter().find_map(|way| self.rate_of(aggregate, way));
            let carried_bps = self.carried_bps.entry(aggregate).or_default();
            *carried_bps = (*carried_bps - before_bps).saturating_add(after_bps);
            if rate_bps_max.is_none_or(|most| *carried_bps > most) {
                return Err(format!("{carried_bps} bit/s are in force on an aggregate of {rate_bps_max:?}"));
            }
        }
        Ok(readings)
    }

    /// These are of sessions whose end has come, and that receive until the peer has stopped. Known by their labels, they and those that
    /// follow them do not mix.
    pub(crate) fn are_late(&mut self, ids: impl Iterator<Item = PolicyId>) {
        for id in ids {
            if let Some(policy @ Policy::FlowIn { .. }) = self.policy(id).cloned()
                && self.late.insert(id)
            {
                self.leave(&policy);
            }
        }
    }

    /// What it carried may be carried by others.
    fn leave(&mut self, policy: &Policy) {
        for ends in all_ends(policy) {
            self.ends.remove(&ends);
        }
        if let Some((aggregate, cost_bps)) = flow_cost_bps(policy)
            && let Some(carried_bps) = self.carried_bps.get_mut(&aggregate)
        {
            *carried_bps = carried_bps.saturating_sub(cost_bps);
        }
    }

    fn rate_of(&self, aggregate: PolicyId, way: Direction) -> Option<u64> {
        match (self.policy(aggregate)?, way) {
            (Policy::AggregateOut { rate_bps, .. }, Direction::Out)
            | (Policy::AggregateIn { rate_bps, .. }, Direction::In) => Some(*rate_bps),
            _ => None,
        }
    }

    /// Final readings; the same again for what is out of force and not forgotten, zero for what is not known.
    pub(crate) fn deinstall(&mut self, ids: &[PolicyId]) -> Vec<Counters> {
        let mut readings = Vec::with_capacity(ids.len());
        for &id in ids {
            if let Some(retired) = self.remove(id) {
                self.retired.insert(id, retired);
            }
            readings.push(self.retired.get(&id).map(|retired| retired.counters).unwrap_or_default());
        }
        readings
    }

    fn remove(&mut self, id: PolicyId) -> Option<Retired> {
        let Entry { policy, counters } = self.in_force.remove(&id)?;
        if !self.late.remove(&id) {
            self.leave(&policy);
        }
        let label = match policy {
            Policy::FlowIn { label, .. } | Policy::TerminalsIn { label, .. } => Some(label),
            Policy::FlowOut { .. } | Policy::AggregateOut { .. } | Policy::AggregateIn { .. } => None,
        };
        if let Some(label) = label {
            self.by_label.remove(&label);
        }
        self.flows_out.retain(|out| *out != id);
        Some(Retired { counters, label })
    }

    /// Their final readings are on disk.
    pub(crate) fn forget(&mut self, ids: &[PolicyId]) {
        for id in ids {
            self.retired.remove(id);
        }
    }

    /// Packets come for a policy in force, and some of them are dropped.
    pub(crate) fn count(&mut self, id: PolicyId, offered: u64, dropped: u64) {
        if let Some(Entry { counters, .. }) = self.in_force.get_mut(&id) {
            counters.offered_packets += offered;
            counters.offered_bytes += offered * u64::from(PACKET_BYTES);
            counters.dropped_packets += dropped;
            counters.dropped_bytes += dropped * u64::from(PACKET_BYTES);
            counters.passed_packets += offered - dropped;
            counters.passed_bytes += (offered - dropped) * u64::from(PACKET_BYTES);
        }
    }
}
