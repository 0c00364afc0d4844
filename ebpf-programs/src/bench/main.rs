//! Programs for the benchmarks in `perf`: each does one thing to a packet, undoes what moved, and writes the next packet. They are not part of the product.
#![no_std]
#![no_main]
#![feature(core_intrinsics, asm_experimental_arch)]
#![allow(internal_features, reason = "compare-and-swap has no stable form on this target")]

mod baseline;
mod contract;
#[path = "../frame.rs"]
mod frame;
#[path = "../programs.rs"]
mod programs;
mod rotation;
#[path = "../route.rs"]
mod route;
#[path = "../tables.rs"]
mod tables;

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_TX};
use aya_ebpf::btf_maps::Array;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use turnpike_fastpath::entry::{EXACT_CLOCK, Flow};
use turnpike_fastpath::frame::Frame;
use turnpike_fastpath::meter::{Charge, charge_aggregate, charge_flow};
use turnpike_fastpath::reception::{Reception, clock_factor, observe};
use turnpike_fastpath::wire::{rtp, tag};
use turnpike_fastpath::{
    Detour, Direction, FlowKey, Reason, Tables, Verdict, alternative, bucket_of, fingerprint, flow_hash, inbound_plain,
    inbound_v4, inbound_v6, outbound_plain, outbound_v4, outbound_v6,
};

use frame::XdpFrame;
use rotation::{Packet, again, arrived, keep, next_plain, next_tagged, parse};
use tables::KernelTables;

/// Bytes of a tag.
const TAG: i32 = tag::HEADER_BYTES as i32;

/// Hops left of packets that are to go on.
const HOPS: u8 = 64;

/// One meter has one clock, so those that read the exact one are a table of their own.
#[btf_map]
static TB_EXACT_FLOWS: Array<Flow, 1, { 1 << 10 }> = Array::new();

/// What arrived, flow by flow.
#[btf_map]
static TB_RECEPTIONS: Array<Reception, 1, { 1 << 10 }> = Array::new();

/// The test run's own loop.
#[xdp]
#[inline(always)]
pub fn tb_drop(_: XdpContext) -> u32 {
    XDP_DROP
}

/// Parse, and the next packet.
#[xdp]
#[inline(always)]
pub fn tb_rotate(context: XdpContext) -> u32 {
    piece(context, |_, _| true)
}

/// The same with both moves of the head.
#[xdp]
#[inline(always)]
pub fn tb_rotate_pair(context: XdpContext) -> u32 {
    let mut frame = XdpFrame(context);
    let good = parse(&frame).is_some() && frame.grow_head(TAG).is_ok() && frame.grow_head(-TAG).is_ok();
    next_plain(&mut frame, good, HOPS, XDP_DROP)
}

/// What the wrapper of the way out does beside it: one move of the head, and the next packet.
#[xdp]
#[inline(always)]
pub fn tb_floor_out(context: XdpContext) -> u32 {
    let mut frame = XdpFrame(context);
    let good = frame.grow_head(0).is_ok();
    next_plain(&mut frame, good, HOPS, XDP_DROP)
}

/// What the wrapper of a packet that is refused does beside it: the next packet.
#[xdp]
#[inline(always)]
pub fn tb_floor_refused(context: XdpContext) -> u32 {
    next_plain(&mut XdpFrame(context), true, HOPS, XDP_DROP)
}

/// What the wrapper of the way in does beside it.
#[xdp]
#[inline(always)]
pub fn tb_floor_in(context: XdpContext) -> u32 {
    let mut frame = XdpFrame(context);
    let good = frame.grow_head(0).is_ok();
    next_tagged(&mut frame, good, false, XDP_DROP)
}

/// The exact clock alone.
#[xdp]
#[inline(always)]
pub fn tb_clock(context: XdpContext) -> u32 {
    piece(context, |_, tables| {
        keep(tables.exact_ns());
        true
    })
}

/// Our flow table.
#[xdp]
#[inline(always)]
pub fn tb_lookup(context: XdpContext) -> u32 {
    piece(context, |packet, tables| find(tables, packet).is_some_and(|flow| consume(u64::from(flow.aggregate))))
}

/// The lines of the tables that a packet on its way out needs, and nothing done with them.
#[xdp]
#[inline(always)]
pub fn tb_lines(context: XdpContext) -> u32 {
    piece(context, |packet, tables| {
        let Some(flow) = find(tables, packet) else { return false };
        let carrier = u32::from(flow.aggregate);
        let (Some(share), Some(aggregate), Some(carrier_share)) =
            (tables.flow_share(packet.flow), tables.aggregate(carrier), tables.aggregate_share(carrier))
        else {
            return false;
        };
        tables.touch(share);
        tables.touch(carrier_share);
        consume(u64::from(aggregate.next_hop))
    })
}

/// The flow's meter on the coarse clock.
#[xdp]
#[inline(always)]
pub fn tb_flow_coarse(context: XdpContext) -> u32 {
    piece(context, |packet, tables| flow_meter(tables, packet))
}

/// The flow's meter on the exact clock.
#[xdp]
#[inline(always)]
pub fn tb_flow_exact(context: XdpContext) -> u32 {
    piece(context, |packet, tables| {
        let Some(flow) = TB_EXACT_FLOWS.get(packet.flow) else { return false };
        charge_flow(tables, &flow.rate, &flow.due, EXACT_CLOCK, 0, packet.bytes) == Charge::Conforms
    })
}

/// The meters of as many aggregates as there are keys.
#[xdp]
#[inline(always)]
pub fn tb_aggregate(context: XdpContext) -> u32 {
    piece(context, |packet, tables| aggregate_meter(tables, packet.flow, packet.bytes))
}

/// Both meters of a packet.
#[xdp]
#[inline(always)]
pub fn tb_both(context: XdpContext) -> u32 {
    piece(context, |packet, tables| flow_meter(tables, packet) && aggregate_meter(tables, packet.carrier, packet.bytes))
}

/// All counters of a packet: the flow's, the aggregate's, the reason's.
#[xdp]
#[inline(always)]
pub fn tb_counters(context: XdpContext) -> u32 {
    piece(context, |packet, tables| {
        let (Some(flow), Some(carrier), Some(reason)) = (
            tables.flow_share(packet.flow),
            tables.aggregate_share(packet.carrier),
            tables.reason_share(Reason::Tagged.row(Direction::Out)),
        ) else {
            return false;
        };
        flow.tally.offer(packet.bytes);
        carrier.tally.offer(packet.bytes);
        carrier.tally.pass(packet.bytes);
        flow.tally.settle(packet.bytes, true);
        reason.packets.set(reason.packets.get() + 1);
        reason.bytes.set(reason.bytes.get() + packet.bytes);
        true
    })
}

/// What arrived: the next packet in order, without jitter.
#[xdp]
#[inline(always)]
pub fn tb_reception(context: XdpContext) -> u32 {
    piece(context, |packet, tables| receive(tables, packet, 0))
}

/// The same with the jitter of one packet in 16.
#[xdp]
#[inline(always)]
pub fn tb_reception_jitter(context: XdpContext) -> u32 {
    const FACTOR: u32 = clock_factor(8_000);
    piece(context, |packet, tables| receive(tables, packet, FACTOR))
}

/// What arrived, of the frame's own RTP header and in entry 0; with jitter of all packets in entry 1. For a test.
#[xdp]
#[inline(always)]
pub fn tb_observe(context: XdpContext) -> u32 {
    const FACTOR: u32 = clock_factor(8_000);
    let frame = XdpFrame(context);
    let tables = KernelTables::new(&frame.0);
    let (Some(plain), Some(timed)) = (TB_RECEPTIONS.get(0), TB_RECEPTIONS.get(1)) else { return XDP_ABORTED };
    let rtp = frame.at::<rtp::Header>(size_of::<contract::Headers>());
    observe(&tables, plain, rtp, 0, false);
    observe(&tables, timed, rtp, FACTOR, true);
    XDP_DROP
}

/// Baseline: clock and compare-and-swap.
#[xdp]
#[inline(always)]
pub fn tb_schedule(context: XdpContext) -> u32 {
    piece(context, |packet, tables| baseline::schedule(tables, packet.flow, packet.bytes))
}

/// Baseline: clock and spin lock.
#[xdp]
#[inline(always)]
pub fn tb_locked(context: XdpContext) -> u32 {
    piece(context, |packet, tables| baseline::locked(tables, packet.flow, packet.bytes))
}

/// Baseline: clock and sliding window.
#[xdp]
#[inline(always)]
pub fn tb_window(context: XdpContext) -> u32 {
    piece(context, |packet, tables| baseline::window(tables, packet.flow, packet.bytes))
}

/// Baseline: the kernel's hash table.
#[xdp]
#[inline(always)]
pub fn tb_hash(context: XdpContext) -> u32 {
    piece(context, |packet, _| baseline::hash(packet).is_some_and(consume))
}

/// The way out as it is shipped, up to its verdict.
#[xdp]
#[inline(always)]
pub fn tb_out(context: XdpContext) -> u32 {
    whole_out(context, HOPS, |port| {
        keep(u64::from(port));
        XDP_DROP
    })
}

/// The way out as it is shipped.
#[xdp]
#[inline(always)]
pub fn tb_out_redirect(context: XdpContext) -> u32 {
    whole_out(context, HOPS, tables::redirect)
}

/// The way out to where the hop count is checked: parser, flow table, the flow's and the reason's counters.
#[xdp]
#[inline(always)]
pub fn tb_out_stop(context: XdpContext) -> u32 {
    whole_out(context, 1, |_| XDP_DROP)
}

/// The way in as it is shipped, up to its verdict.
#[xdp]
#[inline(always)]
pub fn tb_in(context: XdpContext) -> u32 {
    whole_in(context, |port| {
        keep(u64::from(port));
        XDP_DROP
    })
}

/// The way in as it is shipped.
#[xdp]
#[inline(always)]
pub fn tb_in_redirect(context: XdpContext) -> u32 {
    whole_in(context, tables::redirect)
}

/// What the wrapper of a whole way does beside it.
#[xdp]
#[inline(always)]
pub fn tb_floor_way(context: XdpContext) -> u32 {
    again(&mut XdpFrame(context), true, XDP_DROP)
}

/// The way out as it is shipped, of the same frame again and again, with all that it goes on to.
#[xdp]
#[inline(always)]
pub fn tb_way_out(context: XdpContext) -> u32 {
    way(
        context,
        #[inline(always)]
        |frame, tables| outbound_plain(frame, tables),
    )
}

/// Goes on for [`tb_way_out`].
#[xdp]
#[inline(always)]
pub fn tb_way_out_v4(context: XdpContext) -> u32 {
    way(
        context,
        #[inline(always)]
        |frame, tables| outbound_v4(frame, tables),
    )
}

/// Goes on for [`tb_way_out`].
#[xdp]
#[inline(always)]
pub fn tb_way_out_v6(context: XdpContext) -> u32 {
    way(
        context,
        #[inline(always)]
        |frame, tables| Ok(outbound_v6(frame, tables)),
    )
}

/// The way in as it is shipped, of the same frame again and again, with all that it goes on to.
#[xdp]
#[inline(always)]
pub fn tb_way_in(context: XdpContext) -> u32 {
    way(
        context,
        #[inline(always)]
        |frame, tables| inbound_plain(frame, tables),
    )
}

/// Goes on for [`tb_way_in`].
#[xdp]
#[inline(always)]
pub fn tb_way_in_v4(context: XdpContext) -> u32 {
    way(
        context,
        #[inline(always)]
        |frame, tables| inbound_v4(frame, tables),
    )
}

/// Goes on for [`tb_way_in`].
#[xdp]
#[inline(always)]
pub fn tb_way_in_v6(context: XdpContext) -> u32 {
    way(
        context,
        #[inline(always)]
        |frame, tables| Ok(inbound_v6(frame, tables)),
    )
}

/// Sends the next packet back as it is: the least that forwarding can be.
#[xdp]
#[inline(always)]
pub fn tb_live_tx(context: XdpContext) -> u32 {
    next_plain(&mut XdpFrame(context), true, HOPS, XDP_TX)
}

/// Tags the next packet and sends it through the device map.
#[xdp]
#[inline(always)]
pub fn tb_live_out(context: XdpContext) -> u32 {
    let mut frame = XdpFrame(context);
    let tables = KernelTables::new(&frame.0);
    next_plain(&mut frame, true, HOPS, XDP_DROP);
    match outbound_plain(&mut frame, &tables) {
        Ok(Verdict::Redirect(port)) => tables::redirect(port),
        Ok(Verdict::Pass | Verdict::Drop) | Err(_) => XDP_DROP,
    }
}

/// The far end of what is sent.
#[xdp]
#[inline(always)]
pub fn tb_sink(_: XdpContext) -> u32 {
    arrived();
    XDP_DROP
}

/// Writes both clocks side by side.
#[xdp]
#[inline(always)]
pub fn tb_clocks(_: XdpContext) -> u32 {
    tables::read_clocks();
    XDP_DROP
}

/// Runs one piece on a parsed packet.
#[inline(always)]
fn piece(context: XdpContext, work: impl FnOnce(&Packet, &KernelTables) -> bool) -> u32 {
    let mut frame = XdpFrame(context);
    let tables = KernelTables::new(&frame.0);
    let good = parse(&frame).is_some_and(|packet| work(&packet, &tables));
    next_plain(&mut frame, good, HOPS, XDP_DROP)
}

#[inline(always)]
fn whole_out(context: XdpContext, time_to_live: u8, leave: impl FnOnce(u32) -> u32) -> u32 {
    let mut frame = XdpFrame(context);
    let tables = KernelTables::new(&frame.0);
    let (good, action) = match outbound_plain(&mut frame, &tables) {
        Ok(Verdict::Redirect(port)) => {
            let action = leave(port);
            (frame.grow_head(-TAG).is_ok(), action)
        }
        Ok(Verdict::Pass | Verdict::Drop) | Err(_) => (false, XDP_DROP),
    };
    next_plain(&mut frame, good, time_to_live, action)
}

#[inline(always)]
fn whole_in(context: XdpContext, leave: impl FnOnce(u32) -> u32) -> u32 {
    let mut frame = XdpFrame(context);
    let tables = KernelTables::new(&frame.0);
    let (good, action) = match inbound_plain(&mut frame, &tables) {
        Ok(Verdict::Redirect(port)) => {
            let action = leave(port);
            (frame.grow_head(TAG).is_ok(), action)
        }
        Ok(Verdict::Pass | Verdict::Drop) | Err(_) => (false, XDP_DROP),
    };
    next_tagged(&mut frame, good, true, action)
}

#[inline(always)]
fn way(context: XdpContext, run: impl FnOnce(&mut XdpFrame, &KernelTables) -> Result<Verdict, Detour>) -> u32 {
    let mut frame = XdpFrame(context);
    let tables = KernelTables::new(&frame.0);
    match run(&mut frame, &tables) {
        Ok(Verdict::Redirect(port)) => {
            let action = tables::redirect(port);
            again(&mut frame, true, action)
        }
        Ok(Verdict::Pass | Verdict::Drop) => again(&mut frame, false, XDP_DROP),
        Err(detour) => programs::go_on(&frame.0, detour as u32),
    }
}

/// The lookup of `fastpath`, which keeps its own to itself.
#[inline(always)]
fn find<'t>(tables: &'t KernelTables, packet: &Packet) -> Option<&'t Flow> {
    let config = tables.config()?;
    let (addresses, ports) = (packet.key.addresses, packet.key.ports as u32);
    let hash = flow_hash(config.hash_seed, &FlowKey { addresses, ports });
    let fingerprint = fingerprint(hash);
    let first = bucket_of(hash, config.bucket_mask);
    let mut found = select(tables, first, fingerprint)?;
    if found == 0 {
        found = select(tables, alternative(first, fingerprint, config.bucket_mask), fingerprint)?;
    }
    let flow = tables.flow(found.checked_sub(1)?)?;
    (flow.addresses == addresses && flow.ports == ports).then_some(flow)
}

#[inline(always)]
fn select(tables: &KernelTables, bucket: u32, fingerprint: u32) -> Option<u32> {
    let mut found = 0;
    for slot in tables.bucket(bucket)?.slots {
        let differs = (slot >> 32) ^ u64::from(fingerprint);
        found |= slot & tables.opaque(differs.wrapping_sub(1) >> 32);
    }
    Some(found as u32)
}

#[inline(always)]
fn flow_meter(tables: &KernelTables, packet: &Packet) -> bool {
    let (Some(config), Some(flow)) = (tables.config(), tables.flow(packet.flow)) else { return false };
    charge_flow(tables, &flow.rate, &flow.due, 0, tables.ticks() * config.tick_ns, packet.bytes) == Charge::Conforms
}

#[inline(always)]
fn aggregate_meter(tables: &KernelTables, index: u32, bytes: u64) -> bool {
    let (Some(aggregate), Some(pool), Some(share)) =
        (tables.aggregate(index), tables.pool(index), tables.aggregate_share(index))
    else {
        return false;
    };
    charge_aggregate(tables, aggregate, || Some(pool), share, bytes) == Charge::Conforms
}

/// Observes the packet that follows the flow's last one.
#[inline(always)]
fn receive(tables: &KernelTables, packet: &Packet, clock_factor: u32) -> bool {
    let Some(reception) = TB_RECEPTIONS.get(packet.flow) else { return false };
    let sequence = (tables.load(&reception.window) as u16).wrapping_add(1);
    let header = rtp::Header {
        flags: 0x80,
        marker_type: 8,
        sequence: sequence.into(),
        timestamp: u32::from(sequence).into(),
        source: packet.flow.into(),
    };
    observe(tables, reception, Some(&header), clock_factor, false);
    true
}

#[inline(always)]
fn consume(value: u64) -> bool {
    keep(value);
    true
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
