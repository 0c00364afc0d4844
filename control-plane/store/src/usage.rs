use std::fmt;
use std::str::FromStr;

use rusqlite::{Connection, Row, params};
use turnpike_broker::name::{Epoch, NodeName, SessionId};
use turnpike_broker::record::UsageRecord;

use crate::error::StoreError;

/// A place in the ledger: behind this line. As text `<epoch>.<sequence>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsageCursor {
    /// The node's life.
    pub epoch: Epoch,
    /// The line in it.
    pub sequence: u64,
}

impl fmt::Display for UsageCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch.0, self.sequence)
    }
}

impl FromStr for UsageCursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split_once('.')
            .and_then(|(epoch, sequence)| {
                Some(Self { epoch: Epoch(epoch.parse().ok()?), sequence: sequence.parse().ok()? })
            })
            .ok_or("must be the `next` of an earlier page, such as 3.17")
    }
}

/// Some lines of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsagePage {
    /// Oldest first.
    pub records: Vec<UsageRecord>,
    /// Where to go on; none at the end.
    pub next: Option<UsageCursor>,
}

/// One line more than `limit`, to know whether there are more.
pub(crate) fn lines(
    connection: &Connection,
    node: &NodeName,
    after: Option<UsageCursor>,
    limit: u32,
    session: Option<&SessionId>,
) -> rusqlite::Result<Vec<String>> {
    // With the node, so that the primary key gives the order of writing without a sort.
    let sql = match session {
        None => {
            "SELECT json FROM usage WHERE node = ?1 AND (epoch, sequence) > (?2, ?3)
             ORDER BY epoch, sequence LIMIT ?4"
        }
        Some(_) => {
            "SELECT json FROM usage WHERE node = ?1 AND (epoch, sequence) > (?2, ?3) AND session = ?5
             ORDER BY epoch, sequence LIMIT ?4"
        }
    };
    let (epoch, sequence) = after
        .map_or((-1, -1), |cursor| (i64::from(cursor.epoch.0), i64::try_from(cursor.sequence).unwrap_or(i64::MAX)));
    let limit = i64::from(limit) + 1;
    let mut statement = connection.prepare_cached(sql)?;
    let row = |row: &Row<'_>| row.get(0);
    match session {
        None => statement.query_map(params![node.as_str(), epoch, sequence, limit], row)?.collect(),
        Some(id) => statement.query_map(params![node.as_str(), epoch, sequence, limit, id.as_str()], row)?.collect(),
    }
}

/// Makes a page of what [`lines`] found.
pub(crate) fn page(
    mut lines: Vec<String>,
    limit: u32,
    parse: impl Fn(&str) -> Result<UsageRecord, StoreError>,
) -> Result<UsagePage, StoreError> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = lines.len() > limit;
    lines.truncate(limit);
    let records = lines.iter().map(|json| parse(json)).collect::<Result<Vec<_>, _>>()?;
    let next = records.last().filter(|_| more);
    let next = next.map(|record| UsageCursor { epoch: record.epoch, sequence: record.sequence });
    Ok(UsagePage { records, next })
}
