//! The three chat protocols.

use std::sync::Arc;

use hyper::Response;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use v4_chat::intake::{self, Accepted, Path};
use v4_chat::{Event, Opening, Protocol, Rendered, Request, Responder};
use v4_runtime::Adapter;
use v4_runtime::generation::SamplerOptions;

use super::extras::Extras;
use super::ignored::Ignored;
use super::marks::Marks;
use super::respond::{self, Progress, Writer, respond};
use crate::constraint::{ConstraintError, Part};
use crate::http::{ApiError, Body, Kind, Sse, Style};
use crate::jobs::{Client, Finish, Job, Output};
use crate::picker::{Picking, Reasoning};
use crate::service::Service;
use crate::stamp::{new_id, now};

/// Ends the reasoning.
const THINK_END: &str = "</think>";
/// In each tag of a call.
const TOOL_MARK: &str = "｜DSML｜";

/// A request that can be run.
struct Prepared {
    request: Request,
    rendered: Rendered,
    picking: Picking,
    adapters: Vec<Arc<Adapter>>,
    max_tokens: usize,
    ignored: Ignored,
}

/// Answers a request.
pub(crate) async fn generate(
    service: &Arc<Service>,
    protocol: Protocol,
    client: Client,
    body: Bytes,
    turn: OwnedSemaphorePermit,
) -> Result<Response<Body>, ApiError> {
    let prepared = prepare_aside(service, protocol, body).await?;
    drop(turn);
    let (outputs, receiver) = mpsc::unbounded_channel();
    let ids = prepared.rendered.ids;
    let prompt = ids.len();
    let marks = Marks::of(service.tokenizer(), &ids);
    let opening = Opening::of(service.tokenizer(), &ids);
    let job = Job {
        checkpoints: marks.turns,
        root: marks.root,
        max_tokens: prepared.max_tokens,
        picking: prepared.picking,
        adapters: prepared.adapters,
        ..Job::new(ids, client, outputs)
    };
    service.jobs().submit(job)?;
    let streams = prepared.request.stream();
    let writer = ChatWriter {
        service: Arc::clone(service),
        opening,
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
    let answered = respond(receiver, writer, streams, prompt, keep_alive).await;
    Ok(prepared.ignored.tell(answered?))
}

/// Reads a request's prompt while the service is idle, so that those that begin
/// like it find it read. Returns its tokens, and how many were known.
pub(crate) async fn read_beforehand(
    service: &Arc<Service>,
    protocol: Protocol,
    body: Bytes,
) -> Result<(usize, usize), ApiError> {
    let prepared = prepare_aside(service, protocol, body).await?;
    let (outputs, mut receiver) = mpsc::unbounded_channel();
    let ids = prepared.rendered.ids;
    let tokens = ids.len();
    let marks = Marks::of(service.tokenizer(), &ids);
    service.jobs().submit(Job {
        checkpoints: marks.turns,
        root: marks.root,
        adapters: prepared.adapters,
        background: true,
        keep_as: Some(service.warm_name(&ids)),
        ..Job::new(ids, Client::Anyone, outputs)
    })?;
    let mut known = 0;
    loop {
        match receiver.recv().await.ok_or_else(respond::gone)? {
            Output::Started { cached } => known = cached,
            Output::Reading { .. } | Output::Token { .. } => {}
            Output::Done(_) => return Ok((tokens, known)),
            Output::Failed(failure) => return Err(failure.into()),
        }
    }
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
    ignored: Ignored,
}

fn read(service: &Service, protocol: Protocol, body: &[u8]) -> Result<Read, ApiError> {
    let body = Request::read(body)?;
    let tokenizer = service.tokenizer();
    let adapters = service.models().of_request(body["model"].as_str())?;
    let extras = match &body {
        Value::Object(fields) => Extras::of(fields, tokenizer.vocab_size())?,
        _ => Extras::default(),
    };
    let path = Path::from(protocol);
    let known = path.known();
    let ignored = Ignored::of(&body, |name| known.contains(&name));
    let accepted = intake::accept(protocol, service.version(), body)?;
    for note in &accepted.notes {
        service.note(path.name(), note);
    }
    let rendered = accepted.request.render(tokenizer)?;
    let known = |place| service.turns().at(place);
    let rendered = rendered.replay(tokenizer, known);
    if rendered.images > 0 {
        return Err(ApiError::new(
            Kind::Invalid,
            "This service accepts only text, but the request contains images.",
        ));
    }
    Ok(Read {
        accepted,
        rendered,
        extras,
        adapters,
        ignored,
    })
}

fn prepare(service: &Service, protocol: Protocol, body: &[u8]) -> Result<Prepared, ApiError> {
    let Read {
        accepted,
        rendered,
        extras,
        adapters,
        ignored,
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
        ignored,
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
    ApiError::invalid(param, format!("{param} cannot be enforced: {error}."))
}

/// Writes responses with the protocol's own responder.
struct ChatWriter {
    service: Arc<Service>,
    /// The model's turn, where the prompt has opened one.
    opening: Option<Opening>,
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

    /// Remembers the turn, so that it comes back as it was written.
    fn remember(&self, finish: v4_chat::Finish) {
        let tokenizer = self.service.tokenizer();
        let opening = self.opening.as_ref();
        let turn = opening.and_then(|turn| turn.written(tokenizer, &self.written, finish));
        if let Some(turn) = turn
            && let Err(error) = self.service.turns().put(turn)
        {
            self.service
                .log(&format!("an answer was not saved: {error}"));
        }
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
                let finish = match finish {
                    Finish::Stop => v4_chat::Finish::Stop,
                    Finish::Length | Finish::Loop => v4_chat::Finish::Length,
                };
                let events = self.responder()?.finish(finish)?;
                self.remember(finish);
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
