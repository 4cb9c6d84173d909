//! Converts generated tokens to the text of an answer: separates reasoning, finds stop
//! strings, and completes characters.

use std::io::Write;
use std::mem;
use std::ops::ControlFlow;

use anyhow::Context;
use v4_chat::Piece;
use v4_runtime::generation::StopFilter;
use v4_tokenizer::{DecodeStream, Tokenizer};

use crate::generation::{Continuation, Limits, Outcome, generate};
use crate::output::{AnswerWriter, Notes};

/// What makes text of tokens.
enum Decoder {
    /// The model's turn in a chat.
    Chat(v4_chat::ReplyParser),
    /// Raw text, marks shown as they are spelt.
    Raw(DecodeStream),
    /// Nothing more comes.
    Done,
}

/// Takes tokens, gives pieces, and keeps the whole. Stop strings count in the
/// answer alone, not in the reasoning before it.
pub struct Detokenizer {
    decoder: Decoder,
    stops: StopFilter,
    reasoning: String,
    content: String,
}

impl Detokenizer {
    /// The model's turn in a chat.
    pub fn chat(parser: v4_chat::ReplyParser, stops: &[String]) -> Self {
        Self::new(Decoder::Chat(parser), stops)
    }

    /// The continuation of a raw text.
    pub fn raw(tokenizer: &Tokenizer, stops: &[String]) -> Self {
        Self::new(Decoder::Raw(tokenizer.decode_stream()), stops)
    }

    fn new(decoder: Decoder, stops: &[String]) -> Self {
        Detokenizer {
            decoder,
            stops: StopFilter::new(stops),
            reasoning: String::new(),
            content: String::new(),
        }
    }

    /// Takes a token; breaks when a stop string was met.
    pub fn push(&mut self, id: u32, show: Show<'_>) -> anyhow::Result<ControlFlow<()>> {
        let no_text = || format!("the model chose token {id}, which its tokenizer cannot decode");
        let pieces = match &mut self.decoder {
            Decoder::Chat(parser) => parser.push(id).with_context(no_text)?,
            Decoder::Raw(decoder) => {
                vec![Piece::Answer(decoder.push(id).with_context(no_text)?)]
            }
            Decoder::Done => Vec::new(),
        };
        self.show(pieces, show)?;
        Ok(if self.stops.stopped() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    }

    /// Ends the answer: what was held back comes out.
    pub fn finish(&mut self, show: Show<'_>) -> anyhow::Result<()> {
        let pieces = match mem::replace(&mut self.decoder, Decoder::Done) {
            Decoder::Chat(parser) => parser.finish()?,
            Decoder::Raw(decoder) => vec![Piece::Answer(decoder.finish())],
            Decoder::Done => Vec::new(),
        };
        self.show(pieces, show)?;
        let held = self.stops.finish();
        self.show_content(held, show)
    }

    /// The answer so far.
    pub fn content(&self) -> &str {
        &self.content
    }

    /// The reasoning so far.
    pub fn reasoning(&self) -> &str {
        &self.reasoning
    }

    fn show(&mut self, pieces: Vec<Piece>, show: Show<'_>) -> anyhow::Result<()> {
        for piece in pieces {
            match piece {
                Piece::Reasoning(text) => {
                    self.reasoning.push_str(&text);
                    show(Piece::Reasoning(text))?;
                }
                Piece::Answer(text) => {
                    let text = self.stops.push(&text);
                    self.show_content(text, show)?;
                }
            }
        }
        Ok(())
    }

    fn show_content(&mut self, text: String, show: Show<'_>) -> anyhow::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.content.push_str(&text);
        show(Piece::Answer(text))
    }
}

/// Where pieces go as they come.
pub type Show<'a> = &'a mut dyn FnMut(Piece) -> anyhow::Result<()>;

/// Generates an answer into `detokenizer`, and onto `answer` where there is one. The
/// caller ends the answer's line.
pub fn stream<W: Write>(
    model: &mut dyn Continuation,
    prompt: &[u32],
    limits: Limits,
    notes: Notes,
    detokenizer: &mut Detokenizer,
    mut answer: Option<&mut AnswerWriter<W>>,
) -> anyhow::Result<Outcome> {
    let mut show = |piece: Piece| -> anyhow::Result<()> {
        if let Some(answer) = answer.as_deref_mut() {
            match piece {
                Piece::Reasoning(text) => answer.reasoning(&text)?,
                Piece::Answer(text) => answer.content(&text)?,
            }
        }
        Ok(())
    };
    let outcome = generate(model, prompt, limits, notes, &mut |id| {
        detokenizer.push(id, &mut show)
    })?;
    detokenizer.finish(&mut show)?;
    Ok(outcome)
}
