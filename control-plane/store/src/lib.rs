//! What a node keeps on disk: its aggregates, its sessions with their tokens, and the ledger of their use, in one SQLite file.
//!
//! One process, one writer. Everything that a decision changes is one transaction, on disk before it returns
//! (`synchronous=FULL`). A file that is not ours, not whole, or of a newer program is refused and left as it is.
#![forbid(unsafe_code)]

mod error;
mod revocation;
mod schema;
mod store;
mod usage;

pub use error::StoreError;
pub use revocation::{Revocation, Revoked};
pub use store::Store;
pub use usage::{UsageCursor, UsagePage};
