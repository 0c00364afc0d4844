//! Gathers what is so on this host. Nothing here judges, and nothing fails: what cannot be seen says why.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkType, PinnedLink};
use aya::programs::{loaded_links, loaded_programs};
use aya::util::{KernelVersion, nr_cpus, online_cpus};
use rustix::system::uname;
use turnpike_fastpath::contract::program;

use super::Scope;
use super::ethtool::{Channels, Ethtool, Features, XDP_TRANSMIT};
use crate::clock;
use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::generation::{self, Generation, Left, Pinned, Place};
use crate::layout::Shape;
use crate::migrate;
use crate::netlink::{Address, Link, Netlink};
use crate::program::{self as programs, BPF_FS};
use crate::table::Tables;

/// A fact, or why it was not seen.
pub(crate) type Seen<T> = Result<T, String>;

pub(crate) struct Facts {
    pub(crate) host: Host,
    pub(crate) ports: Vec<Port>,
    pub(crate) network: Option<Network>,
}

#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) release: String,
    pub(crate) kernel: Option<KernelVersion>,
    pub(crate) btf: bool,
    /// None where this network namespace does not show it.
    pub(crate) jit: Option<u64>,
    pub(crate) unprivileged_bpf: Option<u64>,
    /// The effective ones.
    pub(crate) capabilities: Seen<u64>,
    /// None for no limit.
    pub(crate) memlock_bytes: Option<u64>,
    pub(crate) pin_dir: PathBuf,
    pub(crate) pin_place: PinPlace,
    pub(crate) pins: Pins,
    pub(crate) trial: Trial,
    pub(crate) memory_needed_bytes: u64,
    pub(crate) memory_available_bytes: Seen<u64>,
    pub(crate) cpus_online: u32,
}

/// What file system the pins are to be on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PinPlace {
    Bpf,
    /// At the usual place, which is empty.
    NotMounted,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pins {
    None,
    Fit,
    /// The next start moves them to tables of other sizes, or completes that; says which.
    Moves(String),
    Refused(String),
    Unseen(String),
}

/// What came of loading the programs with small tables, unpinned and attached nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trial {
    Loaded { machine_code_bytes: u32, tick_ns: Seen<u64> },
    NotPermitted(String),
    Refused(String),
}

#[derive(Debug, Clone)]
pub(crate) struct Port {
    pub(crate) role: &'static str,
    pub(crate) name: String,
    pub(crate) link: Seen<Option<Link>>,
    pub(crate) driver: Option<String>,
    pub(crate) features: Seen<Features>,
    pub(crate) channels: Seen<Channels>,
    /// None before Linux 6.3.
    pub(crate) xdp_features: Option<u64>,
    pub(crate) programs: Vec<Program>,
    pub(crate) far: Option<Far>,
    /// The VLANs on it.
    pub(crate) vlans: Seen<Vec<String>>,
}

/// An XDP program on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) mode: &'static str,
    pub(crate) id: u32,
    pub(crate) name: Option<String>,
    /// Whether a link pinned in our folder holds it.
    pub(crate) ours: bool,
    /// The link that holds it, if one does.
    pub(crate) link: Seen<Option<u32>>,
}

/// The far end of a veth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Far {
    pub(crate) name: Option<String>,
    pub(crate) namespace: Namespace,
    pub(crate) mtu: Option<u32>,
    /// Whether frames that are redirected to it arrive, if that can be seen.
    pub(crate) takes_redirected: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Namespace {
    Ours,
    Named(String),
    Unnamed,
}

#[derive(Debug, Clone)]
pub(crate) struct Network {
    /// Of the lan and the wan interface.
    pub(crate) forwarding: Vec<(String, Seen<bool>)>,
    /// The same of IPv6; empty where neither has an address of it.
    pub(crate) forwarding_v6: Vec<(String, Seen<bool>)>,
    pub(crate) rp_filter_wan: Seen<u64>,
    pub(crate) wan: Option<u32>,
    pub(crate) addresses: Seen<Vec<Address>>,
    pub(crate) ports: Vec<u32>,
    pub(crate) tag_addresses: Vec<IpAddr>,
    pub(crate) peers: Vec<Peer>,
}

#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    pub(crate) route: Seen<Option<Route>>,
    pub(crate) neighbour_known: Seen<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) interface: u32,
    pub(crate) interface_name: String,
    /// The interface itself, or the one that it is a VLAN on.
    pub(crate) device: u32,
    pub(crate) via: IpAddr,
}

impl Facts {
    pub(crate) fn gather(config: &EngineConfig, scope: Scope) -> Self {
        let host = host(config);
        if scope == Scope::Host {
            return Self { host, ports: Vec::new(), network: None };
        }
        let ports = vec![port("lan", &config.lan, config), port("wan", &config.wan, config)];
        let network = Some(network(config, scope, &ports));
        Self { host, ports, network }
    }
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

fn read(path: &str) -> Seen<String> {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).map_err(|error| format!("{path}: {error}"))
}

fn number(path: &str) -> Seen<u64> {
    read(path)?.parse().map_err(|error| format!("{path}: {error}"))
}

/// The rest of the line that begins so.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn host(config: &EngineConfig) -> Host {
    let cpus = nr_cpus().ok().and_then(|cpus| u32::try_from(cpus).ok()).unwrap_or(1);
    let capabilities = read("/proc/self/status").and_then(|status| {
        let bits = field(&status, "CapEff:").and_then(|bits| u64::from_str_radix(bits, 16).ok());
        bits.ok_or_else(|| "/proc/self/status does not tell".to_owned())
    });
    let memory_available_bytes = read("/proc/meminfo").and_then(|text| {
        let kib = field(&text, "MemAvailable:").and_then(|text| text.strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kib.map(|kib| kib.saturating_mul(1024)).ok_or_else(|| "/proc/meminfo does not tell".to_owned())
    });
    let memlock_bytes = read("/proc/self/limits").ok().and_then(|limits| {
        field(&limits, "Max locked memory").and_then(|line| line.split_whitespace().next()?.parse().ok())
    });
    Host {
        release: uname().release().to_string_lossy().into_owned(),
        kernel: KernelVersion::current().ok(),
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        jit: number("/proc/sys/net/core/bpf_jit_enable").ok(),
        unprivileged_bpf: number("/proc/sys/kernel/unprivileged_bpf_disabled").ok(),
        memlock_bytes,
        pin_dir: config.pin_dir.clone(),
        pin_place: pin_place(&config.pin_dir),
        pins: pins(config, cpus, &capabilities),
        capabilities,
        trial: trial(config, cpus),
        memory_needed_bytes: Shape::of(config, cpus).memory_bytes(),
        memory_available_bytes,
        cpus_online: online_cpus().ok().and_then(|cpus| u32::try_from(cpus.len()).ok()).unwrap_or(cpus),
    }
}

fn pin_place(pin_dir: &Path) -> PinPlace {
    // Where the folder is missing, the one above it decides.
    let there = pin_dir.ancestors().find(|folder| folder.exists()).unwrap_or(pin_dir);
    if programs::is_bpf_fs(there) {
        return PinPlace::Bpf;
    }
    let usual = pin_dir.starts_with(BPF_FS) && !programs::is_bpf_fs(Path::new(BPF_FS));
    if usual { PinPlace::NotMounted } else { PinPlace::Other }
}

fn pins(config: &EngineConfig, cpus: u32, capabilities: &Seen<u64>) -> Pins {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    const CAP_BPF: u64 = 1 << 39;
    let newest = generation::newest(&config.pin_dir).unwrap_or(Place::Current).folder(&config.pin_dir);
    match fs::read_dir(&newest) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Pins::None,
        Err(error) => return Pins::Unseen(text(error)),
        Ok(_) if capabilities.as_ref().is_ok_and(|bits| bits & (CAP_BPF | CAP_SYS_ADMIN) == 0) => {
            return Pins::Unseen("CAP_BPF is needed for it".to_owned());
        }
        Ok(_) => {}
    }
    let found = match generation::look(&newest) {
        Ok(Pinned::Tables(shape)) => shape,
        Ok(Pinned::None) => return Pins::None,
        Err(error) => return Pins::Refused(text(error)),
    };
    let wanted = Shape::of(config, cpus);
    let checked = Generation::open(&newest, found).and_then(|generation| migrate::check(&generation, wanted));
    if let Err(error) = checked {
        return Pins::Refused(text(error));
    }
    if generation::left(&config.pin_dir) == Left::Both {
        return Pins::Moves("a change of sizes was cut off; the next start completes it".to_owned());
    }
    if found == wanted { Pins::Fit } else { Pins::Moves(found.difference(wanted)) }
}

fn trial(config: &EngineConfig, cpus: u32) -> Trial {
    let small = Shape::of(&EngineConfig { flows_max: 8, aggregates_max: 1, ..config.clone() }, cpus);
    let mut object = match programs::load_unpinned(small) {
        Ok(object) => object,
        Err(error @ EngineError::NotPermitted { .. }) => return Trial::NotPermitted(text(error)),
        Err(error) => return Trial::Refused(text(error)),
    };
    let machine_code_bytes = programs::xdp(&mut object, program::OUT)
        .ok()
        .and_then(|program| program.info().ok())
        .map_or(0, |info| info.size_jitted());
    let tables = Tables::map(&object, small);
    let clock = tables.and_then(|tables| clock::measure(&mut object, &tables));
    Trial::Loaded { machine_code_bytes, tick_ns: clock.map(|clock| clock.tick_ns).map_err(text) }
}

fn port(role: &'static str, name: &str, config: &EngineConfig) -> Port {
    let mut port = Port {
        role,
        name: name.to_owned(),
        link: Netlink::open().and_then(|mut netlink| netlink.link(name)).map_err(text),
        driver: None,
        features: Err("no such interface".to_owned()),
        channels: Err("no such interface".to_owned()),
        xdp_features: None,
        programs: Vec::new(),
        far: None,
        vlans: Ok(Vec::new()),
    };
    let Ok(Some(link)) = port.link.clone() else { return port };
    let index = link.interface.index;
    port.driver = driver(&link);
    port.features = Ethtool::open().and_then(|mut ethtool| ethtool.features(index)).map_err(text);
    port.channels = Ethtool::open().and_then(|mut ethtool| ethtool.channels(index)).map_err(text);
    port.xdp_features = Ethtool::open().and_then(|mut ethtool| ethtool.xdp_features(index)).ok();
    let pinned = pinned_program(&programs::link_path(&config.pin_dir, role));
    port.programs = link.programs.iter().map(|(mode, id)| attached(mode, *id, pinned)).collect();
    port.far = far(&link, port.xdp_features);
    port.vlans = Netlink::open().and_then(|mut netlink| netlink.vlans_on(index)).map_err(text);
    port
}

fn driver(link: &Link) -> Option<String> {
    if let Some(kind) = &link.kind {
        return Some(kind.clone());
    }
    let (bus, device) = link.parent.as_ref()?;
    let driver = fs::read_link(format!("/sys/bus/{bus}/devices/{device}/driver")).ok()?;
    driver.file_name().map(|name| name.to_string_lossy().into_owned())
}

fn pinned_program(path: &Path) -> Option<u32> {
    let link: FdLink = PinnedLink::from_pin(path).ok()?.into();
    link.info().ok().map(|info| info.program_id())
}

fn attached(mode: &'static str, id: u32, pinned: Option<u32>) -> Program {
    let known = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
    let mut link = Ok(None);
    for found in loaded_links() {
        match found {
            Ok(found) if found.program_id() == id && matches!(found.link_type(), Ok(LinkType::Xdp)) => {
                link = Ok(Some(found.id()));
                break;
            }
            Ok(_) => {}
            Err(error) => {
                link = Err(text(error));
                break;
            }
        }
    }
    let name = known.and_then(|program| program.name_as_str().map(str::to_owned));
    Program { mode, id, name, ours: pinned == Some(id), link }
}

fn far(link: &Link, xdp_features: Option<u64>) -> Option<Far> {
    let (index, number) = link.peer.filter(|_| link.kind.as_deref() == Some("veth"))?;
    let mut netlink = Netlink::open().ok()?;
    let far = netlink.link_at(index, number).ok().flatten();
    let looked_at = || {
        let far = far.as_ref().filter(|_| number.is_none())?;
        let program = far.programs.iter().any(|(mode, _)| *mode == "native");
        let features = Ethtool::open().and_then(|mut ethtool| ethtool.features(index)).ok();
        features.map(|features| features.has("rx-gro") || program)
    };
    // A veth says that it transmits redirected frames only while its far end takes them.
    let takes_redirected = xdp_features.map(|features| features & XDP_TRANSMIT != 0).or_else(looked_at);
    let namespace = match number {
        None => Namespace::Ours,
        Some(number) => namespace_name(&mut netlink, number).map_or(Namespace::Unnamed, Namespace::Named),
    };
    let (name, mtu) = far.map_or((None, None), |far| (Some(far.name), Some(far.interface.mtu)));
    Some(Far { name, namespace, mtu, takes_redirected })
}

/// The name that `ip netns` knows a namespace by.
fn namespace_name(netlink: &mut Netlink, number: i32) -> Option<String> {
    let names = fs::read_dir("/run/netns").ok()?.filter_map(Result::ok);
    names.map(|name| name.path()).find_map(|path| {
        let found = netlink.namespace(&File::open(&path).ok()?).ok()?;
        let name = path.file_name()?.to_string_lossy().into_owned();
        (found == Some(number)).then_some(name)
    })
}

fn network(config: &EngineConfig, scope: Scope, ports: &[Port]) -> Network {
    let setting_of = |ip: &str, name: &str, setting: &str| number(&format!("/proc/sys/net/{ip}/conf/{name}/{setting}"));
    let setting = |name: &str, setting: &str| setting_of("ipv4", name, setting);
    let index = |port: &Port| port.link.as_ref().ok()?.as_ref().map(|link| link.interface.index);
    let there: Vec<&Port> = ports.iter().filter(|port| index(port).is_some()).collect();
    let forwarding = |ip: &str| -> Vec<_> {
        let on = |port: &&Port| (port.name.clone(), setting_of(ip, &port.name, "forwarding").map(|on| on != 0));
        there.iter().map(on).collect()
    };
    // The kernel takes the larger of the two.
    let rp_filter_wan = setting("all", "rp_filter").and_then(|all| Ok(all.max(setting(&config.wan, "rp_filter")?)));
    let mut netlink = Netlink::open();
    let addresses = match &mut netlink {
        Ok(netlink) => netlink.all_addresses().map_err(text),
        Err(error) => Err(text(error)),
    };
    let is_v6 = |found: &&Address| matches!(found.address, IpAddr::V6(address) if !address.is_unicast_link_local());
    let mut of_v6 = addresses.iter().flatten().filter(is_v6);
    let has_v6 = of_v6.any(|found| there.iter().any(|port| index(port) == Some(found.interface)));
    let all = scope == Scope::All;
    let peers = if all { config.peers.as_slice() } else { &[] };
    Network {
        forwarding: forwarding("ipv4"),
        forwarding_v6: if has_v6 { forwarding("ipv6") } else { Vec::new() },
        rp_filter_wan,
        wan: there.iter().find(|port| port.role == "wan").and_then(|port| index(port)),
        addresses,
        ports: there.iter().filter_map(|port| index(port)).collect(),
        tag_addresses: if all { config.tag_addresses.clone() } else { Vec::new() },
        peers: peers.iter().map(|address| peer(*address, netlink.as_mut())).collect(),
    }
}

fn peer(address: IpAddr, netlink: Result<&mut Netlink, &mut io::Error>) -> Peer {
    let netlink = match netlink {
        Ok(netlink) => netlink,
        Err(error) => return Peer { address, route: Err(text(&error)), neighbour_known: Err(text(&error)) },
    };
    let route = netlink.route(address).map_err(text).map(|route| {
        route.map(|(interface, via)| {
            let link = netlink.link_at(interface, None).ok().flatten();
            let interface_name = link.as_ref().map_or_else(|| format!("number {interface}"), |link| link.name.clone());
            let (mut device, mut below) = (interface, link);
            while let Some(Link { vlan: Some(_), peer: Some((index, None)), .. }) = below {
                device = index;
                below = netlink.link_at(index, None).ok().flatten();
            }
            Route { interface, interface_name, device, via }
        })
    });
    let neighbour_known = match &route {
        Ok(Some(route)) => netlink.neighbours().map_err(text).map(|known| {
            known.iter().any(|(interface, address, _)| *interface == route.interface && *address == route.via)
        }),
        _ => Err("there is no route".to_owned()),
    };
    Peer { address, route, neighbour_known }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_are_read() {
        let text = "MemTotal:  5 kB\nMemAvailable:    3 kB\nMax locked memory   8388608  8388608  bytes\n";
        assert_eq!(field(text, "MemAvailable:"), Some("3 kB"));
        assert_eq!(field(text, "Max locked memory").and_then(|line| line.split_whitespace().next()), Some("8388608"));
        assert_eq!(field(text, "CapEff:"), None);
    }

    #[test]
    fn the_nearest_folder_decides_on_the_file_system() {
        assert_eq!(pin_place(Path::new("/proc/none/turnpike")), PinPlace::Other);
    }
}
