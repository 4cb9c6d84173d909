use deepseek_recipe::stream::{
    ChunkGenerator, FinishReason, InferenceChunk, InferenceFinishReason, OutputChunk,
    ParsingOptions, StreamProcessor,
};
use v4_tokenizer::Tokenizer;

use crate::encoder::Encoder;
use crate::error::ChatError;
use crate::output::Finish;
use crate::pump::Pump;

/// A part of the model's turn, before any protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A piece of the reasoning before the answer.
    Reasoning(String),
    /// A piece of the answer.
    Content(String),
    /// The name of a tool that is called; its arguments follow.
    ToolCall(String),
    /// A piece of the call's arguments in JSON.
    Arguments(String),
    /// The end, and what ended it: `stop`, `length`, `tool_calls`, `stop_sequence`.
    End(&'static str),
}

/// Turns the model's ids into [`Part`]s as they come.
///
/// Push ids until [`ended`](Self::ended), and [`finish`](Self::finish). Half a
/// character, and what may be the beginning of a mark or of a stop sequence, is
/// held back until it is known.
pub struct Parts {
    pump: Pump<Part>,
}

impl Parts {
    pub(crate) fn new(tokenizer: &Tokenizer, options: ParsingOptions) -> Self {
        let processor =
            StreamProcessor::new(Whole, options).with_tokenizer(Encoder::new(tokenizer.clone()));
        Self {
            pump: Pump::new(processor),
        }
    }

    /// The parts that some ids complete. Do not push the id that ends the turn.
    ///
    /// # Errors
    ///
    /// [`ChatError::Ended`] after the end, [`ChatError::Tokenizer`] for an id beyond
    /// the vocabulary.
    pub fn push(&mut self, ids: &[u32]) -> Result<Vec<Part>, ChatError> {
        self.pump.push(InferenceChunk::Tokens {
            token_ids: ids.to_vec(),
            logprobs: None,
        })
    }

    /// The last parts, once the model has stopped or was stopped. After a stop
    /// sequence there are none: they came with it.
    ///
    /// # Errors
    ///
    /// [`ChatError::Tokenizer`] if the rest cannot be decoded.
    pub fn finish(&mut self, finish: Finish) -> Result<Vec<Part>, ChatError> {
        if self.ended() {
            return Ok(Vec::new());
        }
        let finish_reason = match finish {
            Finish::Stop => InferenceFinishReason::Stop,
            Finish::Length => InferenceFinishReason::Length,
        };
        self.pump.push(InferenceChunk::Finish { finish_reason })
    }

    /// Whether the turn is complete: it was finished, or a stop sequence came.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.pump.ended()
    }
}

/// Makes parts of parsed output.
struct Whole;

impl ChunkGenerator for Whole {
    type Chunk = Part;

    async fn generate(&mut self, chunk: OutputChunk) -> Vec<Part> {
        vec![match chunk {
            OutputChunk::Reasoning { content, .. } => Part::Reasoning(content),
            OutputChunk::Content { content, .. } => Part::Content(content),
            OutputChunk::ToolCallNamed { tool_name } => Part::ToolCall(tool_name),
            OutputChunk::ToolCallArgumentsDelta { arguments } => Part::Arguments(arguments),
            OutputChunk::Finish { finish_reason, .. } => Part::End(match finish_reason {
                FinishReason::Length => "length",
                FinishReason::ToolCalls => "tool_calls",
                FinishReason::StopSequence => "stop_sequence",
                FinishReason::Stop | FinishReason::ContentFilter | FinishReason::EndOfStream => {
                    "stop"
                }
            }),
            OutputChunk::Start { .. } | OutputChunk::ToolCallBegin => return Vec::new(),
        }]
    }
}
