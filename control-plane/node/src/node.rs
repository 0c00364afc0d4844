//! Starting and stopping a node: configuration, store, data plane, broker, peers, API, in this order.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tracing::info;
use turnpike_authorization::KeyError;
use turnpike_broker::address::Family;
use turnpike_broker::class::QualityFloors;
use turnpike_broker::name::{Epoch, Nanos, NodeName, PolicyId};
use turnpike_broker::record::{AggregateRecord, SessionRecord, SessionState};
use turnpike_broker::{self as broker, Broker};
use turnpike_store::{Store, StoreError};

use crate::authorizer::Authorizer;
use crate::config::{self, Config, Unadmitted};
use crate::core::{self, Core, Parts};
use crate::dataplane::{self, DataPlane};
use crate::http::{self, Protocol};
use crate::peer_client::PeerClient;
use crate::peer_server;
use crate::rest::{self, Rest};
use crate::time::Clock;
use crate::tls::{self, Tls, TlsError};

/// The database's name in `state_dir`.
pub(crate) const DATABASE: &str = "turnpike.db";

/// Connections that wait to be accepted.
const BACKLOG: u32 = 4_096;

/// A node that runs.
pub struct Node {
    stop: watch::Sender<bool>,
    servers: JoinSet<()>,
    core: core::Handle,
    authorizer: Arc<Authorizer>,
    data_plane: dataplane::Handle,
    core_thread: JoinHandle<()>,
    data_plane_thread: JoinHandle<()>,
    failed: oneshot::Receiver<String>,
    api: SocketAddr,
}

/// Why a node does not start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A port cannot be had.
    #[error("{key}: cannot listen on {address}: {error}; `ss -ltnp` shows who does")]
    Listen {
        /// The key of the configuration.
        key: &'static str,
        /// Its value.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The directory cannot be made.
    #[error("state_dir: cannot make {}: {error}", path.display())]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The data plane cannot be used.
    #[error("{0}")]
    DataPlane(String),
    /// A thread cannot be made.
    #[error("cannot make a thread: {0}")]
    Thread(io::Error),
    /// The keys of tokens cannot be used.
    #[error("authorization.keys: {0}")]
    Authorization(KeyError),
    /// The system has no randomness.
    #[error("cannot get random numbers from the system")]
    Random,
    /// The running node cannot go on.
    #[error("{0}")]
    Failed(String),
}

impl Node {
    /// Starts a node on the data plane that `make` makes. When this returns, it answers requests.
    pub async fn start<D, E>(
        config: &Config,
        make: impl FnOnce() -> Result<D, E> + Send + 'static,
    ) -> Result<Self, NodeError>
    where
        D: DataPlane,
        E: std::fmt::Display + Send + 'static,
    {
        // What can be wrong without having touched anything comes first: certificates and ports.
        let tls = config.peering.as_ref().map(|peering| Tls::load(peering, &config.node)).transpose()?;
        let api_listener = listen("api.listen", config.api.listen)?;
        let peer_listener = match &config.peering {
            Some(peering) => Some(listen("peering.listen", peering.listen)?),
            None => None,
        };
        let api = api_listener.local_addr().map_err(|error| NodeError::Listen {
            key: "api.listen",
            address: config.api.listen,
            error,
        })?;

        // Who talks to whom is nobody else's business.
        let mut directory = std::fs::DirBuilder::new();
        directory
            .recursive(true)
            .mode(0o700)
            .create(&config.state_dir)
            .map_err(|error| NodeError::StateDir { path: config.state_dir.clone(), error })?;
        let mut store = Store::open(&config.state_dir.join(DATABASE), &config.node)?;
        let epoch = store.begin_epoch()?;
        let (aggregates, sessions) = store.load()?;
        let (links, series) = (store.links()?, store.series()?);
        let (tokens, revocations) = (store.tokens()?, store.revocations()?);
        let clock = Clock::start(latest(&store, &sessions)?);
        let authorizer = Authorizer::new(config.node.clone(), clock, config.authorization.clone(), revocations);
        let authorizer = Arc::new(authorizer.map_err(NodeError::Authorization)?);

        let requests_max = size(config.limits.requests_max);
        let (handle, inbox) = core::channel(requests_max, config.peers.len());
        let lapse_after = Duration::from_secs(config.data_plane.lapse_after_s);
        let report = {
            let handle = handle.clone();
            move |report| handle.report(report)
        };
        let data_plane = dataplane::start(make, lapse_after, report).map_err(|error| match error {
            dataplane::StartError::Thread(error) => NodeError::Thread(error),
            dataplane::StartError::Ended(error) => NodeError::DataPlane(error.to_string()),
            dataplane::StartError::DataPlane(error) => NodeError::DataPlane(error.to_string()),
        })?;

        let adopted: BTreeSet<PolicyId> = data_plane.adopted.iter().copied().collect();
        log_restored(&aggregates, &sessions, &adopted);
        let mut broker = Broker::new(broker_config(config, epoch)?);
        broker.restore_links(links, clock.now());
        broker.restore_series(series);
        broker.restore_tokens(tokens);
        broker.restore(aggregates, sessions, &adopted, clock.now());
        let client = tls.as_ref().map(|tls| &tls.client);
        let parts = Parts {
            broker,
            store,
            clock,
            epoch,
            handle: handle.clone(),
            inbox,
            data_plane: data_plane.handle.clone(),
            peers: PeerClient::new(runtime::Handle::current(), &config.peers, client),
            limit_best_effort: config.data_plane.unadmitted == Unadmitted::Limit,
        };
        let (core_thread, failed) = spawn_core(parts)?;

        let (stop, stopped) = watch::channel(false);
        let mut servers = JoinSet::new();
        if let (Some(listener), Some(tls)) = (peer_listener, tls) {
            let peers: Arc<[NodeName]> = config.peers.iter().map(|peer| peer.name.clone()).collect();
            servers.spawn(peer_server::serve(
                listener,
                tls.server,
                peers,
                handle.clone(),
                Arc::clone(&authorizer),
                stopped.clone(),
            ));
        }
        let router = rest::router(Rest {
            core: handle.clone(),
            data_plane: data_plane.handle.clone(),
            authorizer: Arc::clone(&authorizer),
            node: config.node.clone(),
            epoch,
            started_at: clock.now().to_string(),
            peers: config.peers.iter().map(|peer| (peer.name.clone(), peer.tag_address)).collect(),
            body_bytes_max: size(config.limits.body_bytes_max),
            request_timeout: Duration::from_secs(config.limits.request_timeout_s),
        });
        let greet = move |stream| std::future::ready(Ok((stream, router.clone())));
        servers.spawn(http::serve(api_listener, Protocol::Http1, greet, stopped));

        info!(node = %config.node, epoch = epoch.0, %api, "ready");
        Ok(Self {
            stop,
            servers,
            core: handle,
            authorizer,
            data_plane: data_plane.handle,
            core_thread,
            data_plane_thread: data_plane.thread,
            failed,
            api,
        })
    }

    /// Where the API listens.
    #[must_use]
    pub const fn api(&self) -> SocketAddr {
        self.api
    }

    /// From now on the keys, revocations and demands of this `[authorization]` count; its limits need a start.
    ///
    /// # Errors
    /// [`NodeError::Authorization`]; then nothing has changed.
    pub fn reload(&self, authorization: config::Authorization) -> Result<(), NodeError> {
        self.authorizer.reload(authorization).map_err(NodeError::Authorization)
    }

    /// Waits until the node cannot go on, and says why.
    pub async fn failed(&mut self) -> NodeError {
        let reason = (&mut self.failed).await;
        NodeError::Failed(
            reason.unwrap_or_else(|_| "the deciding thread has ended; its last log lines say why".to_owned()),
        )
    }

    /// Takes no more requests, ends those under way, and leaves the data plane in force.
    pub async fn stop(mut self) {
        // No server is left to be told: then none is running.
        let _ = self.stop.send(true);
        while self.servers.join_next().await.is_some() {}
        self.core.stop();
        join(self.core_thread).await;
        // Only now: the core takes what the data plane still has to report.
        self.data_plane.stop();
        join(self.data_plane_thread).await;
    }
}

async fn join(thread: JoinHandle<()>) {
    // A thread that panicked has said so itself.
    let _ = tokio::task::spawn_blocking(move || thread.join()).await;
}

fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, NodeError> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        // Tokio's own 128 is too short for a burst of clients: with SYN cookies, what does not fit is reset.
        socket.listen(BACKLOG)
    };
    bind().map_err(|error| NodeError::Listen { key, address, error })
}

/// The latest time that an earlier life wrote.
fn latest(store: &Store, sessions: &[SessionRecord]) -> Result<Nanos, StoreError> {
    let since = sessions.iter().map(|session| session.since).max();
    Ok(store.latest_usage_at()?.into_iter().chain(since).max().unwrap_or_default())
}

fn size(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn broker_config(config: &Config, epoch: Epoch) -> Result<broker::Config, NodeError> {
    let mut label_secret = [0; 16];
    tls::provider().secure_random.fill(&mut label_secret).map_err(|_| NodeError::Random)?;
    let link = broker::Link { rate_out_bps: config.link.rate_out_bps, rate_in_bps: config.link.rate_in_bps };
    let limits = &config.limits;
    Ok(broker::Config {
        node: config.node.clone(),
        epoch,
        capacity: broker::Capacity { rate_bps: config.capacity.rate_bps, media_slots: config.media_slots.clone() },
        links: BTreeMap::from([(config.link.name.clone(), link)]),
        peers: config
            .peers
            .iter()
            .map(|peer| {
                let way = broker::Peer { link: config.link.name.clone(), tag_family: Family::of(peer.tag_address) };
                (peer.name.clone(), way)
            })
            .collect(),
        classes: config.all_classes(),
        class_percent_max: config.link.class_percent_max.clone(),
        limits: broker::Limits {
            aggregates_max: size(limits.aggregates_max),
            sessions_max: size(limits.sessions_max),
            sessions_ended_max: size(limits.sessions_ended_max),
            flows_per_session_max: size(limits.flows_per_session_max),
            flows_max: limits.flows_max,
            questions_max: size(limits.questions_max),
            watches_max: size(limits.watches_max),
            tokens_max: size(config.authorization.tokens_max),
        },
        timers: broker::Timers::default(),
        second_side: broker::SecondSide {
            flow_rate_bps_max: config.second_side.flow_rate_bps_max,
            flow_excess_rate_bps_max: config.second_side.flow_excess_rate_bps_max,
            lower_to_fit: config.second_side.lower_to_fit,
            quality_floors: QualityFloors {
                delay_ms_min: config.second_side.delay_ms_min,
                jitter_ms_min: config.second_side.jitter_ms_min,
                loss_ppm_min: config.second_side.loss_ppm_min,
            },
        },
        label_secret,
    })
}

fn log_restored(aggregates: &[AggregateRecord], sessions: &[SessionRecord], adopted: &BTreeSet<PolicyId>) {
    let running: Vec<_> = sessions
        .iter()
        .filter(|session| !matches!(session.state, SessionState::Ended | SessionState::Waiting))
        .collect();
    let flows = running.iter().flat_map(|session| &session.flows).map(|flow| flow.policy);
    let kept: BTreeSet<PolicyId> = aggregates.iter().map(|aggregate| aggregate.policy).chain(flows).collect();
    let missing = kept.difference(adopted).count();
    let strange = adopted.difference(&kept).count();
    let what = format!("{} aggregates, {} sessions", aggregates.len(), running.len());
    if missing == 0 && strange == 0 {
        info!("restored {what}, all in force");
    } else {
        info!("restored {what}; {missing} policies to install again, {strange} to take out");
    }
}

fn spawn_core(parts: Parts) -> Result<(JoinHandle<()>, oneshot::Receiver<String>), NodeError> {
    let (fail, failed) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("core".to_owned())
        .spawn(move || {
            if let Err(error) = Core::new(parts).run() {
                let _ = fail.send(error.to_string());
            }
        })
        .map_err(NodeError::Thread)?;
    Ok((thread, failed))
}
