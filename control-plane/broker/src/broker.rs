//! The broker: what comes in is handed to the aggregate or session that it is about; what goes out waits in one queue.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use crate::aggregate::Aggregate;
use crate::authorization::{Credential, Tokens};
use crate::capacity::LINK_CHANGES_MAX;
use crate::config::Config;
use crate::cost::Cost;
use crate::endpoints::Carried;
use crate::event::{Answer, Input, Output, Request};
use crate::extension::NewEnd;
use crate::fence::{Fences, Subject};
use crate::flow::Terms;
use crate::label::Labels;
use crate::link::LinkPools;
use crate::message::{Offer, PeerAnswer, PeerRequest};
use crate::name::{AggregateName, Epoch, LinkName, Nanos, NodeName, PolicyId, SessionId};
use crate::policy::{Counters, InstallError, Meter, Policy};
use crate::preemption::{PREEMPTIONS_MAX, Preemption};
use crate::question::Question;
use crate::rate_change::Of;
use crate::record::{AggregateRecord, Change, SessionRecord, SessionState};
use crate::refusal::{PoolState, Reason, Refusal};
use crate::release::Released;
use crate::resources::NodePools;
use crate::second_side::Hold;
use crate::series::{SERIES_OCCURRENCES_MAX, Series};
use crate::session::{Ended, Session};
use crate::watch::Watch;

/// A bandwidth broker (RFC 2638) for one node: admits, holds, commits and releases, and says what is to be done.
///
/// Deterministic: the same inputs at the same times give the same outputs.
pub struct Broker {
    pub(crate) config: Config,
    outputs: VecDeque<Output>,
    tickets: u64,
    policies: u64,
    pub(crate) usage_sequence: u64,
    pub(crate) links: BTreeMap<LinkName, LinkPools>,
    pub(crate) node_pools: NodePools,
    pub(crate) aggregates: BTreeMap<AggregateName, Aggregate>,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    pub(crate) ended: Ended,
    /// Those that ended while they were being installed: in force until that is answered and they are deinstalled.
    pub(crate) ending_installs: BTreeSet<SessionId>,
    pub(crate) labels: Labels,
    pub(crate) carried: Carried,
    pub(crate) fences: Fences,
    /// Asks that make room for themselves.
    pub(crate) preemptions: BTreeMap<SessionId, Preemption>,
    /// Sessions that are ended for one of these.
    pub(crate) claimed: BTreeMap<SessionId, SessionId>,
    pub(crate) preempted: u64,
    /// By the ticket that the second side was asked with.
    pub(crate) questions: BTreeMap<u64, Question>,
    pub(crate) watches: BTreeMap<SessionId, Watch>,
    pub(crate) series: BTreeMap<SessionId, Series>,
    /// Whose ticket it is, of those that are not answered.
    pub(crate) series_tickets: BTreeMap<u64, SessionId>,
    /// What series were answered, and have not looked at.
    pub(crate) series_answers: VecDeque<(u64, Answer)>,
    pub(crate) tokens: Tokens,
    /// Those whose turn it is: the second side was asked.
    pub(crate) calling: BTreeSet<SessionId>,
    /// Those that wait no longer, because they are called, offered, or given back after that.
    pub(crate) called: BTreeSet<SessionId>,
    /// Something was given back since sessions that wait were looked at.
    pub(crate) room: bool,
    /// Something has changed of links since it was looked at what they carry.
    pub(crate) links_changed: bool,
    pending: BTreeMap<u64, Subject>,
    /// Of the same time those first that do not start something.
    timers: BTreeSet<(Nanos, bool, Subject)>,
    timer_by_subject: BTreeMap<Subject, (Nanos, bool)>,
    wake: Option<Nanos>,
    /// Of the last input.
    pub(crate) now: Nanos,
    refusals: BTreeMap<Reason, u64>,
    full: BTreeMap<TableName, u64>,
    #[cfg(feature = "planted-bugs")]
    pub(crate) planted: Option<crate::planted::PlantedBug>,
}

/// The broker's bounded tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TableName {
    Aggregates,
    Sessions,
    Flows,
    Labels,
    Questions,
    Watches,
    Preemptions,
    LinkChanges,
    SeriesOccurrences,
    Tokens,
}

/// How full a bounded table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// `aggregates`, `sessions` (not ended at both ends), `flows` (sent by this node), `labels` (of what it receives: one for a flow, or one for
    /// all of an aggregate) `questions` (whether a session would be admitted, not answered yet),
    /// `watches` (sessions that wait for room, or are called), `preemptions` (asks that end others to make room, and are not answered yet),
    /// `tokens` (that are taken and have not expired), `link_changes` (other rates of links, in force or to come) or `series_occurrences` (of all
    /// series whose last one is not over).
    pub name: &'static str,
    /// Entries.
    pub used: u64,
    /// Most entries.
    pub max: u64,
    /// How often something was refused because it was full.
    pub full: u64,
}

impl Broker {
    /// A broker that holds nothing. Before the first input, give it what the node kept: [`Self::restore`].
    #[must_use]
    pub fn new(config: Config) -> Self {
        let epoch = config.epoch;
        Self {
            outputs: VecDeque::new(),
            tickets: u64::from(epoch.0) << 32,
            policies: u64::from(epoch.0) << 32,
            usage_sequence: 0,
            links: config
                .links
                .iter()
                .map(|(name, link)| (name.clone(), LinkPools::new(*link, &config.class_percent_max)))
                .collect(),
            node_pools: NodePools::new(&config.capacity),
            aggregates: BTreeMap::new(),
            sessions: BTreeMap::new(),
            ended: Ended::new(config.limits.sessions_ended_max),
            ending_installs: BTreeSet::new(),
            labels: Labels::new(config.limits.flows_max, config.label_secret, epoch),
            carried: Carried::default(),
            fences: Fences::new(config.limits.sessions_ended_max.max(1_024)),
            preemptions: BTreeMap::new(),
            claimed: BTreeMap::new(),
            preempted: 0,
            questions: BTreeMap::new(),
            watches: BTreeMap::new(),
            series: BTreeMap::new(),
            series_tickets: BTreeMap::new(),
            series_answers: VecDeque::new(),
            tokens: Tokens::default(),
            calling: BTreeSet::new(),
            called: BTreeSet::new(),
            room: false,
            links_changed: false,
            pending: BTreeMap::new(),
            timers: BTreeSet::new(),
            timer_by_subject: BTreeMap::new(),
            wake: None,
            now: Nanos(0),
            refusals: BTreeMap::new(),
            full: BTreeMap::new(),
            #[cfg(feature = "planted-bugs")]
            planted: None,
            config,
        }
    }

    /// Takes in what has happened at `now`, which never goes back. Then call [`Self::poll`] until it returns `None`.
    pub fn handle(&mut self, input: Input, now: Nanos) {
        if input == Input::Tick {
            self.wake = None;
        }
        self.now = now;
        self.handle_timers(now);
        self.reckon_links(now);
        match input {
            Input::Request { ticket, request, credential } => self.handle_request(ticket, request, &credential, now),
            Input::PeerRequest { ticket, peer, epoch, request, credential } => {
                self.handle_peer_request(ticket, peer, epoch, request, &credential, now);
            }
            Input::PeerAnswered { ticket, answer } => self.handle_peer_answered(ticket, answer, now),
            Input::Installed { ticket } => self.handle_installed(ticket, Ok(()), now),
            Input::InstallFailed { ticket, error } => self.handle_installed(ticket, Err(error), now),
            Input::MetersChanged { ticket, counters } => self.handle_meters_changed(ticket, &counters, now),
            Input::Deinstalled { ticket, counters } => self.handle_deinstalled(ticket, &counters, now),
            Input::Tick => {}
        }
        self.take_claimed(now);
        self.drive_series(now);
        self.reckon_links(now);
        self.call_waiting(now);
        self.ask_to_wake();
    }

    /// What is to be done next; `None` when there is nothing.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// All aggregates, by name.
    pub fn aggregates(&self) -> impl Iterator<Item = &AggregateRecord> {
        self.aggregates.values().map(|aggregate| &aggregate.record)
    }

    /// One aggregate.
    #[must_use]
    pub fn aggregate(&self, name: &AggregateName) -> Option<&AggregateRecord> {
        self.aggregates.get(name).map(|aggregate| &aggregate.record)
    }

    /// What flows may have of an aggregate, and have: bits per second and bytes on the wire (R-003-1).
    #[must_use]
    pub fn pool(&self, name: &AggregateName) -> Option<PoolState> {
        self.aggregates.get(name).map(|aggregate| aggregate.pool_state(&self.config.node, self.now))
    }

    /// What flows have of an aggregate at a time that is not past.
    #[must_use]
    pub fn used_at(&self, name: &AggregateName, time: Nanos) -> Option<Cost> {
        self.aggregates.get(name).map(|aggregate| aggregate.pool.used_at(time))
    }

    /// All sessions that have not ended at both ends, by id.
    pub fn sessions(&self) -> impl Iterator<Item = &SessionRecord> {
        self.sessions.values().map(|session| &session.record)
    }

    /// The ended sessions that are still kept, the oldest first.
    pub fn ended(&self) -> impl Iterator<Item = &SessionRecord> {
        self.ended.iter()
    }

    /// The sessions that wait for room, by id; one that is called or offered is among [`Self::sessions`].
    pub fn waiting(&self) -> impl Iterator<Item = &SessionRecord> {
        self.watches.values().map(|watch| &watch.record)
    }

    /// One session, be it waiting, ended or neither.
    #[must_use]
    pub fn session(&self, id: &SessionId) -> Option<&SessionRecord> {
        let waiting = || self.watches.get(id).map(|watch| &watch.record);
        self.sessions.get(id).map(|session| &session.record).or_else(waiting).or_else(|| self.ended.get(id))
    }

    /// Each link with what aggregates have of it: out, then in (R-000-2).
    pub fn links(&self) -> impl Iterator<Item = (&LinkName, PoolState, PoolState)> {
        self.links.iter().map(|(name, pools)| {
            let (out, into) = pools.states(name, &self.config.node, self.now);
            (name, out, into)
        })
    }

    /// How often this node refused, for each reason that has occurred.
    #[must_use]
    pub const fn refusals(&self) -> &BTreeMap<Reason, u64> {
        &self.refusals
    }

    /// How full the bounded tables are.
    #[must_use]
    pub fn tables(&self) -> [Table; 10] {
        use TableName::{
            Aggregates, Flows, Labels, LinkChanges, Preemptions, Questions, SeriesOccurrences, Sessions, Tokens,
            Watches,
        };
        [Aggregates, Sessions, Flows, Labels, Questions, Watches, Preemptions, Tokens, LinkChanges, SeriesOccurrences]
            .map(|name| self.table(name))
    }

    fn table(&self, name: TableName) -> Table {
        let limits = &self.config.limits;
        let (text, used, max) = match name {
            TableName::Aggregates => ("aggregates", self.aggregates.len(), limits.aggregates_max),
            TableName::Sessions => ("sessions", self.sessions.len(), limits.sessions_max),
            TableName::Flows => ("flows", self.carried.flows_out(), self.flows_max()),
            TableName::Labels => ("labels", self.labels.used(), self.flows_max()),
            TableName::Questions => ("questions", self.questions.len(), limits.questions_max),
            TableName::Watches => ("watches", self.watches.len() + self.called.len(), limits.watches_max),
            TableName::Preemptions => ("preemptions", self.preemptions.len(), PREEMPTIONS_MAX),
            TableName::LinkChanges => ("link_changes", self.link_changes(), LINK_CHANGES_MAX),
            TableName::SeriesOccurrences => ("series_occurrences", self.series_occurrences(), SERIES_OCCURRENCES_MAX),
            TableName::Tokens => ("tokens", self.tokens.len(), limits.tokens_max),
        };
        let full = self.full.get(&name).copied().unwrap_or_default();
        Table { name: text, used: used as u64, max: max as u64, full }
    }

    /// Those that make room for themselves will be sessions.
    pub(crate) fn are_sessions_full(&self) -> bool {
        self.sessions.len() + self.preemptions.len() >= self.config.limits.sessions_max
    }

    pub(crate) const fn flows_max(&self) -> usize {
        self.config.limits.flows_max as usize
    }

    /// Counts that a table was full, and says so.
    pub(crate) fn full(&mut self, name: TableName) -> Refusal {
        *self.full.entry(name).or_default() += 1;
        self.no_place(name)
    }

    /// What [`Self::full`] says, to a question: nothing was refused.
    pub(crate) fn no_place(&self, name: TableName) -> Refusal {
        let Table { name, used, max, .. } = self.table(name);
        let detail = format!("node {} has {used} {name} and allows {max}", self.config.node);
        Refusal::new(Reason::LimitReached, detail)
    }

    fn handle_request(&mut self, ticket: u64, request: Request, credential: &Credential, now: Nanos) {
        let done = match request {
            Request::CreateAggregate(request) => self.create_aggregate(ticket, request, now),
            Request::DeleteAggregate(name) => self.delete_aggregate(ticket, &name, now),
            Request::CreateSession(request) => self.create_session(ticket, request, credential, now),
            Request::WaitForSession { request, until } => {
                self.wait_for_session(ticket, request, until, credential, now)
            }
            Request::WouldAdmit(request) => return self.ask_would_admit(ticket, request, credential, now),
            Request::ChangeSessionEnd { id, ends_at } => self.change_session_end(ticket, &id, ends_at, now),
            Request::ChangeSessionRates { id, flows } => self.change_session_rates(ticket, &id, &flows, now),
            Request::DeleteSession(id) => self.delete_session(ticket, &id, now),
            Request::CreateSeries { request, period, until } => {
                self.create_series(ticket, request, (period, until), credential, now)
            }
            Request::DeleteSeries(id) => self.delete_series(ticket, &id, now),
            Request::ChangeLink(wish) => self.change_link(ticket, &wish, now),
        };
        if let Err(refusal) = done {
            self.refuse(ticket, refusal);
        }
    }

    fn handle_peer_request(
        &mut self,
        ticket: u64,
        peer: NodeName,
        epoch: Epoch,
        request: PeerRequest,
        credential: &Credential,
        now: Nanos,
    ) {
        let done = match self.fences.admits_epoch(&peer, epoch) {
            Err(highest) => Err(Refusal::new(
                Reason::StaleEpoch,
                format!(
                    "epoch {} of {peer} is over; {} has been seen; if {peer} has lost its database, restart {}",
                    epoch.0, highest.0, self.config.node
                ),
            )),
            Ok(()) => self.handle_heard(ticket, peer, request, credential, now),
        };
        if let Err(refusal) = done {
            self.refuse_peer(ticket, refusal);
        }
    }

    /// A refused offer or hold is over: another copy of it that comes late must not be taken.
    fn handle_heard(
        &mut self,
        ticket: u64,
        peer: NodeName,
        request: PeerRequest,
        credential: &Credential,
        now: Nanos,
    ) -> Result<(), Refusal> {
        match request {
            PeerRequest::OfferAggregate(Offer { attempt: 0, .. }) | PeerRequest::HoldSession { attempt: 0, .. } => {
                Err(Refusal::invalid("attempt", 0, "1 or more"))
            }
            PeerRequest::OfferAggregate(offer) => {
                let (subject, attempt) = (Subject::Aggregate(offer.name.clone()), offer.attempt);
                self.offer_received(ticket, peer.clone(), offer, now)
                    .inspect_err(|_| self.fences.close(&peer, subject, attempt))
            }
            PeerRequest::WithdrawAggregate { name, attempt } => {
                self.withdrawal_received(ticket, &peer, name, attempt, now)
            }
            PeerRequest::HoldSession {
                session,
                attempt,
                schedule,
                priority,
                preempting,
                sent_at,
                offer,
                media_slots,
                flows,
            } => {
                let subject = Subject::Session(session.clone());
                let terms = Terms { schedule, priority };
                let hold = Hold { attempt, terms, preempting, sent_at, offer, media_slots, asked: &flows, credential };
                self.hold_received(ticket, peer.clone(), session, hold, now)
                    .inspect_err(|_| self.fences.close(&peer, subject, attempt))
            }
            PeerRequest::WouldHoldSession { session, schedule, priority, preempting, sent_at, media_slots, flows } => {
                let terms = Terms { schedule, priority };
                let hold = Hold {
                    attempt: 0,
                    terms,
                    preempting,
                    sent_at,
                    offer: false,
                    media_slots,
                    asked: &flows,
                    credential,
                };
                self.would_hold_received(ticket, &peer, &session, hold, now);
                Ok(())
            }
            PeerRequest::BookSession { session, attempt } => self.book_received(ticket, &peer, &session, attempt, now),
            PeerRequest::CommitSession { session, attempt } => {
                self.commit_received(ticket, &peer, &session, attempt, now)
            }
            PeerRequest::ChangeSessionEnd { session, attempt, change, ends_at, sent_at } => {
                let new_end = NewEnd { attempt, change, ends_at, sent_at };
                self.change_received(ticket, &peer, &session, new_end, now)
            }
            PeerRequest::HoldRates { session, attempt, change, flows } => {
                let of = Of { peer: &peer, id: &session, attempt, number: change };
                self.hold_rates_received(ticket, of, &flows, now)
            }
            PeerRequest::CommitRates { session, attempt, change } => {
                let of = Of { peer: &peer, id: &session, attempt, number: change };
                self.commit_rates_received(ticket, of, now)
            }
            PeerRequest::VoidRates { session, attempt, change } => {
                let of = Of { peer: &peer, id: &session, attempt, number: change };
                self.void_rates_received(ticket, of, now)
            }
            PeerRequest::ReleaseSession { session, side, attempt, failure } => {
                let released = Released { id: session, side, attempt, failure };
                self.release_received(ticket, &peer, released, now);
                Ok(())
            }
        }
    }

    fn handle_peer_answered(&mut self, ticket: u64, answer: Result<PeerAnswer, String>, now: Nanos) {
        match self.pending.remove(&ticket) {
            Some(Subject::Aggregate(name)) => self.aggregate_answered(&name, ticket, answer, now),
            Some(Subject::Session(id)) => self.session_answered(&id, ticket, answer, now),
            Some(Subject::Rates(id)) => self.rates_answered(&id, ticket, answer, now),
            Some(Subject::Question) => self.question_answered(ticket, answer),
            Some(Subject::Preemption(id)) => self.preemption_answered(&id, ticket, answer, now),
            Some(Subject::Watch(_) | Subject::Link(_) | Subject::Series(_)) | None => {}
        }
    }

    fn handle_installed(&mut self, ticket: u64, outcome: Result<(), InstallError>, now: Nanos) {
        match self.pending.remove(&ticket) {
            Some(Subject::Aggregate(name)) => self.aggregate_installed(&name, ticket, outcome, now),
            Some(Subject::Session(id)) => self.session_installed(&id, ticket, outcome, now),
            Some(Subject::Rates(id)) => self.rates_changed(&id, ticket, outcome.map(|()| &[][..]), now),
            Some(
                Subject::Question | Subject::Preemption(_) | Subject::Watch(_) | Subject::Link(_) | Subject::Series(_),
            )
            | None => {}
        }
    }

    fn handle_deinstalled(&mut self, ticket: u64, counters: &[Counters], now: Nanos) {
        match self.pending.remove(&ticket) {
            Some(Subject::Aggregate(name)) => self.aggregate_deinstalled(&name, ticket, now),
            Some(Subject::Session(id)) => self.session_deinstalled(&id, ticket, counters, now),
            Some(
                Subject::Rates(_)
                | Subject::Question
                | Subject::Preemption(_)
                | Subject::Watch(_)
                | Subject::Link(_)
                | Subject::Series(_),
            )
            | None => {}
        }
    }

    fn handle_meters_changed(&mut self, ticket: u64, counters: &[Counters], now: Nanos) {
        if let Some(Subject::Rates(id)) = self.pending.remove(&ticket) {
            self.rates_changed(&id, ticket, Ok(counters), now);
        }
    }

    /// Also before any other input, so that what lapses does so at its time whenever the tick comes.
    fn handle_timers(&mut self, now: Nanos) {
        while let Some((at, _, subject)) = self.timers.first().cloned() {
            if at > now {
                break;
            }
            self.clear_timer(&subject);
            match subject {
                Subject::Aggregate(name) => self.aggregate_timer(&name, now),
                Subject::Session(id) => self.session_timer(&id, now),
                Subject::Rates(id) => self.resume_rates(&id, now),
                Subject::Watch(id) => self.watch_timer(&id, now),
                Subject::Preemption(id) => self.preemption_timer(&id, now),
                Subject::Link(name) => self.link_timer(&name, now),
                Subject::Series(id) => self.series_timer(&id, now),
                // The peer's answer has its deadline.
                Subject::Question => {}
            }
        }
    }

    pub(crate) fn notify(&mut self, session: SessionId, state: SessionState) {
        self.outputs.push_back(Output::Notify { session, state, preempted: false });
    }

    pub(crate) fn notify_preempted(&mut self, session: SessionId) {
        self.outputs.push_back(Output::Notify { session, state: SessionState::Releasing, preempted: true });
    }

    /// How many sessions were ended here, or at the peer, for others of higher priority since the start.
    #[must_use]
    pub const fn preempted(&self) -> u64 {
        self.preempted
    }

    fn ask_to_wake(&mut self) {
        if let Some((at, _, _)) = self.timers.first()
            && self.wake != Some(*at)
        {
            self.wake = Some(*at);
            self.outputs.push_back(Output::WakeAt(*at));
        }
    }

    /// One timer for each subject; a new one replaces the last.
    pub(crate) fn set_timer(&mut self, subject: Subject, at: Nanos) {
        self.insert_timer(subject, at, false);
    }

    /// The same for a start: it comes after what ends at that time and makes room.
    pub(crate) fn set_start_timer(&mut self, subject: Subject, at: Nanos) {
        self.insert_timer(subject, at, true);
    }

    fn insert_timer(&mut self, subject: Subject, at: Nanos, start: bool) {
        self.clear_timer(&subject);
        self.timers.insert((at, start, subject.clone()));
        self.timer_by_subject.insert(subject, (at, start));
    }

    pub(crate) fn clear_timer(&mut self, subject: &Subject) {
        if let Some((at, start)) = self.timer_by_subject.remove(subject) {
            self.timers.remove(&(at, start, subject.clone()));
        }
    }

    fn next_ticket(&mut self, subject: Subject) -> u64 {
        self.tickets += 1;
        self.pending.insert(self.tickets, subject);
        self.tickets
    }

    pub(crate) const fn next_policy(&mut self) -> PolicyId {
        self.policies += 1;
        PolicyId(self.policies)
    }

    pub(crate) fn persist(&mut self, change: Change) {
        let of_token = self.follow_session(&change);
        self.outputs.extend([change].into_iter().chain(of_token).map(Output::Persist));
    }

    pub(crate) fn install(
        &mut self,
        subject: Subject,
        policies: Vec<(PolicyId, Policy)>,
        terminals: Vec<IpAddr>,
    ) -> u64 {
        let ticket = self.next_ticket(subject);
        self.outputs.push_back(Output::Install { ticket, policies, terminals });
        ticket
    }

    pub(crate) fn change_meters(&mut self, subject: Subject, meters: Vec<(PolicyId, Meter, Meter)>) -> u64 {
        let ticket = self.next_ticket(subject);
        self.outputs.push_back(Output::ChangeMeters { ticket, meters });
        ticket
    }

    pub(crate) fn deinstall(&mut self, subject: Subject, policies: Vec<PolicyId>) -> u64 {
        let ticket = self.next_ticket(subject);
        self.outputs.push_back(Output::Deinstall { ticket, policies });
        ticket
    }

    /// Takes policies out of force that nothing knows; nobody waits for it.
    pub(crate) fn deinstall_orphans(&mut self, policies: Vec<PolicyId>) {
        self.tickets += 1;
        self.outputs.push_back(Output::Deinstall { ticket: self.tickets, policies });
    }

    pub(crate) fn send(&mut self, subject: Subject, peer: NodeName, request: PeerRequest, now: Nanos) -> u64 {
        self.send_with(subject, peer, request, None, now)
    }

    /// The same, with a client's token beside it.
    pub(crate) fn send_with(
        &mut self,
        subject: Subject,
        peer: NodeName,
        request: PeerRequest,
        token: Option<String>,
        now: Nanos,
    ) -> u64 {
        let ticket = self.next_ticket(subject);
        let deadline = now.plus(self.config.timers.reply);
        self.outputs.push_back(Output::Send { ticket, peer, request, token, deadline });
        ticket
    }

    /// Answers a client; a refusal is counted.
    pub(crate) fn answer(&mut self, ticket: u64, answer: Answer) {
        let Some(answer) = self.take_for_series(ticket, answer) else { return };
        if let Answer::Refused(refusal) = &answer {
            self.count(refusal.reason);
        }
        self.outputs.push_back(Output::Answer { ticket, answer });
    }

    /// Answers a question; it counts as no refusal, because nothing was refused.
    pub(crate) fn answer_question(&mut self, ticket: u64, answer: Result<Answer, Refusal>) {
        let answer = answer.unwrap_or_else(Answer::Refused);
        self.outputs.push_back(Output::Answer { ticket, answer });
    }

    /// Answers a peer's question, likewise.
    pub(crate) fn answer_peers_question(&mut self, ticket: u64, answer: Result<PeerAnswer, Refusal>) {
        let answer = answer.unwrap_or_else(|refusal| PeerAnswer::Refused { refusal });
        self.outputs.push_back(Output::PeerAnswer { ticket, answer });
    }

    pub(crate) fn refuse(&mut self, ticket: u64, refusal: Refusal) {
        self.answer(ticket, Answer::Refused(refusal));
    }

    /// Answers a peer; a refusal is counted.
    pub(crate) fn answer_peer(&mut self, ticket: u64, answer: PeerAnswer) {
        if let PeerAnswer::Refused { refusal } = &answer {
            self.count(refusal.reason);
        }
        self.outputs.push_back(Output::PeerAnswer { ticket, answer });
    }

    pub(crate) fn refuse_peer(&mut self, ticket: u64, refusal: Refusal) {
        self.answer_peer(ticket, PeerAnswer::Refused { refusal });
    }

    fn count(&mut self, reason: Reason) {
        *self.refusals.entry(reason).or_default() += 1;
    }

    /// Asks for the next tick after a restart, when no input has come yet.
    pub(crate) fn restored(&mut self, now: Nanos) {
        self.now = now;
        self.room = true;
        self.resume_series(now);
        self.drive_series(now);
        self.reckon_links(now);
        self.call_waiting(now);
        self.ask_to_wake();
    }
}
