//! The frame of an XDP context.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;
use turnpike_fastpath::frame::{Frame, NoRoom, Wire};

/// Largest offset that the verifier is asked to believe.
const OFFSET_MAX: usize = 255;

pub(crate) struct XdpFrame(pub(crate) XdpContext);

impl XdpFrame {
    #[inline(always)]
    fn place<T: Wire>(&self, offset: usize) -> Option<*mut T> {
        if offset > OFFSET_MAX {
            return None;
        }
        let start = self.0.data() + offset;
        if start + size_of::<T>() > self.0.data_end() {
            return None;
        }
        Some(start as *mut T)
    }

    #[inline(always)]
    fn move_head(&mut self, bytes: i32) -> Result<(), NoRoom> {
        // SAFETY: the context is the one that the kernel gave us; the helper checks the room and refuses what does not fit.
        // Headers borrowed before cannot be alive: they borrow the frame, and this takes it mutably.
        match unsafe { bpf_xdp_adjust_head(self.0.as_ptr().cast(), bytes) } {
            0 => Ok(()),
            _ => Err(NoRoom),
        }
    }
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn len(&self) -> usize {
        self.0.data_end() - self.0.data()
    }

    #[inline(always)]
    fn at<T: Wire>(&self, offset: usize) -> Option<&T> {
        // SAFETY: all of T lies between data and data_end, T is legal for any bytes and has no alignment, and nothing else writes
        // the frame while its program runs.
        self.place(offset).map(|place| unsafe { &*place })
    }

    #[inline(always)]
    fn at_mut<T: Wire>(&mut self, offset: usize) -> Option<&mut T> {
        // SAFETY: as in `at`, and the frame is borrowed mutably.
        self.place(offset).map(|place| unsafe { &mut *place })
    }

    #[inline(always)]
    fn grow_head(&mut self, bytes: usize) -> Result<(), NoRoom> {
        self.move_head(-(bytes as i32))
    }

    #[inline(always)]
    fn shrink_head(&mut self, bytes: usize) -> Result<(), NoRoom> {
        self.move_head(bytes as i32)
    }
}
