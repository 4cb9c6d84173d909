//! Drafts from the text itself: what followed the last time that its last tokens stood
//! there. Answers that quote, edit or list what the prompt has repeat it at length.

use super::drafts::{Draft, DraftSource};
use crate::error::EngineError;
use crate::session::Session;

/// Tokens that must be the same: the most first, as they say more.
const LENGTHS: [usize; 3] = [4, 3, 2];
/// Tokens back from the end that are looked at.
const SPAN: usize = 1 << 16;
/// Places that are remembered for each length. Later ones replace those before them.
const SLOTS: usize = 1 << 16;

/// Looks for the end of the text further up in it. Takes 768 KiB, and a time for each token
/// that does not depend on the length of the text.
#[derive(Debug)]
pub struct PromptLookup {
    /// For each length and each hash: the end of the last such piece, 0 for none.
    ends: Vec<u32>,
    /// Tokens whose pieces are in it.
    seen: usize,
    /// Drafts to make, as many as lately came and a little more.
    length: usize,
}

impl Default for PromptLookup {
    fn default() -> Self {
        Self {
            ends: vec![0; LENGTHS.len() * SLOTS],
            seen: 0,
            length: usize::MAX,
        }
    }
}

/// The slot of a piece.
fn slot(kind: usize, piece: &[u32]) -> usize {
    let mix = |hash: u64, id: &u32| (hash ^ u64::from(*id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let hash = piece.iter().fold(piece.len() as u64, mix);
    kind * SLOTS + (hash >> 48) as usize % SLOTS
}

impl PromptLookup {
    /// Up to `most` tokens that may come after `text` and `next`.
    fn look_up(&mut self, text: &[u32], next: u32, most: usize) -> Vec<u32> {
        // A text may have become shorter, and another one: pieces are compared below.
        let from = self
            .seen
            .min(text.len())
            .max(text.len().saturating_sub(SPAN));
        for end in from..=text.len() {
            for (kind, length) in LENGTHS.into_iter().enumerate() {
                if let Some(start) = end.checked_sub(length)
                    && let Ok(end) = u32::try_from(end)
                {
                    self.ends[slot(kind, &text[start..end as usize])] = end;
                }
            }
        }
        self.seen = text.len();
        let tail = text.len().saturating_sub(LENGTHS[0] - 1);
        let tail = [&text[tail..], &[next]].concat();
        let found = LENGTHS.into_iter().enumerate().find_map(|(kind, length)| {
            let piece = &tail[tail.len().checked_sub(length)?..];
            let end = self.ends[slot(kind, piece)] as usize;
            let there = text.get(end.checked_sub(length)?..end)?;
            (there == piece).then_some(end)
        });
        let mut all: Vec<u32> = Vec::new();
        if let Some(end) = found {
            for at in end..end + most {
                // What repeats itself goes on beyond the end of the text.
                let ahead = at.saturating_sub(text.len());
                let id = match (text.get(at), ahead) {
                    (Some(&id), _) => id,
                    (None, 0) => next,
                    (None, n) => all[n - 1],
                };
                all.push(id);
            }
        }
        all
    }
}

impl DraftSource for PromptLookup {
    fn draft(
        &mut self,
        session: &mut Session,
        next: u32,
        most: usize,
        drafts: &mut Vec<Draft>,
    ) -> Result<(), EngineError> {
        let most = most.min(self.length);
        let tokens = self.look_up(session.tokens(), next, most);
        drafts.extend(tokens.into_iter().map(|token| Draft {
            token,
            confidence: None,
        }));
        Ok(())
    }

    fn verified(&mut self, read: usize, came: usize) {
        self.length = match came == read {
            true => self.length.saturating_mul(2),
            false => came + 1,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drafts(source: &mut PromptLookup, text: &[u32], most: usize) -> Vec<u32> {
        let (next, text) = text.split_last().unwrap();
        source.look_up(text, *next, most)
    }

    #[test]
    fn what_followed_the_last_time_comes_again() {
        let mut source = PromptLookup::default();
        let text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2];
        assert_eq!(drafts(&mut source, &text, 4), [3, 4, 5, 6]);
        assert_eq!(drafts(&mut source, &[1, 2, 3], 4), [0_u32; 0]);
        assert_eq!(drafts(&mut source, &[7], 4), [0_u32; 0]);
        // The later of two places, and of pieces the longer.
        let text = [1, 2, 3, 9, 2, 3, 8, 9, 2, 3];
        assert_eq!(drafts(&mut PromptLookup::default(), &text, 2), [8, 9]);
        let text = [5, 1, 2, 3, 1, 2, 4, 9, 5, 1, 2];
        assert_eq!(drafts(&mut PromptLookup::default(), &text, 1), [3]);
    }

    #[test]
    fn a_repetition_goes_on_beyond_the_text() {
        let text = [9, 1, 2, 3, 1, 2, 3, 1, 2];
        let expected = [3, 1, 2, 3, 1, 2, 3, 1];
        assert_eq!(drafts(&mut PromptLookup::default(), &text, 8), expected);
        let ones = [1; 6];
        assert_eq!(drafts(&mut PromptLookup::default(), &ones, 4), [1; 4]);
    }

    #[test]
    fn token_by_token_it_finds_what_it_finds_at_once() {
        let mut x = 7_u32;
        let text: Vec<u32> = (0..3000)
            .map(|_| {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                x >> 28
            })
            .collect();
        let mut steady = PromptLookup::default();
        let mut found = 0;
        for end in 1..text.len() {
            let at_once = drafts(&mut PromptLookup::default(), &text[..end], 3);
            assert_eq!(drafts(&mut steady, &text[..end], 3), at_once);
            found += usize::from(!at_once.is_empty());
        }
        assert!(found > 2000, "{found}");
    }

    #[test]
    fn a_text_that_became_another_one_gives_no_wrong_places() {
        let mut source = PromptLookup::default();
        drafts(&mut source, &[1, 2, 3, 4, 5, 1, 2], 4);
        // Shorter, then other tokens: [1, 2] no longer stands where it stood.
        assert_eq!(drafts(&mut source, &[8, 8], 4), [0_u32; 0]);
        assert_eq!(
            drafts(&mut source, &[8, 8, 7, 6, 5, 4, 3, 1, 2], 4),
            [0_u32; 0]
        );
    }

    #[test]
    fn it_drafts_as_much_as_came_lately() {
        let mut source = PromptLookup::default();
        source.verified(8, 2);
        assert_eq!(source.length, 3);
        source.verified(3, 3);
        assert_eq!(source.length, 6);
        source.verified(6, 0);
        assert_eq!(source.length, 1);
    }
}
