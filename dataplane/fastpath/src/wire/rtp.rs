//! RTP (RFC 3550, section 5.1): the part of its header that is always there. SRTP (RFC 3711) leaves it in the clear.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |V=2|P|X|  CC   |M| Payload type|        Sequence number        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                           Timestamp                           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |              Synchronization source (SSRC) identifier         |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of the header without contributing sources and extension.
pub const HEADER_BYTES: usize = 12;
/// The same, as length fields have it.
pub const HEADER_LENGTH: u16 = 12;

/// The header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// Version in the upper two bits, then padding, extension and the count of contributing sources.
    pub flags: u8,
    /// Marker in the upper bit, then the payload type.
    pub marker_type: u8,
    /// One more with every packet.
    pub sequence: U16,
    /// Ticks of the media clock when the packet's first sample was taken.
    pub timestamp: U32,
    /// Who sends the stream.
    pub source: U32,
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);

impl Header {
    /// Whether this is an RTP packet by what shares a port with them: STUN, DTLS and the rest of RFC 7983 have other versions, and RTCP has
    /// 192 to 223 as its second byte (RFC 5761, section 4).
    #[must_use]
    #[inline(always)]
    pub const fn is_rtp(&self) -> bool {
        self.flags & 0xc0 == 0x80 && self.marker_type & 0xe0 != 0xc0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_diagram() {
        let header = Header {
            flags: 0x80,
            marker_type: 0x88,
            sequence: U16::new(0x1234),
            timestamp: U32::new(0x5678_9abc),
            source: U32::new(0xdef0_1122),
        };
        assert_eq!(header.as_bytes(), [0x80, 0x88, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 0x11, 0x22]);
    }

    #[test]
    fn what_shares_the_port_is_told_apart() {
        let is_rtp = |flags, marker_type| {
            Header::read_from_bytes(&[flags, marker_type, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
                .is_ok_and(|header| header.is_rtp())
        };
        assert!(is_rtp(0x80, 0) && is_rtp(0xbf, 8 | 0x80));
        // Payload types 64 to 95 with the marker are RTCP's.
        assert!(
            is_rtp(0x80, 191) && !is_rtp(0x80, 192) && !is_rtp(0x80, 200) && !is_rtp(0x80, 223) && is_rtp(0x80, 224)
        );
        // STUN, DTLS, TURN channels, RTP's own earlier version, and what is none of them.
        for flags in [0x00, 0x16, 0x40, 0x41, 0xc0] {
            assert!(!is_rtp(flags, 0), "{flags:#x}");
        }
    }
}
