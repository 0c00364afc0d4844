//! Authorization tokens (R-004-15): signed proof that a session, with these ends and rates, was authorised by somebody whom a node trusts.
//!
//! A token is a PASETO `v4.public`: Ed25519 over a header, a payload in JSON and a footer that names the key by its PASERK id.
//!
//! ```text
//! v4.public.<base64url: payload | signature, 64 bytes>.<base64url: footer>
//!
//! payload  {"iss":"billing","aud":"edge-a","jti":"5b1f…","iat":"2026-11-20T16:00:00Z","nbf":"2026-11-20T16:00:00Z","exp":"2026-11-20T16:05:00Z",
//!           "session":"call-3","flows":[{"source":"10.1.0.10:5004","destination":"10.2.0.10:5004","rate_bps_max":88000}]}
//! footer   {"kid":"k4.pid.…"}
//! ```
//!
//! Nothing here reads a clock, a file or a socket. [`Keys::verify`] says whether a token is genuine and in force; [`Claims::cover`] whether it is for
//! what is asked. Whether it was used before is for whoever keeps sessions to say.
#![forbid(unsafe_code)]

mod claims;
mod error;
mod instant;
mod key;

pub use claims::{AuthorisedFlow, Claims, FLOWS_MAX, NAME_BYTES_MAX, Wish};
pub use error::Unauthorised;
pub use instant::Instant;
pub use key::{KeyError, Keys, LEEWAY, PublicKey, SecretKey, TOKEN_BYTES_MAX, Verified, unverified};
