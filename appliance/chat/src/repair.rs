//! Repairs calls in Messages whose arguments are not JSON.
//!
//! A parameter that is not said to be text is JSON; a model may write something else
//! there, or be cut in the middle. The authors' reader passes that on, and as an object,
//! which Messages has in place of text, it becomes an empty one: a call of something else
//! than what the model meant. Here such a value stays what it is, as a string.

use serde_json::{Map, Value, json};

use crate::output::Event;

/// Opens a call and a parameter in the markup of both versions, after their mark.
const CALL: &str = "invoke name=\"";
const PARAMETER: &str = "parameter name=\"";
const STRING: [&str; 2] = ["\" string=\"true\">", "\" string=\"false\">"];
/// Begins each tag that ends something.
const CLOSE: &str = "</｜DSML｜";

/// Looks after the calls of one response in Messages.
#[derive(Debug, Default)]
pub(crate) struct CallRepair {
    /// Calls that have begun.
    calls: usize,
    /// Whether the block at hand is a call.
    inside: bool,
    /// The arguments of the call at hand that a client has.
    sent: String,
    /// Events with more of them, from the first value on that is not text.
    held: Vec<Event>,
}

impl CallRepair {
    /// The events that a client gets for these; `text` is all that the model wrote.
    pub fn events(&mut self, events: Vec<Event>, text: impl Fn() -> String) -> Vec<Event> {
        let mut out = Vec::with_capacity(events.len());
        for event in events {
            let data = &event.data;
            match data["type"].as_str() {
                Some("content_block_start") if data["content_block"]["type"] == "tool_use" => {
                    self.inside = true;
                    self.calls += 1;
                    self.sent.clear();
                    out.push(event);
                }
                Some("content_block_delta") if self.inside => {
                    let piece = data["delta"]["partial_json"].as_str().unwrap_or_default();
                    if self.held.is_empty() && !opens_value(&self.sent, piece) {
                        self.sent.push_str(piece);
                        out.push(event);
                    } else {
                        self.held.push(event);
                    }
                }
                Some("content_block_stop") if self.inside => {
                    self.inside = false;
                    self.end(&data["index"], &text, &mut out);
                    out.push(event);
                }
                _ => out.push(event),
            }
        }
        out
    }

    fn end(&mut self, index: &Value, text: &impl Fn() -> String, out: &mut Vec<Event>) {
        let pieces = self.held.iter();
        let pieces = pieces.filter_map(|event| event.data["delta"]["partial_json"].as_str());
        let all = pieces.fold(self.sent.clone(), |all, piece| all + piece);
        if serde_json::from_str::<Map<String, Value>>(&all).is_ok() || all.is_empty() {
            out.append(&mut self.held);
            return;
        }
        let calls = calls(&text());
        let rest = calls.get(self.calls - 1).and_then(|parameters| {
            let whole = written(parameters);
            whole.strip_prefix(self.sent.as_str()).map(str::to_owned)
        });
        let Some(rest) = rest else {
            out.append(&mut self.held);
            return;
        };
        self.held.clear();
        out.push(Event {
            name: Some("content_block_delta"),
            data: json!({
                "type": "content_block_delta",
                "index": index,
                "delta": {"type": "input_json_delta", "partial_json": rest},
            }),
        });
    }

    /// A whole response in which no call has lost its arguments.
    pub fn response(response: &mut Value, text: &str) {
        let Some(blocks) = response["content"].as_array_mut() else {
            return;
        };
        let uses = blocks
            .iter_mut()
            .filter(|block| block["type"] == "tool_use");
        for (block, parameters) in uses.zip(calls(text)) {
            let empty = block["input"].as_object().is_some_and(Map::is_empty);
            if empty && !parameters.is_empty() {
                let input: Map<String, Value> = parameters
                    .into_iter()
                    .map(|p| (p.name.clone(), p.value()))
                    .collect();
                block["input"] = input.into();
            }
        }
    }
}

/// Whether a piece of arguments begins a value that is not text: after a name and a colon
/// comes something else than a quote.
fn opens_value(sent: &str, piece: &str) -> bool {
    sent.ends_with("\": ") && !piece.starts_with('"')
}

/// A parameter as it was written.
#[derive(Debug, PartialEq)]
struct Parameter {
    name: String,
    text: String,
    is_string: bool,
}

impl Parameter {
    /// JSON where it is some, and the text that it is otherwise.
    fn value(self) -> Value {
        let json = (!self.is_string).then(|| serde_json::from_str(&self.text).ok());
        json.flatten().unwrap_or(Value::String(self.text))
    }
}

/// Arguments as the reader writes them, with strings in place of what is not JSON.
fn written(parameters: &[Parameter]) -> String {
    let all = parameters.iter().map(|p| {
        let json = !p.is_string && serde_json::from_str::<Value>(&p.text).is_ok();
        let value = match json {
            true => p.text.clone(),
            false => Value::from(p.text.as_str()).to_string(),
        };
        format!("{}: {value}", Value::from(p.name.as_str()))
    });
    format!("{{{}}}", all.collect::<Vec<_>>().join(", "))
}

/// The parameters of the calls in a text.
fn calls(text: &str) -> Vec<Vec<Parameter>> {
    let mut calls = Vec::new();
    for call in text.split(CALL).skip(1) {
        let mut parameters = Vec::new();
        for parameter in call.split(PARAMETER).skip(1) {
            let found = STRING.iter().enumerate().filter_map(|(i, attribute)| {
                let at = parameter.find(attribute)?;
                Some((at, at + attribute.len(), i == 0))
            });
            let Some((end, begin, is_string)) = found.min() else {
                continue;
            };
            let value = &parameter[begin..];
            let value = value.find(CLOSE).map_or(value, |end| &value[..end]);
            parameters.push(Parameter {
                name: parameter[..end].to_owned(),
                text: value.to_owned(),
                is_string,
            });
        }
        calls.push(parameters);
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n\
        <｜DSML｜parameter name=\"city\" string=\"true\">P</｜DSML｜parameter>\n\
        <｜DSML｜parameter name=\"days\" string=\"false\">3,</｜DSML｜parameter>\n\
        </｜DSML｜invoke>\n</｜DSML｜tool_calls>";

    fn run(pieces: &[&str], text: &str) -> String {
        let mut repair = CallRepair::default();
        let event = |data| Event { name: None, data };
        let mut events = vec![event(
            json!({"type": "content_block_start", "content_block": {"type": "tool_use"}}),
        )];
        events.extend(pieces.iter().map(|piece| {
            event(json!({"type": "content_block_delta", "index": 1, "delta": {"partial_json": piece}}))
        }));
        events.push(event(json!({"type": "content_block_stop", "index": 1})));
        let mut all = String::new();
        for one in events {
            for event in repair.events(vec![one], || text.to_owned()) {
                all.push_str(
                    event.data["delta"]["partial_json"]
                        .as_str()
                        .unwrap_or_default(),
                );
            }
        }
        all
    }

    #[test]
    fn a_value_that_is_no_json_is_a_string() {
        let pieces = [
            "{", "\"", "city", "\": ", "\"", "P", "\"", ", ", "\"", "days", "\": ", "3", ",", "}",
        ];
        assert_eq!(run(&pieces, TEXT), r#"{"city": "P", "days": "3,"}"#);
        let sound = TEXT.replace("3,", "[3, 4]");
        let pieces = [
            "{", "\"", "city", "\": ", "\"", "P", "\"", ", ", "\"", "days", "\": ", "[3", ", 4]",
            "}",
        ];
        assert_eq!(run(&pieces, &sound), r#"{"city": "P", "days": [3, 4]}"#);
        let cut = TEXT.split_once("</｜DSML｜parameter>").unwrap().0;
        assert_eq!(
            run(&["{", "\"", "city", "\": ", "\"", "P"], cut),
            r#"{"city": "P"}"#
        );
        assert_eq!(run(&["{}"], "<｜DSML｜invoke name=\"f\">\n"), "{}");
    }

    #[test]
    fn a_whole_response_keeps_its_arguments() {
        let mut response =
            json!({"content": [{"type": "text"}, {"type": "tool_use", "input": {}}]});
        CallRepair::response(&mut response, TEXT);
        assert_eq!(
            response["content"][1]["input"],
            json!({"city": "P", "days": "3,"})
        );
    }
}
