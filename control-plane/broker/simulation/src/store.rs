//! What a node keeps on disk: a transaction is there whole or not at all, and stays.

use std::collections::BTreeMap;

use turnpike_broker::capacity::LinkRecord;
use turnpike_broker::name::{AggregateName, LinkName, SessionId};
use turnpike_broker::record::{AggregateRecord, Change, SessionRecord, UsageRecord};
use turnpike_broker::series::SeriesRecord;

#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) aggregates: BTreeMap<AggregateName, AggregateRecord>,
    pub(crate) sessions: BTreeMap<SessionId, SessionRecord>,
    pub(crate) links: BTreeMap<LinkName, LinkRecord>,
    pub(crate) series: BTreeMap<SessionId, SeriesRecord>,
    pub(crate) ledger: Vec<UsageRecord>,
}

impl Store {
    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::PutAggregate(record) => drop(self.aggregates.insert(record.name.clone(), record)),
            Change::DeleteAggregate(name) => drop(self.aggregates.remove(&name)),
            Change::PutSession(record) => drop(self.sessions.insert(record.id.clone(), record)),
            Change::DeleteSession(id) => drop(self.sessions.remove(&id)),
            Change::PutLink(record) => drop(self.links.insert(record.name.clone(), record)),
            Change::PutSeries(record) => drop(self.series.insert(record.id.clone(), record)),
            Change::DeleteSeries(id) => drop(self.series.remove(&id)),
            Change::AppendUsage(line) => self.ledger.push(line),
            // No client has a token here.
            Change::PutToken(_) | Change::DeleteToken { .. } => {}
        }
    }
}
