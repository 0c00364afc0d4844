//! Shows what Turnpike does on this machine; see `story`.
#![forbid(unsafe_code)]

fn main() {}
