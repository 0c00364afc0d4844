//! What the engine asks of the kernel's network configuration, through route netlink (`rtnetlink(7)`).
//!
//! `/sys/class/net` is no substitute: it shows the namespace in which it was mounted, not the caller's.
#![allow(clippy::wildcard_enum_match_arm, reason = "the library's enums name every attribute that the kernel has")]

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, VlanProtocol,
    XdpAttached,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use turnpike_fastpath::wire::vlan;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u32,
    /// Whether its frames begin with an Ethernet header.
    pub(crate) ethernet: bool,
    pub(crate) up: bool,
    /// How a program is attached, if one is.
    pub(crate) xdp: Option<&'static str>,
}

/// An interface in detail: what only somebody who looks for faults wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) interface: Interface,
    pub(crate) name: String,
    /// Whether something answers at the other end of the cable.
    pub(crate) carrier: bool,
    pub(crate) mtu_max: Option<u32>,
    /// Of a virtual interface: `veth`, `bridge` and so on.
    pub(crate) kind: Option<String>,
    /// Bus and name of the device below.
    pub(crate) parent: Option<(String, String)>,
    /// A veth's far end or the device under a VLAN: its index, and the number of its namespace if that is another.
    pub(crate) peer: Option<(u32, Option<i32>)>,
    /// Of a VLAN: the tag as it stands in frames, EtherType and id.
    pub(crate) vlan: Option<[u8; 4]>,
    /// Programs with their modes.
    pub(crate) programs: Vec<(&'static str, u32)>,
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) interface: u32,
    pub(crate) address: IpAddr,
    pub(crate) prefix_length: u8,
}

/// A connection to the kernel, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Socket,
    sequence: u32,
}

/// Route netlink.
#[derive(Debug)]
pub(crate) struct Netlink(Connection);

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self(Connection::open(NETLINK_ROUTE)?))
    }

    /// The interface of this name.
    pub(crate) fn interface(&mut self, name: &str) -> io::Result<Option<Interface>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let answers = match self.ask(RouteNetlinkMessage::GetLink(message), 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            answers => answers?,
        };
        Ok(answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(describe(&link)),
            _ => None,
        }))
    }

    /// The interface of this name, in detail.
    pub(crate) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.detailed(message)
    }

    /// The interface of this index, in this namespace or in the one of that number.
    pub(crate) fn link_at(&mut self, index: u32, namespace: Option<i32>) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.extend(namespace.map(LinkAttribute::IfNetnsId));
        self.detailed(message)
    }

    /// The names of the VLANs on an interface.
    pub(crate) fn vlans_on(&mut self, index: u32) -> io::Result<Vec<String>> {
        let answers = self.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        let links = answers.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(detail(link)),
            _ => None,
        });
        Ok(links.filter(|link| link.vlan.is_some() && link.peer == Some((index, None))).map(|link| link.name).collect())
    }

    fn detailed(&mut self, message: LinkMessage) -> io::Result<Option<Link>> {
        let answers = match self.ask(RouteNetlinkMessage::GetLink(message), 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            answers => answers?,
        };
        Ok(answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(detail(link)),
            _ => None,
        }))
    }

    /// The number by which this namespace knows the one of an open file; none if it has not met it.
    pub(crate) fn namespace(&mut self, file: &File) -> io::Result<Option<i32>> {
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Fd(file.as_raw_fd().unsigned_abs()));
        let answers = self.ask(RouteNetlinkMessage::GetNsId(message), 0)?;
        let numbers = answers.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewNsId(message) => Some(&message.attributes),
            _ => None,
        });
        Ok(numbers.flatten().find_map(|attribute| match attribute {
            NsidAttribute::Id(number) if *number >= 0 => Some(*number),
            _ => None,
        }))
    }

    /// The addresses of an interface.
    pub(crate) fn addresses(&mut self, interface: u32) -> io::Result<Vec<IpAddr>> {
        let all = self.all_addresses()?;
        Ok(all.into_iter().filter(|found| found.interface == interface).map(|found| found.address).collect())
    }

    /// The addresses of all interfaces.
    pub(crate) fn all_addresses(&mut self) -> io::Result<Vec<Address>> {
        let answers = self.ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP)?;
        let mut addresses = Vec::new();
        for answer in answers {
            if let RouteNetlinkMessage::NewAddress(message) = answer {
                // IPv6 has the address itself where IPv4 has the far end of a point-to-point link.
                addresses.extend(message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Local(address @ IpAddr::V4(_))
                    | AddressAttribute::Address(address @ IpAddr::V6(_)) => {
                        let (interface, prefix_length) = (message.header.index, message.header.prefix_len);
                        Some(Address { interface, address: *address, prefix_length })
                    }
                    _ => None,
                }));
            }
        }
        Ok(addresses)
    }

    /// The interface that packets to `address` leave by, and the neighbour that they go to. None if there is no route.
    pub(crate) fn route(&mut self, address: IpAddr) -> io::Result<Option<(u32, IpAddr)>> {
        let mut message = RouteMessage::default();
        let (family, bits, destination) = match address {
            IpAddr::V4(address) => (AddressFamily::Inet, 32, RouteAddress::Inet(address)),
            IpAddr::V6(address) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(address)),
        };
        message.header.address_family = family;
        message.header.destination_prefix_length = bits;
        message.attributes.push(RouteAttribute::Destination(destination));
        let answers = match self.ask(RouteNetlinkMessage::GetRoute(message), 0) {
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES)) =>
            {
                return Ok(None);
            }
            answers => answers?,
        };
        for answer in answers {
            if let RouteNetlinkMessage::NewRoute(route) = answer
                && route.header.kind == RouteType::Unicast
            {
                let mut interface = None;
                let mut neighbour = address;
                for attribute in &route.attributes {
                    match attribute {
                        RouteAttribute::Oif(index) => interface = Some(*index),
                        RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => neighbour = IpAddr::V4(*gateway),
                        RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) => neighbour = IpAddr::V6(*gateway),
                        // IPv4 by way of an IPv6 neighbour (RFC 8950).
                        RouteAttribute::Via(RouteVia::Inet6(gateway)) => neighbour = IpAddr::V6(*gateway),
                        _ => {}
                    }
                }
                return Ok(interface.map(|interface| (interface, neighbour)));
            }
        }
        Ok(None)
    }

    /// The MAC addresses that the kernel knows, by interface and address.
    pub(crate) fn neighbours(&mut self) -> io::Result<Vec<(u32, IpAddr, [u8; 6])>> {
        let answers = self.ask(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()), NLM_F_DUMP)?;
        Ok(answers.iter().filter_map(neighbour).collect())
    }

    /// The MAC address of one neighbour, if the kernel knows it. Costs the same however many neighbours there are.
    pub(crate) fn neighbour(&mut self, interface: u32, address: IpAddr) -> io::Result<Option<[u8; 6]>> {
        let message = neighbour_message(interface, address);
        let answers = match self.ask(RouteNetlinkMessage::GetNeighbour(message), 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            answers => answers?,
        };
        Ok(answers.iter().find_map(neighbour).map(|(_, _, mac)| mac))
    }

    /// Has the kernel find out a neighbour's MAC address, as if a packet had to go there.
    pub(crate) fn probe(&mut self, interface: u32, address: IpAddr) -> io::Result<()> {
        let mut message = neighbour_message(interface, address);
        message.header.flags = NeighbourFlags::Use;
        self.ask(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE).map(drop)
    }

    fn ask(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.0.ask(request, flags)
    }
}

impl Connection {
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends one request and collects the answers up to the acknowledgement.
    pub(crate) fn ask<M>(&mut self, request: M, flags: u16) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Into<NetlinkPayload<M>>,
    {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        self.sequence = self.sequence.wrapping_add(1);
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<M>::deserialize(rest).map_err(io::Error::other)?;
                let length = (message.header.length as usize).next_multiple_of(4).max(4);
                rest = rest.get(length..).unwrap_or_default();
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => return error.code.map_or(Ok(answers), |_| Err(error.to_io())),
                    NetlinkPayload::Overrun(_) => return Err(io::Error::other("netlink overrun")),
                    _ => {}
                }
            }
        }
    }
}

/// A question about a neighbour.
fn neighbour_message(interface: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    let (family, destination) = match address {
        IpAddr::V4(address) => (AddressFamily::Inet, NeighbourAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, NeighbourAddress::Inet6(address)),
    };
    message.header.family = family;
    message.header.ifindex = interface;
    message.attributes.push(NeighbourAttribute::Destination(destination));
    message
}

/// Interface, address and MAC address of a neighbour that is known.
fn neighbour(answer: &RouteNetlinkMessage) -> Option<(u32, IpAddr, [u8; 6])> {
    let RouteNetlinkMessage::NewNeighbour(entry) = answer else { return None };
    if matches!(entry.header.state, NeighbourState::Incomplete | NeighbourState::Failed | NeighbourState::None) {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &entry.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => address = Some(IpAddr::V4(*found)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)) => address = Some(IpAddr::V6(*found)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            _ => {}
        }
    }
    Some((entry.header.ifindex, address?, mac?))
}

fn describe(link: &LinkMessage) -> Interface {
    let ethernet = link.header.link_layer_type == LinkLayerType::Ether;
    let mut interface = Interface {
        index: link.header.index,
        mac: [0; 6],
        mtu: 0,
        ethernet,
        up: link.header.flags.contains(LinkFlags::Up),
        xdp: None,
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => interface.mac = bytes.as_slice().try_into().unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            LinkAttribute::Xdp(facts) => {
                interface.xdp = facts.iter().find_map(|fact| match fact {
                    LinkXdp::Attached(XdpAttached::Driver | XdpAttached::Hardware) => Some("native"),
                    LinkXdp::Attached(XdpAttached::SocketBuffer) => Some("generic"),
                    LinkXdp::Attached(XdpAttached::Multiple) => Some("several"),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    interface
}

fn vlan(info: &LinkInfo) -> Option<[u8; 4]> {
    let LinkInfo::Data(InfoData::Vlan(facts)) = info else { return None };
    let mut tag = [0x81, 0, 0, 0];
    for fact in facts {
        match fact {
            InfoVlan::Id(id) => [tag[2], tag[3]] = id.to_be_bytes(),
            InfoVlan::Protocol(VlanProtocol::Ieee8021Ad) => [tag[0], tag[1]] = vlan::SERVICE,
            _ => {}
        }
    }
    Some(tag)
}

fn detail(link: &LinkMessage) -> Link {
    let mut found = Link {
        interface: describe(link),
        name: String::new(),
        carrier: link.header.flags.contains(LinkFlags::LowerUp),
        mtu_max: None,
        kind: None,
        parent: None,
        peer: None,
        vlan: None,
        programs: Vec::new(),
    };
    let (mut bus, mut device, mut peer, mut peer_namespace) = (None, None, None, None);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.name.clone_from(name),
            LinkAttribute::MaxMtu(mtu) => found.mtu_max = Some(*mtu).filter(|mtu| *mtu != 0),
            LinkAttribute::LinkInfo(facts) => {
                found.kind = facts.iter().find_map(|fact| match fact {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
                found.vlan = facts.iter().find_map(vlan);
            }
            LinkAttribute::ParentDevBusName(name) => bus = Some(name.clone()),
            LinkAttribute::ParentDevName(name) => device = Some(name.clone()),
            LinkAttribute::Link(index) => peer = Some(*index),
            LinkAttribute::LinkNetNsId(number) => peer_namespace = Some(*number),
            LinkAttribute::Xdp(facts) => {
                found.programs.extend(facts.iter().filter_map(|fact| match fact {
                    LinkXdp::DrvProgId(id) | LinkXdp::HwProgId(id) => Some(("native", *id)),
                    LinkXdp::SkbProgId(id) => Some(("generic", *id)),
                    _ => None,
                }));
            }
            _ => {}
        }
    }
    found.parent = bus.zip(device);
    found.peer = peer.map(|peer| (peer, peer_namespace));
    found
}
