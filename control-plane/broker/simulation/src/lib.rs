//! Many brokers in one virtual world that a seed decides: messages are lost, late, repeated and overtaken, directions of paths are cut,
//! processes stop for longer than any hold lasts and die at any effect, clocks drift. A checker looks on at every step.
//!
//! The brokers are the product's own; disks, data planes, network and clients are models. `docs/simulation.md` says what they cannot show.
#![forbid(unsafe_code)]

mod checker;
mod clients;
mod faults;
mod network;
mod node;
mod plane;
mod random;
mod report;
mod shell;
mod store;
mod time;
mod topology;
mod traffic;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use turnpike_broker::Broker;

pub use checker::{Rule, Violation};
pub use report::{Crashes, Report};

use crate::checker::Checker;
use crate::world::World;

/// One world.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// How many nodes; 3 or more.
    pub nodes: usize,
    /// How many sessions clients want.
    pub sessions: usize,
    /// For how long there are clients and faults, seconds of virtual time. What follows is perfect, and comes to rest.
    pub busy_s: u64,
    /// Whether there are faults by chance.
    pub faults: bool,
    /// The process that is at this place in the count of all places where one can die does so: for going through all of them.
    pub crash_at: Option<u64>,
    /// Whether all that goes into and comes out of brokers is written to standard output.
    pub trace: bool,
    /// Done to each broker before its first input, for tests that plant a bug.
    pub prepare: fn(&mut Broker),
}

impl Options {
    /// A hundred nodes and three thousand sessions, for four minutes.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            nodes: 100,
            sessions: 3_000,
            busy_s: 240,
            faults: true,
            crash_at: None,
            trace: false,
            prepare: |_| {},
        }
    }
}

/// Lets a world run until it is at rest, or until something does not hold.
#[must_use]
pub fn run(options: &Options) -> Report {
    let mut world = World::new(options);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let detail = text.unwrap_or_else(|| "a panic without a text".to_owned());
            Some(Checker::violation((Rule::Panic, detail), world.now, world.at_work))
        }
    };
    world.report(violation)
}
