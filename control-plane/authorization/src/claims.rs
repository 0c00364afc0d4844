//! What a token says.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::error::Unauthorised;
use crate::instant::Instant;

/// Most flows of one token: those of a session and as many again.
pub const FLOWS_MAX: usize = 32;
/// Longest name or id in a token.
pub const NAME_BYTES_MAX: usize = 128;

/// The payload of a token. Names as in PASETO's registered claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Who signed it.
    #[serde(rename = "iss")]
    pub issuer: String,
    /// Who is to take it: what all nodes of a domain call themselves for this purpose, so that one token does for both sides of a session.
    #[serde(rename = "aud")]
    pub audience: String,
    /// Its own id, never used twice by the issuer.
    #[serde(rename = "jti")]
    pub id: String,
    /// When it was signed.
    #[serde(rename = "iat")]
    pub issued_at: Instant,
    /// It is in force from then on.
    #[serde(rename = "nbf")]
    pub not_before: Instant,
    /// It is in force up to then. A session that it admitted may last longer.
    #[serde(rename = "exp")]
    pub expires_at: Instant,
    /// The session that may be asked for.
    pub session: String,
    /// The flows that it may have.
    pub flows: Vec<AuthorisedFlow>,
}

/// A flow that a session may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorisedFlow {
    /// Address and port.
    pub source: SocketAddr,
    /// Address and port.
    pub destination: SocketAddr,
    /// Most bits per second, excess included.
    pub rate_bps_max: u64,
}

/// A flow that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Address and port.
    pub source: SocketAddr,
    /// Address and port.
    pub destination: SocketAddr,
    /// Bits per second, excess included.
    pub rate_bps: u64,
}

impl Claims {
    /// Whether the claims are ones that may be signed.
    pub(crate) fn check(&self) -> Result<(), Unauthorised> {
        let wrong = |what: String| Err(Unauthorised::Malformed(what));
        let names = [("iss", &self.issuer), ("aud", &self.audience), ("jti", &self.id), ("session", &self.session)];
        for (name, text) in names {
            if text.is_empty() || text.len() > NAME_BYTES_MAX {
                return wrong(format!("{name} has {} bytes; allowed: 1 to {NAME_BYTES_MAX}", text.len()));
            }
        }
        if self.flows.is_empty() || self.flows.len() > FLOWS_MAX {
            return wrong(format!("it has {} flows; allowed: 1 to {FLOWS_MAX}", self.flows.len()));
        }
        if self.not_before >= self.expires_at {
            return wrong(format!("exp is {}, not after nbf, {}", self.expires_at, self.not_before));
        }
        Ok(())
    }

    /// Whether the token is for this session with these flows, and the most bits per second of each, in their order. One of its flows allows one
    /// that is asked for.
    ///
    /// # Errors
    /// [`Unauthorised::WrongSession`], [`Unauthorised::WrongFlow`] or [`Unauthorised::RateTooHigh`].
    pub fn cover(&self, session: &str, flows: &[Wish]) -> Result<Vec<u64>, Unauthorised> {
        if self.session != session {
            return Err(Unauthorised::WrongSession(self.session.clone()));
        }
        let mut left: Vec<&AuthorisedFlow> = self.flows.iter().collect();
        let mut rates_bps_max = Vec::with_capacity(flows.len());
        for Wish { source, destination, rate_bps } in flows {
            let at = left.iter().position(|flow| flow.source == *source && flow.destination == *destination);
            let Some(at) = at else { return Err(Unauthorised::WrongFlow { from: *source, to: *destination }) };
            let max_bps = left.swap_remove(at).rate_bps_max;
            if *rate_bps > max_bps {
                return Err(Unauthorised::RateTooHigh { from: *source, asked_bps: *rate_bps, max_bps });
            }
            rates_bps_max.push(max_bps);
        }
        Ok(rates_bps_max)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const NOW: Instant = Instant(1_795_190_400);

    pub(crate) fn claims() -> Claims {
        let flow = |source: &str, destination: &str| AuthorisedFlow {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            rate_bps_max: 88_000,
        };
        Claims {
            issuer: "billing".to_owned(),
            audience: "edge-a".to_owned(),
            id: "5b1f".to_owned(),
            issued_at: NOW,
            not_before: NOW,
            expires_at: NOW.plus(300),
            session: "call-3".to_owned(),
            flows: vec![
                flow("10.1.0.10:5004", "10.2.0.10:5004"),
                flow("[2001:db8:2::10]:5004", "[2001:db8:1::10]:5004"),
            ],
        }
    }

    fn wish(flow: &AuthorisedFlow, rate_bps: u64) -> Wish {
        Wish { source: flow.source, destination: flow.destination, rate_bps }
    }

    #[test]
    fn a_token_is_for_its_session_its_flows_and_their_rates() {
        let claims = claims();
        let both: Vec<Wish> = claims.flows.iter().map(|flow| wish(flow, 88_000)).collect();
        assert_eq!(claims.cover("call-3", &both), Ok(vec![88_000, 88_000]));
        assert_eq!(claims.cover("call-3", &both[..1]), Ok(vec![88_000]));
        assert_eq!(claims.cover("call-4", &both), Err(Unauthorised::WrongSession("call-3".to_owned())));
        let turned = Wish { source: both[0].destination, destination: both[0].source, ..both[0] };
        assert_eq!(claims.cover("call-3", &[turned]).unwrap_err().claim(), Some("flows"));
        let more = wish(&claims.flows[1], 88_001);
        let too_high = claims.cover("call-3", &[both[0], more]).unwrap_err();
        assert!(matches!(too_high, Unauthorised::RateTooHigh { asked_bps: 88_001, .. }), "{too_high}");
    }

    #[test]
    fn a_flow_that_is_authorised_once_is_not_two() {
        let claims = claims();
        let one = wish(&claims.flows[0], 1);
        assert_eq!(claims.cover("call-3", &[one, one]).unwrap_err().claim(), Some("flows"));
    }

    #[test]
    fn claims_have_bounds() {
        assert_eq!(claims().check(), Ok(()));
        let wrong = |change: fn(&mut Claims)| {
            let mut claims = claims();
            change(&mut claims);
            claims.check().unwrap_err().to_string()
        };
        assert!(wrong(|claims| claims.id.clear()).contains("jti has 0 bytes"));
        assert!(wrong(|claims| claims.session = "x".repeat(129)).contains("session has 129 bytes"));
        assert!(wrong(|claims| claims.flows.clear()).contains("0 flows"));
        assert!(wrong(|claims| claims.flows = vec![claims.flows[0]; 33]).contains("33 flows"));
        assert!(wrong(|claims| claims.expires_at = claims.not_before).contains("not after nbf"));
    }
}
