//! Forwarding for real: frames that are tagged and sent through the device map, over a veth pair, against the same frames sent back as they are.

use std::thread;

use anyhow::{Context as _, ensure};
use nix::net::if_::if_nametoindex;

use crate::host::{make_link, remove_link};
use crate::object::{self, FLOWS};
use crate::rounds::{Case, Ends, First, Live, Team};
use crate::scene::Scene;
use crate::stats::Quantiles;

const NEAR: &str = "near";
const FAR: &str = "far";
const KEYS: u32 = 1_024;
const PACKETS: u32 = 200_000;

/// Time per packet that arrived: bare, then ours.
pub(crate) struct Forwarding {
    pub(crate) bare: Quantiles,
    pub(crate) ours: Quantiles,
    pub(crate) runs: usize,
    /// Of the packets sent.
    pub(crate) arrived: [f64; 2],
}

impl Forwarding {
    /// Our packets per second over the bare ones'.
    pub(crate) fn ratio(&self) -> f64 {
        self.bare.p25 / self.ours.p25
    }
}

/// Measures both in turn, on one CPU that also takes the packets in at the far end.
pub(crate) fn measure(cpus: u32, rounds: u32) -> anyhow::Result<Forwarding> {
    let (mut programs, maps) = object::load(cpus, FLOWS)?;
    let device = programs.attach("live")?;
    make_link(NEAR, FAR)?;
    programs.attach_also("tb_drop", NEAR)?;
    programs.attach_also("tb_sink", FAR)?;
    let mut scene = Scene::set_up(&programs, maps, &device, cpus, FLOWS)?;
    let ifindex = if_nametoindex(NEAR).context("the device is gone")?;
    scene.maps.set_device(0, ifindex)?;
    scene.plan(KEYS, 0)?;
    let case = |program| Case {
        program,
        first: First::Plain(64),
        ends: Ends::Passed,
        action: 0,
        live: Some(Live { ifindex }),
    };
    let cases = [case("tb_live_tx"), case("tb_live_out")];
    let found = thread::scope(|scope| {
        let team = Team::start(scope, &programs, cpus);
        let (mut samples, mut sent, mut arrived) = ([Vec::new(), Vec::new()], 0_u64, [0_u64; 2]);
        // The first round warms up.
        for round in 0..=rounds {
            for (index, case) in cases.iter().enumerate() {
                let before = scene.arrived()?;
                let calls = team.call(case, PACKETS, 1)?;
                let count = scene.arrived()? - before;
                ensure!(count > u64::from(PACKETS) / 2, "{}: only {count} of {PACKETS} arrived", case.program);
                if round > 0 {
                    let wall_ns: u64 = calls.iter().map(|call| call.wall_ns).sum();
                    #[allow(clippy::cast_precision_loss, reason = "seconds in nanoseconds")]
                    samples[index].push(wall_ns as f64 / count as f64);
                    arrived[index] += count;
                }
            }
            sent += if round > 0 { u64::from(PACKETS) } else { 0 };
        }
        let [bare, ours] = [Quantiles::of(&samples[0]), Quantiles::of(&samples[1])];
        let (bare, ours) = bare.zip(ours).context("no rounds")?;
        #[allow(clippy::cast_precision_loss, reason = "some millions")]
        let arrived = arrived.map(|count| count as f64 / sent as f64);
        anyhow::Ok(Forwarding { bare, ours, runs: samples[0].len(), arrived })
    })?;
    drop(programs);
    remove_link(NEAR)?;
    Ok(found)
}
