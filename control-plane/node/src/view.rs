//! The broker's records and the API's requests, each as the other side has it.

use std::net::{SocketAddr, SocketAddrV4};

use turnpike_api::{AggregateView, FlowView, Media as MediaView, SessionRequest, SessionView};
use turnpike_broker::media::Media;
use turnpike_broker::name::{NodeName, PolicyId};
use turnpike_broker::policy::{Counters, Endpoints, Meter};
use turnpike_broker::quality;
use turnpike_broker::record::{AggregateRecord, Direction, FlowRecord, SessionRecord, SessionState};
use turnpike_broker::refusal::PoolState;
use turnpike_broker::{FlowRequest, SessionRequest as Wish};

use crate::problem::ProblemReply;
use crate::time::rfc3339;

/// The request as the broker takes it, or what is wrong with its addresses.
pub(crate) fn session_wish(request: SessionRequest) -> Result<Wish, ProblemReply> {
    let flows = request.flows.into_iter().enumerate().map(|(index, flow)| {
        Ok(FlowRequest {
            endpoints: endpoints(index, flow.source, flow.destination)?,
            meter: Meter {
                rate_bps: flow.rate_bps,
                burst_bytes: flow.burst_bytes,
                packet_bytes_min: flow.packet_bytes_min,
            },
            rate_bps_min: flow.rate_bps_min.unwrap_or(flow.rate_bps),
            id: flow.id,
            aggregate: flow.aggregate,
            media: flow.media.map(media).unwrap_or_default(),
        })
    });
    Ok(Wish { id: request.id, flows: flows.collect::<Result<_, _>>()? })
}

fn endpoints(index: usize, source: SocketAddr, destination: SocketAddr) -> Result<Endpoints, ProblemReply> {
    let refuse = |field: &str, address: SocketAddr, why: &str| {
        let field = format!("flows[{index}].{field}");
        let detail = format!("{field} is {address}: {why}");
        Err(ProblemReply::invalid_value(field, detail))
    };
    const NO_IPV6: &str = "IPv6 is not carried by this version";
    const MIXED: &str = "source and destination must both be IPv4";
    match (source, destination) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => Ok(Endpoints { source, destination }),
        (SocketAddr::V6(_), SocketAddr::V6(_)) => refuse("source", source, NO_IPV6),
        (SocketAddr::V6(_), SocketAddr::V4(_)) => refuse("source", source, MIXED),
        (SocketAddr::V4(_), SocketAddr::V6(_)) => refuse("destination", destination, MIXED),
    }
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

/// An aggregate for people and orchestrators.
pub(crate) fn aggregate(
    record: AggregateRecord,
    pool: Option<PoolState>,
    counters: Counters,
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
    });
    AggregateView {
        name: record.name,
        peer: record.peer,
        direction: record.direction,
        rate_bps: record.rate_bps,
        burst_bytes: record.burst_bytes,
        dscp: record.dscp,
        state: record.state,
        pool,
        counters,
    }
}

/// The policies whose counters a view of the session shows: none once it has ended, when it has its own readings.
pub(crate) fn policies(record: &SessionRecord) -> Vec<PolicyId> {
    if record.state == SessionState::Ended {
        return Vec::new();
    }
    record.flows.iter().map(|flow| flow.policy).collect()
}

/// A session for people and orchestrators. `counters` are those of [`policies`].
pub(crate) fn session(record: SessionRecord, counters: &[Counters], node: &NodeName) -> SessionView {
    let ended = record.state == SessionState::Ended;
    let flows = record.flows.iter().enumerate().map(|(index, flow)| {
        let last = record.usage.iter().find(|usage| usage.node == *node && usage.flow == flow.id);
        let last = last.filter(|_| ended).map(|usage| usage.counters);
        flow_view(flow, last.or_else(|| counters.get(index).copied()).unwrap_or_default())
    });
    SessionView {
        flows: flows.collect(),
        id: record.id,
        side: record.side,
        peer: record.peer,
        state: record.state,
        since: rfc3339(record.since),
        usage: if ended { record.usage } else { Vec::new() },
    }
}

fn flow_view(flow: &FlowRecord, counters: Counters) -> FlowView {
    let any_family = |address: SocketAddrV4| SocketAddr::V4(address);
    FlowView {
        id: flow.id.clone(),
        aggregate: flow.aggregate.clone(),
        direction: flow.direction,
        source: any_family(flow.endpoints.source),
        destination: any_family(flow.endpoints.destination),
        asked_rate_bps: flow.asked_rate_bps,
        rate_bps: flow.meter.rate_bps,
        burst_bytes: flow.meter.burst_bytes,
        packet_bytes_min: flow.meter.packet_bytes_min,
        counters,
        media: media_view(&flow.media),
        mos_estimated: quality::estimate(&flow.media, &counters).filter(|_| flow.direction == Direction::In),
    }
}
