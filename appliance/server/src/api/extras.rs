//! What requests say beside their protocol's core: other spellings that clients send,
//! penalties, and what is refused rather than passed over.

use std::collections::HashMap;

use serde_json::{Map, Value};
use v4_chat::{OutputConstraint, Protocol};
use v4_runtime::sampling::SamplerOptions;

use crate::http::ApiError;
use crate::picker::Picking;

/// Tokens that may have a bias.
const MOST_BIASES: usize = 1024;

/// Penalties and the like.
#[derive(Debug, Default)]
pub(super) struct Extras {
    frequency_penalty: f32,
    presence_penalty: f32,
    repetition_penalty: Option<f32>,
    top_k: Option<usize>,
    min_p: Option<f32>,
    bias: Vec<(u32, f32)>,
    seed: Option<u64>,
    /// A schema for the output, in Messages' own place for it.
    pub schema: Option<Value>,
    /// What references in schemas may name, which the protocols' readers drop where a
    /// schema is strict.
    definitions: Definitions,
}

/// Definitions of the output's schema, and of the parameters of tools by their names.
#[derive(Debug, Default)]
struct Definitions {
    output: Vec<(String, Value)>,
    tools: HashMap<String, Vec<(String, Value)>>,
}

impl Definitions {
    fn of(body: &Map<String, Value>) -> Self {
        let schemas = [
            &["response_format", "json_schema", "schema"][..],
            &["text", "format", "schema"][..],
        ];
        let output = schemas.iter().flat_map(|path| {
            let mut at = body.get(path[0]);
            for name in &path[1..] {
                at = at.and_then(|value| value.get(name));
            }
            definitions(at)
        });
        let tools = body.get("tools").and_then(Value::as_array);
        let tools = tools.into_iter().flatten().filter_map(|tool| {
            let tool = tool.get("function").unwrap_or(tool);
            let name = tool.get("name")?.as_str()?;
            Some((name.to_owned(), definitions(tool.get("parameters"))))
        });
        Self {
            output: output.collect(),
            tools: tools.collect(),
        }
    }
}

fn definitions(schema: Option<&Value>) -> Vec<(String, Value)> {
    let all = ["$defs", "definitions"].iter().filter_map(|&name| {
        let found = schema?.get(name)?;
        Some((name.to_owned(), found.clone()))
    });
    all.collect()
}

fn restore(schema: &mut Value, definitions: &[(String, Value)]) {
    if let Value::Object(schema) = schema {
        for (name, value) in definitions {
            schema.entry(name.as_str()).or_insert_with(|| value.clone());
        }
    }
}

impl Extras {
    /// Of a request of a chat protocol; brings the request into the form that the
    /// protocol's reader knows.
    pub fn of(protocol: Protocol, body: &mut Value) -> Result<Self, ApiError> {
        let Value::Object(body) = body else {
            return Ok(Self::default());
        };
        match protocol {
            Protocol::Chat => chat(body)?,
            Protocol::Responses => responses(body)?,
            Protocol::Messages => {}
        }
        let mut extras = Self::common(body)?;
        if protocol == Protocol::Messages {
            extras.schema = messages_schema(body)?;
        }
        Ok(extras)
    }

    /// Those that every path takes.
    pub fn common(body: &Map<String, Value>) -> Result<Self, ApiError> {
        let whole = |name: &'static str| match present(body, name) {
            None => Ok(None),
            Some(value) => value
                .as_u64()
                .map(Some)
                .ok_or_else(|| wrong(name, "a whole number, not negative")),
        };
        let number = |name: &'static str, least: f64, most: f64| match present(body, name) {
            None => Ok(None),
            Some(value) => value
                .as_f64()
                .filter(|n| (least..=most).contains(n))
                .map(|n| Some(n as f32))
                .ok_or_else(|| wrong(name, &format!("a number from {least} to {most}"))),
        };
        Ok(Self {
            frequency_penalty: number("frequency_penalty", -2.0, 2.0)?.unwrap_or(0.0),
            presence_penalty: number("presence_penalty", -2.0, 2.0)?.unwrap_or(0.0),
            repetition_penalty: number("repetition_penalty", 0.01, 100.0)?,
            top_k: whole("top_k")?.map(|k| usize::try_from(k).unwrap_or(usize::MAX)),
            min_p: number("min_p", 0.0, 1.0)?,
            bias: bias(body)?,
            seed: whole("seed")?,
            schema: None,
            definitions: Definitions::of(body),
        })
    }

    /// What a request wants its output to be, its references whole.
    pub fn constraint(&self, wanted: &OutputConstraint) -> OutputConstraint {
        let mut wanted = wanted.clone();
        match &mut wanted {
            OutputConstraint::Json {
                schema: Some(schema),
            } => restore(schema, &self.definitions.output),
            OutputConstraint::ToolCalls { tools, .. } => {
                for tool in tools {
                    if let Some(definitions) = self.definitions.tools.get(&tool.name) {
                        restore(&mut tool.parameters, definitions);
                    }
                }
            }
            OutputConstraint::Json { schema: None } | OutputConstraint::Regex(_) => {}
        }
        wanted
    }

    /// How to pick tokens with these.
    pub fn picking(self, sampler: SamplerOptions) -> Picking {
        let defaults = SamplerOptions::default();
        Picking {
            sampler: SamplerOptions {
                top_k: self.top_k.unwrap_or(defaults.top_k),
                min_p: self.min_p.unwrap_or(defaults.min_p),
                repetition_penalty: self
                    .repetition_penalty
                    .unwrap_or(defaults.repetition_penalty),
                seed: self.seed.unwrap_or_else(crate::service::new_seed),
                ..sampler
            },
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            bias: self.bias,
            ..Picking::default()
        }
    }
}

/// A field that is there and not null.
pub(super) fn present<'a>(body: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    body.get(name).filter(|value| !value.is_null())
}

fn wrong(name: &'static str, what: &str) -> ApiError {
    ApiError::invalid(name, format!("Invalid {name}: it must be {what}."))
}

fn refuse(
    body: &Map<String, Value>,
    name: &'static str,
    unless: impl Fn(&Value) -> bool,
    instead: &str,
) -> Result<(), ApiError> {
    match present(body, name) {
        Some(value) if !unless(value) => Err(ApiError::invalid(
            name,
            format!("{name} is not supported here; {instead}."),
        )),
        _ => Ok(()),
    }
}

/// Newer names of Chat Completions.
fn chat(body: &mut Map<String, Value>) -> Result<(), ApiError> {
    if present(body, "max_tokens").is_none()
        && let Some(most) = present(body, "max_completion_tokens").cloned()
    {
        body.insert("max_tokens".into(), most);
    }
    if let Some(Value::Array(messages)) = body.get_mut("messages") {
        for message in messages {
            if message.get("role").is_some_and(|role| role == "developer") {
                message["role"] = "system".into();
            }
        }
    }
    let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    refuse(body, "functions", empty, "use tools")?;
    refuse(body, "function_call", |v| v == "none", "use tool_choice")?;
    let text = |value: &Value| *value == serde_json::json!(["text"]);
    refuse(body, "modalities", text, "this model writes text")?;
    refuse(body, "audio", |_| false, "this model writes text")
}

/// What Responses would keep on a server between requests is not kept here.
fn responses(body: &Map<String, Value>) -> Result<(), ApiError> {
    let instead = "send the whole conversation as input; what it has in common with earlier \
                   requests is not computed again";
    refuse(body, "previous_response_id", |_| false, instead)?;
    refuse(body, "conversation", |_| false, instead)?;
    refuse(body, "prompt", |_| false, "send instructions and input")?;
    let off = |value: &Value| *value == Value::Bool(false);
    refuse(body, "background", off, "use stream")
}

/// Messages' schema for the output: `output_config.format`, or `output_format` as it
/// was called before.
fn messages_schema(body: &Map<String, Value>) -> Result<Option<Value>, ApiError> {
    let config = present(body, "output_config").and_then(Value::as_object);
    let format = config
        .and_then(|config| present(config, "format"))
        .or_else(|| present(body, "output_format"));
    let Some(format) = format else {
        return Ok(None);
    };
    match (format["type"].as_str(), &format["schema"]) {
        (Some("json_schema"), schema @ Value::Object(_)) => Ok(Some(schema.clone())),
        _ => Err(wrong(
            "output_config",
            "a format of the type json_schema with a schema",
        )),
    }
}

fn bias(body: &Map<String, Value>) -> Result<Vec<(u32, f32)>, ApiError> {
    const NAME: &str = "logit_bias";
    let Some(value) = present(body, NAME) else {
        return Ok(Vec::new());
    };
    let wrong = || wrong(NAME, "an object of token ids and numbers from -100 to 100");
    let biases = value.as_object().ok_or_else(wrong)?;
    if biases.len() > MOST_BIASES {
        return Err(ApiError::invalid(
            NAME,
            format!("Invalid {NAME}: it has more than {MOST_BIASES} tokens."),
        ));
    }
    let all = biases.iter().map(|(id, bias)| {
        let bias = bias.as_f64().filter(|b| (-100.0..=100.0).contains(b));
        Some((id.parse().ok()?, bias? as f32))
    });
    all.collect::<Option<_>>().ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(protocol: Protocol, mut body: Value) -> Result<(Extras, Value), ApiError> {
        Extras::of(protocol, &mut body).map(|extras| (extras, body))
    }

    #[test]
    fn newer_names_become_those_that_are_known() {
        let body = json!({
            "max_completion_tokens": 7,
            "messages": [{"role": "developer", "content": "x"}, {"role": "user", "content": "y"}],
        });
        let (_, body) = of(Protocol::Chat, body).unwrap();
        assert_eq!(body["max_tokens"], 7);
        assert_eq!(body["messages"][0]["role"], "system");
        assert_eq!(body["messages"][1]["role"], "user");
        let both = json!({"max_completion_tokens": 7, "max_tokens": 3});
        assert_eq!(of(Protocol::Chat, both).unwrap().1["max_tokens"], 3);
    }

    #[test]
    fn what_would_change_the_answer_is_refused_by_name() {
        for (protocol, body) in [
            (Protocol::Chat, json!({"functions": [{"name": "f"}]})),
            (Protocol::Chat, json!({"modalities": ["text", "audio"]})),
            (Protocol::Chat, json!({"logit_bias": {"x": 1}})),
            (Protocol::Chat, json!({"logit_bias": {"1": 101}})),
            (Protocol::Chat, json!({"frequency_penalty": 2.5})),
            (Protocol::Chat, json!({"top_k": -1})),
            (Protocol::Responses, json!({"previous_response_id": "r"})),
            (Protocol::Responses, json!({"background": true})),
            (Protocol::Messages, json!({"top_k": "all"})),
            (
                Protocol::Messages,
                json!({"output_format": {"type": "yaml"}}),
            ),
        ] {
            let error = of(protocol, body.clone()).unwrap_err();
            let name = body.as_object().unwrap().keys().next().unwrap();
            assert!(error.param.is_some(), "{body}");
            assert!(error.message.contains(name) || name == "output_format");
        }
        for (protocol, body) in [
            (Protocol::Chat, json!({"functions": [], "audio": null})),
            (
                Protocol::Responses,
                json!({"background": false, "store": true}),
            ),
            (Protocol::Chat, json!([])),
        ] {
            assert!(of(protocol, body).is_ok());
        }
    }

    #[test]
    fn references_of_strict_schemas_stay_whole() {
        let defs = json!({"n": {"type": "integer"}});
        let body = json!({
            "response_format": {"json_schema": {"schema": {"$defs": defs}}},
            "tools": [{"function": {"name": "f", "parameters": {"$defs": defs}}}],
        });
        let (extras, _) = of(Protocol::Chat, body).unwrap();
        let schema = json!({"properties": {"a": {"$ref": "#/$defs/n"}}});
        let wanted = OutputConstraint::Json {
            schema: Some(schema),
        };
        let OutputConstraint::Json {
            schema: Some(schema),
        } = extras.constraint(&wanted)
        else {
            panic!("another kind");
        };
        assert_eq!(schema["$defs"], defs);
        assert_eq!(schema["properties"]["a"]["$ref"], "#/$defs/n");
    }

    #[test]
    fn penalties_reach_the_sampler() {
        let body = json!({
            "frequency_penalty": 0.5, "presence_penalty": -1, "top_k": 40, "min_p": 0.1,
            "repetition_penalty": 1.1, "seed": 9, "logit_bias": {"17": -100},
        });
        let (extras, _) = of(Protocol::Messages, body).unwrap();
        let picking = extras.picking(SamplerOptions {
            temperature: 0.5,
            ..SamplerOptions::default()
        });
        assert_eq!(picking.sampler.top_k, 40);
        assert_eq!(picking.sampler.temperature, 0.5);
        assert_eq!(picking.sampler.seed, 9);
        assert_eq!(picking.bias, [(17, -100.0)]);
        assert_eq!(picking.presence_penalty, -1.0);
    }
}
