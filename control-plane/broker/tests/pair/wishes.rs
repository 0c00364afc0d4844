//! Configurations, and what clients and peers ask in tests.

use super::*;

pub(crate) fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

pub(crate) fn config(node: usize) -> Config {
    let names = ["a", "b"];
    Config {
        node: name(names[node]),
        epoch: Epoch(1),
        links: [(name("wan0"), Link { rate_out_bps: 10_000_000, rate_in_bps: 10_000_000 })].into(),
        classes: Class::of_rfc_4594(),
        class_percent_max: BTreeMap::new(),
        capacity: Capacity::default(),
        peers: [(name(names[1 - node]), Peer { link: name("wan0"), tag_family: Family::Ipv4 })].into(),
        limits: Limits { flows_max: 64, sessions_max: 32, sessions_ended_max: 256, ..Limits::default() },
        timers: Timers::default(),
        second_side: SecondSide::default(),
        label_secret: [u8::try_from(node).unwrap(); 16],
    }
}

/// Two configurations whose tagged packets have these headers around them.
pub(crate) fn configs(tag_family: Family) -> [Config; 2] {
    [A, B].map(|node| {
        let mut config = config(node);
        config.peers.values_mut().for_each(|peer| peer.tag_family = tag_family);
        config
    })
}

pub(crate) fn aggregate(name_: &str, peer: &str, rate_bps: u64) -> AggregateRequest {
    AggregateRequest {
        name: name(name_),
        peer: name(peer),
        rate_bps,
        burst_bytes: Some(20_000),
        class: None,
        dscp_policy: None,
        dscp: Some(46),
        excess_dscp: None,
        deliver_dscp_policy: None,
        deliver_dscp: None,
        tag: Tag::Label,
        when_full: WhenFull::Refuse,
        emergency_percent: 0,
    }
}

/// The offer of what [`aggregate`] asks for.
pub(crate) fn offer(name_: &str, rate_bps: u64, attempt: u64) -> Offer {
    Offer {
        name: name(name_),
        rate_bps,
        burst_bytes: 20_000,
        marking: Marking { dscp: Dscp::Set(46), excess_dscp: None, deliver_dscp: Dscp::Copy },
        class: None,
        tag: Tag::Label,
        when_full: WhenFull::Refuse,
        emergency_percent: 0,
        tag_family: Family::Ipv4,
        attempt,
    }
}

pub(crate) fn endpoints(family: Family, ports: (u16, u16)) -> Endpoints {
    let [source, destination] = match family {
        Family::Ipv4 => ["10.0.0.1", "10.0.1.1"],
        Family::Ipv6 => ["2001:db8::1", "2001:db8:1::1"],
    };
    let end = |host: &str, port| std::net::SocketAddr::new(host.parse().unwrap(), port);
    Endpoints { source: end(source, ports.0), destination: end(destination, ports.1) }
}

/// A flow between two ports of two fixed hosts, with packets of 200 bytes and a burst of two.
pub(crate) fn flow(id: &str, aggregate: &str, ports: (u16, u16), rate_bps: u64) -> FlowRequest {
    FlowRequest {
        id: name(id),
        aggregate: name(aggregate),
        endpoints: endpoints(Family::Ipv4, ports),
        rtcp: Rtcp::SamePort,
        meter: Meter { rate_bps, burst_bytes: 400, packet_bytes_min: 200, excess: None },
        rate_bps_min: rate_bps / 2,
        media: Media::default(),
        quality: Quality::default(),
    }
}

/// A flow as the first side asks the second for it, which receives it.
pub(crate) fn hold_flow(flow: FlowRequest) -> HoldFlow {
    HoldFlow {
        id: flow.id,
        aggregate: flow.aggregate,
        endpoints: flow.endpoints,
        rtcp: flow.rtcp,
        meter: flow.meter,
        rate_bps_min: flow.rate_bps_min,
        rate_bps_max: None,
        label: None,
        media: flow.media,
        quality: flow.quality,
    }
}

/// A call: one flow each way, over `ab` and `ba`.
pub(crate) fn call(id: &str, port: u16, rate_bps: u64) -> SessionRequest {
    let flows = vec![flow("there", "ab", (port, port), rate_bps), flow("back", "ba", (port, port), rate_bps)];
    SessionRequest {
        media_slots: turnpike_broker::media_slots::MediaSlots::default(),
        priority: turnpike_broker::Priority::LOWEST,
        schedule: Schedule::OPEN,
        id: name(id),
        flows,
    }
}

/// The request by which an offered session is taken.
pub(crate) fn wish_of_offered(record: &SessionRecord) -> Option<SessionRequest> {
    let flow = |flow: &FlowRecord| FlowRequest {
        id: flow.id.clone(),
        aggregate: flow.aggregate.clone(),
        endpoints: flow.endpoints,
        rtcp: flow.rtcp,
        meter: Meter { rate_bps: flow.asked_rate_bps, excess: flow.asked_excess, ..flow.meter },
        rate_bps_min: flow.rate_bps_min,
        media: flow.media.clone(),
        quality: flow.asked_quality.clone(),
    };
    let flows = record.flows.iter().map(flow).collect();
    let offered = record.state == SessionState::Offered;
    offered.then(|| SessionRequest {
        media_slots: record.media_slots.clone(),
        priority: record.priority,
        schedule: record.schedule,
        id: record.id.clone(),
        flows,
    })
}

/// A client's wish for other rates: flow, rate, smallest rate.
pub(crate) fn rates(id: &str, flows: &[(&str, u64, u64)]) -> Request {
    let wish = |&(flow, rate_bps, rate_bps_min): &(&str, u64, u64)| RateWish {
        id: name(flow),
        rate_bps,
        burst_bytes: None,
        rate_bps_min,
    };
    Request::ChangeSessionRates { id: name(id), flows: flows.iter().map(wish).collect() }
}
