//! A question changes nothing, at neither node: what the broker tells in public is the same before and after, and nothing is kept or done.

use std::collections::VecDeque;

use turnpike_broker::message::{PeerAnswer, PeerRequest};
use turnpike_broker::record::{AggregateRecord, Change, SessionRecord};
use turnpike_broker::refusal::PoolState;
use turnpike_broker::{Answer, Broker, Input, Output, Request, Table};

use super::{Held, Rule, hold};
use crate::node::Node;

/// Whether this asks what would be, or answers that.
pub(crate) const fn is_question(input: &Input) -> bool {
    matches!(
        input,
        Input::Request { request: Request::WouldAdmit(_), .. }
            | Input::PeerRequest { request: PeerRequest::WouldHoldSession { .. }, .. }
            | Input::PeerAnswered { answer: Ok(PeerAnswer::WouldHold { .. }), .. }
    )
}

/// What a broker tells in public.
#[derive(PartialEq)]
pub(crate) struct Told {
    sessions: Vec<SessionRecord>,
    aggregates: Vec<AggregateRecord>,
    pools: Vec<Option<PoolState>>,
    tables: Vec<Table>,
}

impl Told {
    pub(crate) fn by(broker: &Broker) -> Self {
        let aggregates: Vec<AggregateRecord> = broker.aggregates().cloned().collect();
        Self {
            sessions: broker.sessions().chain(broker.waiting()).chain(broker.ended()).cloned().collect(),
            pools: aggregates.iter().map(|record| broker.pool(&record.name)).collect(),
            aggregates,
            // The question itself has a place, and may be refused because there is none.
            tables: broker.tables().into_iter().filter(|table| table.name != "questions").collect(),
        }
    }

    /// After the question, with what the broker wants done.
    pub(crate) fn is_still_told(&self, node: &Node, (changes, effects): &(Vec<Change>, VecDeque<Output>)) -> Held {
        let acts = effects.iter().find(|effect| {
            let answers = matches!(
                effect,
                Output::Answer { answer: Answer::WouldAdmit { .. } | Answer::Refused(_) | Answer::Session { .. }, .. }
                    | Output::PeerAnswer { answer: PeerAnswer::WouldHold { .. } | PeerAnswer::Refused { .. }, .. }
                    | Output::Send { request: PeerRequest::WouldHoldSession { .. }, .. }
                    | Output::WakeAt(_)
            );
            !answers
        });
        hold(Rule::Question, changes.is_empty() && acts.is_none(), || {
            format!("a question at {} does {acts:?} and keeps {changes:?}", node.config.node)
        })?;
        let mut after = Self::by(&node.broker);
        // Uses of the present change with the time alone: see the rule of capacity, which looks at all times.
        for (before, after) in self.pools.iter().zip(&mut after.pools) {
            if let (Some(before), Some(after)) = (before, after) {
                (after.used_bps, after.capacity_bps) = (before.used_bps, before.capacity_bps);
                (after.free_bps, after.burst_free_bytes) = (before.free_bps, before.burst_free_bytes);
            }
        }
        hold(Rule::Question, *self == after, || format!("a question changes what {} tells", node.config.node))
    }
}
