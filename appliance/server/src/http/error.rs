//! Errors, in the form of each protocol.

use std::borrow::Cow;

use hyper::header::{
    ACCEPT_ENCODING, ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use v4_chat::intake::NotAccepted;
use v4_chat::{ChatError, ProtocolError};

use super::response::{Body, full};
use crate::jobs::{Failure, Refused};

/// Whose format errors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// OpenAI's.
    OpenAi,
    /// Anthropic's.
    Anthropic,
}

/// OpenAI's code for a prompt that is too long.
const CONTEXT_LENGTH: &str = "context_length_exceeded";

/// How a key is sent, as RFC 9110 wants it said in each 401.
const CHALLENGE: &str = "Bearer realm=\"v4-run\"";

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The request makes no sense or asks for what there is not.
    Invalid,
    /// The prompt does not fit into the context.
    ContextLength {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens that fit.
        context: usize,
    },
    /// No key, or an unknown one.
    Unauthorized,
    /// Who asks may not.
    Forbidden,
    /// No such path or model.
    NotFound,
    /// The path has other methods.
    Method(&'static str),
    /// The body did not come in time.
    Timeout,
    /// The body is too long.
    TooLarge,
    /// The body is compressed in a way that is not known; these are.
    Encoding(&'static str),
    /// A newer request of the same client took its place.
    Replaced,
    /// As many requests wait as may.
    Overloaded,
    /// The service is stopping.
    Stopping,
    /// A fault of ours.
    Internal,
}

/// A request that gets an error for an answer.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub kind: Kind,
    pub message: String,
    /// The parameter that is wrong.
    pub param: Option<&'static str>,
}

impl ApiError {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            param: None,
        }
    }

    /// A parameter with a wrong value.
    pub fn invalid(param: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Invalid,
            message: message.into(),
            param: Some(param),
        }
    }

    /// A prompt of `tokens` tokens that leaves no room for an answer in a context of `context`.
    pub fn too_long(tokens: usize, context: usize) -> Self {
        let kind = Kind::ContextLength { tokens, context };
        // The words of several services in one: clients look for one or the other, some in
        // the text alone, before they compact.
        let message = format!(
            "This model's maximum context length is {context} tokens, and the prompt is too \
             long: {tokens} tokens, which leaves no room for an answer. Please reduce the length \
             of the messages."
        );
        Self::new(kind, message)
    }

    /// A body that is longer than `most` bytes.
    pub fn too_large(most: usize) -> Self {
        Self::new(
            Kind::TooLarge,
            format!("The request exceeds this service's limit of {most} bytes."),
        )
    }

    /// The message as a protocol's clients look for it.
    fn message(&self, style: Style) -> Cow<'_, str> {
        match (self.kind, style) {
            (Kind::ContextLength { tokens, context }, Style::Anthropic) => {
                // A prompt that fills the context leaves no room for a token of an answer.
                let most = context.saturating_sub(1);
                format!("prompt is too long: {tokens} tokens > {most} maximum").into()
            }
            _ => self.message.as_str().into(),
        }
    }

    fn status(&self, style: Style) -> StatusCode {
        match self.kind {
            Kind::Invalid | Kind::ContextLength { .. } => StatusCode::BAD_REQUEST,
            Kind::Unauthorized => StatusCode::UNAUTHORIZED,
            Kind::Forbidden => StatusCode::FORBIDDEN,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Kind::Timeout => StatusCode::REQUEST_TIMEOUT,
            Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::Encoding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            // Clients repeat what gets 409, and would then replace their own newer request.
            Kind::Replaced => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            Kind::Overloaded | Kind::Stopping => match style {
                Style::OpenAi => StatusCode::SERVICE_UNAVAILABLE,
                // Anthropic's own number for it, which its clients retry.
                Style::Anthropic => {
                    StatusCode::from_u16(529).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
                }
            },
            Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The type and code that a protocol has for it.
    fn names(&self, style: Style) -> (&'static str, &'static str) {
        match (self.kind, style) {
            (Kind::Invalid | Kind::Method(_) | Kind::Timeout, _) => {
                ("invalid_request_error", "invalid_request_error")
            }
            (Kind::ContextLength { .. }, _) => ("invalid_request_error", CONTEXT_LENGTH),
            (Kind::Encoding(_), _) => ("invalid_request_error", "unsupported_encoding"),
            (Kind::Replaced, _) => ("invalid_request_error", "replaced"),
            (Kind::Unauthorized, Style::OpenAi) => ("invalid_request_error", "invalid_api_key"),
            (Kind::Unauthorized, Style::Anthropic) => ("authentication_error", "invalid_api_key"),
            (Kind::Forbidden, _) => ("permission_error", "forbidden"),
            (Kind::NotFound, Style::OpenAi) => ("invalid_request_error", "not_found"),
            (Kind::NotFound, Style::Anthropic) => ("not_found_error", "not_found"),
            (Kind::TooLarge, Style::OpenAi) => ("invalid_request_error", "request_too_large"),
            (Kind::TooLarge, Style::Anthropic) => ("request_too_large", "request_too_large"),
            (Kind::Overloaded, Style::OpenAi) => ("server_error", "overloaded"),
            (Kind::Overloaded, Style::Anthropic) => ("overloaded_error", "overloaded"),
            (Kind::Stopping, Style::OpenAi) => ("server_error", "stopping"),
            (Kind::Stopping, Style::Anthropic) => ("overloaded_error", "stopping"),
            (Kind::Internal, Style::OpenAi) => ("internal_error", "internal_error"),
            (Kind::Internal, Style::Anthropic) => ("api_error", "internal_error"),
        }
    }

    /// The error as a protocol writes it.
    pub fn body(&self, style: Style) -> Value {
        let (kind, code) = self.names(style);
        let error = json!({
            "message": self.message(style),
            "type": kind,
            "param": self.param,
            "code": code,
        });
        match style {
            Style::OpenAi => json!({"error": error}),
            Style::Anthropic => json!({"type": "error", "error": error}),
        }
    }

    pub fn response(&self, style: Style) -> Response<Body> {
        let mut response = Response::new(full(self.body(style).to_string()));
        *response.status_mut() = self.status(style);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match self.kind {
            Kind::Method(allowed) => {
                headers.insert(ALLOW, HeaderValue::from_static(allowed));
            }
            Kind::Unauthorized => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
            }
            Kind::Encoding(known) => {
                headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(known));
            }
            Kind::Overloaded | Kind::Stopping => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
            }
            _ => {}
        }
        response
    }
}

impl From<ProtocolError> for ApiError {
    fn from(error: ProtocolError) -> Self {
        let kind = match error.status {
            500.. => Kind::Internal,
            _ => Kind::Invalid,
        };
        Self::new(kind, error.message)
    }
}

impl From<ChatError> for ApiError {
    fn from(error: ChatError) -> Self {
        match error {
            ChatError::Protocol(error) => error.into(),
            // What the tokenizer refuses is in the request's text.
            ChatError::Tokenizer(message) => Self::new(Kind::Invalid, message),
            other => Self::new(Kind::Internal, other.to_string()),
        }
    }
}

impl From<NotAccepted> for ApiError {
    fn from(error: NotAccepted) -> Self {
        match error {
            NotAccepted::Refused(refusal) => Self::invalid(refusal.param, refusal.message),
            NotAccepted::Reader(error) => error.into(),
        }
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::new(
                Kind::Overloaded,
                "The queue of this service is full; try again later.",
            ),
            Refused::Stopping => Self::new(Kind::Stopping, "This service is stopping."),
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Memory(message) => Self::new(Kind::Invalid, message),
            Failure::Replaced => Self::new(
                Kind::Replaced,
                "A newer request of the same client replaced this one.",
            ),
            Failure::Stopping => Refused::Stopping.into(),
            Failure::Engine(message) => Self::new(Kind::Internal, message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_that_is_too_long_is_said_in_the_words_that_clients_look_for() {
        let error = ApiError::too_long(5000, 4096);
        let openai = &error.body(Style::OpenAi)["error"];
        assert_eq!(openai["code"], "context_length_exceeded");
        let message = openai["message"].as_str().unwrap();
        for words in [
            "maximum context length is 4096 tokens",
            "prompt is too long: 5000 tokens",
            "reduce the length of the messages",
        ] {
            assert!(message.contains(words), "{message}");
        }
        let anthropic = &error.body(Style::Anthropic)["error"];
        assert_eq!(anthropic["type"], "invalid_request_error");
        assert_eq!(
            anthropic["message"],
            "prompt is too long: 5000 tokens > 4095 maximum"
        );
        assert_eq!(error.status(Style::Anthropic), StatusCode::BAD_REQUEST);
    }
}
