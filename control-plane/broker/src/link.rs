//! Links: what aggregates may have of them, in each direction.

use std::collections::BTreeMap;

use crate::address::Family;
use crate::broker::Broker;
use crate::calendar::Interval;
use crate::capacity::{CapacityChange, layers};
use crate::config::Link;
use crate::cost::Cost;
use crate::name::{ClassName, LinkName, Nanos, NodeName};
use crate::overload::Overload;
use crate::pool::Pool;
use crate::record::{AggregateRecord, Direction};
use crate::refusal::{PoolState, Reason, Refusal};

/// A link's capacity in both directions. Only rates are shared out; aggregates' bursts are not bounded by a link.
pub(crate) struct LinkPools {
    out: Way,
    into: Way,
    changes: Vec<CapacityChange>,
}

/// One direction.
struct Way {
    pool: Pool,
    /// Shares of it, each the most that aggregates of a class may have; they count in the whole as well.
    classes: BTreeMap<ClassName, (u8, Pool)>,
    configured_bps: u64,
    overload: Overload,
}

impl Way {
    fn new(rate_bps: u64, class_percent_max: &BTreeMap<ClassName, u8>) -> Self {
        let share = |(class, percent): (&ClassName, &u8)| {
            (class.clone(), (*percent, Pool::new(capacity(percent_of(rate_bps, *percent)))))
        };
        Self {
            pool: Pool::new(capacity(rate_bps)),
            classes: class_percent_max.iter().map(share).collect(),
            configured_bps: rate_bps,
            overload: Overload::default(),
        }
    }

    fn set_capacity(&mut self, interval: Interval, rate_bps: u64) {
        self.pool.set_capacity(interval, capacity(rate_bps));
        for (percent, share) in self.classes.values_mut() {
            share.set_capacity(interval, capacity(percent_of(rate_bps, *percent)));
        }
    }

    /// The whole, and the share that an aggregate counts in.
    fn pools_of(&mut self, record: &AggregateRecord) -> impl Iterator<Item = (Option<&ClassName>, &mut Pool)> {
        let class = record.class.as_ref().map(|class| &class.name);
        let shares = self.classes.iter_mut().filter(move |(name, _)| class == Some(name));
        std::iter::once((None, &mut self.pool)).chain(shares.map(|(name, (_, share))| (Some(name), share)))
    }
}

/// Rounded down.
fn percent_of(rate_bps: u64, percent: u8) -> u64 {
    u64::try_from(u128::from(rate_bps) * u128::from(percent) / 100).unwrap_or(u64::MAX)
}

const fn capacity(rate_bps: u64) -> Cost {
    Cost { rate_bps, burst_bytes: 0 }
}

impl LinkPools {
    pub(crate) fn new(link: Link, class_percent_max: &BTreeMap<ClassName, u8>) -> Self {
        let [out, into] = [link.rate_out_bps, link.rate_in_bps].map(|rate_bps| Way::new(rate_bps, class_percent_max));
        Self { out, into, changes: Vec::new() }
    }

    const fn way(&self, direction: Direction) -> &Way {
        match direction {
            Direction::Out => &self.out,
            Direction::In => &self.into,
        }
    }

    const fn way_mut(&mut self, direction: Direction) -> &mut Way {
        match direction {
            Direction::Out => &mut self.out,
            Direction::In => &mut self.into,
        }
    }

    pub(crate) const fn of(&mut self, direction: Direction) -> &mut Pool {
        &mut self.way_mut(direction).pool
    }

    pub(crate) const fn overload(&self, direction: Direction) -> &Overload {
        &self.way(direction).overload
    }

    pub(crate) const fn overload_mut(&mut self, direction: Direction) -> &mut Overload {
        &mut self.way_mut(direction).overload
    }

    pub(crate) const fn configured_bps(&self, direction: Direction) -> u64 {
        self.way(direction).configured_bps
    }

    pub(crate) fn changes(&self) -> &[CapacityChange] {
        &self.changes
    }

    /// The capacity is that of these changes from now on.
    pub(crate) fn set_changes(&mut self, changes: Vec<CapacityChange>) {
        for direction in [Direction::Out, Direction::In] {
            let way = self.way_mut(direction);
            way.set_capacity(Interval::ALWAYS, way.configured_bps);
            for change in layers(&changes, direction) {
                way.set_capacity(change.interval(), change.rate_bps);
            }
        }
        self.changes = changes;
    }

    /// The most that it has at any time.
    fn rate_bps_max(&self, direction: Direction) -> u64 {
        let changed = layers(&self.changes, direction).map(|change| change.rate_bps);
        changed.chain([self.configured_bps(direction)]).max().unwrap_or_default()
    }

    pub(crate) fn states(&self, name: &LinkName, node: &NodeName, now: Nanos) -> (PoolState, PoolState) {
        let name = format!("link {name}");
        (self.out.pool.state(name.clone(), node, now), self.into.pool.state(name, node, now))
    }

    /// The shares of classes in one direction.
    pub(crate) fn class_states(
        &self,
        name: &LinkName,
        node: &NodeName,
        direction: Direction,
        now: Nanos,
    ) -> Vec<PoolState> {
        let shares = self.way(direction).classes.iter();
        shares.map(|(class, (_, share))| share.state(share_name(class, name), node, now)).collect()
    }
}

fn share_name(class: &ClassName, link: &LinkName) -> String {
    format!("class {class} of link {link}")
}

const fn cost(record: &AggregateRecord) -> Cost {
    Cost { rate_bps: record.rate_bps, burst_bytes: 0 }
}

impl Broker {
    /// The link that leads to a peer, and the most that it has at any time in one direction.
    pub(crate) fn link_to(&self, peer: &NodeName, direction: Direction) -> Result<(LinkName, u64), Refusal> {
        let found = self.config.peers.get(peer).and_then(|peer| Some((&peer.link, self.links.get(&peer.link)?)));
        let Some((name, pools)) = found else {
            let known: Vec<&str> = self.config.peers.keys().map(NodeName::as_str).collect();
            let detail = format!("node {} has no peer {peer}; its peers: {}", self.config.node, known.join(", "));
            return Err(Refusal::new(Reason::UnknownPeer, detail).at("peer"));
        };
        Ok((name.clone(), pools.rate_bps_max(direction)))
    }

    /// What tagged packets to and from a peer have around them. It does not matter for one that is not configured any more: nothing is
    /// admitted there.
    pub(crate) fn tag_family(&self, peer: &NodeName) -> Family {
        self.config.peers.get(peer).map_or(Family::Ipv4, |peer| peer.tag_family)
    }

    /// Both ends must count the same bytes on the wire.
    pub(crate) fn check_tag_family(&self, peer: &NodeName, theirs: Family) -> Result<(), Refusal> {
        let (node, ours) = (&self.config.node, self.tag_family(peer));
        if ours == theirs {
            return Ok(());
        }
        let detail = format!(
            "{node} has an {ours} tag address for {peer}, and {peer} an {theirs} one for {node}; configure the same family on both"
        );
        Err(Refusal::new(Reason::TagFamilyDiffers, detail))
    }

    /// Holds an aggregate's rate on the link to its peer, or changes nothing.
    pub(crate) fn hold_link(&mut self, record: &AggregateRecord, now: Nanos) -> Result<(), Refusal> {
        let (name, _) = self.link_to(&record.peer, record.direction)?;
        let node = &self.config.node;
        let Some(pools) = self.links.get_mut(&name) else {
            return Ok(());
        };
        self.links_changed = true;
        let way = pools.way_mut(record.direction);
        let mut short = None;
        for (index, (class, pool)) in way.pools_of(record).enumerate() {
            pool.forget(now);
            if pool.hold(cost(record)).is_err() {
                let text = class.map_or_else(|| format!("link {name}"), |class| share_name(class, &name));
                let fits_at = pool.fits_at(cost(record), None, now);
                short = Some((index, PoolState { fits_at, ..pool.state(text, node, now) }));
                break;
            }
        }
        let Some((held, state)) = short else { return Ok(()) };
        way.pools_of(record).take(held).for_each(|(_, pool)| pool.give_back(cost(record)));
        let way = match record.direction {
            Direction::Out => "to send",
            Direction::In => "to receive",
        };
        let PoolState { name: of, free_bps, capacity_bps, .. } = &state;
        let detail = format!(
            "aggregate {} needs {} bit/s; {of} of {node} has {free_bps} of {capacity_bps} left {way}",
            record.name, record.rate_bps
        );
        let mut refusal = Refusal::new(Reason::LinkExhausted, detail);
        refusal.counter_offer_rate_bps = (*free_bps >= crate::aggregate::RATE_BPS_MIN).then_some(*free_bps);
        refusal.pool = Some(state);
        Err(refusal)
    }

    /// Holds what an earlier life of this node held.
    pub(crate) fn adopt_link(&mut self, record: &AggregateRecord) {
        if let Ok((name, _)) = self.link_to(&record.peer, record.direction)
            && let Some(pools) = self.links.get_mut(&name)
        {
            pools.way_mut(record.direction).pools_of(record).for_each(|(_, pool)| pool.adopt(cost(record)));
            self.links_changed = true;
        }
    }

    /// The reverse of [`Self::hold_link`] and [`Self::adopt_link`].
    pub(crate) fn give_back_link(&mut self, record: &AggregateRecord) {
        if let Ok((name, _)) = self.link_to(&record.peer, record.direction)
            && let Some(pools) = self.links.get_mut(&name)
        {
            pools.way_mut(record.direction).pools_of(record).for_each(|(_, pool)| pool.give_back(cost(record)));
            self.links_changed = true;
        }
    }
}
