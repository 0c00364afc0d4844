//! VLAN tags (IEEE 802.1Q), one or two of them (802.1ad).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | PCP |D|        VLAN id        |           EtherType           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of the tag.
pub const HEADER_BYTES: usize = 4;
/// EtherType that says that a tag follows (802.1Q).
pub const CUSTOMER: [u8; 2] = [0x81, 0x00];
/// EtherType that says that a service tag follows (802.1ad).
pub const SERVICE: [u8; 2] = [0x88, 0xa8];
/// Most tags of a frame that are looked behind.
pub const TAGS_MAX: usize = 2;

/// The tag, behind the EtherType that announces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// Priority, drop eligibility, VLAN id.
    pub control: [u8; 2],
    /// What follows.
    pub ether_type: [u8; 2],
}
