//! The one thread that owns the broker and the store, and turns the broker's outputs into effects.
//!
//! Inputs that wait are handled together: their changes are one transaction, and no other output is carried out before
//! that transaction is on disk.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tracing::{error, info, warn};
use turnpike_broker::message::{PeerAnswer, PeerRequest};
use turnpike_broker::name::{Epoch, Nanos, NodeName, PolicyId};
use turnpike_broker::record::Change;
use turnpike_broker::{Answer, Broker, Credential, Input, Output, Request};
use turnpike_store::{Revocation, Store, StoreError};

use crate::dataplane::{self, Ended, JOBS_MAX, Job, Report, Unanswered};
use crate::decision::Decision;
use crate::http::STREAMS_MAX;
use crate::peer_client::{Exchange, PeerClient};
use crate::problem;
use crate::time::Clock;

/// Inputs that share one transaction.
const BATCH_MAX: usize = 128;
/// How long the data plane may take for what it is doing once the node stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests to one peer at once: what its server takes.
const SENDS_MAX: usize = STREAMS_MAX as usize;

/// What comes to the thread.
enum Message {
    Request {
        request: Request,
        credential: Credential,
        answer: oneshot::Sender<Answer>,
        permit: OwnedSemaphorePermit,
    },
    PeerRequest {
        peer: NodeName,
        epoch: Epoch,
        request: PeerRequest,
        credential: Credential,
        answer: oneshot::Sender<PeerAnswer>,
        permit: OwnedSemaphorePermit,
    },
    Report(Report),
    PeerAnswered {
        ticket: u64,
        peer: NodeName,
        answer: Result<PeerAnswer, String>,
    },
    Revoke {
        revocation: Revocation,
        forgotten_before: Nanos,
        answer: oneshot::Sender<()>,
        permit: OwnedSemaphorePermit,
    },
    Read(Box<dyn FnOnce(&View<'_>) + Send>, OwnedSemaphorePermit),
    Stop,
}

/// What reads may look at.
pub(crate) struct View<'a> {
    pub(crate) broker: &'a Broker,
    pub(crate) store: &'a Store,
    pub(crate) peers: &'a BTreeMap<NodeName, Contact>,
    pub(crate) notices: &'a BTreeMap<String, u64>,
}

/// What came of the last request to a peer.
pub(crate) type Contact = Result<(), String>;

/// Talks to the thread. Every message has a place in the channel: requests by their permits, reports by the bounds on
/// what is under way.
#[derive(Clone)]
pub(crate) struct Handle {
    sender: SyncSender<Message>,
    requests: Arc<Semaphore>,
    peer_requests: Arc<Semaphore>,
}

impl Handle {
    /// Asks the broker for a client.
    pub(crate) async fn request(&self, request: Request, credential: Credential) -> Result<Answer, Unanswered> {
        let permit = permit(&self.requests)?;
        let (answer, answered) = oneshot::channel();
        self.give(Message::Request { request, credential, answer, permit })?;
        answered.await.map_err(|_| Unanswered::Stopped)
    }

    /// Asks the broker for a peer.
    pub(crate) async fn peer_request(
        &self,
        peer: NodeName,
        epoch: Epoch,
        request: PeerRequest,
        credential: Credential,
    ) -> Result<PeerAnswer, Unanswered> {
        let permit = permit(&self.peer_requests)?;
        let (answer, answered) = oneshot::channel();
        self.give(Message::PeerRequest { peer, epoch, request, credential, answer, permit })?;
        answered.await.map_err(|_| Unanswered::Stopped)
    }

    /// Makes a revocation durable, and forgets those of tokens that were made before.
    pub(crate) async fn revoke(&self, revocation: Revocation, forgotten_before: Nanos) -> Result<(), Unanswered> {
        let permit = permit(&self.requests)?;
        let (answer, answered) = oneshot::channel();
        self.give(Message::Revoke { revocation, forgotten_before, answer, permit })?;
        answered.await.map_err(|_| Unanswered::Stopped)
    }

    /// Reads what the thread owns, after everything that was asked before is durable.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&View<'_>) -> T + Send + 'static,
    ) -> Result<T, Unanswered> {
        self.read_in(&self.requests, work).await
    }

    /// The same for a peer, whom clients do not keep waiting.
    pub(crate) async fn peer_read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&View<'_>) -> T + Send + 'static,
    ) -> Result<T, Unanswered> {
        self.read_in(&self.peer_requests, work).await
    }

    async fn read_in<T: Send + 'static>(
        &self,
        permits: &Arc<Semaphore>,
        work: impl FnOnce(&View<'_>) -> T + Send + 'static,
    ) -> Result<T, Unanswered> {
        let permit = permit(permits)?;
        let (answer, answered) = oneshot::channel();
        let work = Box::new(move |view: &View<'_>| {
            // The asker may have given up.
            let _ = answer.send(work(view));
        });
        self.give(Message::Read(work, permit))?;
        answered.await.map_err(|_| Unanswered::Stopped)
    }

    /// What the data plane has done.
    pub(crate) fn report(&self, report: Report) {
        // The thread has ended: nobody is left to tell.
        let _ = self.give(Message::Report(report));
    }

    /// Ends the thread once what came before is carried out.
    pub(crate) fn stop(&self) {
        // It has ended already: all the better.
        let _ = self.give(Message::Stop);
    }

    fn give(&self, message: Message) -> Result<(), Unanswered> {
        self.sender.try_send(message).map_err(|_| Unanswered::Stopped)
    }
}

fn permit(permits: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Unanswered> {
    Arc::clone(permits).try_acquire_owned().map_err(|_| Unanswered::Overloaded)
}

/// The thread's end of the channel.
pub(crate) struct Inbox(Receiver<Message>);

/// A channel with a place for everything that can be under way.
pub(crate) fn channel(requests_max: usize, peers: usize) -> (Handle, Inbox) {
    // Twice, because a permit comes back when the answer is given, just before the next message is taken.
    let places = 2 * requests_max + JOBS_MAX + SENDS_MAX * peers + 8;
    let (sender, receiver) = sync_channel(places);
    let semaphore = || Arc::new(Semaphore::new(requests_max));
    (Handle { sender, requests: semaphore(), peer_requests: semaphore() }, Inbox(receiver))
}

/// Why the node cannot go on. What is in force in the data plane stays so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CoreError {
    #[error("the store failed, so nothing more can be decided: {0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    DataPlane(#[from] Ended),
}

/// What the core is made of.
pub(crate) struct Parts {
    pub(crate) broker: Broker,
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) epoch: Epoch,
    pub(crate) handle: Handle,
    pub(crate) inbox: Inbox,
    pub(crate) data_plane: dataplane::Handle,
    pub(crate) peers: PeerClient,
    /// Whether packets of no admitted flow get what aggregates leave of the link.
    pub(crate) limit_best_effort: bool,
}

/// Requests to one peer: how many are under way, and those that wait for one of them to be answered.
#[derive(Default)]
struct Sends {
    under_way: usize,
    waiting: VecDeque<Sending>,
}

/// A request to a peer.
struct Sending {
    ticket: u64,
    request: PeerRequest,
    token: Option<String>,
    deadline: Nanos,
}

pub(crate) struct Core {
    parts: Parts,
    effects: Vec<Output>,
    changes: Vec<Change>,
    tickets: u64,
    answers: HashMap<u64, (oneshot::Sender<Answer>, Decision, OwnedSemaphorePermit)>,
    peer_answers: HashMap<u64, (oneshot::Sender<PeerAnswer>, Decision, OwnedSemaphorePermit)>,
    /// Out of force; their final readings are on disk with the next transaction.
    recorded: Vec<PolicyId>,
    jobs: VecDeque<Job>,
    jobs_under_way: usize,
    sends: BTreeMap<NodeName, Sends>,
    contacts: BTreeMap<NodeName, Contact>,
    /// Of sessions that wait, by the state that they came to.
    notices: BTreeMap<String, u64>,
    wake_at: Option<Nanos>,
    best_effort_rate_bps: Option<u64>,
}

impl Core {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            parts,
            effects: Vec::new(),
            changes: Vec::new(),
            tickets: 0,
            answers: HashMap::new(),
            peer_answers: HashMap::new(),
            recorded: Vec::new(),
            jobs: VecDeque::new(),
            jobs_under_way: 0,
            sends: BTreeMap::new(),
            contacts: BTreeMap::new(),
            notices: BTreeMap::new(),
            wake_at: None,
            best_effort_rate_bps: None,
        }
    }

    /// Works until it is stopped or cannot go on.
    pub(crate) fn run(mut self) -> Result<(), CoreError> {
        // What the broker wanted when it was restored.
        self.drain();
        self.limit_best_effort();
        self.carry_out()?;
        loop {
            let mut next = self.wait();
            let mut taken = 0;
            while let Some(message) = next {
                if matches!(message, Message::Stop) {
                    return self.finish();
                }
                self.take(message)?;
                taken += 1;
                next = if taken < BATCH_MAX { self.parts.inbox.0.try_recv().ok() } else { None };
            }
            self.carry_out()?;
        }
    }

    /// What the data plane is doing is waited for: a final reading can be had only once. What else is to be done is left
    /// to the next life.
    fn finish(&mut self) -> Result<(), CoreError> {
        self.carry_out()?;
        let end = Instant::now() + STOP_TIMEOUT;
        while self.jobs_under_way > 0 {
            match self.parts.inbox.0.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(Message::Report(report)) => self.take_report(report)?,
                Ok(_) => {}
                Err(_) => {
                    warn!(jobs = self.jobs_under_way, "the data plane is still at work; its last readings are lost");
                    break;
                }
            }
            self.effects.clear();
            self.parts.store.apply(&std::mem::take(&mut self.changes))?;
        }
        Ok(())
    }

    /// The next message, or none when it is time for the broker to be woken, which it then was.
    fn wait(&mut self) -> Option<Message> {
        let timeout = self.wake_at.map_or(Duration::MAX, |wake_at| self.parts.clock.until(wake_at));
        if timeout.is_zero() {
            self.wake_at = None;
            self.handle(Input::Tick);
            return self.parts.inbox.0.try_recv().ok();
        }
        // A very long time-out overflows in the standard library's clock.
        match self.parts.inbox.0.recv_timeout(timeout.min(Duration::from_secs(3_600))) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            // Not possible while `self.parts.handle` is there.
            Err(RecvTimeoutError::Disconnected) => Some(Message::Stop),
        }
    }

    fn take(&mut self, message: Message) -> Result<(), CoreError> {
        match message {
            Message::Request { request, credential, answer, permit } => {
                let ticket = self.next_ticket();
                self.answers.insert(ticket, (answer, Decision::of_request(&request), permit));
                self.handle(Input::Request { ticket, request, credential });
            }
            Message::PeerRequest { peer, epoch, request, credential, answer, permit } => {
                let ticket = self.next_ticket();
                self.peer_answers.insert(ticket, (answer, Decision::of_peer_request(&peer, &request), permit));
                self.handle(Input::PeerRequest { ticket, peer, epoch, request, credential });
            }
            Message::Report(report) => self.take_report(report)?,
            Message::PeerAnswered { ticket, peer, answer } => {
                self.peer_answered(ticket, peer, answer);
            }
            Message::Revoke { revocation, forgotten_before, answer, permit: _permit } => {
                self.parts.store.forget_revoked_tokens(forgotten_before)?;
                self.parts.store.revoke(&revocation)?;
                // The asker may have given up.
                let _ = answer.send(());
            }
            Message::Read(work, _permit) => {
                self.carry_out()?;
                let Parts { broker, store, .. } = &self.parts;
                work(&View { broker, store, peers: &self.contacts, notices: &self.notices });
            }
            Message::Stop => {}
        }
        Ok(())
    }

    fn take_report(&mut self, report: Report) -> Result<(), CoreError> {
        self.jobs_under_way = self.jobs_under_way.saturating_sub(1);
        match report {
            Report::Installed { ticket, result: Ok(()) } => self.handle(Input::Installed { ticket }),
            Report::Installed { ticket, result: Err(error) } => {
                warn!(code = error.code, detail = error.detail, "the data plane did not take a policy");
                self.handle(Input::InstallFailed { ticket, error });
            }
            Report::Changed { ticket, result: Ok(counters) } => self.handle(Input::MetersChanged { ticket, counters }),
            Report::Changed { ticket, result: Err(error) } => {
                warn!(code = error.code, detail = error.detail, "the data plane did not change a policy");
                self.handle(Input::InstallFailed { ticket, error });
            }
            Report::Deinstalled { ticket, policies, counters } => {
                self.handle(Input::Deinstalled { ticket, counters });
                self.recorded.extend(policies);
            }
            Report::Forgotten => {}
            Report::BestEffortSet { result: Ok(()), .. } => {}
            Report::BestEffortSet { rate_bps, result: Err(error) } => {
                error!(code = error.code, detail = error.detail, rate_bps, "the best-effort limit cannot be set");
                // The next change tries again.
                self.best_effort_rate_bps = None;
            }
            Report::Ended => return Err(Ended.into()),
        }
        Ok(())
    }

    fn peer_answered(&mut self, ticket: u64, peer: NodeName, answer: Result<PeerAnswer, String>) {
        let contact = answer.as_ref().map(drop).map_err(Clone::clone);
        let before = self.contacts.insert(peer.clone(), contact.clone());
        match (before, contact) {
            (Some(Ok(())) | None, Err(error)) => warn!(%peer, error, "peer unreachable"),
            (Some(Err(_)), Ok(())) => info!(%peer, "peer reachable again"),
            _ => {}
        }
        self.handle(Input::PeerAnswered { ticket, answer });
        let sends = self.sends.entry(peer.clone()).or_default();
        sends.under_way = sends.under_way.saturating_sub(1);
        if let Some(sending) = sends.waiting.pop_front() {
            self.send(peer, sending);
        }
    }

    fn next_ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    fn handle(&mut self, input: Input) {
        self.parts.broker.handle(input, self.parts.clock.now());
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.parts.broker.poll() {
            if let Output::Persist(change) = output {
                self.changes.push(change);
            } else {
                self.effects.push(output);
            }
        }
    }

    /// Makes the changes durable, and only then does what depends on them.
    fn carry_out(&mut self) -> Result<(), CoreError> {
        while !self.changes.is_empty() || !self.effects.is_empty() {
            let changes = std::mem::take(&mut self.changes);
            self.parts.store.apply(&changes)?;
            // Before the installs of this batch: they may need what is freed.
            self.forget_recorded();
            let of_link = |change: &Change| {
                matches!(change, Change::PutAggregate(_) | Change::DeleteAggregate(_) | Change::PutLink(_))
            };
            if changes.iter().any(of_link) {
                // Before the installs of this batch: best effort gives way before an aggregate takes its place.
                self.limit_best_effort();
            }
            for effect in std::mem::take(&mut self.effects) {
                self.carry_out_one(effect);
            }
        }
        self.forget_recorded();
        while self.jobs_under_way < JOBS_MAX {
            let Some(job) = self.jobs.pop_front() else { break };
            self.parts.data_plane.give(job)?;
            self.jobs_under_way += 1;
        }
        Ok(())
    }

    /// To be called when all changes are on disk.
    fn forget_recorded(&mut self) {
        if !self.recorded.is_empty() {
            self.jobs.push_back(Job::Forget(std::mem::take(&mut self.recorded)));
        }
    }

    fn carry_out_one(&mut self, effect: Output) {
        match effect {
            Output::Persist(change) => self.changes.push(change),
            Output::Install { ticket, policies, terminals } => {
                self.jobs.push_back(Job::Install { ticket, policies, terminals });
            }
            Output::ChangeMeters { ticket, meters } => self.jobs.push_back(Job::Change { ticket, meters }),
            Output::Deinstall { ticket, policies } => self.jobs.push_back(Job::Deinstall { ticket, policies }),
            Output::Send { ticket, peer, request, token, deadline } => {
                self.send(peer, Sending { ticket, request, token, deadline });
            }
            Output::Answer { ticket, answer } => {
                if let Some((asker, decision, _permit)) = self.answers.remove(&ticket) {
                    decision.log(&answer);
                    // The client may have gone; what was decided stands.
                    let _ = asker.send(answer);
                }
            }
            Output::PeerAnswer { ticket, answer } => {
                if let Some((asker, decision, _permit)) = self.peer_answers.remove(&ticket) {
                    decision.log_to_peer(&answer);
                    let _ = asker.send(answer);
                }
            }
            Output::Notify { session, preempted: true, .. } => {
                info!(session = %session, "session is pre-empted");
            }
            Output::Notify { session, state, preempted: false } => {
                let state = problem::word(&state);
                info!(session = %session, state, "session that waits");
                *self.notices.entry(state).or_default() += 1;
            }
            Output::WakeAt(time) => self.wake_at = Some(time),
        }
    }

    /// Asks now, or once one of the requests that are under way is answered, which its deadline ensures.
    fn send(&mut self, peer: NodeName, sending: Sending) {
        let sends = self.sends.entry(peer.clone()).or_default();
        if sends.under_way >= SENDS_MAX {
            return sends.waiting.push_back(sending);
        }
        let Sending { ticket, request, token, deadline } = sending;
        sends.under_way += 1;
        let handle = self.parts.handle.clone();
        let exchange = Exchange { epoch: self.parts.epoch, request, token };
        let timeout = self.parts.clock.until(deadline);
        let of = peer.clone();
        self.parts.peers.send(&peer, &exchange, timeout, move |answer| {
            // The thread has ended: nobody is left to tell.
            let _ = handle.give(Message::PeerAnswered { ticket, peer: of, answer });
        });
    }

    fn limit_best_effort(&mut self) {
        if !self.parts.limit_best_effort {
            return;
        }
        let rate_bps = self.parts.broker.links().map(|(_, out, _)| out.capacity_bps.saturating_sub(out.used_bps)).sum();
        if self.best_effort_rate_bps != Some(rate_bps) {
            self.best_effort_rate_bps = Some(rate_bps);
            self.jobs.push_back(Job::SetBestEffortRate(rate_bps));
        }
    }
}
