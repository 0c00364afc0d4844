//! What user space and the programs must agree on: names, sizes and the version that stands for all of it.

use crate::entry::{
    Aggregate, AggregateShare, Bucket, ClockReading, Config, Detail, Flow, FlowShare, LabelEntry, NextHop, Pool, Port,
    ReasonShare,
};
use crate::reception::Reception;

/// To be raised whenever the meaning or the layout of any table changes, and with the flow hash.
pub const VERSION: u64 = 4;

/// Most outgoing flows that a table can be sized for; the same for incoming ones, whose index is in the label.
pub const FLOWS_MAX: u32 = 1 << 20;
/// Most aggregates: their index has 16 bits.
pub const AGGREGATES_MAX: u32 = 1 << 16;
/// Most next hops: their index has 16 bits, of which the last stands for none.
pub const NEXT_HOPS_MAX: u32 = (1 << 16) - 1;
/// Entries of the table of programs.
pub const PROGRAMS_MAX: u32 = 6;
/// Most ports.
pub const PORTS_MAX: u32 = 64;
/// The first aggregates stand for what the link has left; see [`Config::best_effort`].
pub const BEST_EFFORT_ENTRIES: u32 = 2;
/// Slots of a bucket.
pub const BUCKET_SLOTS: u32 = 8;

/// Names of the tables; at most 15 characters each, as the kernel keeps them.
pub mod table {
    /// [`super::Config`]
    pub const CONFIG: &str = "TP_CONFIG";
    /// [`super::Bucket`]
    pub const BUCKETS: &str = "TP_BUCKETS";
    /// [`super::Flow`]
    pub const FLOWS: &str = "TP_FLOWS";
    /// [`super::LabelEntry`]
    pub const LABELS: &str = "TP_LABELS";
    /// [`super::Detail`] of outgoing flows
    pub const FLOW_DETAILS: &str = "TP_FLOW_DETAILS";
    /// [`super::Detail`] of incoming flows
    pub const LABEL_DETAILS: &str = "TP_LBL_DETAILS";
    /// [`super::Reception`] of incoming flows
    pub const RECEPTIONS: &str = "TP_RECEPTIONS";
    /// [`super::Aggregate`]
    pub const AGGREGATES: &str = "TP_AGGREGATES";
    /// [`super::Pool`]
    pub const POOLS: &str = "TP_POOLS";
    /// [`super::AggregateShare`], CPU by CPU, and behind the last one's what user space carried over from earlier tables
    pub const AGG_SHARES: &str = "TP_AGG_SHARES";
    /// [`super::FlowShare`] of outgoing flows, in the same order
    pub const FLOW_SHARES: &str = "TP_FLOW_SHARES";
    /// [`super::FlowShare`] of incoming flows, in the same order
    pub const LABEL_SHARES: &str = "TP_LBL_SHARES";
    /// [`super::ReasonShare`], in the same order
    pub const REASONS: &str = "TP_REASONS";
    /// [`super::NextHop`]
    pub const NEXT_HOPS: &str = "TP_NEXT_HOPS";
    /// [`super::Port`]
    pub const PORTS: &str = "TP_PORTS";
    /// The programs that others go on to; see [`super::program::AT`]
    pub const PROGRAMS: &str = "TP_PROGRAMS";
    /// The device map; the same indexes as [`PORTS`]
    pub const DEVICES: &str = "TP_DEVICES";
    /// [`super::ClockReading`]
    pub const CLOCK: &str = "TP_CLOCK";
    /// User space's own notes, not read by packets
    pub const NOTES: &str = "TP_NOTES";
}

/// Names of the programs.
pub mod program {
    /// Hosts [`crate::outbound_plain`]; at the site's port.
    pub const OUT: &str = "turnpike_out";
    /// Hosts [`crate::inbound_plain`]; at the WAN's port.
    pub const IN: &str = "turnpike_in";
    /// The programs in [`super::table::PROGRAMS`]: those of [`crate::Detour`], then the two directions' own, which [`BOTH`] goes on to.
    pub const AT: [&str; super::PROGRAMS_MAX as usize] =
        ["turnpike_out_v4", "turnpike_out_v6", "turnpike_in_v4", "turnpike_in_v6", OUT, IN];
    /// Hosts [`crate::is_tagged`] and goes on; where the site's port is the WAN's.
    pub const BOTH: &str = "turnpike_both";
    /// Passes everything: what a veth needs at its far end.
    pub const PASS: &str = "turnpike_pass";
    /// Reads both clocks.
    pub const CLOCK: &str = "turnpike_clock";
}

const _: () = {
    assert!(size_of::<Config>() == 1_600);
    assert!(size_of::<Bucket>() == 64);
    assert!(size_of::<Flow>() == 64);
    assert!(size_of::<LabelEntry>() == 64);
    assert!(size_of::<Detail>() == 64);
    assert!(size_of::<Reception>() == 64);
    assert!(size_of::<Aggregate>() == 64);
    assert!(size_of::<Pool>() == 64);
    assert!(size_of::<AggregateShare>() == 64);
    assert!(size_of::<FlowShare>() == 64);
    assert!(size_of::<ReasonShare>() == 16);
    assert!(size_of::<NextHop>() == 8);
    assert!(size_of::<Port>() == 32);
    assert!(size_of::<ClockReading>() == 16);
};
