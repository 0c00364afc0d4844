//! Whose room an ask would take: who, in which order, and no more than needed.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::{VICTIMS_MAX, Wish};
use crate::broker::Broker;
use crate::flow::Labels;
use crate::name::{AggregateName, Nanos, NodeName, SessionId};
use crate::priority::Priority;
use crate::record::{FlowRecord, SessionRecord};
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
        self.check_places(&checked.ways).ok()?;
        let short = self.short_of_room(asker, wish, &checked.ways, now);
        let listed: Vec<SessionId> =
            listed.iter().filter(|id| self.may_be_ended_for(id, wish, true)).cloned().collect();
        let candidates = self.candidates(wish, &short, &listed);
        let mut taken: Vec<SessionId> = Vec::new();
        for id in &listed {
            self.lend(id);
            taken.push(id.clone());
        }
        let mut fits = self.hold_pools(asker, asked, &checked.ways, *terms, now);
        let mut candidates = candidates.into_iter();
        while fits.is_err()
            && let Some(id) = candidates.next()
        {
            self.lend(&id);
            taken.push(id);
            fits = self.hold_pools(asker, asked, &checked.ways, *terms, now);
        }
        // Of those that came to it first, some may not be needed beside those that came later: the most worthy are spared first.
        if let Ok(flows) = &mut fits {
            self.give_pools_back(flows, terms.schedule.interval());
            for place in (listed.len()..taken.len()).rev() {
                self.take_lent(&taken[place]);
                match self.hold_pools(asker, asked, &checked.ways, *terms, now) {
                    Ok(still) => {
                        self.give_pools_back(&still, terms.schedule.interval());
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

    /// The aggregates that have not enough for this ask.
    fn short_of_room(
        &mut self,
        asker: Option<&NodeName>,
        Wish { terms, asked, .. }: &Wish,
        ways: &[crate::flow::Way],
        now: Nanos,
    ) -> BTreeSet<AggregateName> {
        let wanted: BTreeSet<AggregateName> = asked.iter().map(|flow| flow.aggregate.clone()).collect();
        let is_short = |name: &AggregateName| {
            let of_this = asked.iter().zip(ways).filter(|(flow, _)| flow.aggregate == *name);
            let (asked, ways): (Vec<_>, Vec<_>) = of_this.map(|(flow, way)| (flow.clone(), *way)).unzip();
            match self.hold_pools(asker, &asked, &ways, *terms, now) {
                Ok(flows) => {
                    self.give_pools_back(&flows, terms.schedule.interval());
                    false
                }
                Err(_) => true,
            }
        };
        wanted.into_iter().filter(is_short).collect()
    }

    fn candidates(&self, wish: &Wish, short: &BTreeSet<AggregateName>, listed: &[SessionId]) -> Vec<SessionId> {
        let interval = wish.terms.schedule.interval();
        let helps = |session: &&Session| {
            let record = &session.record;
            record.schedule.interval().overlaps(interval)
                && record.flows.iter().any(|flow| short.contains(&flow.aggregate))
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
        if let Some(session) = self.sessions.get(id) {
            let (flows, interval) = (session.record.flows.clone(), session.record.schedule.interval());
            self.give_pools_back(&flows, interval);
        }
    }

    /// With it again.
    fn take_lent(&mut self, id: &SessionId) {
        if let Some(session) = self.sessions.get(id) {
            let (flows, interval) = (session.record.flows.clone(), session.record.schedule.interval());
            self.adopt_pools(&flows, interval);
        }
    }
}
