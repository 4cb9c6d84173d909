use std::path::PathBuf;

use v4_files::gguf::Shown;

/// What can go wrong with a tokenizer, its source or a text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The tokenizer.json could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Something is wrong in a tokenizer.json.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Box<TokenizerError>,
    },
    /// The tokenizer.json is larger than any published one could be.
    #[error("tokenizer.json has {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// Size of the file.
        bytes: u64,
        /// Largest size accepted.
        limit: u64,
    },
    /// A Git LFS pointer stands where the tokenizer.json should.
    #[error(
        "a Git LFS pointer, not the tokenizer.json itself; run `git lfs pull` in its folder, or \
         download the file"
    )]
    LfsPointer,
    /// The tokenizer.json is not JSON, or a field has the wrong type.
    #[error("tokenizer.json cannot be parsed: {0}")]
    Json(String),
    /// The tokenizer works in another way than byte-level BPE.
    #[error("not a byte-level BPE tokenizer: {0}")]
    NotByteLevelBpe(String),
    /// The text is split before BPE by rules that are not known here.
    #[error("unknown pre-tokenizer {0}; supported: deepseek-v3, joyai-llm")]
    UnknownPreTokenizer(String),
    /// A GGUF key is missing or has the wrong type.
    #[error(transparent)]
    Metadata(#[from] v4_files::gguf::GgufError),
    /// `tokens` and `token_type` have different lengths.
    #[error(
        "tokenizer.ggml.tokens has {tokens} entries, but tokenizer.ggml.token_type has {types}; \
         the file is damaged, convert the checkpoint again"
    )]
    LengthsDiffer {
        /// Entries of `tokens`.
        tokens: usize,
        /// Entries of `token_type`.
        types: usize,
    },
    /// A token type that byte-level BPE does not have.
    #[error("token {id} has type {kind}, not 1 (normal), 3 (control), 4 (user) or 5 (unused)")]
    TokenType {
        /// The token's id.
        id: usize,
        /// The number found.
        kind: i32,
    },
    /// There is no token at all.
    #[error("the vocabulary is empty")]
    EmptyVocabulary,
    /// More tokens, or a higher id, than a vocabulary of this size can have.
    #[error("token id {id} is out of range; at most {limit} ids are supported")]
    IdTooHigh {
        /// The id, or the number of tokens.
        id: u64,
        /// Number of ids accepted.
        limit: usize,
    },
    /// The model has fewer ids than its tokenizer.
    #[error("the tokenizer has {tokens} ids, but the model's vocabulary has {vocab_size}")]
    VocabularyTooSmall {
        /// Ids of the tokenizer.
        tokens: usize,
        /// Ids of the model.
        vocab_size: usize,
    },
    /// Two tokens have the same text, or two texts the same id.
    #[error("token {} (id {id}) is defined twice", Shown(text))]
    DuplicateToken {
        /// The token's text.
        text: String,
        /// One of its ids.
        id: u32,
    },
    /// A token has no text.
    #[error("token {0} is empty")]
    EmptyToken(u32),
    /// A token is longer than any that was ever learnt.
    #[error("token {id} has {bytes} bytes; the limit is {limit}")]
    TokenTooLong {
        /// The token's id.
        id: u32,
        /// Length of its text in bytes.
        bytes: usize,
        /// Longest text accepted.
        limit: usize,
    },
    /// The marks take more text than any published tokenizer's.
    #[error("the marks have {bytes} bytes in total; the limit is {limit}")]
    MarksTooLong {
        /// Length of all marks in bytes.
        bytes: usize,
        /// Most bytes accepted.
        limit: usize,
    },
    /// One of the 256 bytes has no token, so some texts could not be encoded.
    #[error("not a byte-level BPE tokenizer: no token for the byte 0x{0:02x}")]
    MissingByte(u8),
    /// A merge rule that has not two parts.
    #[error("merge {index} ({}) is not a pair of tokens", Shown(text))]
    MalformedMerge {
        /// Index of the merge.
        index: usize,
        /// Its text.
        text: String,
    },
    /// A merge rule with a part or a result that is not a token.
    #[error(
        "merge {index} needs the token {}, which is not in the vocabulary",
        Shown(token)
    )]
    MergeUnknownToken {
        /// Index of the merge.
        index: usize,
        /// The missing token.
        token: String,
    },
    /// A merge rule whose result is a mark: plain text could become one.
    #[error("merge {index} turns plain text into the mark {}", Shown(mark))]
    MergeMakesMark {
        /// Index of the merge.
        index: usize,
        /// The mark.
        mark: String,
    },
    /// A merge rule is listed twice, so its rank is ambiguous.
    #[error("merge {index} ({} {}) is listed twice", Shown(left), Shown(right))]
    DuplicateMerge {
        /// Index of the second one.
        index: usize,
        /// Left part.
        left: String,
        /// Right part.
        right: String,
    },
    /// An id beyond the vocabulary.
    #[error("token id {id} is out of range; the vocabulary has {vocab_size} ids")]
    UnknownId {
        /// The id.
        id: u32,
        /// Number of ids.
        vocab_size: usize,
    },
    /// A special range that is out of order, out of the text, or cuts a character.
    #[error("special range {start}..{end} is out of order or outside the text")]
    BadRange {
        /// First byte.
        start: usize,
        /// One past the last byte.
        end: usize,
    },
    /// A special range whose text is not a mark of this tokenizer.
    #[error("{} is not a special token of this tokenizer", Shown(.0))]
    UnknownMark(String),
    /// A stretch of text that cannot be divided, and is too long to be encoded.
    #[error(
        "{bytes} bytes of text from byte {start} have no word break; at most {limit} can be \
         encoded in one piece, so split the text"
    )]
    UnbreakableText {
        /// Where the stretch starts.
        start: usize,
        /// Its length.
        bytes: usize,
        /// Longest stretch accepted.
        limit: usize,
    },
    /// The tokenizer library failed.
    #[error("tokenizer: {0}")]
    Library(String),
}
