//! The Internet checksum, changed in place (RFC 1624, equation 3).
//!
//! Words are taken in the machine's own byte order: the sum does not mind as long as all agree (RFC 1071, section 2 B), and no
//! byte has to be swapped.

/// A sum that is still to be folded. Sixteen bits and room for 65,535 carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change(u32);

impl Change {
    /// No change.
    pub const NONE: Self = Self(0);

    /// One computed before, by [`Change::fold`].
    #[must_use]
    pub const fn folded(sum: u16) -> Self {
        Self(sum as u32)
    }

    /// Adds a word that comes in.
    #[must_use]
    pub const fn plus(self, word: [u8; 2]) -> Self {
        Self(self.0 + u16::from_ne_bytes(word) as u32)
    }

    /// Takes off a word that goes out.
    #[must_use]
    pub const fn minus(self, word: [u8; 2]) -> Self {
        Self(self.0 + !u16::from_ne_bytes(word) as u32)
    }

    /// Adds an address or the half of a tag.
    #[must_use]
    pub const fn plus_long(self, long: [u8; 4]) -> Self {
        self.plus([long[0], long[1]]).plus([long[2], long[3]])
    }

    /// Takes off an address or the half of a tag.
    #[must_use]
    pub const fn minus_long(self, long: [u8; 4]) -> Self {
        self.minus([long[0], long[1]]).minus([long[2], long[3]])
    }

    /// Adds an address of sixteen bytes.
    #[must_use]
    pub const fn plus_address(self, address: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
        self.plus_long([a, b, c, d]).plus_long([e, f, g, h]).plus_long([i, j, k, l]).plus_long([m, n, o, p])
    }

    /// Takes off an address of sixteen bytes.
    #[must_use]
    pub const fn minus_address(self, address: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
        self.minus_long([a, b, c, d]).minus_long([e, f, g, h]).minus_long([i, j, k, l]).minus_long([m, n, o, p])
    }

    /// The checksum of what was summed up from nothing.
    #[must_use]
    #[inline(always)]
    pub const fn checksum(self) -> [u8; 2] {
        (!self.fold()).to_ne_bytes()
    }

    /// The sum in sixteen bits.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "two folds leave 16 bits")]
    pub const fn fold(self) -> u16 {
        let sum = (self.0 & 0xffff) + (self.0 >> 16);
        ((sum & 0xffff) + (sum >> 16)) as u16
    }

    /// The checksum after this change.
    #[must_use]
    #[inline(always)]
    pub const fn apply(self, checksum: [u8; 2]) -> [u8; 2] {
        (!self.minus(checksum).fold()).to_ne_bytes()
    }

    /// The same for UDP, where zero means that there is no checksum: none stays none, and a computed zero is sent as its twin.
    #[must_use]
    #[inline(always)]
    pub const fn apply_udp(self, checksum: [u8; 2]) -> [u8; 2] {
        // One number up to the end: as two bytes each choice would be made twice.
        let changed = !self.minus(checksum).fold();
        let twin = if changed == 0 { 0xffff } else { changed };
        (if u16::from_ne_bytes(checksum) == 0 { 0 } else { twin }).to_ne_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1624, section 4: the example on which equation 2 fails.
    #[test]
    fn the_example_of_rfc_1624_comes_out_as_zero() {
        let change = Change::NONE.minus([0x55, 0x55]).plus([0x32, 0x85]);
        assert_eq!(change.apply([0xdd, 0x2f]), [0x00, 0x00]);
    }

    #[test]
    fn no_udp_checksum_stays_none() {
        assert_eq!(Change::NONE.plus([1, 2]).apply_udp([0, 0]), [0, 0]);
    }

    #[test]
    fn a_udp_checksum_never_becomes_none() {
        let change = Change::NONE.minus([0x55, 0x55]).plus([0x32, 0x85]);
        assert_eq!(change.apply_udp([0xdd, 0x2f]), [0xff, 0xff]);
    }
}
