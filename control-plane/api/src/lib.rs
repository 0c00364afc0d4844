//! Request and response types of Turnpike's REST API, `/v1`.
//!
//! | resource | verbs |
//! |---|---|
//! | `/v1/aggregates` | `POST` ([`AggregateRequest`]), `GET` ([`Page`] of [`AggregateView`]) |
//! | `/v1/aggregates/{name}` | `GET` ([`AggregateView`]), `DELETE` |
//! | `/v1/sessions` | `POST` ([`SessionRequest`]), `GET` ([`Page`] of [`SessionView`]) |
//! | `/v1/sessions?dry_run=true` | `POST` ([`SessionRequest`]): what it would be answered ([`SessionPreview`]), and nothing is held |
//! | `/v1/sessions/{id}` | `GET`, `PATCH` ([`SessionChange`]), `DELETE` ([`SessionView`], with the final usage) |
//! | `/v1/classes` | `GET` ([`Page`] of [`ClassView`]) |
//! | `/v1/series` | `GET` ([`Page`] of [`SeriesView`]); made by `POST /v1/sessions` with a [`Recurrence`] |
//! | `/v1/series/{id}` | `GET` ([`SeriesView`]), `DELETE` |
//! | `/v1/links` | `GET` ([`Page`] of [`LinkView`]) |
//! | `/v1/links/{name}` | `GET`, `PATCH` ([`LinkChange`]; [`LinkView`]) |
//! | `/v1/usage` | `GET` ([`Page`] of [`UsageRecord`]) |
//! | `/v1/node` | `GET` ([`NodeView`]) |
//! | `/v1/health` | `GET` ([`Health`]) |
//!
//! Every error is an RFC 9457 problem ([`Problem`]) of type `application/problem+json`.
#![forbid(unsafe_code)]

mod capacity;
mod link;
mod series;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use turnpike_broker::class::{Class, Quality};
use turnpike_broker::name::{AggregateName, ClassName, CodecName, FlowId, NodeName, SessionId};
use turnpike_broker::policy::{Counters, DscpPolicy, Excess, Rtcp, Tag};
use turnpike_broker::quality::Mos;
use turnpike_broker::rate_change::RateStage;
use turnpike_broker::record::{AggregateState, Direction, FlowUsage, SessionState, Side};

pub use capacity::MediaSlotsView;
pub use link::{LinkChange, LinkChangeView, LinkView, TimesView, UncarriedView};
pub use series::{OccurrenceView, Recurrence, SeriesView};
pub use turnpike_broker::media_slots::MediaSlots;
pub use turnpike_broker::policy_state::NodePolicies;
pub use turnpike_broker::record::UsageRecord;
pub use turnpike_broker::{AggregateRequest, WhenFull};

/// A list, in a stable order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Give this as `after` to go on; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Body of `POST /v1/sessions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionRequest {
    /// Made by the client; repeating the same request is safe.
    pub id: SessionId,
    /// Its first instant, RFC 3339, rounded down to a millisecond; now if absent. Until then it is booked: held at both ends, and not installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<String>,
    /// The first instant after it, likewise; if absent it lasts until it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<String>,
    /// If there is no room: wait until then, RFC 3339, rounded down to a millisecond. When there is room it is `offered`, and taken by the
    /// same request again. If absent it is refused. It is no part of what a repeated request is compared by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_until: Option<String>,
    /// With which it asks for room, 0 to 65535 (RFC 3181's preemption priority): where there is none it ends sessions whose `holding_priority`
    /// is lower; 0 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup_priority: Option<u16>,
    /// With which it keeps what it has (RFC 3181's defending priority), `setup_priority` to 65535; `setup_priority` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holding_priority: Option<u16>,
    /// It may use what aggregates keep for emergencies, ends any session that is none where there is no room, and is ended only by an
    /// emergency of higher priority.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub emergency: bool,
    /// What each of its flows asks of its aggregate's class, if that does not say itself, field by field (R-001-3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// It recurs: then all occurrences are booked, each as a session `<id>.1` and so on, or none; answered with a [`SeriesView`]. It has a start and
    /// an end, and does not wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recurrence: Option<Recurrence>,
    /// Media-processing slots that it needs, by name, at the node that is asked (`first`) and at the other one (`second`), for its interval.
    #[serde(default, skip_serializing_if = "MediaSlots::is_empty")]
    pub media_slots: MediaSlots,
    /// What shows that it is authorised (R-004-15): a PASETO `v4.public` token; needed where either node asks for one. It is no part of what a
    /// repeated request is compared by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization_token: Option<String>,
    /// All of its flows.
    pub flows: Vec<FlowRequest>,
}

/// Body of `POST /v1/authorization/revocations`: `issuer` and `token_id`, or `key_id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevocationRequest {
    /// Who signed the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The token's `jti`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
    /// The key's id, `k4.pid.…`; all that it has signed is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
}

/// A token or a key that was taken back at this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationView {
    /// Who signed the token; absent of a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The token's `jti`; absent of a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
    /// The key's id; absent of a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// RFC 3339.
    pub revoked_at: String,
}

/// The token that a session was admitted with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationView {
    /// Who signed it.
    pub issuer: String,
    /// Its `jti`.
    pub token_id: String,
    /// The key that it was signed with.
    pub key_id: String,
}

/// Body of `PATCH /v1/sessions/{id}`, at the node that was asked for the session: the end or the rates, one of both.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionChange {
    /// The new end, RFC 3339, rounded down to a millisecond; `null` for a session that lasts until it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[allow(clippy::option_option, reason = "`null` is an end, too: none")]
    pub ends_at: Option<Option<String>>,
    /// Flows that are to have another rate; the others stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<Vec<FlowRate>>,
}

/// What is there, be it `null`.
fn given<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Another rate for a flow of a session that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowRate {
    /// Its name in the session.
    pub id: FlowId,
    /// Bits per second.
    pub rate_bps: u64,
    /// Bytes that may come at once; as before if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst_bytes: Option<u32>,
    /// The smallest rate that would do; `rate_bps` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_bps_min: Option<u64>,
}

/// One flow of a [`SessionRequest`]. Rates and sizes count IP bytes of the packet as its sender makes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowRequest {
    /// Its name in the session.
    pub id: FlowId,
    /// What is to carry it.
    pub aggregate: AggregateName,
    /// Address and port that it is sent from, `10.1.0.10:5004` or `[2001:db8::1]:5004`.
    pub source: SocketAddr,
    /// Address and port that it is sent to; of the same family.
    pub destination: SocketAddr,
    /// Where its RTCP is: `same_port` (RFC 5761, also where there is none) or `next_port` (RFC 3550; then both ports are even, and the flow
    /// has the next ones, too).
    #[serde(default)]
    pub rtcp: Rtcp,
    /// Bits per second.
    pub rate_bps: u64,
    /// Bytes that may come at once.
    pub burst_bytes: u32,
    /// A smaller packet is counted as this many bytes (RFC 2215's minimum policed unit); from 28 with IPv4 or 48 with IPv6 to 9000.
    pub packet_bytes_min: u16,
    /// What it may send beyond that as long as its aggregate has room (RFC 4115); nothing is reserved for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excess: Option<Excess>,
    /// The smallest rate that would do; `rate_bps` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_bps_min: Option<u64>,
    /// What it carries, so that its jitter and its sound can be judged. Loss is counted without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<Media>,
    /// What it asks of its aggregate's class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
}

/// A flow's media.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Media {
    /// The encoding name of SDP's `rtpmap` (RFC 8866), such as `PCMU` or `opus`, in any case of letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec: Option<CodecName>,
    /// Ticks of the RTP timestamp in a second, 1,000 to 10,000,000; the codec's own if absent, and needed where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_rate_hz: Option<u32>,
    /// Measure jitter at every packet, not at one in 16. It costs a clock reading for each.
    #[serde(default)]
    pub jitter_every_packet: bool,
    /// Whether the listener's terminal conceals lost packets, which G.711 leaves to it; true if absent.
    #[serde(default = "concealed")]
    pub packet_loss_concealment: bool,
}

const fn concealed() -> bool {
    true
}

/// A session as the node has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// Its name on all nodes.
    pub id: SessionId,
    /// This node's part.
    pub side: Side,
    /// The other node.
    pub peer: NodeName,
    /// Where it is in its life.
    pub state: SessionState,
    /// Where its policies are at this node and at the other, as this node knows it.
    #[serde(default)]
    pub policies: Vec<NodePolicies>,
    /// The start that was asked for, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<String>,
    /// When it ends, RFC 3339; absent if it has no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<String>,
    /// When it came up here, RFC 3339; absent before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Until when it waits for room, RFC 3339; absent unless it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_until: Option<String>,
    /// While it is offered: until when it can be taken, RFC 3339, by the same request again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered_until: Option<String>,
    /// The token that it was asked for with; absent where this node has not looked at one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<AuthorizationView>,
    /// With which it asked for room.
    #[serde(default)]
    pub setup_priority: u16,
    /// With which it keeps it.
    #[serde(default)]
    pub holding_priority: u16,
    /// It goes before all that are none.
    #[serde(default)]
    pub emergency: bool,
    /// Why it did not come up, or has not yet, though it was booked or waited; or `preempted`, and for which session it was ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// How far a change of rates has come that is not over; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changing_rates: Option<RateStage>,
    /// Media-processing slots that it has or is to have: at the node that was asked those of both sides, at the other one its own.
    #[serde(default, skip_serializing_if = "MediaSlots::is_empty")]
    pub media_slots: MediaSlots,
    /// Its flows.
    pub flows: Vec<FlowView>,
    /// Final usage as counted on both nodes; empty until the session has ended.
    pub usage: Vec<FlowUsage>,
}

/// Answer to `POST /v1/sessions?dry_run=true` where the session would be admitted at this moment; else it is the [`Problem`] of the refusal.
/// Nothing is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPreview {
    /// The name that was asked with.
    pub id: SessionId,
    /// The request was made before, and would be answered with the session as it is: in this state, with these flows. Absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub there_already: Option<SessionState>,
    /// The other node.
    pub peer: NodeName,
    /// The start that was asked for, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<String>,
    /// The end that was asked for, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<String>,
    /// The sessions of lower priority that would be ended for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preempts: Vec<SessionId>,
    /// Media-processing slots that it would have.
    #[serde(default, skip_serializing_if = "MediaSlots::is_empty")]
    pub media_slots: MediaSlots,
    /// Its flows with the second side's values, without counters.
    pub flows: Vec<FlowView>,
}

/// Why a session that was booked or waited did not come up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable, in snake case; one of a [`Problem`]'s.
    pub code: String,
    /// For people.
    pub detail: String,
}

/// A pool: what can be reserved of a link, of an aggregate, or of what a node can forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolView {
    /// `link <name>`, `aggregate <name>` or `node`.
    pub name: String,
    /// The node that has it.
    pub node: String,
    /// Bits per second in all.
    pub capacity_bps: u64,
    /// Bits per second reserved: now, or in a refusal of a session with a start or an end the most at any time of it.
    pub used_bps: u64,
    /// Bits per second free from now on without end: what a booking owns later is not. In a refusal of a session with a start or an end: free
    /// throughout.
    pub free_bps: u64,
    /// Bytes of burst that flows may have together.
    pub burst_capacity_bytes: u64,
    /// Bytes of burst free, likewise.
    pub burst_free_bytes: u64,
    /// In a refusal: the earliest time from which on what was asked would fit for as long as asked, if nothing changes, RFC 3339; absent if
    /// it would at no time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fits_at: Option<String>,
}

/// A flow as the node has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowView {
    /// Its name in the session.
    pub id: FlowId,
    /// What carries it.
    pub aggregate: AggregateName,
    /// Seen from this node.
    pub direction: Direction,
    /// Address and port that it is sent from.
    pub source: SocketAddr,
    /// Address and port that it is sent to.
    pub destination: SocketAddr,
    /// Where its RTCP is.
    pub rtcp: Rtcp,
    /// What was asked for, bits per second.
    pub asked_rate_bps: u64,
    /// What is reserved, bits per second.
    pub rate_bps: u64,
    /// Bytes that may come at once.
    pub burst_bytes: u32,
    /// A smaller packet is counted as this many bytes.
    pub packet_bytes_min: u16,
    /// What was asked for beyond the rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_excess: Option<Excess>,
    /// What it may send beyond the rate: as asked, or what the second side made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excess: Option<Excess>,
    /// Largest UDP payload that fits this node's interfaces, with the tag and without, bytes; absent while that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_bytes_max: Option<u32>,
    /// What this node counted so far; `reception` only of flows that it receives. Absent where it receives the flow on an aggregate whose tags
    /// tell their terminals: then it counts only the aggregate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<Counters>,
    /// What it carries, with the clock rate in use; absent if nothing was said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<Media>,
    /// What was asked of its aggregate's class; absent if nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_quality: Option<Quality>,
    /// What is promised: the second side's values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// How it may have sounded so far, 1 to 4.5: G.107 without delay, for codecs with figures in G.113, and only at the node that receives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mos_estimated: Option<Mos>,
}

/// An aggregate as the node has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AggregateView {
    /// Its name on both nodes.
    pub name: AggregateName,
    /// The node at the other end.
    pub peer: NodeName,
    /// Seen from this node.
    pub direction: Direction,
    /// Bits per second, in IP bytes on the wire.
    pub rate_bps: u64,
    /// Bytes at once.
    pub burst_bytes: u32,
    /// What becomes of the DSCP of packets that the sending node tags.
    pub dscp_policy: DscpPolicy,
    /// 6 bits, where it is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dscp: Option<u8>,
    /// 6 bits, of packets that flows send beyond their own rate; absent if they are like the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excess_dscp: Option<u8>,
    /// What becomes of the DSCP of packets that the receiving node delivers.
    pub deliver_dscp_policy: DscpPolicy,
    /// 6 bits, where it is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliver_dscp: Option<u8>,
    /// What it is engineered for; absent if that was not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<ClassName>,
    /// That class, as both ends knew it when the aggregate was reserved: what it promises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_values: Option<Class>,
    /// What its tags tell.
    #[serde(default)]
    pub tag: Tag,
    /// What becomes of a flow that does not fit.
    #[serde(default)]
    pub when_full: WhenFull,
    /// Per cent of its pool that only emergencies may use.
    #[serde(default)]
    pub emergency_percent: u8,
    /// Largest UDP payloads of flows that fit this node's interfaces; absent while that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_bytes_max: Option<PayloadBytesMax>,
    /// Where it is in its life.
    pub state: AggregateState,
    /// What is reserved of it and what is left.
    pub pool: PoolView,
    /// What this node counted so far.
    pub counters: Counters,
}

/// A class that aggregates may be of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassView {
    /// The same on both nodes of an aggregate.
    pub name: ClassName,
    /// How packets are marked, and what is promised.
    pub values: Class,
}

/// Largest UDP payloads of an aggregate's flows, by their family, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayloadBytesMax {
    /// Of flows between IPv4 endpoints.
    pub ipv4: u32,
    /// Of flows between IPv6 endpoints.
    pub ipv6: u32,
}

/// The node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub name: NodeName,
    /// Of the program.
    pub version: String,
    /// How often it was started.
    pub epoch: u32,
    /// RFC 3339.
    pub started_at: String,
    /// Its ports.
    pub interfaces: Vec<InterfaceView>,
    /// Its links: capacity and what aggregates hold of it.
    pub links: Vec<LinkView>,
    /// What it can forward of all sessions together, on the wire, and what they have of it; absent if that is not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<PoolView>,
    /// Its media-processing slots.
    #[serde(default)]
    pub media_slots: Vec<MediaSlotsView>,
    /// Its peers.
    pub peers: Vec<PeerView>,
    /// Its tables, by name.
    pub tables: BTreeMap<String, TableView>,
    /// What the data plane did with packets, by direction and stable reason; every reason is listed.
    pub verdicts: Vec<VerdictView>,
    /// Requests refused, by stable reason.
    pub refusals: BTreeMap<String, u64>,
    /// How often since the start a session came to wait, was offered after that, or ended in it, by that state.
    #[serde(default)]
    pub waiting_notices: BTreeMap<String, u64>,
    /// Sessions that were ended since the start for others of higher priority.
    #[serde(default)]
    pub preempted: u64,
}

/// A port of the data plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceView {
    /// Of the operating system.
    pub name: String,
    /// `lan` or `wan`.
    pub role: String,
    /// `up`, `down`, or `gone` if there is no such interface.
    pub state: String,
    /// How the program is attached: `native` or `generic`; `none` if it is not, and then packets pass as if Turnpike were not there.
    pub xdp_mode: String,
    /// Bytes.
    pub mtu: u32,
    /// Largest IP packet that still fits with the tag, bytes, where flows and tag addresses are of one family; flows tell their own
    /// `payload_bytes_max`.
    pub packet_bytes_max: u32,
    /// How often since the start the interface was deleted and made anew, and got its program again.
    pub restored: u64,
}

/// A peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerView {
    /// Its name.
    pub name: NodeName,
    /// Where tagged packets go.
    pub tag_address: String,
    /// Whether its last answer came in time; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachable: Option<bool>,
    /// What went wrong last, if it is not reachable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A table with a fixed size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableView {
    /// Entries in use.
    pub used: u64,
    /// Entries in all.
    pub max: u64,
    /// Installations refused because it was full.
    pub full: u64,
}

/// How many packets came to one end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictView {
    /// `out` (from the site) or `in` (from the peers).
    pub direction: String,
    /// Stable, in snake case.
    pub reason: String,
    /// `pass`, `redirect` or `drop`.
    pub action: String,
    /// Packets.
    pub packets: u64,
    /// IP bytes.
    pub bytes: u64,
}

/// Body of `GET /v1/health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ready`.
    pub status: String,
}

/// An RFC 9457 problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:turnpike:problem:<code>`.
    pub r#type: String,
    /// Short, the same for every problem of the type.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong here and what to do.
    pub detail: String,
    /// Stable, in snake case.
    pub code: String,
    /// The field that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The pool that has not enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolView>,
    /// The media-processing slots that are not enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_slots: Option<Box<MediaSlotsView>>,
    /// The largest rate of one such flow that would be admitted now, bits per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter_offer_rate_bps: Option<u64>,
}
