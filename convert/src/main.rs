//! Converts checkpoints.
fn main() {}
