//! Moves what is in force to tables of other sizes while packets pass.
//!
//! 1. The next generation is made and filled beside the one in force, and pinned. Nothing uses it.
//! 2. Its folder gets the name under which it is found when this process dies from here on.
//! 3. The programs are exchanged through their links: each packet is handled by the old one with the old tables or by the new one with
//!    the new ones.
//! 4. After a grace period no packet uses the old tables. What they counted becomes the line of the new tables that user space alone
//!    writes, so nothing is lost and nothing is counted twice, however often this step is repeated.
//! 5. The folders change names, and the old tables go.
//!
//! Meters are copied in step 1 and moved forward, word by word, to where the old ones got in step 4. What passed between is forgiven: a
//! few milliseconds of rate, once.

use std::collections::BTreeMap;
use std::path::Path;

use aya::Ebpf;
use turnpike_fastpath::contract::{BEST_EFFORT_ENTRIES, PORTS_MAX};
use turnpike_fastpath::entry::{Aggregate, Config, Interim};

use crate::error::EngineError;
use crate::flow_table;
use crate::generation::{self, Generation, Pinned, Place};
use crate::layout::{Kept, LAYOUTS, Layout, Per, Shape};
use crate::next_hop::NO_NEXT_HOP;
use crate::ports::{LAN, WAN};
use crate::program as programs;
use crate::settle::Settlement;
use crate::sys::grace_period;
use crate::table::{Note, Noted, Tables};

/// Where a migration can be cut off; tests do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code, reason = "only tests ask which"))]
pub(crate) enum Step {
    Filled,
    Pinned,
    Named,
    ExchangedOne,
    Exchanged,
    Settled,
    OldRenamed,
    Renamed,
}

#[cfg(not(test))]
const fn reached(_: Step) {}

#[cfg(test)]
use crate::tests::migrate::reached;

/// Moves the tables that are pinned to another shape; the programs that use them then.
pub(crate) fn migrate(pin_dir: &Path, found: Shape, wanted: Shape) -> Result<Ebpf, EngineError> {
    let current = Place::Current.folder(pin_dir);
    let old = Generation::open(&current, found)?;
    let plan = Plan::new(&old.tables, found, wanted)?;
    let mut object = programs::load_unpinned(wanted)?;
    let new = Generation::of(&object, wanted)?;
    plan.fill(&old, &new)?;
    for (port, device) in programs::pinned_devices(&current)? {
        if let Err(error) = programs::set_device(&mut object, port, device) {
            // It is looked up by name when the engine starts.
            tracing::debug!(port, device, %error, "the device of a port is gone");
        }
    }
    reached(Step::Filled);
    generation::pin(&object, pin_dir).inspect_err(|_| {
        // What is reported is why it could not be pinned; the next start removes it too.
        let _ = generation::remove(&Place::New.folder(pin_dir));
    })?;
    reached(Step::Pinned);
    generation::rename(pin_dir, Place::New, Place::Next)?;
    reached(Step::Named);
    complete(&mut object, pin_dir, &old, &new)?;
    tracing::info!(?found, ?wanted, flows = plan.flows.len(), "tables moved to other sizes");
    Ok(object)
}

/// Whether what is in force would fit into tables of another shape. Changes nothing.
pub(crate) fn check(old: &Generation, wanted: Shape) -> Result<(), EngineError> {
    Plan::new(&old.tables, old.shape, wanted).map(drop)
}

/// Completes what a process that died had begun: programs may use either generation.
pub(crate) fn resume(pin_dir: &Path) -> Result<(), EngineError> {
    let open = |place: Place| {
        let folder = place.folder(pin_dir);
        match generation::look(&folder)? {
            Pinned::Tables(shape) => Generation::open(&folder, shape),
            Pinned::None => Err(EngineError::Pins { path: folder, detail: "its tables are gone".to_owned() }),
        }
    };
    let (old, new) = (open(Place::Current)?, open(Place::Next)?);
    tracing::warn!(found = ?old.shape, wanted = ?new.shape, "completing a change of sizes that was cut off");
    let mut object = programs::load_pinned(&Place::Next.folder(pin_dir), new.shape)?;
    complete(&mut object, pin_dir, &old, &new)
}

/// From two generations of which programs may use either, to the new one alone.
fn complete(object: &mut Ebpf, pin_dir: &Path, old: &Generation, new: &Generation) -> Result<(), EngineError> {
    let settlement = Settlement::new(old, new);
    settlement.advance();
    let one = new.tables.port(LAN.into()).ifindex == new.tables.port(WAN.into()).ifindex;
    for (_, role, program) in programs::roles(one) {
        programs::exchange(object, pin_dir, role, program)?;
        reached(Step::ExchangedOne);
    }
    reached(Step::Exchanged);
    grace_period();
    settlement.finish();
    reached(Step::Settled);
    generation::rename(pin_dir, Place::Current, Place::Old)?;
    reached(Step::OldRenamed);
    generation::rename(pin_dir, Place::Next, Place::Current)?;
    reached(Step::Renamed);
    generation::remove(&Place::Old.folder(pin_dir)).map(drop)
}

/// Old and new index of everything that is noted.
type Moves = Vec<(u32, u32)>;

/// Where everything goes. Only a label must keep its index: it is on the wire.
#[derive(Debug)]
struct Plan {
    flows: Moves,
    labels: u32,
    aggregates: Moves,
    next_hops: Moves,
}

impl Plan {
    fn new(old: &Tables, found: Shape, wanted: Shape) -> Result<Self, EngineError> {
        let refuse = |key, value: u32, detail: String| Err(EngineError::DoesNotFit { key, value, detail });
        if let Some(label) = (wanted.flows..found.flows).rev().find(|index| old.note(Noted::Label, *index).policy != 0)
        {
            let detail = format!(
                "label index {label} is in use, and is part of what the peer sends; it needs {} or more",
                (label + 1).next_power_of_two()
            );
            return refuse("flows_max", wanted.flows, detail);
        }
        let moves = |noted, per, first| moves(old, noted, first, found.count(per), wanted.count(per));
        let flows = match moves(Noted::Flow, Per::Flow, 0) {
            Ok(flows) => flows,
            Err(used) => {
                let detail = format!("{used} flows are in use; it needs {} or more", used.next_power_of_two());
                return refuse("flows_max", wanted.flows, detail);
            }
        };
        let mut aggregates: Moves = (0..BEST_EFFORT_ENTRIES).map(|index| (index, index)).collect();
        match moves(Noted::Aggregate, Per::Aggregate, BEST_EFFORT_ENTRIES) {
            Ok(moved) => aggregates.extend(moved),
            Err(used) => {
                let detail = format!("{used} aggregates are in use; it needs {used} or more");
                return refuse("aggregates_max", wanted.aggregates - BEST_EFFORT_ENTRIES, detail);
            }
        }
        let next_hops = match moves(Noted::NextHop, Per::NextHop, 0) {
            Ok(next_hops) => next_hops,
            Err(used) => {
                let detail = format!("{used} next hops are in use; with aggregates_max it must come to that many");
                return refuse("flows_max", wanted.flows, detail);
            }
        };
        Ok(Self { flows, labels: found.flows.min(wanted.flows), aggregates, next_hops })
    }

    /// Fills new tables, which nobody sees yet.
    fn fill(&self, old: &Generation, new: &Generation) -> Result<(), EngineError> {
        for layout in LAYOUTS {
            if layout.kept == Kept::Copied {
                self.copy(layout, old, new);
            }
        }
        self.renumber(&new.tables);
        let bucket_mask = new.tables.bucket_mask();
        let config = Config { bucket_mask, ..old.tables.config() };
        new.tables.set_config(config);
        for (from, to) in &self.flows {
            let (ends, _) = old.tables.flow_ends(*from);
            if flow_table::is_published(&old.tables, config.hash_seed, &ends, *from) {
                flow_table::publish_unseen(&new.tables, config.hash_seed, &ends, *to).map_err(|error| {
                    let detail = format!("the flow table cannot hold what is in force: {error}");
                    EngineError::DoesNotFit { key: "flows_max", value: new.shape.flows, detail }
                })?;
            }
        }
        self.share_credit(old.shape, new)
    }

    fn copy(&self, layout: &Layout, old: &Generation, new: &Generation) {
        let (from, to) = (old.raw(layout), new.raw(layout));
        let words = layout.entry_bytes / 8;
        let copy = |(source, target): (u32, u32)| to.copy(target, from, source, words);
        match layout.per {
            Per::Flow => self.flows.iter().copied().for_each(copy),
            // Also of those that have ended: they remember their generation.
            Per::Label => (0..self.labels).map(|index| (index, index)).for_each(copy),
            Per::Aggregate => self.aggregates.iter().copied().for_each(copy),
            Per::NextHop => self.next_hops.iter().copied().for_each(copy),
            Per::Port => (0..PORTS_MAX).map(|index| (index, index)).for_each(copy),
            Per::Note => {
                let note = |noted, (source, target): (u32, u32)| {
                    new.tables.set_note(noted, target, old.tables.note(noted, source));
                };
                self.flows.iter().for_each(|moved| note(Noted::Flow, *moved));
                (0..self.labels).for_each(|index| note(Noted::Label, (index, index)));
                self.aggregates.iter().for_each(|moved| note(Noted::Aggregate, *moved));
                self.next_hops.iter().for_each(|moved| note(Noted::NextHop, *moved));
            }
            Per::Node | Per::Bucket | Per::Reason => {}
        }
    }

    /// Has entries that were moved found by those that refer to them.
    fn renumber(&self, new: &Tables) {
        let stay = |moves: &Moves| moves.iter().all(|(from, to)| from == to);
        if stay(&self.aggregates) && stay(&self.next_hops) {
            return;
        }
        let table = |moves: &Moves| -> BTreeMap<u16, u16> {
            let narrow = |index: u32| u16::try_from(index).ok();
            moves.iter().filter_map(|(from, to)| Some((narrow(*from)?, narrow(*to)?))).collect()
        };
        let (aggregates, next_hops) = (table(&self.aggregates), table(&self.next_hops));
        // What refers to nothing that is noted was being installed or freed when its process died; no packet finds it.
        let aggregate = |index: u16| aggregates.get(&index).copied().unwrap_or(0);
        let next_hop = |index: u16| next_hops.get(&index).copied().unwrap_or(NO_NEXT_HOP);
        for (_, index) in &self.aggregates {
            let entry = new.aggregate(*index);
            new.set_aggregate(*index, Aggregate { next_hop: next_hop(entry.next_hop), ..entry });
        }
        for (_, index) in &self.flows {
            let mut flow = new.flow(*index);
            flow.aggregate = aggregate(flow.aggregate);
            new.set_flow(*index, flow);
        }
        for index in 0..self.labels {
            if new.note(Noted::Label, index).policy != 0 {
                let mut label = new.label(index);
                label.aggregate = aggregate(label.aggregate);
                label.next_hop = next_hop(label.next_hop);
                new.set_label(index, label);
            }
        }
    }

    /// What all CPUs together may hold in credit was taken off each pool; more CPUs share the same.
    fn share_credit(&self, found: Shape, new: &Generation) -> Result<(), EngineError> {
        let (before, now) = (u64::from(found.cpus), u64::from(new.shape.cpus));
        if now <= before {
            return Ok(());
        }
        let packet_bytes_max = (0..PORTS_MAX).map(|port| u64::from(new.tables.port(port).mtu_bytes)).max().unwrap_or(0);
        for (_, index) in &self.aggregates {
            let entry = new.tables.aggregate(*index);
            let quantum_bytes = entry.quantum_bytes * before / now;
            if entry.quantum_bytes != 0 && quantum_bytes < packet_bytes_max {
                return Err(EngineError::DoesNotFit {
                    key: "CPUs",
                    value: new.shape.cpus,
                    detail: "the burst of an aggregate in force is too small for that many; give it up first"
                        .to_owned(),
                });
            }
            let quantum_ns = (entry.quantum_ns * before).div_ceil(now);
            new.tables.set_aggregate(*index, Aggregate { quantum_bytes, quantum_ns, ..entry });
        }
        // Should a process have died amid a change of an aggregate's rate.
        let interim = new.tables.interim();
        new.tables.set_interim(Interim {
            quantum_bytes: interim.quantum_bytes * before / now,
            quantum_ns: (interim.quantum_ns * before).div_ceil(now),
            ..interim
        });
        Ok(())
    }
}

/// Keeps everything noted where it is, and puts what is beyond the end into free entries. If there are not enough: how many are needed.
fn moves(old: &Tables, noted: Noted, first: u32, before: u32, after: u32) -> Result<Moves, u32> {
    let used = |index: u32| index < before && old.note(noted, index) != Note::default();
    let mut free = (first..after).filter(|index| !used(*index));
    let mut count = 0;
    let moves: Option<Moves> = (first..before)
        .filter(|index| used(*index))
        .inspect(|_| count += 1)
        .map(|index| Some((index, if index < after { index } else { free.next()? })))
        .collect();
    moves.ok_or_else(|| (first..before).filter(|index| used(*index)).count().try_into().unwrap_or(count))
}
