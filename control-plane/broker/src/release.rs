//! Release: a session is taken down here and at the peer, and its use is counted, whatever is lost on the way
//! (R-004-16).

use crate::broker::Broker;
use crate::event::Answer;
use crate::fence::Subject;
use crate::message::{PeerAnswer, PeerRequest};
use crate::name::{Nanos, NodeName, PolicyId, SessionId};
use crate::notice::Notice;
use crate::policy::Counters;
use crate::record::{Change, Direction, FlowUsage, SessionRecord, SessionState, Side};
use crate::refusal::{Reason, Refusal};
use crate::session::{Phase, session_busy, unknown_session};
use crate::usage;

/// This node's readings for the peers that wait for them, and the client that is to be refused.
type Answers = (Vec<FlowUsage>, Vec<u64>, Option<(u64, Refusal)>);

/// What a peer says it releases.
pub(crate) struct Released {
    pub(crate) id: SessionId,
    pub(crate) side: Side,
    pub(crate) attempt: u64,
    /// Why, if it was pre-empted.
    pub(crate) failure: Option<Refusal>,
}

/// How a session ends.
pub(crate) struct Ending {
    /// It was up: its use is counted.
    was_active: bool,
    /// It was up or booked, and is kept. Otherwise nothing of it remains.
    kept: bool,
    /// The peer's packets need not be waited for: everything is deinstalled at once, outgoing flows first.
    at_once: bool,
    deinstall: Option<(u64, Vec<PolicyId>)>,
    notice: Notice,
    /// This side has given everything back.
    clean: bool,
    /// The use is in the ledger, and clients were answered.
    reported: bool,
    /// Clients that wait for the end; the first one asked for it.
    clients: Vec<u64>,
    /// Is refused with this as soon as this side is clean.
    refused: Option<(u64, Refusal)>,
    /// Peers' releases to be answered.
    peers: Vec<u64>,
}

impl Ending {
    const fn new(was_active: bool, at_once: bool, notice: Notice) -> Self {
        Self {
            was_active,
            kept: was_active,
            at_once,
            deinstall: None,
            notice,
            clean: false,
            reported: false,
            clients: Vec::new(),
            refused: None,
            peers: Vec::new(),
        }
    }

    /// First side, never up; the peer holds nothing.
    pub(crate) fn refused(client: u64, refusal: Refusal) -> Self {
        Self { refused: Some((client, refusal)), ..Self::new(false, true, Notice::SETTLED) }
    }

    /// First side, never up, and it goes on waiting, perhaps with a client to be told; `peer_holds` is whether the peer may hold something.
    pub(crate) fn waits_again(client: Option<u64>, peer_holds: bool) -> Self {
        let notice = if peer_holds { Notice::DUE } else { Notice::SETTLED };
        Self { clients: client.into_iter().collect(), ..Self::new(false, true, notice) }
    }

    /// First side, never up, and it waits no longer; it is kept with the reason.
    pub(crate) fn of_watch(client: Option<u64>, peer_holds: bool) -> Self {
        Self { kept: true, ..Self::waits_again(client, peer_holds) }
    }

    /// First side, never up; the peer may hold something.
    pub(crate) fn given_up(client: u64, refusal: Refusal) -> Self {
        Self { refused: Some((client, refusal)), ..Self::new(false, true, Notice::DUE) }
    }

    /// Second side, never up.
    pub(crate) const fn of_second_side() -> Self {
        Self::new(false, true, Notice::SETTLED)
    }

    /// Up until now; this side begins.
    pub(crate) const fn of_active() -> Self {
        Self::new(true, false, Notice::DUE)
    }

    /// Booked, and not up yet; this side begins.
    pub(crate) fn of_booking() -> Self {
        Self { kept: true, ..Self::new(false, true, Notice::DUE) }
    }

    /// What a restart found half done.
    pub(crate) fn restored(record: &SessionRecord) -> Self {
        match (record.side, record.was_active()) {
            (_, true) => Self::of_active(),
            (_, false) if record.booked => Self::of_booking(),
            (Side::First, false) => Self::new(false, true, Notice::DUE),
            (Side::Second, false) => Self::of_second_side(),
        }
    }

    /// What a restart found clean here and not confirmed by the peer.
    pub(crate) fn unconfirmed(record: &SessionRecord) -> Self {
        let was_active = record.was_active();
        let kept = was_active || record.booked;
        Self { clean: true, kept, reported: kept && !record.ledger_due, ..Self::new(was_active, true, Notice::DUE) }
    }

    /// First side, asked to be held at the peer and held nowhere here; the client is refused at once.
    pub(crate) fn of_unheld(record: &SessionRecord, client: u64, refusal: Refusal) -> Self {
        Self { refused: Some((client, refusal)), ..Self::unconfirmed(record) }
    }

    /// This side has given everything back.
    pub(crate) const fn is_clean(&self) -> bool {
        self.clean
    }

    /// Clients were told that it has ended.
    pub(crate) const fn is_reported(&self) -> bool {
        self.reported
    }
}

impl Broker {
    /// On either side.
    pub(crate) fn delete_session(&mut self, ticket: u64, id: &SessionId, now: Nanos) -> Result<(), Refusal> {
        if let Some(record) = self.ended.get(id) {
            let answer = Answer::Session { record: record.clone(), created: false };
            self.answer(ticket, answer);
            return Ok(());
        }
        if self.delete_watch(ticket, id) {
            return Ok(());
        }
        if self.is_making_room(id) {
            return Err(session_busy(id));
        }
        let unknown = unknown_session(id, &self.config.node);
        let session = self.sessions.get_mut(id).ok_or(unknown)?;
        match &mut session.phase {
            Phase::Active => {
                let ending = Ending { clients: vec![ticket], ..Ending::of_active() };
                self.end(id, ending, now);
                Ok(())
            }
            Phase::Booked { .. } => {
                session.record.failure = None;
                let ending = Ending { clients: vec![ticket], ..Ending::of_booking() };
                self.end(id, ending, now);
                Ok(())
            }
            Phase::Offered => {
                self.end(id, Ending::of_watch(Some(ticket), true), now);
                Ok(())
            }
            Phase::Ending(ending) if ending.reported => {
                let answer = Answer::Session { record: session.record.clone(), created: false };
                self.answer(ticket, answer);
                Ok(())
            }
            Phase::Ending(ending) if ending.kept => {
                ending.clients.push(ticket);
                Ok(())
            }
            Phase::Ending(_)
            | Phase::Holding { .. }
            | Phase::Calling { .. }
            | Phase::Booking { .. }
            | Phase::Held
            | Phase::Installing { .. }
            | Phase::Committing { .. } => Err(session_busy(id)),
        }
    }

    /// Ends a session that cannot go on.
    pub(crate) fn end_active(&mut self, id: &SessionId, now: Nanos) {
        self.end(id, Ending::of_active(), now);
    }

    /// A peer releases: `side` is its part. What is not meant, or not known, is released already.
    pub(crate) fn release_received(
        &mut self,
        ticket: u64,
        peer: &NodeName,
        Released { id, side, attempt, failure }: Released,
        now: Nanos,
    ) {
        if side == Side::First {
            self.fences.close(peer, Subject::Session(id.clone()), attempt);
            self.drop_claim_of_peer(peer, &id, attempt, now);
        }
        let meant = self.sessions.get_mut(&id).filter(|session| {
            let current = match side {
                Side::First => attempt >= session.attempt,
                Side::Second => attempt == session.attempt,
            };
            session.record.peer == *peer && session.record.side != side && (current || attempt == 0)
        });
        let Some(session) = meant else {
            let kept = self.ended.get(&id).filter(|record| record.peer == *peer);
            let usage = kept.map(|record| usage::own(record, &self.config.node)).unwrap_or_default();
            self.answer_peer(ticket, PeerAnswer::Released { usage });
            return;
        };
        let taken_back = Refusal::new(Reason::UnknownSession, format!("session {id} was released meanwhile"));
        let ended_there =
            Refusal::new(Reason::SecondSideRefused, format!("the second side ended session {id} before it was up"));
        let mut preempted = None;
        let mut ending = match &mut session.phase {
            Phase::Ending(ending) => {
                ending.at_once = true;
                ending.peers.push(ticket);
                self.end_next(&id, now);
                return;
            }
            Phase::Active => {
                preempted = failure;
                Ending { at_once: true, ..Ending::of_active() }
            }
            Phase::Held => Ending::of_second_side(),
            Phase::Calling { .. } | Phase::Offered => Ending::waits_again(None, false),
            Phase::Holding { client, .. }
            | Phase::Booking { client, .. }
            | Phase::Committing { client: Some(client), .. } => Ending::refused(*client, ended_there),
            Phase::Booked { .. } => {
                preempted = failure;
                // Also before its start: by the second side's clock, or by an end whose confirmation was lost, its time may be over.
                if session.record.side == Side::First {
                    session.record.failure.get_or_insert_with(|| Box::new(ended_there));
                }
                Ending::of_booking()
            }
            Phase::Committing { client: None, .. } => {
                session.record.failure.get_or_insert_with(|| Box::new(ended_there));
                Ending::of_booking()
            }
            Phase::Installing { askers } => {
                let askers = std::mem::take(askers);
                let booked = session.record.booked;
                match (session.record.side, askers.as_slice()) {
                    (Side::First, &[client]) => Ending::refused(client, ended_there),
                    (Side::First, _) => {
                        session.record.failure.get_or_insert_with(|| Box::new(ended_there));
                        Ending::of_booking()
                    }
                    (Side::Second, commits) => {
                        for &commit in commits {
                            self.refuse_peer(commit, taken_back.clone());
                        }
                        if booked { Ending::of_booking() } else { Ending::of_second_side() }
                    }
                }
            }
        };
        ending.notice = Notice::SETTLED;
        ending.peers.push(ticket);
        if let Some(session) = self.sessions.get_mut(&id)
            && let Some(failure) = preempted.filter(|failure| failure.reason == Reason::Preempted)
        {
            session.record.failure = Some(Box::new(failure));
            self.tell_preempted(&id);
        }
        self.end(&id, ending, now);
    }

    /// Starts to end a session.
    pub(crate) fn end(&mut self, id: &SessionId, ending: Ending, now: Nanos) {
        self.clear_timer(&Subject::Session(id.clone()));
        self.drop_change(id);
        self.drop_rates(id);
        self.calling.remove(id);
        if let Some(session) = self.sessions.get_mut(id).filter(|_| ending.kept || ending.refused.is_some()) {
            (session.record.wait, session.record.token) = (None, None);
            self.called.remove(id);
        }
        let phase = Phase::Ending(Box::new(ending));
        let before = self.sessions.get_mut(id).map(|session| std::mem::replace(&mut session.phase, phase));
        if let Some(Phase::Booked { commits }) = before {
            for commit in commits {
                let detail = format!("session {id} ended before it was up");
                self.refuse_peer(commit, Refusal::new(Reason::UnknownSession, detail));
            }
        }
        if self.sessions.get(id).is_some_and(|session| session.install.is_some()) {
            self.ending_installs.insert(id.clone());
        }
        self.set_session_state(id, SessionState::Releasing);
        self.end_next(id, now);
    }

    pub(crate) fn session_deinstalled(&mut self, id: &SessionId, ticket: u64, counters: &[Counters], now: Nanos) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let Phase::Ending(ending) = &mut session.phase else {
            return;
        };
        let Some((_, policies)) = ending.deinstall.take_if(|(asked, _)| *asked == ticket) else {
            return;
        };
        for policy in &policies {
            session.in_force.remove(policy);
        }
        let readings: Vec<_> = policies.into_iter().zip(counters.iter().copied()).collect();
        usage::note(&mut session.record, &self.config.node, &readings);
        if !session.in_force.is_empty() {
            // A reading can be had only once, so it must outlive a restart.
            self.set_session_state(id, SessionState::Releasing);
        }
        self.end_next(id, now);
    }

    pub(crate) fn release_answered(
        &mut self,
        id: &SessionId,
        ticket: u64,
        answer: Result<PeerAnswer, String>,
        now: Nanos,
    ) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let Phase::Ending(ending) = &mut session.phase else {
            return;
        };
        if !ending.notice.is_asked_by(ticket) {
            return;
        }
        if let Ok(PeerAnswer::Released { usage }) = answer {
            ending.notice.settle();
            usage::add_peers(&mut session.record, usage);
        } else {
            let wait = ending.notice.failed(&self.config.timers);
            self.set_timer(Subject::Session(id.clone()), now.plus(wait));
        }
        self.end_next(id, now);
    }

    pub(crate) fn retry_release(&mut self, id: &SessionId, now: Nanos) {
        if let Some(session) = self.sessions.get_mut(id)
            && let Phase::Ending(ending) = &mut session.phase
        {
            ending.notice.again();
            self.end_next(id, now);
        }
    }

    /// Goes as far as it can: outgoing flows, the peer, incoming flows, the ledger, the answers.
    pub(crate) fn end_next(&mut self, id: &SessionId, now: Nanos) {
        if self.deinstall_next(id, now) {
            return;
        }
        let answers = self.clean_up(id);
        self.tell_peer(id, now);
        self.report(id, now);
        if let Some((own, peers, refused)) = answers {
            for ticket in peers {
                self.answer_peer(ticket, PeerAnswer::Released { usage: own.clone() });
            }
            if let Some((client, refusal)) = refused {
                self.refuse(client, refusal);
            }
        }
    }

    /// True while there is something to wait for before this side is clean.
    fn deinstall_next(&mut self, id: &SessionId, now: Nanos) -> bool {
        let Some(session) = self.sessions.get(id) else {
            return true;
        };
        let Phase::Ending(ending) = &session.phase else {
            return true;
        };
        if session.install.is_some() || ending.deinstall.is_some() {
            return true;
        }
        let out = session.in_force(Direction::Out);
        let into = session.in_force(Direction::In);
        let policies = if ending.at_once {
            [out, into].concat()
        } else if !out.is_empty() {
            out
        } else if into.is_empty() {
            return false;
        } else if ending.notice.is_due() && !ending.notice.has_failed() {
            // The peer stops sending before this side stops receiving.
            self.tell_peer(id, now);
            return true;
        } else if ending.notice.is_fresh() {
            return true;
        } else {
            into
        };
        if policies.is_empty() {
            return false;
        }
        let ticket = self.deinstall(Subject::Session(id.clone()), policies.clone());
        if let Some(session) = self.sessions.get_mut(id)
            && let Phase::Ending(ending) = &mut session.phase
        {
            ending.deinstall = Some((ticket, policies));
        }
        true
    }

    /// Gives everything back, once; says who is to be answered when it is kept that all is over.
    fn clean_up(&mut self, id: &SessionId) -> Option<Answers> {
        let session = self.sessions.get_mut(id)?;
        let (held, attempt, side, peer) =
            (session.record.clone(), session.attempt, session.record.side, session.record.peer.clone());
        let Phase::Ending(ending) = &mut session.phase else {
            return None;
        };
        let newly_clean = !std::mem::replace(&mut ending.clean, true);
        let kept_for_peer = !ending.notice.is_settled();
        if newly_clean {
            session.record.rate_change = None;
            session.record.ledger_due = ending.was_active && kept_for_peer;
        }
        usage::complete(&mut session.record, &self.config.node);
        let own = usage::own(&session.record, &self.config.node);
        let peers = std::mem::take(&mut ending.peers);
        let refused = ending.refused.take();
        if newly_clean {
            self.give_back_ended(id, &held);
            if kept_for_peer {
                // With all of its readings a restart knows that nothing is held for it any more.
                self.set_session_state(id, SessionState::Releasing);
            }
            if side == Side::Second {
                self.fences.close(&peer, Subject::Session(id.clone()), attempt);
            }
        }
        Some((own, peers, refused))
    }

    fn tell_peer(&mut self, id: &SessionId, now: Nanos) {
        let Some(session) = self.sessions.get(id) else { return };
        let Phase::Ending(ending) = &session.phase else { return };
        if !ending.notice.is_due() {
            return;
        }
        let (peer, side, attempt) = (session.record.peer.clone(), session.record.side, session.attempt);
        let failure = session.record.failure.as_deref().filter(|failure| failure.reason == Reason::Preempted).cloned();
        let request = PeerRequest::ReleaseSession { session: id.clone(), side, attempt, failure };
        let ask = self.send(Subject::Session(id.clone()), peer, request, now);
        if let Some(session) = self.sessions.get_mut(id)
            && let Phase::Ending(ending) = &mut session.phase
        {
            ending.notice.asked(ask);
        }
    }

    /// This side is clean. A session that was up or booked is reported once the peer has answered or has failed to.
    fn report(&mut self, id: &SessionId, now: Nanos) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let Phase::Ending(ending) = &mut session.phase else {
            return;
        };
        let settled = ending.notice.is_settled();
        if !ending.kept {
            if settled {
                let clients = std::mem::take(&mut ending.clients);
                self.clear_timer(&Subject::Session(id.clone()));
                let record = self.sessions.remove(id).map(|session| session.record);
                match record.filter(|record| record.wait.is_some()) {
                    Some(record) => self.wait_again(record, clients, now),
                    None => self.persist(Change::DeleteSession(id.clone())),
                }
            }
            return;
        }
        if !settled && !ending.notice.has_failed() {
            return;
        }
        let was_active = ending.was_active;
        let newly = !std::mem::replace(&mut ending.reported, true);
        let clients = std::mem::take(&mut ending.clients);
        session.record.state = SessionState::Ended;
        session.record.ledger_due = false;
        let record = session.record.clone();
        if settled {
            self.clear_timer(&Subject::Session(id.clone()));
            self.sessions.remove(id);
            self.persist(Change::PutSession(record.clone()));
            self.keep_ended(record.clone());
        } else if newly {
            // Kept as releasing with all of its own readings, so that a restart goes on asking the peer.
            self.persist(Change::PutSession(SessionRecord { state: SessionState::Releasing, ..record.clone() }));
        }
        if newly && was_active {
            self.record_final(&record, now);
        }
        for (place, client) in clients.into_iter().enumerate() {
            self.answer(client, Answer::Session { record: record.clone(), created: place == 0 });
        }
    }
}
