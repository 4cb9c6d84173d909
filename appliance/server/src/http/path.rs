//! Maps paths, as clients write them, to endpoints.

use hyper::Method;
use percent_encoding::percent_decode_str;
use v4_chat::Protocol;

use super::error::Style;

/// Beginnings that say which version or which family of paths is meant; there is one of
/// each, so clients may leave them out, or write them twice where an address already has
/// one. DeepSeek's own addresses have `beta` and `anthropic`.
const BEGINNINGS: [&str; 3] = ["v1", "beta", "anthropic"];
/// So many are passed over.
const MOST_BEGINNINGS: usize = 3;

/// What a path stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    Health,
    Metrics,
    Models,
    /// By its name.
    Model(String),
    Generate(Protocol),
    Prompt(Protocol),
    CountTokens,
    Complete(Completing),
    Props,
    Tokenize,
    Detokenize,
}

/// Ways to have raw text continued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Completing {
    /// OpenAI's Completions.
    OpenAi,
    /// The same without a version in front: llama-server's own form has this path as well.
    Unversioned,
    /// OpenAI's older path, which has the model's name.
    Engine(String),
    /// Codestral's: the gap is filled, and the answer is a message.
    Fim,
    /// llama-server's.
    Llama,
    /// llama-server's for editors.
    Infill,
}

/// A path, taken apart.
#[derive(Debug)]
pub(crate) struct Path {
    /// Without the beginnings and what is empty.
    segments: Vec<String>,
    versioned: bool,
}

impl Path {
    /// Takes a path apart; each part is decoded once.
    pub fn read(path: &str) -> Self {
        let parts = path.split('/').filter(|part| !part.is_empty());
        let mut segments: Vec<String> = parts
            .map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned())
            .collect();
        let begins = |segment: &&String| BEGINNINGS.contains(&segment.as_str());
        let beginnings = segments.iter().take(MOST_BEGINNINGS).take_while(begins);
        let beginnings = beginnings.count();
        segments.drain(..beginnings);
        Self {
            segments,
            versioned: beginnings > 0,
        }
    }

    fn parts(&self) -> Vec<&str> {
        self.segments.iter().map(String::as_str).collect()
    }

    /// What it stands for.
    pub fn route(&self) -> Option<Route> {
        use Protocol::{Chat, Messages, Responses};
        Some(match &self.parts()[..] {
            ["health"] => Route::Health,
            ["metrics"] => Route::Metrics,
            ["models"] => Route::Models,
            ["models", name @ ..] => Route::Model(name.join("/")),
            ["chat", "completions"] => Route::Generate(Chat),
            ["chat", "completions", "prompt"] => Route::Prompt(Chat),
            ["responses"] => Route::Generate(Responses),
            ["responses", "prompt"] => Route::Prompt(Responses),
            ["messages"] => Route::Generate(Messages),
            ["messages", "prompt"] => Route::Prompt(Messages),
            ["messages", "count_tokens"] => Route::CountTokens,
            ["completions"] if self.versioned => Route::Complete(Completing::OpenAi),
            ["completions"] => Route::Complete(Completing::Unversioned),
            ["engines", name @ .., "completions"] if !name.is_empty() => {
                Route::Complete(Completing::Engine(name.join("/")))
            }
            ["fim", "completions"] => Route::Complete(Completing::Fim),
            ["completion"] => Route::Complete(Completing::Llama),
            ["infill"] => Route::Complete(Completing::Infill),
            ["props"] => Route::Props,
            ["tokenize"] => Route::Tokenize,
            ["detokenize"] => Route::Detokenize,
            _ => return None,
        })
    }

    /// Whose form errors of the path have, if it is one protocol's.
    pub fn style(&self) -> Option<Style> {
        match &self.parts()[..] {
            ["messages", ..] => Some(Style::Anthropic),
            [
                "chat" | "responses" | "completions" | "completion" | "infill" | "fim" | "engines",
                ..,
            ] => Some(Style::OpenAi),
            _ => None,
        }
    }

    /// What to do instead of a path that is not there.
    pub fn instead(&self) -> &'static str {
        match &self.parts()[..] {
            // Ollama's.
            ["api", "chat"] => " Ollama's API is not supported; use POST /v1/chat/completions.",
            ["api", "generate"] => " Ollama's API is not supported; use POST /v1/completions.",
            ["api", "tags" | "show" | "ps"] => {
                " Ollama's API is not supported; use GET /v1/models."
            }
            ["api", ..] => {
                "Ollama's API is not supported; use OpenAI's: /v1/chat/completions, \
                 /v1/completions and /v1/models."
            }
            ["responses", ..] => {
                "Responses are not stored (store: false); send the whole conversation to POST \
                 /v1/responses."
            }
            ["embeddings" | "embedding" | "rerank" | "reranking", ..] => {
                " This model writes text and does not make embeddings."
            }
            [
                "images" | "audio" | "moderations" | "files" | "batches" | "assistants" | "threads",
                ..,
            ] => " Use /v1/chat/completions, /v1/responses, /v1/messages or /v1/completions.",
            _ => "",
        }
    }
}

impl Route {
    /// For metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Health => "/health",
            Self::Metrics => "/metrics",
            Self::Models => "/v1/models",
            Self::Model(_) => "/v1/models/{model}",
            Self::Generate(Protocol::Chat) => "/v1/chat/completions",
            Self::Prompt(Protocol::Chat) => "/v1/chat/completions/prompt",
            Self::Generate(Protocol::Responses) => "/v1/responses",
            Self::Prompt(Protocol::Responses) => "/v1/responses/prompt",
            Self::Generate(Protocol::Messages) => "/v1/messages",
            Self::Prompt(Protocol::Messages) => "/v1/messages/prompt",
            Self::CountTokens => "/v1/messages/count_tokens",
            Self::Complete(Completing::OpenAi | Completing::Unversioned) => "/v1/completions",
            Self::Complete(Completing::Engine(_)) => "/v1/engines/{model}/completions",
            Self::Complete(Completing::Fim) => "/v1/fim/completions",
            Self::Complete(Completing::Llama) => "/completion",
            Self::Complete(Completing::Infill) => "/infill",
            Self::Props => "/props",
            Self::Tokenize => "/tokenize",
            Self::Detokenize => "/detokenize",
        }
    }

    /// Whether it takes this method.
    pub fn takes(&self, method: &Method) -> bool {
        match self.gets() {
            // RFC 9110, 9.1: what can be got can be looked at.
            true => method == Method::GET || method == Method::HEAD,
            false => method == Method::POST,
        }
    }

    /// The methods that it takes, for the field `Allow`.
    pub fn methods(&self) -> &'static str {
        match self.gets() {
            true => "GET, HEAD, OPTIONS",
            false => "POST, OPTIONS",
        }
    }

    fn gets(&self) -> bool {
        matches!(
            self,
            Self::Health | Self::Metrics | Self::Models | Self::Model(_) | Self::Props
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(path: &str) -> Option<Route> {
        Path::read(path).route()
    }

    #[test]
    fn slashes_and_beginnings_do_not_matter() {
        for path in [
            "/v1/chat/completions",
            "/chat/completions",
            "/v1/chat/completions/",
            "//v1//chat///completions//",
            "/beta/chat/completions",
            "/beta/v1/chat/completions",
            "/v1/v1/chat/completions",
            "/v1/chat%2Dcompletions/../chat/completions",
        ] {
            let expected = match path.contains("..") {
                // No shell: nothing is resolved.
                true => None,
                false => Some(Route::Generate(Protocol::Chat)),
            };
            assert_eq!(route(path), expected, "{path}");
        }
        for path in ["/anthropic/v1/messages", "/messages", "/v1/messages/"] {
            assert_eq!(route(path), Some(Route::Generate(Protocol::Messages)));
        }
        for path in ["/v1/models", "/models", "/v1/models/", "/v1//models"] {
            assert_eq!(route(path), Some(Route::Models), "{path}");
        }
        for path in ["/health", "/v1/health", "/health/"] {
            assert_eq!(route(path), Some(Route::Health), "{path}");
        }
        for path in [
            "/",
            "/v1",
            "/v1/",
            "/v1/v1/v1/v1/models",
            "/%00",
            "/x",
            "/V1/models",
        ] {
            assert_eq!(route(path), None, "{path}");
        }
    }

    #[test]
    fn names_are_decoded_once() {
        for (path, name) in [
            ("/v1/models/V4%20Flash", "V4 Flash"),
            ("/v1/models/a%2Fb", "a/b"),
            ("/models/org/model", "org/model"),
            ("/v1/models/100%2525", "100%25"),
            ("/v1/models/v1", "v1"),
            ("/v1/models/%E4%BD%A0/", "你"),
        ] {
            assert_eq!(route(path), Some(Route::Model(name.into())), "{path}");
        }
    }

    #[test]
    fn completions_have_many_addresses() {
        let completing = |path: &str| match route(path) {
            Some(Route::Complete(completing)) => completing,
            other => panic!("{path}: {other:?}"),
        };
        assert_eq!(completing("/v1/completions"), Completing::OpenAi);
        assert_eq!(completing("/beta/completions"), Completing::OpenAi);
        assert_eq!(completing("/completions"), Completing::Unversioned);
        assert_eq!(completing("/completion"), Completing::Llama);
        assert_eq!(completing("/infill"), Completing::Infill);
        assert_eq!(completing("/v1/fim/completions"), Completing::Fim);
        let engine = Completing::Engine("copilot-codex".into());
        assert_eq!(completing("/v1/engines/copilot-codex/completions"), engine);
    }

    #[test]
    fn what_is_not_there_names_what_is() {
        let instead = |path: &str| Path::read(path).instead();
        assert!(instead("/api/chat").contains("/v1/chat/completions"));
        assert!(instead("/api/generate").contains("/v1/completions"));
        assert!(instead("/api/tags").contains("/v1/models"));
        assert!(instead("/api/embed").contains("/v1/chat/completions"));
        assert!(instead("/v1/responses/resp_1").contains("/v1/responses"));
        assert_eq!(instead("/nothing"), "");
    }
}
