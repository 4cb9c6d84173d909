//! CUDA kernels and what drives them.
//!
//! A kernel gives the bits that `docs/arithmetic.md` defines, which are those of the CPU. The
//! sources are in `kernels/`; each includes `seam.cuh`, which means a card's instructions to
//! NVIDIA's compiler and plain C++ to the host's, so that tests run the same sources on machines
//! without a card (`tests/cuda-shim`).
//!
//! Every kernel takes one struct by value. [`args`] has their mirrors, [`kernels`] launches them
//! with these. [`driver`] is what is asked of a card, [`owned`] gives back what is taken from
//! it, [`measure`] what a card is capable of, and `cuda`, with the feature of that name, is NVIDIA's driver, which is loaded when the
//! first card is asked for: nothing of CUDA is needed to build or to start the programs.

pub mod args;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod driver;
pub mod kernels;
pub mod measure;
pub mod owned;

pub use driver::{AnyDriver, Driver, DriverError, Platform};
