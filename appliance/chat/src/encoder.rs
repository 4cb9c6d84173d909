//! Adapts our tokenizer to the recipe's interface.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use deepseek_recipe::request;
use deepseek_recipe::stream::StreamTokenizer;
use deepseek_recipe_core::conversation::Conversation;
use deepseek_recipe_encoding::{
    PromptEncoding, RenderedPrompt, TokenizerEncoder, dsv4::DeepseekV4Encoding,
    dsv41::DeepseekV41Encoding,
};
use v4_tokenizer::{Marks, Tokenizer};

use crate::ChatError;

/// The generation of the model, which decides the prompt's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelVersion {
    /// V4 (Flash and Pro).
    V4,
    /// V4.1.
    V41,
}

impl ModelVersion {
    /// The version of a model by its architecture in the GGUF file.
    ///
    /// # Errors
    ///
    /// [`ChatError::UnknownArchitecture`].
    pub fn from_architecture(architecture: &str) -> Result<Self, ChatError> {
        match architecture {
            "deepseek4" => Ok(Self::V4),
            "deepseek41" => Ok(Self::V41),
            _ => Err(ChatError::UnknownArchitecture(architecture.to_owned())),
        }
    }

    pub(crate) fn recipe(self) -> request::ModelVersion {
        // The recipe knows V4 by its Pro model only; Flash has the same format.
        match self {
            Self::V4 => request::ModelVersion::DeepseekV4Pro,
            Self::V41 => request::ModelVersion::DeepseekV41Flash,
        }
    }

    pub(crate) fn render(self, conversation: &Conversation) -> RenderedPrompt {
        match self {
            Self::V4 => DeepseekV4Encoding::new().render_conversation(conversation),
            Self::V41 => DeepseekV41Encoding::new().render_conversation(conversation),
        }
    }
}

/// A prompt ready for the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub prompt: String,
    /// The byte ranges of the text that are marks; all else is plain text, whatever
    /// it spells.
    pub special_ranges: Vec<Range<usize>>,
    /// The token ids.
    pub ids: Vec<u32>,
    /// How many images the prompt refers to. Their ids are place holders: a model
    /// that has no vision must refuse the request.
    pub images: usize,
}

impl Rendered {
    /// The same prompt with other ids, whose text and marks it then has.
    pub(crate) fn with_ids(self, tokenizer: &Tokenizer, ids: Vec<u32>) -> Self {
        let mut bytes = Vec::new();
        let mut special_ranges = Vec::new();
        for &id in &ids {
            let from = bytes.len();
            bytes.extend_from_slice(tokenizer.token_bytes(id).unwrap_or_default());
            if tokenizer.is_mark(id) {
                special_ranges.push(from..bytes.len());
            }
        }
        Self {
            prompt: String::from_utf8_lossy(&bytes).into_owned(),
            special_ranges,
            ids,
            images: self.images,
        }
    }

    pub(crate) fn encode(prompt: RenderedPrompt, tokenizer: &Tokenizer) -> Result<Self, ChatError> {
        let ids = tokenizer
            .encode_ranges(&prompt.prompt, &prompt.special_ranges)
            .map_err(|e| ChatError::Tokenizer(e.to_string()))?;
        Ok(Self {
            prompt: prompt.prompt,
            special_ranges: prompt.special_ranges,
            ids,
            images: prompt.image_sources.len(),
        })
    }
}

/// Our tokenizer behind the recipe's traits.
#[derive(Clone)]
pub(crate) struct Encoder(Tokenizer, Thought);

impl Encoder {
    pub fn new(tokenizer: Tokenizer) -> Self {
        Self(tokenizer, Thought::default())
    }

    /// Where to count tokens of reasoning.
    pub fn thought(&self) -> Thought {
        self.1.clone()
    }
}

/// Tokens of reasoning, counted as they were drawn. The reader would count them in the
/// text, which may be spelt with more tokens than the model spelt it with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Thought(Arc<AtomicUsize>);

impl Thought {
    pub fn add(&self, tokens: usize) {
        self.0.fetch_add(tokens, Ordering::Relaxed);
    }
}

impl TokenizerEncoder for Encoder {
    fn encode_ids(&self, text: &str, special_ranges: &[Range<usize>]) -> Result<Vec<u32>, String> {
        self.0
            .encode_ranges(text, special_ranges)
            .map_err(|e| e.to_string())
    }
}

impl StreamTokenizer for Encoder {
    fn decode_ids(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, String> {
        let kept: Vec<u32>;
        let ids = if skip_special_tokens {
            kept = ids
                .iter()
                .copied()
                .filter(|&id| !self.0.is_mark(id))
                .collect();
            &kept
        } else {
            ids
        };
        self.0.decode_text(ids).map_err(|e| e.to_string())
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.0.token_text(id).map(str::to_owned)
    }

    fn count_tokens(&self, text: &str) -> Option<usize> {
        // Asked for the reasoning alone. The text may be spelt with more tokens than the
        // model spelt it with; one without ids has to be counted.
        let counted = self.0.encode(text, Marks::Parse).ok().map(|ids| ids.len());
        match self.1.0.load(Ordering::Relaxed) {
            0 => counted,
            drawn => counted.map(|counted| counted.min(drawn)),
        }
    }

    fn is_special_token(&self, id: u32) -> bool {
        self.0.is_mark(id)
    }
}
