//! Converts requests, as clients send them, for the authors' reader.
//!
//! The reader ([`Request::from_value`]) takes what the protocols' documentation has, and
//! gives the published prompt. Clients send more: other spellings, histories with gaps,
//! schemas with all of JSON Schema, fields of other servers. Here a request is brought
//! into the reader's form; what it says beyond that is handed back as [`Wanted`], for the
//! grammar, and put into the prompt where the format has a place for it.
//!
//! What the reader takes keeps its published prompt. Nothing is dropped in silence: what
//! would change the answer and is not there is refused by name, and what is left out of a
//! history is in [`Accepted::notes`].

mod amend;
mod billing;
mod calls;
mod chat;
mod content;
mod echo;
pub mod fields;
mod format;
mod messages;
mod notes;
mod refusal;
mod responses;
mod schema;
mod thinking;
mod tools;
mod wanted;

use serde_json::{Map, Value};

use crate::json;
pub use crate::json::whole;
use crate::{ChatError, ModelVersion, Protocol, Request};
use echo::Echo;
pub use fields::Path;
use notes::Notes;
pub use refusal::Refusal;
pub use wanted::{Calls, Format, Wanted, WantedTool};

/// Why a request is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum NotAccepted {
    /// A field is at fault.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The authors' reader says so.
    #[error(transparent)]
    Reader(#[from] ChatError),
}

/// A request that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// For the prompt and the response.
    pub request: Request,
    /// What the answer must be.
    pub wanted: Wanted,
    /// The most tokens of reasoning.
    pub budget: Option<usize>,
    /// Calls are not to come, though the prompt shows tools.
    pub no_calls: bool,
    /// What was left out or filled in, for a log: a line each.
    pub notes: Vec<String>,
}

/// Reads a request.
///
/// # Errors
/// [`NotAccepted`].
pub fn accept(
    protocol: Protocol,
    version: ModelVersion,
    body: Value,
) -> Result<Accepted, NotAccepted> {
    let Value::Object(mut body) = body else {
        let error = "invalid request body: it must be an object";
        return Err(Refusal::new("body", error).into());
    };
    Path::from(protocol).check(&body)?;
    let mut notes = Notes::default();
    numbers(protocol, &mut body)?;
    names(protocol, &mut body)?;
    edits(&mut body)?;
    let thinking = thinking::settle(protocol, &mut body)?;
    match protocol {
        Protocol::Chat => chat::mend(&mut body, &mut notes)?,
        Protocol::Messages => messages::mend(&mut body, &mut notes)?,
        Protocol::Responses => responses::mend(&mut body, &mut notes)?,
    }
    let begun = begun(protocol, &mut body)?;
    let echo = (protocol == Protocol::Responses).then(|| Echo::of(&body));
    let format = format::take(protocol, &mut body)?;
    let tools = tools::take(protocol, version, &mut body, &mut notes)?;
    let choice = tools::choice(protocol, &mut body, &tools.names())?;
    let forced = choice.calls == Calls::Must;
    // The reader refuses a forced call of a model that thinks. A request that does not ask
    // for thinking gets the call; Messages' own `any` has a published prompt, which thinks.
    let any = protocol == Protocol::Messages && !choice.named;
    if forced && thinking.asked.is_none() && !any {
        thinking::turn_off(protocol, &mut body);
    }
    let mut request =
        Request::from_value(protocol, version, Value::Object(body)).map_err(ChatError::from)?;
    let mut wanted = Wanted {
        format: format.wanted,
        parallel: choice.parallel,
        ..Wanted::default()
    };
    let no_calls = request.put_tools(&tools, &choice, any, begun, &mut wanted)?;
    if let Some(echo) = echo {
        request.echo(echo, choice.parallel);
    }
    if let Some(shown) = format.shown {
        request.show_format(shown);
    }
    if begun {
        wanted.begun = request.go_on();
    }
    Ok(Accepted {
        request,
        wanted,
        budget: thinking.budget,
        no_calls,
        notes: notes.lines(),
    })
}

impl From<Protocol> for Path {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Chat => Self::Chat,
            Protocol::Messages => Self::Messages,
            Protocol::Responses => Self::Responses,
        }
    }
}

/// Whole numbers in either spelling, and -1 for "no limit" and "any".
fn numbers(protocol: Protocol, body: &mut Map<String, Value>) -> Result<(), Refusal> {
    const LIMITS: [&str; 3] = ["max_tokens", "max_completion_tokens", "max_output_tokens"];
    for name in LIMITS.into_iter().chain(["n", "top_logprobs", "seed"]) {
        let Some(value) = json::present(body, name) else {
            continue;
        };
        let n = json::whole(value).ok_or_else(|| {
            Refusal::new(name, format!("Invalid {name}: it must be a whole number."))
        })?;
        if n < 0 && (name == "seed" || (LIMITS.contains(&name) && n == -1)) {
            body.shift_remove(name);
            continue;
        }
        if n < 0 {
            return Err(Refusal::new(
                name,
                format!("Invalid {name}: it must not be negative."),
            ));
        }
        // What is left of the context bounds it further.
        let most = if LIMITS.contains(&name) {
            READER_LIMIT
        } else {
            i64::MAX
        };
        body.insert(name.into(), n.min(most).into());
    }
    for name in [
        "temperature",
        "top_p",
        "presence_penalty",
        "frequency_penalty",
    ] {
        if json::present(body, name).is_some_and(|value| !value.is_number()) {
            return Err(Refusal::new(
                name,
                format!("Invalid {name}: it must be a number."),
            ));
        }
    }
    for name in ["stream", "logprobs"] {
        if json::present(body, name).is_some_and(|value| !value.is_boolean()) {
            return Err(Refusal::new(
                name,
                format!("Invalid {name}: it must be true or false."),
            ));
        }
    }
    if protocol == Protocol::Responses && wants_logprobs(body) {
        body.entry("top_logprobs").or_insert_with(|| 0.into());
    }
    Ok(())
}

/// The most that the authors' reader takes for a limit of tokens.
const READER_LIMIT: i64 = 393_216;

/// Responses asks for probabilities by naming them among what to include.
fn wants_logprobs(body: &Map<String, Value>) -> bool {
    let include = body.get("include").and_then(Value::as_array);
    include.is_some_and(|all| all.iter().any(|i| i == "message.output_text.logprobs"))
}

/// What a client wants taken out of its history. The format leaves earlier reasoning out
/// by its own rule, so `clear_thinking` asks for nothing more; other edits would change
/// what the model sees.
fn edits(body: &mut Map<String, Value>) -> Result<(), Refusal> {
    const NAME: &str = "context_management";
    let edits = body.shift_remove(NAME).unwrap_or_default();
    let edits = edits.get("edits").and_then(Value::as_array);
    for edit in edits.into_iter().flatten() {
        let kind = edit["type"].as_str().unwrap_or_default();
        if !kind.starts_with("clear_thinking") {
            return Err(Refusal::new(
                NAME,
                format!("{NAME}: edits of type {kind:?} are not supported; send only what fits."),
            ));
        }
    }
    Ok(())
}

/// Fields under newer names, and those that are empty.
fn names(protocol: Protocol, body: &mut Map<String, Value>) -> Result<(), Refusal> {
    match json::present(body, "model") {
        None => drop(body.insert("model".into(), "".into())),
        Some(Value::String(_)) => {}
        Some(_) => return Err(Refusal::new("model", "Invalid model: it must be a name.")),
    }
    match protocol {
        Protocol::Chat => {
            let newer = body.shift_remove("max_completion_tokens");
            if json::present(body, "max_tokens").is_none()
                && let Some(newer) = newer
            {
                body.insert("max_tokens".into(), newer);
            }
            // Answered whole, there is nothing to set.
            if body.get("stream") != Some(&Value::Bool(true)) {
                body.shift_remove("stream_options");
            }
            if json::present(body, "top_logprobs").and_then(Value::as_i64) == Some(0)
                && body.get("logprobs") != Some(&Value::Bool(true))
            {
                body.shift_remove("top_logprobs");
            }
            stops("stop", body);
        }
        Protocol::Messages => {
            // Who asks says nothing to the model, in whatever form it comes.
            body.shift_remove("metadata");
            stops("stop_sequences", body);
        }
        Protocol::Responses => {
            match body.get("text") {
                None | Some(Value::Object(_)) => {}
                Some(Value::Null) => drop(body.shift_remove("text")),
                Some(_) => return Err(Refusal::new("text", "Invalid text: it must be an object.")),
            }
            body.shift_remove("user");
        }
    }
    Ok(())
}

/// Stop sequences that are empty stop nothing.
fn stops(name: &str, body: &mut Map<String, Value>) {
    match body.get_mut(name) {
        Some(Value::Array(all)) => all.retain(|stop| stop != "" && !stop.is_null()),
        Some(Value::String(text)) if name == "stop_sequences" => {
            let one = std::mem::take(text);
            body.insert(name.into(), vec![one].into());
        }
        Some(Value::String(text)) if text.is_empty() => {
            body.shift_remove(name);
        }
        _ => {}
    }
}

/// Whether the client has begun the answer, which then continues. The mark for it is taken
/// out: the reader takes it in fewer cases than there are.
fn begun(protocol: Protocol, body: &mut Map<String, Value>) -> Result<bool, Refusal> {
    const GO_ON: &str = "continue_final_message";
    const GENERATE: &str = "add_generation_prompt";
    let flag = |body: &mut Map<String, Value>, name: &'static str| match body.shift_remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(on)) => Ok(Some(on)),
        Some(_) => Err(Refusal::new(
            name,
            format!("Invalid {name}: it must be true or false."),
        )),
    };
    let go_on = flag(body, GO_ON)?;
    let generate = flag(body, GENERATE)?;
    let list = if protocol == Protocol::Responses {
        "input"
    } else {
        "messages"
    };
    let last = match body.get_mut(list) {
        Some(Value::Array(all)) => all.last_mut(),
        _ => None,
    };
    let last = last.filter(|last| last["role"] == "assistant" && last.get("tool_calls").is_none());
    let asked = go_on == Some(true) || generate == Some(false);
    let Some(last) = last else {
        return match asked {
            true => Err(Refusal::new(
                GO_ON,
                format!("{GO_ON} needs an assistant message at the end to continue."),
            )),
            false => Ok(false),
        };
    };
    let marked = match last.as_object_mut() {
        Some(last) => last.shift_remove("prefix") == Some(Value::Bool(true)),
        None => false,
    };
    if go_on == Some(false) {
        return Ok(false);
    }
    Ok(match protocol {
        Protocol::Chat => marked || asked,
        // The protocol's own rule.
        Protocol::Messages => !is_call(last),
        // An item of an answer that has ended says so.
        Protocol::Responses => asked || last.get("status").is_none_or(|s| s != "completed"),
    })
}

fn is_call(message: &Value) -> bool {
    let blocks = message["content"].as_array();
    blocks.is_some_and(|blocks| blocks.iter().any(|block| block["type"] == "tool_use"))
}

#[cfg(test)]
mod tests;
