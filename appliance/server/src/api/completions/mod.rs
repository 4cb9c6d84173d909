//! Continues raw text or fills a gap: OpenAI's Completions, and the requests of editors.

use std::sync::Arc;
use std::time::Duration;

use hyper::Response;
use hyper::body::Bytes;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use v4_chat::Request;
use v4_runtime::Adapter;
use v4_runtime::generation::SamplerOptions;

use super::extras::Extras;
use super::ignored::Ignored;
use super::respond::respond;
use crate::http::{ApiError, Body, Completing, Kind};
use crate::jobs::{Client, Job, Limits};
use crate::picker::Picking;
use crate::service::Service;
use crate::stamp::{new_id, now};

mod fields;
mod llama;
mod logprobs;
mod openai;
pub(super) mod prompt;
mod tables;
mod text;
mod writing;

use fields::{Fields, wrong};
use llama::{Form, LlamaWriter};
use logprobs::Logprobs;
use openai::{OpenAiWriter, Shape};
use text::Text;
use writing::Writing;

/// Tokens where the request names no number, as the protocol has it.
const DEFAULT_TOKENS: usize = 16;
/// The same for Tabby's requests, which name none.
const SEGMENT_TOKENS: usize = 64;
/// Their temperature, which some leave out.
const SEGMENT_TEMPERATURE: f64 = 0.1;
/// Stop strings of a request; editors send those of every model that they know.
const MOST_STOPS: usize = 64;
/// Best tokens whose probabilities can be had, as the chat protocols have it.
const MOST_LOGPROBS: usize = 20;
/// Where an editor's newest request takes the place of the one before.
const EDITOR: &str = "editor";

/// A request that can be run.
struct Prepared {
    model: String,
    ids: Vec<u32>,
    checkpoints: Vec<usize>,
    stops: Vec<String>,
    indent: usize,
    picking: Picking,
    adapters: Vec<Arc<Adapter>>,
    max_tokens: usize,
    limits: Limits,
    streams: bool,
    usage_event: bool,
    /// Whether it is an editor's, of which the newest counts.
    editor: bool,
    shape: FormOf,
    ignored: Ignored,
}

/// The form of the answer.
enum FormOf {
    OpenAi(Shape),
    Llama(Form),
}

/// Answers a request.
pub(crate) async fn complete(
    service: &Arc<Service>,
    completing: Completing,
    client: Client,
    body: Bytes,
    turn: OwnedSemaphorePermit,
) -> Result<Response<Body>, ApiError> {
    let prepared = {
        let service = Arc::clone(service);
        tokio::task::spawn_blocking(move || prepare(&service, completing, &body))
            .await
            .map_err(|_| ApiError::new(Kind::Internal, "The request could not be read."))??
    };
    drop(turn);
    let (outputs, receiver) = mpsc::unbounded_channel();
    let prompt = prepared.ids.len();
    let (sampler, logprobs) = (prepared.picking.sampler.clone(), prepared.picking.logprobs);
    let reads = prepared.max_tokens == 0;
    let job = Job {
        checkpoints: prepared.checkpoints,
        max_tokens: prepared.max_tokens,
        picking: prepared.picking,
        adapters: prepared.adapters,
        limits: prepared.limits,
        // What only reads is for later, and no answer is waited for.
        replaces: (prepared.editor && !reads).then(|| EDITOR.to_owned()),
        background: prepared.editor && reads,
        ..Job::new(prepared.ids, client, outputs)
    };
    service.jobs().submit(job)?;
    let tokenizer = service.tokenizer();
    let text = Text::new(tokenizer, &prepared.stops, prepared.indent);
    let writing = Writing::new(tokenizer, text, prepared.model, prompt);
    let streams = prepared.streams;
    let keep_alive = service.config().keep_alive;
    let answered = match prepared.shape {
        FormOf::OpenAi(shape) => {
            let writer = OpenAiWriter {
                writing,
                shape,
                id: new_id("cmpl-"),
                created: now(),
                streams,
                usage_event: prepared.usage_event,
                logprobs: logprobs.map(|_| Logprobs::default()),
                whole: String::new(),
            };
            respond(receiver, writer, streams, prompt, keep_alive).await
        }
        FormOf::Llama(form) => {
            let writer = LlamaWriter {
                writing,
                form,
                streams,
                sampler,
                max_tokens: prepared.max_tokens,
                stops: prepared.stops,
                whole: String::new(),
                ids: Vec::new(),
                probabilities: Vec::new(),
                told: 0,
            };
            respond(receiver, writer, streams, prompt, keep_alive).await
        }
    };
    Ok(prepared.ignored.tell(answered?))
}

fn prepare(service: &Service, completing: Completing, body: &[u8]) -> Result<Prepared, ApiError> {
    let body = Request::read(body)?;
    // llama-server answers on this path too; its clients say how much they want in its words.
    let completing = match completing {
        Completing::Unversioned if !body["n_predict"].is_null() => Completing::Llama,
        Completing::Unversioned => Completing::OpenAi,
        other => other,
    };
    let llama = matches!(completing, Completing::Llama | Completing::Infill);
    let ignored = fields::ignored(&body);
    let mut fields = Fields::new(body, &completing)?;
    let tabby = fields.get("prompt").is_none() && fields.get("segments").is_some();
    if tabby {
        fields.default("temperature", SEGMENT_TEMPERATURE);
    }
    if llama {
        llama::sampling(&mut fields)?;
    }
    let model = match (fields.text("model")?, &completing) {
        (Some(model), _) if !model.is_empty() => model.to_owned(),
        // A name that stands for a service of another kind.
        (_, Completing::Engine(model)) if service.models().find(model).is_ok() => model.clone(),
        _ => String::new(),
    };
    let adapters = service.models().of_request(Some(&model))?;
    let (ids, checkpoints) = prompt::read(service.tokenizer(), &fields, &completing)?;
    let context = service.config().context;
    let room = context.saturating_sub(ids.len());
    if room == 0 {
        return Err(ApiError::too_long(ids.len(), context));
    }
    let default = match completing {
        Completing::Llama | Completing::Infill | Completing::Fim => usize::MAX,
        _ if tabby => SEGMENT_TOKENS,
        _ => DEFAULT_TOKENS,
    };
    let max_tokens = fields.limit("max_tokens")?.unwrap_or(default).min(room);
    let editor = tabby || matches!(completing, Completing::Infill | Completing::Engine(_));
    let shape = match completing {
        Completing::Llama | Completing::Infill => FormOf::Llama(Form::new(&fields)?),
        Completing::Fim => FormOf::OpenAi(Shape::Message),
        _ => FormOf::OpenAi(Shape::Text),
    };
    let usage_event = match fields.get("stream_options") {
        None => None,
        Some(Value::Object(options)) => options.get("include_usage"),
        Some(_) => return Err(wrong("stream_options", "an object with include_usage")),
    };
    let usage_event = match usage_event {
        None | Some(Value::Null) => false,
        Some(Value::Bool(is)) => *is,
        Some(_) => return Err(wrong("stream_options", "an object with include_usage")),
    };
    Ok(Prepared {
        model: match model.is_empty() {
            true => service.config().model.clone(),
            false => model,
        },
        ids,
        checkpoints,
        stops: stops(fields.get("stop"))?,
        indent: fields.whole("n_indent")?.unwrap_or(0),
        picking: picking(service, &fields, &shape)?,
        adapters,
        max_tokens,
        limits: limits(&fields, max_tokens)?,
        streams: fields.flag("stream")? == Some(true),
        usage_event,
        editor,
        shape,
        ignored,
    })
}

fn picking(service: &Service, fields: &Fields, shape: &FormOf) -> Result<Picking, ApiError> {
    let extras = Extras::of(fields.map(), service.tokenizer().vocab_size())?;
    let sampler = SamplerOptions {
        temperature: fields.number("temperature", 0.0, 2.0)?.unwrap_or(1.0),
        top_p: fields
            .number("top_p", f64::MIN_POSITIVE, 1.0)?
            .unwrap_or(1.0),
        ..SamplerOptions::default()
    };
    let mut picking = extras.picking(sampler, service.config().stop_loops);
    if let Some(n) = fields.limit("repeat_last_n")? {
        picking.sampler.repeat_last_n = n;
    }
    picking
        .sampler
        .validate()
        .map_err(|e| ApiError::new(Kind::Invalid, e.to_string()))?;
    let (name, logprobs) = match shape {
        FormOf::OpenAi(_) => ("logprobs", fields.whole("logprobs")?),
        FormOf::Llama(form) => ("n_probs", form.probabilities),
    };
    if logprobs.is_some_and(|n| n > MOST_LOGPROBS) {
        return Err(ApiError::invalid(
            name,
            format!("Invalid {name}: at most {MOST_LOGPROBS} are supported."),
        ));
    }
    picking.logprobs = logprobs;
    Ok(picking)
}

/// How long it may take. A request that only reads has all the time that it needs: there is
/// nobody who waits for it, and what it reads is what it is for.
fn limits(fields: &Fields, max_tokens: usize) -> Result<Limits, ApiError> {
    let time = |name| {
        let millis = fields.whole(name)?.filter(|&ms| ms > 0);
        Ok::<_, ApiError>(millis.map(|ms| Duration::from_millis(ms as u64)))
    };
    let (reading, answering) = (time("t_max_prompt_ms")?, time("t_max_predict_ms")?);
    Ok(Limits {
        reading: reading.filter(|_| max_tokens > 0),
        answering,
    })
}

fn stops(stop: Option<&Value>) -> Result<Vec<String>, ApiError> {
    let what = format!("a string or a list of up to {MOST_STOPS} strings, none empty");
    let wrong = || wrong("stop", &what);
    let all = match stop {
        None => Vec::new(),
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
