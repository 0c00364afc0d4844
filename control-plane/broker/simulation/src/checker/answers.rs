//! Before an answer leaves a node: what it says is so.

use turnpike_broker::message::{Offer, PeerAnswer, PeerRequest};
use turnpike_broker::name::AggregateName;
use turnpike_broker::record::{AggregateRecord, Direction, SessionRecord, SessionState, Side};
use turnpike_broker::{Answer, Output};

use super::{Broken, Checker, Held, Rule, hold};
use crate::node::{Incoming, Node};
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
            Output::Send { request: PeerRequest::OfferAggregate(offer), .. } => {
                self.offers_asked.insert((index, offer.name.clone()), offer.attempt);
                Ok(())
            }
            Output::PeerAnswer { ticket, answer } => match nodes[index].incoming.get(ticket) {
                Some(incoming) => self.confirms(&nodes[index], index, (*ticket, incoming), answer),
                None => Err(unconfirmed(format!("ticket {ticket} of a peer is answered twice, or was never asked"))),
            },
            Output::Answer { ticket, answer } => {
                let Some(given_up) = nodes[index].asked.get(ticket) else {
                    return Err(unconfirmed(format!(
                        "ticket {ticket} of a client is answered twice, or was never asked"
                    )));
                };
                if let (Answer::AggregateDeleted, Some(name)) = (answer, given_up) {
                    return is_gone(nodes, name);
                }
                self.answers(nodes, index, answer)
            }
            Output::Install { policies, .. } => {
                for (id, policy) in policies {
                    self.usage.installs(index, *id, policy);
                }
                Ok(())
            }
            Output::Send { .. }
            | Output::Persist(_)
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
            (PeerRequest::HoldSession { session, attempt, .. }, PeerAnswer::Held { .. }) => {
                let last = self.holds.entry((index, node_name(incoming.from), session.clone())).or_default();
                if *attempt > last.0 {
                    *last = (*attempt, node.shown);
                }
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
            | PeerRequest::ReleaseSession { session, attempt, side: Side::First } => {
                (format!("session {session}"), *attempt)
            }
            PeerRequest::OfferAggregate(Offer { name, attempt, .. })
            | PeerRequest::WithdrawAggregate { name, attempt } => (format!("aggregate {name}"), *attempt),
            PeerRequest::WouldHoldSession { .. }
            | PeerRequest::BookSession { .. }
            | PeerRequest::CommitSession { .. }
            | PeerRequest::ChangeSessionEnd { .. }
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
            | PeerAnswer::EndChanged => Ok(()),
        }
    }

    fn is_over(&mut self, key: (usize, usize, String), attempt: u64, ticket: u64) {
        let over = self.over.entry(key).or_default();
        if attempt > over.0 {
            *over = (attempt, ticket);
        }
    }

    fn answers(&self, nodes: &[Node], index: usize, answer: &Answer) -> Held {
        let node = &nodes[index];
        match answer {
            Answer::Session { record, .. } if record.state == SessionState::Active => {
                carries(node, record)?;
                if record.side == Side::Second {
                    return Ok(());
                }
                let attempt = self.commits_asked.get(&(index, record.id.clone()));
                let peer = nodes.iter().position(|node| node.config.node == record.peer);
                let confirmed = match (attempt, peer) {
                    (Some(attempt), Some(peer)) => self.commits.contains(&(peer, index, record.id.clone(), *attempt)),
                    _ => false,
                };
                hold(Rule::Confirmation, confirmed, || {
                    format!(
                        "session {} is answered as active, and {} has not confirmed the commit",
                        record.id, record.peer
                    )
                })
            }
            Answer::Session { record, .. } => {
                let left = record.flows.iter().find(|flow| node.plane.has(flow.policy));
                hold(Rule::Confirmation, left.is_none(), || {
                    format!("session {} is answered as ended, and is installed", record.id)
                })
            }
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
            | Answer::WouldAdmit(_)
            | Answer::Link(_)
            | Answer::Series { .. }
            | Answer::SeriesDeleted
            | Answer::Refused(_) => Ok(()),
        }
    }
}
