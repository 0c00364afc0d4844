//! The bytes of one frame, wherever they live.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A header that may stand at any byte of a frame.
pub trait Wire: FromBytes + IntoBytes + Unaligned + Immutable + KnownLayout {}

impl<T: FromBytes + IntoBytes + Unaligned + Immutable + KnownLayout> Wire for T {}

/// The head of the frame could not be moved: there is no room, or not that much frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

/// One frame: an XDP context, a piece of UMEM, or a test vector.
///
/// Headers are borrowed one at a time and have to be taken anew after the head moved; the borrow checker sees to it.
pub trait Frame {
    /// Bytes from the Ethernet header to the end.
    fn len(&self) -> usize;

    /// Whether there is no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The header at `offset`, if all of it lies inside the frame.
    fn at<T: Wire>(&self, offset: usize) -> Option<&T>;

    /// The header at `offset`, to be written, if all of it lies inside the frame.
    fn at_mut<T: Wire>(&mut self, offset: usize) -> Option<&mut T>;

    /// Puts `bytes` bytes of any content before the frame, or takes as many off its beginning if negative.
    ///
    /// # Errors
    /// There is not that much headroom, or the frame is not longer than that and an Ethernet header; nothing has changed.
    fn grow_head(&mut self, bytes: i32) -> Result<(), NoRoom>;
}
