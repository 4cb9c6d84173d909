//! Arguments of `engram.cu`.

use crate::kernel_args;

kernel_args! {
    /// Engram values join the streams. A block of 256 threads and 3072 bytes of shared memory for
    /// each stream of each token.
    Engram ["engram"] {
        /// Pointer to `[tokens, streams, width]` f32.
        h: u64,
        /// Pointer to `[tokens, streams + 1, width]` f32: keys, then the value.
        kv: u64,
        /// Pointer to `[streams, width]` f32.
        gain: u64,
        /// Channels of a stream.
        width: u32,
        /// Residual streams.
        streams: u32,
        /// Added to mean squares.
        eps: f32,
        /// Zero.
        unused: u32,
    }
}
