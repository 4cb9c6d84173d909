//! Decides how much of a prompt to read at once.

use std::time::Duration;

/// Tokens of the first piece beside others, before any is measured.
const FIRST: usize = 32;
/// Pieces are not shorter: with fewer rows weights are read for too little.
const LEAST: usize = 16;
/// Tokens of the first piece while nobody waits. Weights are read once per piece, so larger
/// pieces are faster; but one that is stopped for a new request was computed for nothing.
const ALONE: usize = 512;
/// A piece that is expected to end within this time is not stopped.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bounds on a piece while others wait for their tokens, in seconds.
const BESIDE: (f64, f64) = (0.05, 1.0);
/// Weight of the latest measurement.
const LATEST: f64 = 0.3;

/// Measures how fast prompts are read.
#[derive(Debug)]
pub(super) struct Pace {
    chunk: usize,
    /// Tokens of the next piece while nobody waits.
    alone: usize,
    /// Seconds for a token.
    seconds: Option<f64>,
    /// See [`Self::patience`].
    patience: Duration,
}

impl Pace {
    pub fn new(chunk: usize) -> Self {
        Self {
            chunk,
            alone: ALONE.min(chunk),
            seconds: None,
            patience: PATIENCE,
        }
    }

    /// The same, whose pieces are stopped however soon they would end.
    #[cfg(test)]
    pub fn impatient(self) -> Self {
        Self {
            patience: Duration::ZERO,
            ..self
        }
    }

    /// Tokens of the next piece while nobody waits.
    pub fn alone(&self) -> usize {
        self.alone
    }

    /// Tokens of the next piece while other requests wait for their next tokens, which took
    /// `decoding` in this round.
    pub fn beside(&self, decoding: Duration) -> usize {
        let Some(seconds) = self.seconds else {
            return FIRST.min(self.chunk);
        };
        let time = decoding.as_secs_f64().clamp(BESIDE.0, BESIDE.1);
        let tokens = time / seconds.max(1e-9);
        // Far below the range of usize for any chunk there is.
        (tokens.min(1e9) as usize).clamp(LEAST.min(self.chunk), self.chunk)
    }

    /// A piece that is expected to end within this time is not stopped.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// A piece of that many tokens took that long.
    pub fn measured(&mut self, tokens: usize, time: Duration) {
        if tokens >= self.alone {
            self.alone = self.chunk.min(2 * self.alone);
        }
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

    /// A piece was stopped for a new request: where these are frequent, long pieces would
    /// never end.
    pub fn stopped(&mut self) {
        self.alone = (self.alone / 2).max(FIRST.min(self.chunk));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_take_as_long_as_the_others_tokens_did() {
        let mut pace = Pace::new(512);
        let second = Duration::from_secs(1);
        assert_eq!(pace.beside(second), FIRST);
        pace.measured(100, second);
        assert_eq!(pace.beside(Duration::from_millis(500)), 50);
        assert_eq!(pace.beside(10 * second), 100, "not above a second");
        assert_eq!(pace.beside(Duration::ZERO), LEAST);
        pace.measured(1, 100 * second);
        assert_eq!(pace.beside(second), 100, "one row says little");
        // The latest counts for three tenths.
        pace.measured(LEAST, Duration::from_millis(320));
        assert_eq!(pace.beside(second), 76);
    }

    #[test]
    fn alone_pieces_grow_and_shrink_where_they_are_stopped() {
        let mut pace = Pace::new(2048);
        assert_eq!(pace.alone(), ALONE);
        // The end of a prompt, or a place to mark, says nothing.
        pace.measured(ALONE - 1, Duration::from_secs(1));
        assert_eq!(pace.alone(), ALONE);
        for size in [ALONE, 1024, 2048] {
            assert_eq!(pace.alone(), size);
            pace.measured(size, Duration::from_secs(60));
        }
        assert_eq!(pace.alone(), 2048, "not above a chunk");
        for _ in 0..20 {
            pace.stopped();
        }
        assert_eq!(pace.alone(), FIRST);
        assert_eq!(Pace::new(8).alone(), 8);
    }
}
