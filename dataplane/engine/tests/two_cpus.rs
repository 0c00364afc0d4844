//! One aggregate under real traffic on two CPUs: every packet is counted, once, and the reservation holds.
//!
//! ```text
//!  senders (own namespace) ── site ═ lan │ engine │ wan ═ far ── (pass program)
//! ```
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod host;
#[path = "../../fastpath/tests/world/mod.rs"]
mod world;

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use host::{Elsewhere, in_own_namespace, ip, pin};
use turnpike_engine::Engine;
use turnpike_engine::policy::{Dscp, Meter, Policy};
use world::*;

const AGGREGATE: u64 = 1;
const FLOWS: u64 = 8;
const RATE_BPS: u64 = 50_000_000;
const BURST_BYTES: u32 = 65_536;
const PAYLOAD_BYTES: usize = 172;
const SENDING: Duration = Duration::from_secs(2);

fn port(flow: u64) -> u16 {
    FREE + 10 * flow as u16
}

/// Frames that an interface received, as the kernel's own statistics say.
fn received(interface: &str) -> u64 {
    let output =
        std::process::Command::new("ip").args(["-s", "-o", "link", "show", "dev", interface]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // ... RX: bytes packets errors ...\    <bytes> <packets> ...
    let after = text.split("RX:").nth(1).unwrap();
    after.split('\\').nth(1).unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Sends on half of the flows from one CPU; packets sent.
fn send(cpu: usize) -> u64 {
    assert!(pin(cpu));
    let sockets: Vec<_> = (0..FLOWS / 2)
        .map(|flow| {
            let socket = UdpSocket::bind(("10.1.0.10", port(2 * flow + cpu as u64))).unwrap();
            socket.connect(("10.2.0.10", 5_000)).unwrap();
            socket
        })
        .collect();
    let start = Instant::now();
    let mut sent = 0_u64;
    while start.elapsed() < SENDING {
        for socket in &sockets {
            sent += u64::from(socket.send(&[0; PAYLOAD_BYTES]).is_ok());
        }
        // Short of what one queue holds, so that next to nothing is lost before it is counted.
        if sent.is_multiple_of(64) {
            thread::sleep(Duration::from_micros(100));
        }
    }
    sent
}

#[test]
fn two_cpus_share_an_aggregate_exactly() {
    in_own_namespace(|config| {
        if !pin(1) {
            println!("skipped: needs two CPUs");
            return;
        }
        // Frames are counted by their interface: none but the test's own.
        host::write("net/ipv6/conf/wan/disable_ipv6", "1");
        ip("link del lan");
        ip("link add lan numrxqueues 2 numtxqueues 2 type veth peer name site numrxqueues 2 numtxqueues 2");
        ip("addr add 10.1.0.1/24 dev lan");
        ip("link set lan up");
        ip("link set site up");
        let mut engine = Engine::start(config).unwrap();
        let _far = turnpike_engine::attach_pass("far").unwrap();
        let peer = PEER;
        let carrier = Policy::AggregateOut {
            peer,
            rate_bps: RATE_BPS,
            burst_bytes: BURST_BYTES,
            dscp: Dscp::Set(46),
            excess_dscp: None,
        };
        engine.install(&[(AGGREGATE, carrier)]).unwrap();
        // Each flow may send all of the aggregate's rate, so that the aggregate's meter is what holds them.
        let meter = Meter { rate_bps: RATE_BPS, burst_bytes: 1 << 20, packet_bytes_min: 28, excess: None };
        for flow in 0..FLOWS {
            let source = SocketAddr::new(SITE_A, port(flow));
            let destination = SocketAddr::new(SITE_B, 5_000);
            let policy = Policy::FlowOut {
                aggregate: AGGREGATE,
                source,
                destination,
                label: LABEL_OUT,
                meter,
                rtcp_next_port: false,
                terminals: false,
            };
            engine.install(&[(10 + flow, policy)]).unwrap();
        }

        let site = Elsewhere::new();
        site.take("site", "10.1.0.10", "10.1.0.1");
        let before = (received("lan"), received("far"));
        let start = Instant::now();
        let sent: u64 = site.run(|| {
            let senders: Vec<_> = (0..2).map(|cpu| thread::spawn(move || send(cpu))).collect();
            let sent = senders.into_iter().map(|sender| sender.join().unwrap()).sum();
            thread::sleep(Duration::from_millis(200));
            sent
        });
        let elapsed_ns = start.elapsed().as_nanos() as u64;
        let arrived = received("lan") - before.0;
        let delivered = received("far") - before.1;

        let aggregate = engine.counters(AGGREGATE).unwrap();
        let flows: Vec<_> = (0..FLOWS).map(|flow| engine.counters(10 + flow).unwrap()).collect();
        let offered: u64 = flows.iter().map(|flow| flow.offered_packets).sum();
        let passed: u64 = flows.iter().map(|flow| flow.passed_packets).sum();
        let dropped: u64 = flows.iter().map(|flow| flow.dropped_packets).sum();
        println!(
            "sent {sent}, arrived {arrived}, offered {offered}, passed {passed}, dropped {dropped}, delivered {delivered}"
        );
        assert!(offered > 20_000, "too little traffic to tell");
        assert!(offered <= sent && offered <= arrived && arrived - offered < 50, "a packet was not counted, or twice");
        assert_eq!(offered, passed + dropped);
        assert_eq!(aggregate.passed_packets, passed);
        assert!(dropped > 0, "the aggregate was never full");
        assert!(passed >= delivered && passed - delivered < 1 + passed / 1_000, "passed packets did not arrive");
        for cpu in 0..2 {
            let tables = engine.snapshot(cpu);
            let counted: u64 =
                tables.tables().aggregate_shares.iter().map(|share| share.tally.offered_packets.get()).sum();
            assert!(counted > 1_000, "CPU {cpu} carried only {counted}");
        }
        let allowed = RATE_BPS / 8 * (elapsed_ns / 1_000) / 1_000_000 + u64::from(BURST_BYTES);
        assert!(aggregate.passed_bytes <= allowed, "{} bytes passed, {allowed} are reserved", aggregate.passed_bytes);
    });
}
