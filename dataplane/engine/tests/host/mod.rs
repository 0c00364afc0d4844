//! A network namespace of the test's own, with the two ports of a node.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

pub mod load;

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::{Pid, gettid};
use turnpike_engine::{Engine, EngineConfig, Fragments, Unadmitted, XdpMode};

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
        assert!(pin(0));
        // No frames but the test's own.
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        for command in
            ["link set lo up", "link add lan type veth peer name site", "link add wan type veth peer name far"]
        {
            ip(command);
        }
        let (vlan, qinq) = if has_vlans() { make_vlans() } else { ("lan", "lan") };
        for interface in ["lan", "wan", vlan, qinq] {
            // No address that comes and changes by itself.
            write(&format!("net/ipv6/conf/{interface}/addr_gen_mode"), "1");
            write(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "0");
        }
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            write(&format!("net/{setting}"), "1");
        }
        for command in [
            "addr add 10.1.0.1/24 dev lan",
            "addr add 198.18.0.1/24 dev wan",
            "-6 addr add 2001:db8:1::1/64 dev lan nodad",
            "-6 addr add 2001:db8:f::1/64 dev wan nodad",
            "link set lan up",
            "link set wan up",
            "link set site up",
            "link set far up",
            "route add 10.2.0.10/32 via 198.18.0.2",
            "-6 route add 2001:db8:2::a/128 via 2001:db8:f::2",
            "neigh add 10.1.0.10 lladdr 02:00:00:00:02:02 dev lan nud permanent",
            "neigh add 2001:db8:1::a lladdr 02:00:00:00:02:02 dev lan nud permanent",
            "neigh add 198.18.0.2 lladdr 02:00:00:00:02:01 dev wan nud permanent",
            "neigh add 2001:db8:f::2 lladdr 02:00:00:00:02:01 dev wan nud permanent",
            "neigh add 198.18.0.3 lladdr 02:00:00:00:02:03 dev wan nud permanent",
        ] {
            ip(command);
        }
        for command in [
            format!("addr add 10.3.0.1/24 dev {vlan}"),
            format!("-6 addr add 2001:db8:4::1/64 dev {qinq} nodad"),
            format!("neigh add 10.3.0.10 lladdr 02:00:00:00:02:03 dev {vlan} nud permanent"),
            format!("neigh add 2001:db8:4::a lladdr 02:00:00:00:02:04 dev {qinq} nud permanent"),
        ] {
            ip(&command);
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let pin_dir = PathBuf::from(format!("/sys/fs/bpf/turnpike-test-{}-{number}", std::process::id()));
        let config = EngineConfig {
            pin_dir: pin_dir.clone(),
            lan: "lan".to_owned(),
            wan: "wan".to_owned(),
            xdp_mode: XdpMode::Auto,
            tag_addresses: vec![[198, 18, 0, 1].into(), "2001:db8:f::1".parse().unwrap()],
            tag_port: 47_700,
            peers: vec![[198, 18, 0, 2].into(), "2001:db8:f::2".parse().unwrap(), [198, 18, 0, 3].into()],
            unadmitted: Unadmitted::Limit,
            fragments: Fragments::Unadmitted,
            dscp_map_out: std::array::from_fn(|dscp| 63 - u8::try_from(dscp).unwrap()),
            dscp_map_in: std::array::from_fn(|dscp| 63 - u8::try_from(dscp).unwrap()),
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

/// Whether this kernel has VLAN interfaces.
pub fn has_vlans() -> bool {
    let output =
        Command::new("ip").args(["link", "add", "link", "lan", "name", "probe", "type", "vlan", "id", "9"]).output();
    let made = output.expect("`ip` of iproute2").status.success();
    if made {
        ip("link del probe");
    }
    made
}

/// One VLAN on the lan port, and one in another.
fn make_vlans() -> (&'static str, &'static str) {
    for command in [
        "link add link lan name lan100 type vlan id 100",
        "link add link lan name lan200 type vlan protocol 802.1ad id 200",
        "link add link lan200 name lan200x30 type vlan id 30",
        "link set lan up",
        "link set lan100 up",
        "link set lan200 up",
        "link set lan200x30 up",
    ] {
        ip(command);
    }
    ("lan100", "lan200x30")
}

/// Writes a setting of the calling thread's namespace.
pub fn write(setting: &str, value: &str) {
    std::fs::write(format!("/proc/sys/{setting}"), value).expect(setting);
}

/// Runs `ip` in the calling thread's namespace.
pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("`ip` of iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread in another network namespace of the test's own. Its interfaces go with it.
pub struct Elsewhere {
    thread_id: Pid,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Elsewhere {
    pub fn new() -> Self {
        let (identity, identities) = channel();
        let (jobs, waiting) = channel::<Job>();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
            identity.send(gettid()).unwrap();
            for job in waiting {
                job();
            }
        });
        Self { thread_id: identities.recv().unwrap(), jobs: Some(jobs), thread: Some(thread) }
    }

    /// Moves an interface of the calling thread's namespace there, and brings it up with an address and a default route.
    pub fn take(&self, interface: &'static str, address: &'static str, gateway: &'static str) {
        ip(&format!("link set {interface} netns {}", self.thread_id));
        self.run(move || {
            ip(&format!("addr add {address}/24 dev {interface}"));
            ip(&format!("link set {interface} up"));
            ip(&format!("route add default via {gateway}"));
            ip(&format!("neigh replace {gateway} lladdr 02:00:00:00:00:01 dev {interface} nud permanent"));
        });
    }

    /// Does this there, and waits for it.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.start(work).recv().unwrap()
    }

    /// Starts this there; the result comes through the channel.
    pub fn start<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
        let (result, results) = channel();
        let job = Box::new(move || drop(result.send(work())));
        self.jobs.as_ref().unwrap().send(job).unwrap();
        results
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        drop(self.jobs.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Moves the calling thread to a CPU; whether there is that CPU.
pub fn pin(cpu: usize) -> bool {
    let mut cpus = CpuSet::new();
    cpus.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cpus).is_ok()
}

struct Detach(PathBuf);

impl Drop for Detach {
    fn drop(&mut self) {
        Engine::detach(&self.0).unwrap();
    }
}
