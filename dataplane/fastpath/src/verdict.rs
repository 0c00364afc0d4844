//! What becomes of a packet, and why: every end of the packet's way is one row of the table below.

/// Which of the two functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the site towards the peers.
    Out,
    /// From the peers towards the site.
    In,
}

impl Direction {
    /// Both, in the order of their counters.
    pub const ALL: [Self; 2] = [Self::Out, Self::In];

    /// Stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::In => "in",
        }
    }
}

/// The function that a frame has to go on to, because it is not as plain as most. Nothing was changed or counted so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Detour {
    /// [`crate::outbound_v4`]
    OutV4,
    /// [`crate::outbound_v6`]
    OutV6,
    /// [`crate::inbound_v4`]
    InV4,
    /// [`crate::inbound_v6`]
    InV6,
}

impl Detour {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::OutV4, Self::OutV6, Self::InV4, Self::InV6];
}

/// Why a function has no port for a frame.
pub(crate) enum Stop {
    Reason(Reason),
    Detour(Detour),
}

impl From<Reason> for Stop {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        Self::Reason(reason)
    }
}

/// What the host has to do with the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Give it to the operating system.
    Pass,
    /// Throw it away.
    Drop,
    /// Send it out of this port (an index of the port table).
    Redirect(u32),
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $action:literal;)*) => {
        /// Why. The discriminant is the index of the counter.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Reason { $($(#[$doc])* $variant),* }

        impl Reason {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Stable name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// `pass`, `redirect` or `drop`.
            #[must_use]
            pub const fn action(self) -> &'static str {
                match self { $(Self::$variant => $action),* }
            }
        }
    };
}

reasons! {
    /// An admitted flow's packet went out with its tag.
    Tagged, "tagged", "redirect";
    /// A tagged packet was restored and sent to the site.
    Restored, "restored", "redirect";
    /// The same, by the kernel's route because its cached next hop is not resolved.
    TaggedByRoute, "tagged_by_route", "redirect";
    /// The same, by the kernel's route because there is no cached next hop.
    RestoredByRoute, "restored_by_route", "redirect";
    /// ARP: left to the operating system.
    Arp, "arp", "pass";
    /// Addressed to the node itself, or to a group that it may be in.
    Local, "local", "pass";
    /// From the WAN, and no tagged packet.
    NotOurs, "not_ours", "pass";
    /// Of no admitted flow; the policy lets it pass as best effort.
    Unadmitted, "unadmitted", "pass";
    /// Of no admitted flow; the policy refuses it.
    UnadmittedRefused, "unadmitted_refused", "drop";
    /// Of no admitted flow, and above what the link has left.
    UnadmittedOverRate, "unadmitted_over_rate", "drop";
    /// Above the flow's rate and burst.
    FlowOverRate, "flow_over_rate", "drop";
    /// Above the aggregate's rate and burst.
    AggregateOverRate, "aggregate_over_rate", "drop";
    /// The flow's policy was not renewed in time.
    Expired, "expired", "drop";
    /// Its time to live ended here.
    TimeToLive, "time_to_live", "drop";
    /// Longer than the MTU of the port it has to leave by, tag included.
    TooBig, "too_big", "drop";
    /// The next hop's MAC address is not known.
    NextHopUnresolved, "next_hop_unresolved", "drop";
    /// The frame ends before its headers or before its stated length.
    Truncated, "truncated", "drop";
    /// Length fields contradict each other.
    BadLength, "bad_length", "drop";
    /// The IPv4 header's checksum is wrong, and the header cannot travel with the packet.
    BadChecksum, "bad_checksum", "drop";
    /// A tagged packet in fragments; or one from the site, where the policy refuses fragments.
    Fragment, "fragment", "drop";
    /// A tag of another version.
    UnknownVersion, "unknown_version", "drop";
    /// A tag of a kind that is not carried here.
    UnknownKind, "unknown_kind", "drop";
    /// A tag of a kind that the label's flow does not have.
    WrongKind, "wrong_kind", "drop";
    /// A whole packet in a tagged one, and not of the label's flow.
    WrongPacket, "wrong_packet", "drop";
    /// The terminal that a tag tells is not at the site.
    NoTerminal, "no_terminal", "drop";
    /// A tag from an address that is no peer's.
    Stranger, "stranger", "drop";
    /// A peer's tag with a label that no flow has.
    UnknownLabel, "unknown_label", "drop";
    /// A peer's tag with the label of an ended flow.
    StaleGeneration, "stale_generation", "drop";
    /// A peer's tag with the label of another peer's flow.
    LabelOfOtherPeer, "label_of_other_peer", "drop";
    /// A table or the frame did not give what it must: a fault of ours.
    Internal, "internal", "drop";
    /// Other CPUs' packets came first at each try to charge a meter; whether this one conformed is not known.
    Contended, "contended", "drop";
}

/// Rows of the counter table for one direction.
pub const REASONS_MAX: u32 = 32;

const _: () = assert!(Reason::ALL.len() <= REASONS_MAX as usize);

impl Reason {
    /// Index of the counter of this reason in this direction.
    #[must_use]
    pub const fn row(self, direction: Direction) -> u32 {
        direction as u32 * REASONS_MAX + self as u32
    }
}
