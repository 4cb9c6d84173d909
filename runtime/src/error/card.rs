//! What can go wrong with a card.

use v4_cuda::DriverError;

/// Why a card does not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CardError {
    /// A call of its driver failed.
    #[error(transparent)]
    Driver(#[from] DriverError),
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
