//! The checker finds bugs: each of those that are planted in the broker, within a bounded number of seeds, and by the rule it is for.
#![allow(clippy::unwrap_used, reason = "what is not expected is a failed test")]

use turnpike_broker::{Broker, PlantedBug};
use turnpike_simulation::{Options, Report, Rule, run};

const SEEDS_MAX: u64 = 20;

fn world(seed: u64, prepare: fn(&mut Broker)) -> Report {
    run(&Options { nodes: 12, sessions: 300, busy_s: 120, prepare, ..Options::new(seed) })
}

/// The rule by which it was found, and the seed.
fn found(prepare: fn(&mut Broker)) -> Option<(u64, Rule)> {
    (1..=SEEDS_MAX).find_map(|seed| {
        let (seed, violation) = world(seed, prepare).violations.pop()?;
        println!("seed {seed}: {violation}");
        Some((seed, violation.rule))
    })
}

#[test]
fn a_release_that_is_skipped_is_found_as_a_leak() {
    let (_, rule) = found(|broker| broker.plant(PlantedBug::ReleaseSkipped)).unwrap();
    assert_eq!(rule, Rule::Leak);
}

#[test]
fn an_early_answer_is_found_as_not_confirmed() {
    let (_, rule) = found(|broker| broker.plant(PlantedBug::AnsweredEarly)).unwrap();
    assert_eq!(rule, Rule::Confirmation);
}

#[test]
fn a_hold_whose_share_ends_a_tick_before_it_is_found_at_its_pool() {
    let (_, rule) = found(|broker| broker.plant(PlantedBug::HoldEndsTwice)).unwrap();
    assert_eq!(rule, Rule::Capacity);
}

#[test]
fn a_fence_that_ends_one_attempt_early_is_found_as_such() {
    let (_, rule) = found(|broker| broker.plant(PlantedBug::FenceEndsEarly)).unwrap();
    assert_eq!(rule, Rule::Fence);
}

#[test]
fn an_interval_that_lacks_its_last_instant_is_found_at_its_pool() {
    let (_, rule) = found(|broker| broker.plant(PlantedBug::IntervalEndsEarly)).unwrap();
    assert_eq!(rule, Rule::Capacity);
}

#[test]
fn an_offer_that_is_not_given_back_is_found_as_not_lapsed() {
    let (_, rule) = found(|broker| broker.plant(PlantedBug::OfferKept)).unwrap();
    assert_eq!(rule, Rule::Lapse);
}

#[test]
fn nothing_is_found_where_nothing_is_planted() {
    for seed in 1..=SEEDS_MAX {
        assert_eq!(world(seed, |_| {}).violations, []);
    }
}
