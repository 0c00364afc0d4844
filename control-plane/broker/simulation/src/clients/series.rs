//! Clients that want a session again and again, and give all or one of its occurrences up.

use turnpike_broker::calendar::Until;
use turnpike_broker::media_slots::MediaSlots;
use turnpike_broker::name::Nanos;
use turnpike_broker::{Priority, Request, Schedule, SessionRequest};

use super::{Clients, Step};
use crate::time::{MS, S};
use crate::topology::name;

/// A series that somebody wants.
#[derive(Debug)]
pub(crate) struct Line {
    first: usize,
    second: usize,
    request: SessionRequest,
    period: Nanos,
    count: u32,
    /// A client was told that it is booked.
    booked: bool,
    pub(super) tries: u32,
}

impl Clients {
    /// One more, and the first step towards it. `clock` tells what a node's clock shows.
    pub(crate) fn dial_series(&mut self, clock: impl Fn(usize) -> Nanos) -> Option<Step> {
        if !self.random.chance(30_000) {
            return None;
        }
        let number = self.lines.len();
        let (first, second) = self.choose_pair();
        let duration_ns = self.random.between(1, 4) * 2 * S;
        // They touch now and then.
        let period_ns = duration_ns + self.random.below(3) * 2 * S;
        let start = (clock(first).0 + self.random.between(3 * S, 30 * S)).next_multiple_of(2 * S);
        let schedule = Schedule { starts_at: Some(Nanos(start)), ends_at: Some(Nanos(start + duration_ns)) };
        let mut flows = self.flows(first, second);
        for flow in &mut flows {
            flow.meter.rate_bps /= 4;
            flow.rate_bps_min /= 4;
        }
        let id = name(&format!("series{number}"));
        let (media_slots, priority) = (MediaSlots::default(), Priority::LOWEST);
        let request = SessionRequest { id, schedule, media_slots, flows, priority };
        let count = u32::try_from(self.random.between(1, 6)).unwrap_or(1);
        self.lines.push(Line { first, second, request, period: Nanos(period_ns), count, booked: false, tries: 0 });
        Some(Step::Series(number))
    }

    pub(super) fn series_request(&mut self, step: Step, number: usize) -> (usize, Request) {
        let place = self.random.below(u64::from(self.lines[number].count)) + 1;
        let Line { first, second, request, period, count, .. } = &self.lines[number];
        if matches!(step, Step::EndOne(_)) {
            let id = name(&format!("{}.{place}", request.id));
            return (if self.random.chance(250_000) { *second } else { *first }, Request::DeleteSession(id));
        }
        if matches!(step, Step::EndSeries(_)) {
            return (*first, Request::DeleteSeries(request.id.clone()));
        }
        let (request, until) = (request.clone(), Until::Count(*count));
        (*first, Request::CreateSeries { request, period: *period, until })
    }

    /// A client was told that all of it is booked.
    pub(super) fn has_series(&mut self, step: Step, created: bool) -> Vec<(u64, Step)> {
        let Step::Series(number) = step else { return Vec::new() };
        *(if created { &mut self.seen.series } else { &mut self.seen.repeated }) += 1;
        let line = &mut self.lines[number];
        line.tries = 0;
        if std::mem::replace(&mut line.booked, true) {
            return Vec::new();
        }
        let mut next = Vec::new();
        if self.random.chance(200_000) {
            next.push((self.random.between(MS, 20 * S), Step::EndOne(number)));
        }
        if self.random.chance(400_000) {
            next.push((self.random.between(MS, 40 * S), Step::EndSeries(number)));
        }
        if self.random.chance(100_000) {
            next.push((self.random.between(MS, 10 * S), Step::Series(number)));
        }
        next
    }
}
