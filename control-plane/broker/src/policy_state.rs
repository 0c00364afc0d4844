//! Where a session's policies are at each of its two nodes, as one of them knows it (R-004-9, R-004-16).

use serde::{Deserialize, Serialize};

use crate::name::NodeName;
use crate::record::{SessionRecord, SessionState, Side};

/// The way of a session's policies at one node.
///
/// ```text
/// requested ──► installed ──► confirmed ──► deinstalling ──► deinstalled
///     └─────────────┴──► refused
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyState {
    /// Asked for; pools are held, nothing is known to be installed.
    Requested,
    /// In force there; the session is not confirmed at both nodes.
    Installed,
    /// In force, and confirmed at both nodes.
    Confirmed,
    /// It did not come up; nothing is in force.
    Refused,
    /// It ends; that it is out of force is not confirmed.
    Deinstalling,
    /// Out of force and confirmed, and so is the final usage of a session that was up.
    Deinstalled,
}

/// One node's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePolicies {
    /// Which node.
    pub node: NodeName,
    /// Where its policies are.
    pub state: PolicyState,
}

impl SessionRecord {
    /// Of this node, which is `own`, and of the peer. Empty while the session waits for room: no policy was asked for.
    #[must_use]
    pub fn policy_states(&self, own: &NodeName) -> Vec<NodePolicies> {
        use PolicyState::{Confirmed, Deinstalled, Deinstalling, Installed, Refused, Requested};
        let (here, there) = match (self.state, self.side) {
            (SessionState::Waiting, _) => return Vec::new(),
            (SessionState::Held | SessionState::Offered | SessionState::Booked, _) => (Requested, Requested),
            (SessionState::Installing, Side::First) => (Requested, Requested),
            // The first side has the second commit once its own are in force.
            (SessionState::Installing, Side::Second) => (Requested, Installed),
            (SessionState::Committing, _) => (Installed, Requested),
            (SessionState::Active, _) => (Confirmed, Confirmed),
            (SessionState::Releasing, _) => {
                let peer_has_counted = self.usage.iter().any(|usage| usage.node == self.peer);
                (Deinstalling, if peer_has_counted { Deinstalled } else { Deinstalling })
            }
            (SessionState::Ended, _) if !self.was_active() && self.failure.is_some() => (Refused, Refused),
            (SessionState::Ended, _) => (Deinstalled, Deinstalled),
        };
        vec![NodePolicies { node: own.clone(), state: here }, NodePolicies { node: self.peer.clone(), state: there }]
    }
}
