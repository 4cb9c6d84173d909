//! CUDA kernels and what drives them.
//!
//! A kernel gives the bits that `docs/arithmetic.md` defines, which are those of the CPU. The
//! sources are in `kernels/`; each includes `seam.cuh`, which means a card's instructions to
//! NVIDIA's compiler and plain C++ to the host's, so that tests run the same sources on machines
//! without a card (`tests/cuda-shim`).
//!
//! Every kernel takes one struct by value. [`args`] has their mirrors.

pub mod args;
