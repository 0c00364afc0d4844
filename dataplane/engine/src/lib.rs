//! Runs Turnpike's packet logic on Linux: loads and pins the programs and owns the maps.
//!
//! [`Engine::start`] loads or takes over what is pinned; [`Engine::install`] puts policies in force and reads them back;
//! [`Engine::change`] changes what one may send; [`Engine::deinstall`] takes them out and returns the final counters. What was installed outlives the process.
#![deny(unsafe_code)]

#[cfg(test)]
extern crate self as turnpike_engine;

mod adopt;
mod best_effort;
mod change;
mod clock;
mod config;
pub mod doctor;
mod engine;
mod error;
mod flow;
mod flow_table;
mod generation;
mod layout;
#[allow(unsafe_code, reason = "maps kernel memory")]
mod map;
mod migrate;
mod monitor;
mod netlink;
mod next_hop;
mod observe;
pub mod policy;
mod ports;
mod program;
pub mod reception;
mod recovery;
mod settle;
mod snapshot;
mod start;
mod status;
mod survey;
#[allow(unsafe_code, reason = "system calls")]
mod sys;
mod table;
mod terminal;
#[cfg(test)]
mod tests;
pub mod trial;

pub use config::{DSCP_UNCHANGED, EngineConfig, Fragments, Unadmitted, XdpMode};
pub use engine::Engine;
pub use error::EngineError;
pub use program::{PassProgram, attach_pass};
pub use status::{InterfaceStatus, Status, TableStatus, VerdictStatus};
pub use survey::{LinkSurvey, PolicySurvey, Survey, Takeover};
