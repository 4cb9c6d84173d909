//! Decides how much of a prompt to read at once.

use std::time::Duration;

/// Tokens of the first piece, before any is measured.
const FIRST: usize = 32;
/// Pieces are not shorter: with fewer rows weights are read for too little.
const LEAST: usize = 16;
/// How long a piece may take when nobody waits; so long the thread shows no life.
const ALONE: f64 = 4.0;
/// Bounds on a piece while others wait for their tokens, in seconds.
const BESIDE: (f64, f64) = (0.05, 1.0);
/// Weight of the latest measurement.
const LATEST: f64 = 0.3;

/// Measures how fast prompts are read.
#[derive(Debug)]
pub(super) struct Pace {
    chunk: usize,
    /// Seconds for a token.
    seconds: Option<f64>,
}

impl Pace {
    pub fn new(chunk: usize) -> Self {
        Self {
            chunk,
            seconds: None,
        }
    }

    /// Tokens of the next piece. `beside`: other requests wait for their next tokens,
    /// which took `decoding` in this round.
    pub fn piece(&self, beside: bool, decoding: Duration) -> usize {
        let Some(seconds) = self.seconds else {
            return FIRST.min(self.chunk);
        };
        let time = match beside {
            true => decoding.as_secs_f64().clamp(BESIDE.0, BESIDE.1),
            false => ALONE,
        };
        let tokens = time / seconds.max(1e-9);
        // Far below the range of usize for any chunk there is.
        (tokens.min(1e9) as usize).clamp(LEAST.min(self.chunk), self.chunk)
    }

    /// A piece of that many tokens took that long.
    pub fn measured(&mut self, tokens: usize, time: Duration) {
        // A few rows say little about many.
        if tokens < LEAST.min(self.chunk) {
            return;
        }
        let now = time.as_secs_f64() / tokens as f64;
        self.seconds = Some(match self.seconds {
            Some(before) => before + LATEST * (now - before),
            None => now,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_take_as_long_as_the_others_tokens_did() {
        let mut pace = Pace::new(512);
        let second = Duration::from_secs(1);
        assert_eq!(pace.piece(true, second), FIRST);
        pace.measured(100, second);
        assert_eq!(pace.piece(true, Duration::from_millis(500)), 50);
        assert_eq!(pace.piece(true, 10 * second), 100, "not above a second");
        assert_eq!(pace.piece(true, Duration::ZERO), LEAST);
        assert_eq!(pace.piece(false, Duration::ZERO), 400);
        pace.measured(1, 100 * second);
        assert_eq!(
            pace.piece(false, Duration::ZERO),
            400,
            "one row says little"
        );
        // The latest counts for three tenths.
        pace.measured(LEAST, Duration::from_millis(320));
        assert_eq!(pace.piece(false, Duration::ZERO), 307);
        for _ in 0..50 {
            pace.measured(1000, second);
        }
        assert_eq!(pace.piece(false, Duration::ZERO), 512);
    }
}
