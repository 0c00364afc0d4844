//! Tokens: none admits two sessions, over restarts as well; one whose session never came up is free again.

use std::collections::BTreeMap;

use turnpike_broker::name::{PolicyId, SessionId};
use turnpike_broker::record::{SessionRecord, SessionState};

use super::{Checker, Held, Rule, hold};
use crate::node::Node;

/// By node, issuer and id: the session that a token admitted.
#[derive(Default)]
pub(crate) struct Tokens(BTreeMap<(usize, String, String), (SessionId, Option<PolicyId>)>);

impl Tokens {
    /// Before a record is made durable.
    pub(super) fn keeps(&mut self, index: usize, record: &SessionRecord) -> Held {
        let Some(authorization) = &record.authorization else { return Ok(()) };
        let admitted = record.booked || matches!(record.state, SessionState::Active);
        if !admitted {
            return Ok(());
        }
        let key = (index, authorization.issuer.clone(), authorization.token_id.clone());
        let session = (record.id.clone(), record.flows.first().map(|flow| flow.policy));
        let known = self.0.entry(key).or_insert_with(|| session.clone());
        hold(Rule::Token, *known == session, || {
            format!("token {} has admitted {known:?}, and admits {session:?}", authorization.token_id)
        })
    }
}

impl Checker {
    /// Tokens that admitted a session, at each node for itself.
    pub(crate) fn tokens_used(&self) -> u64 {
        self.tokens.0.len() as u64
    }

    /// At rest: those that are taken are used, or belong to a session that is kept.
    pub(super) fn tokens_rest(node: &Node) -> Held {
        let name = &node.config.node;
        let mut unused = node.store.tokens.values().filter(|token| !token.used);
        let left = unused.find(|token| !node.store.sessions.contains_key(&token.session));
        hold(Rule::Token, left.is_none(), || {
            format!("{name} keeps a token for a session that never came up: {left:?}")
        })?;
        let told = node.broker.tables().into_iter().find(|table| table.name == "tokens").map(|table| table.used);
        hold(Rule::Token, told == Some(node.store.tokens.len() as u64), || {
            format!("{name} knows {told:?} tokens, and keeps {}", node.store.tokens.len())
        })
    }
}
