//! Arguments of `pool.cu`.

use crate::kernel_args;

kernel_args! {
    /// A compressor's tokens: those of the chunk at hand, and earlier ones that were kept.
    Tokens {
        /// Pointer to `[capacity, 2, channels]` f32: values and logits of the token at position
        /// `p` in row `p % capacity`.
        state: u64,
        /// Pointer to `[tokens, channels]` f32, the chunk's values.
        kv: u64,
        /// Pointer to `[tokens, channels]` f32, the chunk's logits before `ape` is added.
        gate: u64,
        /// Pointer to `[ratio, channels]` f32, or none.
        ape: u64,
        /// Position of the chunk's first token.
        chunk: u32,
        /// Rows of `state`.
        capacity: u32,
        /// Tokens of a group.
        ratio: u32,
        /// Channels of a token: those of an entry, or twice as many with overlap.
        channels: u32,
    }
}

kernel_args! {
    /// Keeps tokens of the chunk. One thread for each channel of each, in blocks of any size.
    PoolKeep ["pool_keep"] {
        /// Of which.
        of: Tokens,
        /// Position of the first one kept.
        first: u32,
        /// Tokens kept, at most the capacity.
        count: u32,
    }
}

kernel_args! {
    /// Pools groups to entries. One thread for each channel of each, in blocks of up to 256.
    Pool ["pool"] {
        /// Pointer to `[groups, width]` f32.
        out: u64,
        /// Of which; all tokens of these groups are in the chunk or kept, with overlap those of
        /// the group before as well.
        of: Tokens,
        /// The first group.
        group: u32,
        /// Groups.
        groups: u32,
        /// Channels of an entry.
        width: u32,
        /// 1 if an entry also pools the group before it, or 0.
        overlap: u32,
    }
}
