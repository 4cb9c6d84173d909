use super::{Tokenizer, TokenizerError};

/// Decodes ids as they arrive, and holds back an incomplete character until
/// its last byte arrives.
///
/// All text together equals [`Tokenizer::decode_text`] of all ids.
#[derive(Debug)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    /// The bytes of a character that is not complete: at most three.
    held: Vec<u8>,
}

impl DecodeStream {
    pub(super) fn new(tokenizer: Tokenizer) -> Self {
        Self {
            tokenizer,
            held: Vec::new(),
        }
    }

    /// The text that `id` completes; often empty. Bytes that cannot be UTF-8,
    /// whatever follows, become U+FFFD.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::UnknownId`] for an id beyond the vocabulary; the stream can
    /// continue.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        self.held
            .extend_from_slice(self.tokenizer.require_bytes(id)?);
        Ok(take_text(&mut self.held))
    }

    /// Ends the stream: an incomplete character becomes U+FFFD.
    #[must_use]
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.held).into_owned()
    }
}

/// Takes all of `bytes` but an incomplete character at its end.
fn take_text(bytes: &mut Vec<u8>) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut taken = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        taken += chunk.valid().len();
        let invalid = chunk.invalid();
        // `error_len` is `None` only where the end cuts a character short.
        let incomplete = taken + invalid.len() == bytes.len()
            && std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
        if !invalid.is_empty() && !incomplete {
            text.push(char::REPLACEMENT_CHARACTER);
            taken += invalid.len();
        }
    }
    bytes.drain(..taken);
    text
}
