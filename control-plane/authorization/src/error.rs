//! Why a token does not authorise what is asked.

use crate::instant::Instant;

/// Why not. Nothing has changed by it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unauthorised {
    /// It is not a PASETO v4.public with a footer and claims as they are asked for.
    #[error("the token cannot be read: {0}")]
    Malformed(String),
    /// Its key is not among those that are trusted.
    #[error("key {0} is not trusted here; have its public key entered, or the token signed with another")]
    UnknownKey(String),
    /// Its key is not trusted any more, or not yet.
    #[error("key {0} is not in force at this time; have the token signed with one that is")]
    KeyNotInForce(String),
    /// The signature does not fit.
    #[error("the token was changed, or not signed with the key that it names")]
    Forged,
    /// Its issuer may not use this key.
    #[error("issuer {issuer:?} may not sign with key {key}")]
    WrongIssuer {
        /// Who the token says it is of.
        issuer: String,
        /// The key's id.
        key: String,
    },
    /// It is for another node.
    #[error("the token is for {0:?}, not for this node")]
    WrongAudience(String),
    /// Its time has not come.
    #[error("the token is in force from {0} on")]
    NotYet(Instant),
    /// Its time is over.
    #[error("the token has expired, at {0}")]
    Expired(Instant),
    /// It was taken back.
    #[error("token {0} was revoked")]
    Revoked(String),
    /// It is of another session.
    #[error("the token is for session {0:?}")]
    WrongSession(String),
    /// It has no such flow.
    #[error("the token has no flow from {from} to {to}")]
    WrongFlow {
        /// Address and port.
        from: std::net::SocketAddr,
        /// Address and port.
        to: std::net::SocketAddr,
    },
    /// More is asked for than it allows.
    #[error("the token allows {max_bps} bit/s from {from}, and {asked_bps} are asked for")]
    RateTooHigh {
        /// Of the flow.
        from: std::net::SocketAddr,
        /// Bits per second, excess included.
        asked_bps: u64,
        /// Bits per second.
        max_bps: u64,
    },
    /// It was used for something else.
    #[error("token {0} was used before; ask for a new one")]
    Used(String),
    /// So many tokens are in use that no more can be remembered.
    #[error("{0} tokens are remembered, and no more can be; try again when some have expired")]
    Full(usize),
}

impl Unauthorised {
    /// A stable name for it, the same in the API and in counters.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "token_malformed",
            Self::UnknownKey(_) => "token_key_unknown",
            Self::KeyNotInForce(_) => "token_key_not_in_force",
            Self::Forged => "token_forged",
            Self::WrongIssuer { .. } => "token_wrong_issuer",
            Self::WrongAudience(_) => "token_wrong_audience",
            Self::NotYet(_) => "token_not_yet",
            Self::Expired(_) => "token_expired",
            Self::Revoked(_) => "token_revoked",
            Self::WrongSession(_) => "token_wrong_session",
            Self::WrongFlow { .. } => "token_wrong_flow",
            Self::RateTooHigh { .. } => "token_rate_too_high",
            Self::Used(_) => "token_used",
            Self::Full(_) => "token_limit_reached",
        }
    }
}
