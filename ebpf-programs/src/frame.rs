//! The frame of an XDP context.

use core::arch::asm;
use core::hint::assert_unchecked;
use core::intrinsics::is_val_statically_known;

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
        let start =
            if is_val_statically_known(offset) { self.0.data() + offset } else { behind(self.0.data(), offset) };
        if start + size_of::<T>() > self.0.data_end() {
            return None;
        }
        // SAFETY: packets are not at the beginning of the address space.
        unsafe { assert_unchecked(start != 0) };
        Some(start as *mut T)
    }
}

/// The address `offset` bytes behind `data`. The verifier follows a pointer that something variable was added to only in the register where that
/// was done, and only if it knows there how large that was; the compiler would compute things elsewhere, and drop a mask that changes nothing.
#[inline(always)]
fn behind(data: usize, offset: usize) -> usize {
    let mut start = offset;
    // SAFETY: two operations on a register; the mask keeps the offset, which is at most `OFFSET_MAX`.
    unsafe {
        asm!("{0} &= 255", "{0} += {1}", inout(reg) start, in(reg) data, options(pure, nomem, nostack));
    }
    start
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
    fn grow_head(&mut self, bytes: i32) -> Result<(), NoRoom> {
        // SAFETY: the context is the one that the kernel gave us; the helper checks the room and refuses what does not fit.
        // Headers borrowed before cannot be alive: they borrow the frame, and this takes it mutably.
        match unsafe { bpf_xdp_adjust_head(self.0.as_ptr().cast(), -bytes) } {
            0 => Ok(()),
            _ => Err(NoRoom),
        }
    }
}
