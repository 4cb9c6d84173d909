//! Bodies: read within limits, written whole or as events.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::time::Duration;

use futures_core::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::Request;
use hyper::body::{Body as _, Bytes, Frame, Incoming};
use serde_json::Value;
use v4_chat::Event;

use super::encoding;
use super::error::{ApiError, Kind};

/// A response's body.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A body that is there.
pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed_unsync()
}

/// A body that comes in pieces.
pub(crate) fn stream(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    let frames = async_stream::stream! {
        let mut pieces = std::pin::pin!(pieces);
        while let Some(piece) = std::future::poll_fn(|cx| pieces.as_mut().poll_next(cx)).await {
            yield Ok::<_, Infallible>(Frame::data(piece));
        }
    };
    StreamBody::new(frames).boxed_unsync()
}

/// The refusal of a body that is longer than `most` bytes.
pub(super) fn too_large(most: usize) -> ApiError {
    ApiError::new(
        Kind::TooLarge,
        format!("The request exceeds this service's limit of {most} bytes."),
    )
}

/// Reads a request's body of at most `most` bytes, which has so long to come. What is
/// compressed is unfolded, to so many bytes at most.
pub(crate) async fn read(
    request: Request<Incoming>,
    most: usize,
    time: Duration,
) -> Result<Bytes, ApiError> {
    let (head, body) = request.into_parts();
    let codings = encoding::codings(&head.headers)?;
    let body = read_plain(body, most, time).await?;
    if codings.is_empty() {
        return Ok(body);
    }
    tokio::task::spawn_blocking(move || encoding::decode(&codings, body, most))
        .await
        .map_err(|_| ApiError::new(Kind::Internal, "The request could not be read."))?
}

async fn read_plain(body: Incoming, most: usize, time: Duration) -> Result<Bytes, ApiError> {
    // Not read at all if it says that it is too long.
    if body.size_hint().lower() > most as u64 {
        return Err(too_large(most));
    }
    let read = tokio::time::timeout(time, Limited::new(body, most).collect()).await;
    match read {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large(most)),
        Ok(Err(error)) => Err(ApiError::new(
            Kind::Invalid,
            format!("The request body could not be read: {error}"),
        )),
        Err(_) => Err(ApiError::new(
            Kind::Timeout,
            format!(
                "The request body did not arrive within {} seconds.",
                time.as_secs()
            ),
        )),
    }
}

/// Writes server-sent events.
#[derive(Debug, Default)]
pub(crate) struct Sse(String);

impl Sse {
    pub fn event(mut self, name: Option<&str>, data: &Value) -> Self {
        // Writing to a string cannot fail, and JSON has no line breaks.
        if let Some(name) = name {
            let _ = writeln!(self.0, "event: {name}");
        }
        let _ = write!(self.0, "data: {data}\n\n");
        self
    }

    pub fn events(self, events: &[Event]) -> Self {
        let all = events.iter();
        all.fold(self, |sse, event| sse.event(event.name, &event.data))
    }

    pub fn data(mut self, data: &str) -> Self {
        let _ = write!(self.0, "data: {data}\n\n");
        self
    }

    /// What clients pass over.
    pub fn comment(mut self, text: &str) -> Self {
        let _ = write!(self.0, ": {text}\n\n");
        self
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn bytes(self) -> Bytes {
        Bytes::from(self.0)
    }
}
