//! UDP packets as bytes: made by hand, and looked at.

use std::net::{IpAddr, SocketAddr};

/// Hops that packets leave with, and those that are left after two nodes.
pub(crate) const HOPS: u8 = 64;
const HOPS_DELIVERED: u8 = HOPS - 2;

const UDP: u8 = 17;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
/// Extension headers of IPv6 that are passed over when a UDP header is looked for: hop-by-hop, routing, fragment, destination options.
const EXTENSIONS: [u8; 4] = [0, 43, FRAGMENT, 60];
const FRAGMENT: u8 = 44;

/// A UDP packet to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    /// DSCP and ECN.
    pub(crate) class: u8,
    /// IPv4 options, in words of four bytes.
    pub(crate) options: Vec<u8>,
    /// IPv6 extension headers by their number; of each the first byte is filled in.
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
    pub(crate) payload: Vec<u8>,
}

impl Packet {
    pub(crate) fn new(source: SocketAddr, destination: SocketAddr, payload: Vec<u8>) -> Self {
        Self { source, destination, class: 0, options: Vec::new(), extensions: Vec::new(), payload }
    }

    /// As it is on the wire, from the IP header on.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let udp = self.udp();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let words = (IPV4_BYTES + self.options.len()) / 4;
                let length = u16::try_from(4 * words + udp.len()).unwrap();
                let mut header = vec![0x40 | u8::try_from(words).unwrap(), self.class];
                // An identification of its own, and "don't fragment" not set: headers of the other family cannot say that.
                let identification = 0x1000 | (u16::try_from(self.payload.len()).unwrap() & 0xfff);
                header.extend(length.to_be_bytes());
                header.extend(identification.to_be_bytes());
                header.extend([0, 0, HOPS, UDP, 0, 0]);
                header.extend([source.octets(), destination.octets()].concat());
                header.extend(&self.options);
                set_ipv4_checksum(&mut header);
                [header, udp].concat()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut extensions = Vec::new();
                for (place, (_, bytes)) in self.extensions.iter().enumerate() {
                    let next = self.extensions.get(place + 1).map_or(UDP, |(number, _)| *number);
                    extensions.push(next);
                    extensions.extend(&bytes[1..]);
                }
                let length = u16::try_from(extensions.len() + udp.len()).unwrap();
                let first = 6 << 28 | u32::from(self.class) << 20 | 0x12345;
                let mut header = first.to_be_bytes().to_vec();
                header.extend(length.to_be_bytes());
                header.extend([self.extensions.first().map_or(UDP, |(number, _)| *number), HOPS]);
                header.extend([source.octets(), destination.octets()].concat());
                [header, extensions, udp].concat()
            }
            _ => panic!("two families in one packet"),
        }
    }

    fn udp(&self) -> Vec<u8> {
        let length = u16::try_from(8 + self.payload.len()).unwrap();
        let ports = [self.source.port().to_be_bytes(), self.destination.port().to_be_bytes()].concat();
        let mut udp = [&ports, &length.to_be_bytes()[..], &[0, 0], &self.payload].concat();
        let octets = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let pseudo =
            [octets(self.source.ip()), octets(self.destination.ip()), vec![0, UDP], length.to_be_bytes().to_vec()];
        let sum = match checksum(&[pseudo.concat(), udp.clone()].concat()) {
            0 => u16::MAX,
            sum => sum,
        };
        udp[6..8].copy_from_slice(&sum.to_be_bytes());
        udp
    }
}

/// An RTP packet (RFC 3550) of so many bytes, different for every number.
pub(crate) fn rtp(number: u16, bytes: usize) -> Vec<u8> {
    let timestamp = 160 * u32::from(number);
    let mut rtp = vec![0x80, 0];
    rtp.extend(number.to_be_bytes());
    rtp.extend(timestamp.to_be_bytes());
    rtp.extend([1, 2, 3, 4]);
    rtp.extend(
        (0..).map(|place: u32| (place.wrapping_mul(31) ^ u32::from(number)).to_le_bytes()[0]).take(bytes - rtp.len()),
    );
    rtp
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

fn set_ipv4_checksum(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = checksum(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn is_ipv4(packet: &[u8]) -> bool {
    packet[0] >> 4 == 4
}

/// DSCP and ECN of an IP packet.
pub(crate) fn class(packet: &[u8]) -> u8 {
    if is_ipv4(packet) { packet[1] } else { packet[0] << 4 | packet[1] >> 4 }
}

/// What must come of a packet behind two nodes: two hops less, this class, a right header checksum, and every other byte as it was.
pub(crate) fn delivered(sent: &[u8], class: u8) -> Vec<u8> {
    forwarded(sent, class, HOPS_DELIVERED)
}

/// A packet with other hops and another class.
pub(crate) fn forwarded(sent: &[u8], class: u8, hops: u8) -> Vec<u8> {
    let mut packet = sent.to_vec();
    if is_ipv4(sent) {
        packet[1] = class;
        packet[8] = hops;
        let header_bytes = 4 * usize::from(packet[0] & 0xf);
        set_ipv4_checksum(&mut packet[..header_bytes]);
    } else {
        packet[0] = 0x60 | class >> 4;
        packet[1] = packet[1] & 0xf | class << 4;
        packet[7] = hops;
    }
    packet
}

/// The ports of a UDP packet; none if it is none, or not the first fragment of one.
pub(crate) fn ports(packet: &[u8]) -> Option<(u16, u16)> {
    let (protocol, udp) = if is_ipv4(packet) {
        if u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff != 0 {
            return None;
        }
        (packet[9], 4 * usize::from(packet[0] & 0xf))
    } else {
        let (mut next, mut at) = (packet[6], IPV6_BYTES);
        while EXTENSIONS.contains(&next) {
            let extension = packet.get(at..at + 8)?;
            if next == FRAGMENT && u16::from_be_bytes([extension[2], extension[3]]) & 0xfff8 != 0 {
                return None;
            }
            at += if next == FRAGMENT { 8 } else { 8 + 8 * usize::from(extension[1]) };
            next = extension[0];
        }
        (next, at)
    };
    let bytes = packet.get(udp..udp + 8).filter(|_| protocol == UDP)?;
    Some((u16::from_be_bytes([bytes[0], bytes[1]]), u16::from_be_bytes([bytes[2], bytes[3]])))
}

/// Two fragments of a packet without options or extension headers; the first has so many bytes behind the IP header.
pub(crate) fn fragments(packet: &[u8], first_bytes: usize) -> [Vec<u8>; 2] {
    assert!(first_bytes.is_multiple_of(8));
    const MORE: u16 = 1;
    let offset = u16::try_from(first_bytes).unwrap();
    let header_bytes = if is_ipv4(packet) { IPV4_BYTES } else { IPV6_BYTES };
    let (header, rest) = packet.split_at(header_bytes);
    let parts = [(MORE, 0, &rest[..first_bytes]), (0, offset, &rest[first_bytes..])];
    parts.map(|(more, offset, part)| {
        let mut header = header.to_vec();
        if is_ipv4(packet) {
            let length = u16::try_from(header_bytes + part.len()).unwrap();
            header[2..4].copy_from_slice(&length.to_be_bytes());
            header[6..8].copy_from_slice(&((more << 13) | (offset / 8)).to_be_bytes());
            set_ipv4_checksum(&mut header);
            [header, part.to_vec()].concat()
        } else {
            let length = u16::try_from(8 + part.len()).unwrap();
            header[4..6].copy_from_slice(&length.to_be_bytes());
            header[6] = FRAGMENT;
            let extension = [&[UDP, 0][..], &(offset | more).to_be_bytes(), &[0, 0, 0x12, 0x34]].concat();
            [header, extension, part.to_vec()].concat()
        }
    })
}
