//! Dot products of weight rows, in their file format, with activations.
//!
//! Two families: float32 activations ([`Kernels::dot_f32`],
//! [`Kernels::matmul_f32`])
//! and activations quantised to int8 per 32 values ([`ActQ8`],
//! [`Kernels::matmul_i8`]). Each exists in a portable version and one per instruction
//! set; [`Kernels::detect`] picks the best for the CPU once.
//!
//! ```
//! use v4_quant::{GgmlType, dot::{ActQ8, ActRows, Kernels, Results, Scratch}};
//!
//! let kernels = Kernels::detect();
//! let x = ActQ8::quantize(kernels, &[0.5; 64], 1, 64).unwrap();
//! // Two Q8_0 blocks: scale 1 (f16), 32 times the integer 2.
//! let mut block = vec![0x00, 0x3c];
//! block.extend([2; 32]);
//! let row = [block.clone(), block].concat();
//! let matmul = kernels.matmul_i8(GgmlType::Q8_0).unwrap();
//! let mut out = [0.0];
//! let mut buffer = Vec::new();
//! let x = ActRows::new(kernels, vec![x.row(0)], &mut buffer);
//! matmul(&row, &x, Results::new(&mut out, 1), &mut Scratch::default());
//! assert!((out[0] - 64.0).abs() < 1e-3);
//! ```
//!
//! # The order of every sum
//! All versions give the same bits. A result depends on the weight row and its
//! activation row alone, never on the other rows of the call.
//!
//! **float32.** 32 lanes; value `i` goes to lane `i % 32` by `fma(w, x, lane)`. At
//! the end lane `l` of 8 is `(l + (l + 8)) + ((l + 16) + (l + 24))`, and the eight
//! are added as *the tree*: `(0+4, 1+5, 2+6, 3+7)`, then `(0+2, 1+3)`, then
//! `0+1`.
//!
//! **int8.** 16 lanes; block `b` of 32 values of the row goes to lane `b % 16` by
//! `fma(n as f32, dw * da, lane)`. `n` is the exact integer sum of 32 products, in
//! Q2_K, Q3_K and Q6_K with the integer scales of the block's halves as factors
//! (`n < 2^24`, so the conversion is exact); `da` and `dw` are the activations' and
//! the weights' scale of the block, the latter exact as well. Formats with minima
//! then take away `fma(-min, s, lane)`: Q4_K and Q5_K once, `s` being the block's
//! sum of activations, Q2_K for the first and then the second 16 values. At the
//! end lanes `l` and `l + 8` are added, and the eight go through the tree.
//!
//! As `n` has no order, a block may be summed within a register or across
//! registers, whichever suits the number of activation rows.

mod act;
mod act_rows;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod act_runs;
mod aligned;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod few;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod heads;
mod index;
#[cfg(target_arch = "x86_64")]
mod index_scores;
mod kernels;
#[cfg(target_arch = "x86_64")]
mod key_scores;
mod layout;
mod pack_heads;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod panel;
mod probe;
mod quantize;
mod results;
mod rows;
mod scalar;
mod scratch;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

pub use act::{ActQ8, ActRow};
pub use act_rows::ActRows;
pub use heads::Heads;
pub use index::{IndexQuery, IndexScores};
pub use kernels::{DotF32Rows, Isa, Kernels, KeyScores, MatmulF32, MatmulI8, WeightedSums};
pub use results::Results;
pub use scratch::Scratch;

impl Kernels {
    /// The best kernels for this CPU; chosen at the first call.
    ///
    /// The environment variable `V4_ISA`, read at that call, asks for others by the name of
    /// their [`Isa`]; a name that is unknown or that the CPU has not is ignored. As all
    /// kernels give the same bits, only speed depends on it.
    #[must_use]
    pub fn detect() -> &'static Self {
        static CHOSEN: OnceLock<&'static Kernels> = OnceLock::new();
        CHOSEN.get_or_init(|| {
            let best = || Isa::ALL.into_iter().rev().find_map(Self::of);
            std::env::var("V4_ISA")
                .ok()
                .and_then(|name| Self::by_name(&name))
                .or_else(best)
                .unwrap_or_else(Self::scalar)
        })
    }

    /// The kernels of all instruction sets that this CPU has, the slowest first.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        Isa::ALL.into_iter().filter_map(Self::of)
    }

    /// The kernels of the instruction set of that name, if the CPU has it.
    #[must_use]
    pub fn by_name(isa: &str) -> Option<&'static Self> {
        Isa::ALL
            .into_iter()
            .find(|known| known.name() == isa)
            .and_then(Self::of)
    }

    /// The kernels of an instruction set, if the CPU has it.
    #[must_use]
    pub fn of(isa: Isa) -> Option<&'static Self> {
        match isa {
            Isa::Scalar => Some(Self::scalar()),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::Avx2::new().map(avx2::Avx2::kernels),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => avx2::AvxVnni::new().map(avx2::AvxVnni::kernels),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => avx512::Avx512Vnni::new().map(avx512::Avx512Vnni::kernels),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::Avx512::new().map(avx512::Avx512::kernels),
            #[cfg(not(target_arch = "x86_64"))]
            _ => None,
        }
    }

    /// The portable kernels.
    #[must_use]
    pub fn scalar() -> &'static Self {
        &scalar::KERNELS
    }
}
