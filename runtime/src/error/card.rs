//! What can go wrong with a card.

use v4_cuda::DriverError;
use v4_files::ByteSize;

/// Why a card does not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CardError {
    /// A call of its driver failed.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// Its memory is short.
    #[error(
        "the card ({card}) has no memory for {asked} more, {free} of its {total} are free: end \
         other programs that use it, use a smaller --ctx or a smaller model, or run the model \
         without a card"
    )]
    Memory {
        /// Its name.
        card: String,
        /// What was asked for.
        asked: ByteSize,
        /// What no program uses.
        free: ByteSize,
        /// All of it.
        total: ByteSize,
    },
    /// Operations on a card are not profiled.
    #[error(
        "operations on a card are not profiled: leave out --profile, or run the model without a \
         card"
    )]
    Profile,
    /// There is no kernel for it.
    #[error("a card cannot compute {what}: run the model without a card")]
    NoKernel {
        /// The operation, and what of it is asked for.
        what: String,
    },
    /// Experts are read from disk, which this backend does not do.
    #[error(
        "tensor {tensor}: a card takes only experts that fit into memory as a whole; allow more \
         memory, or run the model without a card"
    )]
    Streamed {
        /// The layer's first tensor of experts.
        tensor: String,
    },
    /// A weight that is not on the card.
    #[error("tensor {tensor} was loaded for rows of it to be looked up, not for products")]
    RowsOnly {
        /// Its name.
        tensor: String,
    },
}
