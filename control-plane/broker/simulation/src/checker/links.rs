//! Links that carry less: who has to go is told, no more and no fewer, and nothing more is admitted onto these.

use std::collections::{BTreeMap, BTreeSet};

use turnpike_broker::calendar::Interval;
use turnpike_broker::capacity::{CapacityChange, LinkChange, LinkState};
use turnpike_broker::name::{AggregateName, Nanos};
use turnpike_broker::record::{Change, Direction, SessionRecord, SessionState};

use super::{Checker, Held, Rule, hold};
use crate::node::Node;

/// What a node's links cannot carry, and when.
type Uncarried = Vec<(AggregateName, Interval)>;

#[derive(Default)]
pub(crate) struct Links {
    /// When a node had worked last, and the time before.
    uncarried: BTreeMap<usize, (Uncarried, Uncarried)>,
    /// Whether the node's links or aggregates change together with what is kept now.
    changes: bool,
}

/// What a link has at a time: of changes of the same kind the one asked for last counts, and one with an end before one without.
fn capacity_at(configured_bps: u64, changes: &[CapacityChange], direction: Direction, at: Nanos) -> u64 {
    let of_kind = |timed: bool| {
        let mut of_kind = changes.iter().rev().filter(move |change| {
            change.direction == direction && change.until.is_some() == timed && change.from <= at
        });
        of_kind.find(move |change| change.until.is_none_or(|until| at < until))
    };
    of_kind(true).or_else(|| of_kind(false)).map_or(configured_bps, |change| change.rate_bps)
}

impl Links {
    pub(super) fn worked(&mut self, index: usize, node: &Node) {
        let names = node.config.links.keys();
        let all = names.filter_map(|name| node.broker.link(name)).flat_map(|state| state.uncarried);
        let now = all.flat_map(|uncarried| {
            let name = uncarried.aggregate;
            uncarried.times.into_iter().map(move |time| (name.clone(), time))
        });
        let kept = self.uncarried.entry(index).or_default();
        kept.1 = std::mem::replace(&mut kept.0, now.collect());
    }

    /// Whether an aggregate cannot be carried in some of this time, now and when the node had worked before.
    fn is_over(&self, index: usize, aggregate: &AggregateName, wanted: Interval) -> bool {
        let over =
            |uncarried: &Uncarried| uncarried.iter().any(|(name, time)| name == aggregate && time.overlaps(wanted));
        self.uncarried.get(&index).is_some_and(|(now, before)| over(now) && over(before))
    }
}

impl Checker {
    /// After a node has worked, with what its aggregates have.
    pub(super) fn link_is_so(node: &Node, state: &LinkState, direction: Direction, used_bps: u64) -> Held {
        let (pool, configured_bps) = match direction {
            Direction::Out => (&state.out, state.configured.rate_out_bps),
            Direction::In => (&state.into, state.configured.rate_in_bps),
        };
        hold(Rule::Capacity, pool.used_bps == used_bps, || format!("aggregates take {used_bps} bit/s of {pool:?}"))?;
        let now = node.shown;
        let capacity_bps = |at| capacity_at(configured_bps, &state.changes, direction, at);
        hold(Rule::Capacity, pool.capacity_bps == capacity_bps(now), || {
            format!("by its changes it has {} bit/s: {state:?}", capacity_bps(now))
        })?;
        let edges = state.changes.iter().flat_map(|change| [Some(change.from), change.until]).flatten();
        let instants: BTreeSet<Nanos> = edges.filter(|at| *at > now).chain([now]).collect();
        for at in instants {
            let excess_bps = used_bps.saturating_sub(capacity_bps(at));
            let listed = state.uncarried.iter().filter(|one| {
                one.direction == direction && one.times.iter().any(|time| time.start() <= at && at < time.end())
            });
            let listed: Vec<u64> = listed.map(|one| one.rate_bps).collect();
            let gone_bps: u64 = listed.iter().sum();
            let needed = listed.last().is_none_or(|last| gone_bps - last < excess_bps);
            hold(Rule::Capacity, gone_bps >= excess_bps && needed, || {
                format!(
                    "{excess_bps} bit/s are too many {direction:?} at {at}, and those of {listed:?} are told: {state:?}"
                )
            })?;
        }
        Ok(())
    }

    /// What is kept together, before it is.
    pub(crate) fn keeps_together(&mut self, changes: &[Change]) {
        self.links.changes = changes
            .iter()
            .any(|change| matches!(change, Change::PutLink(_) | Change::PutAggregate(_) | Change::DeleteAggregate(_)));
    }

    /// Before a record is made durable: nothing more is taken of what its link cannot carry.
    pub(super) fn is_carried(&self, nodes: &[Node], index: usize, record: &SessionRecord) -> Held {
        if self.links.changes || record.state == SessionState::Waiting {
            return Ok(());
        }
        let node = &nodes[index];
        let before = node.store.sessions.get(&record.id);
        let is_new = record.state == SessionState::Held
            && before.is_none_or(|before| {
                before.flows.first().map(|flow| flow.policy) != record.flows.first().map(|flow| flow.policy)
            });
        let interval = record.schedule.interval();
        let Ok(wanted) = Interval::new(interval.start().max(node.shown), interval.end()) else { return Ok(()) };
        for flow in &record.flows {
            let had =
                before.and_then(|before| Some(before.held_meter(before.flows.iter().find(|own| own.id == flow.id)?)));
            let held = record.held_meter(flow);
            let grows = record.state == SessionState::Active
                && had.is_some_and(|had| held.rate_bps > had.rate_bps || held.burst_bytes > had.burst_bytes);
            let over = (is_new || grows) && self.links.is_over(index, &flow.aggregate, wanted);
            hold(Rule::Capacity, !over, || {
                format!("{} takes of {}, which its link cannot carry: {record:?}", record.id, flow.aggregate)
            })?;
        }
        Ok(())
    }

    /// An operator is told that a link has other rates.
    pub(super) fn link_is_changed(node: &Node, wish: &LinkChange, state: &LinkState) -> Held {
        let stored = node.store.links.get(&wish.link).map(|record| record.changes.as_slice());
        hold(Rule::Durability, stored.unwrap_or_default() == state.changes, || {
            format!("told {state:?}, and kept {stored:?}")
        })?;
        let ways = [
            (Direction::Out, wish.rate_out_bps, state.configured.rate_out_bps),
            (Direction::In, wish.rate_in_bps, state.configured.rate_in_bps),
        ];
        for (direction, rate_bps, configured_bps) in ways {
            let Some(rate_bps) = rate_bps else { continue };
            let same = |change: &&CapacityChange| change.until.is_some() == wish.until.is_some();
            let changes: Vec<CapacityChange> = state.changes.iter().filter(same).copied().collect();
            let at = wish.from.unwrap_or(node.shown).max(node.shown);
            let has_bps = capacity_at(configured_bps, &changes, direction, at);
            let over = wish.until.is_some_and(|until| until <= node.shown);
            hold(Rule::Confirmation, over || has_bps == rate_bps, || {
                format!("asked for {wish:?}, and told {state:?}")
            })?;
        }
        Ok(())
    }

    /// At rest what is kept of links is what is told, and nothing of it is over.
    pub(super) fn links_rest(node: &Node) -> Held {
        for state in node.config.links.keys().filter_map(|name| node.broker.link(name)) {
            let stored = node.store.links.get(&state.name).map(|record| record.changes.as_slice());
            hold(Rule::Leak, stored.unwrap_or_default() == state.changes, || {
                format!("{} tells {state:?}, and keeps {stored:?}", node.config.node)
            })?;
            let over = state.changes.iter().find(|change| change.until.is_some());
            hold(Rule::Leak, over.is_none(), || {
                format!("a change of a link of {} is over: {over:?}", node.config.node)
            })?;
        }
        Ok(())
    }
}
