//! How much the meters admit of what they should, under an offer that never ends.

use anyhow::Context as _;

use crate::contract::PLAIN_LENGTH;
use crate::host::monotonic_ns;
use crate::rounds::{Case, Ends, First, Team};
use crate::scene::Scene;

const NS_PER_S: f64 = 1e9;
/// Packets of a call: a millisecond's where they have to saturate the rate, and else fewer, so that the moments of change are known better.
const REPEAT_FAST: u32 = 20_000;
const REPEAT_SLOW: u32 = 4_000;
const FAST_BPS: u64 = 1_000_000_000;
/// Preemption must not lose tokens, so the burst is at least so much time at the rate.
const BURST_MS: u64 = 200;
/// A bucket is empty when more than one in so many packets is refused.
const EMPTY_SHARE: u64 = 50;
/// A meter that has not refused anything by then is not held by its rate.
const SPENT_NS_MAX: u64 = 5_000_000_000;

/// A program whose only work is one meter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meter {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    program: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Flow,
    FlowExact,
    Aggregate,
    Baseline,
}

impl Meter {
    /// One that the product has, not a baseline.
    pub(crate) fn is_ours(self) -> bool {
        self.kind != Kind::Baseline
    }
}

pub(crate) const METERS: &[Meter] = &[
    Meter { name: "aggregate_meter", title: "aggregate meter", program: "tb_aggregate", kind: Kind::Aggregate },
    Meter { name: "flow_meter", title: "flow meter, coarse clock", program: "tb_flow_coarse", kind: Kind::Flow },
    Meter {
        name: "flow_meter_exact",
        title: "flow meter, exact clock",
        program: "tb_flow_exact",
        kind: Kind::FlowExact,
    },
    Meter { name: "baseline_cas", title: "baseline: clock + CAS", program: "tb_schedule", kind: Kind::Baseline },
    Meter { name: "baseline_lock", title: "baseline: clock + spin lock", program: "tb_locked", kind: Kind::Baseline },
    Meter { name: "baseline_window", title: "baseline: 5 ms window", program: "tb_window", kind: Kind::Baseline },
];

/// What one meter admitted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accuracy {
    pub(crate) meter: Meter,
    pub(crate) rate_bps: u64,
    pub(crate) cpus: usize,
    /// Of the configured rate, once the burst is spent.
    pub(crate) per_cent: f64,
    /// Most that was admitted at any time, of rate × time + burst.
    pub(crate) ceiling_per_cent: f64,
    /// What one packet more on each CPU, and one call later, is.
    pub(crate) resolution_per_cent: f64,
    /// Of the configured rate.
    pub(crate) offered_per_cent: f64,
}

/// Bytes admitted up to a time.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Reading {
    ns: u64,
    bytes: u64,
}

/// Measures all meters, but where the offer would be too small.
pub(crate) fn measure(team: &Team<'_>, scene: &mut Scene, quick: bool) -> anyhow::Result<Vec<Accuracy>> {
    let mut found = Vec::new();
    for meter in METERS {
        let rates: &[u64] = match (meter.is_ours(), quick) {
            (true, false) => &[64_000, 10_000_000, 100_000_000, 1_000_000_000, 10_000_000_000],
            (true, true) => &[100_000_000, 10_000_000_000],
            (false, false) => &[100_000_000, 1_000_000_000],
            (false, true) => &[],
        };
        for rate_bps in rates {
            for cpus in 1..=team.size() {
                let seconds = match rate_bps {
                    _ if quick => 1,
                    0..1_000_000 => 8,
                    1_000_000..100_000_000 => 3,
                    100_000_000..1_000_000_000 => 6,
                    _ => 4,
                };
                found.extend(measure_one(team, scene, *meter, *rate_bps, cpus, seconds)?);
            }
        }
    }
    Ok(found)
}

/// None if the CPUs cannot offer as much as the rate.
fn measure_one(
    team: &Team<'_>,
    scene: &mut Scene,
    meter: Meter,
    rate_bps: u64,
    cpus: usize,
    seconds: u64,
) -> anyhow::Result<Option<Accuracy>> {
    let burst_bytes = scene.set_rate(meter.kind == Kind::Flow, rate_bps, BURST_MS)?;
    scene.plan(1, 0)?;
    let case = Case { program: meter.program, first: First::Plain(64), ends: Ends::Passed, action: 1, live: None };
    let counted = |scene: &Scene| -> anyhow::Result<(u64, u64)> {
        let mut sum = (0, 0);
        for cpu in 0..scene.cpus {
            let (turns, refused) = scene.state(cpu)?;
            sum = (sum.0 + turns, sum.1 + (turns - refused));
        }
        Ok(sum)
    };
    let packet_bytes = u64::from(PLAIN_LENGTH);
    let repeat = if rate_bps < FAST_BPS { REPEAT_SLOW } else { REPEAT_FAST };
    #[allow(clippy::cast_precision_loss, reason = "a few times 10^10 at most")]
    let (rate, burst) = (rate_bps as f64 / 8.0 / NS_PER_S, burst_bytes as f64);
    let (offered_before, passed_before) = counted(scene)?;
    let start_ns = monotonic_ns()?;
    let mut before = (offered_before, passed_before);
    let (mut readings, mut calls) = (Vec::<Reading>::new(), 0);
    let mut ceiling = 0.0_f64;
    let end_ns = loop {
        team.call(&case, repeat, cpus)?;
        calls += 1;
        let now = counted(scene)?;
        let reading = Reading { ns: monotonic_ns()? - start_ns, bytes: (now.1 - passed_before) * packet_bytes };
        #[allow(clippy::cast_precision_loss, reason = "a few times 10^10 at most")]
        let (ns, bytes) = (reading.ns as f64, reading.bytes as f64);
        ceiling = ceiling.max(bytes / (rate * ns + burst));
        // Where next to nothing was refused there are tokens left, and what was admitted does not tell the rate. A few are refused for
        // races that they lost.
        let (offered, passed) = (now.0 - before.0, now.1 - before.1);
        if (offered - passed) * EMPTY_SHARE > offered && reading.bytes >= burst_bytes {
            readings.push(reading);
        }
        before = now;
        match readings.first() {
            Some(first) if reading.ns >= first.ns + seconds * 1_000_000_000 => break reading.ns,
            None if reading.ns > SPENT_NS_MAX => return Ok(None),
            Some(_) | None => {}
        }
    };
    let (first, last) = changes(&readings).context("too little was admitted to tell")?;
    #[allow(clippy::cast_precision_loss, reason = "a few times 10^10 at most")]
    let (ns, bytes, piece, call_ns, end_ns, offered) = (
        (last.ns - first.ns) as f64,
        (last.bytes - first.bytes) as f64,
        (packet_bytes * cpus as u64) as f64,
        (end_ns / calls) as f64,
        end_ns as f64,
        ((before.0 - offered_before) * packet_bytes) as f64,
    );
    Ok(Some(Accuracy {
        meter,
        rate_bps,
        cpus,
        per_cent: 100.0 * bytes / ns / rate,
        ceiling_per_cent: 100.0 * ceiling,
        resolution_per_cent: 100.0 * (piece / rate + call_ns) / ns,
        offered_per_cent: 100.0 * offered / end_ns / rate,
    }))
}

/// The first and the last reading at which something more had been admitted. What a slow meter admits comes in pieces, and between two
/// of these times there is a whole number of them.
fn changes(readings: &[Reading]) -> Option<(Reading, Reading)> {
    let mut changed = readings.windows(2).filter(|pair| pair[1].bytes > pair[0].bytes).map(|pair| pair[1]);
    let first = changed.next()?;
    let last = changed.next_back()?;
    Some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(bytes: &[u64]) -> Vec<Reading> {
        (0..).zip(bytes).map(|(ns, bytes)| Reading { ns, bytes: *bytes }).collect()
    }

    #[test]
    fn a_rate_is_taken_from_one_change_to_another() {
        let (first, last) = changes(&readings(&[5, 5, 6, 6, 6, 7, 7, 7, 8, 8])).unwrap();
        assert_eq!((first, last), (Reading { ns: 2, bytes: 6 }, Reading { ns: 8, bytes: 8 }));
    }

    #[test]
    fn one_change_is_no_rate() {
        assert_eq!(changes(&readings(&[1, 1, 2, 2])), None);
        assert_eq!(changes(&[]), None);
    }
}
