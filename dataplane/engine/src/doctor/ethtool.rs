//! What the kernel says of a device through generic netlink: the families `ethtool` (features and channels) and `netdev` (XDP
//! features, since 6.3). Neither needs a privilege.

use std::io;

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NetlinkDeserializable, NetlinkHeader, NetlinkPayload, NetlinkSerializable,
    NlaBuffer, NlasIterator, parse_u16, parse_u32, parse_u64,
};
use netlink_sys::protocols::NETLINK_GENERIC;

use crate::netlink::Connection;

const CONTROLLER: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

const FEATURES_GET: u8 = 11;
const FEATURES_CHANGEABLE: u16 = 2;
const FEATURES_ACTIVE: u16 = 4;
const BITSET_BITS: u16 = 3;
const BIT_NAME: u16 = 2;

const CHANNELS_GET: u8 = 17;

const DEVICE_GET: u8 = 1;
const DEVICE_INDEX: u16 = 1;
const DEVICE_XDP_FEATURES: u16 = 3;

/// Bits of the XDP features.
pub(crate) const XDP_BASIC: u64 = 1;
pub(crate) const XDP_REDIRECT: u64 = 2;
/// Takes what others redirect to it.
pub(crate) const XDP_TRANSMIT: u64 = 4;

/// Offloads by the names of `ethtool --show-features`' kernel side, such as `rx-gro`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Features {
    pub(crate) active: Vec<String>,
    pub(crate) changeable: Vec<String>,
}

impl Features {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.active.iter().any(|active| active == name)
    }

    pub(crate) fn can_change(&self, name: &str) -> bool {
        self.changeable.iter().any(|changeable| changeable == name)
    }
}

/// Queues, and how many there can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Channels {
    pub(crate) rx: u32,
    pub(crate) tx: u32,
    pub(crate) combined: u32,
    pub(crate) rx_max: u32,
    pub(crate) combined_max: u32,
}

/// A connection, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Ethtool(Connection);

impl Ethtool {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self(Connection::open(NETLINK_GENERIC)?))
    }

    pub(crate) fn features(&mut self, index: u32) -> io::Result<Features> {
        let answer = self.ethtool(FEATURES_GET, index)?;
        let mut features = Features::default();
        for (kind, value) in attributes(&answer) {
            match kind {
                FEATURES_CHANGEABLE => features.changeable = bit_names(&value),
                FEATURES_ACTIVE => features.active = bit_names(&value),
                _ => {}
            }
        }
        Ok(features)
    }

    pub(crate) fn channels(&mut self, index: u32) -> io::Result<Channels> {
        let answer = self.ethtool(CHANNELS_GET, index)?;
        let mut channels = Channels::default();
        for (kind, value) in attributes(&answer) {
            let Ok(count) = parse_u32(&value) else { continue };
            match kind {
                2 => channels.rx_max = count,
                5 => channels.combined_max = count,
                6 => channels.rx = count,
                7 => channels.tx = count,
                9 => channels.combined = count,
                _ => {}
            }
        }
        Ok(channels)
    }

    /// What the driver says of its XDP.
    pub(crate) fn xdp_features(&mut self, index: u32) -> io::Result<u64> {
        let family = self.family("netdev")?;
        let device = DefaultNla::new(DEVICE_INDEX, index.to_ne_bytes().to_vec());
        let answer = self.ask(family, DEVICE_GET, &[device])?;
        let found = attributes(&answer).find(|(kind, _)| *kind == DEVICE_XDP_FEATURES);
        found.and_then(|(_, value)| parse_u64(&value).ok()).ok_or_else(|| io::Error::other("the kernel does not say"))
    }

    fn ethtool(&mut self, command: u8, index: u32) -> io::Result<Vec<u8>> {
        const HEADER: u16 = 1;
        const HEADER_INDEX: u16 = 1;
        const NESTED: u16 = 1 << 15;
        let family = self.family("ethtool")?;
        let header = emit(&[DefaultNla::new(HEADER_INDEX, index.to_ne_bytes().to_vec())]);
        self.ask(family, command, &[DefaultNla::new(HEADER | NESTED, header)])
    }

    fn family(&mut self, name: &str) -> io::Result<u16> {
        let mut text = name.as_bytes().to_vec();
        text.push(0);
        let answer = self.ask(CONTROLLER, GET_FAMILY, &[DefaultNla::new(FAMILY_NAME, text)])?;
        let found = attributes(&answer).find(|(kind, _)| *kind == FAMILY_ID);
        found.and_then(|(_, value)| parse_u16(&value).ok()).ok_or_else(|| io::Error::other("a family without a number"))
    }

    /// Sends one request and returns the attributes of its answer.
    fn ask(&mut self, family: u16, command: u8, attributes: &[DefaultNla]) -> io::Result<Vec<u8>> {
        const VERSION: u8 = 1;
        let mut payload = vec![command, VERSION, 0, 0];
        payload.extend(emit(attributes));
        let answers = self.0.ask(Raw { family, payload }, 0)?;
        let answer = answers.into_iter().next().ok_or_else(|| io::Error::other("the kernel does not answer"))?;
        Ok(answer.payload.get(4..).unwrap_or_default().to_vec())
    }
}

/// A message as its bytes.
struct Raw {
    family: u16,
    payload: Vec<u8>,
}

impl From<Raw> for NetlinkPayload<Raw> {
    fn from(raw: Raw) -> Self {
        Self::InnerMessage(raw)
    }
}

impl NetlinkSerializable for Raw {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        self.payload.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.payload);
    }
}

impl NetlinkDeserializable for Raw {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { family: header.message_type, payload: payload.to_vec() })
    }
}

fn emit(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

/// Kinds and values. Ends where the bytes make no sense any more.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, Vec<u8>)> {
    NlasIterator::new(bytes).map_while(|attribute: Result<NlaBuffer<&[u8]>, _>| {
        attribute.ok().map(|attribute| (attribute.kind(), attribute.value().to_vec()))
    })
}

fn bit_names(bitset: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    for (_, bits) in attributes(bitset).filter(|(kind, _)| *kind == BITSET_BITS) {
        for (_, bit) in attributes(&bits) {
            let name = attributes(&bit).find(|(kind, _)| *kind == BIT_NAME);
            names.extend(name.map(|(_, text)| String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned()));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_inside_a_bitset() {
        let bit = |name: &str| DefaultNla::new(1, emit(&[DefaultNla::new(BIT_NAME, format!("{name}\0").into_bytes())]));
        let bits = DefaultNla::new(BITSET_BITS, emit(&[bit("rx-gro"), bit("rx-lro")]));
        assert_eq!(bit_names(&emit(&[bits])), ["rx-gro", "rx-lro"]);
        assert_eq!(bit_names(&[1, 2, 3]), Vec::<String>::new());
    }

    #[test]
    fn the_kernel_describes_the_loopback() {
        let mut ethtool = Ethtool::open().unwrap();
        let Ok(features) = ethtool.features(1) else {
            println!("skipped: this kernel has no ethtool netlink");
            return;
        };
        assert!(!features.active.is_empty() && features.active.iter().all(|name| name.is_ascii()), "{features:?}");
        assert!(ethtool.features(u32::MAX >> 1).is_err());
    }
}
