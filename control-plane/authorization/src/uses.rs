//! Which tokens were used, so that none is used twice.

use std::collections::{BTreeMap, BTreeSet};

use crate::claims::Claims;
use crate::error::Unauthorised;
use crate::instant::Instant;
use crate::key::LEEWAY;

/// Most tokens that are remembered. About 300 bytes each.
pub const USES_MAX: usize = 65_536;

/// The tokens that were used and have not expired.
///
/// Whoever asks again with the same token for the same session asks the same: a repeated request is safe. Kept beside the sessions, so that a
/// restart forgets none: [`Self::restore`].
#[derive(Debug, Default)]
pub struct Uses {
    /// Of issuer and id: the session.
    by_id: BTreeMap<(String, String), String>,
    by_expiry: BTreeSet<(Instant, (String, String))>,
}

impl Uses {
    /// Takes a token for its session.
    ///
    /// # Errors
    /// [`Unauthorised::Used`] where it was used for another session, [`Unauthorised::Full`].
    pub fn take(&mut self, claims: &Claims, now: Instant) -> Result<(), Unauthorised> {
        self.forget(now);
        let id = (claims.issuer.clone(), claims.id.clone());
        if let Some(session) = self.by_id.get(&id) {
            let same = *session == claims.session;
            return if same { Ok(()) } else { Err(Unauthorised::Used(claims.id.clone())) };
        }
        if self.by_id.len() >= USES_MAX {
            return Err(Unauthorised::Full(USES_MAX));
        }
        self.restore(id, claims.session.clone(), claims.expires_at);
        Ok(())
    }

    /// Remembers the use of a token that an earlier life of this node has taken: its issuer and id, its session, and when it expires.
    pub fn restore(&mut self, id: (String, String), session: String, expires_at: Instant) {
        self.by_expiry.insert((expires_at, id.clone()));
        self.by_id.insert(id, session);
    }

    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// What has expired is refused without being remembered.
    fn forget(&mut self, now: Instant) {
        while let Some((expires_at, _)) = self.by_expiry.first()
            && expires_at.plus(LEEWAY) < now
            && let Some((_, id)) = self.by_expiry.pop_first()
        {
            self.by_id.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::tests::{NOW, claims};

    #[test]
    fn a_token_is_used_once_but_for_a_repeated_request() {
        let mut uses = Uses::default();
        assert_eq!(uses.take(&claims(), NOW), Ok(()));
        assert_eq!(uses.take(&claims(), NOW), Ok(()));
        let other = Claims { session: "call-4".to_owned(), ..claims() };
        assert_eq!(uses.take(&other, NOW), Err(Unauthorised::Used("5b1f".to_owned())));
        let of_another_issuer = Claims { issuer: "other".to_owned(), ..other };
        assert_eq!(uses.take(&of_another_issuer, NOW), Ok(()));
        assert_eq!(uses.len(), 2);
    }

    #[test]
    fn a_use_is_remembered_as_long_as_the_token_would_be_taken() {
        let mut uses = Uses::default();
        uses.take(&claims(), NOW).unwrap();
        let other = Claims { session: "call-4".to_owned(), ..claims() };
        let last = claims().expires_at.plus(LEEWAY);
        assert_eq!(uses.take(&other, last).unwrap_err().code(), "token_used");
        let next = Claims { id: "next".to_owned(), ..claims() };
        uses.take(&next, last.plus(1)).unwrap();
        assert_eq!(uses.len(), 1);
    }

    #[test]
    fn no_more_are_taken_than_can_be_remembered() {
        let mut uses = Uses::default();
        for number in 0..USES_MAX {
            uses.take(&Claims { id: number.to_string(), ..claims() }, NOW).unwrap();
        }
        assert_eq!(uses.take(&claims(), NOW), Err(Unauthorised::Full(USES_MAX)));
        assert_eq!(uses.take(&Claims { id: "7".to_owned(), ..claims() }, NOW), Ok(()));
    }
}
