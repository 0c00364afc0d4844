//! What the store does with files: its own, and every kind of wrong one.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use tempfile::TempDir;
use turnpike_broker::name::{Epoch, Nanos, NodeName, PolicyId, SessionId};
use turnpike_broker::policy::Counters;
use turnpike_broker::record::{
    AggregateRecord, AggregateState, Change, Direction, FlowUsage, SessionRecord, SessionState, Side, UsageKind,
    UsageRecord,
};
use turnpike_store::{Store, StoreError, UsageCursor};

fn node() -> NodeName {
    "a".parse().unwrap()
}

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    (directory, path)
}

fn open(path: &Path) -> Store {
    Store::open(path, &node()).unwrap()
}

fn refused(path: &Path) -> StoreError {
    let before = fs::read(path).ok();
    let error = Store::open(path, &node()).unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error} does not name the file");
    assert_eq!(fs::read(path).ok(), before, "a refused file was changed");
    error
}

fn aggregate(name: &str) -> AggregateRecord {
    AggregateRecord {
        name: name.parse().unwrap(),
        peer: "b".parse().unwrap(),
        direction: Direction::Out,
        rate_bps: 1_000_000,
        burst_bytes: 64_000,
        dscp: 46,
        policy: PolicyId(1),
        state: AggregateState::Active,
    }
}

fn session(id: &str, state: SessionState) -> SessionRecord {
    let peer = "b".parse().unwrap();
    SessionRecord {
        id: id.parse().unwrap(),
        side: Side::First,
        peer,
        state,
        since: Nanos(7),
        flows: vec![],
        usage: vec![],
        ledger_due: false,
    }
}

fn usage(epoch: u32, sequence: u64, session: &str) -> UsageRecord {
    let counters = Counters { offered_packets: u64::MAX, ..Counters::default() };
    let flow = FlowUsage {
        node: node(),
        flow: "f".parse().unwrap(),
        direction: Direction::Out,
        reserved_rate_bps: 80_000,
        counters,
        mos_estimated: None,
    };
    UsageRecord {
        node: node(),
        epoch: Epoch(epoch),
        sequence,
        at: Nanos(u64::from(epoch) * 1_000 + sequence),
        kind: UsageKind::Final,
        session: session.parse().unwrap(),
        flows: vec![flow],
    }
}

#[test]
fn what_was_applied_is_there_after_reopening() {
    let (_directory, path) = place();
    let mut store = open(&path);
    assert_eq!(store.begin_epoch().unwrap(), Epoch(1));
    let changes = [
        Change::PutAggregate(aggregate("b2")),
        Change::PutAggregate(aggregate("a1")),
        Change::PutAggregate(aggregate("gone")),
        Change::DeleteAggregate("gone".parse().unwrap()),
        Change::PutSession(session("s", SessionState::Held)),
        Change::PutSession(session("s", SessionState::Active)),
        Change::PutSession(session("gone", SessionState::Active)),
        Change::DeleteSession("gone".parse().unwrap()),
        Change::AppendUsage(usage(1, 1, "s")),
    ];
    store.apply(&changes).unwrap();
    drop(store);

    let mut store = open(&path);
    assert_eq!(store.begin_epoch().unwrap(), Epoch(2));
    let (aggregates, sessions) = store.load().unwrap();
    assert_eq!(aggregates, [aggregate("a1"), aggregate("b2")]);
    assert_eq!(sessions, [session("s", SessionState::Active)]);
    assert_eq!(store.usage(None, 10, None).unwrap().records, [usage(1, 1, "s")]);
    assert_eq!(store.latest_usage_at().unwrap(), Some(Nanos(1_001)));
}

#[test]
fn a_failing_change_undoes_its_whole_transaction() {
    let (_directory, path) = place();
    let mut store = open(&path);
    store.apply(&[Change::AppendUsage(usage(1, 1, "s"))]).unwrap();
    let again = [Change::PutAggregate(aggregate("a1")), Change::AppendUsage(usage(1, 1, "s"))];
    assert!(matches!(store.apply(&again), Err(StoreError::Failed { .. })));
    assert_eq!(store.load().unwrap().0, []);
}

#[test]
fn usage_is_paged_in_the_order_of_writing() {
    let (_directory, path) = place();
    let mut store = open(&path);
    assert_eq!(store.latest_usage_at().unwrap(), None);
    let lines: Vec<_> = [(1, 1, "x"), (1, 2, "y"), (1, 10, "x"), (2, 1, "x"), (10, 1, "y")]
        .map(|(epoch, sequence, session)| usage(epoch, sequence, session))
        .into();
    store.apply(&lines.iter().cloned().map(Change::AppendUsage).collect::<Vec<_>>()).unwrap();

    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store.usage(after, 2, None).unwrap();
        seen.extend(page.records);
        let Some(next) = page.next else { break };
        // As a client would give it back.
        after = Some(next.to_string().parse::<UsageCursor>().unwrap());
    }
    assert_eq!(seen, lines);

    let id: SessionId = "x".parse().unwrap();
    let page = store.usage(None, 3, Some(&id)).unwrap();
    assert_eq!(page.records.len(), 3);
    assert!(page.records.iter().all(|record| record.session == id));
    assert_eq!(page.next, None, "exactly full is the end");
    assert!("7".parse::<UsageCursor>().is_err());
    assert!("7.x".parse::<UsageCursor>().is_err());
}

#[test]
fn a_second_opener_is_refused() {
    let (_directory, path) = place();
    let store = open(&path);
    let error = Store::open(&path, &node()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    drop(store);
    open(&path);
}

#[test]
fn another_nodes_file_is_refused() {
    let (_directory, path) = place();
    drop(open(&path));
    let error = Store::open(&path, &"b".parse().unwrap()).unwrap_err();
    assert!(matches!(error, StoreError::OtherNode { ref found, .. } if found == "a"), "{error}");
}

#[test]
fn foreign_files_are_refused_and_left_alone() {
    let (_directory, path) = place();
    fs::write(&path, "node = \"a\"\n".repeat(100)).unwrap();
    let error = refused(&path);
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");

    fs::remove_file(&path).unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let error = refused(&path);
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let (_directory, path) = place();
    drop(open(&path));
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 2).unwrap();
    let error = refused(&path);
    assert!(matches!(error, StoreError::Newer { found: 2, known: 1, .. }), "{error}");
}

#[test]
fn a_damaged_file_is_refused_and_left_alone() {
    let (_directory, path) = place();
    let mut store = open(&path);
    let many: Vec<_> = (0..200).map(|n| Change::PutAggregate(aggregate(&format!("a{n}")))).collect();
    store.apply(&many).unwrap();
    drop(store);

    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 5_000].fill(0xff);
    fs::write(&path, &bytes).unwrap();
    let error = refused(&path);
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
}

#[test]
fn a_record_that_cannot_be_read_is_an_error_that_names_it() {
    let (_directory, path) = place();
    let mut store = open(&path);
    store.apply(&[Change::PutAggregate(aggregate("a1"))]).unwrap();
    drop(store);
    Connection::open(&path).unwrap().execute_batch("UPDATE aggregates SET json = '{}'").unwrap();
    let error = open(&path).load().unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { ref detail, .. } if detail.contains("a1")), "{error}");
}

#[test]
fn places_that_cannot_be_written_are_refused() {
    let (directory, _) = place();
    for path in [directory.path().to_owned(), directory.path().join("none/a.db"), "/proc/self/a.db".into()] {
        let error = Store::open(&path, &node()).unwrap_err();
        assert!(matches!(error, StoreError::Unopenable { .. }), "{error:?}");
    }
}
