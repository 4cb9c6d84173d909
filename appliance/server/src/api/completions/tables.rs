//! The fields of a request for raw text that are read, that have no effect, and that would
//! change the answer and are refused by name.

use serde_json::Value;

/// Fields that are read, on each of the paths for raw text unless said otherwise.
pub(super) const READ: &[&str] = &[
    "model",
    "prompt",
    "suffix",
    "segments",
    "max_tokens",
    "max_completion_tokens",
    "n_predict",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "random_seed",
    "stop",
    "stream",
    "stream_options",
    "logprobs",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "repeat_penalty",
    "repeat_last_n",
    "logit_bias",
    "parse_special",
    "add_special_tokens",
    "n_indent",
    "t_max_prompt_ms",
    "t_max_predict_ms",
    "stop_loops",
];

/// Those that only `/completion` and `/infill` read.
pub(super) const READ_BY_LLAMA: &[&str] = &[
    "samplers",
    "n_probs",
    "response_fields",
    "return_tokens",
    "return_progress",
    "timings_per_token",
];

/// Those that only `/infill` reads.
pub(super) const READ_BY_INFILL: &[&str] = &["input_prefix", "input_suffix", "input_extra"];

/// Those that `/infill` has under another name.
pub(super) const NOT_BY_INFILL: &[(&str, &str)] = &[
    ("suffix", "use input_suffix"),
    ("segments", "use input_prefix, input_suffix and input_extra"),
];

/// Fields that say nothing about the text.
pub(super) const HARMLESS: &[&str] = &[
    "user",
    "metadata",
    "store",
    "service_tier",
    "prompt_cache_key",
    "safety_identifier",
    "priority",
    "request_id",
    "cache_prompt",
    "id_slot",
    "slot_id",
    "n_keep",
    "n_discard",
    "language",
    "extra",
    "nwo",
    "spaces_between_special_tokens",
];

/// A field that would change the answer, and is not there.
pub(super) struct Refused {
    pub name: &'static str,
    /// Values that ask for nothing.
    pub unless: fn(&Value) -> bool,
    /// What to do instead.
    pub instead: &'static str,
}

const fn refused(name: &'static str, unless: fn(&Value) -> bool, instead: &'static str) -> Refused {
    Refused {
        name,
        unless,
        instead,
    }
}

/// No value asks for nothing but none at all.
fn never(_: &Value) -> bool {
    false
}

fn off(value: &Value) -> bool {
    *value == Value::Bool(false)
}

fn on(value: &Value) -> bool {
    *value == Value::Bool(true)
}

fn zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0) || off(value)
}

fn one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(is) => !is,
        _ => false,
    }
}

fn text_format(value: &Value) -> bool {
    empty(value) || value["type"] == "text"
}

const CHAT: &str = "use /v1/chat/completions";
const FORMAT: &str = "use response_format on /v1/chat/completions";
const STOP: &str = "use stop";
const LIMIT: &str = "use max_tokens";
const BIAS: &str = "use logit_bias";
const SAMPLER: &str = "use temperature, top_p, top_k or min_p";
const LLAMA: &str = "use /completion or /infill";
const INFILL: &str = "use prompt and suffix, or /infill";

/// Fields that would change the answer and are not there.
pub(super) const REFUSED: &[Refused] = &[
    refused("n", one, "send one request per answer"),
    refused(
        "best_of",
        |v| one(v) || zero(v),
        "send one request per answer",
    ),
    refused("n_cmpl", one, "send one request per answer"),
    refused("echo", off, "the client already has the prompt"),
    refused("messages", never, CHAT),
    refused("input", never, "use prompt, or /v1/responses"),
    refused(
        "system",
        empty,
        "write it into prompt, or use /v1/chat/completions",
    ),
    refused(
        "instructions",
        empty,
        "write it into prompt, or use /v1/responses",
    ),
    refused("tools", empty, CHAT),
    refused("functions", empty, CHAT),
    refused("tool_choice", |v| v == "none" || v == "auto", CHAT),
    refused("response_format", text_format, FORMAT),
    refused("format", empty, FORMAT),
    refused("json_schema", empty, FORMAT),
    refused("grammar", empty, FORMAT),
    refused("structured_outputs", empty, FORMAT),
    refused("guided_json", empty, FORMAT),
    refused("guided_regex", empty, FORMAT),
    refused("guided_choice", empty, FORMAT),
    refused("guided_grammar", empty, FORMAT),
    refused("regex", empty, FORMAT),
    refused("ebnf", empty, FORMAT),
    refused("min_tokens", zero, "there is no minimum length"),
    refused("max_new_tokens", never, LIMIT),
    refused("max_output_tokens", never, LIMIT),
    refused("max_length", never, LIMIT),
    refused("num_predict", never, LIMIT),
    refused("stop_token_ids", empty, STOP),
    refused("stop_sequences", empty, STOP),
    refused(
        "include_stop_str_in_output",
        off,
        "the client already knows the stop string",
    ),
    refused(
        "no_stop_trim",
        off,
        "the client already knows the stop string",
    ),
    refused(
        "ignore_eos",
        off,
        "use logit_bias on the end-of-sentence token",
    ),
    refused("bad_words", empty, BIAS),
    refused("allowed_token_ids", empty, BIAS),
    refused("skip_special_tokens", on, "marks are never written as text"),
    refused(
        "truncate_prompt_tokens",
        never,
        "shorten the prompt before sending it",
    ),
    refused("prompt_logprobs", zero, "logprobs cover only the answer"),
    refused(
        "post_sampling_probs",
        off,
        "logprobs are those of the model",
    ),
    refused("use_beam_search", off, SAMPLER),
    refused("length_penalty", one, SAMPLER),
    refused("typical_p", one, SAMPLER),
    refused("typ_p", one, SAMPLER),
    refused("tfs_z", one, SAMPLER),
    refused("top_a", zero, SAMPLER),
    refused(
        "top_n_sigma",
        |v| v.as_f64().is_some_and(|n| n <= 0.0),
        SAMPLER,
    ),
    refused("mirostat", zero, SAMPLER),
    refused("dynatemp_range", zero, SAMPLER),
    refused("xtc_probability", zero, SAMPLER),
    refused("dry_multiplier", zero, "use frequency_penalty"),
    refused("image_data", empty, "this model accepts only text"),
    refused("images", empty, "this model accepts only text"),
    refused("multimodal_data", empty, "this model accepts only text"),
    refused("lora", empty, "name the adapter as the model"),
    refused("template", empty, "send the complete prompt"),
    refused(
        "options",
        empty,
        "send Ollama's options as fields of the request",
    ),
    refused("mode", |v| v == "standard", "there is no other mode"),
    refused("input_prefix", empty, INFILL),
    refused("input_suffix", empty, INFILL),
    refused("input_extra", empty, INFILL),
    refused("samplers", empty, LLAMA),
    refused("n_probs", zero, LLAMA),
    refused("response_fields", empty, LLAMA),
    refused("return_tokens", off, LLAMA),
    refused("return_progress", off, LLAMA),
    refused("timings_per_token", off, LLAMA),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_names_them_all() {
        let manual = include_str!("../../../../../docs/server.md");
        let refused = REFUSED.iter().map(|r| r.name);
        for name in READ
            .iter()
            .chain(READ_BY_LLAMA)
            .chain(READ_BY_INFILL)
            .chain(HARMLESS)
            .copied()
            .chain(refused)
        {
            assert!(
                manual.contains(&format!("`{name}`")),
                "docs/server.md lacks `{name}`"
            );
        }
    }

    #[test]
    fn no_field_stands_in_two_tables() {
        let refused = REFUSED.iter().map(|r| r.name);
        let refused =
            refused.filter(|name| !READ_BY_LLAMA.contains(name) && !READ_BY_INFILL.contains(name));
        let all: Vec<_> = READ
            .iter()
            .chain(READ_BY_LLAMA)
            .chain(READ_BY_INFILL)
            .chain(HARMLESS)
            .copied()
            .chain(refused)
            .collect();
        let mut once = all.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), all.len());
    }
}
