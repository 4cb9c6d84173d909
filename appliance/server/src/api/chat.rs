//! The three chat protocols.

use std::sync::Arc;

use hyper::Response;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use v4_chat::intake::{self, Accepted, Path};
use v4_chat::{Event, Protocol, Rendered, Request, Responder, Written};
use v4_runtime::Adapter;
use v4_runtime::sampling::SamplerOptions;
use v4_runtime::tokenizer::Tokenizer;

use super::extras::Extras;
use super::generation::{self, Progress, Writer};
use crate::constraint::{ConstraintError, Part};
use crate::http::{ApiError, Body, Kind, Sse, Style};
use crate::jobs::{Client, Finish, Job, Output};
use crate::picker::{Picking, Reasoning};
use crate::service::{Service, new_id, now};

/// Ends the reasoning.
const THINK_END: &str = "</think>";
/// In each tag of a call.
const TOOL_MARK: &str = "｜DSML｜";
/// Begin turns: prompts of the same conversation part there.
const TURNS: [&str; 2] = ["<｜User｜>", "<｜Assistant｜>"];

/// A request that can be run.
struct Prepared {
    request: Request,
    rendered: Rendered,
    picking: Picking,
    adapters: Vec<Arc<Adapter>>,
    max_tokens: usize,
}

/// Answers a request.
pub(crate) async fn answer(
    service: &Arc<Service>,
    protocol: Protocol,
    client: Client,
    body: Bytes,
    turn: OwnedSemaphorePermit,
) -> Result<Response<Body>, ApiError> {
    let prepared = prepare_aside(service, protocol, body).await?;
    drop(turn);
    let tokenizer = service.tokenizer();
    let (outputs, receiver) = mpsc::unbounded_channel();
    let ids = prepared.rendered.ids;
    let prompt = ids.len();
    let opened = checkpoints(tokenizer, &ids).pop().unwrap_or(0);
    let beginning = ids[opened..].to_vec();
    let job = Job {
        checkpoints: checkpoints(tokenizer, &ids),
        max_tokens: prepared.max_tokens,
        picking: prepared.picking,
        adapters: prepared.adapters,
        ..Job::new(ids, client, outputs)
    };
    service.jobs().submit(job)?;
    let streams = prepared.request.stream();
    let writer = ChatWriter {
        service: Arc::clone(service),
        beginning,
        written: Vec::new(),
        id: new_id(match protocol {
            Protocol::Chat => "chatcmpl-",
            Protocol::Messages => "msg_",
            Protocol::Responses => "resp_",
        }),
        request: prepared.request,
        created: now(),
        prompt,
        responder: None,
        opened: Vec::new(),
        events: 0,
    };
    let keep_alive = service.config().keep_alive;
    generation::answer(receiver, writer, streams, prompt, keep_alive).await
}

/// The prompt that a request gives, for those who want to see it.
pub(crate) async fn prompt(
    service: &Arc<Service>,
    protocol: Protocol,
    body: Bytes,
) -> Result<Value, ApiError> {
    let prepared = prepare_aside(service, protocol, body).await?;
    let sampler = &prepared.picking.sampler;
    Ok(json!({
        "prompt": prepared.rendered.prompt,
        "special_ranges": prepared
            .rendered
            .special_ranges
            .iter()
            .map(|r| [r.start, r.end])
            .collect::<Vec<_>>(),
        "ids": prepared.rendered.ids,
        "max_tokens": prepared.max_tokens,
        "temperature": sampler.temperature,
        "top_p": sampler.top_p,
    }))
}

/// On a thread where it holds up nobody.
async fn prepare_aside(
    service: &Arc<Service>,
    protocol: Protocol,
    body: Bytes,
) -> Result<Prepared, ApiError> {
    let service = Arc::clone(service);
    tokio::task::spawn_blocking(move || prepare(&service, protocol, &body))
        .await
        .map_err(|_| unreadable())?
}

/// The number of tokens of a request's prompt, whatever the context is.
pub(crate) async fn count(
    service: &Arc<Service>,
    protocol: Protocol,
    body: Bytes,
) -> Result<Value, ApiError> {
    let service = Arc::clone(service);
    let counted = tokio::task::spawn_blocking(move || read(&service, protocol, &body));
    let read = counted.await.map_err(|_| unreadable())??;
    Ok(json!({"input_tokens": read.rendered.ids.len()}))
}

fn unreadable() -> ApiError {
    ApiError::new(Kind::Internal, "The request could not be read.")
}

/// A request that was read, and its prompt.
struct Read {
    accepted: Accepted,
    rendered: Rendered,
    extras: Extras,
    adapters: Vec<Arc<Adapter>>,
}

fn read(service: &Service, protocol: Protocol, body: &[u8]) -> Result<Read, ApiError> {
    let body = Request::read(body)?;
    let tokenizer = service.tokenizer();
    let adapters = service.models().of_request(body["model"].as_str())?;
    let extras = match &body {
        Value::Object(fields) => Extras::of(fields, tokenizer.vocab_size())?,
        _ => Extras::default(),
    };
    let accepted = intake::accept(protocol, service.version(), body)?;
    for note in &accepted.notes {
        service.note(Path::from(protocol).name(), note);
    }
    let rendered = accepted.request.render(tokenizer)?;
    let known = |call: &str| service.turns().get(call);
    let rendered = accepted.request.replay(tokenizer, rendered, known);
    if rendered.images > 0 {
        return Err(ApiError::new(
            Kind::Invalid,
            "This service takes text alone: the request has images.",
        ));
    }
    Ok(Read {
        accepted,
        rendered,
        extras,
        adapters,
    })
}

fn prepare(service: &Service, protocol: Protocol, body: &[u8]) -> Result<Prepared, ApiError> {
    let Read {
        accepted,
        rendered,
        extras,
        adapters,
    } = read(service, protocol, body)?;
    let context = service.config().context;
    if rendered.ids.len() >= context {
        return Err(ApiError::too_long(rendered.ids.len(), context));
    }
    // Larger prompts do not fit any context.
    let short = |n| u32::try_from(n).unwrap_or(u32::MAX);
    let max_tokens = accepted
        .request
        .max_tokens(short(rendered.ids.len()), short(context));
    let picking = picking(service, &accepted, extras)?;
    picking
        .sampler
        .validate()
        .map_err(|e| ApiError::new(Kind::Invalid, e.to_string()))?;
    Ok(Prepared {
        request: accepted.request,
        rendered,
        picking,
        adapters,
        max_tokens: max_tokens as usize,
    })
}

fn picking(service: &Service, accepted: &Accepted, extras: Extras) -> Result<Picking, ApiError> {
    let request = &accepted.request;
    let inference = request.inference();
    let sampler = SamplerOptions {
        temperature: inference.temperature.unwrap_or(1.0),
        top_p: inference.top_p.unwrap_or(1.0),
        ..SamplerOptions::default()
    };
    let mut picking = extras.picking(sampler, service.config().stop_loops);
    picking.logprobs = inference
        .logprobs
        .then(|| usize::from(inference.top_logprobs.unwrap_or(0)));
    picking.constraint = service
        .grammars()
        .of(&accepted.wanted)
        .map_err(|error| refused(request.protocol(), error))?;
    let mark = |mark| {
        service
            .tokenizer()
            .mark(mark)
            .ok_or_else(|| ApiError::new(Kind::Internal, format!("The tokenizer has no {mark}.")))
    };
    if accepted.no_calls {
        picking.banned.push(mark(TOOL_MARK)?);
    }
    if request.starts_in_reasoning() && (picking.constraint.is_some() || accepted.budget.is_some())
    {
        picking.reasoning = Some(Reasoning {
            end: mark(THINK_END)?,
            budget: accepted.budget,
        });
    }
    Ok(picking)
}

/// What a grammar cannot hold, under the name of the field that asks for it.
fn refused(protocol: Protocol, error: ConstraintError) -> ApiError {
    let refusal = match &error {
        ConstraintError::Grammar(refusal) => refusal,
        ConstraintError::Tokenizer(_) | ConstraintError::Run(_) => {
            return ApiError::new(Kind::Internal, error.to_string());
        }
    };
    let param = match (&refusal.part, protocol) {
        (Part::Tool(_) | Part::Calls, _) => "tools",
        (Part::Begun, Protocol::Responses) => "input",
        (Part::Begun, _) => "messages",
        (Part::Format, Protocol::Chat) => "response_format",
        (Part::Format, Protocol::Responses) => "text",
        (Part::Format, Protocol::Messages) => "output_config",
    };
    ApiError::invalid(param, format!("{param} cannot be followed: {error}."))
}

/// Where the last turns of a prompt begin.
fn checkpoints(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<usize> {
    let last = |mark: &&str| {
        let mark = tokenizer.mark(mark)?;
        ids.iter().rposition(|&id| id == mark)
    };
    let mut all: Vec<usize> = TURNS.iter().filter_map(last).filter(|&i| i > 0).collect();
    all.sort_unstable();
    all
}

/// The ids of the calls in a response of any protocol.
fn calls(response: &Value) -> Vec<String> {
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let chat = list(&response["choices"][0]["message"]["tool_calls"]);
    let messages = list(&response["content"]);
    let messages = messages.into_iter().filter(|c| c["type"] == "tool_use");
    let responses = list(&response["output"]);
    let ids = chat
        .into_iter()
        .chain(messages)
        .map(|call| call["id"].clone());
    let ids = ids.chain(responses.into_iter().map(|item| item["call_id"].clone()));
    ids.filter_map(|id| id.as_str().map(str::to_owned))
        .collect()
}

/// Writes responses with the protocol's own responder.
struct ChatWriter {
    service: Arc<Service>,
    /// The prompt from where the model's turn begins.
    beginning: Vec<u32>,
    /// What the model wrote.
    written: Vec<u32>,
    id: String,
    request: Request,
    created: u64,
    prompt: usize,
    responder: Option<Responder>,
    /// The events that begin a stream of Responses, once they were sent.
    opened: Vec<Event>,
    events: usize,
}

impl ChatWriter {
    fn responder(&mut self) -> Result<&mut Responder, ApiError> {
        self.responder.as_mut().ok_or_else(|| {
            ApiError::new(
                Kind::Internal,
                "Output came before the request was started.",
            )
        })
    }

    /// Events that say nothing new, which clients count all the same.
    fn nothing_new(&mut self) -> Result<Vec<Event>, ApiError> {
        let event = |name, data| Event { name, data };
        Ok(match self.request.protocol() {
            Protocol::Messages => vec![event(Some("ping"), json!({"type": "ping"}))],
            Protocol::Chat => vec![event(
                None,
                json!({
                    "id": self.id,
                    "object": "chat.completion.chunk",
                    "created": self.created,
                    "model": self.request.model(),
                    "choices": [{"index": 0, "delta": {}, "logprobs": null, "finish_reason": null}],
                }),
            )],
            Protocol::Responses if self.opened.is_empty() => {
                // Its turn has not come: it begins all the same, and nothing else yet.
                let (tokenizer, prompt) = (self.service.tokenizer(), self.prompt);
                let mut responder =
                    self.request
                        .responder(tokenizer, &self.id, self.created, prompt, 0);
                self.opened = responder.start()?;
                self.opened.clone()
            }
            Protocol::Responses => self.opened.last().cloned().into_iter().collect(),
        })
    }

    /// Numbers events where the protocol has numbers: in the order in which they are sent.
    fn number(&mut self, events: &mut [Event]) {
        for event in events {
            if let Some(number) = event.data.get_mut("sequence_number") {
                *number = self.events.into();
            }
            self.events += 1;
        }
    }

    /// Remembers a turn that calls tools, so that it comes back as it was written.
    fn remember(&self) -> Result<(), ApiError> {
        let calls = calls(&Writer::whole(self)?);
        if calls.is_empty() {
            return Ok(());
        }
        let tokenizer = self.service.tokenizer();
        if let Some(turn) = Written::new(tokenizer, &self.beginning, &self.written) {
            self.service.turns().put(calls, turn);
        }
        Ok(())
    }

    fn write(&mut self, output: Output) -> Result<Vec<Event>, ApiError> {
        if let Output::Token { id, .. } = &output {
            self.written.push(*id);
        }
        Ok(match output {
            Output::Started { cached } => {
                let responder = self.request.responder(
                    self.service.tokenizer(),
                    &self.id,
                    self.created,
                    self.prompt,
                    cached,
                );
                self.responder.insert(responder).start()?
            }
            Output::Reading { .. } => Vec::new(),
            Output::Token {
                id,
                logprob: Some(logprob),
            } => self.responder()?.push_with(id, logprob)?,
            Output::Token { id, logprob: None } => self.responder()?.push(&[id])?,
            Output::Done(finish) => {
                let events = self.responder()?.finish(match finish {
                    Finish::Stop => v4_chat::Finish::Stop,
                    Finish::Length | Finish::Loop => v4_chat::Finish::Length,
                })?;
                if finish == Finish::Stop {
                    self.remember()?;
                }
                events
            }
            Output::Failed(failure) => return Err(failure.into()),
        })
    }
}

impl Writer for ChatWriter {
    fn take(&mut self, output: Output) -> Result<Sse, ApiError> {
        let starts = matches!(output, Output::Started { .. });
        let mut events = self.write(output)?;
        if starts && self.request.protocol() == Protocol::Responses {
            match self.opened.is_empty() {
                true => self.opened.clone_from(&events),
                // They were sent while it waited for its turn.
                false => events.clear(),
            }
        }
        self.number(&mut events);
        Ok(Sse::default().events(&events))
    }

    fn alive(&mut self, progress: &Progress) -> Result<Sse, ApiError> {
        let mut events = self.nothing_new()?;
        self.number(&mut events);
        if let Some(last) = events.last_mut() {
            last.data["prompt_progress"] = progress.value();
        }
        Ok(Sse::default().events(&events))
    }

    fn ended(&self) -> bool {
        self.responder.as_ref().is_some_and(Responder::ended)
    }

    fn done(&self) -> Option<String> {
        self.responder
            .as_ref()
            .and_then(Responder::done)
            .map(str::to_owned)
    }

    fn style(&self) -> Style {
        match self.request.protocol() {
            Protocol::Messages => Style::Anthropic,
            Protocol::Chat | Protocol::Responses => Style::OpenAi,
        }
    }

    fn error(&self, error: &ApiError) -> Sse {
        match self.request.protocol() {
            Protocol::Chat => Sse::default().event(None, &error.body(Style::OpenAi)),
            Protocol::Messages => {
                Sse::default().event(Some("error"), &error.body(Style::Anthropic))
            }
            Protocol::Responses => {
                let mut body = error.body(Style::OpenAi)["error"].take();
                body["type"] = "error".into();
                body["sequence_number"] = self.events.into();
                Sse::default().event(Some("error"), &body)
            }
        }
    }

    fn whole(&self) -> Result<Value, ApiError> {
        let responder = self.responder.as_ref();
        let response = responder.map(Responder::response);
        response.unwrap_or(Ok(Value::Null)).map_err(ApiError::from)
    }
}
