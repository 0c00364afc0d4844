//! The Turnpike node: `turnpike serve`, its REST API, its talk with peers, and the command line.
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate self as turnpike_node;

pub mod command;
pub mod config;
pub mod dataplane;
mod detach;
pub mod node;
pub mod payload;
pub mod serve;
pub mod time;
pub mod tls;

mod adopt;
mod authorizer;
mod body;
mod client;
mod core;
mod decision;
mod doctor;
#[cfg(feature = "engine")]
mod engine;
#[cfg(test)]
#[path = "../tests/support/fake.rs"]
mod fake;
mod flow_spec;
mod frame;
mod http;
mod link_command;
mod peer_client;
mod peer_server;
mod problem;
mod quantity;
mod query;
mod rest;
mod revocations;
mod series_command;
mod show;
mod slot_spec;
mod token;
mod view;
