//! The arithmetic of `docs/arithmetic.md` in plain scalar code, written from that page alone.
//!
//! Nothing here calls what the engine computes with: tests compare the two bit by bit, and the
//! kernels of cards with this as well. The modules follow the page's sections.

pub mod angles;
pub mod attention;
pub mod encoders;
pub mod functions;
pub mod products;
pub mod rows;
