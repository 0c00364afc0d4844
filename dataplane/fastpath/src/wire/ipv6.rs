//! IPv6 (RFC 8200) and the extension headers that may stand before UDP.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Version| Traffic class |              Flow label               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |        Payload length         |  Next header  |   Hop limit   |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                                                               |
//! +                       Source (4 words)                        +
//! |                                                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                                                               |
//! +                     Destination (4 words)                     +
//! |                                                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 40;
/// The same, as length fields have it.
pub const HEADER_LENGTH: u16 = 40;
/// Bits of the flow label in [`Header::first`].
pub const FLOW_LABEL_MASK: u32 = 0x000f_ffff;

/// Next header: hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Next header: routing.
pub const ROUTING: u8 = 43;
/// Next header: fragment.
pub const FRAGMENT: u8 = 44;
/// Next header: destination options.
pub const DESTINATION_OPTIONS: u8 = 60;
/// Most extension headers that are looked behind.
pub const EXTENSIONS_MAX: usize = 4;
/// Most bytes of them together.
pub const EXTENSION_BYTES_MAX: u16 = 128;

/// The header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// Version, traffic class, flow label.
    pub first: U32,
    /// Bytes behind this header.
    pub payload_length: U16,
    /// What follows.
    pub next_header: u8,
    /// Hops left.
    pub hop_limit: u8,
    /// Address.
    pub source: [u8; 16],
    /// Address.
    pub destination: [u8; 16],
}

/// The beginning of an extension header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub struct Extension {
    /// What follows.
    pub next_header: u8,
    /// Words of eight bytes after the first.
    pub length: u8,
}

/// The first word of a header.
#[must_use]
#[inline(always)]
pub const fn first(traffic_class: u8, flow_label: u32) -> u32 {
    6 << 28 | (traffic_class as u32) << 20 | (flow_label & FLOW_LABEL_MASK)
}

/// Its traffic class: DSCP and ECN.
#[must_use]
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "eight bits")]
pub const fn traffic_class(first: u32) -> u8 {
    (first >> 20) as u8
}
