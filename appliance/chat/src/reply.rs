use deepseek_recipe::stream::{
    ChunkGenerator, InferenceChunk, InferenceFinishReason, OutputChunk, ParsingOptions,
    StreamProcessor, ThinkingInitialStage,
};
use v4_runtime::tokenizer::Tokenizer;

use crate::ChatError;
use crate::encoder::Encoder;
use crate::pump::Pump;

/// A piece of the model's turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Reasoning before the answer.
    Reasoning(String),
    /// The answer.
    Answer(String),
}

/// Splits the model's turn into reasoning and answer as its ids come.
///
/// Only the mark itself ends the reasoning, not a text that spells it. Half a
/// character is held back until its last byte is there. Newlines between the
/// reasoning and the answer are dropped, as the protocols do.
pub struct Reply {
    pump: Pump<Piece>,
}

impl Reply {
    /// The model's turn after a prompt in thinking mode or not.
    #[must_use]
    pub fn new(tokenizer: &Tokenizer, thinking: bool) -> Self {
        let options = ParsingOptions {
            parse_tool_calls: false,
            thinking_initial_stage: thinking.then_some(ThinkingInitialStage::ReasoningStart),
            ..ParsingOptions::default()
        };
        let processor =
            StreamProcessor::new(Pieces, options).with_tokenizer(Encoder(tokenizer.clone()));
        Self {
            pump: Pump::new(processor),
        }
    }

    /// The pieces that an id completes. Do not push the id that ends the turn.
    ///
    /// # Errors
    ///
    /// [`ChatError::Tokenizer`] for an id beyond the vocabulary.
    pub fn push(&mut self, id: u32) -> Result<Vec<Piece>, ChatError> {
        self.pump.push(InferenceChunk::Tokens {
            token_ids: vec![id],
            logprobs: None,
        })
    }

    /// The rest, once the model has stopped or was stopped.
    ///
    /// # Errors
    ///
    /// [`ChatError::Ended`] if an earlier call failed.
    pub fn finish(mut self) -> Result<Vec<Piece>, ChatError> {
        self.pump.push(InferenceChunk::Finish {
            finish_reason: InferenceFinishReason::Stop,
        })
    }
}

/// Makes pieces of parsed output.
struct Pieces;

impl ChunkGenerator for Pieces {
    type Chunk = Piece;

    async fn generate(&mut self, chunk: OutputChunk) -> Vec<Piece> {
        match chunk {
            OutputChunk::Reasoning { content, .. } => vec![Piece::Reasoning(content)],
            OutputChunk::Content { content, .. } => vec![Piece::Answer(content)],
            _ => Vec::new(),
        }
    }
}
