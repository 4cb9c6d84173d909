//! Kernels for AVX-512 with VNNI, VBMI and GFNI, on top of those for AVX2.
//!
//! The functions with these features are `unsafe` to call for code without them.
//! That code is [`KERNELS`] alone, which only [`Avx512`] gives away.
#![allow(unsafe_code)]
// Loops over rows and registers index several arrays at once.
#![allow(clippy::needless_range_loop)]

mod float;
mod group;
mod index;
mod panel;
mod probe;
mod runs;
mod sums;
mod superblock;

use std::arch::x86_64::*;

use self::group::{Group, few_rows};
use super::avx2::{self, Avx2};
use super::{ActRows, Isa, Kernels, Scratch, by_row, few, shape};

/// Proof that the CPU has AVX2, FMA and F16C, of AVX-512 F, BW, DQ, VL, VNNI and
/// VBMI, and GFNI.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

impl Avx512 {
    pub(super) fn new() -> Option<Self> {
        Avx2::new()?;
        (is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("gfni"))
        .then_some(Self(()))
    }

    pub(super) fn kernels(self) -> &'static Kernels {
        &KERNELS
    }
}

macro_rules! int8 {
    ($($f:tt)*) => {
        |w, acts, out, scratch| {
            // SAFETY: the pointer is got from `KERNELS`, and that from an `Avx512`,
            // which exists only where the CPU has the features.
            unsafe { $($f)*(w, acts, out, scratch) }
        }
    };
}

macro_rules! float {
    ($($f:tt)*) => {
        |w, x, out, scratch| {
            // SAFETY: as in `int8`.
            unsafe { $($f)*(w, x, out, scratch) }
        }
    };
}

/// Weight rows of floats that a lone activation row meets at a time: memory gives
/// more to several streams than to one. (Quantised rows are too short, and take too
/// long, to gain by it.)
const STREAMS: usize = 8;

/// Activation rows for which it does not pay to take weights apart.
const FEW: usize = 4;

static KERNELS: Kernels = Kernels {
    isa: Isa::Avx512,
    probe: probe::PROBE,
    pack: |acts, packed| {
        // SAFETY: as in `int8`.
        unsafe { panel::pack(acts, packed) }
    },
    weighted_sums: |weights, stride, values, width, out| {
        // SAFETY: as in `int8`.
        unsafe { sums::weighted_sums(weights, stride, values, width, out) }
    },
    index_scores: |keys, queries, out| {
        // SAFETY: as in `int8`.
        unsafe { index::scores(keys, queries, out) }
    },
    rows_f32: float!(float::matmul::<float::F32, 128>),
    rows_f16: float!(float::matmul::<float::F16, 64>),
    rows_bf16: float!(float::matmul::<float::Bf16, 64>),
    q8_0: int8!(matmul::<runs::Q8_0, 544>),
    mxfp4: int8!(matmul::<runs::Mxfp4, 272>),
    q2_k: int8!(matmul::<superblock::Q2K, 168>),
    q4_k: int8!(matmul::<superblock::Q4K, 288>),
    q5_k: int8!(matmul::<superblock::Q5K, 352>),
    iq2_xxs: int8!(matmul::<superblock::Iq2Xxs, 132>),
    ..avx2::KERNELS
};

#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn matmul<F: Group<GROUP>, const GROUP: usize>(
    w: &[u8],
    acts: &ActRows<'_>,
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    let (_, bytes) = shape(w, acts.len(), out);
    let n = bytes * group::GROUP / GROUP;
    if acts.len() > FEW && acts.packed.len() == acts.len() * n * panel::WORDS {
        return panel::matmul::<F, GROUP>(w, acts, n, out, scratch);
    }
    // What the activations do not reach is ignored.
    let reached = acts.rows.iter().fold(n, |n, act| n.min(act.d.len()));
    let bytes = reached * GROUP / group::GROUP;
    by_row::<FEW>(w, acts.len(), out, |row, t, out| {
        let (row, acts) = (&row[..bytes], &acts.rows[t]);
        few!(few_rows<F, GROUP>, row, acts, out);
    });
}

/// Lanes `l` and `l + 8` added, then the eight as the tree.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn sum16(v: __m512) -> f32 {
    let eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
    avx2::sum8(eight)
}

/// The 32 lanes of a float sum added: lane `l` of eight is
/// `(l + (l + 8)) + ((l + 16) + (l + 24))`, then the tree.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn sum32(v: [__m512; 2]) -> f32 {
    let half = |v: __m512| _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
    avx2::sum8(_mm256_add_ps(half(v[0]), half(v[1])))
}

#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn load_ps(v: &[f32; 16]) -> __m512 {
    // SAFETY: reads the 64 bytes of `v`.
    unsafe { _mm512_loadu_ps(v.as_ptr()) }
}

/// The 64 bytes from `at` on.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn load_64<const N: usize>(bytes: &[u8; N], at: usize) -> __m512i {
    let v = &bytes[at..at + 64];
    // SAFETY: reads the 64 bytes of `v`.
    unsafe { _mm512_loadu_si512(v.as_ptr().cast()) }
}

/// The same of signed bytes.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn load_i8<const N: usize>(values: &[i8; N], at: usize) -> __m512i {
    let v = &values[at..at + 64];
    // SAFETY: reads the 64 bytes of `v`.
    unsafe { _mm512_loadu_si512(v.as_ptr().cast()) }
}

/// Asks for the memory that comes a little after these bytes of a row, of which
/// `left` remain with them. The row that follows in its stream begins `skip` bytes
/// after this row's end.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn prefetch_stream<T>(bytes: std::ops::Range<*const T>, left: usize, skip: usize) {
    const AHEAD: usize = 512;
    let mut line = bytes.start.cast::<i8>().wrapping_add(AHEAD);
    let mut end = bytes.end.cast::<i8>().wrapping_add(AHEAD);
    if AHEAD >= left {
        line = line.wrapping_add(skip);
        end = end.wrapping_add(skip);
    }
    while line < end {
        _mm_prefetch::<_MM_HINT_T0>(line);
        line = line.wrapping_add(64);
    }
}

/// See [`avx2::prefetch`].
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn prefetch<T>(bytes: std::ops::Range<*const T>) {
    avx2::prefetch(bytes);
}
