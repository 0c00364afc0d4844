//! Builds frames.

use std::net::IpAddr;

use turnpike_fastpath::plan::Ends;

use super::check::fix_checksums;
use super::{TAG_PORT, node};

/// A frame with a UDP packet, both checksums right.
#[derive(Clone)]
pub struct Build {
    pub ends: Ends,
    pub vlans: Vec<[u8; 4]>,
    pub tos: u8,
    pub hops: u8,
    /// Of IPv4.
    pub identification: u16,
    /// Of IPv6.
    pub flow_label: u32,
    /// IPv4 options, a multiple of four bytes; or IPv6 extension headers, each with its own next header still to be set.
    pub between: Vec<Between>,
    pub payload: Vec<u8>,
}

/// What stands between network header and UDP header.
#[derive(Clone)]
pub struct Between {
    /// Number of an IPv6 extension header.
    pub number: u8,
    pub bytes: Vec<u8>,
}

impl Build {
    pub fn new(ends: Ends, payload: &[u8]) -> Self {
        Self {
            ends,
            vlans: Vec::new(),
            tos: 0,
            hops: 64,
            identification: 0x1234,
            flow_label: 0x5_4321,
            between: Vec::new(),
            payload: payload.to_vec(),
        }
    }

    /// With VLAN tags, the outer one first: EtherType and id.
    pub fn vlan(mut self, ether_type: u16, id: u16) -> Self {
        let ([a, b], [c, d]) = (ether_type.to_be_bytes(), id.to_be_bytes());
        self.vlans.push([a, b, c, d]);
        self
    }

    pub fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    pub fn hops(mut self, hops: u8) -> Self {
        self.hops = hops;
        self
    }

    /// With IPv4 options.
    pub fn options(mut self, bytes: &[u8]) -> Self {
        self.between.push(Between { number: 0, bytes: bytes.to_vec() });
        self
    }

    /// With an IPv6 extension header of so many bytes.
    pub fn extension(mut self, number: u8, bytes: usize) -> Self {
        let mut header = vec![0; bytes];
        // A destination option or hop-by-hop option that is padding.
        (header[1], header[2], header[3]) = ((bytes / 8 - 1) as u8, 1, (bytes - 4) as u8);
        self.between.push(Between { number, bytes: header });
        self
    }

    pub fn frame(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tag in &self.vlans {
            frame.extend(tag);
        }
        let between: usize = self.between.iter().map(|header| header.bytes.len()).sum();
        let udp_length = 8 + self.payload.len() as u16;
        let (source, destination) = (self.ends.source, self.ends.destination);
        match (source.ip(), destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                frame.extend([8, 0, 0x45 + (between / 4) as u8, self.tos]);
                frame.extend((20 + between as u16 + udp_length).to_be_bytes());
                frame.extend(self.identification.to_be_bytes());
                frame.extend([0x40, 0, self.hops, 17, 0, 0]);
                frame.extend(from.octets());
                frame.extend(to.octets());
                frame.extend(self.between.iter().flat_map(|header| header.bytes.clone()));
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                frame.extend([0x86, 0xdd]);
                frame.extend((6 << 28 | u32::from(self.tos) << 20 | self.flow_label).to_be_bytes());
                frame.extend((between as u16 + udp_length).to_be_bytes());
                frame.extend([self.between.first().map_or(17, |header| header.number), self.hops]);
                frame.extend(from.octets());
                frame.extend(to.octets());
                for (index, header) in self.between.iter().enumerate() {
                    let next = self.between.get(index + 1).map_or(17, |header| header.number);
                    frame.push(next);
                    frame.extend(&header.bytes[1..]);
                }
            }
            ends => panic!("{ends:?} are of two families"),
        }
        frame.extend(source.port().to_be_bytes());
        frame.extend(destination.port().to_be_bytes());
        frame.extend(udp_length.to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(&self.payload);
        fix_checksums(&mut frame);
        frame
    }
}

/// A plain frame.
pub fn udp_frame(ends: &Ends, payload: &[u8], tos: u8, hops: u8) -> Vec<u8> {
    Build::new(*ends, payload).tos(tos).hops(hops).frame()
}

/// The part that every tag has.
pub fn tag_bytes(version: u8, kind: u8, label: u64, length: u16) -> [u8; 8] {
    let label = label.to_be_bytes();
    let length = length.to_be_bytes();
    [version << 4 | kind, label[3], length[0], length[1], label[4], label[5], label[6], label[7]]
}

/// The ends of tagged packets from this address.
pub fn tagged_ends(source: IpAddr) -> Ends {
    super::ends(source, 0xc123, node(source), TAG_PORT)
}

/// A tagged frame as a peer sends it. `behind` is what follows the tag's first eight bytes.
pub fn tagged_frame(source: IpAddr, tag: [u8; 8], behind: &[u8]) -> Vec<u8> {
    Build::new(tagged_ends(source), &[&tag[..], behind].concat()).tos(0xb8).hops(63).frame()
}

/// A G.711 packet's worth of RTP.
pub fn rtp() -> Vec<u8> {
    let mut payload = vec![0x80, 8, 0x30, 0x39, 0, 0, 0, 160, 0xde, 0xad, 0xbe, 0xef];
    payload.extend((0..160_u8).map(|byte| byte.wrapping_mul(37)));
    payload
}

/// A receiver report.
pub fn rtcp() -> Vec<u8> {
    let mut payload = vec![0x81, 201, 0, 7];
    payload.extend([0; 28]);
    payload
}
