//! What arrived is kept to the last figure, and what was written before there was any is read.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};
use tempfile::TempDir;
use turnpike_broker::media::Media;
use turnpike_broker::name::NodeName;
use turnpike_broker::policy::{Counters, Reception};
use turnpike_broker::quality;
use turnpike_broker::record::{Change, SessionRecord, UsageRecord};
use turnpike_store::Store;

/// As a program wrote them that knew nothing of media and reception.
const SESSION: &str = r#"{"id":"s","side":"first","peer":"b","state":"active","since":7,"flows":[{"id":"back",
    "aggregate":"ba","direction":"in","endpoints":{"source":"10.2.0.2:4000","destination":"10.1.0.2:4000"},
    "asked_rate_bps":80000,"rate_bps_min":80000,"meter":{"rate_bps":80000,"burst_bytes":1600,"packet_bytes_min":200},
    "label":4294967297,"policy":4294967299}],"usage":[],"ledger_due":false}"#;
const USAGE: &str = r#"{"node":"a","epoch":1,"sequence":1,"at":7,"kind":"final","session":"s","flows":[{"node":"a",
    "flow":"back","direction":"in","reserved_rate_bps":80000,"counters":{"offered_packets":9,"offered_bytes":1800,
    "passed_packets":9,"passed_bytes":1800,"dropped_packets":0,"dropped_bytes":0}}]}"#;

fn node() -> NodeName {
    "a".parse().unwrap()
}

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    (directory, path)
}

fn written_earlier(path: &Path) -> Store {
    drop(Store::open(path, &node()).unwrap());
    let file = Connection::open(path).unwrap();
    file.execute("INSERT INTO sessions (id, state, json) VALUES ('s', 'active', ?1)", [SESSION]).unwrap();
    let sql = "INSERT INTO usage (node, epoch, sequence, session, json) VALUES ('a', 1, 1, 's', ?1)";
    file.execute(sql, params![USAGE]).unwrap();
    drop(file);
    Store::open(path, &node()).unwrap()
}

#[test]
fn what_was_written_without_it_is_read_and_says_nothing_of_it() {
    let (_directory, path) = place();
    let store = written_earlier(&path);
    let (_, sessions) = store.load().unwrap();
    assert_eq!(sessions[0].flows[0].media, Media::default());
    let usage = &store.usage(None, 10, None).unwrap().records[0].flows[0];
    let counters = usage.counters.unwrap();
    assert_eq!((counters.passed_packets, counters.reception, usage.mos_estimated), (9, None, None));
}

#[test]
fn what_arrived_is_kept() {
    let (_directory, path) = place();
    let mut store = written_earlier(&path);
    let media = Media {
        codec: Some("PCMU".parse().unwrap()),
        clock_rate_hz: Some(8_000),
        jitter_every_packet: true,
        unconcealed: true,
    };
    let reception = Reception {
        lost_packets: u64::MAX,
        duplicated_packets: 2,
        reordered_packets: 3,
        unplaced_packets: 4,
        not_rtp_packets: 5,
        gaps: 6,
        restarts: 7,
        jitter_ns: Some(8),
    };
    let (_, mut sessions) = store.load().unwrap();
    let mut lines = store.usage(None, 10, None).unwrap().records;
    let (mut session, mut line): (SessionRecord, UsageRecord) = (sessions.remove(0), lines.remove(0));
    session.flows[0].media = media.clone();
    line.sequence = 2;
    let usage = &mut line.flows[0];
    usage.counters.as_mut().unwrap().reception = Some(reception);
    let counted = Counters {
        passed_packets: 99,
        reception: Some(Reception { lost_packets: 1, gaps: 1, ..Reception::default() }),
        ..Counters::default()
    };
    usage.mos_estimated = quality::estimate(&media, &counted);
    assert!(usage.mos_estimated.is_some());
    store.apply(&[Change::PutSession(session.clone()), Change::AppendUsage(line.clone())]).unwrap();
    drop(store);

    let store = Store::open(&path, &node()).unwrap();
    assert_eq!(store.load().unwrap().1, [session]);
    assert_eq!(store.usage(None, 10, None).unwrap().records[1], line);
}
