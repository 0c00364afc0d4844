//! Interleaved test runs on pinned threads.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread::Scope;

use anyhow::{Context as _, anyhow, ensure};
use aya::TestRun as _;
use aya::programs::{TestRunAttrs, TestRunOptions, Xdp};
use turnpike_fastpath::wire::{ethernet, tag};
use zerocopy::IntoBytes as _;

use crate::contract::{PLAIN_LENGTH, plain_headers, tagged_headers};
use crate::host::{monotonic_ns, pin, thread_cpu_ns};
use crate::object::Programs;
use crate::scene::Scene;

/// How the packets of a program have to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    /// The program does not count.
    Uncounted,
    /// As its name says.
    Passed,
    /// As its name says, but for one in a hundred that lost too many races for a shared word.
    Contended,
    /// Refused, all of them.
    Refused,
}

/// The first packet of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    /// From the site, with so many hops left.
    Plain(u8),
    /// From the peer.
    Tagged,
    /// This one.
    Frame(&'static [u8]),
}

/// Bytes of a plain frame.
const FRAME_BYTES: usize = ethernet::HEADER_BYTES + PLAIN_LENGTH as usize;

impl First {
    fn frame(self) -> Vec<u8> {
        let (mut frame, bytes) = match self {
            Self::Plain(time_to_live) => (plain_headers(0, time_to_live).as_bytes().to_vec(), FRAME_BYTES),
            Self::Tagged => (tagged_headers(0, 0).as_bytes().to_vec(), FRAME_BYTES + tag::HEADER_BYTES),
            Self::Frame(frame) => (frame.to_vec(), frame.len()),
        };
        frame.resize(bytes, 0);
        frame
    }
}

/// A program and how its packets have to end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) program: &'static str,
    pub(crate) first: First,
    pub(crate) ends: Ends,
    /// The action that the program returns.
    pub(crate) action: u32,
    /// Set where frames are sent.
    pub(crate) live: Option<Live>,
}

/// One call of a program.
struct Job<'p> {
    program: &'p Xdp,
    first: First,
    repeat: u32,
    live: Option<Live>,
    together: Option<Arc<Barrier>>,
}

/// Packets that are sent and not only returned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Live {
    /// Where they seem to come from.
    pub(crate) ifindex: u32,
}

/// Packets that the kernel takes at once.
const BATCH: u32 = 64;

/// What a call took and returned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) cpu_ns: u64,
    pub(crate) wall_ns: u64,
    pub(crate) action: u32,
}

struct Worker<'p> {
    jobs: Sender<Job<'p>>,
    calls: Receiver<anyhow::Result<Call>>,
}

/// A thread on each of two CPUs, or on one if the host has no more. They end with it.
pub(crate) struct Team<'p> {
    programs: &'p Programs,
    workers: Vec<Worker<'p>>,
}

impl<'p> Team<'p> {
    pub(crate) fn start<'s>(scope: &'s Scope<'s, 'p>, programs: &'p Programs, cpus: u32) -> Self {
        let workers = (0..cpus.min(2)).map(|cpu| start_worker(scope, cpu as usize)).collect();
        Self { programs, workers }
    }

    /// How many CPUs it can use.
    pub(crate) const fn size(&self) -> usize {
        self.workers.len()
    }

    /// Runs a program on the first of these workers, or on all of them at once.
    pub(crate) fn call(&self, case: &Case, repeat: u32, cpus: usize) -> anyhow::Result<Vec<Call>> {
        let program = self.programs.get(case.program)?;
        let together = (cpus > 1).then(|| Arc::new(Barrier::new(cpus)));
        // The last CPU first: the first one is where the host's own work tends to be.
        let used = || self.workers.iter().rev().take(cpus);
        for worker in used() {
            let job = Job { program, first: case.first, repeat, live: case.live, together: together.clone() };
            worker.jobs.send(job).map_err(|_| anyhow!("a thread has ended"))?;
        }
        used().map(|worker| worker.calls.recv().context("a thread has ended")?).collect()
    }

    /// Nanoseconds of CPU time per packet, the mean of all CPUs; an error if a packet did not end as it has to.
    pub(crate) fn sample(&self, scene: &Scene, case: &Case, repeat: u32, cpus: usize) -> anyhow::Result<f64> {
        let before = counts(scene)?;
        let calls = self.call(case, repeat, cpus)?;
        let after = counts(scene)?;
        let (turns, refused) = (after.0 - before.0, after.1 - before.1);
        let all = u64::from(repeat) * cpus as u64;
        let good = match case.ends {
            Ends::Uncounted => (turns, refused) == (0, 0),
            Ends::Passed => (turns, refused) == (all, 0),
            Ends::Contended => turns == all && refused <= all / 100,
            Ends::Refused => (turns, refused) == (all, all),
        };
        ensure!(
            good,
            "{}: {refused} of {turns} packets were refused, which is not what is to be measured",
            case.program
        );
        let mut sum_ns = 0;
        for call in &calls {
            ensure!(call.action == case.action, "{} returned {}, not {}", case.program, call.action, case.action);
            sum_ns += call.cpu_ns;
        }
        #[allow(clippy::cast_precision_loss, reason = "milliseconds in nanoseconds")]
        Ok(sum_ns as f64 / calls.len() as f64 / f64::from(repeat))
    }
}

fn counts(scene: &Scene) -> anyhow::Result<(u64, u64)> {
    let mut sum = (0, 0);
    for cpu in 0..scene.cpus {
        let (turns, refused) = scene.state(cpu)?;
        sum = (sum.0 + turns, sum.1 + refused);
    }
    Ok(sum)
}

fn start_worker<'s, 'p>(scope: &'s Scope<'s, 'p>, cpu: usize) -> Worker<'p> {
    let (jobs, todo) = channel::<Job<'p>>();
    let (done, calls) = channel();
    scope.spawn(move || {
        let pinned = pin(cpu).map_err(|error| format!("{error:#}"));
        for job in todo {
            let call = match &pinned {
                Ok(()) => run(&job),
                Err(error) => Err(anyhow!("{error}")),
            };
            if done.send(call).is_err() {
                return;
            }
        }
    });
    Worker { jobs, calls }
}

fn run(job: &Job<'_>) -> anyhow::Result<Call> {
    let frame = job.first.frame();
    let mut options = TestRunOptions { data_in: Some(&frame), repeat: job.repeat, ..TestRunOptions::default() };
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
    let context = [0, u32::try_from(frame.len())?, 0, job.live.map_or(0, |live| live.ifindex), 0, 0];
    if job.live.is_some() {
        options.ctx_in = Some(context.as_bytes());
        options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
    }
    if let Some(together) = &job.together {
        together.wait();
    }
    let (wall_ns, cpu_ns) = (monotonic_ns()?, thread_cpu_ns()?);
    let result = job.program.test_run(options)?;
    let (cpu_ns, wall_ns) = (thread_cpu_ns()? - cpu_ns, monotonic_ns()? - wall_ns);
    Ok(Call { cpu_ns, wall_ns, action: result.return_value })
}
