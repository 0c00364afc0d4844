//! The demo's network: four namespaces in a row, made and removed here.
//!
//! ```text
//! site A 10.1.0.10 ── lan ── edge A ══ wan 198.18.0.0/30 ══ edge B ── lan ── site B 10.2.0.10
//! ```

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The port of an edge towards its site.
pub const LAN: &str = "lan";
/// The port of an edge towards the other edge.
pub const WAN: &str = "wan";
/// The port of a site.
pub const SITE_PORT: &str = "eth0";

/// One of the four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The callers.
    SiteA,
    /// The node of site A.
    EdgeA,
    /// The node of site B.
    EdgeB,
    /// The callees.
    SiteB,
}

impl Place {
    /// All of them, in the order of the wire.
    pub const ALL: [Self; 4] = [Self::SiteA, Self::EdgeA, Self::EdgeB, Self::SiteB];

    fn name(self) -> &'static str {
        match self {
            Self::SiteA => "site-a",
            Self::EdgeA => "edge-a",
            Self::EdgeB => "edge-b",
            Self::SiteB => "site-b",
        }
    }

    /// Its address: a site's own, an edge's on the wan.
    #[must_use]
    pub const fn address(self) -> Ipv4Addr {
        match self {
            Self::SiteA => Ipv4Addr::new(10, 1, 0, 10),
            Self::EdgeA => Ipv4Addr::new(198, 18, 0, 1),
            Self::EdgeB => Ipv4Addr::new(198, 18, 0, 2),
            Self::SiteB => Ipv4Addr::new(10, 2, 0, 10),
        }
    }
}

/// A network namespace of ours.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    handle: File,
}

impl Namespace {
    /// Makes it. Dropping it removes it with all of its interfaces.
    ///
    /// # Errors
    ///
    /// When there is one of that name, or the kernel refuses.
    pub fn add(name: String) -> anyhow::Result<Self> {
        ip(&["netns", "add", &name])?;
        match File::open(format!("/run/netns/{name}")) {
            Ok(handle) => Ok(Self { name, handle }),
            Err(error) => {
                delete(&name);
                Err(error).with_context(|| format!("cannot open the namespace {name}"))
            }
        }
    }

    /// Its name, as `ip netns` has it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Moves the calling thread into it, for good.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn enter(&self) -> anyhow::Result<()> {
        move_into_link_name_space(self.handle.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter the namespace {}", self.name))
    }

    /// Runs `work` on a thread of its own inside. Sockets made and processes started there stay there.
    ///
    /// # Errors
    ///
    /// When it cannot be entered, and what `work` says.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter()?;
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// `ip` inside, with these words.
    ///
    /// # Errors
    ///
    /// What it says.
    pub fn ip(&self, words: &str) -> anyhow::Result<()> {
        let mut args = vec!["-n", &self.name];
        args.extend(words.split_whitespace());
        ip(&args)
    }

    /// Sets `net/<key>` inside; an IPv6 key does not matter where there is no IPv6.
    ///
    /// # Errors
    ///
    /// When it cannot be set.
    pub fn sysctl(&self, key: &str, value: &str) -> anyhow::Result<()> {
        let path = format!("/proc/sys/net/{key}");
        self.run(|| match std::fs::write(&path, value) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && key.starts_with("ipv6/") => Ok(()),
            outcome => outcome.with_context(|| format!("cannot set {key} to {value} in {}", self.name)),
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        delete(&self.name);
    }
}

fn delete(name: &str) {
    if let Err(error) = ip(&["netns", "delete", name]) {
        eprintln!("cannot delete the namespace {name}: {error:#}");
    }
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    must(Command::new("ip").args(args))
}

/// Runs it quietly; what it said is in the error.
///
/// # Errors
///
/// When it cannot be started, or fails.
pub fn must(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    let args: Vec<_> = command.get_args().map(std::ffi::OsStr::to_string_lossy).collect();
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::bail!("{program} {} failed: {}", args.join(" "), said.trim())
}

/// What connects two of the four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cable {
    /// Site A and its edge.
    LanA,
    /// The two edges.
    Wan,
    /// Site B and its edge.
    LanB,
}

/// One end of a cable.
#[derive(Debug, Clone, Copy)]
struct End {
    place: Place,
    port: &'static str,
    address: &'static str,
    /// What is reached through it.
    route: Option<&'static str>,
}

impl Cable {
    /// All of them, in the order of the wire.
    pub const ALL: [Self; 3] = [Self::LanA, Self::Wan, Self::LanB];

    const fn ends(self) -> [End; 2] {
        const fn end(place: Place, port: &'static str, address: &'static str, route: Option<&'static str>) -> End {
            End { place, port, address, route }
        }
        match self {
            Self::LanA => [
                end(Place::SiteA, SITE_PORT, "10.1.0.10/24", Some("default via 10.1.0.1")),
                end(Place::EdgeA, LAN, "10.1.0.1/24", None),
            ],
            Self::Wan => [
                end(Place::EdgeA, WAN, "198.18.0.1/30", Some("10.2.0.0/24 via 198.18.0.2")),
                end(Place::EdgeB, WAN, "198.18.0.2/30", Some("10.1.0.0/24 via 198.18.0.1")),
            ],
            Self::LanB => [
                end(Place::SiteB, SITE_PORT, "10.2.0.10/24", Some("default via 10.2.0.1")),
                end(Place::EdgeB, LAN, "10.2.0.1/24", None),
            ],
        }
    }
}

/// The network. Dropping it removes all of it.
#[derive(Debug)]
pub struct Topology {
    site_a: Namespace,
    edge_a: Namespace,
    edge_b: Namespace,
    site_b: Namespace,
}

impl Topology {
    /// Makes namespaces named `<prefix>-site-a` and so on, wires them and sets them up.
    ///
    /// # Errors
    ///
    /// When not root, or a step fails; what was made until then is removed.
    pub fn new(prefix: &str) -> anyhow::Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "network namespaces need root");
        let add = |place: Place| Namespace::add(format!("{prefix}-{}", place.name()));
        let topology = Self {
            site_a: add(Place::SiteA)?,
            edge_a: add(Place::EdgeA)?,
            edge_b: add(Place::EdgeB)?,
            site_b: add(Place::SiteB)?,
        };
        topology.set_up()?;
        Ok(topology)
    }

    /// One of its namespaces.
    #[must_use]
    pub const fn at(&self, place: Place) -> &Namespace {
        match place {
            Place::SiteA => &self.site_a,
            Place::EdgeA => &self.edge_a,
            Place::EdgeB => &self.edge_b,
            Place::SiteB => &self.site_b,
        }
    }

    fn set_up(&self) -> anyhow::Result<()> {
        for place in Place::ALL {
            let namespace = self.at(place);
            namespace.sysctl("ipv6/conf/all/disable_ipv6", "1")?;
            namespace.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
            namespace.ip("link set lo up")?;
        }
        for place in [Place::EdgeA, Place::EdgeB] {
            self.at(place).sysctl("ipv4/ip_forward", "1")?;
        }
        Cable::ALL.into_iter().try_for_each(|cable| self.lay(cable))
    }

    /// Takes a cable away with both of its ports and lays it anew: ports of the same names with other indexes and MAC addresses.
    ///
    /// # Errors
    ///
    /// When a step fails.
    pub fn lay_anew(&self, cable: Cable) -> anyhow::Result<()> {
        let [end, _] = cable.ends();
        self.at(end.place).ip(&format!("link delete {}", end.port))?;
        self.lay(cable)
    }

    /// Takes a port of an edge down, or brings it up again.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn set_port(&self, place: Place, port: &str, up: bool) -> anyhow::Result<()> {
        self.at(place).ip(&format!("link set {port} {}", if up { "up" } else { "down" }))
    }

    fn lay(&self, cable: Cable) -> anyhow::Result<()> {
        let [a, b] = cable.ends();
        self.wire((a.place, a.port), (b.place, b.port))?;
        for End { place, port, address, .. } in [a, b] {
            self.at(place).ip(&format!("address add {address} dev {port}"))?;
            self.at(place).ip(&format!("link set {port} up"))?;
        }
        for End { place, port, route, .. } in [a, b] {
            if let Some(route) = route {
                self.at(place).ip(&format!("route add {route}"))?;
            }
            if port == SITE_PORT {
                // Checksums must be finished before XDP sees a packet. A veth takes what XDP sends into it only if it polls,
                // and with GRO it does.
                self.at(place).run(|| must(Command::new("ethtool").args(["-K", port, "tx", "off", "gro", "on"])))?;
            }
        }
        Ok(())
    }

    fn wire(&self, (a, port_a): (Place, &str), (b, port_b): (Place, &str)) -> anyhow::Result<()> {
        let b = self.at(b).name();
        // From inside: outside there may be an interface of that name.
        self.at(a).ip(&format!("link add name {port_a} type veth peer name {port_b} netns {b}"))
    }
}

/// What a port has received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortCount {
    /// Packets.
    pub packets: u64,
    /// IP bytes, without the Ethernet headers.
    pub ip_bytes: u64,
}

/// Reads what `port` has received, in the namespace of the calling thread.
///
/// # Errors
///
/// When there is no such port.
pub fn received(port: &str) -> anyhow::Result<PortCount> {
    const ETHERNET_HEADER: u64 = 14;
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").context("cannot read the ports' counters")?;
    let row = table.lines().find_map(|line| line.trim_start().strip_prefix(port)?.strip_prefix(':'));
    let row = row.with_context(|| format!("no port {port}"))?;
    let mut numbers = row.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(bytes)), Some(Ok(packets))) = (numbers.next(), numbers.next()) else {
        anyhow::bail!("cannot read the counters of {port}: {row:?}");
    };
    Ok(PortCount { packets, ip_bytes: bytes.saturating_sub(packets * ETHERNET_HEADER) })
}
