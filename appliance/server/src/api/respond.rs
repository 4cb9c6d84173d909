//! Converts a job's outputs to a response, complete or streamed.

use std::time::Duration;

use hyper::Response;
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, timeout};

use crate::http::{ApiError, Body, Kind, Sse, Style, json_body, json_response, stream};
use crate::jobs::Output;

/// Tells proxies not to hold events back.
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Turns one job's outputs into its protocol's response.
pub(super) trait Writer: Send + 'static {
    /// Takes an output; returns what a streaming client gets for it.
    fn take(&mut self, output: Output) -> Result<Sse, ApiError>;

    /// What a streaming client gets when nothing has come for a while: an event that says
    /// nothing new. Clients give up on a stream without events, and comments are none.
    fn alive(&mut self, progress: &Progress) -> Result<Sse, ApiError>;

    /// Whether the response is complete.
    fn ended(&self) -> bool;

    /// What ends a stream after the last event.
    fn done(&self) -> Option<String>;

    /// What a streaming client gets for an error after the beginning.
    fn error(&self, error: &ApiError) -> Sse;

    /// Whose form errors have.
    fn style(&self) -> Style;

    /// The whole response.
    fn whole(&self) -> Result<Value, ApiError>;
}

/// How far a prompt has been read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    /// Tokens of the prompt.
    total: usize,
    /// Tokens of it that were known from before.
    cached: usize,
    /// Tokens of it that have been read or were known.
    read: usize,
    /// When its turn came.
    started: Option<Instant>,
    /// When the last part was read.
    latest: Instant,
    /// Whether the answer has begun.
    answering: bool,
}

impl Progress {
    pub fn new(total: usize) -> Self {
        Self {
            total,
            cached: 0,
            read: 0,
            started: None,
            latest: Instant::now(),
            answering: false,
        }
    }

    /// Takes note of an output.
    pub fn see(&mut self, output: &Output) {
        let now = Instant::now();
        match *output {
            Output::Started { cached } => {
                (self.cached, self.read) = (cached, cached);
                self.started = Some(now);
                self.latest = now;
            }
            Output::Reading { done } => {
                self.read = done;
                self.latest = now;
            }
            Output::Token { .. } if !self.answering => {
                (self.read, self.answering) = (self.total, true);
                self.latest = now;
            }
            Output::Token { .. } | Output::Done(_) | Output::Failed(_) => {}
        }
    }

    /// Time that it has taken to read so far.
    fn spent(&self) -> Option<Duration> {
        self.started.map(|started| self.latest - started)
    }

    /// Time until all is read, at the speed so far.
    fn left(&self) -> Option<Duration> {
        let read = self.read.checked_sub(self.cached).filter(|&n| n > 0)?;
        let each = self.spent()?.as_secs_f64() / read as f64;
        let left = (self.total - self.read.min(self.total)) as f64;
        Duration::try_from_secs_f64(each * left).ok()
    }

    /// For an event's field `prompt_progress`, in llama-server's words, which clients that
    /// do not know it pass over; `left_ms` is added. Null when the prompt has been read.
    pub fn value(&self) -> Value {
        let millis = |time: Option<Duration>| time.map(|time| time.as_millis() as u64);
        match self.answering {
            true => Value::Null,
            false => json!({
                "total": self.total,
                "cache": self.cached,
                "processed": self.read,
                "time_ms": millis(self.spent()).unwrap_or(0),
                "left_ms": millis(self.left()),
            }),
        }
    }

    /// For people who look at the stream.
    fn line(&self) -> String {
        let Self { total, read, .. } = *self;
        match (self.started, self.left()) {
            (None, _) => "waiting".to_owned(),
            _ if self.answering => "writing".to_owned(),
            (Some(_), None) => format!("{read} of {total} prompt tokens read"),
            (Some(_), Some(left)) => format!(
                "{read} of {total} prompt tokens read, about {} seconds left",
                left.as_secs()
            ),
        }
    }
}

pub(super) fn gone() -> ApiError {
    ApiError::new(Kind::Internal, "The thread that runs the model has ended.")
}

/// Answers with events as they come, or with the whole response at the end.
pub(super) async fn respond(
    outputs: UnboundedReceiver<Output>,
    writer: impl Writer,
    streams: bool,
    prompt: usize,
    keep_alive: Duration,
) -> Result<Response<Body>, ApiError> {
    match streams {
        true => streamed(outputs, writer, prompt, keep_alive).await,
        false => whole(outputs, writer, keep_alive).await,
    }
}

/// Waits for the end and answers with the whole response. When it takes longer than
/// `keep_alive`, the head is sent, and then so often a blank line, which is no part of the
/// JSON that follows: clients and what is in between give up on a silent connection.
async fn whole(
    mut outputs: UnboundedReceiver<Output>,
    mut writer: impl Writer,
    keep_alive: Duration,
) -> Result<Response<Body>, ApiError> {
    // What ends in time gets a status of its own.
    if let Ok(value) = timeout(keep_alive, collect(&mut outputs, &mut writer)).await {
        return Ok(json_response(&value?));
    }
    let pieces = async_stream::stream! {
        loop {
            yield Bytes::from_static(b"\n");
            match timeout(keep_alive, collect(&mut outputs, &mut writer)).await {
                Ok(Ok(value)) => {
                    yield value.to_string().into();
                    return;
                }
                Ok(Err(error)) => {
                    yield error.body(writer.style()).to_string().into();
                    return;
                }
                Err(_) => {}
            }
        }
    };
    Ok(json_body(stream(pieces)))
}

/// The whole response. Can be given up and asked for again.
async fn collect(
    outputs: &mut UnboundedReceiver<Output>,
    writer: &mut impl Writer,
) -> Result<Value, ApiError> {
    while !writer.ended() {
        let output = outputs.recv().await.ok_or_else(gone)?;
        writer.take(output)?;
    }
    // The job is cancelled here if a stop string was met.
    outputs.close();
    writer.whole()
}

/// Answers with events as they come. While there are none, one that says nothing new shows
/// from time to time that something is being done.
async fn streamed(
    mut outputs: UnboundedReceiver<Output>,
    mut writer: impl Writer,
    prompt: usize,
    keep_alive: Duration,
) -> Result<Response<Body>, ApiError> {
    let mut progress = Progress::new(prompt);
    // What fails at once gets a status of its own.
    let first = match timeout(keep_alive, outputs.recv()).await {
        Ok(output) => {
            let output = output.ok_or_else(gone)?;
            progress.see(&output);
            writer.take(output)?
        }
        Err(_) => writer.alive(&progress)?.comment(&progress.line()),
    };
    let pieces = async_stream::stream! {
        let mut said = Instant::now();
        if !first.is_empty() {
            yield first.bytes();
        }
        while !writer.ended() {
            let wait = (said + keep_alive).saturating_duration_since(Instant::now());
            let taken = match timeout(wait, outputs.recv()).await {
                Ok(Some(output)) => {
                    progress.see(&output);
                    writer.take(output)
                }
                Ok(None) => Err(gone()),
                Err(_) => Ok(Sse::default()),
            };
            // Outputs may come that say nothing: a call's text is held back until it is whole.
            let taken = match taken {
                Ok(events) if events.is_empty() && !writer.ended() => {
                    if said.elapsed() < keep_alive {
                        continue;
                    }
                    let alive = writer.alive(&progress);
                    alive.map(|events| events.comment(&progress.line()))
                }
                other => other,
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
    headers.insert(BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::sync::mpsc;

    use super::*;
    use crate::jobs::{Failure, Finish};

    /// Counts what it is given.
    #[derive(Default)]
    struct Counting {
        tokens: u32,
        ended: bool,
    }

    impl Writer for Counting {
        fn take(&mut self, output: Output) -> Result<Sse, ApiError> {
            match output {
                Output::Token { id, .. } => {
                    self.tokens += 1;
                    let said = Sse::default().data(&id.to_string());
                    Ok(if id == 0 { Sse::default() } else { said })
                }
                Output::Done(_) => {
                    self.ended = true;
                    Ok(Sse::default())
                }
                Output::Failed(failure) => Err(failure.into()),
                _ => Ok(Sse::default()),
            }
        }

        fn alive(&mut self, progress: &Progress) -> Result<Sse, ApiError> {
            Ok(Sse::default().data(&json!({"alive": progress.value()}).to_string()))
        }

        fn ended(&self) -> bool {
            self.ended
        }

        fn done(&self) -> Option<String> {
            None
        }

        fn error(&self, error: &ApiError) -> Sse {
            Sse::default().data(&error.message)
        }

        fn style(&self) -> Style {
            Style::Anthropic
        }

        fn whole(&self) -> Result<Value, ApiError> {
            Ok(json!({"tokens": self.tokens}))
        }
    }

    /// Short, for the tests' sake; what is waited for is several times as long.
    const KEEP_ALIVE: Duration = Duration::from_millis(100);

    /// Sends each output after that many times the interval.
    fn sending(outputs: Vec<(u32, Output)>) -> UnboundedReceiver<Output> {
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            for (times, output) in outputs {
                tokio::time::sleep(times * KEEP_ALIVE).await;
                if sender.send(output).is_err() {
                    return;
                }
            }
            std::future::pending::<()>().await;
        });
        receiver
    }

    async fn text(response: Response<Body>) -> String {
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        runtime.unwrap().block_on(work)
    }

    fn token(id: u32) -> Output {
        Output::Token { id, logprob: None }
    }

    #[test]
    fn whoever_waits_for_the_whole_gets_blanks_and_then_json() {
        block_on(async {
            let outputs = sending(vec![(0, token(1)), (4, Output::Done(Finish::Stop))]);
            let response = whole(outputs, Counting::default(), KEEP_ALIVE).await;
            let said = text(response.unwrap()).await;
            assert!(said.starts_with("\n\n") && said.ends_with("\n{\"tokens\":1}"));
            let outputs = sending(vec![(0, token(1)), (0, Output::Done(Finish::Stop))]);
            let response = whole(outputs, Counting::default(), 100 * KEEP_ALIVE).await;
            assert_eq!(text(response.unwrap()).await, "{\"tokens\":1}");
        });
    }

    #[test]
    fn an_error_has_a_status_in_time_and_the_protocols_form_later() {
        block_on(async {
            let failed = |times| sending(vec![(times, Output::Failed(Failure::Stopping))]);
            let early = whole(failed(0), Counting::default(), 100 * KEEP_ALIVE).await;
            assert_eq!(early.unwrap_err().kind, Kind::Stopping);
            let late = whole(failed(3), Counting::default(), KEEP_ALIVE).await;
            let said = text(late.unwrap()).await;
            let value: Value = serde_json::from_str(&said).unwrap();
            assert_eq!(value["type"], "error");
            assert_eq!(value["error"]["type"], "overloaded_error");
        });
    }

    #[test]
    fn a_stream_has_an_event_in_each_interval_whatever_comes() {
        block_on(async {
            let mut all = vec![
                // In the queue, and while the prompt is read,
                (4, Output::Started { cached: 40 }),
                (3, Output::Reading { done: 50 }),
                (3, token(1)),
            ];
            // and while what comes says nothing.
            all.extend((0..5).map(|_| (1, token(0))));
            all.push((0, Output::Done(Finish::Stop)));
            let response = streamed(sending(all), Counting::default(), 100, KEEP_ALIVE).await;
            let said = text(response.unwrap()).await;
            let events: Vec<&str> = said
                .lines()
                .filter_map(|line| line.strip_prefix("data: "))
                .collect();
            let written = events.iter().position(|event| *event == "1").unwrap();
            let (before, after) = events.split_at(written);
            let alive = |event: &&str| -> Option<Value> {
                let event: Value = serde_json::from_str(event).ok()?;
                event.get("alive").cloned()
            };
            let before: Vec<Value> = before.iter().map(|e| alive(e).unwrap()).collect();
            assert_eq!(before[0]["processed"], 0, "{said}");
            assert!(before.iter().filter(|p| p["processed"] == 0).count() >= 2);
            let reading: Vec<_> = before.iter().filter(|p| p["processed"] == 50).collect();
            let [first, ..] = reading[..] else {
                panic!("{said}");
            };
            assert_eq!(
                (&first["total"], &first["cache"]),
                (&json!(100), &json!(40))
            );
            // Ten tokens took a while: fifty more take five times as long.
            let (spent, left) = (first["time_ms"].as_u64(), first["left_ms"].as_u64());
            assert!(left.unwrap().abs_diff(5 * spent.unwrap()) <= 5, "{first}");
            assert!(said.contains(": 50 of 100 prompt tokens read, about"));
            let later: Vec<Value> = after.iter().filter_map(alive).collect();
            assert!(later.len() >= 2, "{said}");
            assert!(later.iter().all(Value::is_null), "it is read");
        });
    }
}
