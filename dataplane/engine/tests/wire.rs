//! Two nodes, two terminals and real frames between them, compared byte by byte with what was sent.
//!
//! ```text
//!  terminal A ── lan │ node A │ wan ════ wan │ node B │ lan ── terminal B
//! ```
//!
//! Each is a network namespace. The links are veths. Where `TURNPIKE_WIRE` names four network cards, such as `eth0,eth1,eth2,eth3`, the
//! first two, cabled to each other, are the link to terminal A and the others that between the nodes: so `cargo xtask matrix` tries drivers.
//! It reads the lines that begin with `matrix:`.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod host;
mod places;
#[path = "../../fastpath/tests/world/mod.rs"]
mod world;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use host::Elsewhere;
use places::{Places, raw_sender, receiver};
use turnpike_engine::doctor::{Level, Scope, examine};
use turnpike_engine::policy::{Counters, Dscp, Media, Meter, Policy, PolicyId};
use turnpike_engine::{DSCP_UNCHANGED, Engine, EngineConfig, EngineError, Fragments, Unadmitted, XdpMode, attach_pass};
use turnpike_fastpath::plan::{Ends, growth_bytes};
use turnpike_fastpath::{Direction, Reason};
use world::check::{ip_checksum, layout};
use world::*;

/// Frames of each flow in each direction.
const FRAMES: u16 = 96;
/// Under way at once: what the smallest queue on the way holds.
const BATCH: usize = 16;
/// Frames above the narrow flow's rate, at once.
const GREEDY: u16 = 12;
/// Longest wait for packets that are on their way.
const PATIENCE: Duration = Duration::from_secs(10);

const FREE_METER: Meter = Meter { rate_bps: 500_000_000, burst_bytes: 1 << 21, packet_bytes_min: 28, excess: None };
/// Three packets of its own size at once, and one in ten seconds.
const NARROW_METER: Meter = Meter { rate_bps: 1_200, burst_bytes: 4_500, packet_bytes_min: 1_500, excess: None };

/// One flow each way.
#[derive(Debug, Clone, Copy)]
struct Flow {
    /// On both ends; tells flows apart, and their labels and policies.
    port: u16,
    inner_v6: bool,
    outer_v6: bool,
    /// The tag tells the terminals; there is one label for all of these.
    terminals: bool,
    meter: Meter,
}

const PLAIN: Flow = Flow { port: FREE, inner_v6: false, outer_v6: false, terminals: false, meter: FREE_METER };
const NARROW: Flow = Flow { port: FREE + 5, meter: NARROW_METER, ..PLAIN };

/// Every pair of families, and tags that tell the terminals.
const FLOWS: [Flow; 5] = [
    PLAIN,
    Flow { port: FREE + 1, outer_v6: true, ..PLAIN },
    Flow { port: FREE + 2, inner_v6: true, outer_v6: true, ..PLAIN },
    Flow { port: FREE + 3, inner_v6: true, ..PLAIN },
    Flow { port: FREE + 4, terminals: true, ..PLAIN },
];

/// One side's addresses in a family.
type Side = fn(bool) -> IpAddr;

const fn terminal_a(v6: bool) -> IpAddr {
    if v6 { SITE_A6 } else { SITE_A }
}

const fn terminal_b(v6: bool) -> IpAddr {
    if v6 { SITE_B6 } else { SITE_B }
}

const fn node_a(v6: bool) -> IpAddr {
    if v6 { NODE6 } else { NODE }
}

const fn node_b(v6: bool) -> IpAddr {
    if v6 { PEER6 } else { PEER }
}

impl Flow {
    fn ends(self, from: Side, to: Side) -> Ends {
        let end = |side: Side| SocketAddr::new(side(self.inner_v6), self.port);
        Ends { source: end(from), destination: end(to) }
    }

    /// What the node at `to` knows it by.
    fn label(self, to: Side) -> u64 {
        let side = if to(false) == SITE_A { 0x12_3450_0000 } else { 0x54_3210_0000 };
        side + u64::from(self.port - FREE)
    }

    const fn policy_out(self) -> PolicyId {
        self.port as PolicyId
    }

    const fn policy_in(self) -> PolicyId {
        1 << 16 | self.port as PolicyId
    }

    /// Packet number `number`: of any length that fits with its tag, any TOS, any hop count and any payload.
    fn packet(self, from: Side, to: Side, number: u16) -> Vec<u8> {
        let growth = growth_bytes(self.inner_v6, self.outer_v6, self.terminals).max(0).unsigned_abs() as usize;
        let headers = if self.inner_v6 { 48 } else { 28 };
        let bytes_max = usize::from(MTU) - headers - growth;
        let bytes = match number {
            0 => 0,
            1 => bytes_max,
            other => usize::from(other) * 61 % bytes_max,
        };
        let payload: Vec<u8> =
            (0..bytes).map(|at| (at as u16).wrapping_mul(number | 1).wrapping_add(number) as u8).collect();
        let mut build = Build::new(self.ends(from, to), &payload);
        build.identification = number + 1;
        // The same for all packets (RFC 6437): senders' queues go by it, and each has an order of its own.
        build.flow_label = u32::from(self.port) * 13;
        build.tos(number as u8).hops(8 + (number % 200) as u8).frame().split_off(14)
    }
}

/// What has to arrive for a packet: the same but for DSCP and two hops.
fn delivered(sent: &[u8]) -> Vec<u8> {
    let (mut packet, v6) = (sent.to_vec(), sent[0] >> 4 == 6);
    if v6 {
        let class = 46 << 2 | (sent[1] >> 4 & 3);
        packet[0] = 0x60 | class >> 4;
        packet[1] = class << 4 | sent[1] & 15;
        packet[7] -= 2;
    } else {
        packet[1] = 46 << 2 | (sent[1] & 3);
        packet[8] -= 2;
        packet[10..12].fill(0);
        let checksum = ip_checksum(&packet[..20]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    packet
}

const fn aggregate_out(v6: bool) -> PolicyId {
    if v6 { 2 } else { 1 }
}

const fn aggregate_in(v6: bool) -> PolicyId {
    if v6 { 4 } else { 3 }
}

/// The policies of the node at `here`: aggregates of both families to and from `peer`, and every flow each way.
fn policies(here: Side, far: Side, peer: Side) -> Vec<(PolicyId, Policy)> {
    let (rate_bps, burst_bytes) = (1_000_000_000, 1 << 22);
    let mut policies = Vec::new();
    for v6 in [false, true] {
        let (peer, dscp) = (peer(v6), Dscp::Set(46));
        let out = Policy::AggregateOut { peer, rate_bps, burst_bytes, dscp, excess_dscp: None };
        policies.push((aggregate_out(v6), out));
        let inward = Policy::AggregateIn { peer, rate_bps, burst_bytes, dscp: Dscp::Copy };
        policies.push((aggregate_in(v6), inward));
    }
    for flow in FLOWS.into_iter().chain([NARROW]) {
        let Ends { source, destination } = flow.ends(here, far);
        let out = Policy::FlowOut {
            aggregate: aggregate_out(flow.outer_v6),
            source,
            destination,
            label: flow.label(far),
            meter: flow.meter,
            rtcp_next_port: false,
            terminals: flow.terminals,
        };
        let (aggregate, label, meter) = (aggregate_in(flow.outer_v6), flow.label(here), flow.meter);
        let inward = if flow.terminals {
            Policy::TerminalsIn { aggregate, label, meter }
        } else {
            let Ends { source, destination } = flow.ends(far, here);
            let media = Media::default();
            Policy::FlowIn { aggregate, source, destination, label, meter, rtcp_next_port: false, media }
        };
        policies.extend([(flow.policy_out(), out), (flow.policy_in(), inward)]);
    }
    policies
}

/// What a terminal has: a socket that sends whole packets in each family, and one that hears them.
struct Terminal {
    side: Side,
    senders: [UdpSocket; 2],
    receivers: [UdpSocket; 2],
}

impl Terminal {
    fn new(place: &Elsewhere, side: Side) -> Self {
        Self {
            side,
            senders: [false, true].map(|v6| raw_sender(place, v6)),
            receivers: [false, true].map(|v6| receiver(place, v6)),
        }
    }

    fn send(&self, flow: Flow, to: &Self, packet: &[u8]) {
        let to = ((to.side)(flow.inner_v6), 0);
        assert_eq!(self.senders[usize::from(flow.inner_v6)].send_to(packet, to).unwrap(), packet.len());
    }

    /// So many packets of a flow, or as many as come in a while.
    fn receive(&self, flow: Flow, count: usize, patience: Duration) -> Vec<Vec<u8>> {
        let receiver = &self.receivers[usize::from(flow.inner_v6)];
        let start = Instant::now();
        let mut received = Vec::new();
        let mut buffer = [0; 2_048];
        while received.len() < count && start.elapsed() < patience {
            receiver.set_read_timeout(Some(patience)).unwrap();
            let Ok(bytes) = receiver.recv(&mut buffer) else { break };
            received.extend(of_flow(&buffer[..bytes], flow));
        }
        received
    }

    fn hears_no_more(&self, flow: Flow) {
        assert!(self.receive(flow, 1, Duration::from_millis(100)).is_empty(), "a packet came that was not sent");
    }
}

/// The packet without padding if it is of this flow, and not of what neighbours say to each other.
fn of_flow(packet: &[u8], flow: Flow) -> Option<Vec<u8>> {
    let (protocol, udp) = if flow.inner_v6 { (6, 40) } else { (9, 20) };
    if packet.len() < udp + 8 || packet[protocol] != 17 || packet[udp + 2..udp + 4] != flow.port.to_be_bytes() {
        return None;
    }
    let ether_type: [u8; 2] = if flow.inner_v6 { [0x86, 0xdd] } else { [8, 0] };
    let frame = [&[0; 12][..], &ether_type, packet].concat();
    Some(frame[14..layout(&frame).end.min(frame.len())].to_vec())
}

/// Sends these packets from one terminal, a batch at a time, and gives back what the other received, up to the first batch of which
/// something is lost.
fn exchange(flow: Flow, from: &Terminal, to: &Terminal, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut received = Vec::new();
    for batch in packets.chunks(BATCH) {
        for packet in batch {
            from.send(flow, to, packet);
        }
        let arrived = to.receive(flow, batch.len(), PATIENCE);
        let complete = arrived.len() == batch.len();
        received.extend(arrived);
        if !complete {
            break;
        }
    }
    received
}

/// The counters of a flow all of whose packets passed.
fn counted(packets: &[Vec<u8>]) -> Counters {
    let (count, bytes) = (packets.len() as u64, packets.iter().map(|packet| packet.len() as u64).sum());
    Counters {
        offered_packets: count,
        offered_bytes: bytes,
        passed_packets: count,
        passed_bytes: bytes,
        ..Counters::default()
    }
}

fn counters(node: &Engine, policy: PolicyId) -> Counters {
    // What of it was RTP is looked at elsewhere.
    Counters { reception: None, ..node.counters(policy).unwrap() }
}

/// All packets of a flow within its rate arrive as they were sent, and both nodes count just that. How many.
fn played(flow: Flow, near: &Engine, far: &Engine, from: &Terminal, to: &Terminal) -> u64 {
    let packets: Vec<_> = (0..FRAMES).map(|number| flow.packet(from.side, to.side, number)).collect();
    let received = exchange(flow, from, to, &packets);
    assert_eq!(received.len(), packets.len(), "packets were lost: {flow:?}");
    for (number, (received, sent)) in received.iter().zip(&packets).enumerate() {
        assert_eq!(*received, delivered(sent), "packet {number} of {} bytes: {flow:?}", sent.len());
    }
    to.hears_no_more(flow);
    assert_eq!(counters(near, flow.policy_out()), counted(&packets), "{flow:?}");
    assert_eq!(counters(far, flow.policy_in()), counted(&packets), "{flow:?}");
    packets.len() as u64
}

/// Of a greedy flow what its node passed arrives. How many were passed and refused.
fn policed(near: &Engine, far: &Engine, from: &Terminal, to: &Terminal) -> (u64, u64) {
    let packets: Vec<_> = (0..GREEDY).map(|number| NARROW.packet(from.side, to.side, number)).collect();
    for packet in &packets {
        from.send(NARROW, to, packet);
    }
    let out = settled(near, NARROW.policy_out(), u64::from(GREEDY));
    assert_eq!((out.offered_packets, out.passed_packets + out.dropped_packets), (u64::from(GREEDY), u64::from(GREEDY)));
    // Three are the burst, and a machine that is slow may see one more come within the rate.
    assert!((3..=4).contains(&out.passed_packets), "{out:?}");
    let received = to.receive(NARROW, out.passed_packets as usize, PATIENCE);
    assert_eq!(received.len() as u64, out.passed_packets, "packets were lost: {NARROW:?}");
    let mut wanted = packets.iter().map(|packet| delivered(packet));
    assert!(received.iter().all(|packet| wanted.any(|wanted| wanted == *packet)), "not what was sent");
    to.hears_no_more(NARROW);
    let arrived = counters(far, NARROW.policy_in());
    assert_eq!((arrived.offered_packets, arrived.passed_packets), (out.passed_packets, out.passed_packets));
    (out.passed_packets, out.dropped_packets)
}

/// One direction. How many packets were sent, refused by the meter and delivered.
fn one_way(near: &Engine, far: &Engine, from: &Terminal, to: &Terminal) -> [u64; 3] {
    let played: u64 = FLOWS.into_iter().map(|flow| played(flow, near, far, from, to)).sum();
    let (passed, refused) = policed(near, far, from, to);
    for (node, direction, reason, count) in [
        (near, Direction::Out, Reason::Tagged, played + passed),
        (near, Direction::Out, Reason::FlowOverRate, refused),
        (far, Direction::In, Reason::Restored, played + passed),
    ] {
        assert_eq!(node.verdict(direction, reason).0, count, "{} {}", direction.name(), reason.name());
    }
    [played + passed + refused, refused, played + passed]
}

/// The counters of a policy when so many packets were offered; what is there after a while if they are not.
fn settled(node: &Engine, policy: PolicyId, offered_packets: u64) -> Counters {
    let start = Instant::now();
    loop {
        let counters = node.counters(policy).unwrap();
        if counters.offered_packets >= offered_packets || start.elapsed() > PATIENCE {
            return counters;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn config(node: &str, own: Side, peer: Side, xdp_mode: XdpMode) -> EngineConfig {
    EngineConfig {
        pin_dir: format!("/sys/fs/bpf/turnpike-wire-{}-{node}", std::process::id()).into(),
        lan: "lan".to_owned(),
        wan: "wan".to_owned(),
        xdp_mode,
        tag_addresses: [false, true].map(own).to_vec(),
        tag_port: TAG_PORT,
        peers: [false, true].map(peer).to_vec(),
        unadmitted: Unadmitted::Limit,
        fragments: Fragments::Unadmitted,
        dscp_map_out: DSCP_UNCHANGED,
        dscp_map_in: DSCP_UNCHANGED,
        flows_max: 256,
        aggregates_max: 16,
        lapse_after: Duration::from_secs(300),
    }
}

/// Removes what is pinned, however the test ends.
struct Detach([PathBuf; 2]);

impl Drop for Detach {
    fn drop(&mut self) {
        for pin_dir in &self.0 {
            Engine::detach(pin_dir).unwrap();
        }
    }
}

/// Starts a node in its place. Native mode comes where `turnpike doctor` says that the drivers have it, and nowhere else.
fn start(place: &Elsewhere, config: &EngineConfig) -> Result<Engine, EngineError> {
    let config = config.clone();
    place.run(move || {
        let started = Engine::start(&config);
        if config.xdp_mode == XdpMode::Native {
            let automatic = EngineConfig { xdp_mode: XdpMode::Auto, ..config };
            let findings = examine(&automatic, Scope::Interfaces);
            let drivers: Vec<_> = findings.iter().filter(|finding| finding.check == "driver").collect();
            let native = drivers.len() == 2 && drivers.iter().all(|driver| driver.level == Level::Ok);
            assert_eq!(started.is_ok(), native, "doctor says {drivers:?}, and it came {:?}", started.as_ref().err());
        }
        started
    })
}

/// The call over the links that there are, in one mode.
fn call(xdp_mode: XdpMode, name: &str) {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root for network namespaces and BPF");
        return;
    }
    let places = Places::new();
    let (config_a, config_b) = (
        config(&format!("a-{name}"), node_a, node_b, xdp_mode),
        config(&format!("b-{name}"), node_b, node_a, xdp_mode),
    );
    let _detach = Detach([config_a.pin_dir.clone(), config_b.pin_dir.clone()]);
    let mut engine_a = match start(&places.node_a, &config_a) {
        Ok(engine) => engine,
        Err(error) => {
            assert_eq!((xdp_mode, error.code()), (XdpMode::Native, "attach_failed"), "{error}");
            assert!(!places.veths, "a veth is native: {error}");
            assert!(!config_a.pin_dir.exists(), "pins were left behind");
            println!("matrix: wire {name} refused {} {error}", error.code());
            return;
        }
    };
    let mut engine_b = start(&places.node_b, &config_b).unwrap();
    for engine in [&mut engine_a, &mut engine_b] {
        let modes: Vec<_> = engine.status().unwrap().interfaces.iter().map(|interface| interface.xdp_mode).collect();
        println!("lan {}, wan {}", modes[0], modes[1]);
        assert!(xdp_mode == XdpMode::Auto || modes == [name, name]);
    }
    let veths = if places.veths { vec![&places.terminal_a, &places.terminal_b] } else { vec![&places.terminal_b] };
    let _take_redirected: Vec<_> =
        veths.into_iter().map(|terminal| terminal.run(|| attach_pass("site").unwrap())).collect();
    places.greet();
    engine_a.install(&policies(terminal_a, terminal_b, node_b)).unwrap();
    engine_b.install(&policies(terminal_b, terminal_a, node_a)).unwrap();

    let terminals = [(&places.terminal_a, terminal_a as Side), (&places.terminal_b, terminal_b)];
    // So that no kernel answers that nobody listens. A socket of IPv6 hears both families.
    let _listeners = terminals
        .map(|(place, _)| place.run(|| [0, 1, 2, 3, 4, 5].map(|flow| UdpSocket::bind(("::", FREE + flow)).unwrap())));
    let [at_a, at_b] = terminals.map(|(place, side)| Terminal::new(place, side));
    let there = one_way(&engine_a, &engine_b, &at_a, &at_b);
    let back = one_way(&engine_b, &engine_a, &at_b, &at_a);
    let [sent, metered, delivered] = [0, 1, 2].map(|at| there[at] + back[at]);
    println!("matrix: wire {name} sent {sent} metered {metered} delivered {delivered}");
}

#[test]
fn a_call_crosses_the_wire_in_native_mode() {
    call(XdpMode::Native, "native");
}

/// Whatever is chosen for each port, packets have to get from one to the other.
#[test]
fn a_call_crosses_the_wire_in_auto_mode() {
    call(XdpMode::Auto, "auto");
}

#[test]
fn a_call_crosses_the_wire_in_generic_mode() {
    call(XdpMode::Generic, "generic");
}
