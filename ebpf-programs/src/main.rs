//! The XDP programs. They host the packet logic of `turnpike-fastpath` and hold none themselves.
#![no_std]
#![no_main]
#![feature(core_intrinsics, asm_experimental_arch)]
#![allow(internal_features, reason = "compare-and-swap has no stable form on this target")]

mod frame;
mod tables;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use turnpike_fastpath::{Verdict, inbound, outbound};

use frame::XdpFrame;
use tables::KernelTables;

/// At the site's port.
#[xdp]
pub fn turnpike_out(context: XdpContext) -> u32 {
    action(outbound(&mut XdpFrame(context), &KernelTables::new()))
}

/// At the WAN's port.
#[xdp]
pub fn turnpike_in(context: XdpContext) -> u32 {
    action(inbound(&mut XdpFrame(context), &KernelTables::new()))
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
fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Drop => xdp_action::XDP_DROP,
        Verdict::Redirect(port) => tables::redirect(port),
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
