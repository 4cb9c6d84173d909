//! Arguments of `experts.cu`.

use crate::kernel_args;

kernel_args! {
    /// Chooses experts. A block of up to 256 threads for each token, and [`Self::shared_bytes`].
    Route ["route"] {
        /// Pointer to `[tokens, used]` u32, best first.
        experts: u64,
        /// Pointer to `[tokens, used]` f32.
        weights: u64,
        /// Pointer to `tokens` f32: by how much the last chosen is above the best one left out;
        /// infinite where a table chooses, or all are chosen.
        margins: u64,
        /// Pointer to `[tokens, count]` f32.
        logits: u64,
        /// Pointer to `count` f32, added to the scores for the choice; none with a table.
        bias: u64,
        /// Pointer to `[vocabulary, used]` u32, or none.
        table: u64,
        /// Pointer to `tokens` u32, the tokens' ids; none without a table.
        ids: u64,
        /// Experts.
        count: u32,
        /// Experts of a token, at most `count`.
        used: u32,
        /// 1 if weights are divided by their sum, or 0.
        normalise: u32,
        /// Factor on the weights.
        scale: f32,
    }
}

impl Route {
    /// Shared memory of a block.
    #[must_use]
    pub fn shared_bytes(&self) -> u32 {
        4 * (2 * self.count + self.used + 1)
    }
}

kernel_args! {
    /// Groups pairs of token and expert by expert, each group in the order of tokens. A block for
    /// each expert, of any number of threads, and [`Self::SHARED_BYTES`].
    GroupPairs ["group_pairs"] {
        /// Pointer to one u32 for each expert, where its group starts, and one for the end. With
        /// `addresses` to one for each pair, and one for the end: the group that begins at place
        /// `i` lies between `starts[i]` and `starts[i + 1]`, and where none begins, nothing does.
        starts: u64,
        /// Pointer to `count` u32: the pairs in the order of groups.
        pairs: u64,
        /// Pointer to `count` u32: their tokens.
        tokens: u64,
        /// Pointer to `count` u32: where each pair is in that order.
        places: u64,
        /// Pointer to `count` f32: the pairs' weights in that order.
        sorted_weights: u64,
        /// Pointer to `[tokens, used]` u32.
        experts: u64,
        /// Pointer to `[tokens, used]` f32.
        weights: u64,
        /// Pointer to `[3, count]` u64: of the group that begins at a place, the addresses of its
        /// expert's matrices; 0 where none begins. Or none.
        addresses: u64,
        /// Addresses of the matrices of expert 0.
        matrices: [u64; 3],
        /// Bytes from expert to expert.
        matrix_bytes: [u64; 3],
        /// Pairs: `tokens * used`.
        count: u32,
        /// Experts of a token.
        used: u32,
    }
}

impl GroupPairs {
    /// Shared memory of a block.
    pub const SHARED_BYTES: u32 = 256;
}

kernel_args! {
    /// Adds the outputs of each token's experts. One thread for each channel of each token, in
    /// blocks of any size.
    Combine ["combine"] {
        /// Pointer to `[tokens, width]` f32.
        y: u64,
        /// Pointer to rows of `width` f32: outputs by place.
        outputs: u64,
        /// Pointer to `[tokens, used, width]` f32, which has the outputs of pairs whose place is
        /// `u32::MAX`; or none.
        elsewhere: u64,
        /// Pointer to `[tokens, width]` f32 that are added last, the shared expert's; or none.
        last: u64,
        /// Pointer to `[tokens, used]` u32, or none: then outputs are in the order of pairs.
        places: u64,
        /// Tokens.
        tokens: u32,
        /// Channels.
        width: u32,
        /// Experts of a token.
        used: u32,
        /// Zero.
        unused: u32,
    }
}
