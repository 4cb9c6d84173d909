use deepseek_recipe_core::conversation::{Conversation as RecipeConversation, ReasoningEffort};
use deepseek_recipe_core::messages::InputMessage;
use deepseek_recipe_core::prompt::Prompt;
use v4_tokenizer::Tokenizer;

use crate::encoder::{ModelVersion, Rendered};
use crate::error::ChatError;
use crate::reply_parser::ReplyParser;

/// How hard the model is to think.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Little: V4's prompt then says nothing about effort.
    Low,
    /// The default of the authors' own service.
    High,
    /// So far the same as [`High`](Self::High).
    XHigh,
    /// As much as it can.
    Max,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Instructions, usually the first turn.
    System(String),
    /// What the user says. Marks in it stay plain text.
    User(String),
    /// What the model answered.
    Assistant {
        /// Its reasoning, if it was asked to think. The format decides whether the
        /// model sees it again.
        reasoning: Option<String>,
        /// The answer.
        answer: String,
    },
}

/// A conversation without tools, such as a person at a terminal has.
#[derive(Debug, Clone)]
pub struct Conversation {
    /// The model's generation.
    pub version: ModelVersion,
    /// The turns so far; the last one is the user's.
    pub turns: Vec<Turn>,
    /// Whether the model is to think before it answers.
    pub thinking: bool,
    /// How hard.
    pub effort: Effort,
}

impl Conversation {
    /// An empty conversation.
    #[must_use]
    pub fn new(version: ModelVersion, thinking: bool) -> Self {
        Self {
            version,
            turns: Vec::new(),
            thinking,
            effort: Effort::High,
        }
    }

    /// The prompt up to where the model's next turn begins.
    ///
    /// # Errors
    ///
    /// [`ChatError::NoUserTurn`] unless the user has the last word;
    /// [`ChatError::Tokenizer`] if the tokenizer lacks a mark of the format, or for
    /// megabytes of text without a word break.
    pub fn render(&self, tokenizer: &Tokenizer) -> Result<Rendered, ChatError> {
        if !matches!(self.turns.last(), Some(Turn::User(_))) {
            return Err(ChatError::NoUserTurn);
        }
        let conversation = RecipeConversation {
            messages: self.turns.iter().map(|turn| self.message(turn)).collect(),
            thinking_mode: self.thinking,
            reasoning_effort: Some(match self.effort {
                Effort::Low => ReasoningEffort::Low,
                Effort::High => ReasoningEffort::High,
                Effort::XHigh => ReasoningEffort::Xhigh,
                Effort::Max => ReasoningEffort::Max,
            }),
            ..RecipeConversation::default()
        };
        Rendered::encode(self.version.render(&conversation), tokenizer)
    }

    /// What splits the model's next turn into reasoning and answer.
    #[must_use]
    pub fn reply_parser(&self, tokenizer: &Tokenizer) -> ReplyParser {
        ReplyParser::new(tokenizer, self.thinking)
    }

    fn message(&self, turn: &Turn) -> InputMessage {
        match turn {
            Turn::System(text) => InputMessage::System {
                content: Prompt::plain(text),
                image_sources: Vec::new(),
                tools: None,
            },
            Turn::User(text) => InputMessage::User {
                content: Prompt::plain(text),
                image_sources: Vec::new(),
            },
            // As the protocols do: in thinking mode every turn has reasoning, else
            // none has.
            Turn::Assistant { reasoning, answer } => InputMessage::Assistant {
                content: answer.clone(),
                reasoning_content: self.thinking.then(|| reasoning.clone().unwrap_or_default()),
                tool_calls: None,
                prefix: false,
            },
        }
    }
}
