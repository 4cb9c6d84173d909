//! Arguments of `hyper.cu`. All kernels but [`HcFirstStream`] work in blocks of 256 threads.

use super::Int8Rows;
use crate::kernel_args;

kernel_args! {
    /// What weights of streams are computed from.
    Site {
        /// Pointer to the raw products, a row for each token.
        products: u64,
        /// Pointer to one f32 for each product of a row.
        base: u64,
        /// Pointer to f32: the factors of pre, post and comb, or the only one.
        scale: u64,
        /// Residual streams, at most 16.
        streams: u32,
        /// Sinkhorn's iterations, the first included.
        iterations: u32,
        /// Added to weights and to their sums.
        eps: f32,
        /// Epsilon of the norm over all streams.
        norm_eps: f32,
    }
}

kernel_args! {
    /// Mixes: pre, post and comb. A block and 1024 bytes of shared memory for each token.
    HcMix ["hc_mix"] {
        /// Pointer to `[tokens, (2 + streams) * streams]` f32, which may be the products.
        mix: u64,
        /// Pointer to `[tokens, width]` f32.
        h: u64,
        /// From what; `products` as `mix`.
        site: Site,
        /// Values of all streams of a token.
        width: u64,
    }
}

kernel_args! {
    /// Weights that collapse to the first stream. One thread for each, in blocks of any size.
    HcFirstStream ["hc_first_stream"] {
        /// Pointer to `[rows, streams]` f32.
        mix: u64,
        /// Tokens.
        rows: u32,
        /// Residual streams.
        streams: u32,
    }
}

kernel_args! {
    /// The collapse, and with gains its norm. A block and 1024 bytes of shared memory for each
    /// token.
    HcCollapse ["hc_collapse"] {
        /// Pointer to `[tokens, width]` f32.
        x: u64,
        /// Pointer to `[tokens, streams, width]` f32.
        h: u64,
        /// Pointer to rows of f32 that begin with pre.
        mix: u64,
        /// Pointer to `width` f32, or none: then there is no norm.
        gain: u64,
        /// Where to round the norm to as well, or nowhere; rows are then whole blocks of 32.
        to: Int8Rows,
        /// Channels of a stream.
        width: u32,
        /// Residual streams.
        streams: u32,
        /// Values of a row of `mix`.
        mix_stride: u32,
        /// Added to the mean square.
        eps: f32,
    }
}

kernel_args! {
    /// The expansion, in place. One thread for each channel of each token.
    HcExpand ["hc_expand"] {
        /// Pointer to `[rows, streams, width]` f32.
        h: u64,
        /// Pointer to `[rows, width]` f32.
        y: u64,
        /// Pointer to `[rows, (2 + streams) * streams]` f32.
        mix: u64,
        /// Tokens.
        rows: u32,
        /// Channels of a stream.
        width: u32,
        /// Residual streams, at most 16.
        streams: u32,
        /// Zero.
        unused: u32,
    }
}

kernel_args! {
    /// The final collapse. A block and 2048 bytes of shared memory for each token.
    HcHead ["hc_head"] {
        /// Pointer to `[tokens, width]` f32.
        x: u64,
        /// Pointer to `[tokens, streams, width]` f32.
        h: u64,
        /// From what; `products` is `[tokens, streams]`, and `iterations` not used.
        site: Site,
        /// Channels of a stream.
        width: u64,
    }
}
