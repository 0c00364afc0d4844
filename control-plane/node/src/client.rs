//! The command line's way to the API.

use axum::body::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::net::TcpStream;
use turnpike_api::{Page, Problem};

/// Longer than any node takes to answer.
const TIMEOUT: Duration = Duration::from_secs(620);
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Why a command has not done its work.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The node refused.
    Refused(Box<Problem>),
    /// Something else went wrong.
    Failed(String),
    /// The command line is wrong.
    Usage(String),
    /// The API did not answer.
    Unreachable(String),
}

impl Failure {
    /// The process's exit code, as the help text says.
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) | Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
        }
    }
}

/// The API of one node.
pub(crate) struct Client {
    authority: String,
}

impl Client {
    /// `url` is `http://host:port`.
    pub(crate) fn new(url: &str) -> Result<Self, Failure> {
        let wrong = || Failure::Usage(format!("--api {url}: must be http://host:port"));
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let plain = uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/") && uri.query().is_none();
        let authority = uri.authority().filter(|authority| plain && authority.port_u16().is_some());
        Ok(Self { authority: authority.ok_or_else(wrong)?.to_string() })
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.understand(self.call(Method::GET, path, None).await?)
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<(bool, T), Failure> {
        let body = serde_json::to_vec(body).map_err(|error| Failure::Failed(error.to_string()))?;
        let (status, bytes) = self.call(Method::POST, path, Some(body.into())).await?;
        Ok((status == StatusCode::CREATED, self.understand((status, bytes))?))
    }

    pub(crate) async fn patch<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| Failure::Failed(error.to_string()))?;
        self.understand(self.call(Method::PATCH, path, Some(body.into())).await?)
    }

    /// Nothing where the API answers without a body.
    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Failure> {
        let (status, bytes) = self.call(Method::DELETE, path, None).await?;
        if status == StatusCode::NO_CONTENT { Ok(None) } else { self.understand((status, bytes)).map(Some) }
    }

    /// All pages of a list.
    pub(crate) async fn list<T: DeserializeOwned>(&self, path: &str, query: &str) -> Result<Vec<T>, Failure> {
        let mut items = Vec::new();
        let mut after = String::new();
        loop {
            let page: Page<T> = self.get(&format!("{path}?limit=1000{query}{after}")).await?;
            items.extend(page.items);
            let Some(next) = page.next else { return Ok(items) };
            after = format!("&after={next}");
        }
    }

    async fn call(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<(StatusCode, Bytes), Failure> {
        tokio::time::timeout(TIMEOUT, self.exchange(method, path, body))
            .await
            .unwrap_or_else(|_| Err(self.unreachable("no answer")))
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<(StatusCode, Bytes), Failure> {
        let stream = TcpStream::connect(&self.authority).await.map_err(|error| self.unreachable(error))?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.unreachable(error))?;
        // It ends with the sender; its error comes out of the request, too.
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.authority);
        if body.is_some() {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let request = request.body(Full::new(body.unwrap_or_default()));
        let request = request.map_err(|error| Failure::Failed(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        let bytes = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok((status, bytes.map_err(|error| self.unreachable(error))?.to_bytes()))
    }

    fn understand<T: DeserializeOwned>(&self, (status, bytes): (StatusCode, Bytes)) -> Result<T, Failure> {
        let strange = |error: serde_json::Error| {
            Failure::Failed(format!("{} gave an answer that is not Turnpike's ({status}): {error}", self.authority))
        };
        if status.is_success() {
            serde_json::from_slice(&bytes).map_err(strange)
        } else {
            Err(Failure::Refused(Box::new(serde_json::from_slice(&bytes).map_err(strange)?)))
        }
    }

    fn unreachable(&self, error: impl std::fmt::Display) -> Failure {
        Failure::Unreachable(format!("cannot reach the API at http://{}: {error}", self.authority))
    }
}
