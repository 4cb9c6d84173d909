//! From a path to what answers it.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request, Response};
use v4_chat::Protocol;

use super::body::{self, Body, full};
use super::error::{ApiError, Kind, Style};
use super::guard::{self, Peer};
use crate::api;
use crate::jobs::Client;
use crate::service::{Service, new_id};

/// What a path stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Health,
    Metrics,
    Models,
    Model,
    Generate(Protocol),
    Prompt(Protocol),
    Completions,
    CountTokens,
}

impl Route {
    fn find(path: &str) -> Option<Self> {
        Some(match path {
            "/health" => Self::Health,
            "/metrics" => Self::Metrics,
            "/v1/models" => Self::Models,
            "/v1/chat/completions" => Self::Generate(Protocol::Chat),
            "/v1/chat/completions/prompt" => Self::Prompt(Protocol::Chat),
            "/v1/completions" => Self::Completions,
            "/v1/responses" => Self::Generate(Protocol::Responses),
            "/v1/responses/prompt" => Self::Prompt(Protocol::Responses),
            "/v1/messages" => Self::Generate(Protocol::Messages),
            "/v1/messages/prompt" => Self::Prompt(Protocol::Messages),
            "/v1/messages/count_tokens" => Self::CountTokens,
            _ if path.starts_with("/v1/models/") => Self::Model,
            _ => return None,
        })
    }

    /// For metrics.
    fn name(self) -> &'static str {
        match self {
            Self::Health => "/health",
            Self::Metrics => "/metrics",
            Self::Models => "/v1/models",
            Self::Model => "/v1/models/{model}",
            Self::Generate(Protocol::Chat) => "/v1/chat/completions",
            Self::Prompt(Protocol::Chat) => "/v1/chat/completions/prompt",
            Self::Completions => "/v1/completions",
            Self::Generate(Protocol::Responses) => "/v1/responses",
            Self::Prompt(Protocol::Responses) => "/v1/responses/prompt",
            Self::Generate(Protocol::Messages) => "/v1/messages",
            Self::Prompt(Protocol::Messages) => "/v1/messages/prompt",
            Self::CountTokens => "/v1/messages/count_tokens",
        }
    }

    fn method(self) -> (Method, &'static str) {
        match self {
            Self::Health | Self::Metrics | Self::Models | Self::Model => (Method::GET, "GET"),
            _ => (Method::POST, "POST"),
        }
    }
}

/// Whose format errors of a path have.
fn style(path: &str) -> Style {
    match path.starts_with("/v1/messages") {
        true => Style::Anthropic,
        false => Style::OpenAi,
    }
}

/// Answers a request.
pub(crate) async fn handle(
    service: Arc<Service>,
    peer: Peer,
    request: Request<Incoming>,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let style = style(&path);
    let route = Route::find(&path);
    let answer = match route {
        Some(route) => dispatch(&service, route, &path, peer, request).await,
        None => Err(ApiError::new(
            Kind::NotFound,
            format!("There is no {path} here."),
        )),
    };
    let mut response = answer.unwrap_or_else(|error| {
        if error.kind == Kind::Internal {
            service.log(&format!("{path}: {}", error.message));
        }
        error.response(style)
    });
    let name = route.map_or("other", Route::name);
    service.metrics().answered(name, response.status().as_u16());
    // What the protocols' libraries show when something is wrong.
    if let Ok(id) = HeaderValue::from_str(&new_id("req_")) {
        for name in ["request-id", "x-request-id"] {
            let name = HeaderName::from_static(name);
            response.headers_mut().insert(name, id.clone());
        }
    }
    response
}

async fn dispatch(
    service: &Arc<Service>,
    route: Route,
    path: &str,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let (method, name) = route.method();
    if *request.method() != method {
        return Err(ApiError::new(
            Kind::Method(name),
            format!("{path} is for {name}."),
        ));
    }
    if route == Route::Health {
        return Ok(api::health(service));
    }
    let headers = request.headers();
    let keys = &service.config().keys;
    guard::not_from_a_page(headers, peer, keys)?;
    let client = guard::client(headers, peer, keys)?;
    match route {
        Route::Health => Ok(api::health(service)),
        Route::Metrics => Ok(metrics(service)),
        Route::Models => Ok(json_response(&api::models(service))),
        Route::Model => {
            let model = path.trim_start_matches("/v1/models/");
            api::model(service, model).map(|model| json_response(&model))
        }
        _ => post(service, route, client, request).await,
    }
}

async fn post(
    service: &Arc<Service>,
    route: Route,
    client: Client,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let config = service.config();
    // Bodies and prompts in the making take memory: some at a time.
    let turn = service.body_turn().await?;
    let body = body::read(request.into_body(), config.max_body, config.read_timeout).await?;
    match route {
        Route::Generate(protocol) => api::chat::answer(service, protocol, client, body, turn).await,
        Route::Prompt(protocol) => api::chat::prompt(service, protocol, body)
            .await
            .map(|prompt| json_response(&prompt)),
        Route::CountTokens => api::chat::count(service, Protocol::Messages, body)
            .await
            .map(|counted| json_response(&counted)),
        _ => api::completions::answer(service, client, body, turn).await,
    }
}

fn metrics(service: &Service) -> Response<Body> {
    let mut response = Response::new(full(service.metrics_text()));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// A response in JSON.
pub(crate) fn json_response(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
