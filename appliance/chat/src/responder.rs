use deepseek_recipe::request::{ConversationRequest, ProtocolRequest};
use deepseek_recipe::response::{Accumulate, ProtocolResponse};
use deepseek_recipe::stream::{
    ChunkGenerator, InferenceChunk, InferenceFinishReason, InferenceTokenLogprob, PromptUsage,
    StreamProcessor,
};
use serde::Serialize;
use serde_json::Value;
use v4_runtime::tokenizer::Tokenizer;

use crate::ChatError;
use crate::encoder::Encoder;
use crate::pump::Pump;

/// One event of a streamed response.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The event's name, in protocols that name them.
    pub name: Option<&'static str>,
    /// Its data.
    pub data: Value,
}

/// How probable a generated token was.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprob {
    /// Natural logarithm of the token's probability.
    pub own: f32,
    /// The most probable tokens, the best first, and the logarithms of their
    /// probabilities.
    pub top: Vec<(u32, f32)>,
}

/// Why the model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// It said so. The id that says so is not part of the output: do not push it.
    Stop,
    /// The limit of tokens, or of the context, was reached.
    Length,
}

/// Turns the model's output into events and into the whole response.
///
/// Call [`start`](Self::start), push ids as they are generated until
/// [`ended`](Self::ended), and [`finish`](Self::finish). The protocol's stop
/// sequences are found here: after one, `ended` is true and nothing more is taken.
pub struct Responder {
    inner: Box<dyn Respond + Send>,
    usage: PromptUsage,
    done: Option<String>,
}

impl Responder {
    pub(crate) fn new<R: ProtocolRequest>(
        request: &ConversationRequest,
        tokenizer: &Tokenizer,
        id: &str,
        model: &str,
        created: u64,
        usage: PromptUsage,
    ) -> Self
    where
        ChunkOf<R>: Serialize + Send,
    {
        let generator = R::chunk_generator(request, id.to_owned(), model.to_owned());
        let processor = StreamProcessor::new(generator, request.parsing_options.clone())
            .with_tokenizer(Encoder(tokenizer.clone()));
        let response = R::Response::new(
            id.to_owned(),
            model.to_owned(),
            created,
            usage.prompt_tokens,
            usage.prompt_cache_hit_tokens,
        );
        Self {
            inner: Box::new(ResponderOf::<R> {
                pump: Pump::new(processor),
                response,
            }),
            usage,
            done: R::Response::sse_done_data(),
        }
    }

    /// The events that come before any output.
    ///
    /// # Errors
    ///
    /// [`ChatError::Ended`] after the end.
    pub fn start(&mut self) -> Result<Vec<Event>, ChatError> {
        let prompt_usage = self.usage;
        self.inner.push(InferenceChunk::Ready {
            system_fingerprint: None,
            prompt_usage,
        })
    }

    /// The events of some generated ids.
    ///
    /// # Errors
    ///
    /// [`ChatError::Ended`] after the end, [`ChatError::Tokenizer`] for an id beyond
    /// the vocabulary.
    pub fn push(&mut self, ids: &[u32]) -> Result<Vec<Event>, ChatError> {
        self.inner.push(InferenceChunk::Tokens {
            token_ids: ids.to_vec(),
            logprobs: None,
        })
    }

    /// [`push`](Self::push) of one id of a response that reports how probable its
    /// tokens were.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn push_with(&mut self, id: u32, logprob: Logprob) -> Result<Vec<Event>, ChatError> {
        self.inner.push(InferenceChunk::Tokens {
            token_ids: vec![id],
            logprobs: Some(vec![InferenceTokenLogprob {
                logprob: logprob.own,
                top_logprobs: logprob.top,
            }]),
        })
    }

    /// The events of some text that is not known by its ids: marks are then found by
    /// their spelling. `tokens` is how many to count for it.
    ///
    /// # Errors
    ///
    /// [`ChatError::Ended`] after the end.
    pub fn push_text(&mut self, text: &str, tokens: usize) -> Result<Vec<Event>, ChatError> {
        self.inner.push(InferenceChunk::Text {
            content: text.to_owned(),
            token_count: tokens,
        })
    }

    /// The last events. After a stop sequence there are none: they came with it.
    ///
    /// # Errors
    ///
    /// [`ChatError::Tokenizer`] if the rest cannot be decoded.
    pub fn finish(&mut self, finish: Finish) -> Result<Vec<Event>, ChatError> {
        if self.ended() {
            return Ok(Vec::new());
        }
        let finish_reason = match finish {
            Finish::Stop => InferenceFinishReason::Stop,
            Finish::Length => InferenceFinishReason::Length,
        };
        self.inner.push(InferenceChunk::Finish { finish_reason })
    }

    /// Whether the response is complete: it was finished, or a stop sequence came.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.inner.ended()
    }

    /// What a server sends after the last event, in protocols that want it.
    #[must_use]
    pub fn done(&self) -> Option<&str> {
        self.done.as_deref()
    }

    /// The response up to here, for clients that do not stream.
    ///
    /// # Errors
    ///
    /// [`ChatError::Json`] if it cannot be written as JSON.
    pub fn response(&self) -> Result<Value, ChatError> {
        self.inner.response()
    }
}

type ChunkOf<R> =
    <<<R as ProtocolRequest>::Response as ProtocolResponse>::ChunkGenerator as ChunkGenerator>::Chunk;

/// A responder of any protocol.
trait Respond {
    fn push(&mut self, chunk: InferenceChunk) -> Result<Vec<Event>, ChatError>;
    fn ended(&self) -> bool;
    fn response(&self) -> Result<Value, ChatError>;
}

struct ResponderOf<R: ProtocolRequest> {
    pump: Pump<ChunkOf<R>>,
    response: R::Response,
}

impl<R: ProtocolRequest> Respond for ResponderOf<R>
where
    ChunkOf<R>: Serialize + Send + 'static,
{
    fn push(&mut self, chunk: InferenceChunk) -> Result<Vec<Event>, ChatError> {
        let mut events = Vec::new();
        for chunk in self.pump.push(chunk)? {
            events.push(Event {
                name: R::Response::sse_event_name(&chunk),
                data: to_json(&chunk)?,
            });
            self.response.accumulate(chunk);
        }
        Ok(events)
    }

    fn ended(&self) -> bool {
        self.pump.ended()
    }

    fn response(&self) -> Result<Value, ChatError> {
        to_json(&self.response)
    }
}

fn to_json<T: Serialize>(value: &T) -> Result<Value, ChatError> {
    serde_json::to_value(value).map_err(ChatError::Json)
}
