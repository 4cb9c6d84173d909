//! Writes synthetic checkpoints.
fn main() {}
