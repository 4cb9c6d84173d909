use deepseek_recipe::request::{ConversationRequest, ProtocolRequest};
use deepseek_recipe::response::{Accumulate, ProtocolResponse};
use deepseek_recipe::stream::{
    ChunkGenerator, InferenceChunk, InferenceFinishReason, InferenceTokenLogprob, PromptUsage,
    StreamProcessor,
};
use serde::Serialize;
use serde_json::Value;
use v4_tokenizer::Tokenizer;

use crate::ChatError;
use crate::encoder::{Encoder, Thought};
use crate::output::{Event, Finish, Logprob};
use crate::pump::Pump;
use crate::repair::CallRepair;

/// Turns the model's output into events and into the whole response.
///
/// Call [`start`](Self::start), push ids as they are generated until
/// [`ended`](Self::ended), and [`finish`](Self::finish). The protocol's stop
/// sequences are found here: after one, `ended` is true and nothing more is taken.
pub struct Responder {
    inner: Box<dyn Respond + Send>,
    usage: PromptUsage,
    done: Option<String>,
    heard: Heard,
    /// In Messages alone.
    repair: Option<CallRepair>,
    /// Whether the response says that several calls may come at once.
    parallel: bool,
}

/// What the model wrote so far.
struct Heard {
    tokenizer: Tokenizer,
    written: Vec<u32>,
    text: String,
    /// Whether it thinks, and how many tokens it thought.
    thinks: bool,
    thought: Thought,
}

impl Heard {
    fn ids(&mut self, ids: &[u32]) {
        self.written.extend_from_slice(ids);
        for &id in ids {
            let ends = [THINK_END, TOOL_MARK]
                .iter()
                .any(|mark| self.tokenizer.mark(mark) == Some(id));
            self.thinks &= !ends;
            if self.thinks {
                self.thought.add(1);
            }
        }
    }

    fn text(&self) -> String {
        let decoded = self.tokenizer.decode(&self.written).unwrap_or_default();
        String::from_utf8_lossy(&decoded).into_owned() + &self.text
    }
}

/// Ends the reasoning; a call without it ends it as well.
const THINK_END: &str = "</think>";
const TOOL_MARK: &str = "｜DSML｜";

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
        let encoder = Encoder::new(tokenizer.clone());
        let stage = request.parsing_options.thinking_initial_stage.as_ref();
        let heard = Heard {
            tokenizer: tokenizer.clone(),
            written: Vec::new(),
            text: String::new(),
            thinks: stage.is_some_and(|stage| stage.starts_in_reasoning()),
            thought: encoder.thought(),
        };
        let processor = StreamProcessor::new(generator, request.parsing_options.clone())
            .with_tokenizer(encoder);
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
            heard,
            repair: None,
            parallel: true,
        }
    }

    /// Calls whose arguments are not JSON keep them: Messages has objects in their place.
    pub(crate) fn repairing(self) -> Self {
        Self {
            repair: Some(CallRepair::default()),
            ..self
        }
    }

    /// What the request said of several calls at once, which the response repeats.
    pub(crate) fn with_parallel_calls(self, parallel: bool) -> Self {
        Self { parallel, ..self }
    }

    fn take(&mut self, chunk: InferenceChunk) -> Result<Vec<Event>, ChatError> {
        let mut events = self.inner.push(chunk)?;
        if let Some(repair) = &mut self.repair {
            events = repair.events(events, || self.heard.text());
        }
        if !self.parallel {
            for event in &mut events {
                if let Some(response) = event.data.get_mut("response") {
                    alone(response);
                }
            }
        }
        Ok(events)
    }

    /// The events that come before any output.
    ///
    /// # Errors
    ///
    /// [`ChatError::Ended`] after the end.
    pub fn start(&mut self) -> Result<Vec<Event>, ChatError> {
        let prompt_usage = self.usage;
        self.take(InferenceChunk::Ready {
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
        self.heard.ids(ids);
        self.take(InferenceChunk::Tokens {
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
        self.heard.ids(&[id]);
        self.take(InferenceChunk::Tokens {
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
        self.heard.text.push_str(text);
        self.take(InferenceChunk::Text {
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
        self.take(InferenceChunk::Finish { finish_reason })
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
        let mut response = self.inner.response()?;
        if self.repair.is_some() {
            CallRepair::response(&mut response, &self.heard.text());
        }
        if !self.parallel {
            alone(&mut response);
        }
        Ok(response)
    }
}

/// In a response that says whether calls come several at once: they do not.
fn alone(response: &mut Value) {
    if let Some(parallel) = response.get_mut("parallel_tool_calls") {
        *parallel = false.into();
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
