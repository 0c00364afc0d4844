//! Four network namespaces in a row, two terminals and two nodes, and the links between them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::io::Write as _;
use std::net::{IpAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use nix::unistd::{Pid, gettid};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, eth, ipproto, socket_with};

use crate::host::{Elsewhere, ip, write};

/// A card takes its time after its rings were made anew.
const LINK_UP_WITHIN: Duration = Duration::from_secs(30);

/// The network cards to use instead of veths: two cables, of two ends each.
fn cards() -> Option<[String; 4]> {
    let names = std::env::var("TURNPIKE_WIRE").ok()?;
    let names: Vec<_> = names.split(',').map(str::to_owned).collect();
    Some(names.try_into().expect("TURNPIKE_WIRE names four network cards"))
}

/// The four of them.
pub(crate) struct Places {
    pub(crate) terminal_a: Elsewhere,
    pub(crate) node_a: Elsewhere,
    pub(crate) node_b: Elsewhere,
    pub(crate) terminal_b: Elsewhere,
    /// Whether terminal A has a veth; terminal B always has one.
    pub(crate) veths: bool,
}

impl Places {
    /// Cabled, addressed and up, with a route to the other terminal at each. Interfaces are `lan` and `wan` at nodes, and `site` at terminals.
    pub(crate) fn new() -> Self {
        let cards = cards();
        let places = Self {
            terminal_a: Elsewhere::new(),
            node_a: Elsewhere::new(),
            node_b: Elsewhere::new(),
            terminal_b: Elsewhere::new(),
            veths: cards.is_none(),
        };
        places.cable(&places.node_b, "lan", &places.terminal_b, "site");
        match cards {
            None => {
                places.cable(&places.node_a, "lan", &places.terminal_a, "site");
                places.cable(&places.node_a, "wan", &places.node_b, "wan");
            }
            Some([site, lan, wan_a, wan_b]) => {
                plug(&site, &places.terminal_a, "site");
                plug(&lan, &places.node_a, "lan");
                plug(&wan_a, &places.node_a, "wan");
                plug(&wan_b, &places.node_b, "wan");
            }
        }
        for (place, interface, v4, v6, gateways) in [
            (&places.terminal_a, "site", "10.1.0.10/24", "2001:db8:1::a/64", Some(["10.1.0.1", "2001:db8:1::1"])),
            (&places.node_a, "lan", "10.1.0.1/24", "2001:db8:1::1/64", None),
            (&places.node_a, "wan", "198.18.0.1/24", "2001:db8:f::1/64", None),
            (&places.node_b, "wan", "198.18.0.2/24", "2001:db8:f::2/64", None),
            (&places.node_b, "lan", "10.2.0.1/24", "2001:db8:2::1/64", None),
            (&places.terminal_b, "site", "10.2.0.10/24", "2001:db8:2::a/64", Some(["10.2.0.1", "2001:db8:2::1"])),
        ] {
            place.run(move || {
                // No address that comes and changes by itself.
                write(&format!("net/ipv6/conf/{interface}/addr_gen_mode"), "1");
                write(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "0");
                let mut commands = vec![
                    format!("addr add {v4} dev {interface}"),
                    format!("addr add {v6} dev {interface} nodad"),
                    format!("link set {interface} up"),
                ];
                if let Some([v4, v6]) = gateways {
                    commands.extend([format!("route add 0.0.0.0/0 via {v4}"), format!("route add ::/0 via {v6}")]);
                }
                ips(&commands);
            });
        }
        for place in [&places.node_a, &places.node_b] {
            place.run(|| {
                ["ipv4/ip_forward", "ipv6/conf/all/forwarding"].map(|setting| write(&format!("net/{setting}"), "1"))
            });
        }
        places
    }

    /// A veth from one place to another.
    fn cable(&self, from: &Elsewhere, name: &'static str, to: &Elsewhere, far_name: &'static str) {
        let far = thread_of(to);
        from.run(move || {
            ips(&[format!("link add {name} type veth peer name far"), format!("link set far netns {far}")]);
        });
        to.run(move || ip(&format!("link set far name {far_name}")));
    }

    /// Neighbours speak to each other as any two hosts do, until they hear each other: with ARP, neighbour discovery and plain datagrams, which
    /// are none of the programs' business.
    pub(crate) fn greet(&self) {
        for (from, to, addresses) in [
            (&self.terminal_a, &self.node_a, ["10.1.0.1", "2001:db8:1::1"]),
            (&self.node_a, &self.node_b, ["198.18.0.2", "2001:db8:f::2"]),
            (&self.terminal_b, &self.node_b, ["10.2.0.1", "2001:db8:2::1"]),
        ] {
            for address in addresses {
                hello(from, to, address.parse().unwrap());
            }
        }
    }
}

/// Runs several commands of `ip` at once, which is faster where starting a program takes long.
fn ips(commands: &[String]) {
    let mut child =
        Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(commands.join("\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{commands:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn thread_of(place: &Elsewhere) -> Pid {
    place.run(gettid)
}

/// Takes a card out of the namespace of this thread.
fn plug(card: &str, place: &Elsewhere, name: &'static str) {
    ip(&format!("link set {card} netns {}", thread_of(place)));
    let card = card.to_owned();
    place.run(move || ip(&format!("link set {card} name {name}")));
}

fn hello(from: &Elsewhere, to: &Elsewhere, address: IpAddr) {
    let echo = to.start(move || {
        let socket = UdpSocket::bind((address, 7)).unwrap();
        socket.set_read_timeout(Some(LINK_UP_WITHIN)).unwrap();
        let mut buffer = [0; 64];
        let (bytes, sender) = socket.recv_from(&mut buffer).expect("a greeting");
        socket.send_to(&buffer[..bytes], sender).unwrap();
    });
    from.run(move || {
        let any = if address.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let start = Instant::now();
        let mut buffer = [0; 64];
        while start.elapsed() < LINK_UP_WITHIN {
            // Refused as long as nobody listens.
            let _ = socket.send_to(b"hello", (address, 7));
            if socket.recv(&mut buffer).is_ok() {
                assert_eq!(&buffer[..5], b"hello");
                return;
            }
        }
        panic!("nobody at {address} answers");
    });
    match echo.recv_timeout(LINK_UP_WITHIN) {
        Ok(()) => {}
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => panic!("{address} heard no greeting"),
    }
}

/// A socket in this place that sends whole IP packets of a family as they are. It stays there wherever it is used.
pub(crate) fn raw_sender(place: &Elsewhere, v6: bool) -> UdpSocket {
    let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    socket(place, family, SocketType::RAW, ipproto::RAW)
}

/// A socket in this place that gets all IP packets of a family that come in, from the IP header on.
pub(crate) fn receiver(place: &Elsewhere, v6: bool) -> UdpSocket {
    socket(place, AddressFamily::PACKET, SocketType::DGRAM, if v6 { eth::IPV6 } else { eth::IP })
}

fn socket(place: &Elsewhere, family: AddressFamily, kind: SocketType, protocol: Protocol) -> UdpSocket {
    place.run(move || socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol)).unwrap()).into()
}
