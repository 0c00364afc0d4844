//! The tag: by it the receiving node knows the flow (R-003-12). `docs/wire-format.md` is its specification.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Version|  Kind | Label (39-32) |            Length             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                         Label (31-0)                          |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use zerocopy::network_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where it stands in a frame without VLAN tags and IP options.
pub const OFFSET: usize = super::udp::OFFSET + super::udp::HEADER_BYTES;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 8;
/// The same, as length fields have it.
pub const HEADER_LENGTH: u16 = 8;
/// The version spoken here.
pub const VERSION: u8 = 1;
/// A chunk known by its label alone.
pub const KIND_LABEL: u8 = 1;
/// Bits of a label that are the receiver's table index.
pub const INDEX_BITS: u32 = 20;
/// Bits of a label that tell one use of an index from the next.
pub const GENERATION_BITS: u32 = 20;
/// Largest label.
pub const LABEL_MAX: u64 = (1 << (INDEX_BITS + GENERATION_BITS)) - 1;

/// The header, as one number in network order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header(pub U64);

/// The header's value for a label chunk whose length is still zero.
#[must_use]
pub const fn template(label: u64) -> u64 {
    let version_kind = ((VERSION << 4) | KIND_LABEL) as u64;
    version_kind << 56 | (label >> 32 & 0xff) << 48 | (label & 0xffff_ffff)
}

/// The header's value with the bytes that follow it.
#[must_use]
pub const fn with_length(template: u64, payload_bytes: u16) -> u64 {
    template | (payload_bytes as u64) << 32
}

/// Version, in the lower 4 bits.
#[must_use]
pub const fn version(value: u64) -> u8 {
    (value >> 60) as u8
}

/// Kind, in the lower 4 bits.
#[must_use]
pub const fn kind(value: u64) -> u8 {
    (value >> 56 & 0xf) as u8
}

/// Bytes of payload that follow.
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

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    #[test]
    fn the_bytes_are_those_of_the_diagram() {
        let value = with_length(template(0xab_1234_5678), 172);
        assert_eq!(Header(U64::new(value)).as_bytes(), [0x11, 0xab, 0x00, 172, 0x12, 0x34, 0x56, 0x78]);
    }

    #[test]
    fn every_field_is_read_as_it_was_written() {
        let label = 0xf_edcb << 20 | 0x6_5432;
        let value = with_length(template(label), 0xfffe);
        assert_eq!((version(value), kind(value), length(value)), (VERSION, KIND_LABEL, 0xfffe));
        assert_eq!((index(value), generation(value)), (0x6_5432, 0xf_edcb));
    }
}
