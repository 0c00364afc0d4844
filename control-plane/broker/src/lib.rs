//! Turnpike's decisions: a bandwidth broker (RFC 2638) as a sans-IO state machine.
//!
//! The broker has no clock, no socket, no map, no thread and no randomness of its own. It is driven by
//! [`Broker::handle`] with the time as an argument and drained by [`Broker::poll`].
//!
//! **After every `handle`, call `poll` until it returns `None`, and carry the outputs out in that order.**
//! Every effect reports back as an [`Input`]; nothing is answered before the effect it depends on was confirmed.
#![forbid(unsafe_code)]
#![allow(clippy::result_large_err, reason = "a refusal is moved a few times for each request, never for each packet")]

pub mod address;
pub mod calendar;
pub mod capacity;
pub mod class;
pub mod media;
pub mod media_slots;
pub mod message;
pub mod name;
pub mod policy;
pub mod policy_state;
pub mod quality;
pub mod rate_change;
pub mod record;
pub mod refusal;
pub mod series;
pub mod time;

mod aggregate;
mod authorization;
mod booking;
mod broker;
mod config;
mod cost;
mod degrade;
mod endpoints;
mod event;
mod extension;
mod fence;
mod first_side;
mod flow;
mod label;
mod link;
mod marking;
mod notice;
mod overload;
mod planted;
mod pool;
mod preemption;
mod priority;
mod question;
mod release;
mod resources;
mod restoration;
mod schedule;
mod second_side;
mod session;
mod shares;
mod usage;
mod watch;
mod withdrawal;

pub use authorization::{Authorization, Credential, TakenToken};
pub use broker::{Broker, Table};
pub use config::{Capacity, Config, Limits, Link, Peer, SecondSide, Timers};
pub use cost::{Cost, overhead_bytes, payload_bytes_max, rate_that_fits};
pub use degrade::WhenFull;
pub use event::{AggregateRequest, Answer, FlowRequest, Input, Output, Request, SessionRequest};
pub use overload::Uncarried;
#[cfg(feature = "planted-bugs")]
#[doc(hidden)]
pub use planted::PlantedBug;
pub use priority::Priority;
pub use schedule::Schedule;
