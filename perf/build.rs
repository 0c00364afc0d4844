//! Builds the programs of the benchmarks; `object.rs` includes the object.

use std::path::Path;

#[path = "../ebpf-programs/object.rs"]
mod object;

fn main() -> anyhow::Result<()> {
    object::build(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), &["bench"])
}
