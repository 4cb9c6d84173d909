//! Runs models.
fn main() {}
