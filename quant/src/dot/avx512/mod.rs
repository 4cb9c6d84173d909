//! Kernels for AVX-512 with VNNI and VBMI, on top of those for AVX2.
//!
//! The functions with these features are `unsafe` to call for code without them.
//! That code is [`KERNELS`] alone, which only [`Avx512`] gives away.
#![allow(unsafe_code)]

use super::avx2::{self, Avx2};
use super::{Isa, Kernels};

/// Proof that the CPU has AVX2, FMA and F16C, and of AVX-512 F, BW, DQ, VL, VNNI
/// and VBMI.
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
            && is_x86_feature_detected!("avx512vbmi"))
        .then_some(Self(()))
    }

    pub(super) fn kernels(self) -> &'static Kernels {
        &KERNELS
    }
}

static KERNELS: Kernels = Kernels {
    isa: Isa::Avx512,
    ..avx2::KERNELS
};
