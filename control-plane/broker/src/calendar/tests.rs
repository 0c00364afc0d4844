use super::*;

const fn cost(rate_bps: u64, burst_bytes: u64) -> Cost {
    Cost { rate_bps, burst_bytes }
}

fn interval(start: u64, end: u64) -> Interval {
    Interval::new(Nanos(start), Nanos(end)).unwrap()
}

fn from(start: u64) -> Interval {
    Interval::from(Nanos(start)).unwrap()
}

fn calendar() -> Calendar {
    Calendar::new(cost(100, 10))
}

#[test]
fn a_session_without_end_cannot_take_what_a_booking_owns() {
    let mut calendar = calendar();
    calendar.commit(interval(1_000, 2_000), cost(70, 1)).unwrap();
    assert_eq!(calendar.commit(from(10), cost(31, 1)), Err(Shortage::Rate));
    assert_eq!(calendar.free(from(10)), cost(30, 9));
    assert_eq!(calendar.commit(interval(10, 1_000), cost(100, 1)), Ok(()));
    assert_eq!(calendar.earliest(cost(31, 1), None, Nanos(10), OPEN), Some(Nanos(2_000)));
}

#[test]
fn an_interval_begins_where_another_ends() {
    let mut calendar = calendar();
    calendar.commit(interval(10, 20), cost(100, 10)).unwrap();
    assert_eq!(calendar.commit(interval(20, 30), cost(100, 10)), Ok(()));
    assert_eq!(calendar.commit(interval(0, 10), cost(100, 10)), Ok(()));
    assert_eq!(calendar.commit(interval(29, 31), cost(1, 0)), Err(Shortage::Rate));
    assert_eq!(calendar.commit(interval(30, 31), cost(1, 0)), Ok(()));
    // Nothing changes at 10 and at 20.
    assert_eq!(calendar.changes(), 2);
    calendar.release(interval(10, 20), cost(100, 10));
    assert_eq!((calendar.peak(interval(10, 20)), calendar.peak(interval(9, 11))), (cost(0, 0), cost(100, 10)));
}

#[test]
fn sessions_without_end_leave_no_trace_in_the_tree() {
    let mut calendar = calendar();
    for now in 1..=10 {
        calendar.forget(Nanos(now));
        calendar.commit(from(now), cost(10, 1)).unwrap();
    }
    assert_eq!((calendar.changes(), calendar.peak(from(10))), (0, cost(100, 10)));
    for start in 1..=10 {
        calendar.release(from(start), cost(10, 1));
    }
    assert_eq!((calendar.changes(), calendar.peak(from(10))), (0, cost(0, 0)));
}

#[test]
fn a_commitment_moves_its_end_only_to_where_it_fits() {
    let mut calendar = calendar();
    let booked = interval(10, 20);
    calendar.commit(booked, cost(60, 5)).unwrap();
    calendar.commit(interval(30, 40), cost(60, 5)).unwrap();
    let beyond = calendar.change_end(booked, Nanos(31), cost(60, 5));
    assert_eq!(beyond, Err(ChangeError::Shortage(Shortage::Rate)));
    let none = calendar.change_end(booked, Nanos(10), cost(60, 5));
    assert_eq!(none, Err(ChangeError::Interval(IntervalError::Empty(Nanos(10)))));
    assert_eq!(calendar.peak(interval(20, 30)), cost(0, 0));
    let longer = calendar.change_end(booked, Nanos(30), cost(60, 5));
    assert_eq!((longer, calendar.peak(interval(29, 30))), (Ok(interval(10, 30)), cost(60, 5)));
    let shorter = calendar.change_end(interval(10, 30), Nanos(11), cost(60, 5));
    assert_eq!((shorter, calendar.peak(interval(11, 30))), (Ok(interval(10, 11)), cost(0, 0)));
}

#[test]
fn less_can_be_taken_even_of_what_is_overloaded() {
    let mut calendar = calendar();
    calendar.commit(interval(10, 20), cost(80, 5)).unwrap();
    calendar.set_capacity(Interval::ALWAYS, cost(50, 10)).unwrap();
    assert_eq!(calendar.resize(interval(10, 20), cost(80, 5), cost(81, 1)), Err(Shortage::Rate));
    assert_eq!(calendar.resize(interval(10, 20), cost(80, 5), cost(60, 6)), Ok(()));
    assert_eq!(calendar.overloaded(), Some(interval(10, 20)));
    assert_eq!(calendar.resize(interval(10, 20), cost(60, 6), cost(50, 6)), Ok(()));
    assert_eq!(calendar.overloaded(), None);
}

#[test]
fn a_link_that_shrinks_for_a_time_says_when_it_is_overloaded() {
    let mut calendar = calendar();
    calendar.commit(from(0), cost(60, 1)).unwrap();
    calendar.set_capacity(interval(100, 200), cost(50, 10)).unwrap();
    assert_eq!(calendar.overloaded(), Some(interval(100, 200)));
    assert_eq!([99, 100, 199, 200].map(|time| calendar.capacity_at(Nanos(time)).rate_bps), [100, 50, 50, 100]);
    assert_eq!(calendar.earliest(cost(40, 1), Some(Nanos(100)), Nanos(1), OPEN), Some(Nanos(200)));
    assert_eq!(calendar.earliest(cost(40, 1), Some(Nanos(99)), Nanos(1), OPEN), Some(Nanos(1)));
    assert_eq!(calendar.earliest(cost(41, 1), Some(Nanos(99)), Nanos(1), OPEN), None);
}

#[test]
fn a_horizon_is_the_last_start_that_is_tried() {
    let mut calendar = calendar();
    calendar.commit(interval(0, 50), cost(100, 1)).unwrap();
    let earliest = |horizon| calendar.earliest(cost(1, 0), Some(Nanos(10)), Nanos(0), Nanos(horizon));
    assert_eq!([49, 50].map(earliest), [None, Some(Nanos(50))]);
    assert_eq!(calendar.earliest(cost(1, 0), Some(Nanos(0)), Nanos(60), OPEN), None);
    assert_eq!(calendar.earliest(cost(1, 0), Some(Nanos(u64::MAX - 60)), Nanos(60), OPEN), None);
    assert_eq!(calendar.earliest(cost(u64::MAX, 0), None, Nanos(60), OPEN), None);
}

#[test]
fn a_search_ends_after_so_many_attempts() {
    let full_every = |gaps: u64| {
        let mut calendar = calendar();
        for gap in 0..=gaps {
            calendar.commit(interval(gap * 10, gap * 10 + 1), cost(100, 1)).unwrap();
        }
        calendar.earliest(cost(1, 1), Some(Nanos(10)), Nanos(0), OPEN)
    };
    let most = u64::from(ATTEMPTS_MAX);
    // The first attempt is at 0, then one in each gap that is too short, then one after them all.
    assert_eq!(full_every(most - 2), Some(Nanos((most - 2) * 10 + 1)));
    assert_eq!(full_every(most - 1), None);
}

#[test]
fn a_search_does_not_try_every_gap_for_what_lasts_long() {
    let mut calendar = calendar();
    for gap in 0..100_000 {
        calendar.commit(interval(gap * 10, gap * 10 + 1), cost(100, 1)).unwrap();
    }
    assert_eq!(calendar.earliest(cost(1, 1), Some(Nanos(1_000)), Nanos(0), OPEN), Some(Nanos(999_991)));
    assert_eq!(calendar.earliest(cost(1, 1), None, Nanos(0), OPEN), Some(Nanos(999_991)));
}

#[test]
fn what_cannot_be_counted_is_refused() {
    let mut calendar = Calendar::new(cost(u64::MAX, u64::MAX));
    assert_eq!(calendar.free(Interval::ALWAYS), cost(LEVEL_MAX, LEVEL_MAX));
    assert_eq!(calendar.commit(from(5), cost(LEVEL_MAX + 1, 0)), Err(Shortage::Rate));
    assert_eq!(calendar.adopt(from(5), cost(u64::MAX, 0)), Err(Shortage::Rate));
    assert_eq!(calendar.adopt(interval(5, 9), cost(LEVEL_MAX, LEVEL_MAX)), Ok(()));
    assert_eq!(calendar.adopt(from(8), cost(0, 1)), Err(Shortage::Burst));
    assert_eq!(calendar.commit(from(9), cost(LEVEL_MAX, LEVEL_MAX)), Ok(()));
    assert_eq!(calendar.changes(), 1);
    calendar.release(interval(5, 9), cost(LEVEL_MAX, LEVEL_MAX));
    assert_eq!(calendar.peak(interval(0, 9)), cost(0, 0));
}

#[test]
fn a_capacity_has_so_many_steps_and_those_that_are_none_are_merged() {
    let mut calendar = calendar();
    for step in 0..500 {
        calendar.set_capacity(interval(step * 10 + 5, step * 10 + 10), cost(50, 5)).unwrap();
    }
    assert_eq!(calendar.set_capacity(interval(6_000, 6_001), cost(50, 5)), Err(TooManySteps));
    assert_eq!(calendar.capacity_at(Nanos(6_000)), cost(100, 10));
    calendar.forget(Nanos(5));
    assert_eq!(calendar.set_capacity(from(6_000), cost(50, 5)), Ok(()));
    calendar.set_capacity(Interval::ALWAYS, cost(70, 7)).unwrap();
    assert!(calendar.steps.is_empty());
    assert_eq!(calendar.capacity_at(Nanos(6_000)), cost(70, 7));
}

#[test]
fn nothing_is_committed_in_what_is_past() {
    let mut calendar = calendar();
    calendar.commit(interval(10, 20), cost(60, 5)).unwrap();
    calendar.commit(interval(15, 30), cost(40, 5)).unwrap();
    calendar.forget(Nanos(20));
    assert_eq!((calendar.begin(), calendar.changes()), (Nanos(20), 1));
    assert_eq!(calendar.peak(interval(0, 20)), cost(0, 0));
    assert_eq!(calendar.peak(Interval::ALWAYS), cost(40, 5));
    // What has ended by itself may be released all the same.
    calendar.release(interval(10, 20), cost(60, 5));
    calendar.release(interval(15, 30), cost(40, 5));
    assert_eq!((calendar.peak(Interval::ALWAYS), calendar.changes()), (cost(0, 0), 0));
    calendar.forget(Nanos(7));
    assert_eq!(calendar.begin(), Nanos(20));
}

#[test]
#[should_panic(expected = "was taken from it")]
fn releasing_what_was_not_committed_at_one_instant_stops_the_broker() {
    let mut calendar = calendar();
    calendar.commit(interval(10, 20), cost(60, 5)).unwrap();
    calendar.release(interval(10, 21), cost(60, 5));
}
