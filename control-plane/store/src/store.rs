use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use turnpike_broker::TakenToken;
use turnpike_broker::capacity::LinkRecord;
use turnpike_broker::name::{Epoch, Nanos, NodeName, SessionId};
use turnpike_broker::record::{AggregateRecord, Change, SessionRecord, UsageRecord};
use turnpike_broker::series::SeriesRecord;

use crate::error::StoreError;
use crate::revocation::{self, Revocation};
use crate::schema;
use crate::usage::{self, UsageCursor, UsagePage};

/// The file, held by this process alone until it is dropped.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
    node: NodeName,
}

impl Store {
    /// Opens the file of `node`, or makes it where there is none.
    pub fn open(path: &Path, node: &NodeName) -> Result<Self, StoreError> {
        let connection = schema::open(path, node)?;
        Ok(Self { connection, path: path.to_owned(), node: node.clone() })
    }

    /// Counts one more start of the node, durably.
    pub fn begin_epoch(&mut self) -> Result<Epoch, StoreError> {
        self.write(|transaction| {
            transaction.query_row(
                "UPDATE meta SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT) WHERE key = 'epoch'
                 RETURNING CAST(value AS INTEGER)",
                [],
                |row| row.get(0).map(Epoch),
            )
        })
    }

    /// Everything that is kept, in the order of names and ids.
    pub fn load(&self) -> Result<(Vec<AggregateRecord>, Vec<SessionRecord>), StoreError> {
        let aggregates = self.records("SELECT name, json FROM aggregates ORDER BY name")?;
        let sessions = self.records("SELECT id, json FROM sessions ORDER BY id")?;
        Ok((aggregates, sessions))
    }

    /// What is said of links, in the order of their names.
    pub fn links(&self) -> Result<Vec<LinkRecord>, StoreError> {
        self.records("SELECT name, json FROM links ORDER BY name")
    }

    /// Series of bookings, in the order of their ids.
    pub fn series(&self) -> Result<Vec<SeriesRecord>, StoreError> {
        self.records("SELECT id, json FROM series ORDER BY id")
    }

    /// The tokens that are taken, in the order of issuers and ids.
    pub fn tokens(&self) -> Result<Vec<TakenToken>, StoreError> {
        self.records("SELECT issuer || ' ' || token_id, json FROM tokens ORDER BY issuer, token_id")
    }

    /// What was revoked, the earliest first.
    pub fn revocations(&self) -> Result<Vec<Revocation>, StoreError> {
        self.read(revocation::all)
    }

    /// Makes a revocation durable. False if it was there; then it stays as it is.
    pub fn revoke(&mut self, revocation: &Revocation) -> Result<bool, StoreError> {
        self.write(|transaction| revocation::put(transaction, revocation))
    }

    /// Forgets revocations of tokens that were made before.
    pub fn forget_revoked_tokens(&mut self, before: Nanos) -> Result<(), StoreError> {
        self.write(|transaction| revocation::forget_tokens(transaction, before))
    }

    /// When the ledger's last line was written, so that time does not go backwards over a restart.
    pub fn latest_usage_at(&self) -> Result<Option<Nanos>, StoreError> {
        let sql = "SELECT json FROM usage ORDER BY node DESC, epoch DESC, sequence DESC LIMIT 1";
        let json: Option<String> =
            self.read(|connection| connection.query_row(sql, [], |row| row.get(0)).optional())?;
        json.map(|json| self.parse::<UsageRecord>("usage", &json).map(|record| record.at)).transpose()
    }

    /// Makes all of these durable, or none.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.write(|transaction| changes.iter().try_for_each(|change| apply_one(transaction, change)))
    }

    /// Up to `limit` lines of the ledger, oldest first, from behind `after` on, of one session or of all.
    pub fn usage(
        &self,
        after: Option<UsageCursor>,
        limit: u32,
        session: Option<&SessionId>,
    ) -> Result<UsagePage, StoreError> {
        let lines = self.read(|connection| usage::lines(connection, &self.node, after, limit, session))?;
        usage::page(lines, limit, |json| self.parse("usage", json))
    }

    fn records<T: DeserializeOwned>(&self, sql: &str) -> Result<Vec<T>, StoreError> {
        let rows: Vec<(String, String)> = self.read(|connection| {
            connection.prepare(sql)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })?;
        rows.iter().map(|(key, json)| self.parse(key, json)).collect()
    }

    fn parse<T: DeserializeOwned>(&self, key: &str, json: &str) -> Result<T, StoreError> {
        serde_json::from_str(json).map_err(|error| StoreError::Corrupt {
            path: self.path.clone(),
            detail: format!("the record of {key} cannot be read: {error}"),
        })
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        work(&self.connection).map_err(|error| StoreError::new(&self.path, &error))
    }

    fn write<T>(&mut self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let connection = &mut self.connection;
        let run = || {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        // A closure, so that one place names the file whichever step failed.
        run().map_err(|error: rusqlite::Error| StoreError::new(&self.path, &error))
    }
}

fn apply_one(transaction: &Transaction<'_>, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::PutAggregate(record) => transaction
            .prepare_cached("INSERT OR REPLACE INTO aggregates (name, json) VALUES (?1, ?2)")?
            .execute(params![record.name.as_str(), json(record)?]),
        Change::DeleteAggregate(name) => {
            transaction.prepare_cached("DELETE FROM aggregates WHERE name = ?1")?.execute([name.as_str()])
        }
        Change::PutSession(record) => transaction
            .prepare_cached("INSERT OR REPLACE INTO sessions (id, state, json) VALUES (?1, ?2, ?3)")?
            .execute(params![record.id.as_str(), word(&record.state)?, json(record)?]),
        Change::DeleteSession(id) => {
            transaction.prepare_cached("DELETE FROM sessions WHERE id = ?1")?.execute([id.as_str()])
        }
        Change::PutLink(record) => transaction
            .prepare_cached("INSERT OR REPLACE INTO links (name, json) VALUES (?1, ?2)")?
            .execute(params![record.name.as_str(), json(record)?]),
        Change::PutSeries(record) => transaction
            .prepare_cached("INSERT OR REPLACE INTO series (id, state, json) VALUES (?1, ?2, ?3)")?
            .execute(params![record.id.as_str(), word(&record.state)?, json(record)?]),
        Change::DeleteSeries(id) => {
            transaction.prepare_cached("DELETE FROM series WHERE id = ?1")?.execute([id.as_str()])
        }
        Change::PutToken(taken) => transaction
            .prepare_cached("INSERT OR REPLACE INTO tokens (issuer, token_id, json) VALUES (?1, ?2, ?3)")?
            .execute(params![taken.issuer, taken.token_id, json(taken)?]),
        Change::DeleteToken { issuer, token_id } => transaction
            .prepare_cached("DELETE FROM tokens WHERE issuer = ?1 AND token_id = ?2")?
            .execute([issuer, token_id]),
        // Never replaced: a line that is there already is an error.
        Change::AppendUsage(record) => transaction
            .prepare_cached("INSERT INTO usage (node, epoch, sequence, session, json) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![
                record.node.as_str(),
                record.epoch.0,
                i64::try_from(record.sequence).map_err(|error| unwritable(error.into()))?,
                record.session.as_str(),
                json(record)?
            ]),
    }
    .map(drop)
}

fn json(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| unwritable(error.into()))
}

/// The plain word of a state, for people who look into the file.
fn word(value: &impl Serialize) -> rusqlite::Result<String> {
    json(value).map(|json| json.trim_matches('"').to_owned())
}

fn unwritable(error: Box<dyn std::error::Error + Send + Sync>) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(error)
}
