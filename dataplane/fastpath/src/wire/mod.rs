//! Headers as they stand on the wire. Every field is a number; what it means is decided where it is used, so that no byte
//! of a packet can make an illegal value.

pub mod ethernet;
pub mod ipv4;
pub mod rtp;
pub mod tag;
pub mod udp;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The headers of a plain packet of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub struct Headers {
    /// At 0.
    pub ethernet: ethernet::Header,
    /// At 14.
    pub ipv4: ipv4::Header,
    /// At 34.
    pub udp: udp::Header,
}

/// The headers of a tagged packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub struct TaggedHeaders {
    /// The outer ones.
    pub headers: Headers,
    /// At 42.
    pub tag: tag::Header,
}

const _: () = assert!(size_of::<Headers>() == ipv4::OFFSET + ipv4::HEADER_BYTES + udp::HEADER_BYTES);
const _: () = assert!(size_of::<TaggedHeaders>() == size_of::<Headers>() + tag::HEADER_BYTES);
