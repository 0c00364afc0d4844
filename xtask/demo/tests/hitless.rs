//! Two real nodes with calls under way are killed and started again, as they are, in tables of other sizes, and in the middle of a start,
//! while other sessions come and go: no packet is lost, no reservation, no count, and nothing is left over.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use turnpike_api::{FlowView, NodeView, SessionView};
use turnpike_broker::policy::Counters;
use turnpike_demo::calls::{Way, port};
use turnpike_demo::certificates::Authority;
use turnpike_demo::media::{Phones, Receiver, SPEECH_IP_BYTES, SendCount, Sender, Stream};
use turnpike_demo::node::{API, EDGE_A, EDGE_B, Node, Scratch};
use turnpike_demo::recording::Recording;
use turnpike_demo::rest::{Answer, Client};
use turnpike_demo::topology::{Cable, Place, Topology};

const LINK_RATE_BPS: u64 = 10_000_000;
const CALLS: [u16; 5] = [1, 2, 3, 4, 5];
/// Numbers of sessions that come and go.
const CHURN: std::ops::Range<u16> = 1_000..9_000;
const INTERVAL: Duration = Duration::from_millis(5);
const ROUNDS: u64 = 10;
/// Packets of a call that may be under way when a port goes.
const UNDER_WAY: u64 = 4;
const EDGES: [Place; 2] = [Place::EdgeA, Place::EdgeB];

/// Steps of a fixed sequence that looks random, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn id(number: u16) -> String {
    format!("call-{number}")
}

fn request(number: u16) -> Value {
    let (rate_bps, burst_bytes) = if CHURN.contains(&number) { (8_000, 400) } else { (400_000, 8_000) };
    let flow = |way: Way| {
        let (from, to) = way.sites();
        json!({
            "id": way.flow(),
            "aggregate": way.aggregate(),
            "source": format!("{}:{}", from.address(), port(number)),
            "destination": format!("{}:{}", to.address(), port(number)),
            "rate_bps": rate_bps,
            "burst_bytes": burst_bytes,
            "packet_bytes_min": SPEECH_IP_BYTES,
        })
    };
    json!({"id": id(number), "flows": Way::ALL.map(flow)})
}

fn streams(way: Way) -> Vec<Stream> {
    let (from, to) = way.sites();
    let first = if way == Way::Forward { 1_000 } else { 2_000 };
    let stream = |call: &u16| Stream {
        source: SocketAddrV4::new(from.address(), port(*call)),
        destination: SocketAddrV4::new(to.address(), port(*call)),
        ssrc: first + u32::from(*call),
        interval: INTERVAL,
    };
    CALLS.iter().map(stream).collect()
}

struct Field<'t> {
    nodes: [Node; 2],
    topology: &'t Topology,
}

impl<'t> Field<'t> {
    fn new(turnpike: &Path, topology: &'t Topology, scratch: &Scratch) -> Self {
        let authority = Authority::new(scratch.dir()).unwrap();
        let nodes = [(EDGE_A, EDGE_B), (EDGE_B, EDGE_A)].map(|edges| {
            let files = authority.issue(scratch.dir(), edges.0.name).unwrap();
            Node::new(turnpike, scratch, edges, &files, LINK_RATE_BPS).unwrap()
        });
        let mut field = Self { nodes, topology };
        for edge in 0..2 {
            field.nodes[edge].set_flows_max(1_024).unwrap();
            field.start(edge);
        }
        for edge in 0..2 {
            field.wait_ready(edge);
            let log = field.nodes[edge].log_tail();
            assert!(log.contains(" MiB of kernel memory"), "it says what the tables take: {log}");
        }
        field
    }

    fn client(&self, edge: usize) -> Client<'t> {
        Client::new(self.topology.at(EDGES[edge]), API)
    }

    fn start(&mut self, edge: usize) {
        self.nodes[edge].start(self.topology.at(EDGES[edge])).unwrap();
    }

    fn wait_ready(&mut self, edge: usize) {
        let client = Client::new(self.topology.at(EDGES[edge]), API);
        if let Err(error) = self.nodes[edge].wait_ready(client, || Ok(())) {
            panic!("{error:#}\n{}", self.nodes[edge].log_tail());
        }
    }

    /// Tables by name: entries in use and in all.
    fn tables(&self, edge: usize) -> BTreeMap<String, (u64, u64)> {
        let view: NodeView = self.client(edge).get("/v1/node").unwrap();
        view.tables.into_iter().map(|(name, table)| (name, (table.used, table.max))).collect()
    }

    /// Waits until these tables have so many entries in use at both nodes.
    fn wait_used(&self, wanted: &[(&str, u64)]) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let tables = [self.tables(0), self.tables(1)];
            let reached =
                |tables: &BTreeMap<String, (u64, u64)>| wanted.iter().all(|(name, used)| tables[*name].0 == *used);
            if tables.iter().all(reached) {
                return;
            }
            assert!(Instant::now() < deadline, "{wanted:?} in use are expected, and there are {tables:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Both aggregates, and the calls.
    fn reserve(&self) {
        for (way, edge, peer) in [(Way::Forward, 0, EDGE_B.name), (Way::Back, 1, EDGE_A.name)] {
            let body = json!({"name": way.aggregate(), "peer": peer, "rate_bps": 8_000_000, "burst_bytes": 262_144, "dscp": 46});
            let _: Value = self.client(edge).create("/v1/aggregates", &body).unwrap();
        }
        for number in CALLS {
            let _: SessionView = self.client(0).create("/v1/sessions", &request(number)).unwrap();
        }
    }

    /// Ends the calls.
    fn hang_up(&self) -> Vec<SessionView> {
        let end = |number: &u16| self.client(0).delete(&format!("/v1/sessions/{}", id(*number))).unwrap();
        CALLS.iter().map(end).collect()
    }

    /// Ends everything, and sees that nothing is left.
    fn end(mut self) {
        for (way, edge) in [(Way::Forward, 0), (Way::Back, 1)] {
            let _: Value = self.client(edge).delete(&format!("/v1/aggregates/{}", way.aggregate())).unwrap();
        }
        self.wait_used(&[("flows", 0), ("labels", 0), ("aggregates", 0), ("next_hops", 0)]);
        for (node, place) in self.nodes.iter_mut().zip(EDGES) {
            let adopt = |node: &Node| {
                let (ok, said) = node.ask(self.topology.at(place), "adopt").unwrap();
                assert!(ok, "{said}");
                serde_json::from_str::<Value>(&said).unwrap()
            };
            node.terminate().unwrap();
            let said = adopt(node);
            assert!(said["takeover"] == "as_it_is" && said["policies"] == json!([]), "{said}");
            node.detach(self.topology.at(place)).unwrap();
            let said = adopt(node);
            assert!(said["takeover"] == "nothing" && said["links"][0]["interface_index"].is_null(), "{said}");
        }
    }

    fn counters(&self, edge: usize) -> BTreeMap<(u16, String), Counters> {
        let of_call = |number: &u16| {
            let view: SessionView = self.client(edge).get(&format!("/v1/sessions/{}", id(*number))).unwrap();
            let counters = |flow: FlowView| ((*number, flow.id.to_string()), flow.counters.unwrap());
            view.flows.into_iter().map(counters).collect::<Vec<_>>()
        };
        CALLS.iter().flat_map(of_call).collect()
    }
}

/// Makes sessions and ends them, as long as it is let; nodes that are dead or starting refuse.
fn churn(topology: &Topology, stop: &AtomicBool, made: &AtomicU64) {
    let client = Client::new(topology.at(Place::EdgeA), API);
    for number in CHURN {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if let Ok(Answer::Done(_)) = client.post::<SessionView>("/v1/sessions", &request(number)) {
            made.fetch_add(1, Ordering::Relaxed);
        }
        // Some stay for a while.
        for old in if number.is_multiple_of(3) { vec![number - 15] } else { vec![number] } {
            let _ = client.delete::<Value>(&format!("/v1/sessions/{}", id(old)));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sessions that were left by the churn are ended, however often that has to be said.
fn end_churn(field: &Field<'_>) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let sessions: Vec<SessionView> = field.client(0).list("/v1/sessions").unwrap();
        let is_churn = |session: &&SessionView| !CALLS.map(id).contains(&session.id.to_string());
        let live: Vec<_> = sessions.iter().filter(is_churn).filter(|session| session.usage.is_empty()).collect();
        if live.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{} sessions do not end: {live:?}", live.len());
        for session in live {
            let _ = field.client(0).delete::<Value>(&format!("/v1/sessions/{}", session.id));
        }
    }
}

/// One node goes and comes back; what it had counted by then is not less afterwards.
fn round(field: &mut Field<'_>, number: u64, dice: &mut Dice, media: &Media) {
    let edge = usize::try_from(dice.roll(2)).unwrap();
    let before = field.counters(edge);
    field.nodes[edge].kill().unwrap();
    let sizes = [512, 1_024, 4_096, 65_536];
    let flows_max = sizes[usize::try_from(dice.roll(4)).unwrap()];
    if !number.is_multiple_of(3) {
        field.nodes[edge].set_flows_max(flows_max).unwrap();
    }
    // Killed again in the middle of its start: before, in and after the change of sizes.
    let tries = dice.roll(3);
    for _ in 0..tries {
        field.start(edge);
        std::thread::sleep(Duration::from_millis(dice.roll(2_500)));
        field.nodes[edge].kill().unwrap();
    }
    media.wait_until_it_flows(&format!("{} is dead", field.nodes[edge].name()));
    let (ok, said) = field.nodes[edge].ask(field.topology.at(EDGES[edge]), "adopt").unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    assert!(ok && said["policies"].as_array().unwrap().len() >= 2 + 2 * CALLS.len(), "{said}");
    field.start(edge);
    field.wait_ready(edge);
    println!(
        "{}: killed, {tries} times in its start, then {}; {}",
        field.nodes[edge].name(),
        said["takeover"],
        said["detail"]
    );
    for (flow, after) in field.counters(edge) {
        let before = before[&flow];
        assert!(
            after.offered_packets >= before.offered_packets && after.passed_bytes >= before.passed_bytes,
            "{flow:?}: {before:?}, later {after:?}"
        );
    }
}

/// Calls under way both ways.
struct Media {
    ears: [Receiver; 2],
    mouths: [Sender; 2],
}

impl Media {
    fn start(topology: &Topology, recording: &Arc<Recording>) -> Self {
        let ports = CALLS.map(port);
        let site = |place: Place| Phones::bind(topology.at(place), place.address(), &ports).unwrap();
        let (a, b) = (site(Place::SiteA), site(Place::SiteB));
        let settle = Instant::now() + Duration::from_secs(3_600);
        let ear =
            |name, phones, way| Receiver::start(name, phones, streams(way), Arc::clone(recording), settle).unwrap();
        let mouth = |name, phones, way| {
            let numbered = streams(way).into_iter().enumerate().collect();
            Sender::start(name, phones, numbered, Arc::clone(recording)).unwrap()
        };
        Self {
            ears: [ear("hear-b", &b, Way::Forward), ear("hear-a", &a, Way::Back)],
            mouths: [mouth("send-a", &a, Way::Forward), mouth("send-b", &b, Way::Back)],
        }
    }

    /// Packets heard, by direction.
    fn heard(&self) -> [u64; 2] {
        [0, 1].map(|way| self.ears[way].heard().streams.iter().map(|heard| heard.packets).sum())
    }

    /// Packets sent, by direction and call.
    fn sent(&self) -> [Vec<u64>; 2] {
        [0, 1].map(|way| self.mouths[way].counts().iter().map(SendCount::sent).collect())
    }

    /// Waits until more packets have come through in both directions; how long that took.
    fn wait_until_it_flows(&self, why: &str) -> Duration {
        let (begin, start) = (self.heard(), Instant::now());
        while self.heard().iter().zip(&begin).any(|(now, begin)| now < &(begin + 50)) {
            assert!(start.elapsed() < Duration::from_secs(20), "nothing comes through: {why}");
            std::thread::sleep(Duration::from_millis(5));
        }
        start.elapsed()
    }

    fn stop(&mut self) {
        self.mouths.iter_mut().for_each(Sender::stop);
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// What is needed to run, or why it is not there.
fn needs() -> Option<(PathBuf, Arc<Recording>)> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root for network namespaces and XDP");
        return None;
    }
    let Ok(path) = Recording::find() else {
        println!("skipped: no recording, package sip-tester is not installed");
        return None;
    };
    let Some(turnpike) = std::env::var_os("TURNPIKE_BIN").map(PathBuf::from) else {
        println!("skipped: TURNPIKE_BIN does not name the program turnpike");
        return None;
    };
    Some((turnpike, Arc::new(Recording::read(&path).unwrap())))
}

#[test]
fn killed_and_started_again_under_calls_nothing_is_lost() {
    let Some((turnpike, recording)) = needs() else { return };
    let topology = Topology::new(&format!("tpkh{}", std::process::id())).unwrap();
    let scratch = Scratch::new(&format!("turnpike-hitless-{}", std::process::id())).unwrap();
    let mut field = Field::new(&turnpike, &topology, &scratch);
    field.reserve();
    let mut media = Media::start(&topology, &recording);

    let (stop, made) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut dice = Dice(20_260_101);
    std::thread::scope(|scope| {
        let churn = scope.spawn(|| churn(&topology, &stop, &made));
        // A round that fails must end the churn, too.
        let rounds = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for number in 0..ROUNDS {
                // So that it is killed while some are being made and ended.
                let (begin, start) = (made.load(Ordering::Relaxed), Instant::now());
                while made.load(Ordering::Relaxed) < begin + 10 {
                    assert!(start.elapsed() < Duration::from_secs(40), "no session is admitted any more");
                    std::thread::sleep(Duration::from_millis(1));
                }
                round(&mut field, number, &mut dice, &media);
            }
        }));
        stop.store(true, Ordering::Relaxed);
        churn.join().unwrap();
        rounds.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    println!("{} other sessions came and went", made.load(Ordering::Relaxed));
    end_churn(&field);
    let calls = CALLS.len() as u64;
    field.wait_used(&[("flows", calls), ("labels", calls), ("aggregates", 2)]);

    media.stop();
    let ended = field.hang_up();
    let mut all = 0;
    for (way, (sent, ear)) in Way::ALL.into_iter().zip(media.sent().iter().zip(&media.ears)) {
        for ((session, sent), heard) in ended.iter().zip(sent).zip(&ear.heard().streams) {
            let (what, sent) = (format!("{} {}", session.id, way.flow()), *sent);
            assert!(sent > 1_000, "{what}: too little traffic to tell");
            assert_eq!((heard.missing(0..sent), heard.packets, heard.mismatches), (0, sent, 0), "{what}");
            let usage: Vec<_> = session.usage.iter().filter(|usage| usage.flow.as_str() == way.flow()).collect();
            assert_eq!(usage.len(), 2, "{what}: both nodes counted it");
            for usage in usage {
                let Counters { offered_packets, passed_packets, passed_bytes, .. } = usage.counters.unwrap();
                let counted = (offered_packets, passed_packets, passed_bytes);
                assert_eq!(counted, (sent, sent, sent * SPEECH_IP_BYTES), "{what} at {}", usage.node);
            }
            all += sent;
        }
    }
    println!("{all} packets sent, heard and counted at both nodes; none lost");
    field.end();
}

#[test]
fn ports_that_go_and_come_back_cost_what_is_sent_meanwhile() {
    let Some((turnpike, recording)) = needs() else { return };
    let topology = Topology::new(&format!("tpki{}", std::process::id())).unwrap();
    let scratch = Scratch::new(&format!("turnpike-ports-{}", std::process::id())).unwrap();
    let field = Field::new(&turnpike, &topology, &scratch);
    field.reserve();
    let mut media = Media::start(&topology, &recording);
    media.wait_until_it_flows("at the beginning");

    let mut kept = vec![[vec![0; CALLS.len()], vec![0; CALLS.len()]]];
    for (cable, name) in
        [(Cable::LanA, "lan of A"), (Cable::Wan, "wan"), (Cable::LanB, "lan of B"), (Cable::Wan, "wan")]
    {
        kept.push(media.sent());
        topology.lay_anew(cable).unwrap();
        let took = media.wait_until_it_flows(&format!("{name} was made anew\n{}", field.nodes[0].log_tail()));
        // What was under way when the first packets came through.
        std::thread::sleep(Duration::from_millis(200));
        kept.push(media.sent());
        println!("{name}: made anew; 50 packets each way {took:.0?} later");
    }
    for (place, port) in [(Place::EdgeA, "lan"), (Place::EdgeB, "wan")] {
        media.wait_until_it_flows("between flaps");
        kept.push(media.sent());
        topology.set_port(place, port, false).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        topology.set_port(place, port, true).unwrap();
        media.wait_until_it_flows("a port was down and is up again");
        std::thread::sleep(Duration::from_millis(200));
        kept.push(media.sent());
    }
    media.wait_until_it_flows("at the end");
    kept.push(media.sent());
    media.stop();

    let restored = [0, 1].map(|edge| {
        let view: NodeView = field.client(edge).get("/v1/node").unwrap();
        assert!(
            view.interfaces.iter().all(|port| port.state == "up" && port.xdp_mode == "native"),
            "{:?}",
            view.interfaces
        );
        view.interfaces.iter().map(|port| port.restored).collect::<Vec<_>>()
    });
    assert_eq!(restored, [[1, 2], [1, 2]], "how often each port got a new interface");
    // What was sent while everything was there has come; a few packets may have been under way when a port went.
    let mut lost_while_there = 0;
    for spell in kept.chunks_exact(2) {
        let [from, to] = [&spell[0], &spell[1]];
        for (ear, (from, to)) in media.ears.iter().zip(from.iter().zip(to)) {
            for (heard, (from, to)) in ear.heard().streams.iter().zip(from.iter().zip(to)) {
                assert_eq!(heard.mismatches, 0);
                lost_while_there += heard.missing(*from..to.saturating_sub(UNDER_WAY).max(*from));
            }
        }
    }
    assert_eq!(lost_while_there, 0);
    field.hang_up();
    field.end();
}
