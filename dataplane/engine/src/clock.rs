//! The coarse clock: the kernel's ticks as nanoseconds.

use std::time::{Duration, Instant};

use aya::programs::TestRunOptions;
use aya::{Ebpf, TestRun as _};
use turnpike_fastpath::contract::{BEST_EFFORT_ENTRIES, program};
use turnpike_fastpath::entry::ClockReading;

use crate::config::possible_cpus;
use crate::error::EngineError;
use crate::layout::Shape;
use crate::program::{load_clock, program_error, xdp};
use crate::table::Tables;

/// How the coarse clock runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CoarseClock {
    pub(crate) tick_ns: u64,
    started: Instant,
    started_ns: u64,
}

impl CoarseClock {
    /// Coarse time now, late by up to a tick.
    pub(crate) fn now_ns(&self) -> u64 {
        self.started_ns + u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX >> 1)
    }
}

/// Finds out how long a tick is: the kernel does not tell, so two readings of both clocks have to.
pub(crate) fn measure(object: &mut Ebpf, tables: &Tables) -> Result<CoarseClock, EngineError> {
    const FREQUENCIES: [u64; 5] = [100, 250, 300, 1_000, 1_024];
    let first = read_clock(object, tables)?;
    std::thread::sleep(Duration::from_millis(120));
    let started = Instant::now();
    let second = read_clock(object, tables)?;
    let ticks = second.ticks.saturating_sub(first.ticks).max(1);
    let measured_ns = second.exact_ns.saturating_sub(first.exact_ns) / ticks;
    let tick_ns = FREQUENCIES
        .map(|frequency| 1_000_000_000 / frequency)
        .into_iter()
        .min_by_key(|tick_ns| tick_ns.abs_diff(measured_ns))
        .unwrap_or(measured_ns);
    tracing::debug!(measured_ns, tick_ns, "coarse clock");
    if tick_ns.abs_diff(measured_ns) > tick_ns / 5 {
        return Err(EngineError::Load {
            detail: format!("the kernel's tick of {measured_ns} ns is none of the known lengths"),
        });
    }
    Ok(CoarseClock { tick_ns, started, started_ns: second.ticks * tick_ns })
}

/// Ticks now, as programs read them. Loads one for it, and its tables, which nobody else sees.
pub(crate) fn ticks() -> Result<u64, EngineError> {
    let shape = Shape { flows: 8, aggregates: BEST_EFFORT_ENTRIES + 1, cpus: possible_cpus()? };
    let mut object = load_clock(shape)?;
    let tables = Tables::map(&object, shape)?;
    Ok(read_clock(&mut object, &tables)?.ticks)
}

/// Both clocks as packets see them now.
pub(crate) fn read_clock(object: &mut Ebpf, tables: &Tables) -> Result<ClockReading, EngineError> {
    let frame = [0; 64];
    let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() };
    xdp(object, program::CLOCK)?.test_run(options).map_err(program_error)?;
    Ok(tables.clock())
}
