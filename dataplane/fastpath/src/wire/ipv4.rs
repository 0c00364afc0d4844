//! IPv4 (RFC 791), the part before the options.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Version|  IHL  |   DSCP    |ECN|         Total length          |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |        Identification         |Flags|    Fragment offset      |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | Time to live  |   Protocol    |           Checksum            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                            Source                             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                          Destination                          |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::Change;

/// Bytes of the header without options.
pub const HEADER_BYTES: usize = 20;
/// The same, as length fields have it.
pub const HEADER_LENGTH: u16 = 20;
/// Version 4, five words of header.
pub const VERSION_IHL: u8 = 0x45;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// The ECN bits of the second byte (RFC 3168).
pub const ECN_MASK: u8 = 0x03;
/// Don't fragment, alone in its field.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// More fragments, and the fragment offset: any of them set means a fragment.
pub const FRAGMENT_MASK: u16 = 0x3fff;
/// The fragment offset alone.
pub const FRAGMENT_OFFSET_MASK: u16 = 0x1fff;

/// The header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// Version and length in words.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Bytes from here to the end of the packet.
    pub total_length: U16,
    /// Names the packet for reassembly.
    pub identification: [u8; 2],
    /// Flags and fragment offset.
    pub fragment: U16,
    /// Hops left.
    pub time_to_live: u8,
    /// What follows.
    pub protocol: u8,
    /// Of the header.
    pub checksum: [u8; 2],
    /// Address.
    pub source: [u8; 4],
    /// Address.
    pub destination: [u8; 4],
}

impl Header {
    /// Every word of the header; all ones over a good one.
    #[must_use]
    #[inline(always)]
    pub const fn sum(&self) -> Change {
        let Self { total_length, identification, fragment, checksum, source, destination, .. } = self;
        Change::NONE
            .plus([self.version_ihl, self.tos])
            .plus(total_length.to_bytes())
            .plus(*identification)
            .plus(fragment.to_bytes())
            .plus([self.time_to_live, self.protocol])
            .plus(*checksum)
            .plus_long(*source)
            .plus_long(*destination)
    }
}
