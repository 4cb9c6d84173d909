//! Kernels for AVX2 with FMA and F16C.
//!
//! The functions with these features are `unsafe` to call for code without them.
//! That code is [`KERNELS`] alone, which only [`Avx2`] gives away.
#![allow(unsafe_code)]
// Loops over rows and registers index several arrays at once.
#![allow(clippy::needless_range_loop)]

/// A loop that is always unrolled: values that a variable selects would lie in memory.
macro_rules! unrolled {
    (for $i:ident in 0..2 $body:block) => {
        unrolled!(@ $i $body 0 1)
    };
    (for $i:ident in 0..4 $body:block) => {
        unrolled!(@ $i $body 0 1 2 3)
    };
    (for $i:ident in 0..8 $body:block) => {
        unrolled!(@ $i $body 0 1 2 3 4 5 6 7)
    };
    (@ $i:ident $body:block $($n:literal)+) => {
        $({
            let $i: usize = $n;
            $body
        })+
    };
}

mod columns;
mod few;
mod float;
mod formats;
mod group;
mod index;
mod lanes;
mod panel;
mod probe;
mod quantize;
mod registers;
mod scores;

use self::group::Group;
use self::lanes::{Vnni, Words};
use super::act_rows::ActRows;
use super::kernels::{Isa, Kernels, MatmulI8};
use super::results::Results;
use super::rows::shape;
use super::scratch::Scratch;
use crate::GgmlType;

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

/// The same for float products.
macro_rules! float {
    ($f:expr) => {
        |w, x, out, scratch| {
            // SAFETY: as in `entry`.
            unsafe { $f(w, x, out, scratch) }
        }
    };
}

/// Proof of AVX-VNNI in addition.
#[derive(Clone, Copy)]
pub(super) struct AvxVnni(());

impl AvxVnni {
    pub(super) fn new() -> Option<Self> {
        Avx2::new()?;
        is_x86_feature_detected!("avxvnni").then_some(Self(()))
    }

    pub(super) fn kernels(self) -> &'static Kernels {
        static SHARED: Kernels = Kernels {
            isa: Isa::AvxVnni,
            pack: panel::pack::<Vnni>,
            pack_words: <Vnni as Lanes>::WORDS,
            // SAFETY: this table is got from an `AvxVnni`, which exists only where the CPU
            // has the features.
            index_scores: |keys, queries, out| unsafe { index::scores_vnni(keys, queries, out) },
            int8: int8::<Vnni, few::Vnni>,
            ..KERNELS
        };
        &SHARED
    }
}

pub(super) const KERNELS: Kernels = Kernels {
    isa: Isa::Avx2,
    probe: probe::PROBE,
    quantize: entry!(quantize::quantize, x, q, d, sums),
    pack: panel::pack::<Words>,
    pack_words: <Words as Lanes>::WORDS,
    few_rows: 0,
    run_rows: few::FEW,
    dot_f32: entry!(float::dot_f32, w, x),
    dot_f32_rows: entry!(float::dot_f32_rows, w, x, out),
    rows_f32,
    pack_heads: Some(entry!(scores::pack, rows, packed)),
    key_scores: |keys, heads, out, scratch| {
        if heads.packed.is_empty() {
            return heads.one_by_one(rows_f32, keys, out, scratch);
        }
        // SAFETY: as in `entry!`.
        unsafe { scores::scores(keys, heads, out) }
    },
    rows_f16: float!(float::matmul::<float::F16, 64>),
    rows_bf16: float!(float::matmul::<float::Bf16, 64>),
    weighted_sums: entry!(float::weighted_sums, weights, stride, values, width, out),
    index_scores: entry!(index::scores, keys, queries, out),
    int8: int8::<Words, few::Words>,
};

fn rows_f32(w: &[u8], x: &[&[f32]], out: Results<'_>, scratch: &mut Scratch) {
    // SAFETY: as in `entry!`.
    unsafe { float::matmul::<float::F32, 128>(w, x, out, scratch) }
}

/// The int8 kernel for a type, with one way to compute products of many rows and one for a
/// few.
pub(super) fn int8<L: Lanes, P: Products>(ty: GgmlType) -> Option<MatmulI8> {
    use formats::*;
    Some(match ty {
        GgmlType::Q4_0 => entry::<Q4_0, 144, L, P>,
        GgmlType::Q4_1 => entry::<Q4_1, 160, L, P>,
        GgmlType::Q5_0 => entry::<Q5_0, 176, L, P>,
        GgmlType::Q5_1 => entry::<Q5_1, 192, L, P>,
        GgmlType::Q8_0 => entry::<Q8_0, 272, L, P>,
        GgmlType::MXFP4 => entry::<Mxfp4, 136, L, P>,
        GgmlType::NVFP4 => entry::<Nvfp4, 144, L, P>,
        GgmlType::IQ4_NL => entry::<Iq4Nl, 144, L, P>,
        GgmlType::IQ4_XS => entry::<Iq4Xs, 136, L, P>,
        GgmlType::Q2_K => entry::<Q2K, 84, L, P>,
        GgmlType::Q3_K => entry::<Q3K, 110, L, P>,
        GgmlType::Q4_K => entry::<Q4K, 144, L, P>,
        GgmlType::Q5_K => entry::<Q5K, 176, L, P>,
        GgmlType::Q6_K => entry::<Q6K, 210, L, P>,
        GgmlType::IQ1_S => entry::<Iq1S, 50, L, P>,
        GgmlType::IQ1_M => entry::<Iq1M, 56, L, P>,
        GgmlType::IQ2_XXS => entry::<Iq2Xxs, 66, L, P>,
        GgmlType::IQ2_XS => entry::<Iq2Xs, 74, L, P>,
        GgmlType::IQ2_S => entry::<Iq2S, 82, L, P>,
        GgmlType::IQ3_XXS => entry::<Iq3Xxs, 98, L, P>,
        GgmlType::IQ3_S => entry::<Iq3S, 110, L, P>,
        _ => return None,
    })
}

fn entry<F: Group<BYTES>, const BYTES: usize, L: Lanes, P: Products>(
    w: &[u8],
    acts: &ActRows<'_>,
    out: Results<'_>,
    scratch: &mut Scratch,
) {
    let (_, bytes) = shape(w, acts.len(), &out);
    let n = bytes * group::RUNS / BYTES;
    // SAFETY: as in `entry!`.
    unsafe {
        if panel::packed::<L>(acts, n) {
            let fill = |w: &[u8], bytes, order: &_, lines: &mut [_], floats: &mut [_]| {
                panel::fill::<F, BYTES, L>(w, bytes, order, lines, floats);
            };
            panel::matmul::<F, L>(w, acts, n, out, scratch, fill);
        } else {
            few::matmul::<F, BYTES, P>(w, acts, n, out, scratch);
        }
    }
}

pub(super) use few::{Evex, Products};
pub(super) use float::weighted_sums;
pub(super) use group::{Form, Scales};
pub(super) use panel::{Lanes, Panel, Signed, matmul, packed, prefetch_next, sixteens};
pub(super) use registers::{prefetch, sum8};
