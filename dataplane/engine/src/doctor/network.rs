//! What is checked of addresses, routes and the kernel's forwarding.

use std::net::IpAddr;

use turnpike_fastpath::entry::LOCAL_MAX;

use super::Finding;
use super::facts::{Network, Peer, Route, Seen};
use crate::config::{EngineConfig, Unadmitted};
use crate::netlink::Address;

pub(super) fn findings(network: &Network, config: &EngineConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(forwarding(Ipv::V4, &network.forwarding, config));
    findings.extend(forwarding(Ipv::V6, &network.forwarding_v6, config));
    for address in &network.tag_addresses {
        findings.push(tag_address(*address, &network.addresses, &config.wan));
    }
    findings.extend(too_many_addresses(network));
    // Without the interface there is no right way.
    let peers = if network.wan.is_some() { network.peers.as_slice() } else { &[] };
    for peer in peers {
        findings.push(route(peer, network, &config.wan));
        findings.extend(neighbour(peer));
    }
    findings.extend(rp_filter(network, &config.wan));
    findings
}

/// A version of IP, and what switches its forwarding on.
#[derive(Clone, Copy, PartialEq)]
enum Ipv {
    V4,
    V6,
}

impl Ipv {
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::V4 => ("IPv4", "net.ipv4.ip_forward"),
            Self::V6 => ("IPv6", "net.ipv6.conf.all.forwarding"),
        }
    }
}

/// The kernel forwards what is of no flow where that may pass, and tells the way to terminals that only tags name.
fn forwarding(ip: Ipv, interfaces: &[(String, Seen<bool>)], config: &EngineConfig) -> Option<Finding> {
    const CHECK: &str = "forwarding";
    const STRAYS: &str = "packets of no admitted flow, which unadmitted lets pass, end in this host";
    const TERMINALS: &str =
        "an aggregate whose tags tell their terminals cannot be delivered here; others need no forwarding";
    let (version, key) = ip.names();
    let strays_pass = config.unadmitted != Unadmitted::Drop;
    let matters = |name: &String| strays_pass || *name == config.wan;
    let of_interest = || interfaces.iter().filter(|(name, _)| matters(name));
    let off: Vec<_> = of_interest().filter(|(_, on)| *on == Ok(false)).map(|(name, _)| name.as_str()).collect();
    if !off.is_empty() {
        let found = format!("{version} forwarding is off on {}", off.join(" and "));
        let finding = match (strays_pass, ip) {
            (true, Ipv::V4) if off.contains(&config.wan.as_str()) => {
                Finding::problem(CHECK, found, &format!("{STRAYS}; and {TERMINALS}"))
            }
            (true, Ipv::V4) => Finding::problem(CHECK, found, STRAYS),
            // An address alone does not say that the site has hosts of this version.
            (true, Ipv::V6) => Finding::warning(CHECK, found, STRAYS),
            (false, _) => Finding::warning(CHECK, found, TERMINALS),
        };
        return Some(finding.fix(format!("sysctl -w {key}=1")));
    }
    let unseen = of_interest().find_map(|(name, on)| on.as_ref().err().map(|reason| (name, reason)));
    if let Some((name, reason)) = unseen {
        return Some(Finding::unseen(CHECK, &format!("{version} forwarding on {name}"), reason));
    }
    (!interfaces.is_empty()).then(|| Finding::ok(CHECK, format!("{version} forwarding is on")))
}

fn tag_address(tag_address: IpAddr, addresses: &Seen<Vec<Address>>, wan: &str) -> Finding {
    const CHECK: &str = "tag_address";
    let addresses = match addresses {
        Ok(addresses) => addresses,
        Err(reason) => return Finding::unseen(CHECK, "this host's addresses", reason),
    };
    if addresses.iter().any(|found| found.address == tag_address) {
        return Finding::ok(CHECK, format!("{tag_address} is an address of this host"));
    }
    Finding::problem(
        CHECK,
        format!("{tag_address} is no address of this host"),
        "peers send tagged packets there, and nobody answers for it; correct tag_address or add the address",
    )
    .fix(format!("ip address add {tag_address}/{} dev {wan}", bits(tag_address)))
}

fn too_many_addresses(network: &Network) -> Option<Finding> {
    let addresses = network.addresses.as_ref().ok()?;
    let count = addresses.iter().filter(|found| network.ports.contains(&found.interface)).count();
    (count > LOCAL_MAX).then(|| {
        Finding::warning(
            "addresses",
            format!("lan and wan have {count} addresses together, and {LOCAL_MAX} are kept"),
            "packets to the others count as unadmitted traffic, though they are for this host",
        )
    })
}

fn route(peer: &Peer, network: &Network, wan: &str) -> Finding {
    const CHECK: &str = "peer_route";
    let address = peer.address;
    let wrong = |found: String| {
        Finding::problem(CHECK, found, "aggregates to this peer cannot be installed; tagged packets leave by the wan")
            .fix(route_command(address, network, wan))
    };
    match &peer.route {
        Err(reason) => Finding::unseen(CHECK, &format!("the route to peer {address}"), reason),
        Ok(None) => wrong(format!("there is no route to peer {address}")),
        Ok(Some(Route { device, interface_name, via, .. })) if Some(*device) == network.wan => {
            Finding::ok(CHECK, format!("peer {address} is reached by {interface_name} via {via}"))
        }
        Ok(Some(Route { interface_name, .. })) => {
            wrong(format!("the route to peer {address} leaves by {interface_name}, not by {wan}"))
        }
    }
}

/// Bits of an address.
const fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Through the gateway only where the peer is not on the wan's own network.
fn route_command(peer: IpAddr, network: &Network, wan: &str) -> String {
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    let near = network.addresses.iter().flatten().any(|found| {
        let rest = u32::from(bits(peer).saturating_sub(found.prefix_length));
        Some(found.interface) == network.wan
            && found.address.is_ipv4() == peer.is_ipv4()
            && (number(found.address) ^ number(peer)).checked_shr(rest).unwrap_or(0) == 0
    });
    let bits = bits(peer);
    if near {
        return format!("ip route replace {peer}/{bits} dev {wan}");
    }
    format!("ip route replace {peer}/{bits} via <gateway> dev {wan}")
}

fn neighbour(peer: &Peer) -> Option<Finding> {
    const CHECK: &str = "peer_neighbour";
    let Ok(Some(Route { interface_name, via, .. })) = &peer.route else { return None };
    let address = peer.address;
    Some(match &peer.neighbour_known {
        Ok(true) => Finding::ok(CHECK, format!("{via}, next hop to peer {address}, has a known MAC address")),
        Ok(false) => Finding::warning(
            CHECK,
            format!("{via}, next hop to peer {address}, has no known MAC address"),
            "the first installation asks for it, and fails where nobody answers",
        )
        .fix(format!("ping -c 1 -I {interface_name} {via}")),
        Err(reason) => Finding::unseen(CHECK, &format!("the next hop to peer {address}"), reason),
    })
}

/// Strict filtering hurts only where the way back is another.
fn rp_filter(network: &Network, wan: &str) -> Option<Finding> {
    const STRICT: u64 = 1;
    if network.rp_filter_wan != Ok(STRICT) {
        return None;
    }
    let elsewhere = |peer: &&Peer| {
        let route = peer.route.as_ref().ok().and_then(Option::as_ref);
        route.is_some_and(|route| Some(route.device) != network.wan)
    };
    let peer = network.peers.iter().find(elsewhere).filter(|_| network.wan.is_some())?;
    let finding = Finding::warning(
        "rp_filter",
        format!("{wan} drops what comes from peer {}, because the route back leaves elsewhere", peer.address),
        "strict reverse path filtering; the peers' control connections do not get through",
    );
    // The larger of `all` and the interface's own is in force, and 2 is loose. `sysctl` takes a dot in a name as a slash.
    Some(finding.fix(format!("sysctl -w net.ipv4.conf.{}.rp_filter=2", wan.replace('.', "/"))))
}

#[cfg(test)]
mod tests {
    use super::super::sample::{self, bad, fixed, good};
    use super::super::{Level, sample::PEER};
    use super::*;

    const WAN: &str = "wan0";

    fn at(interface: u32, interface_name: &str) -> Peer {
        let route = Route { interface, interface_name: interface_name.to_owned(), device: interface, via: PEER };
        Peer { address: PEER, route: Ok(Some(route)), neighbour_known: Ok(true) }
    }

    #[test]
    fn a_good_network_has_nothing_but_good_findings() {
        let findings = findings(&sample::network(), &sample::config());
        assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:#?}");
        assert_eq!(findings.len(), 4);
        let without = super::findings(&Network { wan: None, ..sample::network() }, &sample::config());
        assert!(without.iter().all(|finding| finding.check != "peer_route"), "{without:#?}");
    }

    #[test]
    fn forwarding_matters_where_unadmitted_traffic_may_pass() {
        let both = |lan, wan| [("lan0".to_owned(), lan), (WAN.to_owned(), wan)];
        let forwarding = |interfaces: &[_]| forwarding(Ipv::V4, interfaces, &sample::config());
        good(&forwarding(&both(Ok(true), Ok(true))).unwrap());
        let off = forwarding(&both(Ok(false), Ok(true))).unwrap();
        bad(&off, Level::Problem, "off on lan0");
        assert!(!off.why.contains("terminals"), "{off:?}");
        fixed(&off, Level::Problem, "sysctl -w net.ipv4.ip_forward=1");
        let both_off = forwarding(&both(Ok(false), Ok(false))).unwrap();
        bad(&both_off, Level::Problem, "off on lan0 and wan0");
        assert!(both_off.why.contains("unadmitted") && both_off.why.contains("terminals"), "{both_off:?}");
        bad(&forwarding(&both(Ok(true), Err("hidden".to_owned()))).unwrap(), Level::Warning, "hidden");
        assert_eq!(forwarding(&[]), None);
        let without_v6 = findings(&sample::network(), &sample::config());
        assert_eq!(without_v6.iter().filter(|finding| finding.check == "forwarding").count(), 1, "{without_v6:#?}");
        let network = Network { forwarding_v6: both(Ok(true), Ok(false)).into(), ..sample::network() };
        let findings = findings(&network, &sample::config());
        let of_v6 = findings.iter().find(|finding| finding.found.contains("IPv6")).unwrap();
        fixed(of_v6, Level::Warning, "sysctl -w net.ipv6.conf.all.forwarding=1");
    }

    #[test]
    fn forwarding_on_the_wan_matters_for_terminals_in_tags() {
        let config = EngineConfig { unadmitted: Unadmitted::Drop, ..sample::config() };
        let seen = |lan, wan| {
            let interfaces = [("lan0".to_owned(), lan), (WAN.to_owned(), wan)];
            forwarding(Ipv::V4, &interfaces, &config).unwrap()
        };
        good(&seen(Ok(false), Ok(true)));
        let off = seen(Ok(false), Ok(false));
        assert_eq!(off.found, "IPv4 forwarding is off on wan0");
        assert!(off.why.contains("terminals") && !off.why.contains("unadmitted"), "{off:?}");
        fixed(&off, Level::Warning, "sysctl -w net.ipv4.ip_forward=1");
        bad(&seen(Ok(true), Err("hidden".to_owned())), Level::Warning, "hidden");
    }

    #[test]
    fn the_tag_address_is_this_hosts() {
        let tag = sample::config().tag_addresses[0];
        good(&tag_address(tag, &sample::network().addresses, WAN));
        let missing = tag_address(tag, &Ok(Vec::new()), WAN);
        fixed(&missing, Level::Problem, &format!("ip address add {tag}/32 dev wan0"));
        bad(&tag_address(tag, &Err("hidden".to_owned()), WAN), Level::Warning, "hidden");
    }

    #[test]
    fn addresses_beyond_those_kept() {
        let address = sample::network().addresses.unwrap()[0];
        let with = |count| Network { addresses: Ok(vec![address; count]), ..sample::network() };
        assert_eq!(too_many_addresses(&with(LOCAL_MAX)), None);
        bad(&too_many_addresses(&with(LOCAL_MAX + 1)).unwrap(), Level::Warning, "17 addresses");
    }

    #[test]
    fn the_way_to_a_peer() {
        let seen = |peer: &Peer| route(peer, &sample::network(), WAN);
        good(&seen(&at(2, WAN)));
        let none = Peer { route: Ok(None), ..at(2, WAN) };
        bad(&seen(&none), Level::Problem, "no route to peer");
        fixed(&seen(&none), Level::Problem, &format!("ip route replace {PEER}/32 dev wan0"));
        bad(&seen(&at(7, "eth7")), Level::Problem, "leaves by eth7");
        let far = Peer { address: [192, 0, 2, 1].into(), ..none };
        fixed(&seen(&far), Level::Problem, "ip route replace 192.0.2.1/32 via <gateway> dev wan0");
        bad(&seen(&Peer { route: Err("hidden".to_owned()), ..at(2, WAN) }), Level::Warning, "hidden");
    }

    #[test]
    fn the_next_hop_to_a_peer() {
        good(&neighbour(&at(2, WAN)).unwrap());
        let unknown = Peer { neighbour_known: Ok(false), ..at(2, WAN) };
        fixed(&neighbour(&unknown).unwrap(), Level::Warning, &format!("ping -c 1 -I wan0 {PEER}"));
        assert_eq!(neighbour(&Peer { route: Ok(None), ..unknown.clone() }), None);
        let hidden = Peer { neighbour_known: Err("hidden".to_owned()), ..unknown };
        bad(&neighbour(&hidden).unwrap(), Level::Warning, "hidden");
    }

    #[test]
    fn strict_filtering_is_told_only_where_it_hurts() {
        let seen = |rp_filter_wan, peer| {
            rp_filter(&Network { rp_filter_wan, peers: vec![peer], ..sample::network() }, "wan.5")
        };
        assert_eq!(seen(Ok(1), at(2, WAN)), None);
        assert_eq!(seen(Ok(2), at(7, "eth7")), None);
        assert_eq!(seen(Err("hidden".to_owned()), at(7, "eth7")), None);
        let command = "sysctl -w net.ipv4.conf.wan/5.rp_filter=2";
        fixed(&seen(Ok(1), at(7, "eth7")).unwrap(), Level::Warning, command);
    }
}
