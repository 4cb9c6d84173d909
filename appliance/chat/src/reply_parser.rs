use deepseek_recipe::stream::{ParsingOptions, ThinkingInitialStage};
use v4_tokenizer::Tokenizer;

use crate::{ChatError, Finish, Part, Parts};

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
pub struct ReplyParser {
    parts: Parts,
}

impl ReplyParser {
    /// The model's turn after a prompt in thinking mode or not.
    #[must_use]
    pub fn new(tokenizer: &Tokenizer, thinking: bool) -> Self {
        let options = ParsingOptions {
            parse_tool_calls: false,
            thinking_initial_stage: thinking.then_some(ThinkingInitialStage::ReasoningStart),
            ..ParsingOptions::default()
        };
        Self {
            parts: Parts::new(tokenizer, options),
        }
    }

    /// The pieces that an id completes. Do not push the id that ends the turn.
    ///
    /// # Errors
    ///
    /// [`ChatError::Tokenizer`] for an id beyond the vocabulary.
    pub fn push(&mut self, id: u32) -> Result<Vec<Piece>, ChatError> {
        self.parts.push(&[id]).map(pieces)
    }

    /// The rest, once the model has stopped or was stopped.
    ///
    /// # Errors
    ///
    /// [`ChatError::Ended`] if an earlier call failed.
    pub fn finish(mut self) -> Result<Vec<Piece>, ChatError> {
        if self.parts.ended() {
            return Err(ChatError::Ended);
        }
        self.parts.finish(Finish::Stop).map(pieces)
    }
}

fn pieces(parts: Vec<Part>) -> Vec<Piece> {
    let piece = |part| match part {
        Part::Reasoning(text) => Some(Piece::Reasoning(text)),
        Part::Content(text) => Some(Piece::Answer(text)),
        Part::ToolCall(_) | Part::Arguments(_) | Part::End(_) => None,
    };
    parts.into_iter().filter_map(piece).collect()
}
