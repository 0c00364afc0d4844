//! Asking peers: one HTTP/2 connection for each, made when it is needed and kept.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tracing::debug;
use turnpike_api::Problem;
use turnpike_broker::message::{PeerAnswer, PeerRequest};
use turnpike_broker::name::{Epoch, NodeName};

use crate::config::Peer;
use crate::tls;

/// Where peers exchange messages. The number is that of the messages: nodes that have not the same one do not talk.
pub(crate) const PATH: &str = "/peer/v4/exchange";
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// What goes over the wire.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Exchange {
    /// The asking node's life.
    pub(crate) epoch: Epoch,
    /// What it asks.
    pub(crate) request: PeerRequest,
    /// A client's, for the peer to judge by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
}

/// All peers of this node.
#[derive(Clone)]
pub(crate) struct PeerClient {
    runtime: runtime::Handle,
    peers: Arc<BTreeMap<NodeName, Arc<Connection>>>,
}

impl PeerClient {
    pub(crate) fn new(runtime: runtime::Handle, peers: &[Peer], tls: Option<&Arc<ClientConfig>>) -> Self {
        let connection = |peer: &Peer| {
            let connection = Connection {
                authority: peer.authority(),
                name: tls::server_name(&peer.name),
                tls: tls.cloned(),
                sender: Mutex::new(None),
            };
            (peer.name.clone(), Arc::new(connection))
        };
        Self { runtime, peers: Arc::new(peers.iter().map(connection).collect()) }
    }

    /// Asks `peer` and calls `report` exactly once, within `timeout`.
    pub(crate) fn send(
        &self,
        peer: &NodeName,
        exchange: &Exchange,
        timeout: Duration,
        report: impl FnOnce(Result<PeerAnswer, String>) + Send + 'static,
    ) {
        let connection = self.peers.get(peer).cloned();
        let peer = peer.clone();
        let body = serde_json::to_vec(exchange).map(Bytes::from);
        self.runtime.spawn(async move {
            let ask = async {
                let connection = connection.ok_or("it is not configured")?;
                connection.ask(body.map_err(|error| error.to_string())?).await
            };
            let answer = tokio::time::timeout(timeout, ask)
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {} ms", timeout.as_millis())));
            report(answer.map_err(|reason| format!("peer {peer}: {reason}")));
        });
    }
}

struct Connection {
    authority: Option<String>,
    name: Result<ServerName<'static>, String>,
    tls: Option<Arc<ClientConfig>>,
    sender: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Connection {
    async fn ask(&self, body: Bytes) -> Result<PeerAnswer, String> {
        let (sender, reused) = self.sender().await?;
        match self.exchange(sender, body.clone()).await {
            // A kept connection may be one to an earlier life of the peer. Requests are idempotent: try a new one.
            Err(Failure::Connection(reason)) if reused => {
                debug!(reason, "trying a new connection");
                let (sender, _) = self.sender().await?;
                self.exchange(sender, body).await.map_err(Failure::reason)
            }
            result => result.map_err(Failure::reason),
        }
    }

    /// The kept connection, or a new one; whether it was kept.
    async fn sender(&self) -> Result<(SendRequest<Full<Bytes>>, bool), String> {
        let mut kept = self.sender.lock().await;
        if let Some(sender) = kept.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok((sender.clone(), true));
        }
        let sender = self.connect().await?;
        *kept = Some(sender.clone());
        Ok((sender, false))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let authority = self.authority.as_deref().ok_or("its url cannot be used")?;
        let tls = self.tls.clone().ok_or("[peering] is not configured")?;
        let unreachable = |error: std::io::Error| format!("cannot connect to {authority}: {error}");
        let stream = TcpStream::connect(authority).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        // By its name, not by the host of its url: another node there would be another node.
        let stream = TlsConnector::from(tls).connect(self.name.clone()?, stream).await;
        let stream = stream.map_err(|error| format!("no trusted connection to {authority}: {error}"))?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(Duration::from_secs(10)))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| format!("no HTTP/2 with {authority}: {error}"))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "connection to a peer ended");
            }
        });
        Ok(sender)
    }

    async fn exchange(&self, mut sender: SendRequest<Full<Bytes>>, body: Bytes) -> Result<PeerAnswer, Failure> {
        let lost = |error: hyper::Error| Failure::Connection(describe(&error));
        let authority = self.authority.as_deref().unwrap_or_default();
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("https://{authority}{PATH}"))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(body))
            .map_err(|error| Failure::Answer(error.to_string()))?;
        sender.ready().await.map_err(lost)?;
        let response = sender.send_request(request).await.map_err(lost)?;
        let status = response.status();
        let bytes = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let bytes = bytes.map_err(|error| Failure::Connection(error.to_string()))?.to_bytes();
        if status == StatusCode::OK {
            return serde_json::from_slice(&bytes)
                .map_err(|error| Failure::Answer(format!("its answer is not understood: {error}")));
        }
        let reason = match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => format!("it says {status}, {}: {}", problem.code, problem.detail),
            Err(_) => format!("it says {status}"),
        };
        Err(Failure::Answer(reason))
    }
}

enum Failure {
    /// It may work over another connection.
    Connection(String),
    /// It was answered, but not with an answer.
    Answer(String),
}

impl Failure {
    fn reason(self) -> String {
        match self {
            Self::Connection(reason) | Self::Answer(reason) => reason,
        }
    }
}

/// hyper keeps what happened in the sources of its errors.
fn describe(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
