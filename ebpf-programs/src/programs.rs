//! How one program goes on with another.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::ProgramArray;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::XdpContext;
use turnpike_fastpath::Detour;
use turnpike_fastpath::contract::PROGRAMS_MAX;

#[btf_map]
static TP_PROGRAMS: ProgramArray<{ PROGRAMS_MAX as usize }> = ProgramArray::new();

#[allow(dead_code, reason = "the benchmarks have no program for both sides")]
/// Places of the two directions' first programs in the table of programs, behind those of [`turnpike_fastpath::Detour`].
pub(crate) const OUT: u32 = Detour::ALL.len() as u32;
/// See [`OUT`].
#[allow(dead_code, reason = "as above")]
pub(crate) const IN: u32 = OUT + 1;

/// Goes on with the program at `place`. It returns only if there is none, which is the node's own fault: the frame is aborted, which the
/// kernel traces.
#[inline(always)]
pub(crate) fn go_on(context: &XdpContext, place: u32) -> u32 {
    // SAFETY: nothing of this program is in use any more.
    unsafe { TP_PROGRAMS.tail_call(context, place) };
    xdp_action::XDP_ABORTED
}
