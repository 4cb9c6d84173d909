//! Tools and the choice among them.
//!
//! The authors' reader takes tools as their own service does: schemas of one kind, all
//! strict or none, and no forced call of a model that thinks. So it gets each tool with a
//! schema that says nothing, and the schemas return when the prompt is made: as it would
//! have written them where it takes them, and as the client wrote them where it does not.

use serde_json::{Map, Value, json};

use super::notes::Notes;
use super::refusal::Refusal;
use super::schema;
use super::wanted::Calls;
use crate::{ModelVersion, Protocol};

/// Longest name of a tool, in bytes.
const MOST_NAME: usize = 256;

/// In place of a schema, with the tool's number.
const PLACE: &str = "v4.tool";

/// A tool of a request.
#[derive(Debug, Clone)]
pub(super) struct Tool {
    /// The name that the client gave it.
    pub name: String,
    /// What the prompt says of its parameters.
    pub shown: Value,
    /// What the client said of them.
    pub parameters: Value,
    pub strict: bool,
}

/// The tools of a request, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Tools {
    pub all: Vec<Tool>,
    /// Custom tools: called with a text, not with parameters.
    pub custom: Vec<String>,
    /// Tools that the authors' reader has schemas of its own for.
    more: Vec<String>,
}

/// What a request says about calling tools.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Choice {
    pub calls: Calls,
    /// The tools that may be called, if not all.
    pub only: Option<Vec<String>>,
    /// It names one tool, and the published prompt has that one alone.
    pub named: bool,
    pub parallel: bool,
}

impl Tools {
    /// The tool that a schema stands for, and the name that stands for it.
    pub fn of(&self, parameters: &Value) -> Option<(String, &Tool)> {
        let number = usize::try_from(parameters.get(PLACE)?.as_u64()?).ok()?;
        let tool = self.all.get(number)?;
        Some((stand_in(number, &tool.name), tool))
    }

    /// The names that a choice may give.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.all.iter().map(|tool| tool.name.clone()).collect();
        names.extend(self.more.iter().cloned());
        names
    }

    /// Takes a tool; returns the schema and the name that stand for it.
    fn add(
        &mut self,
        version: ModelVersion,
        name: &str,
        parameters: Option<&Value>,
        strict: bool,
    ) -> (Value, String) {
        let parameters = parameters.filter(|value| !value.is_null());
        let shown = schema::published(version, parameters, strict)
            .or_else(|| schema::published(version, parameters, false))
            .unwrap_or_else(|| schema::mended(parameters));
        let number = self.all.len();
        self.all.push(Tool {
            name: name.to_owned(),
            shown,
            parameters: match parameters {
                Some(Value::Object(_)) if strict => parameters.cloned().unwrap_or_default(),
                _ => schema::mended(parameters),
            },
            strict,
        });
        (
            json!({"type": "object", PLACE: number}),
            stand_in(number, name),
        )
    }
}

/// The refusal of a choice that names no tool which could be called.
pub(super) fn unknown_tool(name: &str, names: &[&str]) -> Refusal {
    let there = match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    Refusal::new(
        "tool_choice",
        format!("Invalid tool_choice: no tool named '{name}' can be called; available: {there}."),
    )
}

/// The type of a tool, of a choice or the like.
fn kind_of<'v>(fields: &'v Map<String, Value>, default: &'static str) -> &'v str {
    fields
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or(default)
}

/// A name that the authors' reader takes: the tool's own if it does.
fn stand_in(number: usize, name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    match name.len() <= 128 && name.bytes().all(plain) {
        true => name.to_owned(),
        false => format!("v4_tool_{number}"),
    }
}

/// Reads the tools of a request and puts others in their place that say nothing.
///
/// # Errors
/// A tool without a name that a call could have, or of a form that nobody knows.
pub(super) fn take(
    protocol: Protocol,
    version: ModelVersion,
    body: &mut Map<String, Value>,
    notes: &mut Notes,
) -> Result<Tools, Refusal> {
    let list = match body.get_mut("tools") {
        None => return Ok(Tools::default()),
        Some(Value::Null) => {
            body.shift_remove("tools");
            return Ok(Tools::default());
        }
        Some(Value::Array(list)) => std::mem::take(list),
        Some(_) => return Err(wrong("Invalid tools: it must be a list.")),
    };
    let mut tools = Tools::default();
    let mut kept = Vec::with_capacity(list.len());
    for (i, tool) in list.into_iter().enumerate() {
        let place = format!("tools[{i}]");
        let tool = match tool {
            Value::Object(tool) => tool,
            Value::Null => continue,
            _ => return Err(wrong(format!("{place}: a tool must be an object."))),
        };
        let taken = match protocol {
            Protocol::Chat => chat(&mut tools, version, &place, tool, notes)?,
            Protocol::Messages => messages(&mut tools, version, &place, tool, notes)?,
            Protocol::Responses => responses(&mut tools, version, &place, tool, notes)?,
        };
        kept.extend(taken);
    }
    match kept.is_empty() {
        true => {
            body.shift_remove("tools");
        }
        false => {
            body.insert("tools".into(), kept.into());
        }
    }
    Ok(tools)
}

fn wrong(message: impl Into<String>) -> Refusal {
    Refusal::new("tools", message)
}

fn text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// A name that can be written into a call.
fn name_of(tool: &Map<String, Value>, place: &str) -> Result<String, Refusal> {
    let name = tool.get("name").and_then(Value::as_str).unwrap_or_default();
    let sound = !name.is_empty()
        && name.len() <= MOST_NAME
        && !name.contains(|c: char| c.is_control() || matches!(c, '"' | '<' | '>'));
    if !sound {
        return Err(wrong(format!(
            "Invalid {place}.name: {name:?}; a name must have 1 to {MOST_NAME} bytes without \
             quotes, angle brackets and line breaks."
        )));
    }
    Ok(name.to_owned())
}

fn is_true(tool: &Map<String, Value>, name: &str) -> bool {
    tool.get(name) == Some(&Value::Bool(true))
}

/// What a custom tool is called with.
fn one_text(tool: &Map<String, Value>) -> Value {
    let format = tool.get("format").and_then(Value::as_object);
    let mut about = "The whole input of the tool, as plain text.".to_owned();
    if let Some(format) = format
        && let (Some("grammar"), Some(grammar)) = (
            format.get("type").and_then(Value::as_str),
            format.get("definition").and_then(Value::as_str),
        )
    {
        let syntax = format.get("syntax").and_then(Value::as_str);
        about += &format!(
            " It follows this grammar ({}):\n{grammar}",
            syntax.unwrap_or("lark")
        );
    }
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {"input": {"type": "string", "description": about}},
        "required": ["input"],
    })
}

fn chat(
    tools: &mut Tools,
    version: ModelVersion,
    place: &str,
    mut tool: Map<String, Value>,
    notes: &mut Notes,
) -> Result<Option<Value>, Refusal> {
    let kind = kind_of(&tool, "function").to_owned();
    let inner = |tool: &mut Map<String, Value>, name: &str| match tool.remove(name) {
        Some(Value::Object(inner)) => inner,
        // As Responses has it.
        _ => std::mem::take(tool),
    };
    let (function, parameters) = match &*kind {
        "function" => {
            let function = inner(&mut tool, "function");
            let parameters = function
                .get("parameters")
                .or_else(|| function.get("input_schema"));
            let parameters = parameters.cloned();
            (function, parameters)
        }
        "custom" => {
            let function = inner(&mut tool, "custom");
            let parameters = one_text(&function);
            tools.custom.push(name_of(&function, place)?);
            (function, Some(parameters))
        }
        other => {
            notes.add(format!(
                "{place}: tools of type {other} run on a service; left out"
            ));
            return Ok(None);
        }
    };
    let name = name_of(&function, place)?;
    let strict = is_true(&function, "strict");
    let (schema, name) = tools.add(version, &name, parameters.as_ref(), strict);
    let mut out = json!({"name": name, "parameters": schema});
    if let Some(about) = text(function.get("description")) {
        out["description"] = about.into();
    }
    Ok(Some(json!({"type": "function", "function": out})))
}

fn messages(
    tools: &mut Tools,
    version: ModelVersion,
    place: &str,
    tool: Map<String, Value>,
    notes: &mut Notes,
) -> Result<Option<Value>, Refusal> {
    let kind = kind_of(&tool, "custom");
    if !matches!(kind, "custom" | "function") {
        notes.add(format!(
            "{place}: tools of type {kind} run on a service; left out"
        ));
        return Ok(None);
    }
    let name = name_of(&tool, place)?;
    let schema = tool.get("input_schema").or_else(|| tool.get("parameters"));
    let strict = is_true(&tool, "strict");
    let (schema, name) = tools.add(version, &name, schema, strict);
    let mut out = json!({"name": name, "input_schema": schema});
    if let Some(about) = text(tool.get("description")) {
        out["description"] = about.into();
    }
    if is_true(&tool, "defer_loading") {
        out["defer_loading"] = true.into();
    }
    Ok(Some(out))
}

fn responses(
    tools: &mut Tools,
    version: ModelVersion,
    place: &str,
    mut tool: Map<String, Value>,
    notes: &mut Notes,
) -> Result<Option<Value>, Refusal> {
    let kind = kind_of(&tool, "function").to_owned();
    match &*kind {
        "function" => {
            // As Chat Completions has it.
            if let Some(Value::Object(inner)) = tool.remove("function") {
                tool = inner;
            }
            function(tools, version, place, tool).map(Some)
        }
        "custom" => custom(tools, version, place, tool).map(Some),
        "namespace" => {
            let inner = match tool.remove("tools") {
                Some(Value::Array(inner)) => inner,
                _ => Vec::new(),
            };
            let mut kept = Vec::new();
            for (i, one) in inner.into_iter().enumerate() {
                let place = format!("{place}.tools[{i}]");
                let Value::Object(one) = one else {
                    return Err(wrong(format!("{place}: a tool must be an object.")));
                };
                match kind_of(&one, "function") {
                    "function" => kept.push(function(tools, version, &place, one)?),
                    other => notes.add(format!(
                        "{place}: a tool of type {other} in a namespace; left out"
                    )),
                }
            }
            name_of(&tool, place)?;
            tool.insert("tools".into(), kept.into());
            Ok(Some(Value::Object(tool)))
        }
        // The authors' reader knows what to do with these.
        "tool_search" | "web_search" | "web_search_2025_08_26" => Ok(Some(Value::Object(tool))),
        other => {
            notes.add(format!(
                "{place}: tools of type {other} run on a service; left out"
            ));
            Ok(None)
        }
    }
}

fn function(
    tools: &mut Tools,
    version: ModelVersion,
    place: &str,
    tool: Map<String, Value>,
) -> Result<Value, Refusal> {
    let name = name_of(&tool, place)?;
    let strict = is_true(&tool, "strict");
    let (schema, name) = tools.add(version, &name, tool.get("parameters"), strict);
    let mut out = json!({"type": "function", "name": name, "parameters": schema});
    if let Some(about) = text(tool.get("description")) {
        out["description"] = about.into();
    }
    Ok(out)
}

/// A tool that is called with a text. `apply_patch` has a published form.
fn custom(
    tools: &mut Tools,
    version: ModelVersion,
    place: &str,
    tool: Map<String, Value>,
) -> Result<Value, Refusal> {
    let name = name_of(&tool, place)?;
    if name == "apply_patch" {
        tools.more.push(name.clone());
        return Ok(json!({"type": "custom", "name": name}));
    }
    let parameters = one_text(&tool);
    let (schema, stand_in) = tools.add(version, &name, Some(&parameters), false);
    tools.custom.push(name);
    let mut out = json!({"type": "function", "name": stand_in, "parameters": schema});
    if let Some(about) = text(tool.get("description")) {
        out["description"] = about.into();
    }
    Ok(out)
}

/// Reads what a request says about calling tools, and takes it out of the request.
///
/// # Errors
/// A choice of a form that nobody knows, or of what cannot be called.
pub(super) fn choice(
    protocol: Protocol,
    body: &mut Map<String, Value>,
    names: &[String],
) -> Result<Choice, Refusal> {
    const NAME: &str = "tool_choice";
    let wrong = |message: String| Refusal::new(NAME, message);
    let mut choice = Choice {
        calls: if names.is_empty() {
            Calls::Never
        } else {
            Calls::May
        },
        only: None,
        named: false,
        parallel: true,
    };
    match body.shift_remove("parallel_tool_calls") {
        None | Some(Value::Null) => {}
        Some(Value::Bool(parallel)) => choice.parallel = parallel,
        Some(_) => {
            return Err(Refusal::new(
                "parallel_tool_calls",
                "Invalid parallel_tool_calls: it must be true or false.",
            ));
        }
    }
    let value = body.shift_remove(NAME).unwrap_or_default();
    if protocol == Protocol::Messages
        && let Some(Value::Bool(alone)) = value.get("disable_parallel_tool_use")
    {
        choice.parallel = !alone;
    }
    let name = |value: &Value| {
        let inner = value.get("function").or_else(|| value.get("custom"));
        let name = inner.unwrap_or(value).get("name");
        name.and_then(Value::as_str).map(str::to_owned)
    };
    let (kind, only) = match &value {
        Value::Null => return Ok(choice),
        Value::String(word) => (word.as_str(), None),
        Value::Object(fields) => match fields.get("type").and_then(Value::as_str) {
            Some("function" | "tool" | "custom") | None => {
                let one = name(&value)
                    .ok_or_else(|| wrong(format!("Invalid {NAME}: it does not name a tool.")))?;
                choice.named = true;
                ("required", Some(vec![one]))
            }
            Some("allowed_tools") => {
                let inner = fields.get("allowed_tools").unwrap_or(&value);
                let list = inner.get("tools").and_then(Value::as_array);
                let all: Option<Vec<String>> = list
                    .map(|list| list.iter().map(name).collect())
                    .unwrap_or_default();
                let all =
                    all.ok_or_else(|| wrong(format!("Invalid {NAME}: its tools need names.")))?;
                let mode = inner.get("mode").and_then(Value::as_str);
                (mode.unwrap_or("auto"), Some(all))
            }
            Some(word) => (word, None),
        },
        _ => return Err(wrong(format!("Invalid {NAME}."))),
    };
    match kind {
        "auto" => {}
        "none" => {
            choice.calls = Calls::Never;
            return Ok(choice);
        }
        "required" | "any" => choice.calls = Calls::Must,
        // A tool's bare name.
        one if names.iter().any(|name| name == one) => {
            choice.calls = Calls::Must;
            choice.named = true;
            choice.only = Some(vec![one.to_owned()]);
            return Ok(choice);
        }
        other => {
            return Err(wrong(format!(
                "Invalid {NAME}: {other:?} is not auto, none or required, and not a tool that can \
                 be called."
            )));
        }
    }
    if choice.calls == Calls::Must && names.is_empty() {
        return Err(wrong(format!(
            "Invalid {NAME}: a call is required, but there is no tool to call."
        )));
    }
    choice.only = only;
    Ok(choice)
}
