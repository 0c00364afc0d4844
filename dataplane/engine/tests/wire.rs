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

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use host::Elsewhere;
use places::{Places, raw_receiver, raw_sender};
use turnpike_engine::doctor::{Level, Scope, examine};
use turnpike_engine::policy::{Counters, Meter, Policy, PolicyId};
use turnpike_engine::{Engine, EngineConfig, EngineError, Unadmitted, XdpMode, attach_pass};
use turnpike_fastpath::entry::Inner;
use turnpike_fastpath::{Direction, Reason};
use world::*;

const AGGREGATE_OUT: PolicyId = 1;
const AGGREGATE_IN: PolicyId = 2;
const FREE_OUT: PolicyId = 3;
const FREE_IN: PolicyId = 4;
const NARROW_OUT: PolicyId = 5;
const NARROW_IN: PolicyId = 6;

/// Frames in each direction.
const FRAMES: u16 = 300;
/// Under way at once: what the smallest queue on the way holds.
const BATCH: usize = 16;
/// Frames above the narrow flow's rate, at once.
const GREEDY: u16 = 12;
/// Longest wait for packets that are on their way.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest payload that fits with its tag.
const PAYLOAD_BYTES_MAX: usize = MTU as usize - 28 - 8;

/// What one node knows of a flow: where it leaves and where it arrives.
struct Ends {
    near: [u8; 4],
    far: [u8; 4],
}

const A_TO_B: Ends = Ends { near: SITE_A, far: SITE_B };
const B_TO_A: Ends = Ends { near: SITE_B, far: SITE_A };

fn flow_ends(ends: &Ends, port: u16) -> Inner {
    let port = port.to_be_bytes();
    Inner { source: ends.near, destination: ends.far, source_port: port, destination_port: port }
}

/// Frame number `number` of a flow, as an IP packet: of any length that fits, any TOS and any payload.
fn packet(ends: &Ends, port: u16, number: u16) -> Vec<u8> {
    let bytes = match number {
        0 => 0,
        1 => PAYLOAD_BYTES_MAX,
        other => usize::from(other) * 61 % PAYLOAD_BYTES_MAX,
    };
    let payload: Vec<u8> =
        (0..bytes).map(|at| (at as u16).wrapping_mul(number | 1).wrapping_add(number) as u8).collect();
    let mut frame = udp_frame(&flow_ends(ends, port), &payload, (number % 256) as u8, 8 + (number % 200) as u8);
    // Zero would be filled in by the sender's kernel.
    frame[18..20].copy_from_slice(&(number + 1).to_be_bytes());
    fix_checksums(&mut frame);
    frame.split_off(14)
}

/// What has to arrive for it: the same but for DSCP and two hops.
fn delivered(sent: &[u8]) -> Vec<u8> {
    let mut packet = sent.to_vec();
    packet[1] = 46 << 2 | (sent[1] & 3);
    packet[8] -= 2;
    packet[10..12].fill(0);
    let checksum = ip_checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// The policies of one node: both aggregates, and two flows each way.
fn policies(ends: &Ends, peer: [u8; 4], labels: [u64; 4]) -> Vec<(PolicyId, Policy)> {
    let peer = Ipv4Addr::from(peer);
    let (rate_bps, burst_bytes) = (1_000_000_000, 1 << 22);
    let address = |ip: [u8; 4], port| SocketAddrV4::new(ip.into(), port);
    let free = Meter { rate_bps: 500_000_000, burst_bytes: 1 << 21, packet_bytes_min: 28 };
    // Three packets of its own size at once, and one in ten seconds.
    let narrow = Meter { rate_bps: 1_200, burst_bytes: 4_500, packet_bytes_min: 1_500 };
    let out = |port, label, meter| Policy::FlowOut {
        aggregate: AGGREGATE_OUT,
        source: address(ends.near, port),
        destination: address(ends.far, port),
        label,
        meter,
    };
    let inward = |port, label, meter| Policy::FlowIn {
        aggregate: AGGREGATE_IN,
        source: address(ends.far, port),
        destination: address(ends.near, port),
        label,
        meter,
    };
    vec![
        (AGGREGATE_OUT, Policy::AggregateOut { peer, rate_bps, burst_bytes, dscp: 46 }),
        (AGGREGATE_IN, Policy::AggregateIn { peer, rate_bps, burst_bytes }),
        (FREE_OUT, out(FREE, labels[0], free)),
        (FREE_IN, inward(FREE, labels[1], free)),
        (NARROW_OUT, out(SPENT, labels[2], narrow)),
        (NARROW_IN, inward(SPENT, labels[3], narrow)),
    ]
}

/// Sends these packets from one terminal, a batch at a time, and gives back what the other received, up to the first batch of which
/// something is lost.
fn exchange(sender: &UdpSocket, receiver: &UdpSocket, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut received = Vec::new();
    for batch in packets.chunks(BATCH) {
        for packet in batch {
            let to = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
            assert_eq!(sender.send_to(packet, (to, 0)).unwrap(), packet.len());
        }
        let arrived = receive(receiver, batch.len());
        let complete = arrived.len() == batch.len();
        received.extend(arrived);
        if !complete {
            break;
        }
    }
    received
}

/// So many packets, or as many as come in a while.
fn receive(receiver: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 2_048];
    (0..count).map_while(|_| receiver.recv(&mut buffer).ok().map(|bytes| buffer[..bytes].to_vec())).collect()
}

fn nothing_more(receiver: &UdpSocket) {
    receiver.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(receiver.recv(&mut [0; 2_048]).is_err(), "a packet came that was not sent");
}

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

/// One direction: all of a flow within its rate arrives as it was sent, of a greedy one what the sending node passed; both nodes
/// counted just that. How many were sent, refused by the meter and delivered.
fn one_way(ends: &Ends, near: &mut Engine, far: &mut Engine, sender: &UdpSocket, receiver: &UdpSocket) -> [u64; 3] {
    let packets: Vec<_> = (0..FRAMES).map(|number| packet(ends, FREE, number)).collect();
    let received = exchange(sender, receiver, &packets);
    assert_eq!(received.len(), packets.len(), "packets were lost");
    for (number, (received, sent)) in received.iter().zip(&packets).enumerate() {
        assert_eq!(*received, delivered(sent), "packet {number} of {} bytes", sent.len());
    }
    nothing_more(receiver);
    assert_eq!(near.counters(FREE_OUT), Some(counted(&packets)));
    assert_eq!(far.counters(FREE_IN), Some(counted(&packets)));

    let greedy: Vec<_> = (0..GREEDY).map(|number| packet(ends, SPENT, number)).collect();
    for packet in &greedy {
        sender.send_to(packet, (Ipv4Addr::from(ends.far), 0)).unwrap();
    }
    let out = settled(near, NARROW_OUT, u64::from(GREEDY));
    assert_eq!((out.offered_packets, out.passed_packets + out.dropped_packets), (u64::from(GREEDY), u64::from(GREEDY)));
    // Three are the burst, and a machine that is slow may see one more come within the rate.
    assert!((3..=4).contains(&out.passed_packets), "{out:?}");
    let passed = receive(receiver, out.passed_packets as usize);
    let mut wanted = greedy.iter().map(|packet| delivered(packet));
    assert!(passed.iter().all(|packet| wanted.any(|wanted| wanted == *packet)), "not what was sent");
    assert_eq!(passed.len() as u64, out.passed_packets, "packets were lost");
    nothing_more(receiver);
    let arrived = far.counters(NARROW_IN).unwrap();
    assert_eq!((arrived.offered_packets, arrived.passed_packets), (out.passed_packets, out.passed_packets));

    let delivered = (received.len() + passed.len()) as u64;
    for (node, direction, reason, count) in [
        (&*near, Direction::Out, Reason::Tagged, delivered),
        (&*near, Direction::Out, Reason::FlowOverRate, out.dropped_packets),
        (&*far, Direction::In, Reason::Restored, delivered),
    ] {
        assert_eq!(node.verdict(direction, reason).0, count, "{} {}", direction.name(), reason.name());
    }
    [(packets.len() + greedy.len()) as u64, out.dropped_packets, delivered]
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

fn config(node: &str, tag_address: [u8; 4], peer: [u8; 4], xdp_mode: XdpMode) -> EngineConfig {
    EngineConfig {
        pin_dir: format!("/sys/fs/bpf/turnpike-wire-{}-{node}", std::process::id()).into(),
        lan: "lan".to_owned(),
        wan: "wan".to_owned(),
        xdp_mode,
        tag_address: tag_address.into(),
        tag_port: TAG_PORT,
        peers: vec![peer.into()],
        unadmitted: Unadmitted::Limit,
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

/// Starts a node in its place; what `turnpike doctor` says of its drivers comes true.
fn start(place: &Elsewhere, config: &EngineConfig) -> Result<Engine, EngineError> {
    let config = config.clone();
    place.run(move || {
        let automatic = EngineConfig { xdp_mode: XdpMode::Auto, ..config.clone() };
        let drivers = examine(&automatic, Scope::Interfaces).into_iter().filter(|finding| finding.check == "driver");
        let drivers: Vec<_> = drivers.map(|driver| (driver.level == Level::Ok, driver.found)).collect();
        let native = drivers.len() == 2 && drivers.iter().all(|(native, _)| *native);
        let started = Engine::start(&config);
        if config.xdp_mode == XdpMode::Native {
            assert_eq!(started.is_ok(), native, "doctor says {drivers:?}, and it came {:?}", started.err());
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
    let (config_a, config_b) =
        (config(&format!("a-{name}"), NODE, PEER, xdp_mode), config(&format!("b-{name}"), PEER, NODE, xdp_mode));
    let _detach = Detach([config_a.pin_dir.clone(), config_b.pin_dir.clone()]);
    let mut node_a = match start(&places.node_a, &config_a) {
        Ok(node) => node,
        Err(error) => {
            assert_eq!((xdp_mode, error.code()), (XdpMode::Native, "attach_failed"), "{error}");
            assert!(!places.veths, "a veth is native: {error}");
            assert!(!config_a.pin_dir.exists(), "pins were left behind");
            println!("matrix: wire {name} refused {} {error}", error.code());
            return;
        }
    };
    let mut node_b = start(&places.node_b, &config_b).unwrap();
    for node in [&mut node_a, &mut node_b] {
        let modes: Vec<_> = node.status().unwrap().interfaces.iter().map(|interface| interface.xdp_mode).collect();
        println!("lan {}, wan {}", modes[0], modes[1]);
        assert!(xdp_mode == XdpMode::Auto || modes == [name, name]);
    }
    let _takes_redirected = [&places.terminal_b, &places.terminal_a].map(|terminal| {
        (places.veths || std::ptr::eq(terminal, &places.terminal_b))
            .then(|| terminal.run(|| attach_pass("site").unwrap()))
    });
    places.greet();
    node_a.install(&policies(&A_TO_B, PEER, [LABEL_OUT, LABEL_IN, LABEL_OUT + 1, LABEL_IN + 1])).unwrap();
    node_b.install(&policies(&B_TO_A, NODE, [LABEL_IN, LABEL_OUT, LABEL_IN + 1, LABEL_OUT + 1])).unwrap();

    let terminals = [&places.terminal_a, &places.terminal_b];
    // So that no kernel answers that nobody listens.
    let _listeners = terminals.map(|terminal| {
        terminal.run(|| [FREE, SPENT].map(|port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()))
    });
    let [sender_a, sender_b] = terminals.map(raw_sender);
    let [receiver_a, receiver_b] = terminals.map(raw_receiver);
    let there = one_way(&A_TO_B, &mut node_a, &mut node_b, &sender_a, &receiver_b);
    let back = one_way(&B_TO_A, &mut node_b, &mut node_a, &sender_b, &receiver_a);
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
