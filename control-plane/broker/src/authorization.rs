//! Tokens: the shell says what one is worth, and none is used twice (R-004-15).
//!
//! A token is of one session. It is taken with the session's first hold, or when the session starts to wait, and given back if the session
//! never comes up nor is booked: who was refused may ask again with it. Once the session was admitted the token is used, however the session
//! ends, and known until it would be refused as expired.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::broker::{Broker, TableName};
use crate::name::{Nanos, SessionId};
use crate::record::{Change, SessionRecord};
use crate::refusal::{Reason, Refusal};

/// The token that came with a request, and what the shell found of it. There is no cryptography here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credential {
    /// As it came; passed on to the second side, which judges it by itself.
    pub token: Option<String>,
    /// What it authorises, or why the request is refused; none where this node asks for no token and knows no keys.
    pub found: Option<Result<Authorization, Box<Refusal>>>,
}

/// A token that was found to be genuine, in force, and for what is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorization {
    /// Who signed it.
    pub issuer: String,
    /// Its id, unique with its issuer.
    pub token_id: String,
    /// The key that it was signed with.
    pub key_id: String,
    /// From then on it is refused as expired.
    pub expires_at: Nanos,
    /// Most bits per second of each flow, excess included, in the order of the session's flows.
    pub rates_bps_max: Vec<u64>,
}

impl Authorization {
    /// Whether a flow, by its place among the session's, may have this rate with its excess: for who changes a session that is there.
    pub fn check_rate(&self, flow: usize, rate_bps: u64) -> Result<(), Refusal> {
        let max_bps = self.rates_bps_max.get(flow).copied().unwrap_or_default();
        if rate_bps <= max_bps {
            return Ok(());
        }
        let Self { issuer, token_id, .. } = self;
        let detail = format!(
            "token {token_id} of {issuer} (claim flows) allows flows[{flow}] {max_bps} bit/s, and {rate_bps} are asked for"
        );
        Err(Refusal::new(Reason::TokenMismatch, detail))
    }
}

/// A token that is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenToken {
    /// Who signed it.
    pub issuer: String,
    /// Its id, unique with its issuer.
    pub token_id: String,
    /// Its session.
    pub session: SessionId,
    /// It is known until then.
    pub expires_at: Nanos,
    /// The session was booked or up: the token is not given back.
    pub used: bool,
}

/// Issuer and id.
type Key = (String, String);

/// All that are taken.
#[derive(Default)]
pub(crate) struct Tokens {
    by_id: BTreeMap<Key, TakenToken>,
    by_expiry: BTreeSet<(Nanos, Key)>,
    /// Those that are given back if the session does not come up.
    unused: BTreeMap<SessionId, Key>,
}

impl Tokens {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    fn put(&mut self, taken: TakenToken) {
        let key = (taken.issuer.clone(), taken.token_id.clone());
        self.by_expiry.insert((taken.expires_at, key.clone()));
        if taken.used {
            self.unused.remove(&taken.session);
        } else {
            self.unused.insert(taken.session.clone(), key.clone());
        }
        self.by_id.insert(key, taken);
    }

    fn remove(&mut self, key: &Key) -> Option<Change> {
        let taken = self.by_id.remove(key)?;
        self.by_expiry.remove(&(taken.expires_at, key.clone()));
        if self.unused.get(&taken.session) == Some(key) {
            self.unused.remove(&taken.session);
        }
        Some(Change::DeleteToken { issuer: taken.issuer, token_id: taken.token_id })
    }

    /// What a change of a session does to its token.
    fn follow(&mut self, change: &Change) -> Option<Change> {
        match change {
            Change::PutSession(record) if record.was_active() || record.booked => {
                let taken = self.by_id.get(self.unused.get(&record.id)?)?;
                let used = TakenToken { used: true, ..taken.clone() };
                self.put(used.clone());
                Some(Change::PutToken(used))
            }
            Change::DeleteSession(id) => {
                let key = self.unused.get(id)?.clone();
                self.remove(&key)
            }
            Change::PutSession(_)
            | Change::PutAggregate(_)
            | Change::DeleteAggregate(_)
            | Change::PutLink(_)
            | Change::PutSeries(_)
            | Change::DeleteSeries(_)
            | Change::AppendUsage(_)
            | Change::PutToken(_)
            | Change::DeleteToken { .. } => None,
        }
    }
}

impl Credential {
    fn authorization(&self) -> Option<&Authorization> {
        self.found.as_ref().and_then(|found| found.as_ref().ok())
    }

    /// Whether the shell found it good, or did not ask.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        match &self.found {
            Some(Err(refusal)) => Err((**refusal).clone()),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    /// A session that is asked for with it.
    pub(crate) fn on(&self, record: SessionRecord) -> SessionRecord {
        // Who waits is called later: then the second side is asked with it.
        let token = self.token.clone().filter(|_| record.wait.is_some());
        SessionRecord { authorization: self.authorization().cloned().map(Box::new), token, ..record }
    }
}

impl Broker {
    /// What an earlier life of this node has taken, once and before [`Self::restore`].
    pub fn restore_tokens(&mut self, tokens: Vec<TakenToken>) {
        for taken in tokens {
            self.tokens.put(taken);
        }
    }

    /// A token that was used is refused, also to a question.
    pub(crate) fn check_token(&self, credential: &Credential) -> Result<(), Refusal> {
        let Some(Authorization { issuer, token_id, .. }) = credential.authorization() else { return Ok(()) };
        let Some(taken) = self.tokens.by_id.get(&(issuer.clone(), token_id.clone())) else { return Ok(()) };
        let session = &taken.session;
        let detail =
            format!("token {token_id} of {issuer} was used for session {session}; ask its issuer for a new one");
        Err(Refusal::new(Reason::TokenUsed, detail).at("authorization_token"))
    }

    /// Whether there is a place to remember one more.
    pub(crate) fn check_token_place(&mut self, credential: &Credential, now: Nanos) -> Result<(), Refusal> {
        while let Some((expires_at, key)) = self.tokens.by_expiry.first().cloned()
            && expires_at <= now
        {
            if let Some(change) = self.tokens.remove(&key) {
                self.persist(change);
            }
        }
        if credential.authorization().is_some() && self.tokens.len() >= self.config.limits.tokens_max {
            return Err(self.full(TableName::Tokens));
        }
        Ok(())
    }

    /// To be called with what makes the session known, so that both are kept or neither.
    pub(crate) fn take_token(&mut self, credential: &Credential, session: &SessionId) {
        let Some(Authorization { issuer, token_id, expires_at, .. }) = credential.authorization().cloned() else {
            return;
        };
        let taken = TakenToken { issuer, token_id, session: session.clone(), expires_at, used: false };
        self.tokens.put(taken.clone());
        self.persist(Change::PutToken(taken));
    }

    /// What a change of a session does to its token.
    pub(crate) fn follow_session(&mut self, change: &Change) -> Option<Change> {
        self.tokens.follow(change)
    }
}
