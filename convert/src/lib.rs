//! Converts checkpoints.
