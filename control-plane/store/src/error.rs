use std::path::{Path, PathBuf};

use turnpike_broker::name::NodeName;

/// Why the store cannot be used. Every message names the file; nothing was changed in it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be opened or made.
    #[error("cannot open {}: {detail}; check that the directory exists and that this user may write to it", path.display())]
    Unopenable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        detail: String,
    },
    /// Another process has it.
    #[error("{} is in use by another process; stop that one first", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// It is a database of another program, or no database.
    #[error("{} is not a Turnpike database ({detail}); move it away or choose another state_dir", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        detail: String,
    },
    /// It is damaged.
    #[error("{} is damaged ({detail}); restore it from a backup, or move it away to start empty; then restart its peers, too", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// A newer Turnpike wrote it.
    #[error("{} has schema {found}, this program knows up to {known}; start the newer program again", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema number.
        found: i64,
        /// The newest known here.
        known: i64,
    },
    /// It belongs to another node.
    #[error("{} belongs to node {found}, not to {expected}; check `node` and `state_dir`", path.display())]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: NodeName,
    },
    /// The linked SQLite can damage databases.
    #[error("SQLite {found} has a bug that damages databases; 3.51.3 or later is needed")]
    Library {
        /// Its version.
        found: &'static str,
    },
    /// Reading or writing failed; the transaction was rolled back.
    #[error("{}: {detail}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        detail: String,
    },
}

impl StoreError {
    /// What an error of SQLite means for the file at `path`.
    pub(crate) fn new(path: &Path, error: &rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        let (path, detail) = (path.to_owned(), error.to_string());
        match error.sqlite_error_code() {
            Some(Code::DatabaseBusy | Code::DatabaseLocked) => Self::Locked { path },
            Some(Code::NotADatabase) => Self::Foreign { path, detail },
            Some(Code::DatabaseCorrupt) => Self::Corrupt { path, detail },
            Some(Code::CannotOpen | Code::ReadOnly | Code::PermissionDenied) => Self::Unopenable { path, detail },
            _ => Self::Failed { path, detail },
        }
    }
}
