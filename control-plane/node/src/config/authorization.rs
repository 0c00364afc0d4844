//! `[authorization]`: whose tokens this node takes (R-004-15).

use std::collections::BTreeSet;

use serde::Deserialize;
use turnpike_authorization::{Instant, KeyError, Keys, NAME_BYTES_MAX, PublicKey};

use super::Faults;

/// Keys in use and their successors.
const KEYS_MAX: usize = 64;

/// `[authorization]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Authorization {
    /// Whether sessions need a token.
    pub required: bool,
    /// What tokens must name as their audience; needed where there are keys.
    pub audience: Option<String>,
    /// Tokens that are in force for longer, from `iat` to `exp`, are refused.
    pub validity_s_max: u64,
    /// Tokens that are remembered until they have expired.
    pub tokens_max: u32,
    /// Revocations that are remembered.
    pub revocations_max: u32,
    /// Who may sign.
    pub keys: Vec<Key>,
    /// Keys that were taken back, by their ids.
    pub revoked_keys: Vec<String>,
    /// Tokens that were taken back.
    pub revoked_tokens: Vec<RevokedToken>,
}

/// `[[authorization.keys]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// `k4.public.…`
    pub key: String,
    /// What tokens that it signed must name as their issuer.
    pub issuer: String,
    /// It counts from then on.
    pub not_before: Option<Instant>,
    /// It does not count from then on.
    pub not_after: Option<Instant>,
}

/// One of `revoked_tokens`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokedToken {
    /// Who signed it.
    pub issuer: String,
    /// Its id.
    pub token_id: String,
}

impl Default for Authorization {
    fn default() -> Self {
        Self {
            required: false,
            audience: None,
            validity_s_max: 86_400,
            tokens_max: 65_536,
            revocations_max: 4_096,
            keys: Vec::new(),
            revoked_keys: Vec::new(),
            revoked_tokens: Vec::new(),
        }
    }
}

impl Authorization {
    /// The keys that are trusted, less what was taken back here.
    pub(crate) fn trusted(&self) -> Result<Keys, KeyError> {
        let mut keys = Keys::default();
        keys.limit_validity(self.validity_s_max);
        for Key { key, issuer, not_before, not_after } in &self.keys {
            keys.trust(PublicKey::parse(key)?, issuer.clone(), *not_before, *not_after)?;
        }
        for id in &self.revoked_keys {
            keys.revoke_key(id.clone());
        }
        for RevokedToken { issuer, token_id } in &self.revoked_tokens {
            keys.revoke(issuer.clone(), token_id.clone());
        }
        Ok(keys)
    }

    pub(super) fn check(&self, faults: &mut Faults) {
        faults.check("authorization.validity_s_max", self.validity_s_max, 1..=31_622_400);
        faults.check("authorization.tokens_max", self.tokens_max.into(), 1..=1_048_576);
        faults.check("authorization.revocations_max", self.revocations_max.into(), 1..=65_536);
        if self.required && self.keys.is_empty() {
            faults.add("authorization.required", true, "false where there are no [[authorization.keys]]");
        }
        if self.keys.len() > KEYS_MAX {
            faults.add("authorization.keys", format!("{} tables", self.keys.len()), &format!("at most {KEYS_MAX}"));
        }
        match &self.audience {
            Some(audience) => check_name("authorization.audience", audience, faults),
            None if self.keys.is_empty() => {}
            None => faults.0.push("authorization.audience is missing: it is needed where there are keys".to_owned()),
        }
        let mut ids = BTreeSet::new();
        for (index, Key { key, issuer, not_before, not_after }) in self.keys.iter().enumerate() {
            let name = |field: &str| format!("authorization.keys[{index}].{field}");
            match PublicKey::parse(key) {
                Ok(public) if ids.insert(public.id().to_owned()) => {}
                Ok(_) => faults.add(&name("key"), key, "a key that is not there twice"),
                // It may be a secret key that got here by mistake.
                Err(_) => faults.add(&name("key"), "a text", "a public key, k4.public.…"),
            }
            check_name(&name("issuer"), issuer, faults);
            if let (Some(from), Some(to)) = (not_before, not_after)
                && from >= to
            {
                faults.add(&name("not_after"), to, "later than not_before");
            }
        }
        for (index, id) in self.revoked_keys.iter().enumerate() {
            if !is_key_id(id) {
                faults.add(&format!("authorization.revoked_keys[{index}]"), id, "a key's id, k4.pid.…");
            }
        }
    }
}

/// Whether it may be the id of a public key.
pub(crate) fn is_key_id(id: &str) -> bool {
    id.starts_with("k4.pid.") && id.len() <= NAME_BYTES_MAX
}

/// Whether tokens can have it for a name or an id.
pub(crate) fn is_token_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
}

fn check_name(key: &str, name: &str, faults: &mut Faults) {
    if !is_token_name(name) {
        faults.add(key, format!("{name:?}"), &format!("1 to {NAME_BYTES_MAX} bytes"));
    }
}
