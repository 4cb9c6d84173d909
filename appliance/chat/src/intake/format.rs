//! The requested format of an answer, from the field where each protocol has it.

use serde_json::{Map, Value};

use super::refusal::Refusal;
use super::wanted::Format;
use crate::Protocol;
use crate::json::present;

/// A form that was asked for.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// For the grammar.
    pub wanted: Option<Format>,
    /// For the prompt.
    pub shown: Option<Format>,
}

/// Takes the form out of a request. The prompt shows it where the format has a place for
/// it; a regular expression is held to and not shown.
///
/// # Errors
/// A form that nobody knows.
pub(super) fn take(protocol: Protocol, body: &mut Map<String, Value>) -> Result<Taken, Refusal> {
    let (param, format) = match protocol {
        Protocol::Chat => ("response_format", body.shift_remove("response_format")),
        Protocol::Responses => {
            let text = body.get_mut("text").and_then(Value::as_object_mut);
            ("text", text.and_then(|text| text.shift_remove("format")))
        }
        Protocol::Messages => {
            let older = body.shift_remove("output_format");
            let config = body.get_mut("output_config").and_then(Value::as_object_mut);
            let format = config.and_then(|config| config.shift_remove("format"));
            ("output_config", format.filter(|f| !f.is_null()).or(older))
        }
    };
    let format = match format {
        None | Some(Value::Null) => return Ok(Taken::default()),
        Some(Value::Object(format)) => format,
        // As some servers have it.
        Some(Value::String(kind)) => Map::from_iter([("type".to_owned(), kind.into())]),
        Some(_) => return Err(wrong(param)),
    };
    let wanted = match format.get("type").and_then(Value::as_str) {
        None if format.is_empty() => return Ok(Taken::default()),
        Some("text") => return Ok(Taken::default()),
        Some("json_object" | "json") => match present(&format, "schema") {
            Some(schema) => schema_of(param, schema, &format)?,
            None => Format::JsonObject,
        },
        Some("json_schema") => {
            let inner = format.get("json_schema").and_then(Value::as_object);
            let inner = inner.unwrap_or(&format);
            let schema = present(inner, "schema").ok_or_else(|| {
                Refusal::new(
                    param,
                    format!("Invalid {param}: type json_schema needs a schema."),
                )
            })?;
            schema_of(param, schema, inner)?
        }
        Some("regex") => {
            let regex = format.get("regex").or_else(|| format.get("pattern"));
            let regex = regex.and_then(Value::as_str).ok_or_else(|| {
                Refusal::new(param, format!("Invalid {param}: type regex needs a regex."))
            })?;
            Format::Regex(regex.to_owned())
        }
        _ => return Err(wrong(param)),
    };
    let shown = (!matches!(wanted, Format::Regex(_))).then(|| wanted.clone());
    Ok(Taken {
        wanted: Some(wanted),
        shown,
    })
}

fn wrong(param: &'static str) -> Refusal {
    Refusal::new(
        param,
        format!(
            "Invalid {param}: the type of a format must be text, json_object, json_schema or regex."
        ),
    )
}

fn schema_of(
    param: &'static str,
    schema: &Value,
    format: &Map<String, Value>,
) -> Result<Format, Refusal> {
    if !schema.is_object() {
        return Err(Refusal::new(
            param,
            format!("Invalid {param}: a schema must be an object."),
        ));
    }
    Ok(Format::Schema {
        schema: schema.clone(),
        strict: format.get("strict") == Some(&Value::Bool(true)),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn formats_are_found_in_their_places() {
        let schema = json!({"type": "object"});
        let wanted = |strict| {
            Some(Format::Schema {
                schema: schema.clone(),
                strict,
            })
        };
        for (protocol, body, form) in [
            (
                Protocol::Chat,
                json!({"response_format": {"type": "json_schema",
                "json_schema": {"schema": schema, "strict": true}}}),
                wanted(true),
            ),
            (
                Protocol::Chat,
                json!({"response_format": {"type": "json_object", "schema": schema}}),
                wanted(false),
            ),
            (
                Protocol::Chat,
                json!({"response_format": {"type": "text"}}),
                None,
            ),
            (Protocol::Chat, json!({"response_format": null}), None),
            (
                Protocol::Chat,
                json!({"response_format": {"type": "regex", "regex": "a"}}),
                Some(Format::Regex("a".into())),
            ),
            (
                Protocol::Responses,
                json!({"text": {"format": {"type": "json_schema", "name": "n", "schema": schema}}}),
                wanted(false),
            ),
            (
                Protocol::Responses,
                json!({"text": {"format": {"type": "json_object"}}}),
                Some(Format::JsonObject),
            ),
            (
                Protocol::Responses,
                json!({"text": {"verbosity": "low"}}),
                None,
            ),
            (
                Protocol::Messages,
                json!({"output_config": {"format": {"type": "json_schema", "schema": schema}}}),
                wanted(false),
            ),
            (
                Protocol::Messages,
                json!({"output_format": {"type": "json_schema", "schema": schema}}),
                wanted(false),
            ),
        ] {
            let mut body = body.as_object().unwrap().clone();
            assert_eq!(take(protocol, &mut body).unwrap().wanted, form, "{body:?}");
        }
        for body in [
            json!({"response_format": {"type": "yaml"}}),
            json!({"response_format": {"type": "json_schema"}}),
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": "x"}}}),
            json!({"response_format": 5}),
        ] {
            let refusal = take(Protocol::Chat, &mut body.as_object().unwrap().clone()).unwrap_err();
            assert!(refusal.message.contains("response_format"));
        }
    }
}
