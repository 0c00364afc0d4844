//! What clients want of a session, and how they go about it. Another kind of wish is another arm here, and a step where it needs one.

use turnpike_broker::Schedule;
use turnpike_broker::name::Nanos;

use crate::random::Random;
use crate::time::{MS, S};

/// Times of day are multiples of this, so that many intervals touch: one ends when another starts.
const GRID_NS: u64 = 2 * S;

/// How a client gets at a session, and what it does with it.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) schedule: Schedule,
    /// It asks first what it would be answered.
    pub(crate) questions: bool,
    /// It waits for room until then, by the clock of the node that it asks.
    pub(crate) wait_until: Option<Nanos>,
    /// So long after it has heard of an offer it takes it; never if none.
    pub(crate) takes_after_ns: Option<u64>,
    /// It does not want to wait any more after this long.
    pub(crate) cancels_after_ns: Option<u64>,
    /// So often it wants another end.
    pub(crate) changes: u32,
    /// It ends it so long after it was told that it has it; or leaves it to its end.
    pub(crate) ends_after_ns: Option<u64>,
}

/// The next time of the grid that is not before `time`.
const fn on_grid(time: u64) -> u64 {
    time.next_multiple_of(GRID_NS)
}

impl Wish {
    /// For a session at a node whose clock shows `now`. `before` is the end of another session, that it may start at.
    pub(crate) fn draw(random: &mut Random, now: Nanos, before: Option<Nanos>) -> Self {
        let mut wish = match (random.below(100), before) {
            (_, Some(end)) => Self::booking(random, end.0, now),
            (0..=44, None) => Self::open(random),
            (45..=64, None) => Self::ending(random, now),
            (_, None) => {
                let start = on_grid(now.0 + random.between(2 * S, 50 * S));
                Self::booking(random, start, now)
            }
        };
        wish.questions = random.chance(120_000);
        if random.chance(400_000) {
            wish.wait_until = Some(Nanos(now.0 + random.between(5 * S, 150 * S)));
            wish.takes_after_ns = match random.below(10) {
                0..=6 => Some(random.between(MS, 20 * S)),
                // Hardly in time, or not.
                7 => Some(random.between(25 * S, 40 * S)),
                _ => None,
            };
            wish.cancels_after_ns = random.chance(200_000).then(|| random.between(S, 60 * S));
        }
        wish
    }

    fn open(random: &mut Random) -> Self {
        Self {
            schedule: Schedule::OPEN,
            questions: false,
            wait_until: None,
            takes_after_ns: None,
            cancels_after_ns: None,
            changes: u32::from(random.chance(60_000)),
            ends_after_ns: Some(random.between(S, 120 * S)),
        }
    }

    fn ending(random: &mut Random, now: Nanos) -> Self {
        let end = on_grid(now.0 + random.between(2 * S, 60 * S));
        Self {
            schedule: Schedule { starts_at: None, ends_at: Some(Nanos(end)) },
            changes: if random.chance(300_000) { 2 } else { 0 },
            ends_after_ns: random.chance(200_000).then(|| random.between(S, 60 * S)),
            ..Self::open(random)
        }
    }

    fn booking(random: &mut Random, start: u64, now: Nanos) -> Self {
        let duration_ns = random.between(1, 15) * GRID_NS;
        // Few have no end.
        let end = (!random.chance(80_000)).then_some(Nanos(start + duration_ns));
        let ends_after_ns = match (random.below(10), end) {
            // Before its start, or about then.
            (0 | 1, _) => Some(random.below(start.saturating_sub(now.0) + S)),
            (2 | 3, _) | (_, None) => Some(random.between(S, 90 * S)),
            (_, Some(_)) => None,
        };
        Self {
            schedule: Schedule { starts_at: Some(Nanos(start)), ends_at: end },
            changes: if random.chance(250_000) { 2 } else { 0 },
            ends_after_ns,
            ..Self::open(random)
        }
    }

    /// Another end for a session: none, earlier or later.
    pub(crate) fn another_end(random: &mut Random, schedule: Schedule, now: Nanos) -> Option<Nanos> {
        let from = schedule.starts_at.unwrap_or_default().max(now).0;
        match random.below(10) {
            0 => None,
            1..=4 => Some(Nanos(on_grid(from + random.between(S, 10 * S)))),
            _ => Some(Nanos(on_grid(schedule.ends_at.map_or(from, |end| end.0.max(from)) + random.between(1, 30 * S)))),
        }
    }
}
