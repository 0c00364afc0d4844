//! The whole product on a short version of the demo: two nodes, real calls, a flood, a kill and a restart.
#![allow(missing_docs, reason = "a test")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use turnpike_demo::recording::Recording;
use turnpike_demo::story::{self, Interrupted, Options};

/// What a run makes is named after the process, so only one runs at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn options() -> Option<(Options, MutexGuard<'static, ()>)> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root for network namespaces and XDP");
        return None;
    }
    if let Err(error) = Recording::find() {
        println!("skipped: {error:#}");
        return None;
    }
    let Some(turnpike) = std::env::var_os("TURNPIKE_BIN").map(PathBuf::from) else {
        println!("skipped: TURNPIKE_BIN does not name the program turnpike");
        return None;
    };
    let options = Options {
        turnpike,
        recording: None,
        media: Duration::from_secs(12),
        aggregate_rate_bps: 520_000,
        keep: false,
        live: false,
    };
    Some((options, ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)))
}

fn assert_nothing_stays() {
    let pid = std::process::id();
    let ours = format!("tpk{pid}-");
    let namespaces = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let left: Vec<_> = namespaces.filter(|entry| entry.file_name().to_string_lossy().starts_with(&ours)).collect();
    assert!(left.is_empty(), "{left:?}");
    let scratch = std::env::temp_dir().join(format!("turnpike-demo-{pid}"));
    assert!(!scratch.exists(), "{}", scratch.display());
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    assert!(!mounts.contains(&*scratch.to_string_lossy()), "{mounts}");
}

#[test]
fn every_expectation_of_a_short_demo_holds() {
    let Some((options, _guard)) = options() else { return };
    story::check(&options).unwrap();
    let summary = story::run(&options, &AtomicBool::new(false)).unwrap();
    println!("{summary}");
    let broken: Vec<_> = summary.expectations.iter().filter(|expectation| !expectation.holds).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(summary.holds());
    let figures = &summary.figures;
    assert_eq!((figures.calls_admitted, figures.calls_refused), (6, 1));
    assert_eq!(figures.refusal_reason.as_deref(), Some("pool_rate_exhausted"));
    assert_eq!(figures.conforming_sent, figures.conforming_delivered);
    assert_eq!(figures.conforming_payload_mismatch, 0);
    assert!((figures.greedy_rate_ratio - 1.0).abs() <= 0.01, "{}", figures.greedy_rate_ratio);
    assert_eq!(figures.unadmitted_delivered_tagged, 0);
    assert!(figures.usage_exact);
    assert!(figures.delivered_while_control_plane_dead > 0);
    assert_nothing_stays();
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    let Some((options, _guard)) = options() else { return };
    let stop = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(4));
            stop.store(true, Ordering::Relaxed);
        });
        story::run(&options, &stop)
    });
    let error = outcome.expect_err("it was told to stop");
    assert!(error.is::<Interrupted>(), "{error:#}");
    assert_nothing_stays();
}

#[test]
fn a_program_that_is_no_node_is_reported_and_leaves_nothing() {
    let Some((options, _guard)) = options() else { return };
    let options = Options { turnpike: Path::new("/bin/false").to_owned(), ..options };
    let error = story::run(&options, &AtomicBool::new(false)).expect_err("/bin/false is no node");
    assert!(error.to_string().contains("ended with exit status: 1"), "{error:#}");
    assert_nothing_stays();
}
