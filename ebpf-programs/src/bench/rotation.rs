//! Gives each iteration of a test run a fresh packet of the next flow: test runs do not restore the frame, and a single key would hide
//! what tables cost.

use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::macros::btf_map;
use turnpike_fastpath::entry::Inner;
use turnpike_fastpath::frame::Frame;
use turnpike_fastpath::wire::{Headers, TaggedHeaders, ethernet, ipv4, tag, udp};
use zerocopy::network_endian::{U16, U64};

use crate::contract::{
    DESTINATION, DESTINATION_PORT, GENERATION, KEYS_MAX, NODE, PAYLOAD_LENGTH, PEER, PLAIN_LENGTH, Plan, SOURCE,
    SOURCE_PORT, State, TAG_PORT, TAGGED_LENGTH,
};
use crate::frame::XdpFrame;

const MAPPED: usize = 1 << 10;

#[btf_map]
static TB_PLAN: Array<Plan, 1, MAPPED> = Array::new();
#[btf_map]
static TB_STATE: Array<State, 1, MAPPED> = Array::new();

/// One iteration.
pub(crate) struct Turn {
    /// Index of the flow and of the label.
    pub(crate) flow: u32,
    /// Index of the aggregate; all CPUs have the same ones.
    pub(crate) carrier: u32,
    state: &'static State,
}

impl Turn {
    /// The next one of this CPU.
    #[inline(always)]
    pub(crate) fn next() -> Option<Self> {
        // SAFETY: the helper has no precondition.
        let cpu = unsafe { bpf_get_smp_processor_id() } as u64;
        let plan = TB_PLAN.get(0)?;
        let state = TB_STATE.get(cpu as u32)?;
        let turns = state.turns.get() + 1;
        state.turns.set(turns);
        let mixed = turns.wrapping_add(cpu << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let key = ((mixed >> 32) & plan.key_mask) as u32;
        let own = (cpu & plan.own_flows) as u32;
        Some(Self { flow: key + own * KEYS_MAX, carrier: key, state })
    }

    /// Counts a packet that did not end as it should.
    #[inline(always)]
    pub(crate) fn refused(&self) {
        self.state.refused.set(self.state.refused.get() + 1);
    }
}

/// A packet of a flow as the floor's parser sees it.
pub(crate) struct Packet {
    pub(crate) ends: Inner,
    pub(crate) bytes: u64,
}

/// Makes the compiler believe that memory has changed. Without it the packet logic would be compiled for the very headers that were
/// just written.
#[inline(always)]
fn forget_memory() {
    // SAFETY: a register is moved onto itself.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) 0_u64 => _, options(nostack)) };
}

/// Makes the compiler believe that the value is used.
#[inline(always)]
pub(crate) fn keep(value: u64) {
    // SAFETY: a register is moved onto itself.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) value => _, options(nostack)) };
}

const MAC: ethernet::Header =
    ethernet::Header { destination: [2, 0, 0, 0, 0, 1], source: [2, 0, 0, 0, 0, 2], ether_type: ethernet::IPV4 };

/// Writes the headers of a plain packet; false if the frame is too short for them.
#[inline(always)]
pub(crate) fn write_plain(frame: &mut XdpFrame, flow: u32, time_to_live: u8) -> bool {
    let Some(place) = frame.at_mut::<Headers>(0) else { return false };
    *place = Headers {
        ethernet: MAC,
        ipv4: ip(PLAIN_LENGTH, time_to_live, (SOURCE + flow).to_be_bytes(), DESTINATION),
        udp: udp::Header {
            source_port: SOURCE_PORT,
            destination_port: DESTINATION_PORT,
            length: U16::new(PLAIN_LENGTH - ipv4::HEADER_LENGTH),
            checksum: [0x12, 0x34],
        },
    };
    forget_memory();
    true
}

/// Writes the headers of a tagged packet; false if the frame is too short for them.
#[inline(always)]
pub(crate) fn write_tagged(frame: &mut XdpFrame, label: u32) -> bool {
    let Some(place) = frame.at_mut::<TaggedHeaders>(0) else { return false };
    let template = tag::template(GENERATION << tag::INDEX_BITS) | u64::from(label);
    *place = TaggedHeaders {
        headers: Headers {
            ethernet: MAC,
            ipv4: ip(TAGGED_LENGTH, 64, PEER, NODE),
            udp: udp::Header {
                source_port: [0xc1, 0x23],
                destination_port: TAG_PORT,
                length: U16::new(TAGGED_LENGTH - ipv4::HEADER_LENGTH),
                checksum: [0x12, 0x34],
            },
        },
        tag: tag::Header(U64::new(tag::with_length(template, PAYLOAD_LENGTH))),
    };
    forget_memory();
    true
}

#[inline(always)]
fn ip(length: u16, time_to_live: u8, source: [u8; 4], destination: [u8; 4]) -> ipv4::Header {
    ipv4::Header {
        version_ihl: ipv4::VERSION_IHL,
        tos: 0xb8,
        total_length: U16::new(length),
        identification: [0x56, 0x78],
        fragment: U16::new(0x4000),
        time_to_live,
        protocol: ipv4::UDP,
        checksum: [0x9a, 0xbc],
        source,
        destination,
    }
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
    plain.then_some(Packet {
        ends: Inner {
            source: ip.source,
            destination: ip.destination,
            source_port: headers.udp.source_port,
            destination_port: headers.udp.destination_port,
        },
        bytes: u64::from(ip.total_length.get()),
    })
}
