//! What packets cost that are not plain: each frame that the tests of the packet logic name and that is carried, again and again, with the
//! tail calls that it takes.

use std::thread;

use anyhow::Context as _;
use nix::net::if_::if_nametoindex;
use turnpike_fastpath::contract::table;
use turnpike_fastpath::entry::FlowRate;
use turnpike_fastpath::meter::{flow_rate, pool_rate};
use turnpike_fastpath::{Direction, Reason};
use zerocopy::transmute;

use crate::contract::{FIRST_WORDS, FirstFrame};
use crate::cost::{REPEAT, XDP_DROP, XDP_REDIRECT};
use crate::host::{make_link, make_routes};
use crate::object::{self, Maps, bench_map};
use crate::rounds::{Case, Ends, First, Team};
use crate::scene::{AMPLE_BPS, AMPLE_BURST_BYTES, MTU_BYTES, Scene};
use crate::stats::Quantiles;

use crate::world::{self, host::World};

/// Twice the flows of the tests' scene, whose table has as many buckets.
const FLOWS: u32 = 64;
const FLOOR: &str = "tb_floor_way";
const SITE: &str = "site";
const AWAY: &str = "away";

/// A named frame, and what it costs.
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) direction: Direction,
    pub(crate) total: Quantiles,
    pub(crate) above_floor_ns: f64,
    pub(crate) runs: usize,
}

/// Measures all of them, interleaved, on one CPU.
pub(crate) fn measure(cpus: u32, rounds: u32) -> anyhow::Result<Vec<Way>> {
    let (mut programs, maps) = object::load(cpus, FLOWS)?;
    programs.attach("way")?;
    let mut scene = Scene::bare(&programs, maps, cpus, FLOWS)?;
    // Packets whose tags tell their terminals are sent where the kernel says.
    make_link(SITE, AWAY)?;
    make_routes(SITE, &[world::SITE_A, world::SITE_A6])?;
    let device = if_nametoindex(SITE).context("the device is gone")?;
    for port in 0..4 {
        scene.maps.set_device(port, device)?;
    }
    let tick_ns = scene.tick_ns;
    let mut world = World::new();
    world.ports[0].ifindex = device;
    fill(&mut scene.maps, world, cpus, tick_ns)?;
    thread::scope(|scope| {
        let team = Team::start(scope, &programs, cpus);
        measure_all(&team, &mut scene, rounds)
    })
}

fn measure_all(team: &Team<'_>, scene: &mut Scene, rounds: u32) -> anyhow::Result<Vec<Way>> {
    let carried =
        |case: &world::Case| matches!(case.reason, Reason::Tagged | Reason::Restored) && rtp_at(&case.frame).is_some();
    let cases: Vec<_> = world::cases().into_iter().filter(carried).collect();
    let mut samples = vec![(Vec::new(), Vec::new()); cases.len()];
    // The first round warms up and sees whether verdicts are right.
    for round in 0..=rounds {
        for (case, (floors, totals)) in cases.iter().zip(&mut samples) {
            let program = match case.direction {
                Direction::Out => "tb_way_out",
                Direction::In => "tb_way_in",
            };
            set_first(&mut scene.maps, &case.frame)?;
            let first = First::Frame(case.frame.clone().leak());
            let floor = Case { program: FLOOR, first, ends: Ends::Passed, action: XDP_DROP, live: None };
            let row = Case { program, action: XDP_REDIRECT, ..floor };
            let floor = team.sample(scene, &floor, REPEAT, 1)?;
            let total = team.sample(scene, &row, REPEAT, 1).with_context(|| case.name)?;
            if round > 0 {
                floors.push(floor);
                totals.push(total);
            }
        }
    }
    let way = |(case, (floors, totals)): (&world::Case, &(Vec<f64>, Vec<f64>))| {
        let (floor, total) = (Quantiles::of(floors)?, Quantiles::of(totals)?);
        let (name, direction) = (case.name, case.direction);
        Some(Way { name, direction, total, above_floor_ns: total.p25 - floor.p25, runs: totals.len() })
    };
    cases.iter().zip(&samples).map(|row| way(row).context("no rounds")).collect()
}

/// Where a frame's RTP header is, if it ends with the tests' RTP and is as long as what is restored.
fn rtp_at(frame: &[u8]) -> Option<usize> {
    let at = frame.len().checked_sub(world::rtp().len())?;
    (frame.get(at..at + 2)? == [0x80, 8] && frame.len() >= FIRST_WORDS * 8).then_some(at)
}

fn set_first(maps: &mut Maps, frame: &[u8]) -> anyhow::Result<()> {
    let mut words = [0; FIRST_WORDS];
    for (word, bytes) in words.iter_mut().zip(frame.chunks_exact(8)) {
        *word = u64::from_ne_bytes(bytes.try_into()?);
    }
    let rtp_at = rtp_at(frame).context("no RTP")? as u64;
    let first = FirstFrame { length: frame.len() as u64, rtp_at, words };
    maps.write::<{ FIRST_WORDS + 2 }>(bench_map::FIRST, [(0, transmute!(first))])
}

/// Writes the tests' scene into the tables, with rates that nothing exceeds.
fn fill(maps: &mut Maps, mut world: World, cpus: u32, tick_ns: u64) -> anyhow::Result<()> {
    let ample = flow_rate(AMPLE_BPS, AMPLE_BURST_BYTES, tick_ns).context("the ample rate does not fit")?;
    let pool = pool_rate(AMPLE_BPS, AMPLE_BURST_BYTES, cpus, MTU_BYTES).context("the ample rate does not fit")?;
    let amply = |rate: &mut FlowRate| {
        if *rate == world::host::ample() {
            *rate = ample;
        }
    };
    world.config.tick_ns = tick_ns;
    world.flows.iter_mut().for_each(|flow| amply(&mut flow.rate));
    world.labels.iter_mut().for_each(|label| amply(&mut label.rate));
    world.flow_details.iter_mut().chain(&mut world.label_details).for_each(|detail| amply(&mut detail.excess));
    for (aggregate, shared) in world.aggregates.iter_mut().zip(&mut world.pools) {
        (aggregate.quantum_bytes, aggregate.quantum_ns) = (pool.quantum_bytes, pool.quantum_ns);
        aggregate.depth_ns = pool.depth_ns;
        *shared = pool.pool();
    }
    maps.write::<200>(table::CONFIG, [(0, transmute!(world.config))])?;
    maps.write::<8>(table::BUCKETS, (0..).zip(world.buckets).map(|(index, entry)| (index, transmute!(entry))))?;
    maps.write::<8>(table::FLOWS, (0..).zip(world.flows).map(|(index, entry)| (index, transmute!(entry))))?;
    maps.write::<8>(table::LABELS, (0..).zip(world.labels).map(|(index, entry)| (index, transmute!(entry))))?;
    let details = (0..).zip(world.flow_details).map(|(index, entry)| (index, transmute!(entry)));
    maps.write::<8>(table::FLOW_DETAILS, details)?;
    let details = (0..).zip(world.label_details).map(|(index, entry)| (index, transmute!(entry)));
    maps.write::<8>(table::LABEL_DETAILS, details)?;
    maps.write::<8>(table::AGGREGATES, (0..).zip(world.aggregates).map(|(index, entry)| (index, transmute!(entry))))?;
    maps.write::<8>(table::POOLS, (0..).zip(world.pools).map(|(index, entry)| (index, transmute!(entry))))?;
    maps.write::<1>(table::NEXT_HOPS, (0..).zip(world.next_hops).map(|(index, entry)| (index, transmute!(entry))))?;
    maps.write::<4>(table::PORTS, (0..).zip(world.ports).map(|(index, entry)| (index, transmute!(entry))))
}
