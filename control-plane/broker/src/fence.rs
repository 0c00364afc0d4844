//! What keeps late messages out: those of a peer's earlier life, and those of an attempt that was given up.

use std::collections::{BTreeMap, VecDeque};

use crate::name::{AggregateName, Epoch, LinkName, NodeName, SessionId};

/// What a message, a timer or a ticket is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Aggregate(AggregateName),
    Session(SessionId),
    /// Of a session: another rate of its flows.
    Rates(SessionId),
    /// A session that waits.
    Watch(SessionId),
    /// An ask that makes room for itself.
    Preemption(SessionId),
    /// By its ticket.
    Question,
    /// A link whose capacity changes.
    Link(LinkName),
    /// A series of bookings.
    Series(SessionId),
}

/// The highest epoch of each peer, and the highest attempt that is over for each subject of a peer.
pub(crate) struct Fences {
    attempts_max: usize,
    epochs: BTreeMap<NodeName, Epoch>,
    attempts: BTreeMap<(NodeName, Subject), u64>,
    order: VecDeque<(NodeName, Subject)>,
}

impl Fences {
    pub(crate) const fn new(attempts_max: usize) -> Self {
        Self { attempts_max, epochs: BTreeMap::new(), attempts: BTreeMap::new(), order: VecDeque::new() }
    }

    /// Whether a message of this epoch may be heard. A higher one than before closes the door behind it.
    pub(crate) fn admits_epoch(&mut self, peer: &NodeName, epoch: Epoch) -> Result<(), Epoch> {
        let highest = self.epochs.entry(peer.clone()).or_insert(epoch);
        if epoch < *highest {
            return Err(*highest);
        }
        *highest = epoch;
        Ok(())
    }

    /// This attempt and all before it are over. 0 is no attempt.
    pub(crate) fn close(&mut self, peer: &NodeName, subject: Subject, attempt: u64) {
        if attempt == 0 {
            return;
        }
        let key = (peer.clone(), subject);
        if let Some(closed) = self.attempts.get_mut(&key) {
            *closed = attempt.max(*closed);
            return;
        }
        self.attempts.insert(key.clone(), attempt);
        self.order.push_back(key);
        if self.order.len() > self.attempts_max
            && let Some(oldest) = self.order.pop_front()
        {
            self.attempts.remove(&oldest);
        }
    }

    /// Whether this attempt is still to be heard.
    pub(crate) fn is_open(&self, peer: &NodeName, subject: Subject, attempt: u64) -> bool {
        self.attempts.get(&(peer.clone(), subject)).is_none_or(|&closed| attempt > closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> NodeName {
        "b".parse().unwrap()
    }

    fn session(id: &str) -> Subject {
        Subject::Session(id.parse().unwrap())
    }

    #[test]
    fn a_lower_epoch_is_not_heard_after_a_higher_one() {
        let mut fences = Fences::new(4);
        assert_eq!(fences.admits_epoch(&peer(), Epoch(2)), Ok(()));
        assert_eq!(fences.admits_epoch(&peer(), Epoch(1)), Err(Epoch(2)));
        assert_eq!(fences.admits_epoch(&peer(), Epoch(2)), Ok(()));
        assert_eq!(fences.admits_epoch(&peer(), Epoch(3)), Ok(()));
        assert_eq!(fences.admits_epoch(&peer(), Epoch(2)), Err(Epoch(3)));
    }

    #[test]
    fn a_closed_attempt_stays_closed_and_the_next_is_open() {
        let mut fences = Fences::new(4);
        assert!(fences.is_open(&peer(), session("s"), 1));
        fences.close(&peer(), session("s"), 5);
        fences.close(&peer(), session("s"), 3);
        assert!(!fences.is_open(&peer(), session("s"), 5));
        assert!(fences.is_open(&peer(), session("s"), 6));
        assert!(fences.is_open(&peer(), session("t"), 1));
    }

    #[test]
    fn the_oldest_attempt_is_forgotten_when_there_are_too_many() {
        let mut fences = Fences::new(2);
        for id in ["s", "t", "u"] {
            fences.close(&peer(), session(id), 1);
        }
        assert!(fences.is_open(&peer(), session("s"), 1));
        assert!(!fences.is_open(&peer(), session("u"), 1));
        assert_eq!(fences.attempts.len(), 2);
    }
}
