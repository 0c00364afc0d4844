//! Changes what an installed policy may send, while packets come.
//!
//! A meter reads several words, and only one can be written at a time. So the numbers that count are chosen by the word that the meter
//! moves anyway ([`INTERIM`]):
//!
//! 1. The new numbers are written where nobody uses them ([`Interim`]).
//! 2. One compare-and-swap of the meter's word makes them count, and carries its state over to them. A packet that was to be charged by
//!    the old numbers at the same moment finds its own compare-and-swap fail, and is charged by the new ones.
//! 3. The entry's own numbers, which do not count now, are written.
//! 4. A second step makes those count. They are the same, so the state is right already.
//!
//! Between all of these, and after the last, a grace period passes: no packet that could have read anything before the one step is still under
//! way at the next. So each packet is charged wholly by the old numbers or wholly by the new ones, in whatever order it reads them, and
//! however long this thread is kept from its next step; and the next process can go on from each of them.

use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering};

use turnpike_fastpath::change::{FlowNumbers, carried_due, carried_spent_ns, empty_due};
use turnpike_fastpath::contract::table;
use turnpike_fastpath::entry::{
    Aggregate, ClockReading, Config, Detail, EXACT_CLOCK, EXCESS, Flow, FlowRate, INTERIM, Interim, LabelEntry, Pool,
};
use turnpike_fastpath::meter::PoolRate;
use zerocopy::transmute;

use crate::clock::read_clock;
use crate::engine::{Engine, Kind, PATH_JITTER_NS, Placed};
use crate::error::EngineError;
use crate::flow::Rates;
use crate::policy::{Change, PolicyId};
use crate::sys::grace_period;
use crate::table::{Noted, read_back};

/// The bits of an entry's flags that belong to its meters.
const METER_FLAGS: u16 = EXACT_CLOCK | EXCESS;

const CONFIG_WORDS: usize = size_of::<Config>() / 8;
const INTERIM_AT: usize = offset_of!(Config, interim) / 8;
const INTERIM_WORDS: usize = size_of::<Interim>() / 8;

/// Stands where there is no excess: too dear for any packet, as some may still be looking for it.
const NO_EXCESS: FlowRate = FlowRate { byte_cost: 1 << 47, burst_ns: 0 };

/// An entry that a change writes: its table, the word that its meter moves if there is one, and what its words are to be.
struct Target {
    table: &'static str,
    moving: Option<usize>,
    words: [u64; 8],
}

impl Engine {
    /// Changes rate and burst of a policy in force. It stays in force, under its label and with its counters, and each packet is charged by
    /// the old numbers or by the new ones.
    ///
    /// A flow keeps the bytes that it may send at once, up to the new burst; an excess that it did not have before starts empty. An
    /// aggregate keeps them too, and is given what its pool can hold more, for the flows that are then admitted. So raise an aggregate before
    /// its flows and lower it after them; raise the receiver's side before the sender's.
    ///
    /// Takes four grace periods of the kernel, some 30 ms.
    ///
    /// # Errors
    /// The policy is not in force or is of another kind, the numbers cannot be enforced, or they do not read back; then nothing is changed.
    pub fn change(&mut self, id: PolicyId, change: &Change) -> Result<(), EngineError> {
        let (placed, to) = self.asked(id, change)?;
        let from = self.numbers(placed);
        if from == to {
            return Ok(());
        }
        // Should one have failed half way, its policy goes by the interim numbers still.
        self.complete_change()?;
        self.tables.set_interim(to);
        let config: [u64; CONFIG_WORDS] = read_back(&self.object, table::CONFIG, 0)?;
        let wanted: [u64; INTERIM_WORDS] = transmute!(to);
        if config[INTERIM_AT..INTERIM_AT + INTERIM_WORDS] != wanted {
            return Err(EngineError::NotChanged(id));
        }
        grace_period();
        self.carry(placed, &from, &to, INTERIM)?;
        let settled = self.settle(placed, &to);
        if !matches!(settled, Ok(true)) {
            self.write(placed, &from);
            grace_period();
            self.carry(placed, &to, &from, 0)?;
            grace_period();
            return settled.and(Err(EngineError::NotChanged(id)));
        }
        Ok(())
    }

    /// Completes a change in whose midst an earlier process died, or the kernel did not answer.
    pub(crate) fn complete_change(&mut self) -> Result<(), EngineError> {
        let under_way = |placed: &&Placed| self.moving(**placed).load(Ordering::Acquire) & INTERIM != 0;
        let placed: Vec<Placed> =
            self.policies.values().chain(self.ended.values()).filter(under_way).copied().collect();
        for placed in placed {
            let (from, to) = (self.numbers(placed), self.tables.interim());
            tracing::info!(index = placed.index, kind = ?placed.kind, "a change of rate is completed");
            self.carry(placed, &from, &to, INTERIM)?;
            self.settle(placed, &to)?;
        }
        Ok(())
    }

    /// Where a policy is and what its numbers are to be.
    fn asked(&self, id: PolicyId, change: &Change) -> Result<(Placed, Interim), EngineError> {
        let needed = match change {
            Change::Meter(_) => "flow",
            Change::Aggregate { .. } => "aggregate",
        };
        let unknown = EngineError::UnknownPolicy { id, needed };
        let Some(placed) = self.policies.get(&id).copied() else { return Err(unknown) };
        let interim = match (placed.kind, change) {
            (Kind::FlowOut | Kind::FlowIn, Change::Meter(meter)) => {
                let (carrier, allowance_ns) = if placed.kind == Kind::FlowIn {
                    (self.tables.label(placed.index).aggregate, PATH_JITTER_NS)
                } else {
                    (self.tables.flow(placed.index).aggregate, 0)
                };
                let Rates { rate, excess, flags } = self.rates(carrier, meter, allowance_ns)?;
                let excess_flag = if excess.is_some() { EXCESS } else { 0 };
                Interim {
                    rate,
                    excess: excess.unwrap_or(NO_EXCESS),
                    flags: flags | excess_flag,
                    packet_bytes_min: meter.packet_bytes_min,
                    ..Interim::default()
                }
            }
            (Kind::AggregateOut | Kind::AggregateIn, Change::Aggregate { rate_bps, burst_bytes }) => {
                let allowance_ns = if placed.kind == Kind::AggregateIn { PATH_JITTER_NS } else { 0 };
                let PoolRate { quantum_bytes, quantum_ns, depth_ns, byte_cost, reserve_ns, .. } =
                    self.pool_rate(*rate_bps, *burst_bytes, allowance_ns)?;
                Interim { quantum_bytes, quantum_ns, depth_ns, byte_cost, reserve_ns, ..Interim::default() }
            }
            _ => return Err(unknown),
        };
        Ok((placed, interim))
    }

    /// What an entry's own numbers are.
    fn numbers(&self, placed: Placed) -> Interim {
        let excess = |table, flags| match flags & EXCESS {
            0 => NO_EXCESS,
            _ => self.tables.detail(table, placed.index).excess,
        };
        match placed.kind {
            Kind::FlowOut => {
                let Flow { rate, flags, packet_bytes_min, .. } = self.tables.flow(placed.index);
                let (excess, flags) = (excess(Noted::Flow, flags), flags & METER_FLAGS);
                Interim { rate, excess, flags, packet_bytes_min, ..Interim::default() }
            }
            Kind::FlowIn => {
                let LabelEntry { rate, flags, packet_bytes_min, .. } = self.tables.label(placed.index);
                let (excess, flags) = (excess(Noted::Label, flags), flags & METER_FLAGS);
                Interim { rate, excess, flags, packet_bytes_min, ..Interim::default() }
            }
            Kind::AggregateOut | Kind::AggregateIn => {
                let Aggregate { quantum_bytes, quantum_ns, depth_ns, .. } = self.tables.aggregate(placed.index);
                let Pool { byte_cost, reserve_ns, .. } = self.tables.pool(placed.index);
                Interim { quantum_bytes, quantum_ns, depth_ns, byte_cost, reserve_ns, ..Interim::default() }
            }
        }
    }

    /// The word that tells what an entry goes by.
    fn moving(&self, placed: Placed) -> &AtomicU64 {
        let (table, at) = match placed.kind {
            Kind::FlowOut => (table::FLOWS, offset_of!(Flow, due)),
            Kind::FlowIn => (table::LABELS, offset_of!(LabelEntry, due)),
            Kind::AggregateOut | Kind::AggregateIn => (table::POOLS, offset_of!(Pool, spent_ns)),
        };
        &self.tables.words(table, placed.index)[at / 8]
    }

    /// The same of its excess.
    fn moving_excess(&self, placed: Placed) -> Option<&AtomicU64> {
        let table = match placed.kind {
            Kind::FlowOut => table::FLOW_DETAILS,
            Kind::FlowIn => table::LABEL_DETAILS,
            Kind::AggregateOut | Kind::AggregateIn => return None,
        };
        Some(&self.tables.words(table, placed.index)[offset_of!(Detail, excess_due) / 8])
    }

    /// Makes the numbers count that have this much of [`INTERIM`], and carries what the meters stand at over to them. What counts already stays.
    fn carry(&mut self, placed: Placed, from: &Interim, to: &Interim, which: u64) -> Result<(), EngineError> {
        let now = read_clock(&mut self.object, &self.tables)?;
        let Some(excess) = self.moving_excess(placed) else {
            let (from, to) = (pool_numbers(from), pool_numbers(to));
            step(self.moving(placed), which, |spent_ns| carried_spent_ns(spent_ns, now.exact_ns, &from, &to));
            return Ok(());
        };
        let numbers = |interim: &Interim, rate| FlowNumbers { rate, now_ns: self.now_ns(&now, interim.flags) };
        let (from_rate, to_rate) = (numbers(from, from.rate), numbers(to, to.rate));
        step(self.moving(placed), which, |due| carried_due(due, &from_rate, &to_rate));
        let (from_rate, to_rate) = (numbers(from, from.excess), numbers(to, to.excess));
        let had_excess = from.flags & EXCESS != 0;
        step(
            excess,
            which,
            |due| if had_excess { carried_due(due, &from_rate, &to_rate) } else { empty_due(&to_rate) },
        );
        Ok(())
    }

    /// What the clock shows that a meter with these flags reads.
    const fn now_ns(&self, now: &ClockReading, flags: u16) -> u64 {
        if flags & EXACT_CLOCK == 0 { now.ticks * self.tick_ns() } else { now.exact_ns }
    }

    /// Writes what counts now into the entry and goes over to that; whether it read back. If not, the interim numbers count still.
    fn settle(&self, placed: Placed, to: &Interim) -> Result<bool, EngineError> {
        grace_period();
        self.write(placed, to);
        for target in self.targets(placed, to) {
            let mut found: [u64; 8] = read_back(&self.object, target.table, placed.index)?;
            if let Some(moving) = target.moving {
                found[moving] = target.words[moving];
            }
            if found != target.words {
                return Ok(false);
            }
        }
        grace_period();
        // The excess first: as long as the other one has the bit, a process that comes after this one knows that there is more to do.
        for word in self.moving_excess(placed).into_iter().chain([self.moving(placed)]) {
            word.fetch_and(!INTERIM, Ordering::AcqRel);
        }
        grace_period();
        Ok(true)
    }

    /// Writes numbers into an entry, of which none of them may count.
    fn write(&self, placed: Placed, numbers: &Interim) {
        for Target { table, moving, words } in self.targets(placed, numbers) {
            for (at, (word, value)) in self.tables.words(table, placed.index).iter().zip(words).enumerate() {
                if Some(at) != moving && word.load(Ordering::Acquire) != value {
                    word.store(value, Ordering::Release);
                }
            }
        }
    }

    /// The entries as they are, but for these numbers.
    fn targets(&self, placed: Placed, numbers: &Interim) -> Vec<Target> {
        let Interim { rate, excess, packet_bytes_min, .. } = *numbers;
        let flags = |flags: u16| flags & !METER_FLAGS | numbers.flags & METER_FLAGS;
        let detail = |noted, table| {
            let detail = Detail { excess, ..self.tables.detail(noted, placed.index) };
            Target { table, moving: Some(offset_of!(Detail, excess_due) / 8), words: transmute!(detail) }
        };
        match placed.kind {
            Kind::FlowOut => {
                let flow = self.tables.flow(placed.index);
                let flow = Flow { rate, flags: flags(flow.flags), packet_bytes_min, ..flow };
                let moving = Some(offset_of!(Flow, due) / 8);
                let target = Target { table: table::FLOWS, moving, words: transmute!(flow) };
                vec![target, detail(Noted::Flow, table::FLOW_DETAILS)]
            }
            Kind::FlowIn => {
                let label = self.tables.label(placed.index);
                let label = LabelEntry { rate, flags: flags(label.flags), packet_bytes_min, ..label };
                let moving = Some(offset_of!(LabelEntry, due) / 8);
                let target = Target { table: table::LABELS, moving, words: transmute!(label) };
                vec![target, detail(Noted::Label, table::LABEL_DETAILS)]
            }
            Kind::AggregateOut | Kind::AggregateIn => {
                let Interim { quantum_bytes, quantum_ns, depth_ns, byte_cost, reserve_ns, .. } = *numbers;
                let aggregate =
                    Aggregate { quantum_bytes, quantum_ns, depth_ns, ..self.tables.aggregate(placed.index) };
                let pool = Pool { byte_cost, reserve_ns, ..self.tables.pool(placed.index) };
                let moving = Some(offset_of!(Pool, spent_ns) / 8);
                vec![
                    Target { table: table::AGGREGATES, moving: None, words: transmute!(aggregate) },
                    Target { table: table::POOLS, moving, words: transmute!(pool) },
                ]
            }
        }
    }
}

fn pool_numbers(interim: &Interim) -> PoolRate {
    let Interim { quantum_bytes, quantum_ns, depth_ns, byte_cost, reserve_ns, .. } = *interim;
    PoolRate { quantum_bytes, quantum_ns, depth_ns, byte_cost, reserve_ns, idle_bytes: 0 }
}

/// Replaces a meter's word, which packets move, by what it becomes and this much of [`INTERIM`]; not if it has that already.
fn step(word: &AtomicU64, which: u64, becomes: impl Fn(u64) -> u64) {
    let next = |old: u64| (old & INTERIM != which).then(|| becomes(old & !INTERIM) | which);
    let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
}
