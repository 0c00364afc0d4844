//! A network namespace of our own, its devices, and threads that stay on one CPU.

use std::fs;
use std::net::IpAddr;
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
pub(crate) fn make_devices(prefix: &str, count: usize) -> anyhow::Result<Vec<String>> {
    let names: Vec<_> = (0..count.next_multiple_of(2)).map(|number| format!("{prefix}{number}")).collect();
    for pair in names.chunks(2) {
        let [one, other] = pair else { continue };
        ip(&format!("link add {one} type veth peer name {other}"))?;
    }
    Ok(names)
}

/// Makes a pair of devices that are up.
pub(crate) fn make_link(one: &str, other: &str) -> anyhow::Result<()> {
    ip(&format!("link add {one} type veth peer name {other}"))?;
    ip(&format!("link set {one} up"))?;
    ip(&format!("link set {other} up"))
}

/// Removes a pair of devices.
pub(crate) fn remove_link(one: &str) -> anyhow::Result<()> {
    ip(&format!("link del {one}"))
}

/// Makes the kernel know the way and the neighbour to these addresses, and forward to them.
pub(crate) fn make_routes(device: &str, addresses: &[IpAddr]) -> anyhow::Result<()> {
    for family in ["ipv4", "ipv6"] {
        let switch = format!("/proc/sys/net/{family}/conf/all/forwarding");
        fs::write(&switch, "1").with_context(|| format!("cannot write {switch}"))?;
    }
    for address in addresses {
        ip(&format!("route add {address} dev {device}"))?;
        ip(&format!("neigh add {address} lladdr 02:00:00:00:02:02 dev {device} nud permanent"))?;
    }
    Ok(())
}

fn ip(arguments: &str) -> anyhow::Result<()> {
    let status = Command::new("ip").args(arguments.split(' ')).status().context("cannot start ip")?;
    ensure!(status.success(), "`ip {arguments}` failed");
    Ok(())
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
