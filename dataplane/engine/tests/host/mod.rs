//! A network namespace of the test's own, with the two ports of a node.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::Pid;
use turnpike_engine::{Engine, EngineConfig, Unadmitted, XdpMode};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Runs a test in a thread that has a network namespace and the first CPU to itself, with `lan` and `wan` and permanent neighbours. Where that
/// cannot be had the test says so and is skipped.
pub fn in_own_namespace(test: impl FnOnce(&EngineConfig) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root for network namespaces and BPF");
            return;
        }
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let mut cpus = CpuSet::new();
        cpus.set(0).unwrap();
        sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
        // No frames but the test's own.
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        for command in [
            "link set lo up",
            "link add lan type veth peer name site",
            "link add wan type veth peer name far",
            "addr add 10.1.0.1/24 dev lan",
            "addr add 198.18.0.1/24 dev wan",
            "link set lan up",
            "link set wan up",
            "link set site up",
            "link set far up",
            "route add 10.2.0.0/24 via 198.18.0.2",
            "neigh add 10.1.0.10 lladdr 02:00:00:00:02:02 dev lan nud permanent",
            "neigh add 198.18.0.2 lladdr 02:00:00:00:02:01 dev wan nud permanent",
            "neigh add 198.18.0.3 lladdr 02:00:00:00:02:03 dev wan nud permanent",
        ] {
            ip(command);
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let pin_dir = PathBuf::from(format!("/sys/fs/bpf/turnpike-test-{}-{number}", std::process::id()));
        let config = EngineConfig {
            pin_dir: pin_dir.clone(),
            lan: "lan".to_owned(),
            wan: "wan".to_owned(),
            xdp_mode: XdpMode::Auto,
            tag_address: Ipv4Addr::new(198, 18, 0, 1),
            tag_port: 47_700,
            peers: vec![Ipv4Addr::new(198, 18, 0, 2), Ipv4Addr::new(198, 18, 0, 3)],
            unadmitted: Unadmitted::Limit,
            flows_max: 256,
            aggregates_max: 16,
            lapse_after: Duration::from_secs(300),
        };
        let _detach = Detach(pin_dir);
        test(&config);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` in the calling thread's namespace.
pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("`ip` of iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

struct Detach(PathBuf);

impl Drop for Detach {
    fn drop(&mut self) {
        Engine::detach(&self.0).unwrap();
    }
}
