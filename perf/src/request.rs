//! How long it takes from a REST request to the first packet that is policed by it, in a network of the bench's own.
//!
//! ```text
//! site A ── edge A ══ edge B ── site B        the topology of the demo
//!             ▲ POST /v1/sessions ... 201
//! packet ─────┴───────────────────► heard
//! ```
//!
//! Both nodes keep the session on disk and put it in force in the kernel before the client is answered, so the packet that follows the answer is
//! the first that can be policed. That it was policed, and alone, is read from the final usage of both nodes.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use turnpike_api::SessionView;
use turnpike_demo::certificates::Authority;
use turnpike_demo::node::{API, EDGE_A, EDGE_B, Edge, Node, Scratch};
use turnpike_demo::rest::Client;
use turnpike_demo::topology::{Place, Topology};

use crate::RequestOptions;
use crate::record::{self, Record};
use crate::report;
use crate::stamp::{Busy, Stamp};
use crate::stats::Quantiles;

const BENCH: &str = "request";
const REQUESTS: u32 = 2_000;
/// Not counted: neighbours are looked up, connections made.
const WARM_UP: u32 = 50;
const LINK_RATE_BPS: u64 = 100_000_000;
const AGGREGATE_RATE_BPS: u64 = 50_000_000;
const PORT: u16 = 20_000;
const PAYLOAD_BYTES: usize = 172;
/// IP and UDP headers come before the payload.
const PACKET_BYTES: usize = PAYLOAD_BYTES + 28;
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// Longer than a node takes to give up on a request.
const ANSWER_MAX: Duration = Duration::from_secs(35);
/// Bytes of a request or an answer on the wire, about: the floor moves as many.
const MESSAGE_BYTES: usize = 512;
/// What a store appends for one step, about.
const PAGE_BYTES: usize = 4_096;

/// What is timed, the floors first.
const CASES: [(&str, &str); 5] = [
    ("loopback", "512 bytes there and back over loopback TCP, one connection"),
    ("connect", "the same with a connection of its own"),
    ("fsync", "4 KiB written and made durable where nodes keep their state"),
    ("answer", "POST /v1/sessions until 201: held, durable and installed at both ends"),
    ("packet", "POST /v1/sessions until the first policed packet is heard"),
];

pub(crate) fn run(options: &RequestOptions, commit: &str) -> anyhow::Result<()> {
    let stamp = Stamp::now("veth", "native", commit);
    report::head(&stamp);
    let turnpike = match &options.turnpike {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("turnpike"),
    };
    ensure!(turnpike.is_file(), "no program at {}; build it, or name it with --turnpike", turnpike.display());
    let busy = Busy::now();
    let requests = options.requests.unwrap_or(REQUESTS);
    let scene = Scene::new(&turnpike)?;
    let times = scene.measure(requests).inspect_err(|_| scene.show_logs())?;
    drop(scene);
    let records = report(&times, &stamp)?;
    report::disturbance(busy);
    if let Some(path) = &options.json {
        record::write(path, &records)?;
        println!("\n{} results written to {}", records.len(), path.display());
    }
    Ok(())
}

/// Microseconds, of every case in the order of [`CASES`].
type Times = [Histogram<u64>; CASES.len()];

/// Fields are dropped in this order: nodes before their files, everything before the network.
struct Scene {
    nodes: [Node; 2],
    scratch: Scratch,
    topology: Topology,
    source: UdpSocket,
    destination: UdpSocket,
}

impl Scene {
    fn new(turnpike: &Path) -> anyhow::Result<Self> {
        let pid = std::process::id();
        let topology = Topology::new(&format!("tpr{pid}"))?;
        let scratch = Scratch::new(&format!("turnpike-request-{pid}"))?;
        let authority = Authority::new(scratch.dir())?;
        let node = |own: Edge, peer: Edge| {
            let files = authority.issue(scratch.dir(), own.name)?;
            Node::new(turnpike, &scratch, (own, peer), &files, LINK_RATE_BPS)
        };
        let mut nodes = [node(EDGE_A, EDGE_B)?, node(EDGE_B, EDGE_A)?];
        let places = [Place::EdgeA, Place::EdgeB];
        for (node, place) in nodes.iter_mut().zip(places) {
            node.start(topology.at(place))?;
        }
        for (node, place) in nodes.iter_mut().zip(places) {
            node.wait_ready(Client::new(topology.at(place), API), || Ok(()))?;
        }
        let aggregate = json!({
            "name": "a-to-b", "peer": EDGE_B.name, "rate_bps": AGGREGATE_RATE_BPS, "burst_bytes": 65_536, "dscp": 46,
        });
        let _: Value = Client::new(topology.at(Place::EdgeA), API).create("/v1/aggregates", &aggregate)?;
        let bind = |place: Place| {
            topology.at(place).run(|| {
                let socket = UdpSocket::bind((place.address(), PORT))?;
                socket.set_read_timeout(Some(SILENCE_MAX))?;
                Ok(socket)
            })
        };
        let (source, destination) = (bind(Place::SiteA)?, bind(Place::SiteB)?);
        Ok(Self { nodes, scratch, topology, source, destination })
    }

    fn show_logs(&self) {
        for node in &self.nodes {
            eprintln!("end of the log of {}:\n{}", node.name(), node.log_tail());
        }
    }

    /// All cases in every round, so that what disturbs one disturbs all.
    fn measure(&self, requests: u32) -> anyhow::Result<Times> {
        // A minute at most, in microseconds, to three digits.
        let empty = || Histogram::new_with_bounds(1, 60_000_000, 3);
        let mut times: Times = [empty()?, empty()?, empty()?, empty()?, empty()?];
        let file = self.scratch.dir().join("floor");
        let Self { topology, source, destination, .. } = self;
        topology.at(Place::EdgeA).run(|| {
            let mut floor = Floor::new(&file)?;
            let orchestrator = Orchestrator::new();
            for number in 0..WARM_UP + requests {
                let loopback = timed(|| floor.exchange())?;
                let connect = timed(|| floor.connect_and_exchange())?;
                let fsync = timed(|| floor.make_durable())?;
                let id = format!("request-{number}");
                let begin = Instant::now();
                let _: SessionView = orchestrator.create("/v1/sessions", &session(&id))?;
                let answer = begin.elapsed();
                send_and_hear(source, destination, number)?;
                let packet = begin.elapsed();
                let ended: SessionView = orchestrator.delete(&format!("/v1/sessions/{id}"))?;
                check_policed(&ended)?;
                if number >= WARM_UP {
                    for (time, histogram) in [loopback, connect, fsync, answer, packet].iter().zip(&mut times) {
                        histogram.record(u64::try_from(time.as_micros())?.max(1))?;
                    }
                }
            }
            Ok(())
        })?;
        println!("measured   {requests} requests, one after the other");
        Ok(times)
    }
}

fn timed(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    work()?;
    Ok(begin.elapsed())
}

fn session(id: &str) -> Value {
    let end = |place: Place| SocketAddrV4::new(place.address(), PORT);
    json!({"id": id, "flows": [{
        "id": "a", "aggregate": "a-to-b", "source": end(Place::SiteA), "destination": end(Place::SiteB),
        "rate_bps": 80_000, "burst_bytes": 1_600, "packet_bytes_min": PACKET_BYTES,
    }]})
}

/// A packet of RTP (RFC 3550 section 5.1) with its number in it.
fn send_and_hear(source: &UdpSocket, destination: &UdpSocket, number: u32) -> anyhow::Result<()> {
    let mut sent = [0; PAYLOAD_BYTES];
    (sent[0], sent[1]) = (0x80, 8);
    sent[4..8].copy_from_slice(&number.to_be_bytes());
    source.send_to(&sent, (Place::SiteB.address(), PORT)).context("cannot send")?;
    let mut heard = [0; PAYLOAD_BYTES + 1];
    let length = destination.recv(&mut heard).context("the first packet after the answer was not heard")?;
    ensure!(heard[..length] == sent, "another packet than the one that was sent has come");
    Ok(())
}

/// Both nodes have counted the one packet as the session's.
fn check_policed(ended: &SessionView) -> anyhow::Result<()> {
    let passed = ended.usage.iter().filter_map(|usage| usage.counters).map(|counters| counters.passed_packets);
    let passed: Vec<_> = passed.collect();
    ensure!(passed == [1, 1], "the packet was not policed as the session's at both ends: {:?}", ended.usage);
    Ok(())
}

/// What any program would pay on this host.
struct Floor {
    address: SocketAddrV4,
    stream: TcpStream,
    file: std::fs::File,
}

impl Floor {
    fn new(file: &Path) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
        let std::net::SocketAddr::V4(address) = listener.local_addr()? else { anyhow::bail!("not IPv4") };
        std::thread::Builder::new().name("echo".to_owned()).spawn(move || {
            // Ends with the process: nobody connects when the measurement is over.
            for stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || echo(stream));
            }
        })?;
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let file = std::fs::File::create(file).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Self { address, stream, file })
    }

    fn exchange(&mut self) -> anyhow::Result<()> {
        exchange(&mut self.stream)
    }

    fn connect_and_exchange(&self) -> anyhow::Result<()> {
        exchange(&mut TcpStream::connect(self.address)?)
    }

    fn make_durable(&mut self) -> anyhow::Result<()> {
        self.file.write_all(&[7; PAGE_BYTES])?;
        self.file.sync_data().context("cannot make a file durable")
    }
}

fn exchange(stream: &mut TcpStream) -> anyhow::Result<()> {
    let mut bytes = [1; MESSAGE_BYTES];
    stream.write_all(&bytes)?;
    stream.read_exact(&mut bytes).context("no echo over loopback")
}

fn echo(mut stream: TcpStream) {
    let mut bytes = [0; MESSAGE_BYTES];
    let _ = stream.set_nodelay(true);
    while stream.read_exact(&mut bytes).is_ok() && stream.write_all(&bytes).is_ok() {}
}

/// One that keeps its connection.
struct Orchestrator {
    agent: ureq::Agent,
}

impl Orchestrator {
    fn new() -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
        Self { agent: config.timeout_global(Some(ANSWER_MAX)).build().into() }
    }

    fn create<T: DeserializeOwned>(&self, path: &str, body: &Value) -> anyhow::Result<T> {
        read(path, 201, self.agent.post(format!("http://{API}{path}")).send_json(body))
    }

    fn delete<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        read(path, 200, self.agent.delete(format!("http://{API}{path}")).call())
    }
}

fn read<T: DeserializeOwned>(
    path: &str,
    status: u16,
    answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> anyhow::Result<T> {
    let mut answer = answer.with_context(|| format!("no answer to {path}"))?;
    let (code, text) = (answer.status().as_u16(), answer.body_mut().read_to_string()?);
    ensure!(code == status, "{path} was answered with {code}: {text}");
    serde_json::from_str(&text).with_context(|| format!("{path} was answered with {text}"))
}

fn report(times: &Times, stamp: &Stamp) -> anyhow::Result<Vec<Record>> {
    println!("\nmicroseconds by the wall clock (p50 / p90 / p99 / most)");
    #[allow(clippy::cast_precision_loss, reason = "2^53 microseconds are 285 years")]
    let at = |histogram: &Histogram<u64>, quantile: f64| histogram.value_at_quantile(quantile) as f64;
    let mut records = Vec::new();
    let [loopback, ..] = times;
    let floor = at(loopback, 0.99);
    for ((name, title), histogram) in CASES.iter().zip(times) {
        let (p50, p90, p99) = (at(histogram, 0.5), at(histogram, 0.9), at(histogram, 0.99));
        println!("{title:<74}{:>26}", format!("{p50:.0} / {p90:.0} / {p99:.0} / {}", histogram.max()));
        let spread = Quantiles { p25: at(histogram, 0.25), p50, p90 };
        let record = Record::new(BENCH, format!("p99/{name}"), p99, "us", stamp.clone());
        let record = record.from(spread, usize::try_from(histogram.len())?);
        records.push(record.against(p99 / floor, "p99/loopback".to_owned()));
    }
    println!("\nover the loopback round trip of the same run (p50 / p99)");
    for ((name, _), histogram) in CASES.iter().zip(times).skip(1) {
        let (half, most) = (at(histogram, 0.5) / at(loopback, 0.5), at(histogram, 0.99) / floor);
        println!("{name:<20}{:>16}", format!("{half:.1} / {most:.1}"));
    }
    Ok(records)
}
