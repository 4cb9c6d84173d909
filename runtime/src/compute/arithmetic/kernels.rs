//! The row operations, compiled for each instruction set.
#![allow(unsafe_code)]

use v4_quant::dot::{Isa, Kernels};

use super::rows::{self, MixParams};

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*) $(-> $result:ty)?;)*) => {
        /// The operations of [`rows`](super::rows) for one instruction set.
        #[derive(Debug)]
        pub struct RowKernels {
            $($(#[$doc])* pub $name: fn($($ty),*) $(-> $result)?,)*
        }

        /// Portable code.
        static SCALAR: RowKernels = RowKernels { $($name: rows::$name,)* };

        #[cfg(target_arch = "x86_64")]
        static AVX2: RowKernels = RowKernels {
            $($name: {
                #[target_feature(enable = "avx2,fma")]
                fn with_features($($arg: $ty),*) $(-> $result)? {
                    rows::$name($($arg),*)
                }
                // SAFETY: `RowKernels::of` gives this away only for kernels of AVX2 or
                // AVX-512, which exist only where the CPU has these features.
                |$($arg),*| unsafe { with_features($($arg),*) }
            },)*
        };

        #[cfg(target_arch = "x86_64")]
        static AVX512: RowKernels = RowKernels {
            $($name: {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn with_features($($arg: $ty),*) $(-> $result)? {
                    rows::$name($($arg),*)
                }
                // SAFETY: as above, for kernels of AVX-512.
                |$($arg),*| unsafe { with_features($($arg),*) }
            },)*
        };
    };
}

operations! {
    /// See [`rows::inverse_rms`].
    inverse_rms(x: &[f32], eps: f32) -> f32;
    /// See [`rows::rms_norm`].
    rms_norm(x: &mut [f32], gain: Option<&[f32]>, eps: f32);
    /// See [`rows::softmax_with_sink`].
    softmax_with_sink(x: &mut [f32], sink: f32);
    /// See [`rows::swiglu`].
    swiglu(gate: &mut [f32], up: &[f32], limit: f32);
    /// See [`rows::router_scores`].
    router_scores(x: &mut [f32]);
    /// See [`rows::pool`].
    pool(rows: &[(&[f32], &[f32])], entry: &mut [f32]);
    /// See [`rows::collapse`].
    collapse(h: &[f32], pre: &[f32], x: &mut [f32]);
    /// See [`rows::expand`].
    expand(h: &mut [f32], y: &[f32], mix: &[f32]);
    /// See [`rows::add_scaled`].
    add_scaled(h: &mut [f32], gate: f32, value: &[f32]);
    /// See [`rows::engram_gate`].
    engram_gate(h: &[f32], key: &[f32], gain: &[f32], eps: f32) -> f32;
    /// See [`rows::mix`].
    mix(m: &mut [f32], r: f32, p: MixParams<'_>);
    /// See [`rows::head_mix`].
    head_mix(m: &mut [f32], r: f32, p: MixParams<'_>);
}

impl RowKernels {
    /// Those of the instruction set that `kernels`, and so the CPU, have.
    #[must_use]
    pub fn of(kernels: &Kernels) -> &'static Self {
        match kernels.isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => &AVX2,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni | Isa::Avx512 => &AVX512,
            _ => &SCALAR,
        }
    }
}
