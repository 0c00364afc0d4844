//! Names and numbers that travel: one type each, checked once when made.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {value:?} must be 1 to {length_max} characters from a-z, A-Z, 0-9, '-', '_' and '.', starting with a letter or digit"
)]
pub struct NameError {
    what: &'static str,
    value: String,
    length_max: usize,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $length_max:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Longest accepted name, in characters.
            pub const LENGTH_MAX: usize = $length_max;

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(value: String) -> Result<Self, NameError> {
                let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
                let first = value.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
                if first && value.len() <= Self::LENGTH_MAX && value.chars().all(legal) {
                    Ok(Self(value))
                } else {
                    let value = value.chars().take(Self::LENGTH_MAX + 1).collect();
                    Err(NameError { what: $what, value, length_max: Self::LENGTH_MAX })
                }
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;

            fn from_str(value: &str) -> Result<Self, NameError> {
                Self::try_from(value.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(/// A node's name; the common name of its certificate.
    NodeName, "node name", 32);
name!(/// A link of this node.
    LinkName, "link name", 32);
name!(/// An aggregate's name, the same on both of its nodes.
    AggregateName, "aggregate name", 48);
name!(/// A session's name, made by the client, the same on all of its nodes.
    SessionId, "session id", 64);
name!(/// A flow's name inside its session.
    FlowId, "flow id", 32);
name!(/// A class's name, the same on both of its nodes.
    ClassName, "class name", 32);
name!(/// What games are told apart by.
    GameName, "game name", 32);
name!(/// Media-processing slots of a node, such as `transcoding`.
    SlotName, "media slot name", 32);
name!(/// A codec's encoding name, as in SDP.
    CodecName, "codec", 32);

/// One installed policy on this node. Never used twice in a node's life: the epoch is its upper half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PolicyId(pub u64);

/// How often a node was started: fences what an earlier life of it said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

/// 40 bits: the receiver's table index in the lower 20, its generation in the upper 20.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Label(pub u64);

impl Label {
    /// Bits of a label.
    pub const BITS: u32 = 40;
    /// Bits of a label's index.
    pub const INDEX_BITS: u32 = 20;
}

/// Time in nanoseconds. As an instant, since a beginning that the shell chooses and that a restart does not move
/// backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nanos(pub u64);

impl Nanos {
    /// Whole milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// `self + other`, stopping at the end of time.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}
