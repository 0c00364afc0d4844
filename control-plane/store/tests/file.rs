//! What the store does with files: its own, and every kind of wrong one.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use tempfile::TempDir;
use turnpike_broker::capacity::{CapacityChange, LinkRecord};
use turnpike_broker::class::{Class, NamedClass, Quality};
use turnpike_broker::media::Media;
use turnpike_broker::media_slots::MediaSlots;
use turnpike_broker::name::{Epoch, Label, Nanos, NodeName, PolicyId, SessionId};
use turnpike_broker::policy::{Counters, Dscp, Endpoints, Excess, Marking, Meter, Rtcp, Tag};
use turnpike_broker::rate_change::{FlowChange, FlowRates, RateChange, RateStage};
use turnpike_broker::record::{
    AggregateRecord, AggregateState, Change, Direction, FlowRecord, FlowUsage, SessionRecord, SessionState, Side,
    UsageKind, UsageRecord, Wait,
};
use turnpike_broker::refusal::{Reason, Refusal};
use turnpike_broker::series::{SeriesRecord, SeriesState};
use turnpike_broker::{Authorization, FlowRequest, Priority, Schedule, TakenToken, WhenFull};
use turnpike_store::{Revocation, Revoked, Store, StoreError, UsageCursor};

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
        marking: Marking { dscp: Dscp::Set(46), excess_dscp: None, deliver_dscp: Dscp::Copy },
        class: None,
        tag: Tag::Label,
        when_full: WhenFull::Degrade,
        emergency_percent: 20,
        policy: PolicyId(1),
        label: None,
        terminals_policy: None,
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
        schedule: Schedule::OPEN,
        priority: Priority { setup: 1, holding: 2, emergency: true },
        booked: false,
        failure: None,
        since: Nanos(7),
        flows: vec![],
        usage: vec![],
        ledger_due: false,
        media_slots: MediaSlots::default(),
        wait: None,
        rate_change: None,
        rate_change_done: 0,
        attempt: 0,
        authorization: None,
        token: None,
    }
}

fn usage(epoch: u32, sequence: u64, session: &str) -> UsageRecord {
    let counters = Counters { offered_packets: u64::MAX, ..Counters::default() };
    let flow = FlowUsage {
        node: node(),
        flow: "f".parse().unwrap(),
        direction: Direction::Out,
        reserved_rate_bps: 80_000,
        counters: Some(counters),
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
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 8).unwrap();
    let error = refused(&path);
    assert!(matches!(error, StoreError::Newer { found: 8, known: 7, .. }), "{error}");
}

/// What the program with schema 1 wrote.
fn earlier(path: &Path) {
    Connection::open(path).unwrap().execute_batch(include_str!("schema_1.sql")).unwrap();
}

#[test]
fn what_an_earlier_program_kept_is_all_there() {
    let (_directory, path) = place();
    earlier(&path);
    let mut store = open(&path);
    let (aggregates, sessions) = store.load().unwrap();
    let marking = |dscp| Marking { dscp: Dscp::Set(dscp), excess_dscp: None, deliver_dscp: Dscp::Copy };
    let kept: Vec<_> =
        aggregates.iter().map(|record| (record.name.as_str(), record.rate_bps, record.marking)).collect();
    assert_eq!(kept, [("a-to-b", 1_000_000, marking(46)), ("b-to-a", 2_000_000, marking(0))]);
    let states: Vec<_> = sessions.iter().map(|record| (record.id.as_str(), record.state)).collect();
    assert_eq!(states, [("active", SessionState::Active), ("ended", SessionState::Ended)]);
    let there = &sessions[0].flows[0];
    assert_eq!((there.rtcp, there.asked_excess, there.meter.excess), (Rtcp::SamePort, None, None));
    assert_eq!((there.endpoints.source.to_string().as_str(), there.meter.rate_bps), ("10.1.0.10:4000", 80_000));
    let lines = store.usage(None, 10, None).unwrap().records;
    let counters = lines[1].flows[1].counters.unwrap();
    assert_eq!((lines.len(), counters.passed_packets, counters.excess_packets), (2, 9, 0));
    assert_eq!((&there.media, counters.reception, lines[1].flows[1].mos_estimated), (&Media::default(), None, None));
    assert_eq!(store.begin_epoch().unwrap(), Epoch(3));

    // Once only, and the program that wrote it does not take the file for its own any more.
    drop(store);
    assert_eq!(open(&path).load().unwrap(), (aggregates, sessions));
    let version = |connection: Connection| connection.pragma_query_value(None, "user_version", |row| row.get(0));
    assert_eq!(version(Connection::open(&path).unwrap()), Ok(7));
}

#[test]
fn sessions_that_knew_no_time_are_from_now_on_without_end() {
    let (_directory, path) = place();
    Connection::open(&path).unwrap().execute_batch(include_str!("schema_2.sql")).unwrap();
    let mut store = open(&path);
    let (aggregates, sessions) = store.load().unwrap();
    assert_eq!(aggregates.iter().map(|record| record.tag).collect::<Vec<_>>(), [Tag::Label, Tag::Terminals]);
    let kept: Vec<_> = sessions.iter().map(|record| (record.id.as_str(), record.state, record.schedule)).collect();
    assert_eq!(
        kept,
        [("active", SessionState::Active, Schedule::OPEN), ("ended", SessionState::Ended, Schedule::OPEN)]
    );
    assert!(sessions.iter().all(|record| !record.booked && record.failure.is_none()));
    assert_eq!((store.begin_epoch().unwrap(), store.usage(None, 10, None).unwrap().records.len()), (Epoch(3), 2));
    drop(store);
    assert_eq!(open(&path).load().unwrap(), (aggregates, sessions));
}

#[test]
fn sessions_of_a_program_that_knew_no_waiting_do_not_wait() {
    let (_directory, path) = place();
    Connection::open(&path).unwrap().execute_batch(include_str!("schema_3.sql")).unwrap();
    let store = open(&path);
    let (_, sessions) = store.load().unwrap();
    let kept: Vec<_> = sessions.iter().map(|record| (record.id.as_str(), record.state, record.booked)).collect();
    let expected = [
        ("active", SessionState::Active, false),
        ("booked", SessionState::Booked, true),
        ("ended", SessionState::Ended, false),
    ];
    assert_eq!(kept, expected);
    assert!(sessions.iter().all(|record| record.wait.is_none()));
    drop(store);
    assert_eq!(open(&path).load().unwrap().1, sessions);
    let connection = Connection::open(&path).unwrap();
    assert_eq!(connection.pragma_query_value(None, "user_version", |row| row.get(0)), Ok(7));
}

#[test]
fn what_is_said_of_a_link_is_kept_as_it_is_and_an_earlier_program_knew_none() {
    let (_directory, path) = place();
    Connection::open(&path).unwrap().execute_batch(include_str!("schema_3.sql")).unwrap();
    let mut store = open(&path);
    assert_eq!(store.links().unwrap(), []);
    let change = CapacityChange {
        direction: Direction::In,
        rate_bps: 7,
        from: Nanos(1),
        until: Some(Nanos(u64::MAX - 1)),
        configured_bps: 9,
    };
    let record = |changes| LinkRecord { name: "wan".parse().unwrap(), changes };
    store.apply(&[Change::PutLink(record(vec![]))]).unwrap();
    let kept = record(vec![change, CapacityChange { until: None, ..change }]);
    store.apply(&[Change::PutLink(kept.clone())]).unwrap();
    drop(store);
    assert_eq!(open(&path).links().unwrap(), [kept]);
}

#[test]
fn a_program_that_knew_no_tokens_has_taken_and_revoked_none() {
    let (_directory, path) = place();
    Connection::open(&path).unwrap().execute_batch(include_str!("schema_4.sql")).unwrap();
    let mut store = open(&path);
    let (_, sessions) = store.load().unwrap();
    let kept: Vec<_> = sessions.iter().map(|record| (record.id.as_str(), record.wait.is_some())).collect();
    assert_eq!(kept, [("active", false), ("booked", false), ("ended", false), ("waits", true)]);
    assert!(sessions.iter().all(|record| record.authorization.is_none() && record.token.is_none()));
    assert!(sessions.iter().all(|record| record.priority == Priority::LOWEST));
    assert_eq!((store.tokens().unwrap(), store.revocations().unwrap()), (vec![], vec![]));
    store.apply(&[Change::PutToken(taken("t"))]).unwrap();
    drop(store);
    let store = open(&path);
    assert_eq!((store.load().unwrap().1, store.tokens().unwrap()), (sessions, vec![taken("t")]));
}

fn taken(token_id: &str) -> TakenToken {
    let (issuer, session) = ("billing".to_owned(), "s".parse().unwrap());
    TakenToken { issuer, token_id: token_id.to_owned(), session, expires_at: Nanos(u64::MAX - 1), used: false }
}

#[test]
fn tokens_are_kept_with_their_sessions_or_not_at_all() {
    let (_directory, path) = place();
    let mut store = open(&path);
    let found = Authorization {
        issuer: "billing".to_owned(),
        token_id: "t".to_owned(),
        key_id: "k4.pid.x".to_owned(),
        expires_at: Nanos(9),
        rates_bps_max: vec![88_000],
    };
    let record = SessionRecord {
        authorization: Some(Box::new(found)),
        token: Some("v4.public.x".to_owned()),
        ..session("s", SessionState::Waiting)
    };
    let used = TakenToken { used: true, ..taken("t") };
    let of_another_issuer = TakenToken { issuer: "other".to_owned(), ..taken("t") };
    store
        .apply(&[
            Change::PutToken(taken("t")),
            Change::PutSession(record.clone()),
            Change::PutToken(of_another_issuer.clone()),
            Change::PutToken(used.clone()),
            Change::PutToken(taken("gone")),
            Change::DeleteToken { issuer: "billing".to_owned(), token_id: "gone".to_owned() },
        ])
        .unwrap();
    store.apply(&[Change::AppendUsage(usage(1, 1, "s"))]).unwrap();
    assert!(store.apply(&[Change::PutToken(taken("lost")), Change::AppendUsage(usage(1, 1, "s"))]).is_err());
    drop(store);
    let store = open(&path);
    assert_eq!((store.load().unwrap().1, store.tokens().unwrap()), (vec![record], vec![used, of_another_issuer]));
}

#[test]
fn what_was_revoked_stays_so_and_tokens_are_forgotten_in_time() {
    let (_directory, path) = place();
    let key = Revocation { revoked: Revoked::Key { id: "k4.pid.x".to_owned() }, at: Nanos(1) };
    let token = |id: &str, at| Revocation {
        revoked: Revoked::Token { issuer: "billing".to_owned(), id: id.to_owned() },
        at: Nanos(at),
    };
    let mut store = open(&path);
    for revocation in [token("late", 3), token("early", 2), key.clone()] {
        assert!(store.revoke(&revocation).unwrap());
    }
    assert!(!store.revoke(&token("late", 9)).unwrap(), "it was there");
    drop(store);
    let mut store = open(&path);
    assert_eq!(store.revocations().unwrap(), [key.clone(), token("early", 2), token("late", 3)]);
    store.forget_revoked_tokens(Nanos(3)).unwrap();
    drop(store);
    assert_eq!(open(&path).revocations().unwrap(), [key, token("late", 3)]);
}

#[test]
fn one_that_waits_is_kept_as_it_is() {
    let (_directory, path) = place();
    let wait = Wait { until: Nanos(9), number: 7, passed: 3, failures: 1, offered_until: Some(Nanos(8)) };
    for state in [SessionState::Waiting, SessionState::Offered] {
        let record = SessionRecord { wait: Some(wait), ..session("s", state) };
        open(&path).apply(&[Change::PutSession(record.clone())]).unwrap();
        assert_eq!(open(&path).load().unwrap().1, [record]);
    }
}

#[test]
fn a_series_is_kept_as_it_is_until_it_is_forgotten() {
    let (_directory, path) = place();
    let first = Schedule { starts_at: Some(Nanos(7)), ends_at: Some(Nanos(9)) };
    let flow = FlowRequest {
        id: "f".parse().unwrap(),
        aggregate: "ab".parse().unwrap(),
        endpoints: Endpoints { source: "10.1.0.2:4".parse().unwrap(), destination: "10.2.0.2:4".parse().unwrap() },
        rtcp: Rtcp::SamePort,
        meter: Meter { rate_bps: 1, burst_bytes: 200, packet_bytes_min: 200, excess: None },
        rate_bps_min: 1,
        quality: Quality::default(),
        media: Media::default(),
    };
    let record = |state| SeriesRecord {
        priority: Priority { setup: 1, holding: 2, emergency: false },
        id: "w".parse().unwrap(),
        state,
        first,
        period: Nanos(u64::MAX - 9),
        count: 1,
        media_slots: MediaSlots::default(),
        flows: vec![flow.clone()],
    };
    for state in [SeriesState::Booking, SeriesState::Booked, SeriesState::Undoing] {
        open(&path).apply(&[Change::PutSeries(record(state))]).unwrap();
        assert_eq!(open(&path).series().unwrap(), [record(state)]);
    }
    open(&path).apply(&[Change::DeleteSeries("w".parse().unwrap())]).unwrap();
    assert_eq!(open(&path).series().unwrap(), []);
}

#[test]
fn media_slots_are_kept_as_they_are() {
    let (_directory, path) = place();
    let counts = |name: &str, count| [(name.parse().unwrap(), count)].into();
    let media_slots = MediaSlots { first: counts("transcoding", 2), second: counts("mixing", u32::MAX) };
    let record = SessionRecord { media_slots, ..session("s", SessionState::Active) };
    open(&path).apply(&[Change::PutSession(record.clone())]).unwrap();
    assert_eq!(open(&path).load().unwrap().1, [record]);
}

#[test]
fn a_booking_is_kept_as_it_is() {
    let (_directory, path) = place();
    let schedule = Schedule { starts_at: Some(Nanos(7)), ends_at: Some(Nanos(u64::MAX - 1)) };
    let failure = Some(Box::new(Refusal::new(Reason::PeerUnreachable, "not yet")));
    let record = SessionRecord { schedule, booked: true, failure, ..session("s", SessionState::Booked) };
    open(&path).apply(&[Change::PutSession(record.clone())]).unwrap();
    assert_eq!(open(&path).load().unwrap().1, [record]);
    let sql = "SELECT state FROM sessions";
    let state: String = Connection::open(&path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(state, "booked");
}

#[test]
fn another_nodes_earlier_file_is_not_brought_up() {
    let (_directory, path) = place();
    earlier(&path);
    assert!(matches!(Store::open(&path, &"b".parse().unwrap()), Err(StoreError::OtherNode { .. })));
    let sql = "SELECT json FROM aggregates WHERE name = 'a-to-b'";
    let json: String = Connection::open(&path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap();
    assert!(json.contains(r#""dscp":46"#), "{json}");
}

#[test]
fn tags_that_tell_terminals_are_kept_and_so_is_that_nothing_was_counted() {
    let (_directory, path) = place();
    let mut store = open(&path);
    let with_terminals = AggregateRecord {
        direction: Direction::In,
        tag: Tag::Terminals,
        label: Some(Label(0x12345_00007)),
        terminals_policy: Some(PolicyId(9)),
        ..aggregate("a1")
    };
    let mut line = usage(1, 1, "s");
    line.flows[0].counters = None;
    store.apply(&[Change::PutAggregate(with_terminals.clone()), Change::AppendUsage(line.clone())]).unwrap();
    drop(store);
    let store = open(&path);
    assert_eq!(store.load().unwrap().0, [with_terminals]);
    assert_eq!(store.usage(None, 10, None).unwrap().records, [line]);
}

#[test]
fn addresses_are_kept_in_their_one_canonical_form() {
    let (_directory, path) = place();
    let mut store = open(&path);
    let flow = FlowRecord {
        id: "f".parse().unwrap(),
        aggregate: "a1".parse().unwrap(),
        direction: Direction::Out,
        endpoints: Endpoints {
            source: "[2001:0DB8:0:0:0:0:0:0001]:5004".parse().unwrap(),
            destination: "[2001:db8:1:0:0:2:0:0]:5004".parse().unwrap(),
        },
        rtcp: Rtcp::NextPort,
        asked_rate_bps: 80_000,
        asked_excess: Some(Excess { rate_bps: 20_000, burst_bytes: 600 }),
        rate_bps_min: 80_000,
        meter: Meter { rate_bps: 80_000, burst_bytes: 1_600, packet_bytes_min: 200, excess: None },
        label: None,
        policy: PolicyId(2),
        emergency: true,
        tag: Tag::Label,
        media: Media::default(),
        asked_quality: Quality::default(),
        quality: Quality::default(),
    };
    let record = SessionRecord { flows: vec![flow], ..session("s", SessionState::Active) };
    store.apply(&[Change::PutSession(record.clone())]).unwrap();
    drop(store);
    // RFC 5952.
    let sql =
        "SELECT json ->> '$.flows[0].endpoints.source', json ->> '$.flows[0].endpoints.destination' FROM sessions";
    let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?));
    let texts = Connection::open(&path).unwrap().query_row(sql, [], row).unwrap();
    assert_eq!(texts, ("[2001:db8::1]:5004".to_owned(), "[2001:db8:1::2:0:0]:5004".to_owned()));
    assert_eq!(open(&path).load().unwrap().1, [record]);
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

#[test]
fn a_class_a_quality_and_a_change_that_is_under_way_are_kept() {
    let (_directory, path) = place();
    let mut store = open(&path);
    let name: turnpike_broker::name::ClassName = "telephony".parse().unwrap();
    let class = NamedClass { class: Class::of_rfc_4594()[&name].clone(), name };
    let aggregate = AggregateRecord { class: Some(class), ..aggregate("a1") };
    let rates = |rate_bps| FlowRates { rate_bps, burst_bytes: 400, asked_rate_bps: rate_bps, rate_bps_min: rate_bps };
    let flow = FlowChange { id: "f".parse().unwrap(), before: rates(1_000), after: rates(2_000) };
    let change = RateChange { number: 7, stage: RateStage::Committing, flows: vec![flow] };
    let session =
        SessionRecord { rate_change: Some(change), rate_change_done: 6, ..session("s", SessionState::Active) };
    let line = UsageRecord { kind: UsageKind::Change, ..usage(1, 1, "s") };
    let changes = [
        Change::PutAggregate(aggregate.clone()),
        Change::PutSession(session.clone()),
        Change::AppendUsage(line.clone()),
    ];
    store.apply(&changes).unwrap();
    drop(store);
    let store = open(&path);
    assert_eq!(store.load().unwrap(), (vec![aggregate], vec![session]));
    assert_eq!(store.usage(None, 10, None).unwrap().records, [line]);
}
