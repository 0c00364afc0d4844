//! Turnpike's decisions: a bandwidth broker (RFC 2638) as a sans-IO state machine.
//!
//! The broker has no clock, no socket, no map, no thread and no randomness of its own. It is driven by
//! [`Broker::handle`] with the time as an argument and drained by [`Broker::poll`].
//!
//! **After every `handle`, call `poll` until it returns `None`, and carry the outputs out in that order.**
//! Every effect reports back as an [`Input`]; nothing is answered before the effect it depends on was confirmed.
#![forbid(unsafe_code)]

pub mod message;
pub mod name;
pub mod policy;
pub mod record;
pub mod refusal;

mod event;

pub use event::{AggregateRequest, Answer, FlowRequest, Input, Output, Request, SessionRequest};
