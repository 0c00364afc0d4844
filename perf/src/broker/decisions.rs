//! Decisions as such: what a pool says to a request, and what it keeps of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::rc::Rc;

use turnpike_broker::Cost;
use turnpike_broker::calendar::{Calendar, Interval};
use turnpike_broker::name::Nanos;

use super::{Row, each};

/// Operations of a row in a round, of which there are not more than a fifth of the live sessions: they are live too until the row ends.
const BATCH_MAX: u32 = 2_000;
const SECOND: u64 = 1_000_000_000;
/// Sessions that have an end, end within the hour.
const HOUR: u64 = 3_600 * SECOND;
/// Bookings start within thirty days.
const MONTH: u64 = 720 * HOUR;
const BOOKINGS_MAX: u32 = 10_000;
const CAPACITY: u64 = 1 << 60;
const CALL: Cost = Cost { rate_bps: 100_000, burst_bytes: 400 };

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A pool of which every second live session has no end, and the others do.
fn pool(live: u32, random: &mut Random) -> Calendar {
    let mut pool = Calendar::new(Cost { rate_bps: CAPACITY, burst_bytes: CAPACITY });
    let mut take = |start: u64, end: Option<u64>| {
        let interval = match end {
            Some(end) => Interval::new(Nanos(start), Nanos(end)),
            None => Interval::from(Nanos(start)),
        };
        if let Ok(interval) = interval {
            let _ = pool.commit(interval, CALL);
        }
    };
    for number in 0..live {
        take(0, (number % 2 == 1).then(|| SECOND + random.below(HOUR)));
    }
    for _ in 0..(live / 10).min(BOOKINGS_MAX) {
        let start = HOUR + random.below(MONTH);
        take(start, Some(start + SECOND + random.below(HOUR)));
    }
    pool
}

/// What comes of one request: what is left is asked, and the part is taken.
fn decide(pool: &mut Calendar, interval: Interval) {
    black_box(pool.free(interval));
    let _ = black_box(pool.commit(interval, CALL));
}

pub(super) fn rows(live: u32) -> Vec<Row> {
    let batch = BATCH_MAX.min(live / 5);
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ u64::from(live));
    let pool = Rc::new(RefCell::new(pool(live, &mut random)));
    let random = Rc::new(RefCell::new(random));
    let map: BTreeMap<u64, u64> = (0..u64::from(live)).map(|_| (random.borrow_mut().below(u64::MAX), 0)).collect();
    let map = Rc::new(RefCell::new(map));
    let intervals = {
        let random = Rc::clone(&random);
        move |booked: bool| -> Vec<Interval> {
            let mut random = random.borrow_mut();
            let interval = |_| {
                let start = if booked { HOUR + random.below(MONTH) } else { 0 };
                Interval::new(Nanos(start), Nanos(start + SECOND + random.below(HOUR))).unwrap_or(Interval::ALWAYS)
            };
            (0..batch).map(interval).collect()
        }
    };
    let with_intervals = |booked: bool, timed_release: bool| {
        let (pool, intervals) = (Rc::clone(&pool), intervals.clone());
        move || {
            let intervals = intervals(booked);
            let mut pool = pool.borrow_mut();
            let decided = each(batch, |at| decide(&mut pool, intervals[at as usize]));
            let released = each(batch, |at| pool.release(intervals[at as usize], CALL));
            if timed_release { released } else { decided }
        }
    };
    // As a pool holds: what was left is asked again, and checked.
    let hold = {
        let (pool, intervals) = (Rc::clone(&pool), intervals.clone());
        move || {
            let intervals = intervals(false);
            let mut pool = pool.borrow_mut();
            let held = each(batch, |at| {
                decide(&mut pool, intervals[at as usize]);
                black_box(pool.free(intervals[at as usize]));
            });
            each(batch, |at| pool.release(intervals[at as usize], CALL));
            held
        }
    };
    let open = {
        let pool = Rc::clone(&pool);
        move || {
            let mut pool = pool.borrow_mut();
            let decided = each(batch, |_| decide(&mut pool, Interval::ALWAYS));
            each(batch, |_| pool.release(Interval::ALWAYS, CALL));
            decided
        }
    };
    let refuse = {
        let pool = Rc::clone(&pool);
        move || {
            let mut pool = pool.borrow_mut();
            let much = Cost { rate_bps: 1 << 61, burst_bytes: 0 };
            each(batch, |_| {
                let _ = black_box(pool.commit(Interval::ALWAYS, black_box(much)));
            })
        }
    };
    // Fits for a minute once half of the sessions that have an end are over.
    let earliest = {
        let pool = Rc::clone(&pool);
        move || {
            let pool = pool.borrow();
            let rate_bps = CAPACITY - CALL.rate_bps * u64::from(live) * 3 / 4;
            let cost = Cost { rate_bps, burst_bytes: CALL.burst_bytes };
            let mut found = 0;
            let asked = each(batch, |_| {
                let start = pool.earliest(black_box(cost), Some(Nanos(60 * SECOND)), Nanos(0), Nanos(HOUR));
                found += u32::from(start.is_some_and(|start| start.0 > HOUR / 4));
            });
            assert_eq!(found, batch, "half of the sessions are over after half an hour, and not before");
            asked
        }
    };
    let insert = move || {
        let mut random = random.borrow_mut();
        let keys: Vec<u64> = (0..batch).map(|_| random.below(u64::MAX)).collect();
        let mut map = map.borrow_mut();
        let inserted = each(batch, |at| {
            black_box(map.insert(keys[at as usize], u64::from(at)));
        });
        for key in &keys {
            map.remove(key);
        }
        inserted
    };
    vec![
        ("map_insert", Box::new(insert)),
        ("decide_open", Box::new(open)),
        ("decide_interval", Box::new(with_intervals(false, false))),
        ("decide_booking", Box::new(with_intervals(true, false))),
        ("hold_interval", Box::new(hold)),
        ("release_interval", Box::new(with_intervals(false, true))),
        ("earliest", Box::new(earliest)),
        ("refuse", Box::new(refuse)),
    ]
}
