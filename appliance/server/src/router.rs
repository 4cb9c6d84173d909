//! Routes requests to their handlers.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use hyper::{Method, Request, Response, StatusCode};
use v4_chat::Protocol;

use crate::api;
use crate::http::{
    ApiError, Body, Kind, Path, Peer, Route, Style, cors, full, guard, json_response, read_body,
};
use crate::jobs::Client;
use crate::service::Service;
use crate::stamp::new_id;

/// Sent by Anthropic's clients on every path.
const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");

/// Whose format errors have: the path's, or that of the client where it says which it is.
fn style(path: &Path, headers: &HeaderMap) -> Style {
    path.style()
        .unwrap_or_else(|| match headers.contains_key(ANTHROPIC_VERSION) {
            true => Style::Anthropic,
            false => Style::OpenAi,
        })
}

/// Answers a request. On a `spare` connection, one beyond those that are allowed, whether
/// the service lives is all that is answered.
pub(crate) async fn handle(
    service: Arc<Service>,
    peer: Peer,
    spare: bool,
    request: Request<Incoming>,
) -> Response<Body> {
    let name = request.uri().path().to_owned();
    let path = Path::read(&name);
    let style = style(&path, request.headers());
    let route = path.route();
    let origins = &service.config().cors;
    let page = cors::allowed(origins, request.headers());
    let origin = request.headers().get(ORIGIN).filter(|_| page).cloned();
    let answer = match &route {
        _ if *request.method() == Method::OPTIONS => {
            options(&service, route.as_ref(), page, &request)
        }
        Some(route) if spare && *route != Route::Health => Err(ApiError::new(
            Kind::Overloaded,
            format!(
                "All {} connections of this service are in use (--connections); try again later.",
                service.config().connections
            ),
        )),
        Some(route) => dispatch(&service, route, &name, peer, request).await,
        None => Err(ApiError::new(
            Kind::NotFound,
            format!("{name} does not exist.{}", path.instead()),
        )),
    };
    let mut response = answer.unwrap_or_else(|error| {
        if error.kind == Kind::Internal {
            service.log(&format!("{name}: {}", error.message));
        }
        error.response(style)
    });
    if !origins.is_empty() {
        cors::show(origin, &mut response);
    }
    let name = route.as_ref().map_or("other", Route::name);
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

/// What may be asked of a path. Browsers ask this without a key, before a page's request.
fn options(
    service: &Service,
    route: Option<&Route>,
    page: bool,
    request: &Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let headers = request.headers();
    guard::one_host(request.version(), headers)?;
    if cors::is_preflight(headers) && !page {
        return Err(ApiError::new(
            Kind::Forbidden,
            "This service does not answer pages of this origin; start it with --cors ORIGIN for \
             that.",
        ));
    }
    let everywhere = request.uri().path() == "*";
    let methods = match route {
        Some(route) => route.methods(),
        None if everywhere => "GET, HEAD, POST, OPTIONS",
        None => {
            let path = request.uri().path();
            return Err(ApiError::new(
                Kind::NotFound,
                format!("{path} does not exist."),
            ));
        }
    };
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let allow = HeaderValue::from_static(methods);
    response.headers_mut().insert(ALLOW, allow);
    if page && !service.config().cors.is_empty() {
        cors::preflight(headers, methods, &mut response);
    }
    Ok(response)
}

async fn dispatch(
    service: &Arc<Service>,
    route: &Route,
    path: &str,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    guard::one_host(request.version(), request.headers())?;
    if !route.takes(request.method()) {
        let methods = route.methods();
        return Err(ApiError::new(
            Kind::Method(methods),
            format!("{path} accepts only {methods}."),
        ));
    }
    if *route == Route::Health {
        return Ok(api::health(service));
    }
    let headers = request.headers();
    let config = service.config();
    guard::not_from_a_page(headers, peer, &config.keys, &config.cors)?;
    let client = guard::client(headers, peer, &config.keys)?;
    match route {
        Route::Health => Ok(api::health(service)),
        Route::Metrics => Ok(metrics(service)),
        Route::Models => Ok(json_response(&api::models::list(service))),
        Route::Model(name) => api::models::one(service, name).map(|model| json_response(&model)),
        Route::Props => Ok(json_response(&api::models::props(service))),
        _ => post(service, route, client, request).await,
    }
}

async fn post(
    service: &Arc<Service>,
    route: &Route,
    client: Client,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let config = service.config();
    // Bodies and prompts in the making take memory: some at a time.
    let turn = service.body_turn().await?;
    let body = read_body(request, config.max_body, config.read_timeout).await?;
    match route {
        Route::Generate(protocol) => {
            api::chat::generate(service, *protocol, client, body, turn).await
        }
        Route::Prompt(protocol) => api::chat::prompt(service, *protocol, body)
            .await
            .map(|prompt| json_response(&prompt)),
        Route::CountTokens => api::chat::count(service, Protocol::Messages, body)
            .await
            .map(|counted| json_response(&counted)),
        Route::Tokenize => api::tokens::tokenize(service, &body).map(|v| json_response(&v)),
        Route::Detokenize => api::tokens::detokenize(service, &body).map(|v| json_response(&v)),
        Route::Complete(completing) => {
            api::completions::complete(service, completing.clone(), client, body, turn).await
        }
        Route::Health | Route::Metrics | Route::Models | Route::Model(_) | Route::Props => Err(
            ApiError::new(Kind::Method(route.methods()), "Only GET is accepted here."),
        ),
    }
}

fn metrics(service: &Service) -> Response<Body> {
    let mut response = Response::new(full(service.metrics_text()));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
