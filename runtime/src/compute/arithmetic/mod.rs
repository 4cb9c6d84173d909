//! The arithmetic of everything but matrix products: functions, sums and their order, as
//! written down in docs/arithmetic.md. Products are in `v4_quant::dot`, formats in `v4_quant`.

pub mod functions;
mod kernels;
mod rope;
pub mod rows;
#[cfg(test)]
mod tests;

pub(crate) use functions::sigmoid;
pub use kernels::RowKernels;
pub use rope::{Rope, RopeAngles, RopeTable};
pub use rows::MixParams;
