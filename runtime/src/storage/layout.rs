//! The layout of a session file.
//!
//! ```text
//! at 0     magic "V4SESSN\0", version u32, flags u32, fingerprint [32], salt [16],
//!          key check [16], sum [16]
//! at 512   commit: number u64, end u64, last sum [16], sum [16]
//! at 1024  the other commit
//! at 4096  step: "step" u32, landmark u32, from u64, to u64, bytes of rows u64, bytes of
//!          state u64, sum [16]; tokens u32 each, sum [16]; rows, sum [16];
//!          state, sum [16]
//! ```
//!
//! Numbers are little-endian. A sum is the first 16 bytes of BLAKE3 over the sum before
//! it and the bytes since; a commit's is over the header's sum. Steps are written and
//! synced before the commit that counts them in, which goes to the place of the older
//! one: whatever moment a crash comes at, one commit stands, and all before its end was
//! written whole. So what does not fit there is damage, and what comes after it is ignored.
//!
//! Where the file is encrypted (flag 1), tokens, rows and state are each sealed by
//! themselves, see [`super::seal`]. A state whose first eight bytes are zeros was given
//! up, to save room: the step is one to pass, not one to end at. A landmark is 0 for none,
//! 1 where a turn begins, 2 at the end of what many prompts share, see
//! [`super::landmark`].

use super::Landmark;

/// First bytes of a file.
pub(super) const MAGIC: &[u8; 8] = b"V4SESSN\0";
/// The format written and read.
pub(super) const VERSION: u32 = 3;
/// Of the header: what steps hold is sealed.
pub(super) const SEALED: u32 = 1;
/// First bytes of a step.
pub(super) const STEP: u32 = u32::from_le_bytes(*b"step");
/// Bytes of a sum.
pub(super) const SUM: usize = 16;
/// Bytes of the header.
pub(super) const HEADER: usize = 8 + 4 + 4 + 32 + 16 + 16 + SUM;
/// Bytes of a commit.
pub(super) const COMMIT: usize = 8 + 8 + SUM + SUM;
/// Places of commits, each in a sector of its own.
pub(super) const COMMITS: [u64; 2] = [512, 1024];
/// Place of the first step.
pub(super) const FIRST_STEP: u64 = 4096;
/// Bytes of a step before its tokens.
pub(super) const STEP_HEADER: usize = 4 + 4 + 4 * 8 + SUM;
/// No session has more tokens; larger numbers are damage.
pub(super) const MOST_TOKENS: u64 = 1 << 28;
/// Nor has a step more bytes.
pub(super) const MOST_BYTES: u64 = 1 << 40;

/// A checksum.
pub(super) type Sum = [u8; SUM];

/// The sum of `bytes` after the sum `before`.
pub(super) fn sum(before: &Sum, bytes: &[&[u8]]) -> Sum {
    let mut hash = blake3::Hasher::new();
    hash.update(before);
    for bytes in bytes {
        hash.update(bytes);
    }
    let mut out = [0; SUM];
    hash.finalize_xof().fill(&mut out);
    out
}

/// The number at `at`.
pub(super) fn number(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>);
    bytes.map_or(u64::MAX, |b| u64::from_le_bytes(*b))
}

/// A step of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepInfo {
    /// Tokens before it.
    pub from: u64,
    /// Tokens after it.
    pub to: u64,
    pub(super) rows_bytes: u64,
    pub(super) state_bytes: u64,
    /// Bytes that sealing adds to each part.
    pub(super) more: u64,
    /// What stands at its end.
    pub(super) landmark: Landmark,
    /// Whether the state is still there.
    pub(super) state: bool,
    /// Where its header begins.
    pub(super) offset: u64,
    /// The sum after its tokens.
    pub(super) tokens_sum: Sum,
    /// The sum after its state.
    pub(super) last: Sum,
}

impl StepInfo {
    /// What stands at its end.
    #[must_use]
    pub fn landmark(&self) -> Landmark {
        self.landmark
    }

    /// Whether a session can be restored to its end.
    #[must_use]
    pub fn has_state(&self) -> bool {
        self.state
    }

    pub(super) fn tokens_at(&self) -> u64 {
        self.offset + STEP_HEADER as u64
    }

    pub(super) fn tokens_bytes(&self) -> u64 {
        4 * (self.to - self.from) + self.more
    }

    pub(super) fn rows_at(&self) -> u64 {
        self.tokens_at() + self.tokens_bytes() + SUM as u64
    }

    pub(super) fn state_at(&self) -> u64 {
        self.rows_at() + self.rows_bytes + SUM as u64
    }

    pub(super) fn end(&self) -> u64 {
        self.state_at() + self.state_bytes + SUM as u64
    }
}
