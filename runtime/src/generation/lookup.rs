//! Drafts from the text itself: what followed where its end stood before. Answers that
//! quote, edit or list what the prompt has repeat it at length, and what fills a gap may run
//! into the text after it.
//!
//! Of the last places where the end stood, the one counts at which most of it did. A draft of
//! an edited file is then read on in the file, and not in another place with the same few
//! tokens; and how much of it stood there says how likely a draft comes.
//!
//! Computed for a pass that takes `1 + 0.15 (n - 1)` for `n` rows (`0.35` in brackets): how
//! much faster text comes than without drafts.
//!
//! | | the last place with the same 4, 3 or 2 tokens | the longest of up to 32 | and its chances |
//! |---|---|---|---|
//! | a source file of this repository, after an earlier version of it | 2.61 (1.66) | 3.13 (1.90) | 3.18 (2.06) |
//! | its source files, one after the other, the second half | 1.25 (1.05) | 1.26 (1.05) | 1.26 (1.08) |
//! | its documents | 1.09 (1.02) | 1.11 (1.01) | 1.13 (1.06) |

mod gap;
mod rates;

use v4_tokenizer::{GAP_MARKS, Tokenizer};

use self::gap::Gap;
use self::rates::{CLASSES, Rate, class};
use super::drafts::{Draft, DraftSource};
use crate::error::EngineError;
use crate::session::Session;

/// Tokens that must be the same, and most that are compared.
const LEAST: usize = 2;
const MOST: usize = 32;
/// Most places that are compared: the last ones.
const PLACES: usize = 64;
/// Tokens back from the end that are looked at.
const SPAN: usize = 1 << 16;
/// Pieces that are told apart, nearly always.
const SLOTS: usize = 1 << 16;

/// Looks for the end of the text further up in it. Takes 512 KiB, and a time for each token
/// that does not depend on the length of the text.
#[derive(Debug)]
pub struct PromptLookup {
    /// For each hash: the end of the last piece of [`LEAST`] tokens, 0 for none.
    last: Vec<u32>,
    /// For each end, modulo [`SPAN`]: that of the piece before it with the same hash.
    before: Vec<u32>,
    /// Tokens whose pieces are in it.
    seen: usize,
    gap: Gap,
    /// Drafts to make, as many as lately came and a little more.
    length: usize,
    /// By how much agreed.
    rates: [Rate; CLASSES],
    /// What the last drafts were of, until it is known what became of them.
    offered: Option<usize>,
}

/// What followed at a place, and how many tokens before it are those at the end.
#[derive(Debug, Default, PartialEq)]
struct Found {
    tokens: Vec<u32>,
    agree: usize,
}

impl Default for PromptLookup {
    fn default() -> Self {
        Self {
            last: vec![0; SLOTS],
            before: vec![0; SPAN],
            seen: 0,
            gap: Gap::default(),
            length: usize::MAX,
            rates: Rate::assumed(),
            offered: None,
        }
    }
}

/// The slot of a piece.
fn slot(piece: &[u32]) -> usize {
    let mix = |hash: u64, id: &u32| (hash ^ u64::from(*id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (piece.iter().fold(0, mix) >> 48) as usize % SLOTS
}

impl PromptLookup {
    /// For texts with gaps that are marked as the tokenizer's model was trained to fill them.
    #[must_use]
    pub fn with_gaps(tokenizer: &Tokenizer) -> Self {
        let [_, hole, end] = GAP_MARKS.map(|mark| tokenizer.mark(mark));
        Self {
            gap: Gap::new(hole.zip(end)),
            ..Self::default()
        }
    }

    /// Up to `most` tokens that may come after `text` and `next`.
    fn look_up(&mut self, text: &[u32], next: u32, most: usize) -> Found {
        self.see(text);
        if let Some((after, agree)) = self.gap.runs_on(text, next) {
            let tokens = after.iter().take(most).copied().collect();
            return Found { tokens, agree };
        }
        let Some((end, agree)) = self.longest(text, next) else {
            return Found::default();
        };
        let mut tokens: Vec<u32> = Vec::new();
        for at in end..end + most {
            // What repeats itself goes on beyond the end of the text.
            let ahead = at.saturating_sub(text.len());
            let id = match (text.get(at), ahead) {
                (Some(&id), _) => id,
                (None, 0) => next,
                (None, n) => tokens[n - 1],
            };
            tokens.push(id);
        }
        Found { tokens, agree }
    }

    /// Takes in the pieces of what is new.
    fn see(&mut self, text: &[u32]) {
        // A text may have become shorter, and another one: pieces are compared.
        let from = self.seen.min(text.len());
        let from = from.max(text.len().saturating_sub(SPAN));
        self.gap.see(text, from);
        for end in from.max(LEAST)..=text.len() {
            let slot = slot(&text[end - LEAST..end]);
            let end = end as u32;
            if self.last[slot] != end {
                self.before[end as usize % SPAN] = self.last[slot];
                self.last[slot] = end;
            }
        }
        self.seen = text.len();
    }

    /// Of the places where the end of the text stood, the one at which most of it did, of
    /// several the last; and how much of it.
    fn longest(&self, text: &[u32], next: u32) -> Option<(usize, usize)> {
        let tail = &text[text.len().saturating_sub(MOST - 1)..];
        let tail = [tail, &[next]].concat();
        let piece = &tail[tail.len().checked_sub(LEAST)?..];
        let (mut at, mut best) = (self.last[slot(piece)] as usize, None);
        for _ in 0..PLACES {
            if at == 0 || at > text.len() || at + SPAN <= text.len() {
                break;
            }
            let pairs = text[..at].iter().rev().zip(tail.iter().rev());
            let agree = pairs.take_while(|(a, b)| a == b).count();
            if agree >= LEAST && best.is_none_or(|(_, most)| agree > most) {
                best = Some((at, agree));
            }
            let before = self.before[at % SPAN] as usize;
            // Those of another text do not go back.
            if agree == tail.len() || before >= at {
                break;
            }
            at = before;
        }
        best
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
        if let Some(class) = self.offered.take() {
            self.rates[class].passed_over();
        }
        let most = most.min(self.length);
        let found = self.look_up(session.tokens(), next, most);
        if found.tokens.is_empty() {
            return Ok(());
        }
        let class = class(found.agree);
        self.offered = Some(class);
        let confidence = |i| Some(self.rates[class].chance(i));
        let tokens = found.tokens.into_iter().enumerate();
        drafts.extend(tokens.map(|(i, token)| Draft {
            token,
            confidence: confidence(i),
        }));
        Ok(())
    }

    fn verified(&mut self, read: usize, came: usize) {
        if let Some(class) = self.offered.take() {
            self.rates[class].verified(read, came);
        }
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
        source.look_up(text, *next, most).tokens
    }

    #[test]
    fn what_followed_the_last_time_comes_again() {
        let mut source = PromptLookup::default();
        let text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2];
        assert_eq!(drafts(&mut source, &text, 4), [3, 4, 5, 6]);
        assert_eq!(drafts(&mut source, &[1, 2, 3], 4), [0_u32; 0]);
        assert_eq!(drafts(&mut source, &[7], 4), [0_u32; 0]);
        // The later of two places, and before that the one at which more agrees.
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

    /// An edited file: the draft goes on in the place that was copied so far, and not in the
    /// last one that looks alike.
    #[test]
    fn the_place_at_which_more_agrees_counts_before_the_last_one() {
        let same = [7, 8, 9, 6];
        let first = [&[1, 2, 3][..], &same, &[41, 42]].concat();
        let second = [&[4, 5][..], &same, &[51, 52]].concat();
        let both = [&first[..], &second].concat();
        let copy = [&both[..], &[99], &first[..7]].concat();
        assert_eq!(drafts(&mut PromptLookup::default(), &copy, 2), [41, 42]);
        let copy = [&both[..], &[99], &second[..6]].concat();
        assert_eq!(drafts(&mut PromptLookup::default(), &copy, 2), [51, 52]);
        // Where as much agrees, the last one.
        let copy = [&both[..], &[99], &same].concat();
        assert_eq!(drafts(&mut PromptLookup::default(), &copy, 2), [51, 52]);
    }

    /// A file of several spans, whose beginning is forgotten and whose end is not.
    #[test]
    fn places_too_far_back_are_forgotten() {
        let mut source = PromptLookup::default();
        let distinct = |n: usize| (0..n as u32).map(|i| i + 100);
        let text: Vec<u32> = [1, 2, 3].into_iter().chain(distinct(SPAN + 10)).collect();
        let ask = |source: &mut PromptLookup, end: [u32; 2]| {
            let text: Vec<u32> = text.iter().copied().chain(end).collect();
            drafts(source, &text, 1)
        };
        assert_eq!(ask(&mut source, [1, 2]), [0_u32; 0]);
        assert_eq!(ask(&mut source, [120, 121]), [122]);
        let end = SPAN as u32 + 100;
        assert_eq!(ask(&mut source, [end, end + 1]), [end + 2]);
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
