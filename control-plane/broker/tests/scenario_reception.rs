//! What a flow carries reaches the receiving node, and what arrived there is told to who ends the session.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what is not expected is a failed test")]

mod pair;

use pair::{A, B, World, call, counted, name, reason, session};
use turnpike_broker::SessionRequest;
use turnpike_broker::media::Media;
use turnpike_broker::policy::Policy;
use turnpike_broker::quality::estimate;
use turnpike_broker::record::{Direction, SessionRecord, UsageKind};
use turnpike_broker::refusal::Reason;

fn speech(codec: &str) -> Media {
    Media { codec: Some(name(codec)), jitter_every_packet: true, ..Media::default() }
}

fn call_of(codecs: [&str; 2]) -> SessionRequest {
    let mut request = call("s", 5000, 100_000);
    for (flow, codec) in request.flows.iter_mut().zip(codecs) {
        flow.media = speech(codec);
    }
    request
}

#[test]
fn each_receiver_installs_what_the_flow_carries() {
    let mut world = World::connected();
    session(world.create(A, call_of(["PCMU", "G729"])));
    let installed = |node: usize| {
        world.nodes[node].plane.values().find_map(|policy| match policy {
            Policy::FlowIn { media, .. } => Some(media.clone()),
            Policy::FlowOut { .. }
            | Policy::TerminalsIn { .. }
            | Policy::AggregateOut { .. }
            | Policy::AggregateIn { .. } => None,
        })
    };
    assert_eq!((installed(A), installed(B)), (Some(speech("G729")), Some(speech("PCMU"))));
}

#[test]
fn another_codec_is_another_request() {
    let mut world = World::connected();
    let (record, _) = session(world.create(A, call_of(["PCMU", "PCMU"])));
    assert_eq!(session(world.create(A, call_of(["PCMU", "PCMU"]))), (record, false));
    assert_eq!(reason(world.create(A, call_of(["PCMU", "PCMA"]))), Reason::SessionIdReused);
}

#[test]
fn who_ends_the_session_has_what_arrived_at_both_ends() {
    let mut world = World::connected();
    session(world.create(A, call_of(["PCMU", "opus"])));
    let (record, _) = session(world.delete(A, "s"));
    let theirs = world.nodes[B].broker.session(&name("s")).unwrap().clone();
    let arrived = |record: &SessionRecord, flow: &str| {
        let usage = record.usage.iter().find(|usage| usage.direction == Direction::In && usage.flow == name(flow));
        usage.cloned().expect("a reading")
    };
    // `there` goes to b and `back` comes to a.
    let (there, back) = (arrived(&record, "there"), arrived(&record, "back"));
    assert_eq!((there.node.as_str(), there.counters), ("b", Some(counted(theirs.flows[0].policy))));
    assert_eq!((back.node.as_str(), back.counters), ("a", Some(counted(record.flows[1].policy))));
    assert_eq!(there, arrived(&theirs, "there"));
    // Judged where it arrived, by its codec; opus has no published figures, and what went out is not judged.
    assert_eq!(there.mos_estimated, estimate(&speech("PCMU"), &there.counters.unwrap()));
    assert!(there.mos_estimated.is_some());
    let others = record.usage.iter().filter(|usage| **usage != there);
    assert_eq!(others.map(|usage| usage.mos_estimated).collect::<Vec<_>>(), [None; 3]);
    let last = world.nodes[A].store.ledger.last().unwrap();
    assert_eq!((last.kind, &last.flows), (UsageKind::Final, &record.usage));
}
