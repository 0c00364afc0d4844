//! The tag: by it the receiving node knows the flow (R-003-12). `docs/wire-format.md` is its specification.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Version|P| Kind| Label (39-32) |            Length             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                         Label (31-0)                          |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |          Header word, where the kind has one                  |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |          Terminals, where the kind has them                   |
//! ```

use zerocopy::network_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of the part that every tag has.
pub const HEADER_BYTES: usize = 8;
/// The same, as length fields have it.
pub const HEADER_LENGTH: u16 = 8;
/// The version spoken here.
pub const VERSION: u8 = 1;

/// A label; the packet's headers are in the family of the outer ones, and were replaced by them.
pub const KIND_LABEL: u8 = 1;
/// A label, a header word and the IPv4 terminals (R-003-13): the receiver needs to know no flow.
pub const KIND_TERMINALS_V4: u8 = 2;
/// The same with IPv6 terminals.
pub const KIND_TERMINALS_V6: u8 = 3;
/// A label and a header word: the packet was of the other family.
pub const KIND_OTHER_FAMILY: u8 = 5;
/// A label and the whole packet, of either family: it has options or extension headers.
pub const KIND_PACKET: u8 = 6;
/// Set in the kind: both ports are one more than the flow's, which is where its RTCP is.
pub const NEXT_PORT: u8 = 8;
/// The same in a header's value.
pub const NEXT_PORT_VALUE: u64 = (NEXT_PORT as u64) << 56;

/// Bits of a label that are the receiver's table index.
pub const INDEX_BITS: u32 = 20;
/// Bits of a label that tell one use of an index from the next.
pub const GENERATION_BITS: u32 = 20;
/// Largest label.
pub const LABEL_MAX: u64 = (1 << (INDEX_BITS + GENERATION_BITS)) - 1;

/// The part that every tag has, as one number in network order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header(pub U64);

/// What headers of one family cannot say for a packet of the other: identification, flags and fragment offset of IPv4 (RFC 791), or the flow
/// label of IPv6 (RFC 8200), with twelve zeros before it.
pub type HeaderWord = U32;

/// The ends of an IPv4 packet, behind the header word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub struct TerminalsV4 {
    /// See [`HeaderWord`].
    pub word: HeaderWord,
    /// Address.
    pub source: [u8; 4],
    /// Address.
    pub destination: [u8; 4],
    /// Port.
    pub source_port: [u8; 2],
    /// Port.
    pub destination_port: [u8; 2],
}

/// The ends of an IPv6 packet, behind the header word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub struct TerminalsV6 {
    /// See [`HeaderWord`].
    pub word: HeaderWord,
    /// Address.
    pub source: [u8; 16],
    /// Address.
    pub destination: [u8; 16],
    /// Port.
    pub source_port: [u8; 2],
    /// Port.
    pub destination_port: [u8; 2],
}

/// Bytes of a whole tag of this kind, [`NEXT_PORT`] left out; none if it is not known.
#[must_use]
#[inline(always)]
pub const fn bytes_of(kind: u8) -> Option<u16> {
    match kind {
        KIND_LABEL | KIND_PACKET => Some(8),
        KIND_OTHER_FAMILY => Some(12),
        KIND_TERMINALS_V4 => Some(24),
        KIND_TERMINALS_V6 => Some(48),
        _ => None,
    }
}

/// The header's value for a chunk of this kind whose length is still zero.
#[must_use]
pub const fn template(kind: u8, label: u64) -> u64 {
    let version_kind = ((VERSION << 4) | kind) as u64;
    version_kind << 56 | (label >> 32 & 0xff) << 48 | (label & 0xffff_ffff)
}

/// The header's value with the bytes that follow the tag.
#[must_use]
pub const fn with_length(template: u64, payload_bytes: u16) -> u64 {
    template | (payload_bytes as u64) << 32
}

/// The value without length and without [`NEXT_PORT`].
#[must_use]
pub const fn template_of(value: u64) -> u64 {
    value & !(0xffff << 32 | NEXT_PORT_VALUE)
}

/// The value for a whole packet of the same label.
#[must_use]
pub const fn for_packet(template: u64) -> u64 {
    (template & !(0xf << 56)) | (KIND_PACKET as u64) << 56
}

/// Version, in the lower 4 bits.
#[must_use]
pub const fn version(value: u64) -> u8 {
    (value >> 60) as u8
}

/// Kind without [`NEXT_PORT`], in the lower 3 bits.
#[must_use]
pub const fn kind(value: u64) -> u8 {
    (value >> 56 & 0x7) as u8
}

/// Whether the ports are the flow's next.
#[must_use]
pub const fn next_port(value: u64) -> bool {
    value & NEXT_PORT_VALUE != 0
}

/// Bytes of payload that follow the tag.
#[must_use]
pub const fn length(value: u64) -> u16 {
    (value >> 32 & 0xffff) as u16
}

/// The receiver's table index.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "20 bits")]
pub const fn index(value: u64) -> u32 {
    (value & ((1 << INDEX_BITS) - 1)) as u32
}

/// The use of that index.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "20 bits")]
pub const fn generation(value: u64) -> u32 {
    ((value & 0xffff_ffff) >> INDEX_BITS | (value >> 48 & 0xff) << (32 - INDEX_BITS)) as u32
}

const _: () = {
    assert!(size_of::<Header>() == HEADER_BYTES);
    assert!(HEADER_BYTES + size_of::<TerminalsV4>() == 24);
    assert!(HEADER_BYTES + size_of::<TerminalsV6>() == 48);
};

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    #[test]
    fn the_bytes_are_those_of_the_diagram() {
        let value = with_length(template(KIND_LABEL, 0xab_1234_5678), 172);
        assert_eq!(Header(U64::new(value)).as_bytes(), [0x11, 0xab, 0x00, 172, 0x12, 0x34, 0x56, 0x78]);
        let value = with_length(template(KIND_OTHER_FAMILY | NEXT_PORT, 0xab_1234_5678), 172);
        assert_eq!(Header(U64::new(value)).as_bytes(), [0x1d, 0xab, 0x00, 172, 0x12, 0x34, 0x56, 0x78]);
    }

    #[test]
    fn every_field_is_read_as_it_was_written() {
        let label = 0xf_edcb << 20 | 0x6_5432;
        let value = with_length(template(KIND_LABEL, label), 0xfffe);
        assert_eq!((version(value), kind(value), length(value)), (VERSION, KIND_LABEL, 0xfffe));
        assert_eq!((index(value), generation(value)), (0x6_5432, 0xf_edcb));
        assert!(!next_port(value) && next_port(value | NEXT_PORT_VALUE));
        assert_eq!(template_of(value | NEXT_PORT_VALUE), template(KIND_LABEL, label));
        assert_eq!(for_packet(template(KIND_OTHER_FAMILY, label)), template(KIND_PACKET, label));
    }
}
