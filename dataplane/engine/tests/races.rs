//! Policies change while packets come: a packet sees the old policy or the new one, and never half of each.
//!
//! ```text
//!  sender (CPU 1) ── site ═ lan │ engine (CPU 0) │ wan ═ far ── receiver
//! ```
//!
//! Tag and checksum come from different words of an entry. Half of one policy and half of another would make a wrong checksum, which the
//! receiving kernel refuses and counts.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod host;
#[path = "../../fastpath/tests/world/mod.rs"]
mod world;

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use host::{Elsewhere, in_own_namespace, ip, pin};
use turnpike_engine::Engine;
use turnpike_engine::policy::{Dscp, Meter, Policy, PolicyId};
use world::*;

const CARRIER: PolicyId = 1;
const CHANGING: Duration = Duration::from_secs(3);
const LABELS: [u64; 2] = [0x11_1110_0007, 0xee_eee0_0009];

/// Datagrams that the calling thread's namespace refused for a wrong checksum.
fn wrong_checksums() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let rows: Vec<Vec<&str>> =
        text.lines().filter(|line| line.starts_with("Udp:")).map(|line| line.split_whitespace().collect()).collect();
    let column = rows[0].iter().position(|name| *name == "InCsumErrors").unwrap();
    rows[1][column].parse().unwrap()
}

#[test]
fn a_packet_sees_the_old_policy_or_the_new_one() {
    in_own_namespace(|config| {
        if !pin(1) || !pin(0) {
            println!("skipped: needs two CPUs");
            return;
        }
        if Command::new("ethtool").arg("--version").output().is_err() {
            println!("skipped: needs ethtool");
            return;
        }
        let mut engine = Engine::start(config).unwrap();
        let (site, far) = (Elsewhere::new(), Elsewhere::new());
        site.take("site", "10.1.0.10", "10.1.0.1");
        far.take("far", "198.18.0.2", "198.18.0.1");
        // Socket-made packets would otherwise carry no checksum yet.
        site.run(|| assert!(Command::new("ethtool").args(["-K", "site", "tx", "off"]).status().unwrap().success()));
        let far_mac = far.run(|| {
            std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").unwrap();
            let output = Command::new("ip").args(["-br", "link", "show", "dev", "far"]).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            text.split_whitespace().nth(2).unwrap().to_owned()
        });
        ip(&format!("neigh replace 198.18.0.2 lladdr {far_mac} dev wan nud permanent"));
        let _pass = far.run(|| turnpike_engine::attach_pass("far").unwrap());
        let peer = PEER;
        let carrier = Policy::AggregateOut {
            peer,
            rate_bps: 1_000_000_000,
            burst_bytes: 1 << 24,
            dscp: Dscp::Set(46),
            excess_dscp: None,
        };
        engine.install(&[(CARRIER, carrier)]).unwrap();

        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sender = site.start(move || {
            assert!(pin(1));
            let socket = UdpSocket::bind(("10.1.0.10", FREE)).unwrap();
            socket.connect(("10.2.0.10", FREE + 1)).unwrap();
            let (start, mut sent) = (Instant::now(), 0_u64);
            while !stopped.load(Ordering::Relaxed) && start.elapsed() < 2 * CHANGING {
                sent += u64::from(socket.send(&sent.to_be_bytes()).is_ok());
                if sent.is_multiple_of(32) {
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
            sent
        });
        let receiver = far.start(move || {
            let socket = UdpSocket::bind(("198.18.0.2", TAG_PORT)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let mut tags: BTreeMap<[u8; 8], u64> = BTreeMap::new();
            let mut datagram = [0; 100];
            let start = Instant::now();
            while start.elapsed() < CHANGING + Duration::from_secs(2) {
                if let Ok(length) = socket.recv(&mut datagram) {
                    assert_eq!(length, 16);
                    *tags.entry(datagram[..8].try_into().unwrap()).or_default() += 1;
                }
            }
            (tags, wrong_checksums())
        });

        let meter = Meter { rate_bps: 1_000_000_000, burst_bytes: 1 << 24, packet_bytes_min: 28, excess: None };
        let (source, destination) = (SocketAddr::new(SITE_A, FREE), SocketAddr::new(SITE_B, FREE + 1));
        let start = Instant::now();
        let (mut changes, mut passed) = (0, 0);
        while start.elapsed() < CHANGING {
            let id = 100 + changes;
            let label = LABELS[(changes % 2) as usize];
            engine
                .install(&[(
                    id,
                    Policy::FlowOut {
                        aggregate: CARRIER,
                        source,
                        destination,
                        label,
                        meter,
                        rtcp_next_port: false,
                        terminals: false,
                    },
                )])
                .unwrap();
            std::thread::sleep(Duration::from_millis(5));
            let counters = engine.deinstall(&[id])[0];
            engine.forget(&[id]);
            assert_eq!(counters.offered_packets, counters.passed_packets + counters.dropped_packets);
            passed += counters.passed_packets;
            changes += 1;
        }
        stop.store(true, Ordering::Relaxed);
        let sent = sender.recv().unwrap();
        let (tags, wrong) = receiver.recv().unwrap();
        println!("{changes} changes, sent {sent}, tagged {passed}, received {tags:?}, wrong checksums {wrong}");
        let known = LABELS.map(|label| tag_bytes(1, 1, label, 8));
        assert!(changes > 20 && passed > 2_000, "too little happened to tell");
        assert!(tags.keys().all(|tag| known.contains(tag)), "half of one policy and half of another");
        assert_eq!(tags.len(), 2, "only one of the policies was seen");
        assert_eq!(wrong, 0, "half of one policy and half of another");
        let received: u64 = tags.values().sum();
        // The receiver's socket may overflow, but nothing comes twice.
        assert!(received <= passed && received > passed / 2, "{received} of {passed} arrived");
        assert_eq!(
            engine.counters(CARRIER).unwrap().passed_packets,
            passed,
            "a packet was counted by no policy, or by two"
        );
    });
}
