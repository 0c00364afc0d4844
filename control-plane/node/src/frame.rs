//! What every request to the API has: a host that is this one, a time-out, and its correlator back.

use std::net::IpAddr;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::problem::ProblemReply;

/// A client's own name for a request, which comes back with the answer.
const CORRELATOR: &str = "x-correlator";

/// The frame around every handler.
pub(crate) async fn frame(State(timeout): State<Duration>, request: Request, next: Next) -> Response {
    let correlator = request.headers().get(CORRELATOR).cloned();
    let mut response = match check_host(&request) {
        Ok(()) => within(timeout, next.run(request)).await,
        Err(problem) => problem.into_response(),
    };
    if let Some(correlator) = correlator {
        response.headers_mut().insert(CORRELATOR, correlator);
    }
    response
}

async fn within(timeout: Duration, answer: impl Future<Output = Response>) -> Response {
    tokio::time::timeout(timeout, answer).await.unwrap_or_else(|_| {
        let seconds = timeout.as_secs();
        let detail =
            format!("no answer within {seconds} s; repeating the same request is safe and tells what came of it");
        ProblemReply::new("answer_timeout", detail).into_response()
    })
}

/// The API has no authentication yet. A web page whose name was made to resolve to loopback must not use it through the
/// browser of somebody on this host; browsers always say which name they asked for.
fn check_host(request: &Request) -> Result<(), ProblemReply> {
    let Some(host) = request.headers().get(HOST) else {
        return Ok(());
    };
    let host = host.to_str().unwrap_or_default();
    if is_loopback(host) {
        return Ok(());
    }
    let detail = format!("host is {host:?}: must be localhost or a loopback address");
    Err(ProblemReply::new("host_not_allowed", detail))
}

fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_host_is_meant() {
        for host in ["localhost", "LOCALHOST:7880", "127.0.0.1:7880", "127.1.2.3", "[::1]:7880", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["", "evil.example", "localhost.evil.example", "10.0.0.1:7880", "127.0.0.1.evil.example", "a b"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_come_is_a_problem() {
        let response = within(Duration::from_secs(30), std::future::pending()).await;
        assert_eq!(response.status(), axum::http::StatusCode::GATEWAY_TIMEOUT);
    }
}
