//! A network namespace of our own, its devices, and threads that stay on one CPU.

use std::process::Command;

use anyhow::{Context as _, ensure};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, geteuid};

/// Moves this process into an empty network namespace. Must come before its first thread.
pub(crate) fn enter_namespace() -> anyhow::Result<()> {
    ensure!(geteuid().is_root(), "loading XDP programs needs root");
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")
}

/// Makes so many devices, in pairs, and names them.
pub(crate) fn make_devices(count: usize) -> anyhow::Result<Vec<String>> {
    let names: Vec<_> = (0..count.next_multiple_of(2)).map(|number| format!("spare{number}")).collect();
    for pair in names.chunks(2) {
        let [one, other] = pair else { continue };
        let status = Command::new("ip").args(["link", "add", one, "type", "veth", "peer", "name", other]).status();
        ensure!(status.context("cannot start ip")?.success(), "cannot make the devices {one} and {other}");
    }
    Ok(names)
}

/// Keeps the calling thread on this CPU.
pub(crate) fn pin(cpu: usize) -> anyhow::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).with_context(|| format!("cannot run on CPU {cpu}"))
}

/// CPU time of the calling thread: what other processes take does not count.
pub(crate) fn thread_cpu_ns() -> anyhow::Result<u64> {
    clock_ns(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// The clock that `bpf_ktime_get_ns` reads.
pub(crate) fn monotonic_ns() -> anyhow::Result<u64> {
    clock_ns(ClockId::CLOCK_MONOTONIC)
}

fn clock_ns(clock: ClockId) -> anyhow::Result<u64> {
    let now = clock_gettime(clock).context("cannot read a clock")?;
    Ok(u64::try_from(now.tv_sec())? * 1_000_000_000 + u64::try_from(now.tv_nsec())?)
}
