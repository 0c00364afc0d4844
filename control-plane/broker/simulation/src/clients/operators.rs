//! Who stands behind the clients: the operators of links, and who gives tokens out.

use turnpike_broker::Authorization;
use turnpike_broker::capacity::LinkChange;
use turnpike_broker::name::Nanos;
use turnpike_broker::{FlowRequest, Request};

use super::{Clients, Step};
use crate::time::S;
use crate::topology::{link_rate_bps, name};

impl Clients {
    /// Less for a link than aggregates have of it, or what it had; now or later, for a time or until further notice.
    pub(super) fn link_request(&mut self, node: usize, now: Nanos) -> Request {
        let peers = self.between.keys().filter(|(from, _)| *from == node).count();
        let configured_bps = link_rate_bps(peers);
        let random = &mut self.random;
        let mut rate_bps = |wanted: bool| {
            let percent = if random.chance(300_000) { 100 } else { random.between(10, 110) };
            wanted.then_some(configured_bps * percent / 100)
        };
        let (rate_out_bps, rate_in_bps) = (rate_bps(true), rate_bps(true));
        let which = random.below(3);
        let from = random.chance(500_000).then(|| now.plus(Nanos(random.between(S, 30 * S))));
        let begin = from.unwrap_or(now);
        let until = random.chance(600_000).then(|| begin.plus(Nanos(random.between(5 * S, 40 * S))));
        Request::ChangeLink(LinkChange {
            link: name("wan0"),
            rate_out_bps: rate_out_bps.filter(|_| which != 0),
            rate_in_bps: rate_in_bps.filter(|_| which != 1),
            from,
            until,
        })
    }

    /// One of its own as a rule. Who has another one's is refused, unless that one never came up.
    pub(super) fn some_token(&mut self, number: usize, flows: &[FlowRequest], now: Nanos) -> String {
        if self.random.chance(200_000) && !self.tokens.is_empty() {
            let place = self.random.index(self.tokens.len());
            if let Some(token) = self.tokens.keys().nth(place) {
                return token.clone();
            }
        }
        let token = format!("token{number}");
        // Some allow no more than what is asked for at first.
        let more = if self.random.chance(300_000) { 1 } else { 4 };
        let authorization = Authorization {
            issuer: "issuer".to_owned(),
            token_id: token.clone(),
            key_id: "key".to_owned(),
            expires_at: now.plus(Nanos(self.random.between(5 * S, 300 * S))),
            rates_bps_max: flows.iter().map(|flow| flow.meter.rate_bps * more).collect(),
        };
        self.tokens.insert(token.clone(), authorization);
        token
    }

    /// What a client brings along with a step.
    pub(crate) fn token(&self, step: Step) -> Option<String> {
        let (Step::Question(call) | Step::Begin(call) | Step::Look(call)) = step else { return None };
        self.calls[call].wish.token.clone()
    }
}
