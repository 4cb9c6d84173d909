//! What each path does.

pub(crate) mod chat;
pub(crate) mod completions;
mod extras;
mod generation;
mod marks;

use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use crate::http::{ApiError, Body, full, json_response};
use crate::service::Service;

/// Whether requests are taken.
pub(crate) fn health(service: &Service) -> Response<Body> {
    if service.jobs().draining() {
        let mut response = Response::new(full(r#"{"status":"stopping"}"#));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        let kind = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        return response;
    }
    json_response(&json!({"status": "ok"}))
}

/// The list of models, in a form that both families of clients read.
pub(crate) fn models(service: &Service) -> Value {
    let names: Vec<_> = service.models().names().collect();
    let models: Vec<_> = names.iter().map(|name| describe(service, name)).collect();
    json!({
        "object": "list",
        "data": models,
        "has_more": false,
        "first_id": names.first(),
        "last_id": names.last(),
    })
}

/// A model, by its name.
pub(crate) fn model(service: &Service, name: &str) -> Result<Value, ApiError> {
    service.models().find(name)?;
    Ok(describe(service, name))
}

fn describe(service: &Service, name: &str) -> Value {
    let config = service.config();
    let mut model = json!({
        "id": name,
        "object": "model",
        "created": service.created(),
        "owned_by": "local",
        "type": "model",
        "display_name": name,
        "created_at": rfc3339(service.created()),
        "max_model_len": config.context,
    });
    if name != config.model {
        model["parent"] = config.model.as_str().into();
    }
    model
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
