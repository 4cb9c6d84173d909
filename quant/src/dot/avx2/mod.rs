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
mod runs;
mod superblock;

use std::arch::x86_64::*;

use super::{Isa, Kernels};

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

pub(in crate::dot) use float::weighted_sums;

/// The eight lanes added as the tree.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn sum8(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_ps(v: &[f32; 8]) -> __m256 {
    // SAFETY: reads the 32 bytes of `v`.
    unsafe { _mm256_loadu_ps(v.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store_ps(to: &mut [f32; 8], v: __m256) {
    // SAFETY: writes the 32 bytes of `to`.
    unsafe { _mm256_storeu_ps(to.as_mut_ptr(), v) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_i8(v: &[i8; 32]) -> __m256i {
    // SAFETY: reads the 32 bytes of `v`.
    unsafe { _mm256_loadu_si256(v.as_ptr().cast()) }
}

/// The 32 bytes from `at` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_32<const N: usize>(bytes: &[u8; N], at: usize) -> __m256i {
    let v = &bytes[at..at + 32];
    // SAFETY: reads the 32 bytes of `v`.
    unsafe { _mm256_loadu_si256(v.as_ptr().cast()) }
}

/// The 16 bytes from `at` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_16<const N: usize>(bytes: &[u8; N], at: usize) -> __m128i {
    let v = &bytes[at..at + 16];
    // SAFETY: reads the 16 bytes of `v`.
    unsafe { _mm_loadu_si128(v.as_ptr().cast()) }
}

/// The f16 at `at`, in all lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn f16_at<const N: usize>(bytes: &[u8; N], at: usize) -> __m256 {
    _mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes([
        bytes[at],
        bytes[at + 1],
    ])))
}

/// Asks for the memory that comes some way after these bytes of a row: the
/// processor's own prefetching stops at each page, and a product has too many
/// instructions per byte to be far ahead by itself. What is far goes to the second
/// level first, whose queue to memory is longer.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn prefetch<T>(bytes: std::ops::Range<*const T>) {
    const NEAR: usize = 2 << 10;
    const FAR: usize = 8 << 10;
    let start = bytes.start.cast::<i8>();
    // Of a block's bytes the number is known, so that this is not a loop.
    let len = bytes.end.addr() - bytes.start.addr();
    for line in (0..len).step_by(64) {
        _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line + NEAR));
        _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(line + FAR));
    }
}
