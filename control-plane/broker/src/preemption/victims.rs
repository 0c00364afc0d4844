//! Whose room an ask would take: who, in which order, and no more than needed.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::{VICTIMS_MAX, Wish};
use crate::broker::Broker;
use crate::flow::{Labels, Way};
use crate::name::{Nanos, NodeName, SessionId};
use crate::policy::Meter;
use crate::priority::Priority;
use crate::record::{FlowRecord, SessionRecord, Side};
use crate::refusal::{Reason, Refusal};
use crate::resources::PoolName;
use crate::session::{Phase, Session};

/// So many sessions in its way are looked at, those first that are ended first.
const CANDIDATES_MAX: usize = 1_024;

/// Who would have to end, and what there would be room for then.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) peer: NodeName,
    /// As [`Broker::would_admit`] says it.
    pub(crate) flows: Vec<FlowRecord>,
    pub(crate) victims: BTreeSet<SessionId>,
}

/// The one order in which sessions are chosen: those of the lowest holding priority first, and of these the newest, which is the one that this
/// node has admitted last.
fn order(record: &SessionRecord) -> (impl Ord + use<>, Reverse<u64>) {
    (record.priority.holding_rank(), Reverse(record.flows.first().map_or(0, |flow| flow.policy.0)))
}

impl Broker {
    /// Whom an ask that finds no room would end, or none if that does not help. `listed` are those that the other side ends for it. Changes
    /// nothing.
    pub(super) fn plan(
        &mut self,
        asker: Option<&NodeName>,
        wish: &Wish,
        listed: &[SessionId],
        labels: Labels,
        now: Nanos,
    ) -> Option<Plan> {
        let Wish { terms, asked, .. } = wish;
        if listed.is_empty() && !terms.priority.may_preempt(Priority::LOWEST) {
            return None;
        }
        let checked = self.check_flows(asker, asked, labels, terms.schedule.ahead(now)).ok()?;
        let side = if asker.is_some() { Side::Second } else { Side::First };
        let (slots, interval) = (wish.slots(side), terms.schedule.interval());
        self.check_slots(slots, side).ok()?;
        self.check_places(&checked.ways).ok()?;
        let hold = (asked.as_slice(), slots);
        let short = self.short_of(wish, &checked.ways, side);
        let of_asker = |id: &&SessionId| {
            let peer = self.sessions.get(*id).map(|session| &session.record.peer);
            peer == asker && self.may_be_ended_for(id, wish, true)
        };
        let listed: Vec<SessionId> = listed.iter().filter(of_asker).cloned().collect();
        let candidates = self.candidates(wish, &short, &listed);
        let mut taken: Vec<SessionId> = Vec::new();
        for id in &listed {
            self.lend(id);
            taken.push(id.clone());
        }
        let mut fits = self.hold_pools(asker, hold, &checked.ways, *terms, now);
        let mut candidates = candidates.into_iter();
        // What a link cannot carry comes back with the link, not with sessions.
        let helps =
            |fits: &Result<_, Refusal>| fits.as_ref().is_err_and(|refusal| refusal.reason != Reason::LinkExhausted);
        while helps(&fits)
            && let Some(id) = candidates.next()
        {
            self.lend(&id);
            taken.push(id);
            fits = self.hold_pools(asker, hold, &checked.ways, *terms, now);
        }
        // Of those that came to it first, some may not be needed beside those that came later: the most worthy are spared first.
        if let Ok(flows) = &mut fits {
            self.give_back_parts(flows, slots, interval);
            for place in (listed.len()..taken.len()).rev() {
                self.take_lent(&taken[place]);
                match self.hold_pools(asker, hold, &checked.ways, *terms, now) {
                    Ok(still) => {
                        self.give_back_parts(&still, slots, interval);
                        *flows = still;
                        taken.remove(place);
                    }
                    Err(_) => self.lend(&taken[place]),
                }
            }
        }
        for id in &taken {
            self.take_lent(id);
        }
        let flows = fits.ok().filter(|_| taken.len() <= VICTIMS_MAX)?;
        Some(Plan { peer: checked.peer, flows, victims: taken.into_iter().collect() })
    }

    /// The pools that have not enough for the least that would do.
    fn short_of(&self, Wish { terms, asked, media_slots, .. }: &Wish, ways: &[Way], side: Side) -> BTreeSet<PoolName> {
        let least = asked.iter().zip(ways).map(|(asked, way)| {
            let aggregate = self.aggregates.get(&asked.aggregate);
            let lowers = aggregate.is_some_and(|aggregate| self.lowers(aggregate, side == Side::Second));
            let most = self.grant("flow", asked, side == Side::Second).map_or(asked.meter, |grant| grant.meter);
            let rate_bps = if lowers { asked.rate_bps_min } else { most.rate_bps };
            FlowRecord::asked(asked, *way, Meter { rate_bps, ..asked.meter }, *terms)
        });
        let least: Vec<FlowRecord> = least.collect();
        let mut needed = self.sums(&least, media_slots.of(side));
        needed.retain(|pool, cost| self.is_short(pool, terms.schedule.interval(), *cost));
        needed.into_keys().collect()
    }

    fn candidates(&self, wish: &Wish, short: &BTreeSet<PoolName>, listed: &[SessionId]) -> Vec<SessionId> {
        let interval = wish.terms.schedule.interval();
        let helps = |session: &&Session| {
            let record = &session.record;
            record.schedule.interval().overlaps(interval)
                && self.sums(&record.flows, record.own_slots()).keys().any(|pool| short.contains(pool))
                && !listed.contains(&record.id)
                && self.may_be_ended_for(&record.id, wish, false)
        };
        let mut records: Vec<&SessionRecord> =
            self.sessions.values().filter(helps).map(|session| &session.record).collect();
        records.sort_by_cached_key(|record| order(record));
        records.into_iter().take(CANDIDATES_MAX).map(|record| record.id.clone()).collect()
    }

    /// Whether it is up or booked, of lower priority, and nobody else's victim. What the other side ends may be ending already.
    fn may_be_ended_for(&self, id: &SessionId, wish: &Wish, listed: bool) -> bool {
        let Some(session) = self.sessions.get(id) else { return false };
        let stands = match session.phase {
            Phase::Active | Phase::Booked { .. } => true,
            Phase::Ending(_) => listed && session.has_room(),
            Phase::Holding { .. }
            | Phase::Calling { .. }
            | Phase::Offered
            | Phase::Booking { .. }
            | Phase::Held
            | Phase::Installing { .. }
            | Phase::Committing { .. } => false,
        };
        // What one whose rates are being changed leaves is not known.
        let stands = stands && session.record.rate_change.is_none();
        stands && wish.terms.priority.may_preempt(session.record.priority) && !self.claimed.contains_key(id)
    }

    /// For a trial only: without its part.
    fn lend(&mut self, id: &SessionId) {
        if let Some(record) = self.sessions.get(id).map(|session| session.record.clone()) {
            self.give_back_parts(&record.held_flows(), record.own_slots(), record.schedule.interval());
        }
    }

    /// With it again.
    fn take_lent(&mut self, id: &SessionId) {
        if let Some(record) = self.sessions.get(id).map(|session| session.record.clone()) {
            self.adopt_parts(&record.held_flows(), record.own_slots(), record.schedule.interval());
        }
    }
}
