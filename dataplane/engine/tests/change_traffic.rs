//! What policies may send changes hundreds of times while packets come on two CPUs.
//!
//! ```text
//!  senders (own namespace) ── site ═ lan │ engine │ wan ═ far ── (pass program)
//! ```
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod host;
#[path = "../../fastpath/tests/world/mod.rs"]
mod world;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use host::{Elsewhere, in_own_namespace, ip, pin};
use turnpike_engine::Engine;
use turnpike_engine::policy::{Change, Dscp, Meter, Policy, PolicyId};
use turnpike_fastpath::{Direction, Reason};
use world::*;

/// One sender of the test under traffic: its flow, and a token bucket of its own.
struct Sender {
    cpu: usize,
    port: u16,
    /// Bytes at once and bytes in a second that it keeps to.
    burst_bytes: f64,
    bytes_per_s: f64,
}

const PACKET_BYTES: f64 = 200.0;

impl Sender {
    /// Sends until it is told to stop; packets sent.
    fn run(&self, stop: &AtomicBool) -> u64 {
        assert!(pin(self.cpu));
        let socket = UdpSocket::bind(("10.1.0.10", self.port)).unwrap();
        socket.connect(("10.2.0.10", self.port + 2_000)).unwrap();
        let (mut tokens, mut last, mut sent) = (self.burst_bytes, Instant::now(), 0);
        let start = Instant::now();
        while !stop.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(60) {
            let now = Instant::now();
            tokens = (tokens + (now - last).as_secs_f64() * self.bytes_per_s).min(self.burst_bytes);
            last = now;
            while tokens >= PACKET_BYTES {
                tokens -= PACKET_BYTES;
                sent += u64::from(socket.send(&[0; 172]).is_ok());
            }
            thread::sleep(Duration::from_micros(500));
        }
        sent
    }
}

/// What a meter may have passed since it was full: the integral of its rate, and the burst.
struct Allowed {
    rate_bps: u64,
    bytes: f64,
    since: Instant,
}

impl Allowed {
    fn new(rate_bps: u64, burst_bytes: u32) -> Self {
        Self { rate_bps, bytes: f64::from(burst_bytes), since: Instant::now() }
    }

    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    fn pass(&mut self, rate_bps: u64) {
        let now = Instant::now();
        self.bytes += (now - self.since).as_secs_f64() * rate_bps as f64 / 8.0;
        self.since = now;
    }

    /// While a change is made, the higher rate may be in force.
    fn change(&mut self, rate_bps: u64, make: impl FnOnce()) {
        self.pass(self.rate_bps);
        make();
        self.pass(self.rate_bps.max(rate_bps));
        self.rate_bps = rate_bps;
    }
}

const OUT: PolicyId = 1;
const STEADY: PolicyId = 10;
const GREEDY: PolicyId = 11;
const CROWD: PolicyId = 12;
const CARRIER: PolicyId = 13;
const CHANGES: usize = 120;

#[test]
#[allow(clippy::cast_precision_loss, reason = "counters of seconds")]
fn under_traffic_no_conforming_packet_is_lost_and_no_burst_is_given_twice() {
    in_own_namespace(|config| {
        if !pin(1) || !pin(0) {
            println!("skipped: needs two CPUs");
            return;
        }
        host::write("net/ipv6/conf/wan/disable_ipv6", "1");
        ip("link del lan");
        ip("link add lan numrxqueues 2 numtxqueues 2 type veth peer name site numrxqueues 2 numtxqueues 2");
        for command in ["addr add 10.1.0.1/24 dev lan", "link set lan up", "link set site up"] {
            ip(command);
        }
        let mut engine = Engine::start(config).unwrap();
        let _far = turnpike_engine::attach_pass("far").unwrap();
        let meter = |rate_bps, burst_bytes| Meter { rate_bps, burst_bytes, packet_bytes_min: 28, excess: None };
        // One flow that keeps to the smaller of its specifications, with two clocks, in an aggregate that changes too; one that does not; and
        // one that only its aggregate holds.
        let steady = [meter(400_000, 8_000), meter(8_000_000, 8_000)];
        let greedy = [meter(1_000_000, 5_000), meter(20_000_000, 50_000)];
        let carriers = [(2_000_000, 50_000_u32), (40_000_000, 400_000_u32)];
        let (peer, dscp, excess_dscp) = (PEER, Dscp::Set(46), None);
        let carrier = |(rate_bps, burst_bytes)| Policy::AggregateOut { peer, rate_bps, burst_bytes, dscp, excess_dscp };
        let flow = |aggregate, port, meter| {
            let (source, destination) = (SocketAddr::new(SITE_A, port), SocketAddr::new(SITE_B, port + 2_000));
            let (label, rtcp_next_port, terminals) = (LABEL_OUT, false, false);
            Policy::FlowOut { aggregate, source, destination, label, meter, rtcp_next_port, terminals }
        };
        engine
            .install(&[
                (OUT, carrier((100_000_000, 400_000))),
                (CARRIER, carrier(carriers[0])),
                (STEADY, flow(OUT, 21_000, steady[0])),
                (GREEDY, flow(OUT, 21_002, greedy[0])),
                (CROWD, flow(CARRIER, 21_004, meter(1_000_000_000, 1 << 24))),
            ])
            .unwrap();
        let mut greedy_allowed = Allowed::new(greedy[0].rate_bps, greedy[0].burst_bytes);
        let mut crowd_allowed = Allowed::new(carriers[0].0, carriers[0].1);
        let site = Elsewhere::new();
        site.take("site", "10.1.0.10", "10.1.0.1");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let senders = site.start(move || {
            let senders = [
                // Half of the burst is for what the host holds up between this bucket and the meter.
                Sender { cpu: 1, port: 21_000, burst_bytes: 4_000.0, bytes_per_s: 49_000.0 },
                Sender { cpu: 1, port: 21_002, burst_bytes: 20_000.0, bytes_per_s: 4_000_000.0 },
                Sender { cpu: 0, port: 21_004, burst_bytes: 40_000.0, bytes_per_s: 8_000_000.0 },
            ];
            thread::scope(|scope| {
                let threads: Vec<_> = senders.iter().map(|sender| scope.spawn(|| sender.run(&stopped))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<u64>>()
            })
        });
        let mut given = 0.0;
        let passed = |engine: &Engine, id| engine.counters(id).unwrap().passed_bytes as f64;
        for change in 1..=CHANGES {
            let next = change % 2;
            engine.change(STEADY, &Change::Meter(steady[next])).unwrap();
            // What all of these may pass together is never the larger aggregate's concern, but its numbers change as well.
            let (rate_bps, burst_bytes) = [(100_000_000, 400_000), (200_000_000, 800_000)][next];
            engine.change(OUT, &Change::Aggregate { rate_bps, burst_bytes }).unwrap();
            greedy_allowed.change(greedy[next].rate_bps, || {
                engine.change(GREEDY, &Change::Meter(greedy[next])).unwrap();
            });
            let (rate_bps, burst_bytes) = carriers[next];
            crowd_allowed.change(rate_bps, || {
                engine.change(CARRIER, &Change::Aggregate { rate_bps, burst_bytes }).unwrap();
            });
            // An aggregate that may hold more is given that.
            if next == 1 {
                given += f64::from(carriers[1].1 - carriers[0].1);
            }
            greedy_allowed.pass(greedy_allowed.rate_bps);
            crowd_allowed.pass(crowd_allowed.rate_bps);
            // Two ticks at the higher rate are the coarse clock's.
            let (found, most) = (passed(&engine, GREEDY), greedy_allowed.bytes + 2.0 * 0.01 * 20_000_000.0 / 8.0);
            assert!(found <= most, "change {change}: {found} bytes of {most}");
            let (found, most) = (passed(&engine, CARRIER), crowd_allowed.bytes + given);
            assert!(found <= most, "change {change}: {found} bytes of {most}");
        }
        stop.store(true, Ordering::Relaxed);
        let sent = senders.recv().unwrap();
        thread::sleep(Duration::from_millis(100));
        let counters = [STEADY, GREEDY, CROWD].map(|id| engine.counters(id).unwrap());
        let contended = engine.verdict(Direction::Out, Reason::Contended).0;
        println!("{CHANGES} changes of each, sent {sent:?}, contended {contended}");
        for (name, counters, allowed) in
            [("greedy", &counters[1], &greedy_allowed), ("crowd", &counters[2], &crowd_allowed)]
        {
            println!(
                "{name}: {} of {} packets passed, {:.0} of {:.0} bytes that the rate brings",
                counters.passed_packets, counters.offered_packets, counters.passed_bytes, allowed.bytes
            );
            assert!(counters.dropped_packets > 1_000, "{name} was not held back");
            assert_eq!(counters.offered_packets, counters.passed_packets + counters.dropped_packets);
            // Half of the time at the smaller rate, which no change may take away.
            assert!(counters.passed_bytes as f64 > allowed.bytes / 4.0, "{name} got too little");
        }
        assert!(counters[0].passed_packets > 1_000, "too little traffic to tell");
        assert_eq!((counters[0].dropped_packets, contended), (0, 0), "a conforming packet was lost");
        assert!(sent[0] - counters[0].passed_packets < 5, "{} of {} came", counters[0].passed_packets, sent[0]);
    });
}
