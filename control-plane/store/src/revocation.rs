//! What was revoked.

use rusqlite::{Connection, Transaction, params};
use turnpike_broker::name::Nanos;

/// A token or a key that was taken back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Revoked {
    /// With all that it has signed.
    Key {
        /// `k4.pid.…`
        id: String,
    },
    /// One token.
    Token {
        /// Who signed it.
        issuer: String,
        /// Its id, unique with its issuer.
        id: String,
    },
}

/// That it was, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// What.
    pub revoked: Revoked,
    /// When.
    pub at: Nanos,
}

pub(crate) fn all(connection: &Connection) -> rusqlite::Result<Vec<Revocation>> {
    let mut statement =
        connection.prepare("SELECT kind, issuer, id, at FROM revocations ORDER BY at, kind, issuer, id")?;
    let rows = statement.query_map([], |row| {
        let (kind, issuer, id, at): (String, String, String, i64) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let revoked = if kind == "key" { Revoked::Key { id } } else { Revoked::Token { issuer, id } };
        Ok(Revocation { revoked, at: Nanos(u64::try_from(at).unwrap_or_default()) })
    })?;
    rows.collect()
}

pub(crate) fn put(transaction: &Transaction<'_>, Revocation { revoked, at }: &Revocation) -> rusqlite::Result<bool> {
    let (kind, issuer, id) = match revoked {
        Revoked::Key { id } => ("key", "", id),
        Revoked::Token { issuer, id } => ("token", issuer.as_str(), id),
    };
    let at = i64::try_from(at.0).unwrap_or(i64::MAX);
    let sql = "INSERT OR IGNORE INTO revocations (kind, issuer, id, at) VALUES (?1, ?2, ?3, ?4)";
    transaction.execute(sql, params![kind, issuer, id, at]).map(|rows| rows == 1)
}

pub(crate) fn forget_tokens(transaction: &Transaction<'_>, before: Nanos) -> rusqlite::Result<()> {
    let before = i64::try_from(before.0).unwrap_or(i64::MAX);
    transaction.execute("DELETE FROM revocations WHERE kind = 'token' AND at < ?1", [before]).map(drop)
}
