//! Accepting connections, for clients and for peers: bounded in number, in time to speak, and in time to end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

/// Connections of one listener at once; further ones wait in the system's queue.
const CONNECTIONS_MAX: usize = 1_024;
/// How long a connection may take until it has said who it is and what it wants.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests under way may go on once the node stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// Requests of one peer at once.
pub(crate) const STREAMS_MAX: u32 = 256;

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Protocol {
    /// HTTP/1.1, for clients.
    Http1,
    /// HTTP/2, for peers.
    Http2,
}

/// Serves `listener` until `stop` says true or its other end is gone. `greet` makes of each connection a stream and what
/// is served on it, or says why it is refused.
pub(crate) async fn serve<G, F, S>(listener: TcpListener, protocol: Protocol, greet: G, mut stop: watch::Receiver<bool>)
where
    G: Fn(TcpStream) -> F,
    F: Future<Output = Result<(S, Router), String>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            accepted = accept(&listener, &free) => accepted,
            () = stopped(&mut stop) => break,
        };
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: the next try would fail at once, too.
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let greeting = greet(stream);
        let stop = stop.clone();
        connections.spawn(async move {
            let _permit = permit;
            match tokio::time::timeout(HELLO_TIMEOUT, greeting).await {
                Ok(Ok((stream, router))) => speak(stream, router, protocol, stop).await,
                Ok(Err(reason)) => warn!(%reason, "connection refused"),
                Err(_) => debug!("connection without a hello"),
            }
        });
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_TIMEOUT, ended).await.is_err() {
        warn!("requests that were still under way are cut off");
    }
}

/// Until the node stops, or nobody is left who could say so.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn accept(
    listener: &TcpListener,
    free: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(free).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, permit))
}

async fn speak<S>(stream: S, router: Router, protocol: Protocol, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (stream, service) = (TokioIo::new(stream), TowerToHyperService::new(router));
    macro_rules! drive {
        ($connection:expr) => {{
            let mut connection = std::pin::pin!($connection);
            let result = tokio::select! {
                result = connection.as_mut() => result,
                () = stopped(&mut stop) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = result {
                debug!(%error, "connection ended");
            }
        }};
    }
    match protocol {
        Protocol::Http1 => drive!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HELLO_TIMEOUT)
                .serve_connection(stream, service)
        ),
        Protocol::Http2 => drive!(
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS_MAX)
                .keep_alive_interval(Some(Duration::from_secs(20)))
                .keep_alive_timeout(Duration::from_secs(10))
                .serve_connection(stream, service)
        ),
    }
}
