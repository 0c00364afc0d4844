//! How the packet logic reaches its tables, clocks and shared words.

use core::sync::atomic::AtomicU64;

use crate::entry::{
    Aggregate, AggregateShare, Bucket, Config, Detail, Flow, FlowShare, LabelEntry, NextHop, Pool, Port, ReasonShare,
};
use crate::reception::Reception;
use crate::verdict::{Direction, Reason};

/// A packet that asks its way. Addresses have sixteen bytes, IPv4 ones as [`crate::entry::mapped`] writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route<'r> {
    /// Address.
    pub source: &'r [u8; 16],
    /// Address.
    pub destination: &'r [u8; 16],
    /// Whether the addresses are IPv6.
    pub v6: bool,
    /// DSCP and ECN.
    pub class: u8,
}

/// What a host of the packet logic provides. `None` means that the index is outside the table.
///
/// The `_share` tables are the calling CPU's own: nothing else writes them meanwhile.
pub trait Tables {
    /// The one entry of the configuration.
    fn config(&self) -> Option<&Config>;
    /// A line of the flow table.
    fn bucket(&self, index: u32) -> Option<&Bucket>;
    /// An outgoing flow.
    fn flow(&self, index: u32) -> Option<&Flow>;
    /// The rest of it.
    fn flow_detail(&self, index: u32) -> Option<&Detail>;
    /// What this CPU counted of it.
    fn flow_share(&self, index: u32) -> Option<&FlowShare>;
    /// An incoming flow.
    fn label(&self, index: u32) -> Option<&LabelEntry>;
    /// The rest of it.
    fn label_detail(&self, index: u32) -> Option<&Detail>;
    /// What this CPU counted of it.
    fn label_share(&self, index: u32) -> Option<&FlowShare>;
    /// What arrived of it.
    fn reception(&self, index: u32) -> Option<&Reception>;
    /// An aggregate.
    fn aggregate(&self, index: u32) -> Option<&Aggregate>;
    /// The shared part of its meter.
    fn pool(&self, index: u32) -> Option<&Pool>;
    /// This CPU's part of its meter and counters.
    fn aggregate_share(&self, index: u32) -> Option<&AggregateShare>;
    /// This CPU's counter of a reason.
    fn reason_share(&self, row: u32) -> Option<&ReasonShare>;
    /// A next hop.
    fn next_hop(&self, index: u32) -> Option<NextHop>;
    /// A port.
    fn port(&self, index: u32) -> Option<&Port>;

    /// Asks the operating system where such a packet goes; none if it does not know the way or the neighbour, or if the way leaves by no port.
    /// Dear.
    fn route(&self, route: &Route<'_>) -> Option<NextHop>;

    /// The exact clock, nanoseconds. Dear.
    fn exact_ns(&self) -> u64;
    /// The coarse clock, ticks. Nearly free, and late by up to one tick.
    fn ticks(&self) -> u64;

    /// Reads a shared word.
    fn load(&self, word: &AtomicU64) -> u64;
    /// Puts `new` into a shared word if it still holds `old`; whether it did.
    fn replace(&self, word: &AtomicU64, old: u64, new: u64) -> bool;
    /// Adds to a shared word, as one step.
    fn add(&self, word: &AtomicU64, value: u64);
    /// Reads the beginning of an entry for nothing but its cache line, which is then on its way while other things are done.
    fn touch<E>(&self, entry: &E);
    /// Gives the value back, in a way the compiler cannot see through: keeps it from turning arithmetic into branches.
    fn opaque(&self, value: u64) -> u64;
    /// Gives the value back in a way that the eBPF verifier cannot see through either. It follows every value that a branch left behind on its
    /// own; where it has forgotten what it was, the ways behind the branch are one.
    fn unknown(&self, value: u64) -> u64;
}

/// Counts the end of a packet's way; false if the table has no such row.
#[inline(always)]
pub(crate) fn count<T: Tables>(tables: &T, direction: Direction, reason: Reason, bytes: u64) -> bool {
    let Some(share) = tables.reason_share(reason.row(direction)) else { return false };
    share.packets.set(share.packets.get() + 1);
    share.bytes.set(share.bytes.get() + bytes);
    true
}
