//! Lines that clients add to system prompts for their own accounting.

use serde_json::Value;

/// Lines of this beginning change with each request and say nothing to a model: they
/// would keep any prompt from continuing from the one before.
const BILLING: &str = "x-anthropic-billing-header";

/// Takes lines out of a system prompt that change with each request and mean nothing.
pub(super) fn without_billing(content: &mut Value) {
    let strip = |text: &str| -> Option<String> {
        let billing = |line: &str| {
            let line = line.trim_start();
            line.get(..BILLING.len())
                .is_some_and(|s| s.eq_ignore_ascii_case(BILLING))
        };
        if !text.lines().any(billing) {
            return None;
        }
        let lines = text.split_inclusive('\n').filter(|line| !billing(line));
        Some(lines.collect())
    };
    match content {
        Value::String(text) => {
            if let Some(new) = strip(text) {
                *text = new;
            }
        }
        Value::Array(parts) => parts.retain_mut(|part| {
            let Some(Value::String(text)) = part.get_mut("text") else {
                return true;
            };
            match strip(text) {
                Some(new) => {
                    *text = new;
                    !text.trim().is_empty()
                }
                None => true,
            }
        }),
        _ => {}
    }
}
