//! Detects text that repeats itself.

/// Longest piece that is looked for, in tokens.
const LONGEST: usize = 256;
/// How often a piece comes before it is a loop, and how many tokens that takes at least:
/// tables and lists of the like repeat themselves for good reason.
const TIMES: usize = 8;
const LEAST: usize = 256;

/// Watches the tokens of an answer for a piece that comes again and again: up to 256
/// tokens, eight times in a row and 256 tokens in all at least. Small quants and long
/// chats of agents run into such loops, and only a limit ends them.
#[derive(Debug, Clone)]
pub struct LoopDetector {
    /// The last tokens, in a ring.
    last: Vec<u32>,
    seen: usize,
    /// For each length, how many tokens in a row are those of one length before.
    same: Vec<u32>,
}

impl Default for LoopDetector {
    fn default() -> Self {
        Self {
            last: vec![0; LONGEST],
            seen: 0,
            same: vec![0; LONGEST],
        }
    }
}

impl LoopDetector {
    /// Takes a token of the answer; true once the answer repeats itself.
    pub fn push(&mut self, id: u32) -> bool {
        let mut found = false;
        for length in 1..=LONGEST.min(self.seen) {
            let before = self.last[(self.seen - length) % LONGEST];
            let same = &mut self.same[length - 1];
            *same = if before == id { *same + 1 } else { 0 };
            let repeated = *same as usize + length;
            found |= repeated >= LEAST.max(TIMES * length);
        }
        self.last[self.seen % LONGEST] = id;
        self.seen += 1;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The token at which a loop is found.
    fn found(ids: impl Iterator<Item = u32>) -> Option<usize> {
        let mut detector = LoopDetector::default();
        let mut ids = ids.take(100_000);
        ids.position(|id| detector.push(id)).map(|at| at + 1)
    }

    #[test]
    fn pieces_of_all_lengths_are_found_when_they_have_come_often_enough() {
        for length in [1, 2, 3, 31, 32, 33, 100, 255, 256] {
            let piece = |i| (i % length) as u32;
            assert_eq!(
                found((0..).map(piece)),
                Some(LEAST.max(TIMES * length)),
                "{length}"
            );
            // After other text.
            let text = (0..1000).map(|i| i + 1000).chain((0..).map(piece));
            assert_eq!(found(text), Some(1000 + LEAST.max(TIMES * length)));
        }
    }

    #[test]
    fn text_that_goes_on_is_no_loop() {
        assert_eq!(found(0..), None);
        // Seven rows of a table, and a piece that is longer than any that is looked for.
        let rows = (0..7 * 40).map(|i| i % 40).chain(500..90_000);
        assert_eq!(found(rows), None);
        assert_eq!(found((0..).map(|i| i % 257)), None);
        // A number that grows between the same words.
        assert_eq!(
            found((0..).map(|i| if i % 9 == 8 { i } else { i % 9 })),
            None
        );
    }
}
