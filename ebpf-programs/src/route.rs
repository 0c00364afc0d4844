//! The kernel's own route, for packets whose next hop user space has not resolved.

use core::ptr::write_volatile;

use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibLookup, xdp_md};
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use aya_ebpf::macros::btf_map;
use turnpike_fastpath::Route;
use turnpike_fastpath::contract::PORTS_MAX;
use turnpike_fastpath::entry::NextHop;

use crate::tables::port_entry;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Each CPU's question: it would take an eighth of the stack.
#[btf_map]
static TP_QUESTION: PerCpuArray<FibLookup, 1> = PerCpuArray::new();

/// Port and neighbour of a packet that came in with `context`.
#[inline(always)]
pub(crate) fn look_up(context: *mut xdp_md, route: &Route<'_>) -> u64 {
    let Some(entry) = TP_QUESTION.get_ptr_mut(0) else { return 0 };
    // SAFETY: the entry is this CPU's own, and nothing else runs on it meanwhile. Its 64 bytes are zeroed word by word: of anything else the
    // compiler makes a call of `memset`.
    let question = unsafe {
        for word in 0..size_of::<FibLookup>() / 8 {
            write_volatile(entry.cast::<u64>().add(word), 0);
        }
        &mut *entry
    };
    // SAFETY: the context is the one that the kernel gave us.
    question.ifindex = unsafe { (*context).ingress_ifindex };
    if route.v6 {
        question.family = AF_INET6;
        question.__bindgen_anon_2.flowinfo = u32::from(route.class).wrapping_shl(20).to_be();
        question.__bindgen_anon_3.ipv6_src = words(route.source);
        question.__bindgen_anon_4.ipv6_dst = words(route.destination);
    } else {
        question.family = AF_INET;
        question.__bindgen_anon_2.tos = route.class;
        question.__bindgen_anon_3.ipv4_src = words(route.source)[3];
        question.__bindgen_anon_4.ipv4_dst = words(route.destination)[3];
    }
    // SAFETY: the helper reads and writes the question, whose size it is told.
    let answer =
        unsafe { bpf_fib_lookup(context.cast(), (&raw mut *question).cast(), size_of::<FibLookup>() as i32, 0) };
    if answer != i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
        return 0;
    }
    for index in 0..PORTS_MAX {
        let Some(port) = port_entry(index) else { break };
        if port.ifindex == question.ifindex {
            return NextHop::new(index as u16, question.dmac).0;
        }
    }
    0
}

/// The words of an address, as they stand in memory.
#[inline(always)]
fn words(address: &[u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}
