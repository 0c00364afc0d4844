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
use turnpike_fastpath::wire::{ethernet, ipv4};

use crate::contract::{HashKey, Headers, Plan, SOURCE, State, TaggedHeaders, carrier, plain_headers, tagged_headers};
use crate::frame::XdpFrame;

const MAPPED: usize = 1 << 10;

#[btf_map]
static TB_PLAN: Array<Plan, 1, MAPPED> = Array::new();
#[btf_map]
static TB_STATE: Array<State, 1, MAPPED> = Array::new();

/// Counts a packet and gives the flow of the next one.
#[inline(always)]
fn turn(good: bool) -> Option<u32> {
    // SAFETY: the helper has no precondition.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u64;
    let plan = TB_PLAN.get(0)?;
    let state = TB_STATE.get(cpu as u32)?;
    let turns = state.turns.get() + 1;
    state.turns.set(turns);
    if !good {
        state.refused.set(state.refused.get() + 1);
    }
    let mixed = turns.wrapping_add(cpu << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let key = (mixed >> 32) & plan.key_mask;
    Some((key & !plan.own_flows | cpu * plan.own_flows & plan.own_flows) as u32)
}

/// Counts the packet and writes the next one over it, which is as long as the first one was.
#[inline(always)]
pub(crate) fn next_plain(frame: &mut XdpFrame, good: bool, time_to_live: u8, action: u32) -> u32 {
    let (Some(flow), Some(place)) = (turn(good), frame.at_mut::<Headers>(0)) else { return XDP_ABORTED };
    *place = plain_headers(flow, time_to_live);
    action
}

/// The same for tagged packets.
#[inline(always)]
pub(crate) fn next_tagged(frame: &mut XdpFrame, good: bool, action: u32) -> u32 {
    let (Some(label), Some(place)) = (turn(good), frame.at_mut::<TaggedHeaders>(0)) else { return XDP_ABORTED };
    *place = tagged_headers(label);
    action
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
