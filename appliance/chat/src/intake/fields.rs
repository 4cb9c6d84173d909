//! Every known field of a request, path by path, and how it is treated.
//!
//! Three kinds: fields that are used, fields that change nothing (agents send them with
//! every request), and fields that would change the answer and are not there, which are
//! refused by name. A field of another path counts among the last: a client that sends
//! `stop` to Responses believes that it will be honoured. What no table knows is passed
//! over: refusing it would shut out more clients than it helps.
//!
//! `docs/server.md` has these tables; a test compares them.

use serde_json::{Map, Value};

use super::refusal::Refusal;
use crate::json::present;

/// A path of a chat protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/responses`.
    Responses,
    /// `/v1/messages`.
    Messages,
}

impl Path {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Chat, Self::Responses, Self::Messages];

    /// As in the address.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
        }
    }

    /// Fields that are used.
    #[must_use]
    pub fn used(self) -> Vec<&'static str> {
        let own = match self {
            Self::Chat => CHAT,
            Self::Responses => RESPONSES,
            Self::Messages => MESSAGES,
        };
        [EVERYWHERE, own].concat()
    }

    /// Fields that are taken and change nothing.
    #[must_use]
    pub fn harmless(self) -> Vec<&'static str> {
        let own = match self {
            Self::Chat => CHAT_HARMLESS,
            Self::Responses => RESPONSES_HARMLESS,
            Self::Messages => MESSAGES_HARMLESS,
        };
        [HARMLESS, own].concat()
    }

    /// Fields that are refused, and what to do instead.
    #[must_use]
    pub fn refused(self) -> Vec<(&'static str, &'static str)> {
        let (used, harmless) = (self.used(), self.harmless());
        let known = |name: &str| used.contains(&name) || harmless.contains(&name);
        let own = match self {
            Self::Chat => CHAT_REFUSED,
            Self::Responses => RESPONSES_REFUSED,
            Self::Messages => MESSAGES_REFUSED,
        };
        let mut all: Vec<_> = own.iter().chain(REFUSED).copied().collect();
        all.retain(|(name, _)| !known(name));
        let others = Self::ALL.iter().map(|other| other.used());
        for names in others.chain([COMPLETIONS.to_vec()]) {
            for name in names {
                if !known(name) && all.iter().all(|(n, _)| *n != name) {
                    all.push((name, "it belongs to another endpoint"));
                }
            }
        }
        all
    }

    /// The fields of all tables.
    #[must_use]
    pub fn known(self) -> Vec<&'static str> {
        let refused = self.refused().into_iter().map(|(name, _)| name);
        let taken = [self.used(), self.harmless()].concat();
        taken.into_iter().chain(refused).collect()
    }

    /// Refuses a request with a field that would change its answer and is not there.
    ///
    /// # Errors
    /// [`Refusal`] with the field's name.
    pub fn check(self, body: &Map<String, Value>) -> Result<(), Refusal> {
        for (name, instead) in self.refused() {
            if present(body, name).is_some_and(|value| !is_neutral(name, value)) {
                return Err(Refusal::new(
                    name,
                    format!("{name} is not supported on {}: {instead}.", self.name()),
                ));
            }
        }
        Ok(())
    }
}

/// Whether a value asks for nothing.
fn is_neutral(name: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        // Where true is the default, false asks for something.
        Value::Bool(on) => *on == ON_BY_DEFAULT.contains(&name),
        Value::String(text) => text.is_empty() || (name == "function_call" && text == "none"),
        Value::Array(all) => {
            all.is_empty() || (name == "modalities" && all.iter().all(|kind| kind == "text"))
        }
        Value::Object(all) => all.is_empty(),
        Value::Number(n) => {
            let neutral = if ONE_BY_DEFAULT.contains(&name) {
                1.0
            } else {
                0.0
            };
            n.as_f64() == Some(neutral)
        }
    }
}

/// Of the fields that are refused, those that are true, and those that are 1, where
/// nothing is asked for.
const ON_BY_DEFAULT: &[&str] = &["add_generation_prompt", "skip_special_tokens", "reasoning"];
const ONE_BY_DEFAULT: &[&str] = &[
    "typical_p",
    "tfs_z",
    "length_penalty",
    "dynatemp_exponent",
    "best_of",
    "n",
    "beam_width",
];

/// Used on every path.
const EVERYWHERE: &[&str] = &[
    "model",
    "stream",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "repeat_penalty",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "seed",
    "stop_loops",
];

const CHAT: &[&str] = &[
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "stream_options",
    "n",
    "logprobs",
    "top_logprobs",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "thinking",
    "enable_thinking",
    "think",
    "thinking_budget",
    "thinking_token_budget",
    "reasoning",
    "reasoning_effort",
    "chat_template_kwargs",
    "continue_final_message",
    "add_generation_prompt",
];

const RESPONSES: &[&str] = &[
    "input",
    "instructions",
    "max_output_tokens",
    "include",
    "top_logprobs",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "text",
    "reasoning",
    "thinking",
    "enable_thinking",
    "think",
    "chat_template_kwargs",
    "continue_final_message",
];

const MESSAGES: &[&str] = &[
    "messages",
    "system",
    "max_tokens",
    "stop_sequences",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "thinking",
    "enable_thinking",
    "think",
    "chat_template_kwargs",
    "output_config",
    "output_format",
    "context_management",
];

/// Further fields of `/v1/completions`, which has its own tables.
const COMPLETIONS: &[&str] = &["prompt", "suffix", "best_of", "echo"];

/// Without effect on any path: who asks, where it is billed and stored, how fast it should be,
/// caching, which is done here without being asked, and what only bounds the work.
const HARMLESS: &[&str] = &[
    "user",
    "metadata",
    "store",
    "service_tier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "cache_control",
    "betas",
    "client_metadata",
    "extra_headers",
    "timeout",
    "priority",
    "request_id",
    "keep_alive",
    "cache_prompt",
    "id_slot",
    "return_token_ids",
    "return_progress",
    "timings_per_token",
];

const CHAT_HARMLESS: &[&str] = &[
    "prediction",
    "verbosity",
    "include_reasoning",
    "usage",
    "provider",
    "spaces_between_special_tokens",
];

const RESPONSES_HARMLESS: &[&str] = &[
    "truncation",
    "max_tool_calls",
    "stream_options",
    "verbosity",
];

const MESSAGES_HARMLESS: &[&str] = &[
    "anthropic_version",
    "anthropic_beta",
    "inference_geo",
    "safeguards",
    "speed",
];

/// Refused wherever no table above has them.
const REFUSED: &[(&str, &str)] = &[
    ("guided_json", "use response_format with a json_schema"),
    ("guided_regex", "use response_format with a regex"),
    ("guided_choice", "use response_format with a regex"),
    (
        "guided_grammar",
        "use response_format with a json_schema or a regex",
    ),
    ("guided_decoding_backend", "leave it out; there is only one"),
    ("guided_whitespace_pattern", "leave it out"),
    ("structured_outputs", "use response_format"),
    ("structural_tag", "use response_format"),
    (
        "grammar",
        "use response_format with a json_schema or a regex",
    ),
    ("ebnf", "use response_format with a json_schema or a regex"),
    ("json_schema", "use response_format"),
    ("regex", "use response_format with a regex"),
    ("min_tokens", "the model decides where an answer ends"),
    ("min_length", "the model decides where an answer ends"),
    ("ignore_eos", "the model decides where an answer ends"),
    ("stop_token_ids", "use stop with strings"),
    ("skip_special_tokens", "marks are never part of the text"),
    ("add_special_tokens", "the prompt format adds its own marks"),
    (
        "include_stop_str_in_output",
        "the client already has the text",
    ),
    ("no_stop_trim", "the client already has the text"),
    ("bad_words", "use logit_bias"),
    ("allowed_token_ids", "use logit_bias"),
    ("logits_processors", "use logit_bias"),
    ("logit_bias_exp", "use logit_bias"),
    ("use_beam_search", "one answer per request"),
    ("beam_width", "one answer per request"),
    ("best_of", "one answer per request"),
    ("n", "one answer per request"),
    ("n_probs", "use logprobs"),
    ("length_penalty", "it belongs to beam search"),
    ("early_stopping", "it belongs to beam search"),
    ("typical_p", "use top_p or min_p"),
    ("tfs_z", "use top_p or min_p"),
    ("top_a", "use top_p or min_p"),
    ("epsilon_cutoff", "use top_p or min_p"),
    ("eta_cutoff", "use top_p or min_p"),
    ("mirostat", "use top_p or min_p"),
    ("mirostat_mode", "use top_p or min_p"),
    ("dynatemp_range", "use temperature"),
    ("xtc_probability", "use top_p or min_p"),
    ("dry_multiplier", "use repetition_penalty"),
    ("no_repeat_ngram_size", "use repetition_penalty"),
    ("samplers", "the order of the samplers is fixed"),
    ("prompt_logprobs", "logprobs cover only the answer"),
    ("truncate_prompt_tokens", "send only what fits"),
    ("echo", "the client already has the prompt"),
    ("chat_template", "the model's own format is used"),
    ("documents", "put their text into a message"),
    ("mm_processor_kwargs", "this service accepts only text"),
    ("images", "this service accepts only text"),
    ("videos", "this service accepts only text"),
    ("lora", "name the adapter as the model"),
    ("lora_path", "name the adapter as the model"),
    ("lora_request", "name the adapter as the model"),
    ("custom_logit_processor", "use logit_bias"),
    ("plugins", "this service does not search or read anything"),
    ("transforms", "send only what fits"),
    ("web_search_options", "this service does not search"),
    ("search_parameters", "this service does not search"),
    ("enable_search", "this service does not search"),
    ("mcp_servers", "the client must call its servers itself"),
    ("container", "this service does not run code"),
    ("format", "use response_format"),
    ("options", "use the fields themselves"),
    ("raw", "use /v1/completions"),
    ("template", "the model's own format is used"),
    ("think", "use reasoning_effort or thinking"),
    ("functions", "use tools"),
    ("function_call", "use tool_choice"),
    ("modalities", "this model writes only text"),
    ("audio", "this model writes only text"),
    ("previous_response_id", KEPT_NOWHERE),
    ("conversation", KEPT_NOWHERE),
    ("background", "use stream"),
    ("max_new_tokens", "use max_tokens"),
    ("max_gen_len", "use max_tokens"),
    ("num_predict", "use max_tokens"),
    ("n_predict", "use max_tokens"),
    ("random_seed", "use seed"),
    ("safe_prompt", "write it into the prompt"),
    ("system_prompt", "send it as a message"),
];

const KEPT_NOWHERE: &str = "send the whole conversation; the part shared with earlier requests is \
                            not computed again";

const CHAT_REFUSED: &[(&str, &str)] = &[
    ("system", "send a message with the role system"),
    ("instructions", "send a message with the role system"),
    ("input", "use messages"),
    ("prompt", "use messages, or /v1/completions"),
    ("max_output_tokens", "use max_tokens"),
    ("stop_sequences", "use stop"),
    ("text", "use response_format"),
    ("output_config", "use reasoning_effort and response_format"),
    ("output_format", "use response_format"),
    ("suffix", "use /v1/completions"),
];

const RESPONSES_REFUSED: &[(&str, &str)] = &[
    ("messages", "use input"),
    ("system", "use instructions"),
    ("prompt", "use instructions and input"),
    ("max_tokens", "use max_output_tokens"),
    ("max_completion_tokens", "use max_output_tokens"),
    (
        "stop",
        "Responses has no stop sequences; use /v1/chat/completions",
    ),
    (
        "stop_sequences",
        "Responses has no stop sequences; use /v1/messages",
    ),
    ("response_format", "use text.format"),
    ("reasoning_effort", "use reasoning.effort"),
    ("logprobs", "use top_logprobs"),
    ("context_management", "send only what fits"),
];

const MESSAGES_REFUSED: &[(&str, &str)] = &[
    ("input", "use messages"),
    ("instructions", "use system"),
    ("prompt", "use messages, or /v1/completions"),
    ("max_output_tokens", "use max_tokens"),
    ("max_completion_tokens", "use max_tokens"),
    ("max_tokens_to_sample", "use max_tokens"),
    ("stop", "use stop_sequences"),
    ("response_format", "use output_config.format"),
    ("reasoning_effort", "use output_config.effort"),
    ("reasoning", "use thinking or output_config.effort"),
    (
        "logprobs",
        "Messages has no logprobs; use /v1/chat/completions",
    ),
    (
        "top_logprobs",
        "Messages has no logprobs; use /v1/chat/completions",
    ),
];

/// The tables as `docs/server.md` has them.
#[must_use]
pub fn document() -> String {
    use std::fmt::Write as _;
    let list = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        names.join(", ")
    };
    let mut text = String::new();
    // Writing to a string cannot fail.
    for path in Path::ALL {
        let refused: Vec<&str> = path.refused().iter().map(|(name, _)| *name).collect();
        let _ = writeln!(
            text,
            "**`{}`**\n\n- used: {}\n- no effect: {}\n- refused by name: {}\n",
            path.name(),
            list(&path.used()),
            list(&path.harmless()),
            list(&refused),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(path: Path, body: Value) -> Result<(), Refusal> {
        path.check(body.as_object().unwrap())
    }

    #[test]
    fn no_field_is_of_two_kinds() {
        for path in Path::ALL {
            let (used, harmless) = (path.used(), path.harmless());
            let refused: Vec<&str> = path.refused().iter().map(|(name, _)| *name).collect();
            let mut all = [used, harmless, refused].concat();
            all.sort_unstable();
            let twice: Vec<_> = all.windows(2).filter(|w| w[0] == w[1]).collect();
            assert!(twice.is_empty(), "{path:?}: {twice:?}");
        }
    }

    #[test]
    fn what_would_change_the_answer_is_refused_by_name() {
        for (path, body) in [
            (Path::Chat, json!({"guided_json": {"type": "object"}})),
            (Path::Chat, json!({"system": "Latin"})),
            (Path::Chat, json!({"min_tokens": 5})),
            (Path::Chat, json!({"input": "x"})),
            (Path::Responses, json!({"stop": ["x"]})),
            (Path::Responses, json!({"previous_response_id": "r"})),
            (Path::Responses, json!({"background": true})),
            (Path::Responses, json!({"messages": [{}]})),
            (Path::Messages, json!({"stop": "x"})),
            (
                Path::Messages,
                json!({"response_format": {"type": "json_object"}}),
            ),
            (Path::Messages, json!({"mcp_servers": [{}]})),
        ] {
            let name = body.as_object().unwrap().keys().next().unwrap().clone();
            let refusal = check(path, body).unwrap_err();
            assert_eq!(refusal.param, name);
            assert!(refusal.message.contains(&name), "{}", refusal.message);
        }
    }

    #[test]
    fn false_asks_for_something_where_true_is_the_default() {
        for (path, name) in [
            (Path::Messages, "add_generation_prompt"),
            (Path::Responses, "add_generation_prompt"),
            (Path::Messages, "reasoning"),
            (Path::Chat, "skip_special_tokens"),
        ] {
            assert!(
                check(path, json!({ name: false })).is_err(),
                "{path:?} {name}"
            );
            assert!(
                check(path, json!({ name: true })).is_ok(),
                "{path:?} {name}"
            );
        }
        assert!(check(Path::Chat, json!({"system": "disabled"})).is_err());
        assert!(check(Path::Chat, json!({"add_special_tokens": true})).is_err());
    }

    #[test]
    fn what_asks_for_nothing_is_taken() {
        for (path, body) in [
            (
                Path::Chat,
                json!({"functions": [], "audio": null, "min_tokens": 0}),
            ),
            (
                Path::Chat,
                json!({"length_penalty": 1, "ignore_eos": false, "modalities": ["text"]}),
            ),
            (
                Path::Chat,
                json!({"user": "u", "store": true, "unheard_of": 1}),
            ),
            (
                Path::Responses,
                json!({"background": false, "store": true, "conversation": null}),
            ),
            (
                Path::Messages,
                json!({"mcp_servers": [], "betas": ["x"], "container": null}),
            ),
        ] {
            assert!(check(path, body.clone()).is_ok(), "{body}");
        }
    }

    #[test]
    fn the_documentation_has_these_tables() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/server.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (begin, end) = ("<!-- fields -->\n", "<!-- end of fields -->\n");
        let (before, rest) = page
            .split_once(begin)
            .expect("docs/server.md has no fields");
        let (found, after) = rest.split_once(end).expect("the fields have no end");
        let wanted = format!("\n{}", document());
        if std::env::var_os("V4_WRITE_DOCS").is_some() && found != wanted {
            std::fs::write(path, [before, begin, &wanted, end, after].concat()).unwrap();
            return;
        }
        assert_eq!(
            found, wanted,
            "docs/server.md has other tables; run this test with V4_WRITE_DOCS=1 set"
        );
    }
}
