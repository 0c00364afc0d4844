//! Keys: who may sign, and whether somebody did.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use pasetors::Public;
use pasetors::keys::{AsymmetricKeyPair, AsymmetricPublicKey, AsymmetricSecretKey, Generate};
use pasetors::paserk::{FormatAsPaserk, Id};
use pasetors::token::UntrustedToken;
use pasetors::version4::{PublicToken, V4};
use serde::{Deserialize, Serialize};

use crate::claims::Claims;
use crate::error::Unauthorised;
use crate::instant::Instant;

/// Longest token that is looked at.
pub const TOKEN_BYTES_MAX: usize = 8_192;
/// Seconds by which the issuer's clock may differ from this node's.
pub const LEEWAY: u64 = 30;

/// Why a text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a public key as PASERK writes it.
    #[error("{0:?} is no PASERK k4.public key")]
    Public(String),
    /// Not a secret key as PASERK writes it. The text is not told.
    #[error("the text is no PASERK k4.secret key")]
    Secret,
    /// The system has no randomness.
    #[error("the system gives no random numbers")]
    Random,
    /// Two keys are the same.
    #[error("key {0} is there twice")]
    Twice(String),
}

/// What signs.
pub struct SecretKey(AsymmetricSecretKey<V4>);

/// What tells whether it was signed.
#[derive(Clone)]
pub struct PublicKey {
    key: AsymmetricPublicKey<V4>,
    id: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Footer {
    kid: String,
}

impl SecretKey {
    /// A new one, and what belongs to it.
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub fn generate() -> Result<(Self, PublicKey), KeyError> {
        let AsymmetricKeyPair { public, secret } = AsymmetricKeyPair::<V4>::generate().map_err(|_| KeyError::Random)?;
        Ok((Self(secret), PublicKey::of(public)))
    }

    /// Reads `k4.secret.…`.
    ///
    /// # Errors
    /// [`KeyError::Secret`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        AsymmetricSecretKey::<V4>::try_from(text.trim()).map(Self).map_err(|_| KeyError::Secret)
    }

    /// `k4.secret.…`: to be kept where nobody else can read it.
    #[must_use]
    pub fn reveal(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = FormatAsPaserk::fmt(&self.0, &mut text);
        text
    }

    /// What belongs to it.
    ///
    /// # Errors
    /// [`KeyError::Secret`] if it is none.
    pub fn public(&self) -> Result<PublicKey, KeyError> {
        AsymmetricPublicKey::try_from(&self.0).map(PublicKey::of).map_err(|_| KeyError::Secret)
    }

    /// Signs claims.
    ///
    /// # Errors
    /// [`Unauthorised::Malformed`] where they are not ones that may be signed.
    pub fn sign(&self, claims: &Claims) -> Result<String, Unauthorised> {
        claims.check()?;
        let malformed = |what: &dyn fmt::Display| Unauthorised::Malformed(what.to_string());
        let public = self.public().map_err(|error| malformed(&error))?;
        let payload = serde_json::to_vec(claims).map_err(|error| malformed(&error))?;
        let footer = serde_json::to_vec(&Footer { kid: public.id }).map_err(|error| malformed(&error))?;
        PublicToken::sign(&self.0, &payload, Some(&footer), None).map_err(|_| malformed(&"it cannot be signed"))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(…)")
    }
}

impl PublicKey {
    fn of(key: AsymmetricPublicKey<V4>) -> Self {
        let mut id = String::new();
        // Writing to a string does not fail.
        let _ = FormatAsPaserk::fmt(&Id::from(&key), &mut id);
        Self { key, id }
    }

    /// Reads `k4.public.…`.
    ///
    /// # Errors
    /// [`KeyError::Public`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let key = AsymmetricPublicKey::<V4>::try_from(text.trim());
        key.map(Self::of).map_err(|_| KeyError::Public(text.to_owned()))
    }

    /// `k4.pid.…`, what tokens name it by.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        FormatAsPaserk::fmt(&self.key, f)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

/// A key that is trusted, and what for.
#[derive(Debug, Clone)]
struct Trusted {
    key: PublicKey,
    issuer: String,
    not_before: Option<Instant>,
    not_after: Option<Instant>,
}

/// The keys that a node trusts, and the tokens that were taken back.
///
/// Keys are rotated by entering the next one before the last one goes: both count meanwhile, and a token names the one it was signed with.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    by_id: BTreeMap<String, Trusted>,
    revoked: BTreeSet<(String, String)>,
    revoked_keys: BTreeSet<String>,
    validity_s_max: Option<u64>,
}

/// A token that is genuine and in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// What it says.
    pub claims: Claims,
    /// The key that it was signed with, `k4.pid.…`.
    pub key_id: String,
}

impl Keys {
    /// Trusts a key of an issuer, from one time up to another where they are given.
    ///
    /// # Errors
    /// [`KeyError::Twice`].
    pub fn trust(
        &mut self,
        key: PublicKey,
        issuer: String,
        not_before: Option<Instant>,
        not_after: Option<Instant>,
    ) -> Result<(), KeyError> {
        if self.by_id.contains_key(key.id()) {
            return Err(KeyError::Twice(key.id().to_owned()));
        }
        self.by_id.insert(key.id().to_owned(), Trusted { key, issuer, not_before, not_after });
        Ok(())
    }

    /// Refuses tokens that are in force for more seconds than this, so that what was used and revoked need not be remembered for longer.
    pub const fn limit_validity(&mut self, seconds: u64) {
        self.validity_s_max = Some(seconds);
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Takes a key back, by its id, and with it all that it has signed.
    pub fn revoke_key(&mut self, id: String) {
        self.revoked_keys.insert(id);
    }

    /// Whether a token of an issuer was taken back, or the key that it was signed with.
    ///
    /// # Errors
    /// [`Unauthorised::Revoked`] or [`Unauthorised::KeyRevoked`].
    pub fn check_revoked(&self, issuer: &str, id: &str, key_id: &str) -> Result<(), Unauthorised> {
        if self.revoked_keys.contains(key_id) {
            return Err(Unauthorised::KeyRevoked(key_id.to_owned()));
        }
        if self.revoked.contains(&(issuer.to_owned(), id.to_owned())) {
            return Err(Unauthorised::Revoked(id.to_owned()));
        }
        Ok(())
    }

    /// Takes a token of an issuer back, by its id.
    pub fn revoke(&mut self, issuer: String, id: String) {
        self.revoked.insert((issuer, id));
    }

    /// Whether a token is genuine, in force and for `audience`; what it says.
    ///
    /// # Errors
    /// Why it is not.
    pub fn verify(&self, token: &str, audience: &str, now: Instant) -> Result<Verified, Unauthorised> {
        let (untrusted, kid) = read(token)?;
        let Some(Trusted { key, issuer, not_before, not_after }) = self.by_id.get(&kid) else {
            return Err(Unauthorised::UnknownKey(kid.chars().take(80).collect()));
        };
        if not_before.is_some_and(|from| now < from) || not_after.is_some_and(|to| now >= to) {
            return Err(Unauthorised::KeyNotInForce(kid));
        }
        let trusted = PublicToken::verify(&key.key, &untrusted, Some(untrusted.untrusted_footer()), None)
            .map_err(|_| Unauthorised::Forged)?;
        let claims: Claims = serde_json::from_str(trusted.payload()).map_err(|error| malformed(error.to_string()))?;
        claims.check()?;
        if claims.issuer != *issuer {
            return Err(Unauthorised::WrongIssuer { issuer: claims.issuer, key: kid });
        }
        if claims.audience != audience {
            return Err(Unauthorised::WrongAudience(claims.audience));
        }
        self.check_revoked(&claims.issuer, &claims.id, &kid)?;
        let asked_s = claims.expires_at.0.saturating_sub(claims.issued_at.0);
        if let Some(max_s) = self.validity_s_max.filter(|max_s| asked_s > *max_s) {
            return Err(Unauthorised::ValidTooLong { asked_s, max_s });
        }
        let begins_at = claims.not_before.max(claims.issued_at);
        if begins_at > now.plus(LEEWAY) {
            return Err(Unauthorised::NotYet(begins_at));
        }
        if claims.expires_at.plus(LEEWAY) < now {
            return Err(Unauthorised::Expired(claims.expires_at));
        }
        Ok(Verified { claims, key_id: kid })
    }
}

/// What a token says, and the key that it names: for people to look at. Nothing is verified.
///
/// # Errors
/// [`Unauthorised::Malformed`].
pub fn unverified(token: &str) -> Result<(Claims, String), Unauthorised> {
    let (untrusted, kid) = read(token)?;
    let claims = serde_json::from_slice(untrusted.untrusted_payload()).map_err(|error| malformed(error.to_string()))?;
    Ok((claims, kid))
}

fn read(token: &str) -> Result<(UntrustedToken<Public, V4>, String), Unauthorised> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(malformed(format!("it has {} bytes; allowed: {TOKEN_BYTES_MAX}", token.len())));
    }
    let untrusted = UntrustedToken::<Public, V4>::try_from(token)
        .map_err(|_| malformed("it is no PASETO v4.public token".to_owned()))?;
    let Footer { kid } = serde_json::from_slice(untrusted.untrusted_footer())
        .map_err(|error| malformed(format!("its footer does not name its key: {error}")))?;
    Ok((untrusted, kid))
}

fn malformed(what: String) -> Unauthorised {
    Unauthorised::Malformed(what)
}

#[cfg(test)]
mod tests;
