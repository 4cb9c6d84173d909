//! Whether and how long the model should think, under all names that clients use.

use serde_json::{Map, Value, json};

use super::refusal::Refusal;
use crate::Protocol;
use crate::json::{present, whole};

/// What a request says of thinking.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Thinking {
    /// On or off, if the request says it.
    pub asked: Option<bool>,
    /// The most tokens of reasoning.
    pub budget: Option<usize>,
}

/// Keys of `chat_template_kwargs` that switch thinking.
const SWITCHES: [&str; 3] = ["enable_thinking", "thinking", "enable_reasoning"];

/// Reads what a request says of thinking, and leaves it in the protocol's own words.
pub(crate) fn settle(
    protocol: Protocol,
    body: &mut Map<String, Value>,
) -> Result<Thinking, Refusal> {
    let mut said = Said::default();
    native(body, &mut said)?;
    template(body, &mut said)?;
    switches(body, &mut said)?;
    match protocol {
        Protocol::Chat => {
            let reasoning = body.remove("reasoning");
            said.reasoning(reasoning.as_ref())?;
            let effort = body.remove("reasoning_effort");
            said.effort("reasoning_effort", effort.as_ref())?;
            for name in ["thinking_budget", "thinking_token_budget"] {
                let budget = body.remove(name);
                said.budget(name, budget.as_ref())?;
            }
        }
        Protocol::Responses => said.reasoning(body.get("reasoning"))?,
        Protocol::Messages => {
            let config = body
                .get("output_config")
                .filter(|config| config.is_object());
            let effort = config.and_then(|config| config.get("effort")).cloned();
            said.effort("output_config", effort.as_ref())?;
        }
    }
    if said.budget == Some(0) {
        said.on.get_or_insert(false);
    }
    write(protocol, body, &said);
    Ok(Thinking {
        asked: said.asked(),
        budget: said.budget.filter(|&budget| budget > 0),
    })
}

/// Turns thinking off where the request leaves it open.
pub(crate) fn turn_off(protocol: Protocol, body: &mut Map<String, Value>) {
    let said = Said {
        on: Some(false),
        ..Said::default()
    };
    write(protocol, body, &said);
}

#[derive(Debug, Default)]
struct Said {
    on: Option<bool>,
    effort: Option<String>,
    budget: Option<usize>,
}

impl Said {
    fn asked(&self) -> Option<bool> {
        self.on
            .or_else(|| self.effort.as_ref().map(|effort| effort != "none"))
    }

    fn switch(&mut self, on: bool) {
        self.on.get_or_insert(on);
    }

    fn effort(&mut self, name: &'static str, effort: Option<&Value>) -> Result<(), Refusal> {
        match effort {
            None | Some(Value::Null) => Ok(()),
            Some(Value::String(effort)) if matches!(&**effort, "" | "auto" | "default") => Ok(()),
            Some(Value::String(effort)) => {
                const KNOWN: [&str; 8] = [
                    "none", "minimal", "low", "medium", "high", "xhigh", "ultra", "max",
                ];
                let lower = effort.to_ascii_lowercase();
                if !KNOWN.contains(&&*lower) {
                    return Err(Refusal::new(
                        name,
                        format!(
                            "Invalid {name}: {effort:?}; it must be one of {}.",
                            KNOWN.join(", ")
                        ),
                    ));
                }
                self.effort.get_or_insert(lower);
                Ok(())
            }
            Some(_) => Err(Refusal::new(
                name,
                format!("Invalid {name}: it must be a string."),
            )),
        }
    }

    fn budget(&mut self, name: &'static str, budget: Option<&Value>) -> Result<(), Refusal> {
        let Some(budget) = budget.filter(|budget| !budget.is_null()) else {
            return Ok(());
        };
        match whole(budget) {
            // As Gemini's clients write "as much as you like".
            Some(-1) => {}
            Some(n @ 0..) => {
                self.budget
                    .get_or_insert(usize::try_from(n).unwrap_or(usize::MAX));
            }
            _ => {
                return Err(Refusal::new(
                    name,
                    format!("Invalid {name}: it must be a whole number of tokens."),
                ));
            }
        }
        Ok(())
    }

    /// `reasoning`, as Responses and OpenRouter have it.
    fn reasoning(&mut self, reasoning: Option<&Value>) -> Result<(), Refusal> {
        const NAME: &str = "reasoning";
        let Some(reasoning) = reasoning.filter(|value| !value.is_null()) else {
            return Ok(());
        };
        let Some(reasoning) = reasoning.as_object() else {
            return match reasoning {
                Value::Bool(on) => {
                    self.switch(*on);
                    Ok(())
                }
                effort => self.effort(NAME, Some(effort)),
            };
        };
        if let Some(on) = reasoning.get("enabled").and_then(Value::as_bool) {
            self.switch(on);
        }
        self.effort(NAME, reasoning.get("effort"))?;
        self.budget(NAME, reasoning.get("max_tokens"))
    }
}

/// `thinking`: an object with a type, or simply true or false.
fn native(body: &mut Map<String, Value>, said: &mut Said) -> Result<(), Refusal> {
    const NAME: &str = "thinking";
    let wrong = || {
        Refusal::new(
            NAME,
            "Invalid thinking: its type must be enabled, adaptive or disabled.",
        )
    };
    match body.remove(NAME) {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Bool(on)) => {
            said.switch(on);
            Ok(())
        }
        Some(Value::Object(thinking)) => {
            match thinking.get("type").map(Value::as_str) {
                Some(Some("enabled" | "adaptive" | "auto")) => said.switch(true),
                Some(Some("disabled")) => said.switch(false),
                None if thinking.is_empty() => {}
                None if thinking.contains_key("budget_tokens") => said.switch(true),
                _ => return Err(wrong()),
            }
            said.budget(NAME, thinking.get("budget_tokens"))
        }
        Some(Value::String(word)) => match &*word {
            "enabled" | "adaptive" | "auto" => {
                said.switch(true);
                Ok(())
            }
            "disabled" => {
                said.switch(false);
                Ok(())
            }
            _ => Err(wrong()),
        },
        Some(_) => Err(wrong()),
    }
}

/// `chat_template_kwargs`: switches of thinking, and nothing else.
fn template(body: &mut Map<String, Value>, said: &mut Said) -> Result<(), Refusal> {
    const NAME: &str = "chat_template_kwargs";
    let kwargs = match body.remove(NAME) {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Object(kwargs)) => kwargs,
        Some(_) => {
            return Err(Refusal::new(
                NAME,
                format!("Invalid {NAME}: it must be an object."),
            ));
        }
    };
    for (key, value) in &kwargs {
        match (&**key, value) {
            (_, Value::Null) => {}
            (key, Value::Bool(on)) if SWITCHES.contains(&key) => said.switch(*on),
            ("thinking_budget", budget) => said.budget(NAME, Some(budget))?,
            ("reasoning_effort", effort) => said.effort(NAME, Some(effort))?,
            // What the format does anyway.
            ("add_generation_prompt", Value::Bool(true)) => {}
            (key, _) => {
                return Err(Refusal::new(
                    NAME,
                    format!(
                        "{NAME}.{key} is not supported: the model's format has enable_thinking, \
                         thinking, thinking_budget and reasoning_effort."
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// `enable_thinking` and `think`.
fn switches(body: &mut Map<String, Value>, said: &mut Said) -> Result<(), Refusal> {
    for name in ["enable_thinking", "think"] {
        match body.remove(name) {
            None | Some(Value::Null) => {}
            Some(Value::Bool(on)) => said.switch(on),
            Some(effort @ Value::String(_)) if name == "think" => {
                said.effort(name, Some(&effort))?
            }
            Some(_) => {
                return Err(Refusal::new(
                    name,
                    format!("Invalid {name}: it must be true or false."),
                ));
            }
        }
    }
    Ok(())
}

/// What was said, in the protocol's words.
fn write(protocol: Protocol, body: &mut Map<String, Value>, said: &Said) {
    let word = |on| if on { "enabled" } else { "disabled" };
    match protocol {
        Protocol::Chat | Protocol::Messages => {
            if let Some(on) = said.on {
                body.insert("thinking".into(), json!({"type": word(on)}));
            }
            let Some(effort) = &said.effort else {
                return;
            };
            match protocol {
                Protocol::Chat => {
                    body.insert("reasoning_effort".into(), effort.as_str().into());
                }
                _ => {
                    let config = body.entry("output_config").or_insert_with(|| json!({}));
                    if let Some(config) = config.as_object_mut() {
                        config.insert("effort".into(), effort.as_str().into());
                    }
                }
            }
        }
        // It has no switch: no effort is none, and any effort turns thinking on.
        Protocol::Responses => {
            let effort = match (said.on, &said.effort) {
                (Some(false), _) => "none",
                (Some(true), Some(effort)) if effort != "none" => effort,
                (Some(true), _) => "high",
                (None, Some(effort)) => effort,
                (None, None) => {
                    without_effort(body);
                    return;
                }
            };
            let reasoning = body.entry("reasoning").or_insert_with(|| json!({}));
            if !reasoning.is_object() {
                *reasoning = json!({});
            }
            if let Some(reasoning) = reasoning.as_object_mut() {
                reasoning.insert("effort".into(), effort.into());
            }
        }
    }
}

/// An effort that says nothing is left out.
fn without_effort(body: &mut Map<String, Value>) {
    match body.get_mut("reasoning") {
        Some(Value::Object(reasoning)) => {
            reasoning.shift_remove("effort");
        }
        Some(_) => {
            body.shift_remove("reasoning");
        }
        None => {}
    }
    debug_assert!(present(body, "reasoning").is_none_or(Value::is_object));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(protocol: Protocol, body: Value) -> Result<(Thinking, Value), Refusal> {
        let Value::Object(mut body) = body else {
            panic!("no object");
        };
        settle(protocol, &mut body).map(|thinking| (thinking, Value::Object(body)))
    }

    #[test]
    fn every_spelling_of_off_is_off() {
        for (protocol, body) in [
            (Protocol::Chat, json!({"thinking": {"type": "disabled"}})),
            (Protocol::Chat, json!({"thinking": false})),
            (Protocol::Chat, json!({"enable_thinking": false})),
            (Protocol::Chat, json!({"think": false})),
            (
                Protocol::Chat,
                json!({"chat_template_kwargs": {"thinking": false}}),
            ),
            (
                Protocol::Chat,
                json!({"chat_template_kwargs": {"enable_thinking": false}}),
            ),
            (Protocol::Chat, json!({"reasoning": {"effort": "none"}})),
            (Protocol::Chat, json!({"reasoning": {"enabled": false}})),
            (Protocol::Chat, json!({"reasoning_effort": "none"})),
            (Protocol::Chat, json!({"thinking_budget": 0})),
            (
                Protocol::Responses,
                json!({"reasoning": {"effort": "none"}}),
            ),
            (Protocol::Responses, json!({"enable_thinking": false})),
            (
                Protocol::Messages,
                json!({"thinking": {"type": "disabled"}}),
            ),
            (
                Protocol::Messages,
                json!({"chat_template_kwargs": {"thinking": false}}),
            ),
            (
                Protocol::Messages,
                json!({"output_config": {"effort": "none"}}),
            ),
        ] {
            let (thinking, after) = settled(protocol, body.clone()).unwrap();
            assert_eq!(thinking.asked, Some(false), "{body}");
            let off = after["thinking"]["type"] == "disabled"
                || after["reasoning_effort"] == "none"
                || after["reasoning"]["effort"] == "none"
                || after["output_config"]["effort"] == "none";
            assert!(off, "{body} -> {after}");
        }
    }

    #[test]
    fn the_protocols_own_word_comes_first() {
        let body = json!({"thinking": {"type": "enabled", "budget_tokens": 100},
            "chat_template_kwargs": {"thinking": false}, "reasoning_effort": "low"});
        let (thinking, after) = settled(Protocol::Chat, body).unwrap();
        assert_eq!(
            thinking,
            Thinking {
                asked: Some(true),
                budget: Some(100)
            }
        );
        assert_eq!(after["reasoning_effort"], "low");
        let (thinking, after) = settled(
            Protocol::Responses,
            json!({"reasoning": {"effort": null, "summary": "auto"}}),
        )
        .unwrap();
        assert_eq!(thinking, Thinking::default());
        assert_eq!(after, json!({"reasoning": {"summary": "auto"}}));
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (body, name) in [
            (
                json!({"chat_template_kwargs": {"tools_in_user_message": true}}),
                "tools_in_user_message",
            ),
            (
                json!({"chat_template_kwargs": {"thinking": "no"}}),
                "chat_template_kwargs.thinking",
            ),
            (json!({"reasoning_effort": "very"}), "reasoning_effort"),
            (json!({"thinking": {"type": "maybe"}}), "thinking"),
            (json!({"enable_thinking": "no"}), "enable_thinking"),
            (json!({"reasoning": {"max_tokens": "x"}}), "reasoning"),
        ] {
            let refusal = settled(Protocol::Chat, body).unwrap_err();
            assert!(refusal.message.contains(name), "{}", refusal.message);
        }
    }
}
