use std::str::FromStr;

use deepseek_recipe::anthropic::messages::request::MessagesRequest;
use deepseek_recipe::openai::{ChatCompletionRequest, ResponsesRequest};
use deepseek_recipe::request::{
    ConversationRequest, ConversionOptions, InferenceOptions, ProtocolRequest,
};
use deepseek_recipe::stream::{ParsingOptions, PromptUsage};
use serde::de::DeserializeOwned;
use serde_json::Value;
use v4_tokenizer::Tokenizer;

use crate::encoder::{ModelVersion, Rendered};
use crate::error::{ChatError, ProtocolError};
use crate::json::{self, Digits};
use crate::parts::Parts;
use crate::responder::Responder;

/// A chat protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// OpenAI's Chat Completions.
    Chat,
    /// Anthropic's Messages.
    Messages,
    /// OpenAI's Responses.
    Responses,
}

impl FromStr for Protocol {
    type Err = ChatError;

    fn from_str(name: &str) -> Result<Self, ChatError> {
        match name {
            "chat" => Ok(Self::Chat),
            "messages" => Ok(Self::Messages),
            "responses" => Ok(Self::Responses),
            _ => Err(ChatError::UnknownProtocol(name.to_owned())),
        }
    }
}

/// A request that its protocol accepts.
#[derive(Debug)]
pub struct Request {
    protocol: Protocol,
    version: ModelVersion,
    /// The name that the request gives the model, which its response repeats.
    model: String,
    pub(crate) inner: ConversationRequest,
    /// Whether several calls may come at once, which a response may repeat.
    pub(crate) parallel_calls: bool,
}

impl Request {
    /// Reads a request in JSON. The name that it gives the model does not matter:
    /// it goes to the model at hand.
    ///
    /// # Errors
    ///
    /// A [`ProtocolError`] with the status and body to answer with.
    pub fn parse(
        protocol: Protocol,
        version: ModelVersion,
        body: &[u8],
    ) -> Result<Self, ProtocolError> {
        Self::from_value(protocol, version, Self::read(body)?)
    }

    /// Reads a body's JSON, for [`from_value`](Self::from_value).
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse) for a body that is not JSON.
    pub fn read(body: &[u8]) -> Result<Value, ProtocolError> {
        json::read(body)
    }

    /// [`parse`](Self::parse) of JSON that has been read already.
    ///
    /// # Errors
    ///
    /// A [`ProtocolError`] with the status and body to answer with.
    pub fn from_value(
        protocol: Protocol,
        version: ModelVersion,
        body: Value,
    ) -> Result<Self, ProtocolError> {
        let model = body["model"].as_str().unwrap_or_default().to_owned();
        let options = ConversionOptions::new()
            .with_model_versions_by_name([(model.clone(), version.recipe())]);
        let inner = match protocol {
            Protocol::Chat => convert::<ChatCompletionRequest>(body, options),
            Protocol::Messages => convert::<MessagesRequest>(body, options),
            Protocol::Responses => convert::<ResponsesRequest>(body, options),
        }?;
        Ok(Self {
            protocol,
            version,
            model,
            inner,
            parallel_calls: true,
        })
    }

    /// The prompt and its ids.
    ///
    /// # Errors
    ///
    /// [`ChatError::Tokenizer`] if the tokenizer lacks a mark of the format, or for
    /// megabytes of text without a word break.
    pub fn render(&self, tokenizer: &Tokenizer) -> Result<Rendered, ChatError> {
        let mut prompt = self.version.render(&self.inner.conversation);
        if let Some((text, ranges)) = Digits::write(&prompt.prompt, &prompt.special_ranges) {
            prompt.prompt = text;
            prompt.special_ranges = ranges;
        }
        Rendered::encode(prompt, tokenizer)
    }

    /// How to sample, as far as the request and the protocol's rules say.
    #[must_use]
    pub fn inference(&self) -> &InferenceOptions {
        &self.inner.inference_options
    }

    /// How to parse the output: tool calls, reasoning, stop sequences.
    #[must_use]
    pub fn parsing(&self) -> &ParsingOptions {
        &self.inner.parsing_options
    }

    /// The protocol.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The name that the request gives the model.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Whether the model's first tokens are reasoning, which its mark ends.
    #[must_use]
    pub fn starts_in_reasoning(&self) -> bool {
        let stage = &self.inner.parsing_options.thinking_initial_stage;
        stage.as_ref().is_some_and(|s| s.starts_in_reasoning())
    }

    /// Whether the client wants events as they come.
    #[must_use]
    pub fn stream(&self) -> bool {
        self.inner.stream
    }

    /// The most tokens to generate after a prompt of `prompt_tokens` ids in a
    /// context of `context` ids: what was asked for or the authors' default, as far as the
    /// context goes.
    #[must_use]
    pub fn max_tokens(&self, prompt_tokens: u32, context: u32) -> u32 {
        let left = context.saturating_sub(prompt_tokens);
        // Without a limit it refuses only a prompt that is longer than the context.
        let default = || {
            self.inner
                .resolve_max_tokens(prompt_tokens.min(context), context)
        };
        let asked = self.inner.inference_options.max_tokens;
        let asked = asked.or_else(|| default().ok()).unwrap_or(left);
        asked.min(left)
    }

    /// What turns the model's ids into reasoning, answer and tool calls.
    #[must_use]
    pub fn parts(&self, tokenizer: &Tokenizer) -> Parts {
        Parts::new(tokenizer, self.inner.parsing_options.clone())
    }

    /// What turns the model's ids into events and a response. `id` names the
    /// response, `created` is in seconds since 1970, `cached` counts the prompt's ids
    /// that were known from before.
    #[must_use]
    pub fn responder(
        &self,
        tokenizer: &Tokenizer,
        id: &str,
        created: u64,
        prompt_tokens: usize,
        cached: usize,
    ) -> Responder {
        let usage = PromptUsage {
            prompt_tokens,
            prompt_cache_hit_tokens: cached,
        };
        let (request, model) = (&self.inner, &self.model);
        let responder = match self.protocol {
            Protocol::Chat => Responder::new::<ChatCompletionRequest>(
                request, tokenizer, id, model, created, usage,
            ),
            Protocol::Messages => {
                Responder::new::<MessagesRequest>(request, tokenizer, id, model, created, usage)
                    .repairing()
            }
            Protocol::Responses => {
                Responder::new::<ResponsesRequest>(request, tokenizer, id, model, created, usage)
            }
        };
        responder.with_parallel_calls(self.parallel_calls)
    }
}

fn convert<R: ProtocolRequest + DeserializeOwned>(
    body: Value,
    options: ConversionOptions,
) -> Result<ConversationRequest, ProtocolError> {
    let request: R = serde_json::from_value(body).map_err(|e| ProtocolError::invalid_body(&e))?;
    Ok(request.convert(options)?)
}
