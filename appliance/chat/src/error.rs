use serde_json::{Value, json};

use deepseek_recipe::request::ConversionError;

/// What can go wrong between a request and its events.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The request is refused; the client gets the status and the body.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The prompt cannot be tokenised, or the output cannot be decoded.
    #[error("{0}")]
    Tokenizer(String),
    /// No prompt encoding is known for the model.
    #[error("no chat format for the architecture {0:?}; supported are deepseek4 and deepseek41")]
    UnknownArchitecture(String),
    /// A protocol of another name.
    #[error("unknown protocol {0:?}; supported are chat, messages and responses")]
    UnknownProtocol(String),
    /// The conversation does not end with a turn of the user.
    #[error("a conversation must end with a user turn")]
    NoUserTurn,
    /// A response that is not JSON.
    #[error("the response cannot be written: {0}")]
    Json(serde_json::Error),
    /// More output came after its end.
    #[error("the output has already ended")]
    Ended,
}

/// A refused request, as its protocol reports it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ProtocolError {
    /// The HTTP status: 400, or 500 for a fault of ours.
    pub status: u16,
    /// What is wrong with the request.
    pub message: String,
    /// The HTTP body.
    pub body: Value,
}

impl ProtocolError {
    /// A request that is not JSON of the protocol's shape.
    pub(crate) fn invalid_body(detail: &serde_json::Error) -> Self {
        ConversionError::bad_request(format!("invalid request body: {detail}")).into()
    }
}

impl From<ConversionError> for ProtocolError {
    fn from(error: ConversionError) -> Self {
        let status = error.status_code();
        let message = error.to_string();
        let response = error.into_error_response();
        // A struct of strings always serialises; if not, the message is what counts.
        let body = serde_json::to_value(response)
            .unwrap_or_else(|_| json!({"error": {"message": message}}));
        Self {
            status,
            message,
            body,
        }
    }
}
