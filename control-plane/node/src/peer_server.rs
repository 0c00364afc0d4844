//! Answering peers: HTTPS, with the certificate saying who asks.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use turnpike_broker::message::{PeerAnswer, PeerRequest};
use turnpike_broker::name::NodeName;

use crate::authorizer::Authorizer;
use crate::body;
use crate::core;
use crate::http::{self, Protocol};
use crate::peer_client::{Exchange, PATH};
use crate::problem::ProblemReply;
use crate::rest::unanswered;
use crate::tls;

/// A session with the most flows that any node allows fits.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Serves peers until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    peers: Arc<[NodeName]>,
    core: core::Handle,
    authorizer: Arc<Authorizer>,
    stop: watch::Receiver<bool>,
) {
    let acceptor = TlsAcceptor::from(tls);
    let router = Router::new()
        .route(PATH, post(exchange))
        .fallback(async || {
            ProblemReply::new(
                "not_found",
                format!("peers of this version use {PATH}; run the same version on both nodes"),
            )
        })
        .with_state((core, authorizer));
    let greet = move |stream: TcpStream| greet(stream, acceptor.clone(), Arc::clone(&peers), router.clone());
    http::serve(listener, Protocol::Http2, greet, stop).await;
}

async fn greet(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    peers: Arc<[NodeName]>,
    router: Router,
) -> Result<(TlsStream<TcpStream>, Router), String> {
    let address = stream.peer_addr().map_or_else(|_| "a peer that is gone".to_owned(), |address| address.to_string());
    let stream = acceptor.accept(stream).await.map_err(|error| format!("{address}: {error}"))?;
    let (_, connection) = stream.get_ref();
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    let certificate = certificate.ok_or_else(|| format!("{address}: it has no certificate"))?;
    let peer = tls::peer_of(certificate, peers.iter()).map_err(|reason| format!("{address}: {reason}"))?;
    let router = router.layer(Extension(peer.clone()));
    Ok((stream, router))
}

async fn exchange(
    State((core, authorizer)): State<(core::Handle, Arc<Authorizer>)>,
    Extension(peer): Extension<NodeName>,
    request: Request,
) -> Result<Response, ProblemReply> {
    let Exchange { epoch, request, token } = body::read(request, BODY_BYTES_MAX).await?;
    if let PeerRequest::ChangeSessionEnd { session, .. } | PeerRequest::HoldRates { session, .. } = &request {
        let session = session.clone();
        let found = core.peer_read(move |view| view.broker.session(&session)?.authorization.clone()).await;
        if let Err(refusal) = authorizer.may_change(found.map_err(unanswered)?.as_deref()) {
            return Ok(Json(PeerAnswer::Refused { refusal: *refusal }).into_response());
        }
    }
    let credential = authorizer.of_peer_request(token, &request);
    let answer = core.peer_request(peer, epoch, request, credential).await.map_err(unanswered)?;
    Ok(Json(answer).into_response())
}
