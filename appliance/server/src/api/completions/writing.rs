//! The input of every form of answer.

use tokio::time::Instant;
use v4_chat::Logprob;
use v4_tokenizer::Tokenizer;

use super::text::{Cut, Text};
use crate::http::ApiError;
use crate::jobs::{Finish, Output};

/// Why a text is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The model ended it.
    Model,
    /// As many tokens, or as long, as allowed.
    Limit,
    /// Something in it ends it.
    Cut(Cut),
}

/// When something happened first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// The request's turn.
    pub started: Instant,
    /// The prompt was read.
    pub read: Option<Instant>,
    /// The last token.
    pub latest: Instant,
}

/// A token that came.
pub(super) struct Token {
    pub id: u32,
    pub logprob: Option<Logprob>,
    /// Characters decoded before it, and with it.
    pub chars: (usize, usize),
}

/// A step of the answer.
pub(super) enum Step {
    /// Nothing to tell.
    Nothing,
    /// A part of the prompt was read.
    Reading,
    /// Text that can be shown, with the token that completed it; at the end without one.
    Text(String, Option<Token>),
}

/// An answer as far as it is written.
pub(super) struct Writing {
    pub tokenizer: Tokenizer,
    pub text: Text,
    pub model: String,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Of these, known from before.
    pub cached: usize,
    /// Of these, read by now.
    pub read: usize,
    /// Tokens of the answer.
    pub tokens: usize,
    pub end: Option<End>,
    pub times: Times,
}

impl Writing {
    pub fn new(tokenizer: &Tokenizer, text: Text, model: String, prompt: usize) -> Self {
        let now = Instant::now();
        Self {
            tokenizer: tokenizer.clone(),
            text,
            model,
            prompt,
            cached: 0,
            read: 0,
            tokens: 0,
            end: None,
            times: Times {
                started: now,
                read: None,
                latest: now,
            },
        }
    }

    /// Takes what becomes of the job.
    pub fn take(&mut self, output: Output) -> Result<Step, ApiError> {
        let now = Instant::now();
        match output {
            Output::Started { cached } => {
                (self.cached, self.read) = (cached, cached);
                self.times.started = now;
                self.times.latest = now;
                Ok(Step::Nothing)
            }
            Output::Reading { done } => {
                self.read = done;
                self.times.latest = now;
                if done >= self.prompt {
                    self.times.read.get_or_insert(now);
                }
                Ok(Step::Reading)
            }
            Output::Token { id, logprob } => {
                self.read = self.prompt;
                self.tokens += 1;
                self.times.read.get_or_insert(now);
                self.times.latest = now;
                let before = self.text.decoded();
                let text = self.text.push(id)?;
                self.end = self.text.cut().map(End::Cut);
                let chars = (before, self.text.decoded());
                Ok(Step::Text(text, Some(Token { id, logprob, chars })))
            }
            Output::Done(finish) => {
                let rest = self.text.finish();
                self.end = Some(match (self.text.cut(), finish) {
                    (Some(cut), _) => End::Cut(cut),
                    (None, Finish::Stop) => End::Model,
                    (None, Finish::Length | Finish::Loop) => End::Limit,
                });
                Ok(Step::Text(rest, None))
            }
            Output::Failed(failure) => Err(failure.into()),
        }
    }
}
