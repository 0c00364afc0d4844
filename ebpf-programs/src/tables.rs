//! The maps, and how the packet logic reaches them.
//!
//! Every map that packets use is an array in mapped memory (`BPF_F_MMAPABLE`): lookups are inlined by the JIT, entries keep their
//! cache lines, and user space reads and writes them without a system call. Shares are indexed by CPU × table size + index.
//! Sizes stand at one here and are set when the object is loaded.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};
use core::ptr::read_volatile;
use core::sync::atomic::AtomicU64;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::btf_maps::{Array, DevMap};
use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::XdpContext;
use aya_ebpf::{EbpfContext, Global};
use turnpike_fastpath::contract::PORTS_MAX;
use turnpike_fastpath::entry::{
    Aggregate, AggregateShare, Bucket, ClockReading, Config, Detail, Flow, FlowShare, LabelEntry, NextHop, Pool, Port,
    ReasonShare,
};
use turnpike_fastpath::reception::Reception;
use turnpike_fastpath::verdict::REASONS_MAX;
use turnpike_fastpath::{Route, Tables};

use crate::route;

const MAPPED: usize = 1 << 10;

#[btf_map]
static TP_CONFIG: Array<Config, 1, MAPPED> = Array::new();
#[btf_map]
static TP_BUCKETS: Array<Bucket, 1, MAPPED> = Array::new();
#[btf_map]
static TP_FLOWS: Array<Flow, 1, MAPPED> = Array::new();
#[btf_map]
static TP_FLOW_SHARES: Array<FlowShare, 1, MAPPED> = Array::new();
#[btf_map]
static TP_LABELS: Array<LabelEntry, 1, MAPPED> = Array::new();
#[btf_map]
static TP_LBL_SHARES: Array<FlowShare, 1, MAPPED> = Array::new();
#[btf_map]
static TP_FLOW_DETAILS: Array<Detail, 1, MAPPED> = Array::new();
#[btf_map]
static TP_LBL_DETAILS: Array<Detail, 1, MAPPED> = Array::new();
#[btf_map]
static TP_RECEPTIONS: Array<Reception, 1, MAPPED> = Array::new();
#[btf_map]
static TP_AGGREGATES: Array<Aggregate, 1, MAPPED> = Array::new();
#[btf_map]
static TP_POOLS: Array<Pool, 1, MAPPED> = Array::new();
#[btf_map]
static TP_AGG_SHARES: Array<AggregateShare, 1, MAPPED> = Array::new();
#[btf_map]
static TP_REASONS: Array<ReasonShare, 1, MAPPED> = Array::new();
#[btf_map]
static TP_NEXT_HOPS: Array<NextHop, 1, MAPPED> = Array::new();
#[btf_map]
static TP_PORTS: Array<Port, { PORTS_MAX as usize }, MAPPED> = Array::new();
#[btf_map]
static TP_DEVICES: DevMap<{ PORTS_MAX as usize }> = DevMap::new();
#[btf_map]
static TP_CLOCK: Array<ClockReading, 1, MAPPED> = Array::new();
#[btf_map]
static TP_NOTES: Array<[u64; 2], 1, MAPPED> = Array::new();

/// Entries of the flow and label tables, a power of two.
#[unsafe(no_mangle)]
static FLOWS_MAX: Global<u32> = Global::new(1);
/// Entries of the aggregate table.
#[unsafe(no_mangle)]
static AGGREGATES_MAX: Global<u32> = Global::new(1);

/// The maps as seen by one run of a program.
pub(crate) struct KernelTables {
    cpu: u32,
    context: *mut xdp_md,
}

impl KernelTables {
    #[inline(always)]
    pub(crate) fn new(context: &XdpContext) -> Self {
        // SAFETY: the helper has no precondition.
        Self { cpu: unsafe { bpf_get_smp_processor_id() } as u32, context: context.as_ptr().cast() }
    }
}

impl Tables for KernelTables {
    #[inline(always)]
    fn config(&self) -> Option<&Config> {
        TP_CONFIG.get(0)
    }
    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<&Bucket> {
        TP_BUCKETS.get(index)
    }
    #[inline(always)]
    fn flow(&self, index: u32) -> Option<&Flow> {
        TP_FLOWS.get(index)
    }
    #[inline(always)]
    fn flow_detail(&self, index: u32) -> Option<&Detail> {
        TP_FLOW_DETAILS.get(index)
    }
    #[inline(always)]
    fn flow_share(&self, index: u32) -> Option<&FlowShare> {
        TP_FLOW_SHARES.get(self.cpu.wrapping_mul(FLOWS_MAX.load()).wrapping_add(index))
    }
    #[inline(always)]
    fn label(&self, index: u32) -> Option<&LabelEntry> {
        TP_LABELS.get(index)
    }
    #[inline(always)]
    fn label_detail(&self, index: u32) -> Option<&Detail> {
        TP_LBL_DETAILS.get(index)
    }
    #[inline(always)]
    fn label_share(&self, index: u32) -> Option<&FlowShare> {
        TP_LBL_SHARES.get(self.cpu.wrapping_mul(FLOWS_MAX.load()).wrapping_add(index))
    }
    #[inline(always)]
    fn reception(&self, index: u32) -> Option<&Reception> {
        TP_RECEPTIONS.get(index)
    }
    #[inline(always)]
    fn aggregate(&self, index: u32) -> Option<&Aggregate> {
        TP_AGGREGATES.get(index)
    }
    #[inline(always)]
    fn pool(&self, index: u32) -> Option<&Pool> {
        TP_POOLS.get(index)
    }
    #[inline(always)]
    fn aggregate_share(&self, index: u32) -> Option<&AggregateShare> {
        TP_AGG_SHARES.get(self.cpu.wrapping_mul(AGGREGATES_MAX.load()).wrapping_add(index))
    }
    #[inline(always)]
    fn reason_share(&self, row: u32) -> Option<&ReasonShare> {
        TP_REASONS.get(self.cpu.wrapping_mul(2 * REASONS_MAX).wrapping_add(row))
    }
    #[inline(always)]
    fn next_hop(&self, index: u32) -> Option<NextHop> {
        // SAFETY: the pointer is an entry of the map; user space changes the word as a whole.
        TP_NEXT_HOPS.get_ptr(index).map(|entry| unsafe { read_volatile(entry) })
    }
    #[inline(always)]
    fn port(&self, index: u32) -> Option<&Port> {
        TP_PORTS.get(index)
    }
    #[inline(always)]
    fn route(&self, route: &Route<'_>) -> Option<NextHop> {
        Some(NextHop(route::look_up(self.context, route)))
    }
    #[inline(always)]
    fn exact_ns(&self) -> u64 {
        // SAFETY: the helper has no precondition.
        unsafe { bpf_ktime_get_ns() }
    }
    #[inline(always)]
    fn ticks(&self) -> u64 {
        // SAFETY: the helper has no precondition.
        unsafe { bpf_jiffies64() }
    }
    #[inline(always)]
    fn load(&self, word: &AtomicU64) -> u64 {
        // SAFETY: the pointer comes from a reference. Atomic loads do not exist on this target; an aligned volatile load of
        // eight bytes is one instruction.
        unsafe { read_volatile(word.as_ptr()) }
    }
    #[inline(always)]
    fn replace(&self, word: &AtomicU64, old: u64, new: u64) -> bool {
        // SAFETY: the pointer comes from a reference and all CPUs change the word by this operation only.
        let (found, _) = unsafe {
            atomic_cxchg::<u64, { AtomicOrdering::AcqRel }, { AtomicOrdering::Acquire }>(word.as_ptr(), old, new)
        };
        // What the compiler knows to be the exchange's own result it turns into a number first, and then tests that.
        self.opaque(found) == old
    }
    #[inline(always)]
    fn add(&self, word: &AtomicU64, value: u64) {
        // SAFETY: the pointer comes from a reference. The value before is not looked at: it would be wrong with this ordering.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word.as_ptr(), value) };
    }
    #[inline(always)]
    fn touch<E>(&self, entry: &E) {
        const { assert!(align_of::<E>() >= 8 && size_of::<E>() >= 8) };
        // SAFETY: the pointer comes from a reference to an entry of at least eight bytes, aligned to them. What is read is not used, so
        // that others may write it meanwhile.
        let _ = unsafe { read_volatile((&raw const *entry).cast::<u64>()) };
    }
    #[inline(always)]
    fn unknown(&self, mut value: u64) -> u64 {
        // SAFETY: the entry is always there, and is zero, which the verifier does not know.
        let zero = TP_CONFIG.get_ptr(0).map_or(0, |config| unsafe { read_volatile(&raw const (*config).zero) });
        // All 64 bits, and no addition: it would know a least value still.
        let zero = u64::from(zero) << 32 | u64::from(zero);
        // SAFETY: exclusive or with zero.
        unsafe { core::arch::asm!("{0} ^= {1}", inout(reg) value, in(reg) zero, options(pure, nomem, nostack)) };
        value
    }
    #[inline(always)]
    fn opaque(&self, mut value: u64) -> u64 {
        // SAFETY: a register is moved onto itself.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack)) };
        value
    }
}

/// The port at `index`.
#[inline(always)]
pub(crate) fn port_entry(index: u32) -> Option<&'static Port> {
    TP_PORTS.get(index)
}

/// Sends the frame out of a port. An empty entry is the node's own fault: the frame is aborted, which the kernel traces.
#[inline(always)]
pub(crate) fn redirect(port: u32) -> u32 {
    TP_DEVICES.redirect(port, 0).unwrap_or(0)
}

/// Writes both clocks into their map.
#[inline(always)]
pub(crate) fn read_clocks() {
    if let Some(entry) = TP_CLOCK.get_ptr_mut(0) {
        // SAFETY: the pointer is an entry of the map, written by test runs of one thread only; the helpers have no precondition.
        unsafe { *entry = ClockReading { ticks: bpf_jiffies64(), exact_ns: bpf_ktime_get_ns() } };
    }
}
