//! The list of models, in the forms that different clients expect.

use serde_json::{Value, json};

use crate::http::ApiError;
use crate::service::Service;

/// Codex's own catalogue of models, with `@MODEL@` and `@CTX@` where the model's name and
/// its context belong. It is told its instructions here as well: an entry must have them.
pub const CODEX_MODELS: &str = include_str!("codex-models.json");

/// The list of models, in a form that all families of clients read.
pub(crate) fn list(service: &Service) -> Value {
    let names: Vec<_> = service.models().names().collect();
    let data: Vec<_> = names.iter().map(|name| describe(service, name)).collect();
    let codex = names.iter().enumerate();
    let codex: Vec<_> = codex.map(|(i, name)| for_codex(service, name, i)).collect();
    json!({
        "object": "list",
        "data": data,
        "models": codex,
        "has_more": false,
        "first_id": names.first(),
        "last_id": names.last(),
    })
}

/// A model, by its name.
pub(crate) fn one(service: &Service, name: &str) -> Result<Value, ApiError> {
    service.models().find(name)?;
    Ok(describe(service, name))
}

fn describe(service: &Service, name: &str) -> Value {
    let config = service.config();
    let context = config.context;
    let mut model = json!({
        "id": name,
        "object": "model",
        "created": service.created(),
        "owned_by": "local",
        "type": "model",
        "display_name": name,
        "created_at": rfc3339(service.created()),
        // How much fits, under the names that clients look for: vLLM's, Mistral's,
        // OpenRouter's, Anthropic's, and llama-server's.
        "max_model_len": context,
        "max_context_length": context,
        "context_length": context,
        "context_window": context,
        "max_input_tokens": context,
        "max_tokens": context,
        "meta": {"n_ctx": context, "n_ctx_train": service.trained_context()},
    });
    if name != config.model {
        model["parent"] = config.model.as_str().into();
    }
    model
}

/// A model as Codex's catalogue has it. Codex rejects the whole list if an entry lacks one
/// of its fields.
fn for_codex(service: &Service, name: &str, place: usize) -> Value {
    // A name is put in as a value: it may have any characters.
    let text = CODEX_MODELS.replace("@CTX@", &service.config().context.to_string());
    let mut all: Value = serde_json::from_str(&text).unwrap_or_default();
    let mut model = all["models"][0].take();
    for field in ["slug", "display_name"] {
        model[field] = name.into();
    }
    model["priority"] = place.into();
    model
}

/// What llama-server's clients ask about a server.
pub(crate) fn props(service: &Service) -> Value {
    let config = service.config();
    json!({
        "default_generation_settings": {"n_ctx": config.context},
        "total_slots": config.parallel,
        "model_alias": config.model,
        "modalities": {"vision": false, "audio": false},
        "build_info": concat!("v4-run ", env!("CARGO_PKG_VERSION")),
    })
}

/// Seconds since 1970 as a date and time in UTC.
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of the year 0, in eras of 400 years (146,097 days).
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..10 => (era * 400 + year, month + 3),
        _ => (era * 400 + year + 1, month - 9),
    };
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }
}
