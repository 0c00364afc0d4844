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
    /// Its key was taken back.
    #[error("key {0} was revoked; have the token signed with another")]
    KeyRevoked(String),
    /// Its issuer may not use this key.
    #[error("issuer {issuer:?} may not sign with key {key}")]
    WrongIssuer {
        /// Who the token says it is of.
        issuer: String,
        /// The key's id.
        key: String,
    },
    /// It is for other nodes.
    #[error("the token is for {0:?}, which is not the audience of this node")]
    WrongAudience(String),
    /// Its time has not come.
    #[error("the token is in force from {0} on")]
    NotYet(Instant),
    /// Its time is over.
    #[error("the token has expired, at {0}; ask its issuer for a new one")]
    Expired(Instant),
    /// It was taken back.
    #[error("token {0} was revoked; ask its issuer for a new one")]
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
    /// It is in force for longer than a node remembers what was used and revoked.
    #[error("the token is in force for {asked_s} s from its iat on; allowed: {max_s} s")]
    ValidTooLong {
        /// Seconds from `iat` to `exp`.
        asked_s: u64,
        /// Seconds.
        max_s: u64,
    },
}

impl Unauthorised {
    /// The claim that does not fit what is asked, for a token that is genuine and in force; none for any other error.
    #[must_use]
    pub const fn claim(&self) -> Option<&'static str> {
        match self {
            Self::WrongAudience(_) => Some("aud"),
            Self::WrongSession(_) => Some("session"),
            Self::WrongFlow { .. } | Self::RateTooHigh { .. } => Some("flows"),
            Self::Malformed(_)
            | Self::UnknownKey(_)
            | Self::KeyNotInForce(_)
            | Self::KeyRevoked(_)
            | Self::Forged
            | Self::WrongIssuer { .. }
            | Self::NotYet(_)
            | Self::Expired(_)
            | Self::Revoked(_)
            | Self::ValidTooLong { .. } => None,
        }
    }
}
