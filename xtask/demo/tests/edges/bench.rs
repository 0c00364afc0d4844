//! Two nodes on a test's network, and what an orchestrator asks of them.

use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use turnpike_api::{AggregateView, FlowView, Health, NodeView, SessionView, UsageRecord};
use turnpike_broker::policy::Counters;
use turnpike_broker::record::UsageKind;
use turnpike_demo::certificates::{Authority, NodeFiles};
use turnpike_demo::node::{API, Scratch};
use turnpike_demo::rest::{Answer, Client};

use crate::network::{Ip, Network, Place, Shape};
use crate::packet::{Packet, ports};
use crate::wire::{Capture, Sender};

const READY_MAX: Duration = Duration::from_secs(60);
/// What tagged packets have between the nodes: 198.18.0.0/24 and port 47700 unless configured.
pub(crate) const TAG_PORT: u16 = 47_700;
/// Of aggregates; more than any test sends.
pub(crate) const AGGREGATE_RATE_BPS: u64 = 20_000_000;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// What differs from test to test.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) shape: Shape,
    /// Of the tag addresses.
    pub(crate) outer: Ip,
    pub(crate) wan_mtu: u32,
    /// Further lines of `[data_plane]`, of edge A and of edge B.
    pub(crate) data_plane: [&'static str; 2],
}

impl Setup {
    pub(crate) const PLAIN: Self = Self { shape: Shape::TwoArms, outer: Ip::V4, wan_mtu: 1_500, data_plane: ["", ""] };

    pub(crate) const fn over(outer: Ip) -> Self {
        Self { outer, ..Self::PLAIN }
    }
}

/// Both edges, running. Dropping it ends and removes everything.
pub(crate) struct Bench {
    nodes: [Node; 2],
    pub(crate) network: Network,
    senders: [Sender; 2],
    sinks: Vec<UdpSocket>,
    scratch: Scratch,
}

struct Node {
    child: Child,
    log: PathBuf,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A name for what a test makes in the whole system.
pub(crate) fn prefix() -> String {
    format!("tpe{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// The program; none if the test cannot run here, which it then has said.
fn turnpike() -> Option<PathBuf> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root for network namespaces and XDP");
        return None;
    }
    let program = std::env::var_os("TURNPIKE_BIN").map(PathBuf::from);
    if program.is_none() {
        println!("skipped: TURNPIKE_BIN does not name the program turnpike");
    }
    program
}

impl Bench {
    /// None if there can be no such thing here; the reason is printed.
    pub(crate) fn new(setup: Setup) -> Option<Self> {
        let program = turnpike()?;
        let prefix = prefix();
        let scratch = Scratch::new(&prefix).unwrap();
        let network = Network::new(&prefix, setup.shape, setup.wan_mtu);
        let authority = Authority::new(scratch.dir()).unwrap();
        let edges =
            [(Place::EdgeA, "edge-a", Place::EdgeB, "edge-b"), (Place::EdgeB, "edge-b", Place::EdgeA, "edge-a")];
        for (index, (place, name, peer_place, peer)) in edges.into_iter().enumerate() {
            let files = authority.issue(scratch.dir(), name).unwrap();
            let lan = if place == Place::EdgeB && setup.shape == Shape::OneArm { "wan" } else { "lan" };
            let text = configuration(scratch.dir(), &files, (name, place), (peer, peer_place), (setup.outer, lan))
                .replace("#data_plane", setup.data_plane[index]);
            std::fs::write(scratch.dir().join(format!("{name}.toml")), text).unwrap();
        }
        let nodes = [Place::EdgeA, Place::EdgeB].map(|place| start(&program, &scratch, &network, place));
        let senders = [Place::SiteA, Place::SiteB].map(|site| Sender::new(network.at(site)));
        let mut bench = Self { nodes, network, senders, sinks: Vec::new(), scratch };
        bench.wait_ready();
        Some(bench)
    }

    fn wait_ready(&mut self) {
        let deadline = Instant::now() + READY_MAX;
        for edge in [Place::EdgeA, Place::EdgeB] {
            while self.client(edge).get::<Health>("/v1/health").is_err() {
                let node = &mut self.nodes[index(edge)];
                let ended = node.child.try_wait().unwrap();
                let log = || std::fs::read_to_string(&node.log).unwrap_or_default();
                assert!(ended.is_none(), "{edge:?} ended with {ended:?}:\n{}", log());
                assert!(Instant::now() < deadline, "{edge:?} is not ready:\n{}", log());
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// Kills a node with SIGKILL, and starts it again.
    pub(crate) fn restart(&mut self, edge: Place) {
        let program = turnpike().unwrap();
        let node = &mut self.nodes[index(edge)];
        node.child.kill().unwrap();
        node.child.wait().unwrap();
        *node = start(&program, &self.scratch, &self.network, edge);
        self.wait_ready();
    }

    pub(crate) fn client(&self, edge: Place) -> Client<'_> {
        Client::new(self.network.at(edge), API)
    }

    /// Reserves the aggregate `ab` at edge A or `ba` at edge B, with these members besides.
    pub(crate) fn reserve(&self, edge: Place, more: &Value) -> AggregateView {
        let (name, peer) = if edge == Place::EdgeA { ("ab", "edge-b") } else { ("ba", "edge-a") };
        let mut body = json!({
            "name": name, "peer": peer, "rate_bps": AGGREGATE_RATE_BPS, "burst_bytes": 1_000_000, "dscp": 46,
        });
        merge(&mut body, more);
        self.client(edge).create("/v1/aggregates", &body).unwrap()
    }

    pub(crate) fn aggregate(&self, edge: Place, name: &str) -> AggregateView {
        self.client(edge).get(&format!("/v1/aggregates/{name}")).unwrap()
    }

    /// A session with these flows, asked for at edge A.
    pub(crate) fn admit(&self, id: &str, flows: &[Value]) -> SessionView {
        self.client(Place::EdgeA).create("/v1/sessions", &json!({ "id": id, "flows": flows })).unwrap()
    }

    /// The same with `starts_at` and `ends_at`.
    pub(crate) fn book(&self, id: &str, flows: &[Value], schedule: &Value) -> SessionView {
        let mut body = json!({ "id": id, "flows": flows });
        merge(&mut body, schedule);
        self.client(Place::EdgeA).create("/v1/sessions", &body).unwrap()
    }

    /// The problem for which it is not admitted.
    pub(crate) fn refused(&self, id: &str, flows: &[Value]) -> (String, String) {
        match self.client(Place::EdgeA).post::<Value>("/v1/sessions", &json!({ "id": id, "flows": flows })).unwrap() {
            Answer::Refused(problem) => (problem.code, problem.detail),
            Answer::Done(view) => panic!("admitted: {view}"),
        }
    }

    pub(crate) fn session(&self, edge: Place, id: &str) -> SessionView {
        self.client(edge).get(&format!("/v1/sessions/{id}")).unwrap()
    }

    /// Ends a session; its final usage is in the ledgers of both nodes as it is in the answer.
    pub(crate) fn end(&self, id: &str) -> SessionView {
        let ended: SessionView = self.client(Place::EdgeA).delete(&format!("/v1/sessions/{id}")).unwrap();
        for (edge, name) in [(Place::EdgeA, "edge-a"), (Place::EdgeB, "edge-b")] {
            let records: Vec<UsageRecord> = self.client(edge).list("/v1/usage").unwrap();
            let is_final = |record: &&UsageRecord| record.session.as_str() == id && record.kind == UsageKind::Final;
            let record = records.iter().find(is_final).expect("a final record");
            for own in record.flows.iter().filter(|usage| usage.node.as_str() == name) {
                assert!(ended.usage.contains(own), "{own:?} in the ledger of {name}, and {:?}", ended.usage);
            }
        }
        ended
    }

    /// Packets of a reason at an edge, `out` (from the site) or `in`.
    pub(crate) fn verdict(&self, edge: Place, direction: &str, reason: &str) -> u64 {
        let view: NodeView = self.client(edge).get("/v1/node").unwrap();
        let of_reason = |verdict: &&_| {
            let turnpike_api::VerdictView { direction: way, reason: found, .. } = verdict;
            way == direction && found == reason
        };
        view.verdicts.iter().find(of_reason).expect(reason).packets
    }

    pub(crate) fn send(&self, packet: &Packet) {
        self.send_bytes(&packet.bytes(), packet.source, packet.destination);
    }

    pub(crate) fn send_bytes(&self, packet: &[u8], source: SocketAddr, destination: SocketAddr) {
        let site = usize::from(!Ip::BOTH.iter().any(|ip| ip.host(Place::SiteA) == source.ip()));
        self.senders[site].send(packet, destination.ip());
    }

    /// From now on somebody listens there, so that the host does not answer that nobody does.
    pub(crate) fn listen(&mut self, site: Place, end: SocketAddr) {
        let bound = self.network.at(site).run(|| Ok(UdpSocket::bind(end)?));
        self.sinks.push(bound.unwrap());
    }

    pub(crate) fn capture(&self, place: Place) -> Capture {
        Capture::new(self.network.at(place))
    }
}

fn index(edge: Place) -> usize {
    usize::from(edge == Place::EdgeB)
}

/// Members that are null are taken away.
fn merge(body: &mut Value, more: &Value) {
    for (key, value) in more.as_object().unwrap() {
        if value.is_null() {
            body.as_object_mut().unwrap().remove(key);
        } else {
            body[key] = value.clone();
        }
    }
}

fn configuration(
    dir: &Path,
    files: &NodeFiles,
    (name, place): (&str, Place),
    (peer, peer_place): (&str, Place),
    (outer, lan): (Ip, &str),
) -> String {
    let state = dir.join(format!("{name}-state"));
    let pins = dir.join("pins").join(name);
    let (control, peer_control) = (Ip::V4.tag_address(place), Ip::V4.tag_address(peer_place));
    let (tag_address, peer_tag_address) = (outer.tag_address(place), outer.tag_address(peer_place));
    let NodeFiles { certificate, key, ca } = files;
    format!(
        r#"node = "{name}"
state_dir = {state:?}
pin_dir = {pins:?}
[api]
listen = "{API}"
[data_plane]
lan = "{lan}"
wan = "wan"
tag_address = "{tag_address}"
#data_plane
[link]
rate_out_bps = 100000000
rate_in_bps = 100000000
[limits]
flows_max = 64
aggregates_max = 8
[peering]
listen = "{control}:7881"
certificate = {certificate:?}
key = {key:?}
ca = {ca:?}
[[peers]]
name = "{peer}"
tag_address = "{peer_tag_address}"
url = "https://{peer_control}:7881"
"#
    )
}

fn start(program: &Path, scratch: &Scratch, network: &Network, edge: Place) -> Node {
    let name = if edge == Place::EdgeA { "edge-a" } else { "edge-b" };
    let log = scratch.dir().join(format!("{name}.log"));
    let child = network.at(edge).run(|| {
        let file = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(program);
        command.arg("serve").arg("--config").arg(scratch.dir().join(format!("{name}.toml")));
        Ok(command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn()?)
    });
    Node { child: child.unwrap(), log }
}

/// A flow on the aggregate `ab` from site A, or `ba` from site B, with these members besides: 4 Mbit/s, and a burst for everything that a test
/// sends at once.
pub(crate) fn flow(id: &str, ip: Ip, aggregate: &str, port: u16, more: &Value) -> Value {
    let (source, destination) = ends(ip, aggregate, port);
    let mut flow = json!({
        "id": id, "aggregate": aggregate, "source": source, "destination": destination,
        "rate_bps": 4_000_000, "burst_bytes": 60_000, "packet_bytes_min": 200,
    });
    merge(&mut flow, more);
    flow
}

/// Between the same ports of both hosts.
pub(crate) fn ends(ip: Ip, aggregate: &str, port: u16) -> (SocketAddr, SocketAddr) {
    let [a, b] = [Place::SiteA, Place::SiteB].map(|site| SocketAddr::new(ip.host(site), port));
    if aggregate == "ab" { (a, b) } else { (b, a) }
}

/// Whether a packet is UDP to this port.
pub(crate) fn is_to(port: u16) -> impl Fn(&[u8]) -> bool {
    move |packet| ports(packet).is_some_and(|(_, to)| to == port)
}

/// Counters of packets that were all passed, or all dropped.
pub(crate) fn counted(packets: &[Vec<u8>], passed: bool) -> Counters {
    let (count, bytes) = (packets.len() as u64, packets.iter().map(|packet| packet.len() as u64).sum());
    let offered = Counters { offered_packets: count, offered_bytes: bytes, ..Counters::default() };
    if passed {
        Counters { passed_packets: count, passed_bytes: bytes, ..offered }
    } else {
        Counters { dropped_packets: count, dropped_bytes: bytes, ..offered }
    }
}

/// What a node counted of a flow that has ended, without what arrived; none if it did not count it.
pub(crate) fn usage(ended: &SessionView, node: &str, flow: &str) -> Option<Counters> {
    let mut of_flow = ended.usage.iter().filter(|usage| usage.node.as_str() == node && usage.flow.as_str() == flow);
    let found = of_flow.next().unwrap_or_else(|| panic!("no usage of {flow} by {node}: {:?}", ended.usage));
    assert!(of_flow.next().is_none());
    found.counters.map(|counters| Counters { reception: None, ..counters })
}

pub(crate) fn view<'v>(session: &'v SessionView, flow: &str) -> &'v FlowView {
    session.flows.iter().find(|view| view.id.as_str() == flow).unwrap()
}
