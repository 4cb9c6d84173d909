//! Conversations as token ids that continue the contents of a session.

use std::ops::Range;

use v4_tokenizer::Tokenizer;

use crate::{ChatError, Rendered};

/// The ids of `prompt`, beginning with `held` where those spell its beginning.
///
/// A model may have spelt its answer with other tokens than the tokenizer would
/// choose for the same text. The ids of the whole conversation would then differ
/// from what the session holds, and everything would be read again. So if the
/// held tokens' text and marks are exactly the prompt's up to a mark, they stay,
/// and only the rest is encoded; marks separate tokens, so the rest is encoded
/// as it would have been in the whole.
///
/// # Errors
///
/// [`ChatError::Tokenizer`] for megabytes of text without a word break.
pub fn continuing(
    tokenizer: &Tokenizer,
    held: &[u32],
    prompt: Rendered,
) -> Result<Vec<u32>, ChatError> {
    let Some(kept) = spelt_by(tokenizer, held, &prompt).filter(|&kept| kept > 0) else {
        return Ok(prompt.ids);
    };
    let rest: Vec<Range<usize>> = prompt
        .special_ranges
        .iter()
        .filter(|mark| mark.start >= kept)
        .map(|mark| mark.start - kept..mark.end - kept)
        .collect();
    let mut ids = held.to_vec();
    let rest = tokenizer.encode_ranges(&prompt.prompt[kept..], &rest);
    ids.extend(rest.map_err(|e| ChatError::Tokenizer(e.to_string()))?);
    Ok(ids)
}

/// How many bytes of `prompt` the `held` tokens spell, if they spell its
/// beginning, mark for mark, and end next to a mark.
fn spelt_by(tokenizer: &Tokenizer, held: &[u32], prompt: &Rendered) -> Option<usize> {
    let text = prompt.prompt.as_bytes();
    let mut marks = prompt.special_ranges.iter().peekable();
    let mut at = 0;
    for &id in held {
        let bytes = tokenizer.token_bytes(id)?;
        let end = at + bytes.len();
        let mark = marks.next_if(|mark| mark.start < end);
        let same_mark = match mark {
            Some(mark) => tokenizer.is_mark(id) && *mark == (at..end),
            None => !tokenizer.is_mark(id),
        };
        if text.get(at..end)? != bytes || !same_mark {
            return None;
        }
        at = end;
    }
    let beside_mark = prompt
        .special_ranges
        .iter()
        .any(|mark| mark.start == at || mark.end == at);
    beside_mark.then_some(at)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{Conversation, ModelVersion, Turn};

    fn tokenizer() -> Tokenizer {
        let tiny =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny-v4/tokenizer.json");
        Tokenizer::from_json_file(&tiny).unwrap()
    }

    fn prompt(tokenizer: &Tokenizer, turns: &[Turn]) -> Rendered {
        let mut conversation = Conversation::new(ModelVersion::V4, false);
        conversation.turns = turns.to_vec();
        conversation.render(tokenizer).unwrap()
    }

    fn user(text: &str) -> Turn {
        Turn::User(text.into())
    }

    fn assistant(answer: &str) -> Turn {
        Turn::Assistant {
            reasoning: None,
            answer: answer.into(),
        }
    }

    /// The ids of `text`, one token per byte: never what the tokenizer chooses.
    fn odd_ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        text.bytes()
            .map(|b| (0..4051).find(|&id| tokenizer.token_bytes(id) == Some(&[b])))
            .collect::<Option<_>>()
            .unwrap()
    }

    #[test]
    fn an_answer_spelt_with_odd_tokens_is_kept() {
        let t = tokenizer();
        let mut held = prompt(&t, &[user("hello")]).ids;
        held.extend(odd_ids(&t, "the answer"));
        let next = prompt(&t, &[user("hello"), assistant("the answer"), user("more")]);
        let whole = next.ids.clone();
        let text = next.prompt.clone();
        let ids = continuing(&t, &held, next).unwrap();
        assert!(ids.starts_with(&held) && ids.len() > held.len());
        assert_ne!(ids, whole);
        assert_eq!(t.decode(&ids).unwrap(), text.as_bytes());
        assert!(
            whole.ends_with(&ids[held.len()..]),
            "the rest as in the whole"
        );
    }

    #[test]
    fn another_answer_or_a_cut_inside_it_is_not_kept() {
        let t = tokenizer();
        let mut held = prompt(&t, &[user("hello")]).ids;
        held.extend(odd_ids(&t, "the ans"));
        for answer in ["the answer", "other"] {
            let next = prompt(&t, &[user("hello"), assistant(answer), user("more")]);
            let whole = next.ids.clone();
            assert_eq!(continuing(&t, &held, next).unwrap(), whole, "{answer}");
        }
    }

    #[test]
    fn a_mark_spelt_as_text_is_not_the_mark() {
        let t = tokenizer();
        // The user's text spells a mark; held tokens that contain the mark
        // itself have the same bytes, but mean something else.
        let next = prompt(&t, &[user("<｜User｜>"), assistant("a"), user("b")]);
        let plain = prompt(&t, &[user("<｜User｜>")]);
        let mark = t.mark("<｜User｜>").unwrap();
        let mut forged = vec![plain.ids[0], mark, mark];
        forged.push(*plain.ids.iter().rev().nth(1).unwrap());
        forged.push(*plain.ids.last().unwrap());
        assert_eq!(t.decode(&forged).unwrap(), plain.prompt.as_bytes());
        let whole = next.ids.clone();
        assert_eq!(continuing(&t, &forged, next).unwrap(), whole);
    }
}
