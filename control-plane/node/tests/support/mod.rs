//! Nodes in this process on loopback ports, with real certificates, a real database and a data plane that only remembers.
#![allow(dead_code, reason = "each test program uses some of it")]

pub(crate) mod fake;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use turnpike_node::config::Config;
use turnpike_node::node::Node;

pub(crate) use fake::FakeDataPlane;

/// A directory with a CA and nodes' certificates.
pub(crate) struct Site {
    pub(crate) directory: TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Site {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let site = Self { directory: tempfile::tempdir().unwrap(), ca };
        std::fs::write(site.path("ca.pem"), site.ca.pem()).unwrap();
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A certificate for `names` in `<file>.pem` and its key in `<file>.key`.
    pub(crate) fn certify(&self, file: &str, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.ca).unwrap();
        std::fs::write(self.path(&format!("{file}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
    }

    /// A configuration for `name`, whose peers are at these ports.
    pub(crate) fn toml(&self, name: &str, tag_address: u8, port: u16, peers: &[(&str, u8, u16)]) -> String {
        let directory = self.directory.path().display();
        let mut text = format!(
            r#"
            node = "{name}"
            state_dir = "{directory}/{name}"
            [api]
            listen = "127.0.0.1:{api}"
            [data_plane]
            lan = "lan0"
            wan = "wan0"
            tag_address = "192.0.2.{tag_address}"
            [link]
            rate_out_bps = 10000000
            rate_in_bps = 10000000
            [limits]
            requests_max = 64
            [peering]
            listen = "127.0.0.1:{port}"
            certificate = "{directory}/{name}.pem"
            key = "{directory}/{name}.key"
            ca = "{directory}/ca.pem"
            "#,
            api = free_port(),
        );
        for (peer, tag_address, port) in peers {
            text += &format!(
                "[[peers]]\nname = \"{peer}\"\ntag_address = \"192.0.2.{tag_address}\"\nurl = \"https://127.0.0.1:{port}\"\n"
            );
        }
        text
    }
}

pub(crate) fn config(toml: &str) -> Config {
    Config::parse(toml, Path::new("test.toml")).unwrap()
}

/// Waits for what is answered before it is true, such as the release of a session that did not come up.
pub(crate) fn eventually(what: &str, is_true: impl Fn() -> bool) {
    for _ in 0..500 {
        if is_true() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("not within 10 s: {what}");
}

/// A port that is this process's for as long as it runs. It is none that the kernel gives to those who do not ask for one, such as clients; and
/// tests of other processes, which do as this does, see that it is taken.
pub(crate) fn free_port() -> u16 {
    static TAKEN: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    const FIRST: u16 = 12_000;
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let given: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
    assert!(given > FIRST + 1_000, "the kernel gives ports from {given} on: too few are left below");
    let mut taken = TAKEN.lock().unwrap();
    // Not all processes look at the same ones first.
    let begin = std::process::id() % u32::from(given - FIRST);
    for port in (FIRST..given).cycle().skip(usize::try_from(begin).unwrap()).take((given - FIRST).into()) {
        let name = UnixAddress::from_abstract_name(format!("turnpike-test-port-{port}")).unwrap();
        if let Ok(mark) = UnixListener::bind_addr(&name)
            && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        {
            taken.push(mark);
            return port;
        }
    }
    panic!("no free port from {FIRST} to {given}");
}

/// A node on a thread of its own.
pub(crate) struct TestNode {
    pub(crate) api: SocketAddr,
    failed: Mutex<mpsc::Receiver<String>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TestNode {
    pub(crate) fn start(config: &Config, data_plane: &FakeDataPlane) -> Self {
        Self::try_start(config, data_plane).unwrap()
    }

    pub(crate) fn try_start(config: &Config, data_plane: &FakeDataPlane) -> Result<Self, String> {
        let (config, data_plane) = (config.clone(), data_plane.clone());
        let (stop, stopped) = oneshot::channel();
        let (started, has_started) = mpsc::channel();
        let (fail, failed) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                match Node::start(&config, move || Ok::<_, String>(data_plane)).await {
                    Ok(mut node) => {
                        started.send(Ok(node.api())).unwrap();
                        tokio::select! {
                            _ = stopped => {}
                            error = node.failed() => fail.send(error.to_string()).unwrap(),
                        }
                        node.stop().await;
                    }
                    Err(error) => started.send(Err(error.to_string())).unwrap(),
                }
            });
        });
        let api = has_started.recv().unwrap()?;
        Ok(Self { api, failed: Mutex::new(failed), stop: Some(stop), thread: Some(thread) })
    }

    /// Why the node could not go on.
    pub(crate) fn failed(&self) -> String {
        self.failed.lock().unwrap().recv_timeout(Duration::from_secs(10)).unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        call(self.api, "GET", path, &[], "")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        call(self.api, "POST", path, &["content-type: application/json"], &body.to_string())
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        call(self.api, "DELETE", path, &[], "")
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the API answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Status, code and field of a problem, after a look at what every problem must be.
    pub(crate) fn problem(&self) -> (u16, &str, &str) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let code = self.body["code"].as_str().unwrap();
        assert_eq!(self.body["type"], format!("urn:turnpike:problem:{code}"));
        assert_eq!(self.body["status"], self.status);
        assert!(!self.body["detail"].as_str().unwrap().is_empty(), "{self:?}");
        assert!(!self.body["title"].as_str().unwrap().is_empty(), "{self:?}");
        (self.status, code, self.body["field"].as_str().unwrap_or_default())
    }
}

/// One request on a connection of its own, written as it is.
pub(crate) fn call(api: SocketAddr, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
    let mut stream = TcpStream::connect(api).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {api}\r\nconnection: close\r\n");
    for header in headers {
        request += &format!("{header}\r\n");
    }
    request += &format!("content-length: {}\r\n\r\n", body.len());
    stream.write_all(request.as_bytes()).unwrap();
    // A server that has refused the head may not read the body.
    let _ = stream.write_all(body.as_bytes());
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert!(!bytes.is_empty(), "{error:?}");
    }
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.map(|line| line.split_once(": ").unwrap());
    let headers = headers.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let body = if body.is_empty() { Value::Null } else { serde_json::from_str(body).unwrap() };
    Answer { status, headers, body }
}

pub(crate) fn aggregate(name: &str, peer: &str, rate_bps: u64) -> Value {
    json!({ "name": name, "peer": peer, "rate_bps": rate_bps, "burst_bytes": 200_000, "dscp": 46 })
}

/// One flow each way: out by `ab`, in by `ba`.
pub(crate) fn session(id: &str, port: u16, rate_bps: u64) -> Value {
    json!({ "id": id, "flows": [flow("there", "ab", port, rate_bps), flow("back", "ba", port, rate_bps)] })
}

pub(crate) fn flow(id: &str, aggregate: &str, port: u16, rate_bps: u64) -> Value {
    let (site_a, site_b) = (format!("10.1.0.2:{port}"), format!("10.2.0.2:{port}"));
    let (source, destination) = if aggregate == "ab" { (site_a, site_b) } else { (site_b, site_a) };
    json!({
        "id": id, "aggregate": aggregate, "source": source, "destination": destination,
        "rate_bps": rate_bps, "burst_bytes": 1_600, "packet_bytes_min": 200,
    })
}

/// Two nodes, `a` and `b`, which are each other's peers.
pub(crate) struct Pair {
    pub(crate) site: Site,
    pub(crate) config_a: Config,
    pub(crate) config_b: Config,
    pub(crate) plane_a: FakeDataPlane,
    pub(crate) plane_b: FakeDataPlane,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let site = Site::new();
        site.certify("a", &["a"]);
        site.certify("b", &["b"]);
        let (port_a, port_b) = (free_port(), free_port());
        let config_a = config(&site.toml("a", 1, port_a, &[("b", 2, port_b)]));
        let config_b = config(&site.toml("b", 2, port_b, &[("a", 1, port_a)]));
        Self { site, config_a, config_b, plane_a: FakeDataPlane::default(), plane_b: FakeDataPlane::default() }
    }

    pub(crate) fn start(&self) -> (TestNode, TestNode) {
        (TestNode::start(&self.config_a, &self.plane_a), TestNode::start(&self.config_b, &self.plane_b))
    }

    /// With an aggregate of 1 Mbit/s each way.
    pub(crate) fn start_with_aggregates(&self) -> (TestNode, TestNode) {
        let (a, b) = self.start();
        assert_eq!(a.post("/v1/aggregates", &aggregate("ab", "b", 1_000_000)).status, 201);
        assert_eq!(b.post("/v1/aggregates", &aggregate("ba", "a", 1_000_000)).status, 201);
        (a, b)
    }
}
