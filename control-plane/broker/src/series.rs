//! Series: bookings that recur, all of their occurrences or none (R-000-8).
//!
//! A series is made of ordinary booked sessions, `ID.1`, `ID.2` and so on, which the first side asks for one after the other, as a client would. Once
//! all are booked at both ends it is answered; if one is refused, those before it are ended again. What it has come to is durable, so that a
//! restart undoes what was not answered. An occurrence can be ended for itself, like any session.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::authorization::Credential;
use crate::broker::{Broker, TableName};
use crate::calendar::{OPEN, Recurrence, RecurrenceError, Until};
use crate::event::{Answer, FlowRequest, SessionRequest};
use crate::fence::Subject;
use crate::media_slots::MediaSlots;
use crate::name::{Nanos, SessionId};
use crate::priority::Priority;
use crate::record::{Change, SessionState};
use crate::refusal::{Reason, Refusal};
use crate::schedule::Schedule;
use crate::session::session_id_reused;

/// Most occurrences of all series of this node that are being booked, are booked, or are being undone.
pub const SERIES_OCCURRENCES_MAX: usize = 4_096;
/// No shell gives a ticket that has this bit.
pub(crate) const OWN_TICKET: u64 = 1 << 63;

/// Where a series is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeriesState {
    /// Its occurrences are being booked, one after the other.
    Booking,
    /// All of them were booked.
    Booked,
    /// Those that are left are being ended.
    Undoing,
}

/// A series as it is kept, until its last occurrence is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeriesRecord {
    /// Made by the client.
    pub id: SessionId,
    /// Where it is in its life.
    pub state: SeriesState,
    /// The first occurrence.
    pub first: Schedule,
    /// From the start of one to the start of the next.
    pub period: Nanos,
    /// How many occurrences it has.
    pub count: u32,
    /// How each occurrence stands to others that want the same room. None of them ends others at this node, because the series may yet be refused.
    #[serde(flatten)]
    pub priority: Priority,
    /// What each needs of media processing.
    #[serde(default, skip_serializing_if = "MediaSlots::is_empty")]
    pub media_slots: MediaSlots,
    /// The flows of each.
    pub flows: Vec<FlowRequest>,
}

impl SeriesRecord {
    /// The session that is an occurrence, by its number from 1 on.
    ///
    /// # Errors
    /// The id would be too long.
    pub fn session_id(&self, number: u32) -> Result<SessionId, crate::name::NameError> {
        format!("{}.{number}", self.id).parse()
    }

    /// When an occurrence is, by its number from 1 on.
    #[must_use]
    pub fn schedule(&self, number: u32) -> Schedule {
        let later = Nanos(self.period.0.saturating_mul(u64::from(number.saturating_sub(1))));
        let Schedule { starts_at, ends_at } = self.first;
        Schedule { starts_at: starts_at.map(|time| time.plus(later)), ends_at: ends_at.map(|time| time.plus(later)) }
    }

    /// Its occurrences, each with its session.
    pub fn occurrences(&self) -> impl Iterator<Item = (SessionId, Schedule)> {
        // Checked when it was asked for.
        (1..=self.count).filter_map(|number| Some((self.session_id(number).ok()?, self.schedule(number))))
    }

    fn is_same(&self, other: &Self) -> bool {
        let of = |record: &Self| (record.first, record.period, record.count);
        of(self) == of(other)
            && self.priority == other.priority
            && self.media_slots == other.media_slots
            && self.flows == other.flows
    }
}

/// A series on its first side.
pub(crate) struct Series {
    record: SeriesRecord,
    /// Who asked for it.
    client: Option<u64>,
    /// Who wants it ended.
    deleters: Vec<u64>,
    /// Why it is undone; none where somebody wants it.
    refusal: Option<Refusal>,
    /// The occurrence that is being booked.
    number: u32,
    /// What it has asked for and has no answer to.
    asked: BTreeSet<u64>,
    /// Some occurrence could not be ended yet.
    again: bool,
}

impl Series {
    const fn new(record: SeriesRecord, client: Option<u64>) -> Self {
        let asked = BTreeSet::new();
        Self { record, client, deleters: Vec::new(), refusal: None, number: 1, asked, again: false }
    }
}

fn unknown_series(id: &SessionId, node: &impl std::fmt::Display) -> Refusal {
    Refusal::new(Reason::UnknownSeries, format!("node {node} has no series {id}")).at("id")
}

impl Broker {
    /// The series that this node was asked for and whose last occurrence is not over, by id.
    pub fn series(&self) -> impl Iterator<Item = &SeriesRecord> {
        self.series.values().map(|series| &series.record)
    }

    /// One series.
    #[must_use]
    pub fn one_series(&self, id: &SessionId) -> Option<&SeriesRecord> {
        self.series.get(id).map(|series| &series.record)
    }

    /// How many occurrences there are of all series.
    pub(crate) fn series_occurrences(&self) -> usize {
        self.series.values().map(|series| series.record.count as usize).sum()
    }

    /// What an earlier life of this node kept of its series; to be called before [`Self::restore`]. What was not booked whole is undone.
    pub fn restore_series(&mut self, records: Vec<SeriesRecord>) {
        for record in records {
            self.series.insert(record.id.clone(), Series::new(record, None));
        }
    }

    /// After sessions were restored.
    pub(crate) fn resume_series(&mut self, now: Nanos) {
        let ids: Vec<SessionId> = self.series.keys().cloned().collect();
        for id in ids {
            match self.series.get(&id).map(|series| series.record.state) {
                Some(SeriesState::Booked) => self.await_series_end(&id),
                Some(SeriesState::Booking | SeriesState::Undoing) => self.undo_series(&id, now),
                None => {}
            }
        }
    }

    /// A client wants all occurrences of a session, or none.
    pub(crate) fn create_series(
        &mut self,
        ticket: u64,
        request: SessionRequest,
        (period, until): (Nanos, Until),
        credential: &Credential,
        now: Nanos,
    ) -> Result<(), Refusal> {
        // A token is for one session: where one is needed, a series cannot be.
        credential.check()?;
        let SessionRequest { id, schedule, priority, media_slots, flows } = request;
        priority.check()?;
        let first = schedule.interval();
        if schedule.starts_at.is_none() || schedule.ends_at.is_none() {
            let allowed = "together with starts_at and ends_at of the first occurrence";
            return Err(Refusal::invalid("recurrence", "without them", allowed));
        }
        let occurrences = Recurrence { first, period, until }.expand();
        let state = SeriesState::Booking;
        let count = match &occurrences {
            Ok(occurrences) => u32::try_from(occurrences.len()).unwrap_or(u32::MAX),
            Err(RecurrenceError::TooMany) => {
                let Refusal { detail, .. } = self.full(TableName::SeriesOccurrences);
                let detail = format!("{}; {detail}", RecurrenceError::TooMany);
                return Err(Refusal::new(Reason::LimitReached, detail).at("recurrence"));
            }
            Err(error) => return Err(Refusal::invalid("recurrence", "a rule that gives no bookings", error)),
        };
        let record =
            SeriesRecord { id: id.clone(), state, first: schedule, period, count, priority, media_slots, flows };
        if let Some(known) = self.series.get(&id) {
            return match known.record.state {
                _ if !known.record.is_same(&record) => Err(session_id_reused(&id, &self.config.node)),
                SeriesState::Booked => {
                    let answer = Answer::Series { record: known.record.clone(), created: false };
                    self.answer(ticket, answer);
                    Ok(())
                }
                SeriesState::Booking | SeriesState::Undoing => Err(series_busy(&id)),
            };
        }
        schedule.check(now)?;
        if let Err(error) = record.session_id(count) {
            let allowed = format!("an id that leaves room for the number of an occurrence: {error}");
            return Err(Refusal::invalid("id", id, allowed));
        }
        if let Some((taken, _)) = record.occurrences().find(|(session, _)| self.session(session).is_some()) {
            return Err(session_id_reused(&taken, &self.config.node));
        }
        if self.series_occurrences() + count as usize > SERIES_OCCURRENCES_MAX {
            return Err(self.full(TableName::SeriesOccurrences));
        }
        self.persist(Change::PutSeries(record.clone()));
        self.series.insert(id.clone(), Series::new(record, Some(ticket)));
        self.book_occurrence(&id, now);
        Ok(())
    }

    /// Asks for the next occurrence as a client would.
    fn book_occurrence(&mut self, id: &SessionId, now: Nanos) {
        let own = self.own_ticket(id);
        let Some(series) = self.series.get(id) else { return };
        let SeriesRecord { flows, media_slots, priority, .. } = series.record.clone();
        let Ok(session) = series.record.session_id(series.number) else { return };
        let schedule = series.record.schedule(series.number);
        let request = SessionRequest { id: session, schedule, priority, media_slots, flows };
        if let Err(refusal) = self.create_session(own, request, &Credential::default(), now) {
            self.refuse(own, refusal);
        }
    }

    fn own_ticket(&mut self, id: &SessionId) -> u64 {
        let own = OWN_TICKET | self.next_policy().0;
        self.series_tickets.insert(own, id.clone());
        if let Some(series) = self.series.get_mut(id) {
            series.asked.insert(own);
        }
        own
    }

    /// What came of what series asked for, as long as more comes of that.
    pub(crate) fn drive_series(&mut self, now: Nanos) {
        while let Some((own, answer)) = self.series_answers.pop_front() {
            let Some(id) = self.series_tickets.remove(&own) else { continue };
            let Some(series) = self.series.get_mut(&id) else { continue };
            series.asked.remove(&own);
            match (series.record.state, answer) {
                (SeriesState::Booking, Answer::Session { record, .. }) if record.state != SessionState::Ended => {
                    if series.number < series.record.count {
                        series.number += 1;
                        self.book_occurrence(&id, now);
                    } else {
                        self.series_booked(&id);
                    }
                }
                (SeriesState::Booking, answer) => {
                    let number = series.number;
                    let (count, schedule) = (series.record.count, series.record.schedule(number));
                    let begin = schedule.starts_at.unwrap_or_default();
                    let refusal = if let Answer::Refused(refusal) = answer {
                        refusal
                    } else {
                        Refusal::new(Reason::Busy, "somebody has ended it")
                    };
                    let detail = format!("occurrence {number} of {count}, from {begin} on: {}", refusal.detail);
                    series.refusal = Some(Refusal { detail, ..refusal });
                    self.undo_series(&id, now);
                }
                (SeriesState::Undoing | SeriesState::Booked, answer) => {
                    series.again |= matches!(&answer, Answer::Refused(refusal) if refusal.reason == Reason::Busy);
                    self.try_to_finish(&id, now);
                }
            }
        }
    }

    fn series_booked(&mut self, id: &SessionId) {
        let Some(series) = self.series.get_mut(id) else { return };
        series.record.state = SeriesState::Booked;
        let (record, client) = (series.record.clone(), series.client.take());
        self.persist(Change::PutSeries(record.clone()));
        if let Some(client) = client {
            self.answer(client, Answer::Series { record, created: true });
        }
        self.await_series_end(id);
    }

    fn await_series_end(&mut self, id: &SessionId) {
        if let Some(series) = self.series.get(id) {
            let end = series.record.schedule(series.record.count).ends_at.unwrap_or(OPEN);
            self.set_timer(Subject::Series(id.clone()), end);
        }
    }

    /// The last occurrence of one that is booked is over, or one is to be undone further.
    pub(crate) fn series_timer(&mut self, id: &SessionId, now: Nanos) {
        match self.series.get(id).map(|series| series.record.state) {
            Some(SeriesState::Undoing) => self.undo_series(id, now),
            Some(SeriesState::Booked) => {
                self.series.remove(id);
                self.persist(Change::DeleteSeries(id.clone()));
            }
            Some(SeriesState::Booking) | None => {}
        }
    }

    /// A client wants no occurrence of it any more.
    pub(crate) fn delete_series(&mut self, ticket: u64, id: &SessionId, now: Nanos) -> Result<(), Refusal> {
        let unknown = unknown_series(id, &self.config.node);
        let series = self.series.get_mut(id).ok_or(unknown)?;
        match series.record.state {
            SeriesState::Booking => return Err(series_busy(id)),
            SeriesState::Undoing => series.deleters.push(ticket),
            SeriesState::Booked => {
                series.deleters.push(ticket);
                self.undo_series(id, now);
            }
        }
        Ok(())
    }

    /// Ends what there is of it. What is being ended already goes on by itself, also over a restart.
    fn undo_series(&mut self, id: &SessionId, now: Nanos) {
        let Some(series) = self.series.get_mut(id) else { return };
        series.again = false;
        if series.record.state != SeriesState::Undoing {
            series.record.state = SeriesState::Undoing;
            let record = series.record.clone();
            self.persist(Change::PutSeries(record));
        }
        self.clear_timer(&Subject::Series(id.clone()));
        let Some(series) = self.series.get(id) else { return };
        let is_there = |session: &SessionId| self.sessions.get(session).is_some_and(|session| !session.is_ending());
        let there: Vec<SessionId> = series.record.occurrences().map(|(session, _)| session).filter(is_there).collect();
        for session in there {
            let own = self.own_ticket(id);
            if let Err(refusal) = self.delete_session(own, &session, now) {
                self.refuse(own, refusal);
            }
        }
        self.try_to_finish(id, now);
    }

    /// Once all that was asked for is answered: nothing is left of it, or what is left is tried again.
    fn try_to_finish(&mut self, id: &SessionId, now: Nanos) {
        let Some(series) = self.series.get(id).filter(|series| series.asked.is_empty()) else { return };
        if series.again {
            return self.set_timer(Subject::Series(id.clone()), now.plus(self.config.timers.retry));
        }
        let Some(Series { client, deleters, refusal, .. }) = self.series.remove(id) else { return };
        self.persist(Change::DeleteSeries(id.clone()));
        if let (Some(client), Some(refusal)) = (client, refusal) {
            self.refuse(client, refusal);
        }
        for deleter in deleters {
            self.answer(deleter, Answer::SeriesDeleted);
        }
    }

    /// Whether an answer is to a series and not to a client; then it is kept for it.
    pub(crate) fn take_for_series(&mut self, ticket: u64, answer: Answer) -> Option<Answer> {
        if ticket & OWN_TICKET == 0 {
            return Some(answer);
        }
        self.series_answers.push_back((ticket, answer));
        None
    }
}

fn series_busy(id: &SessionId) -> Refusal {
    Refusal::new(Reason::Busy, format!("series {id} is being booked or undone; try again"))
}
