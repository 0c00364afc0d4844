//! Reading a request's JSON body, with an error that names the field.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header;
use serde::de::DeserializeOwned;

use crate::problem::ProblemReply;

/// A client that trickles its body does not hold a slot for longer.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The body of `request`, at most `bytes_max` long.
pub(crate) async fn read<T: DeserializeOwned>(request: Request, bytes_max: usize) -> Result<T, ProblemReply> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|value| value.split(';').next()).map(str::trim);
    if !essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")) {
        let found = content_type.unwrap_or("none");
        let detail = format!("content-type is {found}: must be application/json");
        return Err(ProblemReply::new("unsupported_media_type", detail));
    }
    let bytes = collect(request.into_body(), bytes_max).await?;
    parse(&bytes)
}

async fn collect(body: Body, bytes_max: usize) -> Result<Vec<u8>, ProblemReply> {
    match tokio::time::timeout(READ_TIMEOUT, to_bytes(body, bytes_max)).await {
        Ok(Ok(bytes)) => Ok(bytes.into()),
        Ok(Err(error)) if is_length_error(&error) => {
            Err(ProblemReply::new("body_too_large", format!("the body may have at most {bytes_max} bytes")))
        }
        Ok(Err(error)) => Err(ProblemReply::new("malformed_body", format!("the body cannot be read: {error}"))),
        Err(_) => {
            let detail = format!("the body did not come within {} s", READ_TIMEOUT.as_secs());
            Err(ProblemReply::new("request_timeout", detail))
        }
    }
}

fn is_length_error(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>)
}

pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ProblemReply> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        problem_of(&path, error.inner())
    })?;
    deserializer.end().map_err(|error| problem_of(".", &error))?;
    Ok(value)
}

fn problem_of(path: &str, error: &serde_json::Error) -> ProblemReply {
    let detail = error.to_string();
    // serde has no kinds of errors, only words.
    let field = |prefix: &str| detail.strip_prefix(prefix).and_then(|rest| rest.split('`').next());
    let within = |name: &str| match path {
        "." | "?" => name.to_owned(),
        path if path == name || path.ends_with(&format!(".{name}")) => path.to_owned(),
        path => format!("{path}.{name}"),
    };
    if !error.is_data() {
        ProblemReply::new("malformed_body", format!("the body is not valid JSON: {detail}"))
    } else if let Some(name) = field("unknown field `") {
        ProblemReply::new("unknown_field", detail.as_str()).in_field(within(name))
    } else if let Some(name) = field("missing field `") {
        ProblemReply::new("missing_field", detail.as_str()).in_field(within(name))
    } else if let Some(name) = field("duplicate field `") {
        ProblemReply::new("malformed_body", detail.as_str()).in_field(within(name))
    } else if path == "." {
        ProblemReply::new("malformed_body", format!("the body must be a JSON object: {detail}"))
    } else {
        ProblemReply::invalid_value(path, format!("{path}: {detail}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Bytes;
    use axum::http::StatusCode;
    use axum::response::IntoResponse as _;
    use hyper::body::Frame;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    /// A client that has sent its headers and nothing more.
    struct Silent;

    impl hyper::body::Body for Silent {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let problem = collect(Body::new(Silent), 1_000).await.unwrap_err();
        assert_eq!(problem.into_response().status(), StatusCode::REQUEST_TIMEOUT);
    }
}
