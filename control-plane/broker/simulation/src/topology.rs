//! Who peers with whom, and what they are configured with.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use turnpike_broker::name::{Epoch, LinkName, NodeName};
use turnpike_broker::{Capacity, Config, Limits, Link, Peer, SecondSide, Timers};

use crate::plane::TAG_FAMILY;
use crate::random::Random;

/// A name that is legal by its making.
pub(crate) fn name<T: FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| unreachable!("{text} is a legal name"))
}

pub(crate) fn node_name(index: usize) -> NodeName {
    name(&format!("n{index}"))
}

/// A ring, so that all are connected, and half as many chords.
pub(crate) fn pairs(nodes: usize, random: &mut Random) -> BTreeSet<(usize, usize)> {
    let pair = |a: usize, b: usize| (a.min(b), a.max(b));
    let mut pairs: BTreeSet<_> = (0..nodes).map(|node| pair(node, (node + 1) % nodes)).collect();
    for _ in 0..nodes / 2 {
        pairs.insert(pair(random.index(nodes), random.index(nodes)));
    }
    pairs.retain(|(a, b)| a != b);
    pairs
}

/// What the link of a node with so many peers is configured to carry.
pub(crate) const fn link_rate_bps(peers: usize) -> u64 {
    (peers as u64 + 1) * 2_000_000
}

/// Small tables and links, so that they are full now and then. Nodes differ.
pub(crate) fn config(node: usize, pairs: &BTreeSet<(usize, usize)>, random: &mut Random) -> Config {
    let link: LinkName = name("wan0");
    let others = pairs.iter().filter_map(|&(a, b)| match node {
        _ if a == node => Some(b),
        _ if b == node => Some(a),
        _ => None,
    });
    let peers: BTreeMap<_, _> =
        others.map(|other| (node_name(other), Peer { link: link.clone(), tag_family: TAG_FAMILY })).collect();
    let rate_bps = link_rate_bps(peers.len());
    // Less than its aggregates together, at half of them.
    let forwards_bps = random.chance(500_000).then(|| rate_bps * random.between(40, 90) / 100);
    let slots = ["mix", "transcode"].into_iter().filter(|_| random.chance(930_000)).collect::<Vec<_>>();
    let media_slots = slots.into_iter().map(|slot| (name(slot), u32::try_from(random.between(1, 8)).unwrap_or(2)));
    let capacity = Capacity { rate_bps: forwards_bps, media_slots: media_slots.collect() };
    let mut label_secret = [0; 16];
    label_secret[..8].copy_from_slice(&random.next().to_le_bytes());
    Config {
        capacity,
        node: node_name(node),
        epoch: Epoch(1),
        links: [(link, Link { rate_out_bps: rate_bps, rate_in_bps: rate_bps })].into(),
        classes: BTreeMap::new(),
        class_percent_max: BTreeMap::new(),
        peers,
        limits: Limits {
            aggregates_max: 32,
            sessions_max: 48,
            sessions_ended_max: usize::try_from(random.between(2, 64)).unwrap_or(64),
            flows_per_session_max: 4,
            flows_max: 64,
            ..Limits::default()
        },
        timers: Timers::default(),
        second_side: SecondSide {
            flow_rate_bps_max: random.chance(300_000).then_some(300_000),
            flow_excess_rate_bps_max: None,
            lower_to_fit: random.chance(500_000),
            ..SecondSide::default()
        },
        label_secret,
    }
}
