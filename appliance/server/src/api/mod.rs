//! The handlers of all paths.

pub(crate) mod chat;
pub(crate) mod completions;
mod extras;
mod ignored;
mod marks;
pub(crate) mod models;
mod respond;
pub(crate) mod tokens;

use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::json;

use crate::http::{Body, full, json_response};
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
