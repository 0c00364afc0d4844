//! Real packets through a node at a steady rate, both ways, each with a number: what was sent, what came, what came twice.
//!
//! ```text
//!  site (own namespace) ── site ═ lan │ engine │ wan ═ far ── far (own namespace)
//!     plain, to 10.2.0.10  ──────────────────────────────►  tagged, to the tag port
//!     restored             ◄──────────────────────────────  tagged, by label
//! ```

#![allow(clippy::cast_possible_truncation, reason = "a test")]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use turnpike_engine::policy::{Dscp, Media, Meter, Policy, PolicyId};
use turnpike_engine::reception::Reception;
use turnpike_engine::{Engine, PassProgram};
use turnpike_fastpath::{Direction, Reason};

use super::{Elsewhere, ip, pin};

pub const AGGREGATE_OUT: PolicyId = 1;
pub const AGGREGATE_IN: PolicyId = 2;
/// Flows each way.
pub const FLOWS: u16 = 4;

const SITE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 10);
const OTHER_SITE: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 10);
const NODE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const TAG_PORT: u16 = 47_700;
const FIRST_PORT: u16 = 21_000;
/// Between packets of one direction; loss is to be ours and not a socket's.
const PACE: Duration = Duration::from_micros(500);
const TAG_BYTES: usize = 8;
const RTP_BYTES: usize = 12;
const PAYLOAD_BYTES: usize = 64;
/// No packet comes for so long: none is under way.
const QUIET: Duration = Duration::from_millis(300);
const SENDING_MAX: Duration = Duration::from_secs(120);

pub const fn flow_out(flow: u16) -> PolicyId {
    10 + flow as PolicyId
}

pub const fn flow_in(flow: u16) -> PolicyId {
    20 + flow as PolicyId
}

pub const fn label(flow: u16) -> u64 {
    0x5_a5a0_0000 | (3 + flow as u64)
}

const fn port(flow: u16) -> u16 {
    FIRST_PORT + 2 * flow
}

pub fn aggregate_out(rate_bps: u64, burst_bytes: u32) -> Policy {
    Policy::AggregateOut { peer: PEER.into(), rate_bps, burst_bytes, dscp: Dscp::Set(46), excess_dscp: None }
}

pub fn aggregate_in(rate_bps: u64, burst_bytes: u32) -> Policy {
    Policy::AggregateIn { peer: PEER.into(), rate_bps, burst_bytes, dscp: Dscp::Copy }
}

pub fn out(aggregate: PolicyId, source: SocketAddrV4, destination: SocketAddrV4, label: u64, meter: Meter) -> Policy {
    let (source, destination) = (source.into(), destination.into());
    Policy::FlowOut { aggregate, source, destination, label, meter, rtcp_next_port: false, terminals: false }
}

pub fn inward(
    aggregate: PolicyId,
    source: SocketAddrV4,
    destination: SocketAddrV4,
    label: u64,
    meter: Meter,
) -> Policy {
    let (source, destination) = (source.into(), destination.into());
    let media = Media { clock_rate_hz: 8_000, every_packet: false };
    Policy::FlowIn { aggregate, source, destination, label, meter, rtcp_next_port: false, media }
}

/// The aggregates, and all flows with rates far above the load.
pub fn policies() -> Vec<(PolicyId, Policy)> {
    let (rate_bps, burst_bytes) = (1_000_000_000, 1 << 22);
    let meter = Meter { rate_bps: 100_000_000, burst_bytes: 1 << 20, packet_bytes_min: 28, excess: None };
    let mut all = vec![
        (AGGREGATE_OUT, aggregate_out(rate_bps, burst_bytes)),
        (AGGREGATE_IN, aggregate_in(rate_bps, burst_bytes)),
    ];
    for flow in 0..FLOWS {
        let (here, there) = (SocketAddrV4::new(SITE, port(flow)), SocketAddrV4::new(OTHER_SITE, port(flow)));
        let label = label(flow);
        all.push((flow_out(flow), out(AGGREGATE_OUT, here, there, label, meter)));
        all.push((flow_in(flow), inward(AGGREGATE_IN, there, here, label, meter)));
    }
    all
}

/// What happened in one direction.
#[derive(Debug)]
pub struct Report {
    pub sent: u64,
    /// Numbers that did not come, and when they were sent.
    pub missing: Vec<(u64, Instant)>,
    pub doubled: u64,
    /// Packets that are not of this load.
    pub strange: u64,
}

/// The two ends, each in a namespace of its own.
pub struct Wire {
    pub site: Elsewhere,
    pub far: Elsewhere,
    _passes: [PassProgram; 2],
}

impl Wire {
    /// Moves the far ends away. None, and the reason printed, where that cannot be had.
    pub fn new() -> Option<Self> {
        if Command::new("ethtool").arg("--version").output().is_err() {
            println!("skipped: needs ethtool");
            return None;
        }
        let (site, far) = (Elsewhere::new(), Elsewhere::new());
        let passes = [settle_site(&site), settle_far(&far)];
        Some(Self { site, far, _passes: passes })
    }

    /// Puts the new far end of an interface that was made anew where the old one was.
    pub fn settle_site_again(&mut self) {
        self._passes[0] = settle_site(&self.site);
    }

    /// The same towards the peers.
    pub fn settle_far_again(&mut self) {
        self._passes[1] = settle_far(&self.far);
    }

    /// Waits until both far ends have seen their cable come back: before that their own kernel lets packets fall.
    pub fn wait_until_up(&self) {
        for (place, interface) in [(&self.site, "site"), (&self.far, "far")] {
            place.run(move || {
                let state = || {
                    let output = Command::new("ip").args(["-br", "link", "show", "dev", interface]).output().unwrap();
                    String::from_utf8(output.stdout).unwrap()
                };
                let deadline = Instant::now() + Duration::from_secs(10);
                while !state().contains(" UP ") {
                    assert!(Instant::now() < deadline, "{interface} stays down: {}", state());
                }
            });
        }
    }

    /// Starts to send and to listen.
    pub fn start(&self) -> Load {
        let phones = self.site.run(|| {
            (0..FLOWS).map(|flow| connected(bound(SITE, port(flow)), (OTHER_SITE, port(flow)))).collect::<Vec<_>>()
        });
        let (ear, mouths) = self.far.run(|| {
            let mouths = (0..FLOWS).map(|_| connected(bound(PEER, 0), (NODE, TAG_PORT))).collect::<Vec<_>>();
            (bound(PEER, TAG_PORT), mouths)
        });
        let phones_too = phones.iter().map(|phone| phone.try_clone().unwrap()).collect();
        let tags = (0..FLOWS).map(|flow| tag(label(flow))).collect();
        let plain = (0..FLOWS).map(|_| Vec::new()).collect();
        Load { ways: [Way::start(1, phones, plain, vec![ear]), Way::start(0, mouths, tags, phones_too)] }
    }
}

fn settle_site(site: &Elsewhere) -> PassProgram {
    ip("link set site address 02:00:00:00:02:02");
    site.take("site", "10.1.0.10", "10.1.0.1");
    site.run(|| settle("site"))
}

fn settle_far(far: &Elsewhere) -> PassProgram {
    ip("link set far address 02:00:00:00:02:01");
    far.take("far", "198.18.0.2", "198.18.0.1");
    far.run(|| settle("far"))
}

fn settle(interface: &str) -> PassProgram {
    std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").unwrap();
    // Socket-made packets would otherwise carry no checksum yet.
    assert!(Command::new("ethtool").args(["-K", interface, "tx", "off"]).output().unwrap().status.success());
    turnpike_engine::attach_pass(interface).unwrap()
}

fn tag(label: u64) -> Vec<u8> {
    let label = label.to_be_bytes();
    let length = (PAYLOAD_BYTES as u16).to_be_bytes();
    vec![0x11, label[3], length[0], length[1], label[4], label[5], label[6], label[7]]
}

fn bound(address: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((address, port)).unwrap();
    setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20)).unwrap();
    socket
}

fn connected(socket: UdpSocket, to: (Ipv4Addr, u16)) -> UdpSocket {
    socket.connect(to).unwrap();
    socket
}

/// One direction.
struct Way {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    mouth: JoinHandle<Vec<(u64, Instant)>>,
    ears: Vec<JoinHandle<Heard>>,
}

/// What one socket heard.
#[derive(Default)]
struct Heard {
    numbers: BTreeSet<u64>,
    doubled: u64,
    strange: u64,
}

impl Way {
    /// Sends on all sockets in turn; each packet has its number, with the head of its socket before it.
    fn start(cpu: usize, sockets: Vec<UdpSocket>, heads: Vec<Vec<u8>>, ears: Vec<UdpSocket>) -> Self {
        let (stop, sent, received) = (Arc::new(AtomicBool::new(false)), Arc::default(), Arc::default());
        let mouth = {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            std::thread::spawn(move || {
                pin(cpu);
                talk(&sockets, &heads, &stop, &sent)
            })
        };
        let ears = ears.into_iter().map(|ear| {
            let (stop, received) = (Arc::clone(&stop), Arc::clone(&received));
            std::thread::spawn(move || listen(&ear, &stop, &received))
        });
        let ears = ears.collect();
        Self { sent, received, mouth, ears, stop }
    }

    fn end(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let times: Vec<_> = self.mouth.join().unwrap();
        let mut all = Heard::default();
        for heard in self.ears.into_iter().map(|ear| ear.join().unwrap()) {
            all.doubled += heard.doubled + all.numbers.intersection(&heard.numbers).count() as u64;
            all.strange += heard.strange;
            all.numbers.extend(heard.numbers);
        }
        let missing = times.iter().filter(|(number, _)| !all.numbers.contains(number)).copied().collect();
        Report { sent: times.len() as u64, missing, doubled: all.doubled, strange: all.strange }
    }
}

/// The header of a stream's packet (RFC 3550).
fn rtp(number: u64, stream: u8) -> [u8; RTP_BYTES] {
    let ([high, low], time) = ((number as u16).to_be_bytes(), (number as u32 * 160).to_be_bytes());
    [0x80, 8, high, low, time[0], time[1], time[2], time[3], 0xde, 0xad, 0, stream]
}

fn talk(sockets: &[UdpSocket], heads: &[Vec<u8>], stop: &AtomicBool, sent: &AtomicU64) -> Vec<(u64, Instant)> {
    let mut times = Vec::new();
    let start = Instant::now();
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) || start.elapsed() > SENDING_MAX {
            break;
        }
        let flow = number as usize % sockets.len();
        let mut packet = heads[flow].clone();
        packet.extend(rtp(number / sockets.len() as u64, flow as u8));
        packet.extend(number.to_be_bytes());
        packet.resize(heads[flow].len() + PAYLOAD_BYTES, 7);
        let now = Instant::now();
        // What the sender's own kernel refuses was not sent.
        if sockets[flow].send(&packet).is_ok() {
            times.push((number, now));
            sent.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(PACE);
    }
    times
}

fn listen(socket: &UdpSocket, stop: &AtomicBool, received: &AtomicU64) -> Heard {
    socket.set_read_timeout(Some(QUIET)).unwrap();
    let mut heard = Heard::default();
    let mut packet = [0; 256];
    loop {
        match socket.recv(&mut packet) {
            Ok(length) => {
                let number = length.checked_sub(PAYLOAD_BYTES).filter(|head| [0, TAG_BYTES].contains(head));
                let number = number.map(|head| head + RTP_BYTES);
                let number = number.map(|at| u64::from_be_bytes(packet[at..at + 8].try_into().unwrap()));
                match number {
                    Some(number) if heard.numbers.insert(number) => drop(received.fetch_add(1, Ordering::Relaxed)),
                    Some(_) => heard.doubled += 1,
                    None => heard.strange += 1,
                }
            }
            Err(_) if stop.load(Ordering::Relaxed) => return heard,
            Err(_) => {}
        }
    }
}

/// Packets under way in both directions.
pub struct Load {
    ways: [Way; 2],
}

impl Load {
    /// Waits until so many more packets have come through in each direction.
    pub fn wait_for(&self, packets: u64) {
        let wanted = self.received().map(|received| received + packets);
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.received().iter().zip(&wanted).any(|(received, wanted)| received < wanted) {
            assert!(Instant::now() < deadline, "packets do not come through: {:?}", self.received());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Received so far: out, in.
    pub fn received(&self) -> [u64; 2] {
        [&self.ways[0], &self.ways[1]].map(|way| way.received.load(Ordering::Relaxed))
    }

    /// Sent so far: out, in.
    pub fn sent(&self) -> [u64; 2] {
        [&self.ways[0], &self.ways[1]].map(|way| way.sent.load(Ordering::Relaxed))
    }

    /// Stops, waits for what is under way, and reports: out, in.
    pub fn end(self) -> [Report; 2] {
        for way in &self.ways {
            way.stop.store(true, Ordering::Relaxed);
        }
        self.ways.map(Way::end)
    }
}

/// What every party counted is the same, to the packet: nothing was lost, and nothing came twice.
pub fn assert_exact(engine: &Engine, reports: &[Report; 2]) {
    for (report, aggregate, flow, direction, reason) in [
        (&reports[0], AGGREGATE_OUT, flow_out as fn(u16) -> PolicyId, Direction::Out, Reason::Tagged),
        (&reports[1], AGGREGATE_IN, flow_in as fn(u16) -> PolicyId, Direction::In, Reason::Restored),
    ] {
        let first: Vec<_> = report.missing.iter().take(5).collect();
        assert!(report.sent > 500, "too little traffic to tell: {} packets", report.sent);
        assert_eq!((report.missing.len(), report.doubled, report.strange), (0, 0, 0), "first lost: {first:?}");
        let flows: Vec<_> = (0..FLOWS).map(|index| engine.counters(flow(index)).unwrap()).collect();
        assert_eq!(flows.iter().map(|flow| flow.offered_packets).sum::<u64>(), report.sent);
        assert_eq!(flows.iter().map(|flow| flow.passed_packets).sum::<u64>(), report.sent);
        assert_eq!(engine.counters(aggregate).unwrap().passed_packets, report.sent);
        assert_eq!(engine.verdict(direction, reason).0, report.sent);
        // Where it is delivered it is also known that all of it came, once and in order.
        for reception in flows.iter().filter_map(|counters| counters.reception) {
            assert_eq!(Reception { jitter_ns: None, ..reception }, Reception::default());
        }
    }
}
