//! Response bodies: complete, or in pieces as events.

use std::convert::Infallible;
use std::fmt::Write as _;

use futures_core::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::Response;
use hyper::body::{Bytes, Frame};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde_json::Value;
use v4_chat::Event;

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

/// A response in JSON.
pub(crate) fn json_response(value: &Value) -> Response<Body> {
    json_body(full(value.to_string()))
}

/// A response whose body is JSON in the end.
pub(crate) fn json_body(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
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
