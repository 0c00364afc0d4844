//! The demo's own parts, without Turnpike: over plain routing every packet must come, and everything must be removed.
#![allow(missing_docs, reason = "a test")]

use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use turnpike_demo::media::{Flood, Phones, Receiver, SPEECH_IP_BYTES, Sender, Stream};
use turnpike_demo::recording::Recording;
use turnpike_demo::topology::{Place, Topology, WAN, received};

const PORTS: [u16; 4] = [20_000, 20_002, 20_004, 30_001];
const CALLS: usize = 3;

fn streams(from: Place, to: Place, ssrc: u32) -> Vec<Stream> {
    let stream = |(ssrc, port): (u32, &u16)| Stream {
        source: SocketAddrV4::new(from.address(), *port),
        destination: SocketAddrV4::new(to.address(), *port),
        ssrc,
        interval: Duration::from_millis(20),
    };
    (ssrc..).zip(&PORTS[..CALLS]).map(stream).collect()
}

#[test]
fn media_comes_whole_over_plain_routing_and_nothing_stays() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root for network namespaces");
        return;
    }
    let Ok(path) = Recording::find() else {
        println!("skipped: no recording, package sip-tester is not installed");
        return;
    };
    let recording = Arc::new(Recording::read(&path).unwrap());
    let prefix = format!("tpkt{}", std::process::id());
    let topology = Topology::new(&prefix).unwrap();
    let namespaces = Place::ALL.map(|place| format!("/run/netns/{}", topology.at(place).name()));
    assert!(namespaces.iter().all(|path| Path::new(path).exists()));
    assert!(Topology::new(&prefix).is_err(), "two networks of one name");
    assert!(namespaces.iter().all(|path| Path::new(path).exists()), "the second must not remove the first");

    let a = Phones::bind(topology.at(Place::SiteA), Place::SiteA.address(), &PORTS).unwrap();
    let b = Phones::bind(topology.at(Place::SiteB), Place::SiteB.address(), &PORTS).unwrap();
    let (to_b, to_a) = (streams(Place::SiteA, Place::SiteB, 1), streams(Place::SiteB, Place::SiteA, 101));
    let numbered = |streams: &[Stream]| streams.iter().cloned().enumerate().collect();
    let settle = Instant::now() + Duration::from_secs(1);
    let ear_b = Receiver::start("hear-b", &b, to_b.clone(), Arc::clone(&recording), settle).unwrap();
    let ear_a = Receiver::start("hear-a", &a, to_a.clone(), Arc::clone(&recording), settle).unwrap();
    let mut from_a = Sender::start("send-a", &a, numbered(&to_b), Arc::clone(&recording)).unwrap();
    let mut from_b = Sender::start("send-b", &b, numbered(&to_a), recording).unwrap();
    let nowhere = SocketAddrV4::new(Place::SiteB.address(), PORTS[CALLS]);
    let mut flood = Flood::start(topology.at(Place::SiteA), Place::SiteA.address(), nowhere, 4_000_000).unwrap();
    std::thread::sleep(Duration::from_secs(4));
    flood.stop();
    from_a.stop();
    from_b.stop();
    std::thread::sleep(Duration::from_millis(300));

    let mut wan_bytes = 0;
    for (sender, heard) in [(&from_a, ear_b.heard()), (&from_b, ear_a.heard())] {
        for (sent, heard) in sender.counts().iter().zip(&heard.streams) {
            assert!(sent.sent() > 150 && sent.refused() == 0, "{sent:?}");
            assert_eq!(heard.packets, sent.sent());
            assert_eq!(heard.ip_bytes, sent.sent() * SPEECH_IP_BYTES);
            assert_eq!((heard.missing(0..sent.sent()), heard.mismatches), (0, 0));
            let (rate, _) = heard.settled_rate().unwrap();
            assert!((rate / 80_000.0 - 1.0).abs() < 0.03, "{rate}");
        }
        wan_bytes += heard.streams.iter().map(|heard| heard.ip_bytes).sum::<u64>();
    }
    assert!(flood.sent() > 1500, "{}", flood.sent());
    assert_eq!(ear_b.heard().unadmitted, flood.sent());
    let ports = [Place::EdgeA, Place::EdgeB].map(|edge| topology.at(edge).run(|| received(WAN)).unwrap());
    let wan_seen = ports.iter().map(|port| port.ip_bytes).sum::<u64>();
    let expected = wan_bytes + flood.sent() * Flood::IP_BYTES;
    assert!((expected..expected + 1000).contains(&wan_seen), "{wan_seen} IP bytes on the wan, {expected} sent");

    drop((ear_a, ear_b, from_a, from_b, flood));
    drop(topology);
    assert!(!namespaces.iter().any(|path| Path::new(path).exists()));
}
