//! The network of a test: two sites, two edges, and what lies between the edges.
//!
//! ```text
//! site-a eth0 ── lan edge-a wan ── path ── wan edge-b lan ── eth0 site-b
//! site-a eth0 ── lan edge-a wan ── path ── wan edge-b          one arm: the path is also
//!                                 └ eth0 site-b                 the network of site B
//! site-a eth0 ── lan edge-a wan ─────────── wan edge-b lan ── eth0 site-b        VLANs on all
//! ```

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use turnpike_demo::topology::{Namespace, must};

/// A place on the way from site A to site B.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    SiteA,
    EdgeA,
    Path,
    EdgeB,
    SiteB,
}

const PLACES: [Place; 5] = [Place::SiteA, Place::EdgeA, Place::Path, Place::EdgeB, Place::SiteB];
const NAMES: [&str; 5] = ["site-a", "edge-a", "path", "edge-b", "site-b"];

/// The families of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ip {
    V4,
    V6,
}

impl Ip {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn of(self, v4: &str, v6: &str) -> IpAddr {
        let text = if self == Self::V4 { v4 } else { v6 };
        text.parse().unwrap()
    }

    /// The host of a site.
    pub(crate) fn host(self, site: Place) -> IpAddr {
        match site {
            Place::SiteA => self.of("10.1.0.10", "2001:db8:1::10"),
            Place::SiteB => self.of("10.2.0.10", "2001:db8:2::10"),
            Place::EdgeA | Place::Path | Place::EdgeB => panic!("no site"),
        }
    }

    /// An edge's address between the edges.
    pub(crate) fn tag_address(self, edge: Place) -> IpAddr {
        match edge {
            Place::EdgeA => self.of("198.18.0.1", "2001:db8:f::1"),
            Place::EdgeB => self.of("198.18.0.2", "2001:db8:f::2"),
            Place::SiteA | Place::Path | Place::SiteB => panic!("no edge"),
        }
    }
}

/// How the places are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Edge B has an interface for each side.
    TwoArms,
    /// Edge B has one interface, on a network that site B is on, too.
    OneArm,
    /// Behind the interfaces of both edges are VLANs, and nothing is between the edges.
    Vlans,
}

/// The VLANs of [`Shape::Vlans`]: between the edges, and towards each site.
const VLAN_WAN: u16 = 7;
const VLAN_LAN: u16 = 100;

/// Links that take longer do not come up.
const UP_MAX: Duration = Duration::from_secs(10);

/// The namespaces. Dropping them removes everything.
pub(crate) struct Network {
    namespaces: [Namespace; 5],
    shape: Shape,
}

impl Network {
    /// The interfaces between the edges carry IP packets of up to `wan_mtu` bytes.
    pub(crate) fn new(prefix: &str, shape: Shape, wan_mtu: u32) -> Self {
        let namespaces = NAMES.map(|name| Namespace::add(format!("{prefix}-{name}")).unwrap());
        let network = Self { namespaces, shape };
        for place in PLACES {
            // Addresses are there at once.
            network.sysctl(place, "ipv6/conf/default/accept_dad", "0");
            network.ip(place, "link set lo up");
        }
        network.sysctl(Place::Path, "ipv6/conf/default/disable_ipv6", "1");
        for edge in [Place::EdgeA, Place::EdgeB] {
            network.sysctl(edge, "ipv4/ip_forward", "1");
            network.sysctl(edge, "ipv6/conf/all/forwarding", "1");
        }
        network.connect(wan_mtu);
        network.address();
        network.wait_up();
        network
    }

    pub(crate) fn at(&self, place: Place) -> &Namespace {
        &self.namespaces[PLACES.iter().position(|found| *found == place).unwrap()]
    }

    fn ip(&self, place: Place, words: &str) {
        self.at(place).ip(words).unwrap();
    }

    pub(crate) fn sysctl(&self, place: Place, key: &str, value: &str) {
        self.at(place).sysctl(key, value).unwrap();
    }

    fn connect(&self, wan_mtu: u32) {
        let mut cables = vec![((Place::SiteA, "eth0"), (Place::EdgeA, "lan"))];
        if self.shape == Shape::Vlans {
            cables.push(((Place::EdgeA, "wan"), (Place::EdgeB, "wan")));
        } else {
            self.ip(Place::Path, "link add bridge type bridge mcast_snooping 0");
            self.ip(Place::Path, "link set bridge up");
            cables.push(((Place::EdgeA, "wan"), (Place::Path, "to-a")));
            cables.push(((Place::EdgeB, "wan"), (Place::Path, "to-b")));
        }
        cables.push(match self.shape {
            Shape::OneArm => ((Place::SiteB, "eth0"), (Place::Path, "to-s")),
            Shape::TwoArms | Shape::Vlans => ((Place::SiteB, "eth0"), (Place::EdgeB, "lan")),
        });
        for (left, right) in cables {
            // From inside: outside there may be an interface of that name.
            let there = self.at(right.0).name();
            self.ip(left.0, &format!("link add name {} type veth peer name {} netns {there}", left.1, right.1));
            for (place, port) in [left, right] {
                if place == Place::Path {
                    self.ip(place, &format!("link set dev {port} master bridge"));
                }
                if port == "wan" || place == Place::Path {
                    self.ip(place, &format!("link set dev {port} mtu {wan_mtu}"));
                }
                self.ip(place, &format!("link set dev {port} up"));
                // What XDP redirects into a veth arrives if its far end polls, which it does with GRO; what sockets send has its checksum.
                let ethtool = ["-K", port, "tx", "off", "gro", "on"];
                self.at(place).run(|| must(Command::new("ethtool").args(ethtool))).unwrap();
                if self.shape == Shape::Vlans {
                    // XDP sees what is in the frame, not what travels beside it.
                    let ethtool = ["-K", port, "txvlan", "off", "rxvlan", "off"];
                    self.at(place).run(|| must(Command::new("ethtool").args(ethtool))).unwrap();
                }
            }
        }
    }

    /// Where a place has its address: the interface, or the VLAN on it.
    fn interface(&self, place: Place, port: &str) -> String {
        if self.shape != Shape::Vlans {
            return port.to_owned();
        }
        let vlan = if port == "wan" { VLAN_WAN } else { VLAN_LAN };
        let name = format!("{port}.{vlan}");
        self.ip(place, &format!("link add link {port} name {name} type vlan id {vlan}"));
        self.ip(place, &format!("link set {name} up"));
        name
    }

    /// The kernel tells itself that a link is up up to a second later; until then a bridge forwards nothing.
    fn wait_up(&self) {
        let deadline = Instant::now() + UP_MAX;
        for place in PLACES {
            while let Some(link) = self.down(place) {
                assert!(Instant::now() < deadline, "{place:?}: {link} is not up");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// A link that does not carry yet.
    fn down(&self, place: Place) -> Option<String> {
        let output = Command::new("ip").args(["-n", self.at(place).name(), "-d", "-j", "link"]).output().unwrap();
        assert!(output.status.success(), "{place:?}: {}", String::from_utf8_lossy(&output.stderr));
        let links: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let mut links = links.into_iter().filter(|link| link["ifname"] != "lo");
        let down = links.find(|link| {
            let state = link["linkinfo"]["info_slave_data"]["state"].as_str();
            link["operstate"] != "UP" || state.is_some_and(|state| state != "forwarding")
        })?;
        Some(down["ifname"].to_string())
    }

    fn address(&self) {
        let lan_b = if self.shape == Shape::OneArm { "wan" } else { "lan" };
        let ports = [
            (Place::SiteA, "eth0", "10.1.0.10/24", "2001:db8:1::10/64"),
            (Place::EdgeA, "lan", "10.1.0.1/24", "2001:db8:1::1/64"),
            (Place::EdgeA, "wan", "198.18.0.1/24", "2001:db8:f::1/64"),
            (Place::EdgeB, "wan", "198.18.0.2/24", "2001:db8:f::2/64"),
            (Place::EdgeB, lan_b, "10.2.0.1/24", "2001:db8:2::1/64"),
            (Place::SiteB, "eth0", "10.2.0.10/24", "2001:db8:2::10/64"),
        ];
        for (place, port, v4, v6) in ports {
            let interface = self.interface(place, port);
            self.ip(place, &format!("address add {v4} dev {interface}"));
            self.ip(place, &format!("-6 address add {v6} dev {interface} nodad"));
        }
        for (place, routes) in [
            (Place::SiteA, ["default via 10.1.0.1", "-6 default via 2001:db8:1::1"]),
            (Place::EdgeA, ["10.2.0.0/24 via 198.18.0.2", "-6 2001:db8:2::/64 via 2001:db8:f::2"]),
            (Place::EdgeB, ["10.1.0.0/24 via 198.18.0.1", "-6 2001:db8:1::/64 via 2001:db8:f::1"]),
            (Place::SiteB, ["default via 10.2.0.1", "-6 default via 2001:db8:2::1"]),
        ] {
            for route in routes {
                match route.strip_prefix("-6 ") {
                    Some(route) => self.ip(place, &format!("-6 route add {route}")),
                    None => self.ip(place, &format!("route add {route}")),
                }
            }
        }
    }
}

/// Whether this kernel has VLAN interfaces.
pub(crate) fn has_vlans(prefix: &str) -> bool {
    let namespace = Namespace::add(format!("{prefix}-probe")).unwrap();
    namespace.ip("link add under type veth peer name other").unwrap();
    namespace.ip("link add link under name over type vlan id 9").is_ok()
}
