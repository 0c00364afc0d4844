//! Room that is being made: what is held of it from the first moment, and what comes when those that had it are out of force.

use std::collections::{BTreeMap, BTreeSet};

use super::{Asker, Claim, Plan, Preemption, Stage, Wish};
use crate::broker::Broker;
use crate::calendar::Interval;
use crate::cost::Cost;
use crate::fence::Subject;
use crate::media_slots::SlotCounts;
use crate::name::{Nanos, SessionId};
use crate::record::{FlowRecord, SessionRecord, Side};
use crate::refusal::Refusal;
use crate::resources::PoolName;

/// A part of one pool.
pub(super) type Part = (PoolName, Interval, Cost);

/// Of the cost `needed` throughout an interval, what others that end do not leave, from instant to instant.
fn missing(needed: Cost, interval: Interval, ending: &[(Interval, Cost)]) -> Vec<(Interval, Cost)> {
    let bounds = ending.iter().flat_map(|(interval, _)| [interval.start(), interval.end()]);
    let inside = bounds.filter(|bound| interval.start() < *bound && *bound < interval.end());
    let bounds: BTreeSet<Nanos> = inside.chain([interval.start(), interval.end()]).collect();
    let starts = bounds.iter().zip(bounds.iter().skip(1));
    let parts = starts.filter_map(|(start, end)| {
        let mut rest = needed;
        for (_, cost) in ending.iter().filter(|(interval, _)| interval.contains(*start)) {
            rest.rate_bps = rest.rate_bps.saturating_sub(cost.rate_bps);
            rest.burst_bytes = rest.burst_bytes.saturating_sub(cost.burst_bytes);
        }
        let part = Interval::new(*start, *end).ok()?;
        (rest != Cost::default()).then_some((part, rest))
    });
    parts.collect()
}

impl Broker {
    /// Takes what a plan needs: places at once, and of pools what those that are to end do not leave. None if that is not there, which the
    /// plan has just said it is; then nothing is changed.
    pub(super) fn claim(
        &mut self,
        wish: &Wish,
        Plan { mut flows, victims, .. }: Plan,
        side: Side,
        now: Nanos,
    ) -> Option<Claim> {
        let interval = wish.terms.schedule.interval();
        let mut parts: Vec<Part> = Vec::new();
        for (pool, part, cost) in self.missing_parts(&flows, wish.slots(side), &victims, interval) {
            if !self.hold_some(&pool, part, cost, now) {
                self.give_claimed_back(&parts);
                return None;
            }
            parts.push((pool, part, cost));
        }
        self.take_places(&mut flows, interval);
        for victim in &victims {
            self.claimed.insert(victim.clone(), wish.id.clone());
        }
        let has_room = |id: &&SessionId| self.sessions.get(*id).is_some_and(super::Session::has_room);
        let waiting = victims.iter().filter(has_room).cloned().collect();
        Some(Claim { flows, victims, waiting, left: Vec::new(), parts, ask: None, answer: None })
    }

    /// Of each pool that the wish takes of, what the victims do not leave.
    fn missing_parts(
        &self,
        flows: &[FlowRecord],
        slots: &SlotCounts,
        victims: &BTreeSet<SessionId>,
        interval: Interval,
    ) -> Vec<Part> {
        let ending = victims.iter().filter_map(|id| self.sessions.get(id)).map(|session| {
            let record = &session.record;
            (record.schedule.interval(), self.sums(&record.held_flows(), record.own_slots()))
        });
        let ending: Vec<(Interval, BTreeMap<PoolName, Cost>)> = ending.collect();
        let mut missing_parts = Vec::new();
        for (pool, needed) in self.sums(flows, slots) {
            let of_pool = ending.iter().filter_map(|(interval, sums)| Some((*interval, *sums.get(&pool)?)));
            let missing = missing(needed, interval, &of_pool.collect::<Vec<_>>());
            missing_parts.extend(missing.into_iter().map(|(part, cost)| (pool.clone(), part, cost)));
        }
        missing_parts
    }

    fn give_claimed_back(&mut self, parts: &[Part]) {
        for (pool, part, cost) in parts {
            self.give_some_back(pool, *part, *cost);
        }
    }

    /// A session has nothing in force here any more. What it had of pools goes back, or to whom it was ended for.
    pub(crate) fn give_back_ended(&mut self, id: &SessionId, record: &SessionRecord) {
        let claimed = self.claimed.get(id).and_then(|by| self.preemptions.get_mut(by));
        if let Some(Preemption { stage: Stage::Claimed(claim), .. }) = claimed {
            claim.waiting.remove(id);
            claim.left.push(record.clone());
            return self.give_places_back(&record.flows, record.schedule.interval());
        }
        self.give_back(record);
    }

    /// Gives back all that a claim has of pools: what it held beyond its victims' parts, and what those left.
    fn release_claim(&mut self, claim: &Claim) {
        self.room = true;
        self.give_claimed_back(&claim.parts);
        for record in &claim.left {
            self.give_back_parts(&record.held_flows(), record.own_slots(), record.schedule.interval());
        }
        for victim in &claim.victims {
            self.claimed.remove(victim);
        }
    }

    /// Holds what was claimed: in one step with giving back what made room for it. False if it is not there, because the pool was made
    /// smaller meanwhile; then nothing of it is held.
    pub(super) fn hold_claimed(&mut self, claim: &Claim, wish: &Wish, side: Side, now: Nanos) -> bool {
        self.release_claim(claim);
        let schedule = wish.terms.schedule;
        let is_held = self.take_parts(&claim.flows, (wish.slots(side), side), schedule, now).is_ok();
        if !is_held {
            self.give_places_back(&claim.flows, schedule.interval());
        }
        is_held
    }

    /// An ask that makes room is refused. Those that it has begun to end go on ending.
    pub(super) fn drop_claim(&mut self, id: &SessionId, refusal: Refusal, now: Nanos) {
        let Some(Preemption { wish, peer, asker, stage }) = self.preemptions.remove(id) else { return };
        self.clear_timer(&Subject::Preemption(id.clone()));
        let mut flows = Vec::new();
        if let Stage::Claimed(claim) = stage {
            self.release_claim(&claim);
            self.give_places_back(&claim.flows, wish.terms.schedule.interval());
            flows = claim.flows;
        }
        match asker {
            Asker::Client { ticket, .. } => self.release_unheld(wish, peer, flows, (ticket, refusal), now),
            Asker::Peer { tickets, attempt } => {
                self.fences.close(&peer, Subject::Session(id.clone()), attempt);
                for ticket in tickets {
                    self.refuse_peer(ticket, refusal.clone());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(start: u64, end: u64) -> Interval {
        Interval::new(Nanos(start), Nanos(end)).unwrap()
    }

    const fn cost(rate_bps: u64, burst_bytes: u64) -> Cost {
        Cost { rate_bps, burst_bytes }
    }

    #[test]
    fn only_what_those_that_end_do_not_leave_is_missing_at_each_instant() {
        let ending =
            [(interval(10, 20), cost(60, 1)), (interval(15, 40), cost(50, 9)), (interval(90, 99), cost(100, 10))];
        let expected =
            [(interval(5, 10), cost(100, 10)), (interval(10, 15), cost(40, 9)), (interval(20, 30), cost(50, 1))];
        assert_eq!(missing(cost(100, 10), interval(5, 30), &ending), expected);
        assert_eq!(missing(cost(50, 9), interval(15, 40), &ending), []);
    }
}
