//! The XDP programs. They host the packet logic of `turnpike-fastpath` and hold none themselves.
//!
//! Each direction has a program for plain packets, which most are, and goes on by a tail call to one for all others of a family: every program is
//! small enough for the verifier and has a stack of its own. Each is one function: before Linux 6.2 the verifier takes every number in a program of
//! several to matter, and looks at many times the instructions (docs/decisions/0005).
#![no_std]
#![no_main]
#![feature(core_intrinsics, asm_experimental_arch)]
#![allow(internal_features, reason = "compare-and-swap has no stable form on this target")]

mod frame;
mod programs;
mod route;
mod tables;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use turnpike_fastpath::{
    Detour, Verdict, inbound_plain, inbound_v4, inbound_v6, is_tagged, outbound_plain, outbound_v4, outbound_v6,
};

use frame::XdpFrame;
use tables::KernelTables;

/// At the site's port.
#[xdp]
#[inline(always)]
pub fn turnpike_out(context: XdpContext) -> u32 {
    let tables = KernelTables::new(&context);
    let mut frame = XdpFrame(context);
    let verdict = outbound_plain(&mut frame, &tables);
    action(&frame.0, verdict)
}

/// Goes on for [`turnpike_out`].
#[xdp]
#[inline(always)]
pub fn turnpike_out_v4(context: XdpContext) -> u32 {
    let tables = KernelTables::new(&context);
    let mut frame = XdpFrame(context);
    let verdict = outbound_v4(&mut frame, &tables);
    action(&frame.0, verdict)
}

/// Goes on for [`turnpike_out`].
#[xdp]
#[inline(always)]
pub fn turnpike_out_v6(context: XdpContext) -> u32 {
    let tables = KernelTables::new(&context);
    let mut frame = XdpFrame(context);
    let verdict = outbound_v6(&mut frame, &tables);
    action(&frame.0, Ok(verdict))
}

/// At the WAN's port.
#[xdp]
#[inline(always)]
pub fn turnpike_in(context: XdpContext) -> u32 {
    let tables = KernelTables::new(&context);
    let mut frame = XdpFrame(context);
    let verdict = inbound_plain(&mut frame, &tables);
    action(&frame.0, verdict)
}

/// Goes on for [`turnpike_in`].
#[xdp]
#[inline(always)]
pub fn turnpike_in_v4(context: XdpContext) -> u32 {
    let tables = KernelTables::new(&context);
    let mut frame = XdpFrame(context);
    let verdict = inbound_v4(&mut frame, &tables);
    action(&frame.0, verdict)
}

/// Goes on for [`turnpike_in`].
#[xdp]
#[inline(always)]
pub fn turnpike_in_v6(context: XdpContext) -> u32 {
    let tables = KernelTables::new(&context);
    let mut frame = XdpFrame(context);
    let verdict = inbound_v6(&mut frame, &tables);
    action(&frame.0, Ok(verdict))
}

/// At a port that is both.
#[xdp]
pub fn turnpike_both(context: XdpContext) -> u32 {
    let tables = KernelTables::new(&context);
    let frame = XdpFrame(context);
    programs::go_on(&frame.0, if is_tagged(&frame, &tables) { programs::IN } else { programs::OUT })
}

/// What a veth needs at its far end before it takes redirected frames.
#[xdp]
pub fn turnpike_pass(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Writes both clocks side by side.
#[xdp]
pub fn turnpike_clock(_: XdpContext) -> u32 {
    tables::read_clocks();
    xdp_action::XDP_PASS
}

#[inline(always)]
fn action(context: &XdpContext, verdict: Result<Verdict, Detour>) -> u32 {
    match verdict {
        Ok(Verdict::Pass) => xdp_action::XDP_PASS,
        Ok(Verdict::Drop) => xdp_action::XDP_DROP,
        Ok(Verdict::Redirect(port)) => tables::redirect(port),
        Err(detour) => programs::go_on(context, detour as u32),
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
