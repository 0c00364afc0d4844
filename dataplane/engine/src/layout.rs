//! What tables there are, how large each is, and what becomes of its entries when a generation of tables follows another.
//!
//! A new table needs a row here and an accessor in [`crate::table`]; sizes, pins, checks and migration follow from the row.

use std::mem::offset_of;

use turnpike_fastpath::contract::{self, BUCKET_SLOTS, FLOWS_MAX, PORTS_MAX, table};
use turnpike_fastpath::entry::{
    Aggregate, AggregateShare, Bucket, ClockReading, Config, Flow, FlowShare, LabelEntry, NextHop, Pool, Port,
    ReasonShare,
};
use turnpike_fastpath::verdict::REASONS_MAX;

use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::table::Note;

/// What an entry belongs to, and so what its index is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Per {
    /// There is one.
    Node,
    Bucket,
    Flow,
    Label,
    Aggregate,
    NextHop,
    Port,
    /// Direction and reason of a verdict.
    Reason,
    /// Flows, labels, aggregates and next hops, one after the other.
    Note,
}

/// What becomes of a table's entries when its generation is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Made anew from the others.
    Rebuilt,
    /// Copied. These words of an entry are moved by packets, and only ever forward.
    Copied { moving: &'static [usize] },
    /// One line for each CPU, and behind them one that user space alone writes: what was counted in earlier generations. So many words
    /// from the first on are counters.
    Counted { first: usize, words: usize },
}

/// One table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) name: &'static str,
    pub(crate) per: Per,
    pub(crate) entry_bytes: usize,
    pub(crate) kept: Kept,
}

const fn layout<T>(name: &'static str, per: Per, kept: Kept) -> Layout {
    Layout { name, per, entry_bytes: size_of::<T>(), kept }
}

const FIXED: Kept = Kept::Copied { moving: &[] };
const FLOW_COUNTERS: Kept = Kept::Counted { first: offset_of!(FlowShare, tally) / 8, words: 6 };

/// All tables but the device map, which is no array.
pub(crate) const LAYOUTS: &[Layout] = &[
    layout::<Config>(table::CONFIG, Per::Node, Kept::Rebuilt),
    layout::<Bucket>(table::BUCKETS, Per::Bucket, Kept::Rebuilt),
    layout::<Flow>(table::FLOWS, Per::Flow, Kept::Copied { moving: &[offset_of!(Flow, due) / 8] }),
    layout::<LabelEntry>(table::LABELS, Per::Label, Kept::Copied { moving: &[offset_of!(LabelEntry, due) / 8] }),
    layout::<Aggregate>(table::AGGREGATES, Per::Aggregate, FIXED),
    layout::<Pool>(table::POOLS, Per::Aggregate, Kept::Copied { moving: &[offset_of!(Pool, spent_ns) / 8] }),
    layout::<AggregateShare>(
        table::AGG_SHARES,
        Per::Aggregate,
        Kept::Counted { first: offset_of!(AggregateShare, tally) / 8, words: 6 },
    ),
    layout::<FlowShare>(table::FLOW_SHARES, Per::Flow, FLOW_COUNTERS),
    layout::<FlowShare>(table::LABEL_SHARES, Per::Label, FLOW_COUNTERS),
    layout::<ReasonShare>(table::REASONS, Per::Reason, Kept::Counted { first: 0, words: 2 }),
    layout::<NextHop>(table::NEXT_HOPS, Per::NextHop, FIXED),
    layout::<Port>(table::PORTS, Per::Port, FIXED),
    layout::<ClockReading>(table::CLOCK, Per::Node, Kept::Rebuilt),
    layout::<Note>(table::NOTES, Per::Note, FIXED),
];

/// Bytes of an entry of the device map.
pub(crate) const DEVICE_BYTES: usize = 8;

/// What the sizes of all tables follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Outgoing flows, and as many labels.
    pub(crate) flows: u32,
    /// With those that stand for best effort.
    pub(crate) aggregates: u32,
    /// Possible CPUs.
    pub(crate) cpus: u32,
}

impl Shape {
    pub(crate) const fn of(config: &EngineConfig, cpus: u32) -> Self {
        Self { flows: config.flows_max, aggregates: config.aggregate_entries(), cpus }
    }

    /// Whether the entries of every table can be numbered.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        let most = u64::from(self.flows.max(self.aggregates)) * u64::from(self.lines());
        if u32::try_from(most).is_ok() {
            return Ok(());
        }
        Err(EngineError::Config {
            key: "flows_max",
            value: self.flows.to_string(),
            allowed: format!("must be smaller on {} CPUs", self.cpus),
        })
    }

    /// The shape of tables whose sizes are known, if they have one that this program could have made.
    pub(crate) fn found(entries: impl Fn(&'static str) -> Option<u32>) -> Option<Self> {
        let (flows, aggregates) = (entries(table::FLOWS)?, entries(table::AGGREGATES)?);
        let cpus = entries(table::AGG_SHARES)?.checked_div(aggregates)?.checked_sub(1)?;
        let shape = Self { flows, aggregates, cpus };
        let known = flows.is_power_of_two()
            && (8..=FLOWS_MAX).contains(&flows)
            && (contract::BEST_EFFORT_ENTRIES + 1..=contract::AGGREGATES_MAX).contains(&aggregates)
            && cpus > 0;
        (known && LAYOUTS.iter().all(|layout| entries(layout.name) == Some(shape.entries(layout)))).then_some(shape)
    }

    /// How another shape differs, for people.
    pub(crate) fn difference(&self, other: Self) -> String {
        let all = [
            ("flows", self.flows, other.flows),
            ("aggregates", self.aggregates, other.aggregates),
            ("CPUs", self.cpus, other.cpus),
        ];
        let changed = all.iter().filter(|(_, before, after)| before != after);
        changed.map(|(name, before, after)| format!("{before} {name} become {after}")).collect::<Vec<_>>().join(", ")
    }

    /// Next hops: each aggregate and each terminal needs at most one, and their index has 16 bits.
    pub(crate) fn next_hops(&self) -> u32 {
        (self.aggregates + self.flows).min(contract::NEXT_HOPS_MAX)
    }

    /// Buckets for so many flows: twice as many slots, at least.
    pub(crate) const fn buckets(&self) -> u32 {
        2 * self.flows / BUCKET_SLOTS
    }

    /// Lines of a table of counters: one for each CPU and one for what was carried over.
    pub(crate) const fn lines(&self) -> u32 {
        self.cpus + 1
    }

    /// How many things of a kind there are.
    pub(crate) fn count(&self, per: Per) -> u32 {
        match per {
            Per::Node => 1,
            Per::Bucket => self.buckets(),
            Per::Flow | Per::Label => self.flows,
            Per::Aggregate => self.aggregates,
            Per::NextHop => self.next_hops(),
            Per::Port => PORTS_MAX,
            Per::Reason => 2 * REASONS_MAX,
            Per::Note => 2 * self.flows + self.aggregates + self.next_hops(),
        }
    }

    /// Entries of a table.
    pub(crate) fn entries(&self, layout: &Layout) -> u32 {
        let lines = if matches!(layout.kept, Kept::Counted { .. }) { self.lines() } else { 1 };
        self.count(layout.per).saturating_mul(lines)
    }

    /// Bytes of kernel memory that the tables take: each array is a page for the kernel's own part, and whole pages of entries.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let page_bytes = rustix::param::page_size() as u64;
        let arrays = LAYOUTS.iter().map(|layout| {
            let bytes = u64::from(self.entries(layout)) * layout.entry_bytes as u64;
            page_bytes + bytes.next_multiple_of(page_bytes)
        });
        // The device map is less than a page.
        arrays.sum::<u64>() + page_bytes
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    const DEFAULT: Shape = Shape { flows: 65_536, aggregates: 4_098, cpus: 2 };

    /// The figure of `docs/life-of-a-packet.md`.
    #[test]
    fn the_default_sizes_take_the_documented_memory() {
        let bytes = DEFAULT.memory_bytes();
        assert_eq!(bytes >> 20, 37, "{bytes} bytes");
    }

    #[test]
    fn more_entries_than_can_be_numbered_are_refused() {
        let shape = Shape { flows: 1 << 20, aggregates: 4_098, cpus: 4_094 };
        shape.check().unwrap();
        let error = Shape { cpus: 4_095, ..shape }.check().unwrap_err();
        assert_eq!(error.to_string(), "flows_max = 1048576: must be smaller on 4095 CPUs");
    }

    #[test]
    fn a_shape_is_found_from_the_sizes_that_follow_from_it() {
        for shape in [DEFAULT, Shape { flows: 8, aggregates: 3, cpus: 1 }, Shape { flows: 1 << 20, ..DEFAULT }] {
            let size = |name| LAYOUTS.iter().find(|layout| layout.name == name).map(|layout| shape.entries(layout));
            assert_eq!(Shape::found(size), Some(shape));
            for odd in LAYOUTS {
                let other = |name| size(name).map(|entries| entries + u32::from(name == odd.name));
                assert_eq!(Shape::found(other), None, "{}", odd.name);
            }
        }
    }
}
