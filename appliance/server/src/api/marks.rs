//! Finds the places where later prompts are likely to diverge from a chat prompt.

use v4_tokenizer::Tokenizer;

/// Begin turns.
const TURNS: [&str; 2] = ["<｜User｜>", "<｜Assistant｜>"];
/// Turns at the end that are all marked: clients put files and reminders behind the
/// conversation, and another message before those.
const LAST: usize = 8;
/// The last turns are marked unless they are nearer to the next one than this: so little
/// is read again sooner than a step of its own is run.
const LEAST: usize = 32;
/// A shorter system prompt is none.
const LEAST_ROOT: usize = 8;
/// Turns before these are marked if they are further than this from the next one.
const APART: usize = 512;

/// Places in a prompt.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// The end of the system prompt and tools.
    pub root: Option<usize>,
    /// Where turns begin, in order.
    pub turns: Vec<usize>,
}

impl Marks {
    /// Of a prompt of a chat: where its turns begin, all of the last ones and some of
    /// those before.
    pub fn of(tokenizer: &Tokenizer, ids: &[u32]) -> Self {
        let marks = TURNS.map(|mark| tokenizer.mark(mark));
        let all = ids.iter().enumerate();
        let begins: Vec<usize> = all
            .filter(|&(at, &id)| at > 0 && marks.contains(&Some(id)))
            .map(|(at, _)| at)
            .collect();
        let Some((&root, rest)) = begins.split_first() else {
            return Self::default();
        };
        let mut turns = Vec::new();
        let mut next = ids.len();
        for &at in rest.iter().rev() {
            let apart = if turns.len() < LAST { LEAST } else { APART };
            // The model's turn is next, and is marked however short it is so far.
            if turns.is_empty() || next - at >= apart {
                turns.push(at);
                next = at;
            }
        }
        turns.reverse();
        Self {
            root: Some(root).filter(|&root| root >= LEAST_ROOT),
            turns,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_last_turns_are_marked_and_of_those_before_some() {
        let tiny =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny-v4/tokenizer.json");
        let tokenizer = Tokenizer::from_json_file(&tiny).unwrap();
        let [user, assistant] = TURNS.map(|mark| tokenizer.mark(mark).unwrap());
        let mut ids = vec![1; 1000];
        for _ in 0..100 {
            ids.push(user);
            ids.extend([2; 5]);
            ids.push(assistant);
            ids.extend([3; 100]);
        }
        ids.extend([user, 4, assistant, 5]);
        let marks = Marks::of(&tokenizer, &ids);
        assert_eq!(marks.root, Some(1000));
        assert_eq!(marks.turns.last(), Some(&(ids.len() - 2)));
        assert!(
            marks
                .turns
                .iter()
                .all(|&at| ids[at] == user || ids[at] == assistant)
        );
        let last: Vec<_> = marks.turns.windows(2).rev().map(|w| w[1] - w[0]).collect();
        // The last question is too short for a place of its own.
        assert!(
            last[..7].iter().all(|&apart| (32..=214).contains(&apart)),
            "{last:?}"
        );
        assert!(
            last[7..].iter().all(|&apart| (512..700).contains(&apart)),
            "{last:?}"
        );
        assert!(marks.turns[0] - 1000 <= 600);
    }

    #[test]
    fn a_prompt_without_turns_has_no_places() {
        let tiny =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny-v4/tokenizer.json");
        let tokenizer = Tokenizer::from_json_file(&tiny).unwrap();
        assert_eq!(Marks::of(&tokenizer, &[1, 2, 3]), Marks::default());
        assert_eq!(Marks::of(&tokenizer, &[]), Marks::default());
    }
}
