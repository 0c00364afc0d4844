//! What a token is worth: signature, validity, audience, and whether it is for what is asked (R-004-15). The broker only gets to know what came
//! of it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use turnpike_authorization::{Instant, KeyError, Keys, LEEWAY, Unauthorised, Verified, Wish};
use turnpike_broker::message::PeerRequest;
use turnpike_broker::name::{Nanos, NodeName, SessionId};
use turnpike_broker::policy::{Endpoints, Meter};
use turnpike_broker::refusal::{Reason, Refusal};
use turnpike_broker::{Authorization, Credential, SessionRequest};
use turnpike_store::{Revocation, Revoked};

use crate::config;
use crate::time::Clock;

const NANOS_PER_S: u64 = 1_000_000_000;
const FIELD: &str = "authorization_token";

/// Judges tokens by this node's own keys and clock.
pub(crate) struct Authorizer {
    node: NodeName,
    clock: Clock,
    state: Mutex<State>,
}

struct State {
    config: config::Authorization,
    keys: Keys,
    revocations: BTreeMap<Revoked, Nanos>,
    /// How often one could not be remembered.
    full: u64,
    /// Of what the broker was not asked.
    refusals: BTreeMap<Reason, u64>,
}

/// How many revocations there are.
pub(crate) struct Revocations {
    pub(crate) used: u64,
    pub(crate) max: u64,
    pub(crate) full: u64,
}

impl Authorizer {
    /// With what was revoked by request in earlier lives.
    pub(crate) fn new(
        node: NodeName,
        clock: Clock,
        config: config::Authorization,
        revocations: Vec<Revocation>,
    ) -> Result<Self, KeyError> {
        let revocations = revocations.into_iter().map(|Revocation { revoked, at }| (revoked, at)).collect();
        let keys = keys(&config, &revocations)?;
        let state = State { config, keys, revocations, full: 0, refusals: BTreeMap::new() };
        Ok(Self { node, clock, state: Mutex::new(state) })
    }

    /// From now on this is what counts, with what was revoked by request.
    pub(crate) fn reload(&self, config: config::Authorization) -> Result<(), KeyError> {
        let mut state = self.state();
        state.keys = keys(&config, &state.revocations)?;
        state.config = config;
        Ok(())
    }

    /// For a client's session.
    pub(crate) fn of_request(&self, token: Option<String>, request: &SessionRequest) -> Credential {
        let flows = request.flows.iter().map(|flow| wish(flow.endpoints, flow.meter));
        self.credential(token, &request.id, flows.collect())
    }

    /// For what a peer asks; only what would admit a session needs a token.
    pub(crate) fn of_peer_request(&self, token: Option<String>, request: &PeerRequest) -> Credential {
        match request {
            PeerRequest::HoldSession { session, flows, .. } | PeerRequest::WouldHoldSession { session, flows, .. } => {
                let flows = flows.iter().map(|flow| wish(flow.endpoints, flow.meter));
                self.credential(token, session, flows.collect())
            }
            PeerRequest::OfferAggregate(_)
            | PeerRequest::WithdrawAggregate { .. }
            | PeerRequest::BookSession { .. }
            | PeerRequest::CommitSession { .. }
            | PeerRequest::ChangeSessionEnd { .. }
            | PeerRequest::HoldRates { .. }
            | PeerRequest::CommitRates { .. }
            | PeerRequest::VoidRates { .. }
            | PeerRequest::ReleaseSession { .. } => Credential::default(),
        }
    }

    /// Whether a session that is there may be changed: its token must not be revoked.
    pub(crate) fn may_change(&self, authorization: Option<&Authorization>) -> Result<(), Box<Refusal>> {
        let Some(Authorization { issuer, token_id, key_id, .. }) = authorization else { return Ok(()) };
        let mut state = self.state();
        let checked = state.keys.check_revoked(issuer, token_id, key_id);
        checked.map_err(|error| {
            let refusal = self.refusal(&error);
            *state.refusals.entry(refusal.reason).or_default() += 1;
            refusal
        })
    }

    /// Takes a token or a key back from now on; to be answered once it is durable. An error if there is no place to remember it; none if it
    /// was taken back before.
    pub(crate) fn revoke(&self, revoked: Revoked) -> Result<(Revocation, bool), Box<Refusal>> {
        let mut state = self.state();
        let now = self.clock.now();
        let before = forgotten_before(&state.config, now);
        state.revocations.retain(|revoked, at| matches!(revoked, Revoked::Key { .. }) || *at >= before);
        if let Some(at) = state.revocations.get(&revoked) {
            return Ok((Revocation { at: *at, revoked }, false));
        }
        let (used, max) = (state.revocations.len(), state.config.revocations_max);
        if used as u64 >= u64::from(max) {
            state.full += 1;
            let detail = format!(
                "node {} remembers {used} revocations and allows {max}; revoke in authorization.revoked_tokens and \
                 authorization.revoked_keys instead, or raise authorization.revocations_max",
                self.node
            );
            *state.refusals.entry(Reason::LimitReached).or_default() += 1;
            return Err(Box::new(Refusal::new(Reason::LimitReached, detail)));
        }
        apply(&mut state.keys, &revoked);
        state.revocations.insert(revoked.clone(), now);
        Ok((Revocation { revoked, at: now }, true))
    }

    /// Tokens that were revoked before this have expired: they are refused without being remembered.
    pub(crate) fn forgotten_before(&self) -> Nanos {
        forgotten_before(&self.state().config, self.clock.now())
    }

    /// What was revoked by request.
    pub(crate) fn revoked(&self) -> Vec<Revocation> {
        let state = self.state();
        state.revocations.iter().map(|(revoked, at)| Revocation { revoked: revoked.clone(), at: *at }).collect()
    }

    /// How many that are.
    pub(crate) fn revocations(&self) -> Revocations {
        let state = self.state();
        let (used, max) = (state.revocations.len() as u64, state.config.revocations_max.into());
        Revocations { used, max, full: state.full }
    }

    /// What was refused here, for each reason that has occurred.
    pub(crate) fn refusals(&self) -> BTreeMap<Reason, u64> {
        self.state().refusals.clone()
    }

    fn credential(&self, token: Option<String>, session: &SessionId, flows: Vec<Wish>) -> Credential {
        let found = self.judge(token.as_deref(), session, &flows);
        Credential { token, found }
    }

    fn judge(
        &self,
        token: Option<&str>,
        session: &SessionId,
        flows: &[Wish],
    ) -> Option<Result<Authorization, Box<Refusal>>> {
        let state = self.state();
        if state.keys.is_empty() {
            return None;
        }
        let Some(token) = token else {
            let detail = format!(
                "node {} admits no session without a token; ask for one and give it with the request",
                self.node
            );
            return state.config.required.then(|| Err(Box::new(Refusal::new(Reason::TokenRequired, detail).at(FIELD))));
        };
        let audience = state.config.audience.as_deref().unwrap_or_default();
        let verified = state.keys.verify(token, audience, Instant(self.clock.now().0 / NANOS_PER_S));
        let covered = verified.and_then(|verified| {
            let rates_bps_max = verified.claims.cover(session.as_str(), flows)?;
            Ok(authorization(verified, rates_bps_max))
        });
        Some(covered.map_err(|error| self.refusal(&error)))
    }

    fn refusal(&self, error: &Unauthorised) -> Box<Refusal> {
        let claim = error.claim().map(|claim| format!(" (claim {claim})")).unwrap_or_default();
        let detail = format!("node {} refuses the token{claim}: {error}", self.node);
        Box::new(Refusal::new(reason(error), detail).at(FIELD))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keys(config: &config::Authorization, revocations: &BTreeMap<Revoked, Nanos>) -> Result<Keys, KeyError> {
    let mut keys = config.trusted()?;
    revocations.keys().for_each(|revoked| apply(&mut keys, revoked));
    Ok(keys)
}

fn apply(keys: &mut Keys, revoked: &Revoked) {
    match revoked {
        Revoked::Key { id } => keys.revoke_key(id.clone()),
        Revoked::Token { issuer, id } => keys.revoke(issuer.clone(), id.clone()),
    }
}

fn forgotten_before(config: &config::Authorization, now: Nanos) -> Nanos {
    let kept_s = config.validity_s_max.saturating_add(2 * LEEWAY);
    Nanos(now.0.saturating_sub(kept_s.saturating_mul(NANOS_PER_S)))
}

fn wish(Endpoints { source, destination }: Endpoints, meter: Meter) -> Wish {
    let excess_bps = meter.excess.map_or(0, |excess| excess.rate_bps);
    Wish { source, destination, rate_bps: meter.rate_bps.saturating_add(excess_bps) }
}

fn authorization(Verified { claims, key_id }: Verified, rates_bps_max: Vec<u64>) -> Authorization {
    // The first second in which it is refused.
    let expires_at = Nanos(claims.expires_at.plus(LEEWAY + 1).0.saturating_mul(NANOS_PER_S));
    Authorization { issuer: claims.issuer, token_id: claims.id, key_id, expires_at, rates_bps_max }
}

fn reason(error: &Unauthorised) -> Reason {
    match error {
        Unauthorised::Malformed(_)
        | Unauthorised::UnknownKey(_)
        | Unauthorised::KeyNotInForce(_)
        | Unauthorised::Forged
        | Unauthorised::WrongIssuer { .. }
        | Unauthorised::ValidTooLong { .. } => Reason::TokenInvalid,
        Unauthorised::NotYet(_) => Reason::TokenNotYetValid,
        Unauthorised::Expired(_) => Reason::TokenExpired,
        Unauthorised::Revoked(_) | Unauthorised::KeyRevoked(_) => Reason::TokenRevoked,
        Unauthorised::WrongAudience(_)
        | Unauthorised::WrongSession(_)
        | Unauthorised::WrongFlow { .. }
        | Unauthorised::RateTooHigh { .. } => Reason::TokenMismatch,
    }
}
