//! Seeded worlds in which everything must hold.
#![allow(clippy::unwrap_used, reason = "what is not expected is a failed test")]

use std::path::Path;

use turnpike_broker::refusal::Reason;
use turnpike_simulation::{Options, Report, run};

/// What `cargo xtask test` affords; `cargo xtask simulate` runs more.
const SEEDS: u64 = 3;

fn small(seed: u64) -> Options {
    Options { nodes: 12, sessions: 300, busy_s: 120, ..Options::new(seed) }
}

#[test]
fn everything_holds_between_a_hundred_nodes() {
    let mut all = Report::default();
    for seed in 1..=SEEDS {
        println!("seed {seed}");
        all.add(run(&Options { sessions: 1_500, busy_s: 180, ..Options::new(seed) }));
    }
    assert_eq!(all.violations, [], "\n{all}");
    // The worlds are as bad as they should be.
    let (sent, lost, duplicated, reordered) = all.messages();
    assert!(lost * 100 > sent && duplicated * 100 > sent && reordered * 100 > sent, "\n{all}");
    assert!(all.admitted() > 1_000 && all.partitions > 100 && all.pauses.1 > 10 && all.hosts_lost > 10, "\n{all}");
    assert_eq!(all.crashes.len(), 9, "each kind of place where a process can die:\n{all}");
    // There is some of everything that clients may want.
    let (came_up, failed) = all.bookings;
    assert!(all.booked() > 500 && came_up * 2 > all.booked() && failed > 10, "\n{all}");
    let (waiting, offers, taken) = all.waited();
    assert!(waiting > 200 && offers > 100 && 20 < taken && taken < offers, "\n{all}");
    let (yes, no) = all.questions();
    assert!(all.ends_changed() > 100 && yes > 100 && no > 100, "\n{all}");
    assert!(all.refused(Reason::PoolRateExhausted) > 100 && all.refused(Reason::ClocksDiffer) > 10, "\n{all}");
    let (_, of_sessions, in_ledgers) = all.packets;
    assert!(of_sessions > 1_000_000 && in_ledgers * 10 > of_sessions * 9, "\n{all}");
}

#[test]
fn a_seed_is_one_history_and_another_seed_another() {
    let [first, again, other] = [7, 7, 8].map(|seed| run(&small(seed)));
    assert_eq!(first, again);
    assert_ne!(first.digest, other.digest);
}

#[test]
fn a_process_may_die_at_every_single_place() {
    // Of this world's sessions some are booked, wait, and get other ends.
    let options = Options { nodes: 3, sessions: 26, busy_s: 60, faults: false, ..Options::new(3) };
    let whole = run(&options);
    assert_eq!(whole.violations, [], "\n{whole}");
    assert!(whole.admitted() + whole.booked() > 8 && whole.crash_points > 600, "\n{whole}");
    assert!(whole.booked() > 3 && whole.waited().2 > 0 && whole.ends_changed() > 0, "\n{whole}");
    for place in 0..whole.crash_points {
        let report = run(&Options { crash_at: Some(place), ..options });
        assert_eq!(report.violations, [], "dead at place {place}\n{report}");
        assert_eq!((report.crashes.values().sum::<u64>(), report.restarts), (1, 1), "place {place}");
    }
}

/// `UPDATE_SNAPSHOTS=1 cargo test -p turnpike-simulation` writes it anew where the broker decides differently on purpose.
#[test]
fn the_table_is_the_one_that_is_kept() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots/seed-7.txt");
    let table = run(&small(7)).to_string();
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, &table).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    assert!(table == kept, "{} has\n{kept}\nand the world is\n{table}", path.display());
}
