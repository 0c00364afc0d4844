//! Tests that have to see inside.

mod adopt;
pub(crate) mod migrate;
mod object;

#[path = "../tests/host/mod.rs"]
mod host;
#[path = "../../fastpath/tests/world/mod.rs"]
mod world;
