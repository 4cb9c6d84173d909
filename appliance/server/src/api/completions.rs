//! Completions: raw text goes on, or a gap is filled.

use std::sync::Arc;

use hyper::Response;
use hyper::body::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use v4_chat::{Logprob, Request};
use v4_runtime::Adapter;
use v4_runtime::sampling::SamplerOptions;
use v4_runtime::tokenizer::{Marks, Tokenizer};

use super::extras::{Extras, present};
use super::generation::{self, Writer};
use crate::http::{ApiError, Body, Kind, Sse, Style};
use crate::jobs::{Client, Finish, Job, Output};
use crate::picker::Picking;
use crate::service::{Service, new_id, now};

mod text;

use text::Text;

/// The marks of fill-in-the-middle prompts: begin, text before, hole, text after, end.
const FIM: [&str; 3] = ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"];
/// Tokens where the request names no number, as the protocol has it.
const DEFAULT_TOKENS: usize = 16;
/// The last tokens of a text may be others when it goes on.
const TAIL: usize = 16;
/// Stop strings of a request, as the chat protocols have it.
const MOST_STOPS: usize = 16;
/// Best tokens whose probabilities can be had, as the chat protocols have it.
const MOST_LOGPROBS: usize = 20;

#[derive(Debug, Deserialize)]
struct CompletionRequest {
    #[serde(default)]
    model: String,
    prompt: Option<Value>,
    suffix: Option<String>,
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    n: Option<u64>,
    best_of: Option<u64>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    logprobs: Option<usize>,
    echo: Option<bool>,
    stop: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

struct Prepared {
    request: CompletionRequest,
    ids: Vec<u32>,
    stops: Vec<String>,
    picking: Picking,
    adapters: Vec<Arc<Adapter>>,
    max_tokens: usize,
}

/// Answers a request.
pub(crate) async fn answer(
    service: &Arc<Service>,
    client: Client,
    body: Bytes,
    turn: OwnedSemaphorePermit,
) -> Result<Response<Body>, ApiError> {
    let prepared = {
        let service = Arc::clone(service);
        tokio::task::spawn_blocking(move || prepare(&service, &body))
            .await
            .map_err(|_| ApiError::new(Kind::Internal, "The request could not be read."))??
    };
    drop(turn);
    let (outputs, receiver) = mpsc::unbounded_channel();
    let prompt = prepared.ids.len();
    let job = Job {
        checkpoints: prompt.checked_sub(TAIL).into_iter().collect(),
        max_tokens: prepared.max_tokens,
        picking: prepared.picking,
        adapters: prepared.adapters,
        ..Job::new(prepared.ids, client, outputs)
    };
    service.jobs().submit(job)?;
    let request = prepared.request;
    let writer = CompletionWriter {
        tokenizer: service.tokenizer().clone(),
        id: new_id("cmpl-"),
        created: now(),
        text: Text::new(service.tokenizer(), &prepared.stops),
        streams: request.stream == Some(true),
        usage_event: request
            .stream_options
            .as_ref()
            .is_some_and(|o| o.include_usage == Some(true)),
        logprobs: request.logprobs.map(|_| Logprobs::default()),
        model: request.model,
        prompt,
        cached: 0,
        tokens: 0,
        whole: String::new(),
        finish: None,
    };
    if request.stream == Some(true) {
        let keep_alive = service.config().keep_alive;
        generation::streamed(receiver, writer, prompt, keep_alive).await
    } else {
        generation::whole(receiver, writer).await
    }
}

fn prepare(service: &Service, body: &[u8]) -> Result<Prepared, ApiError> {
    let value = Request::read(body)?;
    let Value::Object(fields) = &value else {
        return Err(ApiError::new(
            Kind::Invalid,
            "invalid request body: expected an object",
        ));
    };
    let extras = Extras::of(fields, service.tokenizer().vocab_size())?;
    check(fields)?;
    let request: CompletionRequest = serde_json::from_value(value)
        .map_err(|e| ApiError::new(Kind::Invalid, format!("invalid request body: {e}")))?;
    for (name, n) in [("n", request.n), ("best_of", request.best_of)] {
        if n.is_some_and(|n| n != 1) {
            return Err(ApiError::invalid(
                name,
                format!("Invalid {name}: only 1 is supported."),
            ));
        }
    }
    if request.echo == Some(true) {
        return Err(ApiError::invalid(
            "echo",
            "echo is not supported here; the client has the prompt.",
        ));
    }
    let adapters = service.models().of_request(Some(&request.model))?;
    let ids = encode(service.tokenizer(), &request)?;
    let context = service.config().context;
    let asked = request.max_tokens.unwrap_or(DEFAULT_TOKENS);
    if asked == 0 {
        return Err(ApiError::invalid(
            "max_tokens",
            "Invalid max_tokens: it must be at least 1.",
        ));
    }
    let room = context.saturating_sub(ids.len());
    if room == 0 {
        return Err(ApiError::too_long(ids.len(), context));
    }
    let asked = asked.min(room);
    let mut picking = extras.picking(SamplerOptions {
        temperature: request.temperature.unwrap_or(1.0),
        top_p: request.top_p.unwrap_or(1.0),
        ..SamplerOptions::default()
    });
    picking
        .sampler
        .validate()
        .map_err(|e| ApiError::new(Kind::Invalid, e.to_string()))?;
    if request.logprobs.is_some_and(|n| n > MOST_LOGPROBS) {
        return Err(ApiError::invalid(
            "logprobs",
            format!("Invalid logprobs: at most {MOST_LOGPROBS} are supported."),
        ));
    }
    picking.logprobs = request.logprobs;
    Ok(Prepared {
        stops: stops(request.stop.as_ref())?,
        max_tokens: asked,
        request,
        ids,
        picking,
        adapters,
    })
}

/// Sampling fields in their ranges, by name.
fn check(fields: &Map<String, Value>) -> Result<(), ApiError> {
    let ranges = [("temperature", 0.0, 2.0), ("top_p", f64::MIN_POSITIVE, 1.0)];
    for (name, least, most) in ranges {
        let number = present(fields, name).map(Value::as_f64);
        if number.is_some_and(|n| n.is_none_or(|n| !(least..=most).contains(&n))) {
            return Err(ApiError::invalid(
                name,
                format!("Invalid {name}: it must be a number up to {most}."),
            ));
        }
    }
    Ok(())
}

fn stops(stop: Option<&Value>) -> Result<Vec<String>, ApiError> {
    let wrong = || {
        ApiError::invalid(
            "stop",
            format!("Invalid stop: it must be a string or up to {MOST_STOPS} of them, none empty."),
        )
    };
    let all = match stop {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(all)) => all
            .iter()
            .map(|stop| stop.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or_else(wrong)?,
        Some(_) => return Err(wrong()),
    };
    if all.len() > MOST_STOPS || all.iter().any(String::is_empty) {
        return Err(wrong());
    }
    Ok(all)
}

fn encode(tokenizer: &Tokenizer, request: &CompletionRequest) -> Result<Vec<u32>, ApiError> {
    let bos = tokenizer
        .bos()
        .ok_or_else(|| ApiError::new(Kind::Internal, "The tokenizer cannot begin a text."))?;
    let plain = |text: &str| {
        tokenizer
            .encode(text, Marks::Plain)
            .map_err(|e| ApiError::new(Kind::Invalid, e.to_string()))
    };
    let prompt = request.prompt.as_ref();
    let prompt = match prompt {
        // A list of one prompt is one prompt.
        Some(Value::Array(all)) if all.len() == 1 && !all[0].is_u64() => Some(&all[0]),
        other => other,
    };
    let prompt = match prompt {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => plain(text)?,
        Some(Value::Array(ids)) => ids_of(tokenizer, ids)?,
        Some(_) => return Err(wrong_prompt()),
    };
    let Some(suffix) = &request.suffix else {
        // Ids that begin a text themselves are taken as they are.
        return Ok(match prompt.first() {
            Some(&first) if first == bos => prompt,
            _ => [vec![bos], prompt].concat(),
        });
    };
    let mark = |mark| {
        tokenizer.mark(mark).ok_or_else(|| {
            ApiError::invalid(
                "suffix",
                format!("This model cannot fill a gap: its tokenizer has no {mark}."),
            )
        })
    };
    let [begin, hole, end] = FIM;
    let mut ids = vec![bos, mark(begin)?];
    ids.extend(prompt);
    ids.push(mark(hole)?);
    ids.extend(plain(suffix)?);
    ids.push(mark(end)?);
    Ok(ids)
}

fn wrong_prompt() -> ApiError {
    ApiError::invalid(
        "prompt",
        "Invalid prompt: it must be one string, or one list of token ids.",
    )
}

fn ids_of(tokenizer: &Tokenizer, ids: &[Value]) -> Result<Vec<u32>, ApiError> {
    let known = |id: &u64| *id < tokenizer.vocab_size() as u64;
    let all = ids.iter().map(|id| {
        let id = id.as_u64().filter(known)?;
        u32::try_from(id).ok()
    });
    all.collect::<Option<_>>().ok_or_else(wrong_prompt)
}

/// Probabilities in the protocol's own form.
#[derive(Debug, Default)]
struct Logprobs {
    tokens: Vec<Value>,
    own: Vec<f32>,
    top: Vec<Value>,
    offsets: Vec<usize>,
    /// Characters of the text so far.
    offset: usize,
}

impl Logprobs {
    fn push(&mut self, tokenizer: &Tokenizer, id: u32, logprob: &Logprob) {
        let text = |id| String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap_or_default());
        let top: Map<String, Value> = logprob
            .top
            .iter()
            .map(|&(id, p)| (text(id).into_owned(), json!(p)))
            .collect();
        let token = text(id);
        self.offsets.push(self.offset);
        self.offset += token.chars().count();
        self.tokens.push(token.into());
        self.own.push(logprob.own);
        self.top.push(Value::Object(top));
    }

    fn value(&self) -> Value {
        json!({
            "tokens": self.tokens,
            "token_logprobs": self.own,
            "top_logprobs": self.top,
            "text_offset": self.offsets,
        })
    }

    /// What came since the last call.
    fn take(&mut self) -> Value {
        let value = self.value();
        let offset = self.offset;
        *self = Self {
            offset,
            ..Self::default()
        };
        value
    }
}

struct CompletionWriter {
    tokenizer: Tokenizer,
    id: String,
    created: u64,
    model: String,
    text: Text,
    streams: bool,
    usage_event: bool,
    logprobs: Option<Logprobs>,
    prompt: usize,
    cached: usize,
    tokens: usize,
    whole: String,
    finish: Option<&'static str>,
}

impl CompletionWriter {
    fn object(&self, text: &str, logprobs: Value, usage: Option<Value>) -> Value {
        let mut object = json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": [{
                "index": 0,
                "text": text,
                "logprobs": logprobs,
                "finish_reason": self.finish,
            }],
        });
        if let Some(usage) = usage {
            object["usage"] = usage;
        }
        object
    }

    fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.tokens,
            "total_tokens": self.prompt + self.tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        })
    }

    /// An event for what is new, if the client streams.
    fn event(&mut self, text: &str) -> Sse {
        if !self.streams {
            self.whole.push_str(text);
            return Sse::default();
        }
        if text.is_empty() && self.finish.is_none() {
            return Sse::default();
        }
        let logprobs = self.logprobs.as_mut().map_or(Value::Null, Logprobs::take);
        let sse = Sse::default().event(None, &self.object(text, logprobs, None));
        if self.finish.is_none() || !self.usage_event {
            return sse;
        }
        let mut usage = self.object("", Value::Null, Some(self.usage()));
        usage["choices"] = json!([]);
        sse.event(None, &usage)
    }
}

impl Writer for CompletionWriter {
    fn take(&mut self, output: Output) -> Result<Sse, ApiError> {
        match output {
            Output::Started { cached } => {
                self.cached = cached;
                Ok(Sse::default())
            }
            Output::Reading { .. } => Ok(Sse::default()),
            Output::Token { id, logprob } => {
                self.tokens += 1;
                if let (Some(all), Some(logprob)) = (&mut self.logprobs, &logprob) {
                    all.push(&self.tokenizer, id, logprob);
                }
                let text = self.text.push(id)?;
                if self.text.stopped() {
                    self.finish = Some("stop");
                }
                Ok(self.event(&text))
            }
            Output::Done(finish) => {
                let rest = self.text.finish();
                self.finish = Some(match finish {
                    Finish::Stop => "stop",
                    Finish::Length => "length",
                });
                Ok(self.event(&rest))
            }
            Output::Failed(failure) => Err(failure.into()),
        }
    }

    fn ended(&self) -> bool {
        self.finish.is_some()
    }

    fn done(&self) -> Option<String> {
        Some("[DONE]".to_owned())
    }

    fn error(&self, error: &ApiError) -> Sse {
        Sse::default().event(None, &error.body(Style::OpenAi))
    }

    fn whole(&self) -> Result<Value, ApiError> {
        let logprobs = self.logprobs.as_ref().map_or(Value::Null, Logprobs::value);
        Ok(self.object(&self.whole, logprobs, Some(self.usage())))
    }
}
