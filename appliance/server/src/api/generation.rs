//! From a job's outputs to a response, whole or streamed.

use std::time::Duration;

use hyper::Response;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, timeout};

use crate::http::{ApiError, Body, Kind, Sse, json_response, stream};
use crate::jobs::Output;

/// Turns one job's outputs into its protocol's response.
pub(super) trait Writer: Send + 'static {
    /// Takes an output; returns what a streaming client gets for it.
    fn take(&mut self, output: Output) -> Result<Sse, ApiError>;

    /// Whether the response is complete.
    fn ended(&self) -> bool;

    /// What ends a stream after the last event.
    fn done(&self) -> Option<String>;

    /// What a streaming client gets for an error after the beginning.
    fn error(&self, error: &ApiError) -> Sse;

    /// The whole response.
    fn whole(&self) -> Result<Value, ApiError>;
}

pub(super) fn gone() -> ApiError {
    ApiError::new(Kind::Internal, "The thread that runs the model has ended.")
}

/// Waits for the end and answers with the whole response.
pub(super) async fn whole(
    mut outputs: UnboundedReceiver<Output>,
    mut writer: impl Writer,
) -> Result<Response<Body>, ApiError> {
    while !writer.ended() {
        let output = outputs.recv().await.ok_or_else(gone)?;
        writer.take(output)?;
    }
    // The job is cancelled here if a stop string was met.
    drop(outputs);
    Ok(json_response(&writer.whole()?))
}

/// Answers with events as they come. While there are none, a comment shows from time to
/// time that something is being done.
pub(super) async fn streamed(
    mut outputs: UnboundedReceiver<Output>,
    mut writer: impl Writer,
    prompt: usize,
    keep_alive: Duration,
) -> Result<Response<Body>, ApiError> {
    // What fails at once gets a status of its own.
    let first = match timeout(keep_alive, outputs.recv()).await {
        Ok(output) => Some(writer.take(output.ok_or_else(gone)?)?),
        Err(_) => None,
    };
    let pieces = async_stream::stream! {
        if let Some(first) = first && !first.is_empty() {
            yield first.bytes();
        }
        let mut said = Instant::now();
        let mut read = 0;
        while !writer.ended() {
            let wait = (said + keep_alive).saturating_duration_since(Instant::now());
            let taken = match timeout(wait, outputs.recv()).await {
                Ok(Some(output)) => {
                    if let Output::Reading { done } = output {
                        read = done;
                    }
                    writer.take(output)
                }
                Ok(None) => Err(gone()),
                Err(_) => Ok(Sse::default().comment(&match read {
                    0 => "waiting".to_owned(),
                    read => format!("{read} of {prompt} tokens of the prompt read"),
                })),
            };
            match taken {
                Ok(events) if events.is_empty() => {}
                Ok(events) => {
                    said = Instant::now();
                    yield events.bytes();
                }
                Err(error) => {
                    yield writer.error(&error).bytes();
                    return;
                }
            }
        }
        drop(outputs);
        if let Some(done) = writer.done() {
            yield Sse::default().data(&done).bytes();
        }
    };
    let mut response = Response::new(stream(pieces));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}
