//! Arguments of `choose.cu`.

use crate::kernel_args;

kernel_args! {
    /// The token of the highest logit of each row; of equal ones the first. A NaN is never the
    /// highest; token 0 where nothing is above -infinity. A block of any number of threads for
    /// each row, and [`Self::SHARED_BYTES`].
    BestToken ["best_token"] {
        /// Pointer to one u32 for each row.
        tokens: u64,
        /// Pointer to one f32 for each row, its logit; or none.
        values: u64,
        /// Pointer to `[rows, count]` f32.
        logits: u64,
        /// Pointer to `[rows, count]` f32 that are added to the logits, or none.
        added: u64,
        /// Tokens of the vocabulary.
        count: u32,
        /// Zero.
        unused: u32,
    }
}

impl BestToken {
    /// Shared memory of a block.
    pub const SHARED_BYTES: u32 = 256;
}
