//! A frame in plain memory, for hosts that have no context of their own.

use crate::frame::{Frame, NoRoom, Wire};
use crate::wire::ethernet;

/// Bytes before the frame, as XDP has them (`XDP_PACKET_HEADROOM`).
pub const HEADROOM_BYTES: usize = 256;
/// Longest frame that fits.
pub const FRAME_BYTES_MAX: usize = 3_584;

/// Headroom, then the frame.
#[derive(Clone)]
pub struct Buffer {
    bytes: [u8; HEADROOM_BYTES + FRAME_BYTES_MAX],
    start: usize,
    end: usize,
}

impl Buffer {
    /// A copy of `frame` behind fresh headroom; none if it is longer than [`FRAME_BYTES_MAX`].
    #[must_use]
    pub fn new(frame: &[u8]) -> Option<Self> {
        let mut bytes = [0; HEADROOM_BYTES + FRAME_BYTES_MAX];
        let end = HEADROOM_BYTES + frame.len();
        bytes.get_mut(HEADROOM_BYTES..end)?.copy_from_slice(frame);
        Some(Self { bytes, start: HEADROOM_BYTES, end })
    }

    /// The frame as it is now.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }
}

impl Frame for Buffer {
    fn len(&self) -> usize {
        self.end - self.start
    }

    fn at<T: Wire>(&self, offset: usize) -> Option<&T> {
        let bytes = self.as_slice().get(offset..)?;
        T::ref_from_prefix(bytes).ok().map(|(header, _)| header)
    }

    fn at_mut<T: Wire>(&mut self, offset: usize) -> Option<&mut T> {
        let bytes = self.bytes[self.start..self.end].get_mut(offset..)?;
        T::mut_from_prefix(bytes).ok().map(|(header, _)| header)
    }

    fn grow_head(&mut self, bytes: i32) -> Result<(), NoRoom> {
        let start = self.start.checked_add_signed(-isize::try_from(bytes).map_err(|_| NoRoom)?).ok_or(NoRoom)?;
        if self.end < start + ethernet::HEADER_BYTES {
            return Err(NoRoom);
        }
        self.start = start;
        Ok(())
    }
}
