//! What is asked for from now on cannot take what is held for later; and it can once that is over.
#![allow(clippy::wildcard_enum_match_arm, reason = "the other outputs do not matter here")]

use crate::address::Family;
use crate::authorization::Credential;
use crate::broker::Broker;
use crate::calendar::Interval;
use crate::class::Quality;
use crate::config::{Config, Limits, Link, Peer, SecondSide, Timers};
use crate::cost::Cost;
use crate::degrade::WhenFull;
use crate::event::{AggregateRequest, Answer, FlowRequest, Input, Output, Request, SessionRequest};
use crate::media::Media;
use crate::message::{Offer, PeerAnswer, PeerRequest};
use crate::name::{AggregateName, Epoch, Nanos, NodeName, PolicyId};
use crate::policy::{Dscp, Endpoints, Marking, Meter, Rtcp, Tag};
use crate::priority::Priority;
use crate::record::{AggregateRecord, AggregateState, Direction};
use crate::refusal::{Reason, Refusal};
use crate::schedule::Schedule;

const BEFORE: Nanos = Nanos::from_millis(1_000);
const START: Nanos = Nanos::from_millis(2_000);
const END: Nanos = Nanos::from_millis(3_000);
const MARKING: Marking = Marking { dscp: Dscp::Set(46), excess_dscp: None, deliver_dscp: Dscp::Copy };

fn booked() -> Interval {
    Interval::new(START, END).unwrap()
}

fn aggregate_record(name: &str, direction: Direction, policy: u64) -> AggregateRecord {
    AggregateRecord {
        name: name.parse().unwrap(),
        peer: "b".parse().unwrap(),
        direction,
        rate_bps: 1_000_000,
        burst_bytes: 20_000,
        marking: MARKING,
        class: None,
        tag: Tag::Label,
        when_full: WhenFull::Refuse,
        emergency_percent: 0,
        policy: PolicyId(policy),
        label: None,
        terminals_policy: None,
        state: AggregateState::Active,
    }
}

/// Node `a` with a link of 10 Mbit/s, and on it an aggregate of 1 Mbit/s each way. Of each direction of the link 8 Mbit/s are held for
/// later, and 900 kbit/s of each aggregate.
fn broker() -> Broker {
    let link = Link { rate_out_bps: 10_000_000, rate_in_bps: 10_000_000 };
    let peer = Peer { link: "wan0".parse().unwrap(), tag_family: Family::Ipv4 };
    let mut broker = Broker::new(Config {
        capacity: crate::config::Capacity::default(),
        node: "a".parse().unwrap(),
        epoch: Epoch(1),
        links: [("wan0".parse().unwrap(), link)].into(),
        classes: std::collections::BTreeMap::new(),
        class_percent_max: std::collections::BTreeMap::new(),
        peers: [("b".parse().unwrap(), peer)].into(),
        limits: Limits::default(),
        timers: Timers::default(),
        second_side: SecondSide { lower_to_fit: true, ..SecondSide::default() },
        label_secret: [0; 16],
    });
    let aggregates = vec![aggregate_record("ab", Direction::Out, 1), aggregate_record("ba", Direction::In, 2)];
    broker.restore(aggregates, Vec::new(), &[PolicyId(1), PolicyId(2)].into(), Nanos(0));
    let rate = |rate_bps| Cost { rate_bps, burst_bytes: 0 };
    let pools = broker.links.get_mut(&"wan0".parse().unwrap()).unwrap();
    for direction in [Direction::Out, Direction::In] {
        pools.of(direction).hold_for(booked(), rate(8_000_000)).unwrap();
    }
    for aggregate in broker.aggregates.values_mut() {
        aggregate.pool.hold_for(booked(), rate(900_000)).unwrap();
    }
    broker
}

fn flow(aggregate: &AggregateName) -> FlowRequest {
    let end = |host: &str| std::net::SocketAddr::new(host.parse().unwrap(), 5_000);
    FlowRequest {
        id: "voice".parse().unwrap(),
        aggregate: aggregate.clone(),
        endpoints: Endpoints { source: end("10.0.0.1"), destination: end("10.0.1.1") },
        rtcp: Rtcp::SamePort,
        meter: Meter { rate_bps: 500_000, burst_bytes: 400, packet_bytes_min: 200, excess: None },
        rate_bps_min: 400_000,
        media: Media::default(),
        quality: Quality::default(),
    }
}

fn from_client(request: Request) -> Input {
    Input::Request { ticket: 1, request, credential: Credential::default() }
}

fn from_peer(request: PeerRequest) -> Input {
    let peer: NodeName = "b".parse().unwrap();
    Input::PeerRequest { ticket: 1, peer, epoch: Epoch(1), request, credential: Credential::default() }
}

fn refusal(input: &Input, now: Nanos) -> Option<Refusal> {
    let mut broker = broker();
    broker.handle(input.clone(), now);
    std::iter::from_fn(|| broker.poll()).find_map(|output| match output {
        Output::Answer { answer: Answer::Refused(refusal), .. } => Some(refusal),
        Output::PeerAnswer { answer: PeerAnswer::Refused { refusal }, .. } => Some(refusal),
        _ => None,
    })
}

/// Refused before and during the booking, for the same reason, and told when it would fit; not refused from then on.
fn check(input: &Input, reason: Reason, free_bps: u64) {
    for now in [BEFORE, START, Nanos(END.0 - 1)] {
        let refusal = refusal(input, now).unwrap();
        let pool = refusal.pool.unwrap();
        assert_eq!((refusal.reason, pool.free_bps, pool.fits_at), (reason, free_bps, Some(END)), "{now:?}");
    }
    assert_eq!(refusal(input, END), None);
}

#[test]
fn an_aggregate_cannot_take_what_is_booked_of_the_link() {
    let name: AggregateName = "new".parse().unwrap();
    let (rate_bps, burst_bytes, tag) = (2_000_000, 20_000, Tag::Label);
    let (dscp_policy, dscp) = (None, Some(46));
    let (excess_dscp, deliver_dscp_policy, deliver_dscp) = (None, None, None);
    let peer = "b".parse().unwrap();
    let request = AggregateRequest {
        name: name.clone(),
        peer,
        rate_bps,
        burst_bytes: Some(burst_bytes),
        class: None,
        dscp_policy,
        dscp,
        excess_dscp,
        deliver_dscp_policy,
        deliver_dscp,
        tag,
        when_full: WhenFull::Refuse,
        emergency_percent: 0,
    };
    check(&from_client(Request::CreateAggregate(request)), Reason::LinkExhausted, 1_000_000);
    let offer = Offer {
        name,
        rate_bps,
        burst_bytes,
        marking: MARKING,
        class: None,
        tag,
        when_full: WhenFull::Refuse,
        emergency_percent: 0,
        tag_family: Family::Ipv4,
        attempt: 1,
    };
    check(&from_peer(PeerRequest::OfferAggregate(offer)), Reason::LinkExhausted, 1_000_000);
}

#[test]
fn a_session_cannot_take_what_is_booked_of_the_aggregate() {
    for name in ["ab", "ba"] {
        let flows = vec![flow(&name.parse().unwrap())];
        let request = SessionRequest {
            priority: Priority::LOWEST,
            media_slots: crate::media_slots::MediaSlots::default(),
            schedule: Schedule::OPEN,
            id: "call".parse().unwrap(),
            flows,
        };
        check(&from_client(Request::CreateSession(request)), Reason::PoolRateExhausted, 100_000);
    }
    let flows = vec![flow(&"ba".parse().unwrap()).to_hold()];
    let hold = PeerRequest::HoldSession {
        media_slots: crate::media_slots::SlotCounts::new(),
        schedule: Schedule::OPEN,
        priority: Priority::LOWEST,
        preempting: Vec::new(),
        sent_at: Nanos(0),
        offer: false,
        session: "call".parse().unwrap(),
        attempt: 1,
        flows,
    };
    check(&from_peer(hold), Reason::PoolRateExhausted, 100_000);
}

#[test]
fn a_session_that_is_lowered_to_fit_leaves_what_is_booked() {
    let mut flow = flow(&"ba".parse().unwrap());
    flow.rate_bps_min = 1;
    let hold = PeerRequest::HoldSession {
        media_slots: crate::media_slots::SlotCounts::new(),
        schedule: Schedule::OPEN,
        priority: Priority::LOWEST,
        preempting: Vec::new(),
        sent_at: Nanos(0),
        offer: false,
        session: "call".parse().unwrap(),
        attempt: 1,
        flows: vec![flow.to_hold()],
    };
    // 100,000 with the tag.
    for (now, rate_bps) in [(BEFORE, 96_153), (END, 500_000)] {
        let mut broker = broker();
        broker.handle(from_peer(hold.clone()), now);
        let held = std::iter::from_fn(|| broker.poll()).find_map(|output| match output {
            Output::PeerAnswer { answer: PeerAnswer::Held { flows }, .. } => Some(flows[0].meter.rate_bps),
            _ => None,
        });
        assert_eq!(held, Some(rate_bps));
    }
}
