//! Converts text to ids and back, in the forms of llama-server and vLLM.

use serde_json::{Value, json};
use v4_chat::Request;

use super::completions::prompt::{Reading, encode};
use crate::http::{ApiError, Kind};
use crate::service::Service;

/// The ids that a text has in a prompt of `/v1/completions`.
pub(crate) fn tokenize(service: &Service, body: &[u8]) -> Result<Value, ApiError> {
    let body = Request::read(body)?;
    if !body["messages"].is_null() {
        return Err(ApiError::invalid(
            "messages",
            "messages is not supported here; use /v1/chat/completions/prompt.",
        ));
    }
    let tokenizer = service.tokenizer();
    let text = body["content"].as_str().or_else(|| body["prompt"].as_str());
    let text =
        text.ok_or_else(|| ApiError::invalid("content", "Invalid content: it must be a string."))?;
    let flag = |name: &'static str| match &body[name] {
        Value::Null => Ok(None),
        Value::Bool(is) => Ok(Some(*is)),
        _ => Err(ApiError::invalid(
            name,
            format!("Invalid {name}: it must be true or false."),
        )),
    };
    let reading = match flag("parse_special")? {
        Some(true) => Reading::All,
        _ => Reading::Gaps,
    };
    let mut ids = encode(tokenizer, text, reading)?;
    // llama-server leaves out what begins a text unless it is asked for, vLLM only if it is
    // asked to.
    let begins = match body["content"].is_null() {
        true => flag("add_special_tokens")?.unwrap_or(true),
        false => flag("add_special")?.unwrap_or(false),
    };
    if let (true, Some(bos)) = (begins, tokenizer.bos()) {
        ids.insert(0, bos);
    }
    let pieces = flag("with_pieces")? == Some(true);
    let piece = |&id: &u32| {
        let bytes = tokenizer.token_bytes(id).unwrap_or_default();
        let piece = std::str::from_utf8(bytes).map_or_else(|_| json!(bytes), |text| json!(text));
        json!({"id": id, "piece": piece})
    };
    Ok(json!({
        "tokens": match pieces {
            true => ids.iter().map(piece).collect(),
            false => json!(ids),
        },
        "count": ids.len(),
        "max_model_len": service.config().context,
    }))
}

/// The text of some ids.
pub(crate) fn detokenize(service: &Service, body: &[u8]) -> Result<Value, ApiError> {
    let body = Request::read(body)?;
    let wrong = || ApiError::invalid("tokens", "Invalid tokens: it must be a list of token ids.");
    let ids = body["tokens"].as_array().ok_or_else(wrong)?;
    let id = |id: &Value| u32::try_from(id.as_u64()?).ok();
    let ids: Vec<u32> = ids
        .iter()
        .map(id)
        .collect::<Option<_>>()
        .ok_or_else(wrong)?;
    let bytes = service
        .tokenizer()
        .decode(&ids)
        .map_err(|e| ApiError::new(Kind::Invalid, format!("Invalid tokens: {e}.")))?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(json!({"content": text, "prompt": text}))
}
