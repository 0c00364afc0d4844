//! Before an answer leaves a node: what it says is so.

use turnpike_broker::message::{Offer, PeerAnswer, PeerRequest};
use turnpike_broker::name::{AggregateName, Nanos};
use turnpike_broker::record::{AggregateRecord, Direction, SessionRecord, SessionState, Side};
use turnpike_broker::{Answer, Output};

use super::{Broken, Checker, Held, Rule, hold};
use crate::node::{Asked, Incoming, Node};
use crate::topology::node_name;

fn unconfirmed(detail: String) -> Broken {
    (Rule::Confirmation, detail)
}

/// All policies of a session are in force on a node.
fn carries(node: &Node, record: &SessionRecord) -> Held {
    for flow in record.flows.iter().filter(|flow| flow.has_policy()) {
        hold(Rule::Confirmation, node.plane.has(flow.policy), || {
            format!("session {} is confirmed, and flow {} is not installed at {}", record.id, flow.id, node.config.node)
        })?;
    }
    Ok(())
}

/// All policies of an aggregate are in force on a node.
fn has_all(node: &Node, record: &AggregateRecord) -> Held {
    let installed = record.policies().all(|policy| node.plane.has(policy));
    hold(Rule::Confirmation, installed, || {
        format!("aggregate {} is confirmed, and not installed at {}", record.name, node.config.node)
    })
}

/// No node has an aggregate; all names are different.
fn is_gone(nodes: &[Node], name: &AggregateName) -> Held {
    let left = nodes.iter().find(|node| node.store.aggregates.contains_key(name));
    hold(Rule::Confirmation, left.is_none(), || {
        format!(
            "aggregate {name} is answered as gone, and {} has it",
            left.map_or("nobody", |node| node.config.node.as_str())
        )
    })
}

impl Checker {
    /// Before an effect is carried out.
    pub(crate) fn effect(&mut self, nodes: &[Node], index: usize, effect: &Output) -> Held {
        match effect {
            Output::Send { request: PeerRequest::CommitSession { session, attempt }, .. } => {
                self.commits_asked.insert((index, session.clone()), *attempt);
                Ok(())
            }
            Output::Send { request: PeerRequest::CommitRates { session, change, .. }, .. } => {
                self.rates.commit_is_asked(index, session, *change);
                Ok(())
            }
            Output::Send { request: PeerRequest::OfferAggregate(offer), .. } => {
                self.offers_asked.insert((index, offer.name.clone()), offer.attempt);
                Ok(())
            }
            Output::PeerAnswer { ticket, answer } => match nodes[index].incoming.get(ticket) {
                Some(incoming) => self.confirms(&nodes[index], index, (*ticket, incoming), answer),
                None => Err(unconfirmed(format!("ticket {ticket} of a peer is answered twice, or was never asked"))),
            },
            Output::Answer { ticket, answer } => {
                let Some(asked) = nodes[index].asked.get(ticket) else {
                    return Err(unconfirmed(format!(
                        "ticket {ticket} of a client is answered twice, or was never asked"
                    )));
                };
                match (answer, asked) {
                    (Answer::AggregateDeleted, Asked::GiveUp(name)) => return is_gone(nodes, name),
                    (Answer::Session { record, .. }, Asked::ChangeEnd(id, ends_at)) => {
                        hold(Rule::Confirmation, *id == record.id, || format!("asked for {id}: {record:?}"))?;
                        self.end_is_taken(nodes, index, record, *ends_at)?;
                    }
                    (Answer::Link(state), Asked::Link(wish)) => {
                        return Self::link_is_changed(&nodes[index], wish, state);
                    }
                    (answer, Asked::Series(id)) => return self.series_is_so(nodes, index, id, answer),
                    (Answer::Session { record, created }, Asked::ChangeRates(id, wishes)) => {
                        hold(Rule::Confirmation, *id == record.id, || format!("asked for {id}: {record:?}"))?;
                        self.rates_are_taken(nodes, index, record, wishes, *created)?;
                    }
                    _ => {}
                }
                self.answers(nodes, index, answer)
            }
            Output::Install { policies, .. } => {
                Self::installs_in_time(&nodes[index], policies.iter().map(|(id, _)| *id))?;
                for (id, policy) in policies {
                    self.usage.installs(index, *id, policy);
                }
                Ok(())
            }
            Output::Send { .. }
            | Output::Persist(_)
            | Output::ChangeMeters { .. }
            | Output::Deinstall { .. }
            | Output::Notify { .. }
            | Output::WakeAt(_) => Ok(()),
        }
    }

    fn confirms(
        &mut self,
        node: &Node,
        index: usize,
        (ticket, incoming): (u64, &Incoming),
        answer: &PeerAnswer,
    ) -> Held {
        hold(Rule::Fence, !incoming.is_stale || matches!(answer, PeerAnswer::Refused { .. }), || {
            format!("a message of an earlier life is heard: {:?}", incoming.request)
        })?;
        self.fences(index, ticket, incoming, answer)?;
        match (&incoming.request, answer) {
            (PeerRequest::CommitSession { session, attempt }, PeerAnswer::Committed) => {
                let Some(record) = node.store.sessions.get(session) else {
                    return Err(unconfirmed(format!("a commit of {session} is confirmed, and it is not on disk")));
                };
                if record.state == SessionState::Active {
                    carries(node, record)?;
                }
                self.commits.insert((index, incoming.from, session.clone(), *attempt));
            }
            (PeerRequest::HoldSession { session, attempt, offer, .. }, PeerAnswer::Held { .. }) => {
                let last = self.holds.entry((index, node_name(incoming.from), session.clone())).or_default();
                if *attempt > last.0 {
                    *last = (*attempt, node.shown, *offer);
                }
            }
            (PeerRequest::BookSession { session, attempt }, PeerAnswer::Booked) => {
                let kept = node.store.sessions.get(session).map(|record| (record.booked, record.state));
                hold(Rule::Confirmation, matches!(kept, Some((true, _))), || {
                    format!("a booking of {session} is confirmed, and on disk it is {kept:?}")
                })?;
                self.books.insert((index, incoming.from, session.clone(), *attempt));
            }
            (PeerRequest::ChangeSessionEnd { session, ends_at, .. }, PeerAnswer::EndChanged) => {
                self.ends_taken.insert((index, incoming.from, session.clone(), *ends_at));
            }
            (PeerRequest::CommitRates { session, change, .. }, PeerAnswer::RatesCommitted) => {
                self.confirms_rates(node, index, incoming.from, session, *change)?;
            }
            (PeerRequest::OfferAggregate(Offer { name, attempt, .. }), PeerAnswer::AggregateAccepted { .. }) => {
                let Some(record) = node.store.aggregates.get(name) else {
                    return Err(unconfirmed(format!("aggregate {name} is accepted, and it is not on disk")));
                };
                has_all(node, record)?;
                self.offers.insert((index, name.clone(), *attempt));
            }
            _ => {}
        }
        Ok(())
    }

    /// What is refused or given up is over, whatever copies of it come after that. A copy that came before may still be at work. Connections
    /// end with their processes, so a restart may forget it.
    fn fences(&mut self, index: usize, ticket: u64, incoming: &Incoming, answer: &PeerAnswer) -> Held {
        let (subject, attempt) = match &incoming.request {
            PeerRequest::HoldSession { session, attempt, .. }
            | PeerRequest::ReleaseSession { session, attempt, side: Side::First, .. } => {
                (format!("session {session}"), *attempt)
            }
            PeerRequest::OfferAggregate(Offer { name, attempt, .. })
            | PeerRequest::WithdrawAggregate { name, attempt } => (format!("aggregate {name}"), *attempt),
            PeerRequest::WouldHoldSession { .. }
            | PeerRequest::BookSession { .. }
            | PeerRequest::CommitSession { .. }
            | PeerRequest::ChangeSessionEnd { .. }
            | PeerRequest::HoldRates { .. }
            | PeerRequest::CommitRates { .. }
            | PeerRequest::VoidRates { .. }
            | PeerRequest::ReleaseSession { .. } => return Ok(()),
        };
        let asks = matches!(incoming.request, PeerRequest::HoldSession { .. } | PeerRequest::OfferAggregate(_));
        let key = (index, incoming.from, subject);
        match answer {
            PeerAnswer::Held { .. } | PeerAnswer::AggregateAccepted { .. } => {
                let (over, by) = self.over.get(&key).copied().unwrap_or_default();
                let what = &key.2;
                hold(Rule::Fence, attempt > over || ticket < by, || {
                    format!("attempt {attempt} of {what} is taken, and {over} is over")
                })
            }
            PeerAnswer::Released { .. } | PeerAnswer::AggregateWithdrawn => {
                self.is_over(key, attempt, ticket);
                Ok(())
            }
            PeerAnswer::Refused { .. } if asks => {
                self.is_over(key, attempt, ticket);
                Ok(())
            }
            PeerAnswer::Refused { .. }
            | PeerAnswer::WouldHold { .. }
            | PeerAnswer::Booked
            | PeerAnswer::Committed
            | PeerAnswer::EndChanged
            | PeerAnswer::RatesHeld { .. }
            | PeerAnswer::RatesCommitted
            | PeerAnswer::RatesVoided => Ok(()),
        }
    }

    fn is_over(&mut self, key: (usize, usize, String), attempt: u64, ticket: u64) {
        let over = self.over.entry(key).or_default();
        if attempt > over.0 {
            *over = (attempt, ticket);
        }
    }

    /// A client is told that a session has another end: both have it.
    fn end_is_taken(&self, nodes: &[Node], index: usize, record: &SessionRecord, ends_at: Option<Nanos>) -> Held {
        let peer = nodes.iter().position(|node| node.config.node == record.peer);
        let taken = peer.is_some_and(|peer| self.ends_taken.contains(&(peer, index, record.id.clone(), ends_at)));
        hold(Rule::Confirmation, taken && record.schedule.ends_at == ends_at, || {
            format!(
                "session {} is answered with another end, {ends_at:?}, and {} has not taken it",
                record.id, record.peer
            )
        })
    }

    fn answers(&self, nodes: &[Node], index: usize, answer: &Answer) -> Held {
        let node = &nodes[index];
        match answer {
            Answer::Session { record, .. } => self.session_is_so(nodes, index, record),
            Answer::Aggregate { record, .. } => {
                has_all(node, record)?;
                let attempt = self.offers_asked.get(&(index, record.name.clone()));
                let peer = nodes.iter().position(|node| node.config.node == record.peer);
                let confirmed = match (attempt, peer) {
                    (Some(attempt), Some(peer)) => self.offers.contains(&(peer, record.name.clone(), *attempt)),
                    _ => record.direction == Direction::In,
                };
                hold(Rule::Confirmation, confirmed, || {
                    format!("aggregate {} is answered as there, and {} has not accepted it", record.name, record.peer)
                })
            }
            Answer::AggregateDeleted
            | Answer::WouldAdmit { .. }
            | Answer::Link(_)
            | Answer::Series { .. }
            | Answer::SeriesDeleted
            | Answer::Refused(_) => Ok(()),
        }
    }

    /// What a client is told of a session is confirmed at both ends.
    fn session_is_so(&self, nodes: &[Node], index: usize, record: &SessionRecord) -> Held {
        let node = &nodes[index];
        let Some(peer) = nodes.iter().position(|node| node.config.node == record.peer) else {
            return Err(unconfirmed(format!("session {} has the peer {}, which is no node", record.id, record.peer)));
        };
        let id = &record.id;
        let policy = record.flows.first().map_or(0, |flow| flow.policy.0);
        let (confirmed, what) = match record.state {
            SessionState::Active => {
                carries(node, record)?;
                let attempt = self.commits_asked.get(&(index, id.clone()));
                let commit = attempt.map(|attempt| (peer, index, id.clone(), *attempt));
                (commit.is_some_and(|commit| self.commits.contains(&commit)), "active, and the commit is not confirmed")
            }
            SessionState::Booked => {
                let is_booked = self.books.contains(&(peer, index, id.clone(), policy));
                (is_booked, "booked, and the booking is not confirmed")
            }
            SessionState::Offered => {
                let held = self.holds.get(&(peer, node.config.node.clone(), id.clone()));
                let is_offered = held.is_some_and(|(attempt, _, offer)| *attempt >= policy && *offer);
                (is_offered, "offered, and nothing is held for it")
            }
            // A client that changes its end may see it being started.
            SessionState::Installing | SessionState::Committing => (record.booked, "being started, and was not booked"),
            SessionState::Held | SessionState::Releasing => (false, "held or being released"),
            SessionState::Waiting | SessionState::Ended => {
                let left = record.flows.iter().find(|flow| node.plane.has(flow.policy));
                (left.is_none(), "waiting or ended, and is installed")
            }
        };
        let by_other = record.side == Side::Second && record.state == SessionState::Active;
        hold(Rule::Confirmation, confirmed || by_other, || format!("session {id} is answered as {what}"))
    }
}
