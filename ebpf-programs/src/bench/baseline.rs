//! Our own programs of the classes of policers and classifiers that are published, to be measured beside ours.

use aya_ebpf::bindings::bpf_spin_lock;
use aya_ebpf::btf_maps::{Array, HashMap};
use aya_ebpf::helpers::generated::{bpf_spin_lock as lock, bpf_spin_unlock as unlock};
use aya_ebpf::macros::btf_map;
use turnpike_fastpath::Tables;

use crate::contract::{HashKey, METERS_MAX, ScheduleMeter, WindowMeter};
use crate::rotation::Packet;
use crate::tables::KernelTables;

const MAPPED: usize = 1 << 10;
const NS_PER_S: u64 = 1_000_000_000;
const WINDOW_NS: u64 = 5_000_000;
const TRIES: u32 = 4;

/// A token bucket behind the kernel's spin lock. The kernel finds the lock by its type's name.
#[repr(C, align(8))]
pub struct LockedMeter {
    lock: bpf_spin_lock,
    reserved: u32,
    /// Bytes, times 2^20.
    tokens: u64,
    tokens_max: u64,
    tokens_per_ns: u64,
    last_ns: u64,
    reserved_2: [u64; 3],
}

#[btf_map]
static TB_SCHEDULES: Array<ScheduleMeter, 1, MAPPED> = Array::new();
#[btf_map]
static TB_WINDOWS: Array<WindowMeter, 1, MAPPED> = Array::new();
#[btf_map]
static TB_LOCKED: Array<LockedMeter, { METERS_MAX as usize }> = Array::new();
#[btf_map]
static TB_HASH: HashMap<HashKey, u64, { METERS_MAX as usize }> = HashMap::new();

/// Clock and compare-and-swap for each packet.
#[inline(always)]
pub(crate) fn schedule(tables: &KernelTables, index: u32, bytes: u64) -> bool {
    let Some(meter) = TB_SCHEDULES.get(index) else { return false };
    let now_ns = tables.exact_ns();
    let cost_ns = bytes * meter.byte_cost >> 24;
    for _ in 0..TRIES {
        let due = tables.load(&meter.due_ns);
        let next = if due > now_ns { due } else { now_ns } + cost_ns;
        if next > now_ns + meter.burst_ns {
            return false;
        }
        if tables.replace(&meter.due_ns, due, next) {
            return true;
        }
    }
    false
}

/// Clock and spin lock for each packet. The clock is read before: helpers are forbidden under the lock.
#[inline(always)]
pub(crate) fn locked(tables: &KernelTables, index: u32, bytes: u64) -> bool {
    let now_ns = tables.exact_ns();
    let Some(meter) = TB_LOCKED.get_ptr_mut(index) else { return false };
    // SAFETY: the pointer is an entry of the map, and every program that changes it holds its lock.
    unsafe {
        lock(&raw mut (*meter).lock);
        // Another CPU may have read the clock later and come first.
        if now_ns > (*meter).last_ns {
            let more = (*meter).tokens + (now_ns - (*meter).last_ns) * (*meter).tokens_per_ns;
            (*meter).tokens = if more < (*meter).tokens_max { more } else { (*meter).tokens_max };
            (*meter).last_ns = now_ns;
        }
        let conforms = (*meter).tokens >= bytes << 20;
        if conforms {
            (*meter).tokens -= bytes << 20;
        }
        unlock(&raw mut (*meter).lock);
        conforms
    }
}

/// Clock and a division for each packet, no lock: CPUs overwrite each other's windows.
#[inline(always)]
pub(crate) fn window(tables: &KernelTables, index: u32, bytes: u64) -> bool {
    let Some(meter) = TB_WINDOWS.get(index) else { return false };
    if meter.rate_bps == 0 {
        return false;
    }
    let cost_ns = bytes * 8 * (NS_PER_S / meter.rate_bps);
    let now_ns = tables.exact_ns();
    let used_ns = meter.used_ns.get();
    if used_ns + cost_ns > now_ns {
        return false;
    }
    let oldest_ns = now_ns - WINDOW_NS;
    meter.used_ns.set(if used_ns < oldest_ns { oldest_ns } else { used_ns } + cost_ns);
    true
}

/// The kernel's hash table, by the same key.
#[inline(always)]
pub(crate) fn hash(packet: &Packet) -> Option<u64> {
    let key = packet.key;
    // SAFETY: nothing removes entries while programs run.
    unsafe { TB_HASH.get(key) }.copied()
}
