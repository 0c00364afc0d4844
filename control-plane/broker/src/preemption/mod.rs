//! Pre-emption: an ask of higher priority ends sessions of lower priority whose room it needs (RFC 3181).
//!
//! Nobody dies for nothing. The first side, short of room, chooses whom it would end and asks the second side whether it would hold then; only
//! if it would, both sides claim the room, end those sessions by the ordinary release, and hold what that leaves. Each side waits for its own data
//! plane, so that no packet of the ended and of the new session is in force at the same time. From the claim on nobody else gets what it needs: what
//! ends keeps its part until all of them are out of force, and what is missing beyond those parts is held from the first moment.
//!
//! Nothing of a claim outlives a restart but that the other side may hold something, which it is told to release. What was being ended goes
//! on ending.

mod claim;
mod first;
mod second;
mod victims;

use std::collections::BTreeSet;

use crate::authorization::Credential;
use crate::broker::{Broker, TableName};
use crate::flow::Terms;
use crate::media_slots::{MediaSlots, SlotCounts};
use crate::message::{HoldFlow, PeerAnswer};
use crate::name::{AggregateName, Nanos, NodeName, SessionId};
use crate::record::{FlowRecord, SessionRecord, Side, Wait};
use crate::refusal::{Reason, Refusal};
use crate::release::Ending;
use crate::session::{Phase, Session};

use claim::Part;
use victims::Plan;

pub(crate) use second::check_listed;

/// One ask ends no more sessions than this.
pub(crate) const VICTIMS_MAX: usize = 64;
/// So many asks may be making room at once.
pub(crate) const PREEMPTIONS_MAX: usize = 64;

/// What is to have the room.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) id: SessionId,
    pub(crate) terms: Terms,
    pub(crate) asked: Vec<HoldFlow>,
    pub(crate) media_slots: MediaSlots,
    pub(crate) credential: Credential,
}

impl Wish {
    /// What it needs of media processing at one side.
    pub(crate) const fn slots(&self, side: Side) -> &SlotCounts {
        self.media_slots.of(side)
    }
}

/// An ask that makes room for itself. It is no session yet.
pub(crate) struct Preemption {
    wish: Wish,
    peer: NodeName,
    asker: Asker,
    stage: Stage,
}

enum Asker {
    /// First side.
    Client { ticket: u64, wait: Option<Wait> },
    /// Second side.
    Peer { tickets: Vec<u64>, attempt: u64 },
}

enum Stage {
    /// First side: the second was asked whether it would hold.
    Asking {
        ask: u64,
        tries: u32,
        plan: Plan,
    },
    Claimed(Box<Claim>),
}

/// Room that is being made.
struct Claim {
    /// What is to be held, with labels and policies; their places are taken.
    flows: Vec<FlowRecord>,
    /// Those whose room it takes.
    victims: BTreeSet<SessionId>,
    /// Those of them that still have something in force here.
    waiting: BTreeSet<SessionId>,
    /// What the others had.
    left: Vec<SessionRecord>,
    /// What is held beyond what the victims have.
    parts: Vec<Part>,
    /// First side: what the second was asked to hold by, and what it said.
    ask: Option<u64>,
    answer: Option<Result<PeerAnswer, String>>,
}

impl Session {
    /// It has its part of pools.
    const fn has_room(&self) -> bool {
        match &self.phase {
            Phase::Ending(ending) => !ending.is_clean(),
            Phase::Holding { .. }
            | Phase::Calling { .. }
            | Phase::Offered
            | Phase::Booking { .. }
            | Phase::Held
            | Phase::Booked { .. }
            | Phase::Installing { .. }
            | Phase::Committing { .. }
            | Phase::Active => true,
        }
    }
}

impl Broker {
    /// Whether an ask for this session is making room.
    pub(crate) fn is_making_room(&self, id: &SessionId) -> bool {
        self.preemptions.contains_key(id)
    }

    /// How many asks that make room, and wait for that, want this aggregate.
    pub(crate) fn making_room_on(&self, name: &AggregateName) -> usize {
        let wants = |flow: &HoldFlow| flow.aggregate == *name;
        self.preemptions.values().filter(|preemption| preemption.wish.asked.iter().any(wants)).count()
    }

    fn check_preemptions(&mut self) -> Result<(), Refusal> {
        if self.preemptions.len() >= PREEMPTIONS_MAX { Err(self.full(TableName::Preemptions)) } else { Ok(()) }
    }

    /// Ends what is in the way of `by`, here and at the peer; what ends already goes on.
    fn preempt(&mut self, id: &SessionId, by: &Wish, now: Nanos) {
        let priority = by.terms.priority;
        let emergency = if priority.emergency { ", an emergency," } else { "" };
        let detail = format!(
            "session {id} was ended for session {}{emergency} with setup_priority {}; ask again, or with a higher holding_priority",
            by.id, priority.setup
        );
        let Some(session) = self.sessions.get_mut(id) else { return };
        let ending = match session.phase {
            Phase::Active => Ending::of_active(),
            Phase::Booked { .. } => Ending::of_booking(),
            // Whatever ends already, or is not chosen.
            Phase::Ending(_)
            | Phase::Holding { .. }
            | Phase::Calling { .. }
            | Phase::Offered
            | Phase::Booking { .. }
            | Phase::Held
            | Phase::Installing { .. }
            | Phase::Committing { .. } => return,
        };
        session.record.failure = Some(Box::new(Refusal::new(Reason::Preempted, detail)));
        self.tell_preempted(id);
        self.end(id, ending, now);
    }

    /// Whoever follows the session may be told.
    pub(crate) fn tell_preempted(&mut self, id: &SessionId) {
        let failure = self.sessions.get(id).and_then(|session| session.record.failure.as_ref());
        if failure.is_some_and(|failure| failure.reason == Reason::Preempted) {
            self.preempted += 1;
            self.notify_preempted(id.clone());
        }
    }

    /// Its time is over, while data planes or the peer still owe something.
    pub(crate) fn preemption_timer(&mut self, id: &SessionId, now: Nanos) {
        let detail = format!("the sessions in the way of session {id} did not end in time; ask again");
        self.drop_claim(id, Refusal::new(Reason::Busy, detail), now);
    }

    /// After every input: what has all of its room now is held.
    pub(crate) fn take_claimed(&mut self, now: Nanos) {
        let is_ready =
            |preemption: &Preemption| matches!(&preemption.stage, Stage::Claimed(claim) if claim.waiting.is_empty());
        while let Some(id) =
            self.preemptions.iter().find(|(_, preemption)| is_ready(preemption)).map(|(id, _)| id.clone())
        {
            let Some(Preemption { wish, peer, asker, stage }) = self.preemptions.remove(&id) else { return };
            let Stage::Claimed(claim) = stage else { return };
            self.clear_timer(&crate::fence::Subject::Preemption(id));
            match asker {
                Asker::Client { ticket, wait } => self.take_at_first_side(wish, peer, *claim, (ticket, wait), now),
                Asker::Peer { tickets, attempt } => {
                    self.take_at_second_side(wish, peer, *claim, &tickets, attempt, now)
                }
            }
        }
    }
}
