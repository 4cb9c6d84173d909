//! Runs the kernels of `runtime/cuda/kernels` on the CPU.
//!
//! The same sources are compiled by the host's C++ compiler. A kernel's threads run as fibers, in
//! an order that a test chooses; what would go wrong on a card without a word ends the launch
//! with a message: threads that miss a barrier or come to different ones, lanes outside of a
//! mask, shared memory that is too small. Memory starts as NaNs, asynchronous copies arrive as
//! late as they may, and results that depend on the order of threads differ between orders.
//!
//! It cannot show what one compiler or card does to correct sources, weak ordering between
//! blocks, or speed. Every thread runs until it waits, so that a sum that threads add to without
//! an atomic operation is right here. And what the host's compiler computes of constants is not
//! flushed to zero.

#![allow(unsafe_code)] // Kernels are C++ and take addresses.

mod bench;
pub mod conformance;
pub mod driver;
mod run;
pub mod stand_in;

pub use bench::{Bench, BenchError, Region};
pub use driver::{Shim, ShimOptions, ShimPlatform};
pub use run::{Kernel, LaunchError, Order, Shape, flushed, kernels};
