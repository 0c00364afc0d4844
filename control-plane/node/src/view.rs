//! The broker's records and the API's requests, each as the other side has it.

use turnpike_api::{
    AggregateView, AuthorizationView, Failure, FlowView, Media as MediaView, MediaSlotsView, PoolView, SessionChange,
    SessionPreview, SessionRequest, SessionView,
};
use turnpike_broker::class::Quality;
use turnpike_broker::media::Media;
use turnpike_broker::media_slots::SlotState;
use turnpike_broker::name::{Nanos, NodeName, PolicyId, SessionId};
use turnpike_broker::policy::{Counters, Endpoints, Marking, Meter};
use turnpike_broker::quality;
use turnpike_broker::rate_change::RateWish;
use turnpike_broker::record::{AggregateRecord, Direction, FlowRecord, SessionRecord, SessionState};
use turnpike_broker::refusal::PoolState;
use turnpike_broker::{FlowRequest, Priority, Request, Schedule, SessionRequest as Wish};

use crate::payload::Room;
use crate::problem::{self, ProblemReply};

/// The request as the broker takes it, and until when it may wait.
pub(crate) fn session_wish(request: SessionRequest) -> Result<(Wish, Option<Nanos>), ProblemReply> {
    let wait_until = time("wait_until", request.wait_until)?;
    let (starts_at, ends_at) = (time("starts_at", request.starts_at)?, time("ends_at", request.ends_at)?);
    let of_session = request.quality.unwrap_or_default();
    let flows = request.flows.into_iter().map(|flow| FlowRequest {
        endpoints: Endpoints { source: flow.source, destination: flow.destination },
        rtcp: flow.rtcp,
        meter: Meter {
            rate_bps: flow.rate_bps,
            burst_bytes: flow.burst_bytes,
            packet_bytes_min: flow.packet_bytes_min,
            excess: flow.excess,
        },
        rate_bps_min: flow.rate_bps_min.unwrap_or(flow.rate_bps),
        id: flow.id,
        aggregate: flow.aggregate,
        media: flow.media.map(media).unwrap_or_default(),
        quality: flow.quality.unwrap_or_default().or(&of_session),
    });
    let setup = request.setup_priority.unwrap_or_default();
    let priority = Priority { setup, holding: request.holding_priority.unwrap_or(setup), emergency: request.emergency };
    let wish = Wish {
        id: request.id,
        schedule: Schedule { starts_at, ends_at },
        priority,
        media_slots: request.media_slots,
        flows: flows.collect(),
    };
    Ok((wish, wait_until))
}

/// The change as the broker takes it.
pub(crate) fn change_wish(id: SessionId, change: SessionChange) -> Result<Request, ProblemReply> {
    match (change.ends_at, change.flows) {
        (Some(ends_at), None) => Ok(Request::ChangeSessionEnd { id, ends_at: time("ends_at", ends_at)? }),
        (None, Some(flows)) => {
            let flows = flows.into_iter().map(|flow| RateWish {
                id: flow.id,
                rate_bps: flow.rate_bps,
                burst_bytes: flow.burst_bytes,
                rate_bps_min: flow.rate_bps_min.unwrap_or(flow.rate_bps),
            });
            Ok(Request::ChangeSessionRates { id, flows: flows.collect() })
        }
        (None, None) => {
            Err(ProblemReply::new("missing_field", "missing field `ends_at` or `flows`").in_field("ends_at"))
        }
        (Some(_), Some(_)) => Err(ProblemReply::invalid_value(
            "flows",
            "flows is given beside ends_at: change the end and the rates by a request each",
        )),
    }
}

/// A time that may be absent.
pub(crate) fn time(field: &str, text: Option<String>) -> Result<Option<Nanos>, ProblemReply> {
    let time = text.map(|text| text.parse::<Nanos>()).transpose();
    time.map_err(|error| ProblemReply::invalid_value(field, format!("{field}: {error}")))
}

/// A pool for people and orchestrators.
pub(crate) fn pool(state: PoolState) -> PoolView {
    let PoolState { name, node, capacity_bps, used_bps, free_bps, burst_capacity_bytes, burst_free_bytes, fits_at } =
        state;
    // Not before it fits, where that is within a millisecond.
    let fits_at = fits_at.map(|time| time.to_next_millisecond().to_string());
    PoolView { name, node, capacity_bps, used_bps, free_bps, burst_capacity_bytes, burst_free_bytes, fits_at }
}

/// Media slots for people and orchestrators.
pub(crate) fn media_slots(state: SlotState) -> MediaSlotsView {
    let SlotState { name, node, capacity_slots, used_slots, free_slots, fits_at } = state;
    let fits_at = fits_at.map(|time| time.to_next_millisecond().to_string());
    MediaSlotsView { name, node, capacity_slots, used_slots, free_slots, fits_at }
}

fn media(asked: MediaView) -> Media {
    let MediaView { codec, clock_rate_hz, jitter_every_packet, packet_loss_concealment } = asked;
    Media { codec, clock_rate_hz, jitter_every_packet, unconcealed: !packet_loss_concealment }
}

fn media_view(media: &Media) -> Option<MediaView> {
    (*media != Media::default()).then(|| MediaView {
        codec: media.codec.clone(),
        clock_rate_hz: media.clock_rate_hz(),
        jitter_every_packet: media.jitter_every_packet,
        packet_loss_concealment: !media.unconcealed,
    })
}

fn quality_view(quality: &Quality) -> Option<Quality> {
    (!quality.is_none()).then(|| quality.clone())
}

/// An aggregate for people and orchestrators.
pub(crate) fn aggregate(
    record: AggregateRecord,
    pool: Option<PoolState>,
    counters: Counters,
    room: Option<Room>,
    node: &NodeName,
) -> AggregateView {
    let pool = pool.unwrap_or_else(|| PoolState {
        name: format!("aggregate {}", record.name),
        node: node.to_string(),
        capacity_bps: record.rate_bps,
        used_bps: 0,
        free_bps: record.rate_bps,
        burst_capacity_bytes: record.burst_bytes.into(),
        burst_free_bytes: record.burst_bytes.into(),
        fits_at: None,
    });
    let Marking { dscp, excess_dscp, deliver_dscp } = record.marking;
    AggregateView {
        name: record.name,
        peer: record.peer,
        direction: record.direction,
        rate_bps: record.rate_bps,
        burst_bytes: record.burst_bytes,
        dscp_policy: dscp.policy(),
        dscp: dscp.value(),
        excess_dscp,
        deliver_dscp_policy: deliver_dscp.policy(),
        deliver_dscp: deliver_dscp.value(),
        class: record.class.as_ref().map(|class| class.name.clone()),
        class_values: record.class.map(|class| class.class),
        tag: record.tag,
        when_full: record.when_full,
        emergency_percent: record.emergency_percent,
        payload_bytes_max: room.map(|room| room.of_both(record.tag)),
        state: record.state,
        pool: self::pool(pool),
        counters,
    }
}

/// The policies whose counters a view of the session shows: none once it has ended, when it has its own readings.
pub(crate) fn policies(record: &SessionRecord) -> Vec<PolicyId> {
    if matches!(record.state, SessionState::Ended | SessionState::Waiting) {
        return Vec::new();
    }
    record.flows.iter().filter(|flow| flow.has_policy()).map(|flow| flow.policy).collect()
}

/// A session for people and orchestrators. `counters` are those of [`policies`].
pub(crate) fn session(
    record: SessionRecord,
    counters: &[Counters],
    room: Option<Room>,
    node: &NodeName,
) -> SessionView {
    let ended = record.state == SessionState::Ended;
    let mut readings = counters.iter().copied();
    let flows = record.flows.iter().map(|flow| {
        let last = record.usage.iter().find(|usage| usage.node == *node && usage.flow == flow.id);
        let last = last.filter(|_| ended).and_then(|usage| usage.counters);
        let counters = flow.has_policy().then(|| last.or_else(|| readings.next()).unwrap_or_default());
        // What fits now says nothing of a flow that is over.
        flow_view(flow, counters, room.filter(|_| !ended))
    });
    SessionView {
        flows: flows.collect(),
        policies: record.policy_states(node),
        id: record.id,
        side: record.side,
        peer: record.peer,
        state: record.state,
        starts_at: record.schedule.starts_at.map(|time| time.to_string()),
        ends_at: record.schedule.ends_at.map(|time| time.to_string()),
        wait_until: record.wait.map(|wait| wait.until.to_string()),
        offered_until: record.wait.and_then(|wait| wait.offered_until).map(|time| time.to_string()),
        since: (record.since > Nanos(0)).then(|| record.since.to_string()),
        changing_rates: record.rate_change.map(|change| change.stage),
        authorization: record.authorization.map(|found| AuthorizationView {
            issuer: found.issuer,
            token_id: found.token_id,
            key_id: found.key_id,
        }),
        setup_priority: record.priority.setup,
        holding_priority: record.priority.holding,
        emergency: record.priority.emergency,
        failure: record.failure.map(|failure| Failure { code: problem::code(failure.reason), detail: failure.detail }),
        media_slots: record.media_slots,
        usage: if ended { record.usage } else { Vec::new() },
    }
}

/// What a session would be given.
pub(crate) fn preview(
    record: SessionRecord,
    is_there: bool,
    preempts: Vec<SessionId>,
    room: Option<Room>,
) -> SessionPreview {
    SessionPreview {
        there_already: is_there.then_some(record.state),
        preempts,
        flows: record.flows.iter().map(|flow| flow_view(flow, None, room)).collect(),
        id: record.id,
        peer: record.peer,
        starts_at: record.schedule.starts_at.map(|time| time.to_string()),
        ends_at: record.schedule.ends_at.map(|time| time.to_string()),
        media_slots: record.media_slots,
    }
}

fn flow_view(flow: &FlowRecord, counters: Option<Counters>, room: Option<Room>) -> FlowView {
    FlowView {
        id: flow.id.clone(),
        aggregate: flow.aggregate.clone(),
        direction: flow.direction,
        source: flow.endpoints.source,
        destination: flow.endpoints.destination,
        rtcp: flow.rtcp,
        asked_rate_bps: flow.asked_rate_bps,
        rate_bps: flow.meter.rate_bps,
        burst_bytes: flow.meter.burst_bytes,
        packet_bytes_min: flow.meter.packet_bytes_min,
        asked_excess: flow.asked_excess,
        excess: flow.meter.excess,
        payload_bytes_max: room.map(|room| room.of(flow.endpoints.family(), flow.tag)),
        counters,
        media: media_view(&flow.media),
        asked_quality: quality_view(&flow.asked_quality),
        quality: quality_view(&flow.quality),
        mos_estimated: counters
            .and_then(|counters| quality::estimate(&flow.media, &counters))
            .filter(|_| flow.direction == Direction::In),
    }
}
