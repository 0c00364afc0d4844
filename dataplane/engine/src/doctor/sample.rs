//! A host with nothing wrong, for the tests of single checks.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use aya::util::KernelVersion;

use super::ethtool::{Channels, Features};
use super::facts::{Far, Host, Namespace, Network, Peer, PinPlace, Pins, Port, Route, Trial};
use super::{Finding, Level};
use crate::config::{EngineConfig, Fragments, Unadmitted, XdpMode};
use crate::netlink::{Address, Interface, Link};

pub(super) const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 2));
const TAG: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1));

pub(super) fn config() -> EngineConfig {
    EngineConfig {
        pin_dir: PathBuf::from("/sys/fs/bpf/turnpike"),
        lan: "lan0".to_owned(),
        wan: "wan0".to_owned(),
        xdp_mode: XdpMode::Auto,
        tag_addresses: vec![TAG],
        tag_port: 47_700,
        peers: vec![PEER],
        unadmitted: Unadmitted::Limit,
        fragments: Fragments::Unadmitted,
        dscp_map_out: [0; 64],
        dscp_map_in: [0; 64],
        flows_max: 256,
        aggregates_max: 16,
        lapse_after: Duration::from_secs(300),
    }
}

pub(super) fn host() -> Host {
    Host {
        release: "6.12.0".to_owned(),
        kernel: Some(KernelVersion::new(6, 12, 0)),
        btf: true,
        jit: Some(1),
        unprivileged_bpf: Some(2),
        capabilities: Ok(u64::MAX),
        memlock_bytes: Some(65_536),
        pin_dir: config().pin_dir,
        pin_place: PinPlace::Bpf,
        pins: Pins::None,
        trial: Trial::Loaded { machine_code_bytes: 9_000, tick_ns: Ok(4_000_000) },
        memory_needed_bytes: 1 << 20,
        memory_available_bytes: Ok(1 << 30),
        cpus_online: 2,
    }
}

pub(super) fn port(role: &'static str) -> Port {
    let interface =
        Interface { index: u32::from(role == "wan") + 1, mac: [2; 6], mtu: 1_500, ethernet: true, up: true, xdp: None };
    let link = Link {
        interface,
        name: format!("{role}0"),
        carrier: true,
        mtu_max: Some(9_000),
        kind: None,
        parent: None,
        peer: None,
        vlan: None,
        programs: Vec::new(),
    };
    Port {
        role,
        name: link.name.clone(),
        link: Ok(Some(link)),
        driver: Some("ice".to_owned()),
        features: Ok(Features::default()),
        channels: Ok(Channels { combined: 2, combined_max: 8, ..Channels::default() }),
        xdp_features: None,
        programs: Vec::new(),
        far: None,
        vlans: Ok(Vec::new()),
    }
}

pub(super) fn far() -> Far {
    Far { name: Some("site0".to_owned()), namespace: Namespace::Ours, mtu: Some(1_500), takes_redirected: Some(true) }
}

pub(super) fn network() -> Network {
    let route = Route { interface: 2, interface_name: "wan0".to_owned(), device: 2, via: PEER };
    Network {
        forwarding: vec![("lan0".to_owned(), Ok(true)), ("wan0".to_owned(), Ok(true))],
        forwarding_v6: Vec::new(),
        rp_filter_wan: Ok(0),
        wan: Some(2),
        addresses: Ok(vec![Address { interface: 2, address: TAG, prefix_length: 24 }]),
        ports: vec![1, 2],
        tag_addresses: vec![TAG],
        peers: vec![Peer { address: PEER, route: Ok(Some(route)), neighbour_known: Ok(true) }],
    }
}

#[track_caller]
pub(super) fn good(finding: &Finding) {
    assert_eq!((finding.level, &finding.fix), (Level::Ok, &None), "{finding:?}");
}

/// It says so, and why it matters.
#[track_caller]
pub(super) fn bad(finding: &Finding, level: Level, found: &str) {
    assert_eq!(finding.level, level, "{finding:?}");
    assert!(finding.found.contains(found) && !finding.why.is_empty(), "{finding:?}");
}

/// It says how to put it right.
#[track_caller]
pub(super) fn fixed(finding: &Finding, level: Level, command: &str) {
    bad(finding, level, "");
    assert_eq!(finding.fix.as_deref(), Some(command), "{finding:?}");
}
