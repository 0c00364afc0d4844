//! A calendar against a model of it: an array with one place for each instant. Whatever is done, both answer and refuse the same.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what is not expected is a failed test")]

use proptest::prelude::*;
use turnpike_broker::Cost;
use turnpike_broker::calendar::{
    Calendar, ChangeError, Interval, IntervalError, LEVEL_MAX, OPEN, Recurrence, RecurrenceError, Shortage, Until,
};
use turnpike_broker::name::Nanos;

/// Instants of the model; the last stands for all that follow.
const INSTANTS: usize = 30;
/// Capacity at first, in units.
const CAPACITY: Cost = Cost { rate_bps: 10, burst_bytes: 8 };

/// How long an instant is, and how much a unit of rate and of burst.
#[derive(Debug, Clone, Copy)]
struct Scale {
    time: u64,
    rate_bps: u64,
    burst_bytes: u64,
}

impl Scale {
    const fn time(self, time: usize) -> Nanos {
        Nanos(time as u64 * self.time)
    }

    const fn cost(self, Cost { rate_bps, burst_bytes }: Cost) -> Cost {
        Cost { rate_bps: rate_bps * self.rate_bps, burst_bytes: burst_bytes * self.burst_bytes }
    }

    /// A time of `INSTANTS` or later is no end.
    fn interval(self, Times { start, end }: Times) -> Result<Interval, IntervalError> {
        Interval::new(self.time(start), if end < INSTANTS { self.time(end) } else { OPEN })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Times {
    start: usize,
    end: usize,
}

impl Times {
    fn each(self) -> std::ops::Range<usize> {
        self.start..self.end.min(INSTANTS)
    }
}

struct Model {
    begin: usize,
    used: [Cost; INSTANTS],
    capacity: [Cost; INSTANTS],
    live: Vec<(Times, Cost)>,
    limit: Cost,
}

const fn plus(a: Cost, b: Cost) -> Cost {
    Cost { rate_bps: a.rate_bps + b.rate_bps, burst_bytes: a.burst_bytes + b.burst_bytes }
}

const fn less(a: Cost, b: Cost) -> Cost {
    Cost { rate_bps: a.rate_bps.saturating_sub(b.rate_bps), burst_bytes: a.burst_bytes.saturating_sub(b.burst_bytes) }
}

fn fits(cost: Cost, free: Cost) -> Result<(), Shortage> {
    if cost.rate_bps > free.rate_bps {
        Err(Shortage::Rate)
    } else if cost.burst_bytes > free.burst_bytes {
        Err(Shortage::Burst)
    } else {
        Ok(())
    }
}

fn lower(a: Cost, b: Cost) -> Cost {
    Cost { rate_bps: a.rate_bps.min(b.rate_bps), burst_bytes: a.burst_bytes.min(b.burst_bytes) }
}

fn higher(a: Cost, b: Cost) -> Cost {
    Cost { rate_bps: a.rate_bps.max(b.rate_bps), burst_bytes: a.burst_bytes.max(b.burst_bytes) }
}

impl Model {
    fn ahead(&self, times: Times) -> impl Iterator<Item = usize> + use<> {
        let begin = self.begin;
        times.each().filter(move |at| *at >= begin)
    }

    fn peak(&self, times: Times) -> Cost {
        self.ahead(times).map(|at| self.used[at]).fold(Cost::default(), higher)
    }

    fn free(&self, times: Times) -> Cost {
        let free = self.ahead(times).map(|at| less(self.capacity[at], self.used[at])).reduce(lower);
        free.unwrap_or(self.capacity[self.begin])
    }

    fn commit(&mut self, times: Times, cost: Cost) -> Result<(), Shortage> {
        fits(cost, self.free(times))?;
        self.take(times, cost);
        Ok(())
    }

    fn take(&mut self, times: Times, cost: Cost) {
        self.live.push((times, cost));
        self.count();
    }

    /// From the commitments, anew.
    fn count(&mut self) {
        for at in 0..INSTANTS {
            let live = self.live.iter().filter(|(times, _)| at >= self.begin && times.each().contains(&at));
            self.used[at] = live.fold(Cost::default(), |sum, (_, cost)| plus(sum, *cost));
        }
    }

    fn is_over(&self, at: usize) -> bool {
        fits(self.used[at], self.capacity[at]).is_err()
    }

    fn overloaded(&self) -> Option<Times> {
        let start = (self.begin..INSTANTS).find(|at| self.is_over(*at))?;
        let end = (start..INSTANTS).find(|at| !self.is_over(*at)).unwrap_or(INSTANTS);
        Some(Times { start, end })
    }

    fn earliest(&self, cost: Cost, duration: Option<usize>, not_before: usize, horizon: usize) -> Option<usize> {
        (not_before.max(self.begin)..=horizon).find(|&start| {
            let end = duration.map_or(INSTANTS, |duration| start + duration);
            // What comes after the last instant is as that is.
            let all = (start..end.max(start + 1)).map(|at| at.min(INSTANTS - 1));
            all.into_iter().all(|at| fits(cost, less(self.capacity[at], self.used[at])).is_ok())
        })
    }

    fn changes(&self) -> usize {
        (self.begin + 1..INSTANTS).filter(|at| self.used[*at] != self.used[at - 1]).count()
    }
}

#[derive(Debug, Clone)]
enum Operation {
    Commit(Times, Cost),
    Recur { first: Times, period: usize, count: u32, cost: Cost },
    Adopt(Times, Cost),
    Release(prop::sample::Index),
    ChangeEnd(prop::sample::Index, usize),
    Resize(prop::sample::Index, Cost),
    SetCapacity(Times, Cost),
    Forget(usize),
}

/// What is asked after each operation.
#[derive(Debug, Clone)]
struct Question {
    times: Times,
    cost: Cost,
    duration: Option<usize>,
    horizon: usize,
}

fn times() -> impl Strategy<Value = Times> {
    (0..INSTANTS, 1..=INSTANTS).prop_map(|(start, length)| Times { start, end: (start + length).min(INSTANTS) })
}

fn cost() -> impl Strategy<Value = Cost> {
    (0u64..=5, 0u64..=4).prop_map(|(rate_bps, burst_bytes)| Cost { rate_bps, burst_bytes })
}

fn operation() -> impl Strategy<Value = Operation> {
    let any_live = any::<prop::sample::Index>;
    let capacity = (3u64..=12, 3u64..=10).prop_map(|(rate_bps, burst_bytes)| Cost { rate_bps, burst_bytes });
    prop_oneof![
        10 => (times(), cost()).prop_map(|(times, cost)| Operation::Commit(times, cost)),
        3 => (0..INSTANTS, 1usize..4, 1usize..8, 0u32..6, cost()).prop_map(|(start, length, period, count, cost)| {
            Operation::Recur { first: Times { start, end: start + length }, period, count, cost }
        }),
        2 => (times(), cost()).prop_map(|(times, cost)| Operation::Adopt(times, cost)),
        6 => any_live().prop_map(Operation::Release),
        4 => (any_live(), 0..=INSTANTS).prop_map(|(index, end)| Operation::ChangeEnd(index, end)),
        4 => (any_live(), cost()).prop_map(|(index, cost)| Operation::Resize(index, cost)),
        2 => (times(), capacity).prop_map(|(times, capacity)| Operation::SetCapacity(times, capacity)),
        1 => (0..INSTANTS).prop_map(Operation::Forget),
    ]
}

fn question() -> impl Strategy<Value = Question> {
    let duration = prop::option::weighted(0.8, 1usize..12);
    (times(), cost(), duration, 0..INSTANTS + 3).prop_map(|(times, cost, duration, horizon)| Question {
        times,
        cost,
        duration,
        horizon,
    })
}

fn scale() -> impl Strategy<Value = Scale> {
    let small = Scale { time: 1, rate_bps: 1, burst_bytes: 1 };
    // The end of time, and what can be counted, are near; 10 units of rate are all that can be.
    let time = u64::MAX / (2 * INSTANTS as u64);
    prop_oneof![Just(small), Just(Scale { time, rate_bps: LEVEL_MAX / 10, burst_bytes: LEVEL_MAX / 50 })]
}

/// Does the same to both.
fn apply(operation: Operation, calendar: &mut Calendar, model: &mut Model, scale: Scale) {
    let pick =
        |index: prop::sample::Index, model: &Model| (!model.live.is_empty()).then(|| index.index(model.live.len()));
    match operation {
        Operation::Commit(times, units) => {
            let (interval, cost) = (scale.interval(times).unwrap(), scale.cost(units));
            assert_eq!(calendar.commit(interval, cost), model.commit(times, cost));
        }
        Operation::Recur { first, period, count, cost: units } => {
            let (length, cost) = (first.end - first.start, scale.cost(units));
            let last = first.start + period * (count.max(1) as usize - 1) + length;
            if last >= INSTANTS {
                return;
            }
            let rule = Recurrence {
                first: scale.interval(first).unwrap(),
                period: scale.time(period),
                until: Until::Count(count),
            };
            let intervals = match rule.expand() {
                Ok(intervals) => intervals,
                Err(RecurrenceError::Overlapping { .. }) => return assert!(period < length),
                Err(error) => return assert_eq!((error, count), (RecurrenceError::Empty, 0)),
            };
            let (before, mut result) = (model.live.len(), Ok(()));
            assert_eq!(intervals.len(), count as usize);
            for (index, interval) in intervals.iter().enumerate() {
                let times = Times { start: first.start + index * period, end: first.end + index * period };
                assert_eq!(*interval, scale.interval(times).unwrap());
                result = model.commit(times, cost).map_err(|shortage| (*interval, shortage));
                if result.is_err() {
                    model.live.truncate(before);
                    model.count();
                    break;
                }
            }
            assert_eq!(calendar.commit_all(&intervals, cost), result);
        }
        Operation::Adopt(times, units) => {
            let (interval, cost) = (scale.interval(times).unwrap(), scale.cost(units));
            let result = fits(cost, less(model.limit, model.peak(times)));
            assert_eq!(calendar.adopt(interval, cost), result);
            if result.is_ok() {
                model.take(times, cost);
            }
        }
        Operation::Release(index) => {
            let Some(index) = pick(index, model) else { return };
            let (times, cost) = model.live.swap_remove(index);
            model.count();
            calendar.release(scale.interval(times).unwrap(), cost);
        }
        Operation::ChangeEnd(index, end) => {
            let Some(index) = pick(index, model) else { return };
            let (times, cost) = model.live[index];
            let changed = Times { start: times.start, end };
            let result = scale.interval(changed).map_err(ChangeError::Interval).and_then(|interval| {
                let fits = if end > times.end {
                    fits(cost, model.free(Times { start: times.end, end })).map_err(ChangeError::Shortage)
                } else {
                    Ok(())
                };
                fits.map(|()| interval)
            });
            let interval = scale.interval(times).unwrap();
            let end = if end < INSTANTS { scale.time(end) } else { OPEN };
            assert_eq!(calendar.change_end(interval, end, cost), result);
            if result.is_ok() {
                model.live[index].0 = changed;
                model.count();
            }
        }
        Operation::Resize(index, units) => {
            let Some(index) = pick(index, model) else { return };
            let ((times, before), after) = (model.live[index], scale.cost(units));
            let result = fits(less(after, before), model.free(times));
            assert_eq!(calendar.resize(scale.interval(times).unwrap(), before, after), result);
            if result.is_ok() {
                model.live[index].1 = after;
                model.count();
            }
        }
        Operation::SetCapacity(times, units) => {
            let capacity = scale.cost(units);
            calendar.set_capacity(scale.interval(times).unwrap(), capacity).unwrap();
            for at in model.ahead(times) {
                model.capacity[at] = lower(capacity, model.limit);
            }
        }
        Operation::Forget(now) => {
            calendar.forget(scale.time(now));
            model.begin = model.begin.max(now);
            model.count();
        }
    }
}

fn compare(question: &Question, calendar: &Calendar, model: &Model, scale: Scale) {
    for at in 0..INSTANTS {
        let times = Times { start: at, end: at + 1 };
        assert_eq!(calendar.peak(scale.interval(times).unwrap()), model.peak(times), "at {at}");
        assert_eq!(calendar.used_at(scale.time(at)), model.used[at], "at {at}");
        if at >= model.begin {
            let capacity = lower(calendar.capacity_at(scale.time(at)), model.limit);
            assert_eq!(capacity, model.capacity[at], "at {at}");
        }
    }
    let Question { times, cost, duration, horizon } = question.clone();
    let (interval, cost) = (scale.interval(times).unwrap(), scale.cost(cost));
    assert_eq!(calendar.peak(interval), model.peak(times));
    assert_eq!(calendar.free(interval), model.free(times));
    let overloaded = model.overloaded().map(|times| scale.interval(times).unwrap());
    assert_eq!(calendar.overloaded(), overloaded);
    let last = duration.map(|duration| scale.time(duration));
    let earliest = calendar.earliest(cost, last, scale.time(times.start), scale.time(horizon));
    let expected = model.earliest(cost, duration, times.start, horizon);
    assert_eq!(earliest, expected.map(|start| scale.time(start)), "{cost:?} for {duration:?}");
    assert_eq!(calendar.changes(), model.changes());
}

proptest! {
    #[test]
    fn a_calendar_does_as_its_model(
        scale in scale(),
        steps in prop::collection::vec((operation(), question()), 1..60),
    ) {
        let capacity = scale.cost(CAPACITY);
        let mut calendar = Calendar::new(capacity);
        let mut model = Model {
            begin: 0,
            used: [Cost::default(); INSTANTS],
            capacity: [capacity; INSTANTS],
            live: Vec::new(),
            limit: Cost { rate_bps: LEVEL_MAX, burst_bytes: LEVEL_MAX },
        };
        for (operation, question) in steps {
            let excused = matches!(operation, Operation::Adopt(..) | Operation::SetCapacity(..));
            let over: Vec<bool> = (0..INSTANTS).map(|at| model.is_over(at)).collect();
            apply(operation, &mut calendar, &mut model, scale);
            compare(&question, &calendar, &model, scale);
            for (at, was_over) in over.into_iter().enumerate() {
                let peak = calendar.peak(scale.interval(Times { start: at, end: at + 1 }).unwrap());
                let within = fits(peak, calendar.capacity_at(scale.time(at).max(calendar.begin()))).is_ok();
                prop_assert!(within || was_over || excused, "more than there is at {}", at);
            }
        }
        for (times, cost) in model.live {
            calendar.release(scale.interval(times).unwrap(), cost);
        }
        prop_assert_eq!(calendar.changes(), 0);
        prop_assert_eq!(calendar.peak(Interval::ALWAYS), Cost::default());
    }
}
