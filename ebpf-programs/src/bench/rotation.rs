//! Gives each iteration of a test run the packet of another flow: test runs do not restore the frame, and a single key would hide what
//! tables cost.
//!
//! A program writes the next packet when it is done with its own, so that it does not read what it has just written: a packet that comes
//! from a device is not in the store buffer either. The first packet of a run is the caller's.

use aya_ebpf::bindings::xdp_action::XDP_ABORTED;
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::macros::btf_map;
use turnpike_fastpath::frame::Frame;
use turnpike_fastpath::wire::{ethernet, ipv4, rtp};
use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, native_endian};

use crate::contract::{
    FIRST_WORDS, FirstFrame, HashKey, Headers, Plan, SOURCE, State, TaggedHeaders, carrier, plain_headers,
    tagged_headers,
};
use crate::frame::XdpFrame;

const MAPPED: usize = 1 << 10;

#[btf_map]
static TB_PLAN: Array<Plan, 1, MAPPED> = Array::new();
#[btf_map]
static TB_STATE: Array<State, 1, MAPPED> = Array::new();
#[btf_map]
static TB_FIRST: Array<FirstFrame, 1, MAPPED> = Array::new();

/// Counts a packet and gives the flow of the next one, and its sequence number if its RTP is looked at.
#[inline(always)]
fn turn(good: bool, media: bool) -> Option<(u32, u16)> {
    let plan = TB_PLAN.get(0)?;
    let (turns, cpu) = counted(good)?;
    if media {
        let state = TB_STATE.get(cpu as u32)?;
        let turns = state.media_turns.get() + 1;
        state.media_turns.set(turns);
        return Some(plan.key(turns, cpu));
    }
    Some(plan.key(turns, cpu))
}

/// Counts a packet; how many there were, and this CPU.
#[inline(always)]
fn counted(good: bool) -> Option<(u64, u64)> {
    // SAFETY: the helper has no precondition.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u64;
    let state = TB_STATE.get(cpu as u32)?;
    let turns = state.turns.get() + 1;
    state.turns.set(turns);
    if !good {
        state.refused.set(state.refused.get() + 1);
    }
    Some((turns, cpu))
}

/// Counts the packet and writes the next one over it, which is as long as the first one was.
#[inline(always)]
pub(crate) fn next_plain(frame: &mut XdpFrame, good: bool, time_to_live: u8, action: u32) -> u32 {
    let (Some((flow, _)), Some(place)) = (turn(good, false), frame.at_mut::<Headers>(0)) else { return XDP_ABORTED };
    *place = plain_headers(flow, time_to_live);
    action
}

/// The same for tagged packets. Where nothing looks at the RTP, its sequence numbers are not used up.
#[inline(always)]
pub(crate) fn next_tagged(frame: &mut XdpFrame, good: bool, media: bool, action: u32) -> u32 {
    let (Some((label, sequence)), Some(place)) = (turn(good, media), frame.at_mut::<TaggedHeaders>(0)) else {
        return XDP_ABORTED;
    };
    *place = tagged_headers(label, sequence);
    action
}

/// Where a frame stands that is to be as it was at first.
#[derive(Clone, Copy, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
struct Beginning([native_endian::U64; FIRST_WORDS]);

/// Counts the packet and makes it what it was at the beginning of the run, but for the next sequence number.
#[inline(always)]
pub(crate) fn again(frame: &mut XdpFrame, good: bool, action: u32) -> u32 {
    let (Some((_, sequence)), Some(first)) = (turn_alone(good), TB_FIRST.get(0)) else { return XDP_ABORTED };
    // As one number: the compiler would add to the pointers that it is the difference of.
    let mut length = frame.len() as u64;
    // SAFETY: a register is moved onto itself.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) length, options(pure, nomem, nostack)) };
    let growth = first.length as i32 - length as i32;
    if frame.grow_head(growth).is_err() {
        return XDP_ABORTED;
    }
    let Some(place) = frame.at_mut::<Beginning>(0) else { return XDP_ABORTED };
    *place = Beginning(first.words.map(native_endian::U64::new));
    let Some(place) = frame.at_mut::<rtp::Header>(first.rtp_at as usize) else { return XDP_ABORTED };
    place.sequence = U16::new(sequence);
    action
}

/// Counts a packet of the only flow; how many there were.
#[inline(always)]
fn turn_alone(good: bool) -> Option<(u64, u16)> {
    let (turns, _) = counted(good)?;
    Some((turns, turns as u16))
}

/// Counts a packet that arrived.
#[inline(always)]
pub(crate) fn arrived() {
    // SAFETY: the helper has no precondition.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    if let Some(state) = TB_STATE.get(cpu) {
        state.arrived.set(state.arrived.get() + 1);
    }
}

/// A packet of a flow as the floor's parser sees it.
pub(crate) struct Packet {
    pub(crate) key: HashKey,
    pub(crate) bytes: u64,
    /// Index of the flow.
    pub(crate) flow: u32,
    /// Index of the aggregate, which it shares with three other flows.
    pub(crate) carrier: u32,
}

/// The least that a policer has to parse.
#[inline(always)]
pub(crate) fn parse(frame: &XdpFrame) -> Option<Packet> {
    let headers = *frame.at::<Headers>(0)?;
    let ip = headers.ipv4;
    let plain = headers.ethernet.ether_type == ethernet::IPV4
        && ip.version_ihl == ipv4::VERSION_IHL
        && ip.protocol == ipv4::UDP
        && ip.fragment.get() & ipv4::FRAGMENT_MASK == 0;
    let flow = u32::from_be_bytes(ip.source).wrapping_sub(SOURCE);
    let packet = Packet {
        key: HashKey::new(ip.source, ip.destination, headers.udp.source_port, headers.udp.destination_port),
        bytes: u64::from(ip.total_length.get()),
        flow,
        carrier: carrier(flow),
    };
    plain.then(|| packet.kept())
}

impl Packet {
    /// All of it has to be read, whether the program goes on to use it or not.
    #[inline(always)]
    fn kept(self) -> Self {
        keep(self.key.addresses);
        keep(self.key.ports);
        keep(self.bytes);
        keep(u64::from(self.flow) << 32 | u64::from(self.carrier));
        self
    }
}

/// Makes the compiler believe that the value is used.
#[inline(always)]
pub(crate) fn keep(value: u64) {
    // SAFETY: a register is moved onto itself.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) value => _, options(nomem, nostack)) };
}
