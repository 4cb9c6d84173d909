//! Splits text before BPE, and finds places where a long text can be cut without changing
//! the split.

use std::ops::Range;

use tokenizers::SplitDelimiterBehavior;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};

use super::TokenizerError;

/// Names of the split rules in GGUF files, of which the first is written. They are
/// one set: llama.cpp files V4's published tokenizer under `joyai-llm`, but its
/// rules are those of `deepseek-v3`, which more programs know (spec, section 1 of
/// gguf and section 5 of architecture).
pub(super) const PRE_TOKENIZER_NAMES: [&str; 2] = ["deepseek-v3", "joyai-llm"];

/// The three splits, in order: numbers by up to three digits, runs of Chinese
/// and Japanese, then words, punctuation and white space.
pub(super) const PATTERNS: [&str; 3] = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+\
     | ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
];

/// Text is handed to the regular expressions in segments of about this size.
const SEGMENT: usize = 64 << 10;

/// Longest segment that is tried when there is no place to cut. The expressions
/// backtrack over white space twice, and the engine gives up (and its binding
/// panics) at ten million steps.
pub(super) const MAX_SEGMENT: usize = 4 << 20;

/// The splits followed by the mapping of bytes to symbols.
pub(super) fn pre_tokenizer() -> Result<Sequence, TokenizerError> {
    let mut steps = Vec::new();
    for pattern in PATTERNS {
        let split = Split::new(
            SplitPattern::Regex(pattern.to_owned()),
            SplitDelimiterBehavior::Isolated,
            false,
        )
        .map_err(|e| TokenizerError::Library(e.to_string()))?;
        steps.push(split.into());
    }
    steps.push(ByteLevel::new(false, true, false).into());
    Ok(Sequence::new(steps))
}

/// Divides a range of a text into segments that can be encoded one by one with
/// the same result as the whole range.
pub(super) fn segments(
    text: &str,
    range: Range<usize>,
) -> Result<Vec<Range<usize>>, TokenizerError> {
    let text = &text[..range.end];
    let mut segments = Vec::with_capacity(range.len() / SEGMENT + 1);
    let mut start = range.start;
    while start < range.end {
        let end = match range.end - start {
            rest if rest <= SEGMENT => range.end,
            _ => next_cut(text, start + SEGMENT),
        };
        if end - start > MAX_SEGMENT {
            return Err(TokenizerError::UnbreakableText {
                start,
                bytes: end - start,
                limit: MAX_SEGMENT,
            });
        }
        segments.push(start..end);
        start = end;
    }
    Ok(segments)
}

/// The first place at or after `from` where the text may be cut, or its end.
pub(super) fn next_cut(text: &str, mut from: usize) -> usize {
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let mut before = text[..from].chars().next_back();
    for (offset, after) in text[from..].char_indices() {
        if before.is_some_and(|before| is_cut(before, after)) {
            return from + offset;
        }
        before = Some(after);
    }
    text.len()
}

/// Whether the splits always part these two characters, whatever surrounds them.
///
/// - A number and a letter are parted by the first split, an ideograph (or kana)
///   and anything else by the second, so no later match can see across.
/// - A letter ends its word before a space or a line feed, and no expression that
///   can hold the letter looks ahead.
/// - White space that ends in a line feed before a visible character is always
///   taken up to that line feed, by `\s*[\r\n]+` or by the punctuation before it,
///   both of which come before the expression that looks ahead.
fn is_cut(before: char, after: char) -> bool {
    let cjk = |c: char| matches!(c, '一'..='龥' | '\u{3040}'..='\u{30FF}');
    if cjk(before) != cjk(after) {
        return true;
    }
    if before.is_ascii_alphabetic() {
        return after.is_ascii_digit() || matches!(after, ' ' | '\n');
    }
    if before.is_ascii_digit() {
        return after.is_ascii_alphabetic();
    }
    before == '\n' && after.is_ascii_graphic()
}
