//! Turnpike's packet logic: parse, classify, meter, tag, untag, count, verdict.
//!
//! [`outbound`] takes frames from the site and tags those of admitted flows; [`inbound`] takes tagged frames from
//! peers and restores them. Everything else exists to serve these two. They work on a [`Frame`] and on [`Tables`], so
//! the same code runs in the XDP programs, in user space and in tests.
#![no_std]
#![forbid(unsafe_code)]

pub mod buffer;
// User space's part.
#[cfg(not(target_arch = "bpf"))]
pub mod change;
pub mod checksum;
pub mod contract;
pub mod entry;
pub mod frame;
// The eBPF target has no compare-and-swap in `core`.
#[cfg(not(target_arch = "bpf"))]
pub mod memory;
pub mod meter;
// User space's part.
#[cfg(not(target_arch = "bpf"))]
pub mod plan;
pub mod reception;
pub mod verdict;
pub mod wire;

mod classify;
mod inbound;
mod outbound;
mod parse;
mod plain;
mod tables;
mod way;
mod write;

pub use classify::{FlowKey, alternative, bucket_of, fingerprint, flow_hash};
pub use frame::Frame;
pub use inbound::{both, inbound, inbound_v4, inbound_v6, is_tagged};
pub use outbound::{outbound, outbound_v4, outbound_v6};
pub use plain::{inbound_plain, outbound_plain};
pub use tables::{Route, Tables};
pub use verdict::{Detour, Direction, Reason, Verdict};
