//! What tables there are, how large each is, and what becomes of its entries when a generation of tables follows another.
//!
//! A new table needs a row here and an accessor in [`crate::table`]; sizes, pins, checks and migration follow from the row.

use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::MapType;
use turnpike_fastpath::contract::{self, BUCKET_SLOTS, FLOWS_MAX, PORTS_MAX, PROGRAMS_MAX, table};
use turnpike_fastpath::entry::{
    Aggregate, AggregateShare, Bucket, ClockReading, Config, Detail, Flow, FlowShare, LabelEntry, NextHop, Pool, Port,
    ReasonShare,
};
use turnpike_fastpath::reception::{Joined, RESTART, Reception, join};
use turnpike_fastpath::verdict::REASONS_MAX;

use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::table::{Note, RECEPTION_COUNTERS};

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
    /// Copied.
    Copied,
    /// So many words from the first on count. Behind the lines that packets count in there is one that user space alone writes: what was
    /// counted in earlier generations.
    Counted { lines: Lines, first: usize, words: usize },
}

/// Where packets count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lines {
    /// Each CPU in a line of its own.
    Cpus,
    /// All in one.
    One,
}

/// A word of an entry that packets move on, and how to go on from where it was in the old table and in the new.
pub(crate) type Moving = (usize, fn(old: u64, new: u64) -> u64);

/// Takes over from an entry that no packet finds any more what the new one cannot know.
pub(crate) type HandOver = fn(old: &[AtomicU64], new: &[AtomicU64]);

/// One table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) name: &'static str,
    pub(crate) per: Per,
    pub(crate) entry_bytes: usize,
    pub(crate) kept: Kept,
    pub(crate) moving: &'static [Moving],
    pub(crate) hand_over: Option<HandOver>,
}

const fn layout<T>(name: &'static str, per: Per, kept: Kept, moving: &'static [Moving]) -> Layout {
    Layout { name, per, entry_bytes: size_of::<T>(), kept, moving, hand_over: None }
}

/// The windows of what arrives become one.
fn hand_over_reception(old: &[AtomicU64], new: &[AtomicU64]) {
    const fn word(offset: usize) -> usize {
        offset / 8
    }
    let window = word(offset_of!(Reception, window));
    // Taken first: if this is cut off, what was missing is not counted; nothing ever is twice.
    let before = old[window].swap(0, Ordering::AcqRel);
    let mut joined = Joined::default();
    let _ = new[window].fetch_update(Ordering::AcqRel, Ordering::Acquire, |after| {
        joined = join(before, after);
        Some(joined.window)
    });
    old[word(offset_of!(Reception, lost))].fetch_add(joined.lost, Ordering::AcqRel);
    old[word(offset_of!(Reception, gaps))].fetch_add(joined.gaps, Ordering::AcqRel);
    old[word(offset_of!(Reception, rare))].fetch_add(joined.restarts * RESTART, Ordering::AcqRel);
}

/// A meter's time only ever moves forward.
fn later(old: u64, new: u64) -> u64 {
    old.max(new)
}

/// The transit time of the last packet is that of the new table, if there was one.
fn newer(old: u64, new: u64) -> u64 {
    if new == 0 { old } else { new }
}

const COPIED: Kept = Kept::Copied;
const EXCESS: &[Moving] = &[(offset_of!(Detail, excess_due) / 8, later)];
const FLOW_COUNTERS: Kept = Kept::Counted { lines: Lines::Cpus, first: offset_of!(FlowShare, tally) / 8, words: 8 };
const AGGREGATE_COUNTERS: Kept =
    Kept::Counted { lines: Lines::Cpus, first: offset_of!(AggregateShare, tally) / 8, words: 6 };
const REASON_COUNTERS: Kept = Kept::Counted { lines: Lines::Cpus, first: 0, words: 2 };
const ARRIVAL_COUNTERS: Kept =
    Kept::Counted { lines: Lines::One, first: RECEPTION_COUNTERS, words: 8 - RECEPTION_COUNTERS };
const ARRIVALS: Layout = Layout {
    hand_over: Some(hand_over_reception),
    ..layout::<Reception>(
        table::RECEPTIONS,
        Per::Label,
        ARRIVAL_COUNTERS,
        &[(offset_of!(Reception, jitter) / 8, newer)],
    )
};

/// All tables that are arrays.
pub(crate) const LAYOUTS: &[Layout] = &[
    layout::<Config>(table::CONFIG, Per::Node, Kept::Rebuilt, &[]),
    layout::<Bucket>(table::BUCKETS, Per::Bucket, Kept::Rebuilt, &[]),
    layout::<Flow>(table::FLOWS, Per::Flow, COPIED, &[(offset_of!(Flow, due) / 8, later)]),
    layout::<LabelEntry>(table::LABELS, Per::Label, COPIED, &[(offset_of!(LabelEntry, due) / 8, later)]),
    layout::<Detail>(table::FLOW_DETAILS, Per::Flow, COPIED, EXCESS),
    layout::<Detail>(table::LABEL_DETAILS, Per::Label, COPIED, EXCESS),
    ARRIVALS,
    layout::<Aggregate>(table::AGGREGATES, Per::Aggregate, COPIED, &[]),
    layout::<Pool>(table::POOLS, Per::Aggregate, COPIED, &[(offset_of!(Pool, spent_ns) / 8, later)]),
    layout::<AggregateShare>(table::AGG_SHARES, Per::Aggregate, AGGREGATE_COUNTERS, &[]),
    layout::<FlowShare>(table::FLOW_SHARES, Per::Flow, FLOW_COUNTERS, &[]),
    layout::<FlowShare>(table::LABEL_SHARES, Per::Label, FLOW_COUNTERS, &[]),
    layout::<ReasonShare>(table::REASONS, Per::Reason, REASON_COUNTERS, &[]),
    layout::<NextHop>(table::NEXT_HOPS, Per::NextHop, COPIED, &[]),
    layout::<Port>(table::PORTS, Per::Port, COPIED, &[]),
    layout::<ClockReading>(table::CLOCK, Per::Node, Kept::Rebuilt, &[]),
    layout::<Note>(table::NOTES, Per::Note, COPIED, &[]),
];

/// The tables that are none: kind, entries, and bytes of an entry. They are filled anew.
pub(crate) const OTHERS: [(&str, MapType, u32, usize); 2] =
    [(table::DEVICES, MapType::DevMap, PORTS_MAX, 8), (table::PROGRAMS, MapType::ProgramArray, PROGRAMS_MAX, 4)];

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
        let most = u64::from(self.flows.max(self.aggregates)) * u64::from(self.lines(Lines::Cpus));
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

    /// Lines of a table of counters, with the one for what was carried over.
    pub(crate) const fn lines(&self, lines: Lines) -> u32 {
        match lines {
            Lines::Cpus => self.cpus + 1,
            Lines::One => 2,
        }
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
        let lines = if let Kept::Counted { lines, .. } = layout.kept { self.lines(lines) } else { 1 };
        self.count(layout.per).saturating_mul(lines)
    }

    /// Bytes of kernel memory that the tables take: each array is a page for the kernel's own part, and whole pages of entries.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let page_bytes = rustix::param::page_size() as u64;
        let arrays = LAYOUTS.iter().map(|layout| {
            let bytes = u64::from(self.entries(layout)) * layout.entry_bytes as u64;
            page_bytes + bytes.next_multiple_of(page_bytes)
        });
        // The others are less than a page each.
        arrays.sum::<u64>() + OTHERS.len() as u64 * page_bytes
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
        assert_eq!(bytes >> 20, 53, "{bytes} bytes");
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
