//! Degrade instead of refuse: what flows of one session get of a pool that has not enough for all that they ask.

use serde::{Deserialize, Serialize};

use crate::aggregate::Aggregate;
use crate::broker::Broker;
use crate::cost::{Cost, rate_that_fits};
use crate::flow::{Grant, Terms};
use crate::message::HoldFlow;
use crate::name::AggregateName;
use crate::policy::Meter;
use crate::record::FlowRecord;

/// What becomes of a flow that its aggregate has not enough rate left for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// It is refused.
    #[default]
    Refuse,
    /// It gets what is left, down to its `rate_bps_min`; below that it is refused.
    Degrade,
}

impl WhenFull {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
    pub(crate) const fn is_refuse(&self) -> bool {
        matches!(self, Self::Refuse)
    }
}

/// A flow that would take less.
#[derive(Debug, Clone, Copy)]
struct Taker {
    /// With the most that it may get.
    meter: Meter,
    rate_bps_min: u64,
    overhead_bytes: i32,
}

impl Taker {
    fn wire_bps(&self, rate_bps: u64) -> u64 {
        Cost::of(&Meter { rate_bps, ..self.meter }, self.overhead_bytes).map_or(u64::MAX, |cost| cost.rate_bps)
    }
}

/// Shares `free_bps` out: each flow gets its smallest rate, and what is left in proportion to what each wants beyond that. None if the
/// smallest rates do not fit.
fn split(free_bps: u64, takers: &[Taker]) -> Option<Vec<u64>> {
    let least = |taker: &Taker| taker.wire_bps(taker.rate_bps_min);
    let more = |taker: &Taker| u128::from(taker.wire_bps(taker.meter.rate_bps).saturating_sub(least(taker)));
    let needed: u128 = takers.iter().map(|taker| u128::from(least(taker))).sum();
    let mut left = u128::from(free_bps).checked_sub(needed)?;
    let mut wanted: u128 = takers.iter().map(more).sum();
    let rates = takers.iter().map(|taker| {
        let (least, more) = (least(taker), more(taker));
        let part = if left >= wanted { more } else { u64_fraction(left, more, wanted) };
        let budget_bps = least.saturating_add(u64::try_from(part).unwrap_or(u64::MAX));
        let fits = rate_that_fits(budget_bps, taker.meter.packet_bytes_min, taker.overhead_bytes);
        // Rates that cost the same are rounded down to one of them.
        let rate_bps = if part == more { taker.meter.rate_bps } else { fits };
        let rate_bps = rate_bps.clamp(taker.rate_bps_min, taker.meter.rate_bps);
        left -= u128::from(taker.wire_bps(rate_bps) - least);
        wanted -= more;
        rate_bps
    });
    Some(rates.collect())
}

/// left × more ÷ wanted, each below 2^64 but for `wanted`, which is a sum of some.
fn u64_fraction(left: u128, more: u128, wanted: u128) -> u128 {
    left.checked_mul(more).and_then(|product| product.checked_div(wanted)).unwrap_or(0)
}

impl Broker {
    /// Lowers what flows of one session would get of an aggregate to what there is room for, where that is the policy of the aggregate, or of
    /// this node for what others ask. What does not even fit with its smallest rates is left as it is, to be refused.
    pub(crate) fn lower_to_fit(
        &self,
        name: &AggregateName,
        asked: &[HoldFlow],
        grants: &mut [Grant],
        terms: Terms,
        second: bool,
    ) {
        let Some(aggregate) = self.aggregates.get(name).filter(|aggregate| self.lowers(aggregate, second)) else {
            return;
        };
        let of_this = |flow: &HoldFlow| flow.aggregate == *name;
        let takers = asked.iter().zip(&*grants).filter(|(flow, _)| of_this(flow)).map(|(flow, grant)| Taker {
            meter: grant.meter,
            rate_bps_min: flow.rate_bps_min.min(grant.meter.rate_bps),
            overhead_bytes: aggregate.overhead_bytes(&flow.endpoints),
        });
        let takers: Vec<Taker> = takers.collect();
        let free_bps = self.free_bps(aggregate, terms.schedule.interval(), terms.priority.emergency);
        let Some(rates) = split(free_bps, &takers) else { return };
        let of_this = asked.iter().zip(grants).filter(|(flow, _)| of_this(flow));
        for ((_, grant), rate_bps) in of_this.zip(rates) {
            grant.meter.rate_bps = rate_bps;
        }
    }

    /// Whether flows may get less than they ask for where there is not enough room.
    pub(crate) fn lowers(&self, aggregate: &Aggregate, second: bool) -> bool {
        aggregate.record.when_full == WhenFull::Degrade || (second && self.config.second_side.lower_to_fit)
    }

    /// The least that a flow may get at the first side.
    pub(crate) fn least(&self, flow: &FlowRecord) -> FlowRecord {
        let lowers = self.aggregates.get(&flow.aggregate).is_some_and(|aggregate| self.lowers(aggregate, false));
        let rate_bps = if lowers { flow.rate_bps_min.min(flow.meter.rate_bps) } else { flow.meter.rate_bps };
        FlowRecord { meter: Meter { rate_bps, ..flow.meter }, ..flow.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn taker(rate_bps: u64, rate_bps_min: u64, packet_bytes_min: u16) -> Taker {
        let meter = Meter { rate_bps, burst_bytes: 400, packet_bytes_min, excess: None };
        Taker { meter, rate_bps_min, overhead_bytes: 8 }
    }

    #[test]
    fn what_is_left_beyond_the_smallest_rates_goes_by_what_each_wants() {
        // 4 % are the tags.
        let takers = [taker(500_000, 100_000, 200), taker(300_000, 100_000, 200)];
        assert_eq!(split(832_000, &takers), Some(vec![500_000, 300_000]));
        assert_eq!(split(520_000, &takers), Some(vec![300_000, 200_000]));
        assert_eq!(split(208_000, &takers), Some(vec![100_000, 100_000]));
        assert_eq!(split(207_999, &takers), None);
    }

    proptest! {
        #[test]
        fn all_that_fits_is_given_and_never_more_than_asked_or_less_than_the_smallest(
            free_bps in prop_oneof![0u64..10_000, 0u64..10_000_000, Just(u64::MAX)],
            flows in prop::collection::vec((1u64..3_000_000, 0u64..1_000, 28u16..1_500), 1..6),
        ) {
            let takers: Vec<Taker> = flows.iter().map(|(rate_bps, least, packet)| {
                taker(*rate_bps, (*rate_bps * least / 1_000).max(1), *packet)
            }).collect();
            let cost = |rate: fn(&Taker) -> u64| takers.iter().map(|taker| taker.wire_bps(rate(taker))).sum::<u64>();
            let (least, most) = (cost(|taker| taker.rate_bps_min), cost(|taker| taker.meter.rate_bps));
            let Some(rates) = split(free_bps, &takers) else {
                prop_assert!(least > free_bps);
                return Ok(());
            };
            let given: u64 = takers.iter().zip(&rates).map(|(taker, rate_bps)| taker.wire_bps(*rate_bps)).sum();
            prop_assert!(least <= free_bps && given <= free_bps);
            for (taker, rate_bps) in takers.iter().zip(&rates) {
                prop_assert!((taker.rate_bps_min..=taker.meter.rate_bps).contains(rate_bps));
            }
            // What is left over is what rounding costs each.
            prop_assert!(given == most || free_bps - given <= 3 * takers.len() as u64, "{given} of {free_bps}");
        }
    }
}
