//! Opening a file: what must be true of it before anything is written to it.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use turnpike_broker::name::NodeName;

use crate::error::StoreError;

/// "TPKE": the mark of our files in SQLite's header.
pub(crate) const APPLICATION_ID: i64 = 0x5450_4b45;
/// The schema below. A change to it, or to what the JSON in it means, takes the next number and a migration.
pub(crate) const VERSION: i64 = 7;
/// 3.7.0 to 3.51.2 can damage a database in WAL mode.
const LIBRARY_VERSION_MIN: i32 = 3_051_003;
/// Long enough for a process that is just ending.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

const TABLES: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE aggregates (name TEXT PRIMARY KEY, json TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE links (name TEXT PRIMARY KEY, json TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE series (id TEXT PRIMARY KEY, state TEXT NOT NULL, json TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE sessions (id TEXT PRIMARY KEY, state TEXT NOT NULL, json TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE usage (
    node TEXT NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
    session TEXT NOT NULL, json TEXT NOT NULL,
    PRIMARY KEY (node, epoch, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_by_session ON usage (session, node, epoch, sequence);
";

/// Tokens that are taken, and what was revoked; a key's revocation has no issuer.
const TOKEN_TABLES: &str = "
CREATE TABLE tokens (
    issuer TEXT NOT NULL, token_id TEXT NOT NULL, json TEXT NOT NULL,
    PRIMARY KEY (issuer, token_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE revocations (
    kind TEXT NOT NULL, issuer TEXT NOT NULL, id TEXT NOT NULL, at INTEGER NOT NULL,
    PRIMARY KEY (kind, issuer, id)
) STRICT, WITHOUT ROWID;
";

/// What makes of the schema with a number the next one, 1 first.
const MIGRATIONS: [&str; 6] = [
    // An aggregate had one DSCP, which was set. Everything else that is new may be absent.
    "UPDATE aggregates SET json = json_remove(
        json_set(json, '$.marking', json_object(
            'dscp', json_object('set', json_extract(json, '$.dscp')), 'excess_dscp', NULL, 'deliver_dscp', 'copy')),
        '$.dscp')",
    // Sessions got a start and an end, which may be absent, and bookings, which an earlier program would not know.
    "",
    // Sessions may wait for room, which an earlier program would not know.
    "",
    // Tokens, which an earlier program would take again.
    TOKEN_TABLES,
    // What is said of links' rates, and series. Sessions may hold media slots, which an earlier program would not know.
    "CREATE TABLE links (name TEXT PRIMARY KEY, json TEXT NOT NULL) STRICT, WITHOUT ROWID;
     CREATE TABLE series (id TEXT PRIMARY KEY, state TEXT NOT NULL, json TEXT NOT NULL) STRICT, WITHOUT ROWID",
    // Sessions got priorities, and aggregates what becomes of flows that do not fit, which an earlier program would not know.
    "",
];

/// Opens or makes the file for `node`, checks it whole, and takes it for this process alone.
pub(crate) fn open(path: &Path, node: &NodeName) -> Result<Connection, StoreError> {
    if rusqlite::version_number() < LIBRARY_VERSION_MIN {
        return Err(StoreError::Library { found: rusqlite::version() });
    }
    let failed = |error: rusqlite::Error| StoreError::new(path, &error);
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        // SQLite would make it for everybody to read. The files that it puts beside it are for whom this one is.
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(StoreError::Unopenable { path: path.to_owned(), detail: error.to_string() }),
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    // Before the first access, so that the lock is ours from the first read on until the process ends.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(failed)?;
    // Journal mode is written to the file: look whose it is before.
    let version = version(&connection, path)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    connection.pragma_update(None, "foreign_keys", "ON").map_err(failed)?;

    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    if let Some(version) = version {
        let found: String = transaction
            .query_row("SELECT value FROM meta WHERE key = 'node'", [], |row| row.get(0))
            .map_err(|error| corrupt(path, format!("no node name: {error}")))?;
        if found != node.as_str() {
            return Err(StoreError::OtherNode { path: path.to_owned(), found, expected: node.clone() });
        }
        for (migration, _) in MIGRATIONS.iter().zip(1..).filter(|(_, number)| *number >= version) {
            transaction.execute_batch(migration).map_err(failed)?;
        }
    } else {
        transaction.execute_batch(TABLES).map_err(failed)?;
        transaction.execute_batch(TOKEN_TABLES).map_err(failed)?;
        let meta = "INSERT INTO meta (key, value) VALUES ('node', ?1), ('epoch', '0')";
        transaction.execute(meta, [node.as_str()]).map_err(failed)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
    }
    if version != Some(VERSION) {
        transaction.pragma_update(None, "user_version", VERSION).map_err(failed)?;
    }
    transaction.commit().map_err(failed)?;
    Ok(connection)
}

/// The number of the file's schema, `None` if there is nothing in it yet; an error if what is in it is not ours, not whole or not known.
fn version(connection: &Connection, path: &Path) -> Result<Option<i64>, StoreError> {
    let failed = |error: rusqlite::Error| StoreError::new(path, &error);
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(failed);
    let (application, version) = (number("application_id")?, number("user_version")?);
    let objects: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    if application == 0 && version == 0 && objects == 0 {
        return Ok(None);
    }
    if application != APPLICATION_ID {
        let detail = format!("its application id is {application:#x}");
        return Err(StoreError::Foreign { path: path.to_owned(), detail });
    }
    if version > VERSION {
        return Err(StoreError::Newer { path: path.to_owned(), found: version, known: VERSION });
    }
    if version < 1 {
        return Err(corrupt(path, format!("schema number {version}")));
    }
    let check: String = connection.pragma_query_value(None, "quick_check", |row| row.get(0)).map_err(failed)?;
    if check == "ok" { Ok(Some(version)) } else { Err(corrupt(path, check)) }
}

fn corrupt(path: &Path, detail: String) -> StoreError {
    StoreError::Corrupt { path: path.to_owned(), detail }
}
