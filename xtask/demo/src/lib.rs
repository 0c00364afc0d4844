//! Turnpike's demo: two sites, two nodes, real recorded calls, and every packet counted.
//!
//! The pieces are a library so that end-to-end tests use the same ones.
#![forbid(unsafe_code)]

pub mod calls;
pub mod certificates;
pub mod live;
pub mod media;
pub mod node;
pub mod pace;
pub mod recording;
pub mod rest;
pub mod story;
pub mod summary;
pub mod topology;
pub mod usage;
pub mod wan;

mod worker;
