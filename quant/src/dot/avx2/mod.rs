//! Kernels for AVX2 with FMA and F16C.
//!
//! The functions with these features are `unsafe` to call for code without them.
//! That code is [`KERNELS`] alone, which only [`Avx2`] gives away.
#![allow(unsafe_code)]
// Loops over rows and registers index several arrays at once.
#![allow(clippy::needless_range_loop)]

mod float;
mod index;
mod int8;
mod probe;
mod registers;
mod runs;
mod superblock;

use super::kernels::{Isa, Kernels};

/// Proof that the CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    pub(super) fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c"))
        .then_some(Self(()))
    }

    pub(super) fn kernels(self) -> &'static Kernels {
        static SHARED: Kernels = KERNELS;
        &SHARED
    }
}

/// A safe function pointer to a function with this module's features.
macro_rules! entry {
    ($f:expr, $($arg:ident),*) => {
        |$($arg),*| {
            // SAFETY: the pointer is got from `KERNELS`, and that from an `Avx2`,
            // which exists only where the CPU has the features.
            unsafe { $f($($arg),*) }
        }
    };
}

/// The same for int8 products, which need no scratch here.
macro_rules! int8 {
    ($f:expr) => {
        |w, acts, out, _| {
            // SAFETY: as in `entry`.
            unsafe { $f(w, &acts.rows, out) }
        }
    };
}

/// The same for float products.
macro_rules! float {
    ($f:expr) => {
        |w, x, out, _| {
            // SAFETY: as in `entry`.
            unsafe { $f(w, x, out) }
        }
    };
}

pub(super) const KERNELS: Kernels = Kernels {
    isa: Isa::Avx2,
    probe: probe::PROBE,
    quantize: entry!(int8::quantize, x, q, d, sums),
    pack: |_, _| {},
    dot_f32: entry!(float::dot_f32, w, x),
    dot_f32_rows: entry!(float::dot_f32_rows, w, x, out),
    rows_f32: float!(float::matmul::<float::F32, 128>),
    rows_f16: float!(float::matmul::<float::F16, 64>),
    rows_bf16: float!(float::matmul::<float::Bf16, 64>),
    weighted_sums: entry!(float::weighted_sums, weights, stride, values, width, out),
    index_scores: entry!(index::scores, keys, queries, out),
    q8_0: int8!(runs::matmul::<runs::Q8_0, 34>),
    mxfp4: int8!(runs::matmul::<runs::Mxfp4, 17>),
    q2_k: int8!(superblock::matmul::<superblock::Q2K, 84>),
    q3_k: int8!(superblock::matmul::<superblock::Q3K, 110>),
    q4_k: int8!(superblock::matmul::<superblock::Q4K, 144>),
    q5_k: int8!(superblock::matmul::<superblock::Q5K, 176>),
    q6_k: int8!(superblock::matmul::<superblock::Q6K, 210>),
    iq2_xxs: int8!(superblock::matmul::<superblock::Iq2Xxs, 66>),
};

pub(super) use float::weighted_sums;
pub(super) use registers::{prefetch, sum8};
