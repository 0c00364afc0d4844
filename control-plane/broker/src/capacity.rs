//! Capacity changes: a link's rates by its operator's word, for an interval or until further notice (R-000-2).
//!
//! A change without an end is standing: it stands for the configured rate from its beginning on, as long as the configuration says what it
//! said when the change was asked for. In its interval a change with an end counts, whatever stands or is configured. Of changes of the same
//! kind the one that was asked for last counts.

use serde::{Deserialize, Serialize};

use crate::broker::{Broker, TableName};
use crate::calendar::{Interval, OPEN};
use crate::config::Link;
use crate::event::Answer;
use crate::fence::Subject;
use crate::name::{LinkName, Nanos};
use crate::overload::Uncarried;
use crate::record::{Change, Direction};
use crate::refusal::{PoolState, Reason, Refusal};

/// The smallest rate of a link, bits per second: that of the smallest aggregate.
pub const LINK_RATE_BPS_MIN: u64 = 1_000;
/// The largest rate of a link, bits per second.
pub const LINK_RATE_BPS_MAX: u64 = 400_000_000_000;
/// Most changes of this node's links that are in force or to come, each direction for itself. Two steps of a calendar for each, which takes
/// many more.
pub const LINK_CHANGES_MAX: usize = 256;

/// What an operator says of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkChange {
    /// Which.
    pub link: LinkName,
    /// Bits per second that this node may send; as it is if absent.
    pub rate_out_bps: Option<u64>,
    /// Bits per second that this node may receive; as it is if absent.
    pub rate_in_bps: Option<u64>,
    /// From when on; at once if absent.
    pub from: Option<Nanos>,
    /// Up to when, and not at it; until further notice if absent.
    pub until: Option<Nanos>,
}

/// One direction of a [`LinkChange`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapacityChange {
    /// Seen from this node.
    pub direction: Direction,
    /// Bits per second.
    pub rate_bps: u64,
    /// From when on.
    pub from: Nanos,
    /// Up to when; none for a standing change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Nanos>,
    /// What was configured when it was asked for, bits per second.
    pub configured_bps: u64,
}

impl CapacityChange {
    /// When it counts.
    #[must_use]
    pub fn interval(&self) -> Interval {
        // Checked when it was asked for.
        Interval::new(self.from, self.until.unwrap_or(OPEN)).unwrap_or(Interval::ALWAYS)
    }

    fn is_over(&self, now: Nanos) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// Whether a later one of the same kind leaves nothing of it.
    fn is_covered_by(&self, later: &Self, now: Nanos) -> bool {
        self.direction == later.direction
            && self.until.is_some() == later.until.is_some()
            && later.from.max(now) <= self.from.max(now)
            && self.interval().end() <= later.interval().end()
    }
}

/// A link's changes as they are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRecord {
    /// Which.
    pub name: LinkName,
    /// In the order in which they were asked for.
    pub changes: Vec<CapacityChange>,
}

/// A link as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// Which.
    pub name: LinkName,
    /// What the configuration says.
    pub configured: Link,
    /// What there is to send, and what aggregates have of it.
    pub out: PoolState,
    /// The same to receive.
    pub into: PoolState,
    /// Of each class with a share, what there is of that to send.
    pub classes_out: Vec<PoolState>,
    /// The same to receive.
    pub classes_in: Vec<PoolState>,
    /// In force or to come, in the order in which they were asked for.
    pub changes: Vec<CapacityChange>,
    /// The aggregates that it cannot carry at some time from now on, in the order in which they would have to go, those out first. Nothing is
    /// taken down by itself.
    pub uncarried: Vec<Uncarried>,
}

/// Leaves out what is over or has no effect any more.
pub(crate) fn prune(changes: &mut Vec<CapacityChange>, now: Nanos) {
    let all = std::mem::take(changes);
    let counts = |(index, change): &(usize, CapacityChange)| {
        !change.is_over(now) && !all[index + 1..].iter().any(|later| change.is_covered_by(later, now))
    };
    changes.extend(all.iter().copied().enumerate().filter(counts).map(|(_, change)| change));
    for direction in [Direction::Out, Direction::In] {
        // The first that stands, and says what is configured, says nothing.
        let standing = |change: &CapacityChange| change.direction == direction && change.until.is_none();
        while let Some(first) = changes.iter().position(standing) {
            if changes[first].rate_bps != changes[first].configured_bps {
                break;
            }
            changes.remove(first);
        }
    }
}

/// What counts of a link's changes in one direction, each over those before it.
pub(crate) fn layers(changes: &[CapacityChange], direction: Direction) -> impl Iterator<Item = &CapacityChange> {
    let of = move |standing: bool| {
        let is_it = move |change: &&CapacityChange| change.direction == direction && change.until.is_none() == standing;
        changes.iter().filter(is_it)
    };
    of(true).chain(of(false))
}

/// The next time at which a change begins or ends.
fn next_step(changes: &[CapacityChange], now: Nanos) -> Option<Nanos> {
    let edges = changes.iter().flat_map(|change| [Some(change.from), change.until]);
    edges.flatten().filter(|time| *time > now).min()
}

pub(crate) fn unknown_link(link: &LinkName, broker: &Broker) -> Refusal {
    let known: Vec<&str> = broker.links.keys().map(LinkName::as_str).collect();
    let detail = format!("node {} has no link {link}; its links: {}", broker.config.node, known.join(", "));
    Refusal::new(Reason::UnknownLink, detail).at("name")
}

impl LinkChange {
    fn rates(&self) -> impl Iterator<Item = (&'static str, Direction, u64)> + use<> {
        let rates =
            [("rate_out_bps", Direction::Out, self.rate_out_bps), ("rate_in_bps", Direction::In, self.rate_in_bps)];
        rates.into_iter().filter_map(|(field, direction, rate_bps)| Some((field, direction, rate_bps?)))
    }

    fn check(&self, now: Nanos) -> Result<(), Refusal> {
        if self.rates().next().is_none() {
            return Err(Refusal::invalid("rate_out_bps", "missing", "a rate here, in rate_in_bps, or in both"));
        }
        for (field, _, rate_bps) in self.rates() {
            if !(LINK_RATE_BPS_MIN..=LINK_RATE_BPS_MAX).contains(&rate_bps) {
                let allowed = format!("{LINK_RATE_BPS_MIN} to {LINK_RATE_BPS_MAX}");
                return Err(Refusal::invalid(field, rate_bps, allowed));
            }
        }
        if let Some(from) = self.from
            && !(now <= from && from < OPEN)
        {
            let allowed = format!("a time to come, before {OPEN}; it is {now} now; leave it out to begin now");
            return Err(Refusal::invalid("from", from, allowed));
        }
        let begin = self.from.unwrap_or(now);
        if let Some(until) = self.until
            && !(begin < until && until < OPEN)
        {
            let allowed = format!("a time after {begin}, when it begins, and before {OPEN}; leave it out for no end");
            return Err(Refusal::invalid("until", until, allowed));
        }
        Ok(())
    }
}

impl Broker {
    /// What an earlier life of this node kept of its links; to be called before [`Self::restore`]. A standing change of a rate that is
    /// configured otherwise by now has had its time.
    pub fn restore_links(&mut self, records: Vec<LinkRecord>, now: Nanos) {
        for LinkRecord { name, mut changes } in records {
            let Some(pools) = self.links.get_mut(&name) else { continue };
            let before = changes.clone();
            changes.retain(|change| {
                change.until.is_some() || change.configured_bps == pools.configured_bps(change.direction)
            });
            prune(&mut changes, now);
            pools.set_changes(changes.clone());
            if changes != before {
                self.persist(Change::PutLink(LinkRecord { name: name.clone(), changes }));
            }
            self.await_step(&name, now);
        }
    }

    /// A link's operator says what it can carry.
    pub(crate) fn change_link(&mut self, ticket: u64, wish: &LinkChange, now: Nanos) -> Result<(), Refusal> {
        let Some(pools) = self.links.get(&wish.link) else { return Err(unknown_link(&wish.link, self)) };
        wish.check(now)?;
        let mut changes = pools.changes().to_vec();
        changes.extend(wish.rates().map(|(_, direction, rate_bps)| CapacityChange {
            direction,
            rate_bps,
            from: wish.from.unwrap_or(now),
            until: wish.until,
            configured_bps: pools.configured_bps(direction),
        }));
        prune(&mut changes, now);
        if self.link_changes() - pools.changes().len() + changes.len() > LINK_CHANGES_MAX {
            return Err(self.full(TableName::LinkChanges));
        }
        self.set_link_changes(&wish.link, changes, now);
        self.reckon_links(now);
        if let Some(state) = self.link(&wish.link) {
            self.answer(ticket, Answer::Link(Box::new(state)));
        }
        Ok(())
    }

    /// A change has begun or ended.
    pub(crate) fn link_timer(&mut self, link: &LinkName, now: Nanos) {
        if let Some(pools) = self.links.get(link) {
            let mut changes = pools.changes().to_vec();
            prune(&mut changes, now);
            self.set_link_changes(link, changes, now);
        }
    }

    fn set_link_changes(&mut self, link: &LinkName, changes: Vec<CapacityChange>, now: Nanos) {
        if let Some(pools) = self.links.get_mut(link) {
            pools.set_changes(changes.clone());
        }
        // Also where only time has passed: who shares the link's rest out looks at it when this is written.
        self.persist(Change::PutLink(LinkRecord { name: link.clone(), changes }));
        self.await_step(link, now);
        (self.links_changed, self.room) = (true, true);
    }

    fn await_step(&mut self, link: &LinkName, now: Nanos) {
        let next = self.links.get(link).and_then(|pools| next_step(pools.changes(), now));
        match next {
            Some(at) => self.set_timer(Subject::Link(link.clone()), at),
            None => self.clear_timer(&Subject::Link(link.clone())),
        }
    }

    /// How many changes there are of all links.
    pub(crate) fn link_changes(&self) -> usize {
        self.links.values().map(|pools| pools.changes().len()).sum()
    }

    /// One link, with its changes, and with what it cannot carry.
    #[must_use]
    pub fn link(&self, name: &LinkName) -> Option<LinkState> {
        let pools = self.links.get(name)?;
        let (out, into) = pools.states(name, &self.config.node, self.now);
        let configured = Link {
            rate_out_bps: pools.configured_bps(Direction::Out),
            rate_in_bps: pools.configured_bps(Direction::In),
        };
        let (changes, uncarried) = (pools.changes().to_vec(), self.uncarried(pools));
        let [classes_out, classes_in] = [Direction::Out, Direction::In]
            .map(|direction| pools.class_states(name, &self.config.node, direction, self.now));
        let name = name.clone();
        Some(LinkState { name, configured, out, into, classes_out, classes_in, changes, uncarried })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(rate_bps: u64, from: u64, until: Option<u64>) -> CapacityChange {
        let (from, until) = (Nanos(from), until.map(Nanos));
        CapacityChange { direction: Direction::Out, rate_bps, from, until, configured_bps: 100 }
    }

    fn pruned(mut changes: Vec<CapacityChange>, now: u64) -> Vec<CapacityChange> {
        prune(&mut changes, Nanos(now));
        changes
    }

    #[test]
    fn what_is_over_or_covered_is_left_out() {
        let (standing, timed) = (change(50, 10, None), change(20, 10, Some(20)));
        assert_eq!(pruned(vec![standing, timed], 5), [standing, timed]);
        assert_eq!(pruned(vec![standing, timed], 20), [standing]);
        // Of the past nothing counts, so a standing change covers one that began before it.
        let other = change(60, 15, None);
        assert_eq!(pruned(vec![standing, other], 14), [standing, other]);
        assert_eq!(pruned(vec![standing, other], 15), [other]);
        assert_eq!(pruned(vec![timed, change(30, 9, Some(20))], 5), [change(30, 9, Some(20))]);
        assert_eq!(pruned(vec![timed, change(30, 11, Some(20))], 5).len(), 2);
        let into = CapacityChange { direction: Direction::In, ..standing };
        assert_eq!(pruned(vec![standing, into], 5), [standing, into]);
    }

    #[test]
    fn to_stand_at_what_is_configured_is_no_change() {
        assert_eq!(pruned(vec![change(50, 1, None), change(100, 2, None)], 5), []);
        let later = change(100, 9, None);
        assert_eq!(pruned(vec![change(50, 1, None), later], 5), [change(50, 1, None), later]);
        assert_eq!(pruned(vec![change(100, 1, Some(9))], 5).len(), 1);
    }
}
