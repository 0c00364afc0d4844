//! Links that carry less than was reserved on them: whom they can no longer carry, and when (R-000-2).
//!
//! Nothing is taken down by itself. What a link cannot carry is told, and nothing more is admitted onto it until aggregates have gone or
//! capacity has come back.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::broker::Broker;
use crate::calendar::{Interval, OPEN};
use crate::link::LinkPools;
use crate::name::{AggregateName, LinkName, Nanos};
use crate::pool::Pool;
use crate::record::{AggregateRecord, AggregateState, Direction};
use crate::refusal::{PoolState, Reason, Refusal};
use crate::schedule::Schedule;

/// An aggregate that a link cannot carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uncarried {
    /// Which.
    pub aggregate: AggregateName,
    /// Seen from this node.
    pub direction: Direction,
    /// Bits per second.
    pub rate_bps: u64,
    /// Sessions that it carries, or that are booked on it.
    pub sessions: u64,
    /// When it cannot be carried, from now on: one after the other.
    pub times: Vec<Interval>,
}

/// What a link cannot carry in one direction; empty as a rule.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Overload {
    /// In the order in which they would have to go.
    order: Vec<AggregateName>,
    times: BTreeMap<AggregateName, Vec<Interval>>,
}

/// The order in which aggregates would have to go: what is being given up anyway, then the newest. It is said here and nowhere else.
fn order(record: &AggregateRecord) -> impl Ord + use<> {
    // A later one has a greater policy, in any life of the node.
    (record.state != AggregateState::Releasing, Reverse(record.policy))
}

impl Overload {
    /// At each instant the first ones of the order, until the capacity is enough for the others. `edges` are all times at which it changes.
    pub(crate) fn reckon(pool: &Pool, edges: &[Nanos], mut carried: Vec<&AggregateRecord>, now: Nanos) -> Self {
        if !pool.is_overloaded() {
            return Self::default();
        }
        carried.sort_by_key(|record| order(record));
        let mut starts: Vec<Nanos> = edges.iter().copied().filter(|edge| *edge > now).chain([now]).collect();
        starts.sort_unstable();
        starts.dedup();
        let ends = starts.iter().copied().skip(1).chain([OPEN]);
        let excess = |start: Nanos| pool.used_at(start).rate_bps.saturating_sub(pool.capacity_at(start).rate_bps);
        let parts: Vec<(Nanos, Nanos, u64)> =
            starts.iter().zip(ends).map(|(start, end)| (*start, end, excess(*start))).collect();
        let (mut gone_bps, mut overload) = (0, Self::default());
        for record in carried {
            let mut times: Vec<(Nanos, Nanos)> = Vec::new();
            for (start, end, _) in parts.iter().filter(|(_, _, excess_bps)| gone_bps < *excess_bps) {
                match times.last_mut() {
                    Some(last) if last.1 == *start => last.1 = *end,
                    _ => times.push((*start, *end)),
                }
            }
            if times.is_empty() {
                break;
            }
            let times = times.into_iter().filter_map(|(start, end)| Interval::new(start, end).ok()).collect();
            overload.order.push(record.name.clone());
            overload.times.insert(record.name.clone(), times);
            gone_bps += record.rate_bps;
        }
        overload
    }

    fn of(&self, aggregate: &AggregateName) -> &[Interval] {
        self.times.get(aggregate).map_or(&[], Vec::as_slice)
    }
}

impl Broker {
    /// After something has changed of links, or of what is reserved on them.
    pub(crate) fn reckon_links(&mut self, now: Nanos) {
        if !std::mem::take(&mut self.links_changed) {
            return;
        }
        let mut changed = false;
        let names: Vec<LinkName> = self.links.keys().cloned().collect();
        for name in names {
            for direction in [Direction::Out, Direction::In] {
                let records = self.aggregates.values().map(|aggregate| &aggregate.record);
                let peers = &self.config.peers;
                let here = |record: &&AggregateRecord| {
                    record.direction == direction && peers.get(&record.peer).is_some_and(|peer| peer.link == name)
                };
                let Some(pools) = self.links.get_mut(&name) else { continue };
                let edges: Vec<Nanos> =
                    pools.changes().iter().flat_map(|change| [Some(change.from), change.until]).flatten().collect();
                let pool = pools.of(direction);
                pool.forget(now);
                let carried = if pool.is_overloaded() { records.filter(here).collect() } else { Vec::new() };
                let overload = Overload::reckon(pool, &edges, carried, now);
                let before = pools.overload_mut(direction);
                if *before != overload {
                    changed = true;
                    if before.order.len() != overload.order.len() {
                        let aggregates = overload.order.len();
                        tracing::warn!(link = %name, ?direction, aggregates, "aggregates that the link cannot carry, now or later");
                    }
                    *before = overload;
                }
            }
        }
        // What a link can carry again may be admitted on.
        self.room |= changed;
    }

    /// What a link cannot carry, with what is on it.
    pub(crate) fn uncarried(&self, pools: &LinkPools) -> Vec<Uncarried> {
        let both = [Direction::Out, Direction::In].map(|direction| (direction, pools.overload(direction)));
        let mut sessions: BTreeMap<&AggregateName, u64> =
            both.iter().flat_map(|(_, overload)| &overload.order).map(|name| (name, 0)).collect();
        if sessions.is_empty() {
            return Vec::new();
        }
        for session in self.sessions.values().filter(|session| !session.is_ending()) {
            let mut counted: Vec<&AggregateName> = session.record.flows.iter().map(|flow| &flow.aggregate).collect();
            counted.sort_unstable();
            counted.dedup();
            for name in counted {
                if let Some(count) = sessions.get_mut(name) {
                    *count += 1;
                }
            }
        }
        let all =
            both.iter().flat_map(|(direction, overload)| overload.order.iter().map(move |name| (*direction, name)));
        let uncarried = all.map(|(direction, name)| Uncarried {
            aggregate: name.clone(),
            direction,
            rate_bps: self.aggregates.get(name).map_or(0, |aggregate| aggregate.record.rate_bps),
            sessions: sessions.get(name).copied().unwrap_or_default(),
            times: pools.overload(direction).of(name).to_vec(),
        });
        uncarried.collect()
    }

    /// Nothing more is admitted onto an aggregate while its link cannot carry it.
    pub(crate) fn check_carried(
        &self,
        aggregate: &AggregateName,
        schedule: Schedule,
        now: Nanos,
    ) -> Result<(), Refusal> {
        let Some(record) = self.aggregates.get(aggregate).map(|aggregate| &aggregate.record) else { return Ok(()) };
        let link = self.config.peers.get(&record.peer).map(|peer| &peer.link);
        let Some((name, pools)) = link.and_then(|name| Some((name, self.links.get(name)?))) else { return Ok(()) };
        let times = pools.overload(record.direction).of(aggregate);
        let (wanted, node) = (schedule.ahead(now), &self.config.node);
        let Some(over) = times.iter().find(|time| time.overlaps(wanted)) else { return Ok(()) };
        let until = if over.end() == OPEN { String::new() } else { format!(" to {}", over.end()) };
        let detail = format!(
            "link {name} of {node} cannot carry aggregate {aggregate} from {}{until}, because more is reserved on it than it has then",
            over.start()
        );
        let (out, into) = pools.states(name, node, now);
        let state = match record.direction {
            Direction::Out => out,
            Direction::In => into,
        };
        let mut refusal = Refusal::new(Reason::LinkExhausted, detail);
        refusal.pool = Some(PoolState { fits_at: first_clear(times, schedule, now), ..state });
        Err(refusal)
    }
}

/// From when on nothing of these times is in the way of a session's duration.
fn first_clear(times: &[Interval], schedule: Schedule, now: Nanos) -> Option<Nanos> {
    let mut start = schedule.begin(now);
    for time in times {
        let tried = match schedule.duration(now) {
            Some(duration) => Interval::lasting(start, duration),
            None => Interval::from(start),
        };
        if tried.ok()?.overlaps(*time) {
            start = time.end();
        }
    }
    (start < OPEN).then_some(start)
}
