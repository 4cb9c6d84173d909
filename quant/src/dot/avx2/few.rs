//! Products with few activation rows: eight runs of a weight row at a time, each in a lane.
//!
//! With activations as [`ActRuns`] has them, a sum needs no addition across lanes. Weights are
//! brought in that order once for all activation rows, and stay in registers meanwhile.

use std::arch::x86_64::*;
use std::ops::Range;

use super::group::{Form, Group, Head, RUNS, Scales};
use super::registers::{load_i8, load_ps, prefetch, store_ps, sum8};
use crate::dot::act_rows::ActRows;
use crate::dot::act_runs::{self, ActRuns};
use crate::dot::results::Results;
use crate::dot::rows::shape;
use crate::dot::scratch::{Scratch, Sixteen};

/// Activation rows for which these kernels are meant.
pub(in crate::dot) const FEW: usize = 8;

/// Bytes of activations that are to stay in the first-level cache while weight rows pass.
const CACHED: usize = 24 << 10;

/// Weight rows that pass one after the other.
const BAND: usize = 8;

/// How an instruction set computes sums of products of bytes.
pub(in crate::dot) trait Products {
    /// Adds the products of some groups of a weight row with those of `rows` activation rows,
    /// which follow each other in each group of `acts`.
    ///
    /// # Safety
    /// The CPU must have what the instruction set needs.
    unsafe fn add<F: Group<BYTES>, const BYTES: usize>(
        w: &[u8],
        acts: &[ActRuns],
        rows: usize,
        groups: Range<usize>,
        sums: &mut [Sixteen; FEW],
    );
}

/// See [`crate::dot::MatmulI8`]; weight rows have `n` blocks.
///
/// # Safety
/// The CPU must have what the products need.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn matmul<F: Group<BYTES>, const BYTES: usize, P: Products>(
    w: &[u8],
    acts: &ActRows<'_>,
    n: usize,
    mut out: Results<'_>,
    scratch: &mut Scratch,
) {
    // What only one side has is ignored; debug builds refuse it.
    let n = acts.rows.iter().fold(n, |n, act| {
        debug_assert_eq!(act.d.len(), n);
        n.min(act.d.len())
    });
    if !acts.runs.is_empty() && acts.len() <= FEW {
        // SAFETY: as the caller's.
        return unsafe { few_rows::<F, BYTES, P>(w, acts.runs, 0..acts.len(), n, &mut out) };
    }
    for first in (0..acts.len()).step_by(FEW) {
        let rows = first..acts.len().min(first + FEW);
        let words = act_runs::words(rows.len(), n * 32);
        scratch.acts.resize(words, 0);
        let runs = act_runs::lay_out(&acts.rows[rows.clone()], n * 32, &mut scratch.acts);
        // SAFETY: as the caller's.
        unsafe { few_rows::<F, BYTES, P>(w, runs, rows, n, &mut out) };
    }
}

/// Of activation rows `inputs`, which `acts` has.
///
/// # Safety
/// The CPU must have what the products need.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn few_rows<F: Group<BYTES>, const BYTES: usize, P: Products>(
    w: &[u8],
    acts: &[ActRuns],
    inputs: Range<usize>,
    n: usize,
    out: &mut Results<'_>,
) {
    let (rows, bytes) = shape(w, out.inputs(), out);
    let reached = n * BYTES / RUNS;
    let groups = n.div_ceil(RUNS);
    let cached = CACHED / (inputs.len().clamp(1, FEW) * size_of::<ActRuns>());
    for first in (0..rows).step_by(BAND) {
        let count = BAND.min(rows - first);
        let mut band = [[Sixteen([0.0; 16]); FEW]; BAND];
        for g in (0..groups).step_by(cached) {
            let part = g..groups.min(g + cached);
            for (r, sums) in band[..count].iter_mut().enumerate() {
                let row = &w[(first + r) * bytes..][..reached];
                // SAFETY: as the caller's.
                unsafe { P::add::<F, BYTES>(row, acts, inputs.len(), part.clone(), sums) };
            }
        }
        for (i, t) in inputs.clone().enumerate() {
            let out = &mut out.row(t)[first..first + count];
            for (out, sums) in out.iter_mut().zip(&band) {
                let eights = sums[i].0.as_chunks::<8>().0;
                *out = sum8(_mm256_add_ps(load_ps(&eights[0]), load_ps(&eights[1])));
            }
        }
    }
}

/// What the sums of a group are multiplied by, and what is added to them.
struct Factors {
    /// The integer scales of both halves, twice as 16 bits each; ones if there are none.
    pairs: [__m256i; 2],
    /// The same as floats.
    floats: [__m256; 2],
    /// The same, those of each run side by side.
    scales: __m256i,
    /// For the sums of both halves: what makes up for the offset.
    offsets: __m256i,
}

impl Factors {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn new<F: Form>(head: &Head) -> Self {
        let offset = _mm256_set1_epi16(-F::OFFSET);
        if F::SCALES != Scales::Halves {
            return Self {
                pairs: [_mm256_set1_epi16(1); 2],
                floats: [_mm256_setzero_ps(); 2],
                scales: _mm256_setzero_si256(),
                offsets: offset,
            };
        }
        let scales = head.scales;
        let (first, last) = (
            _mm256_slli_epi32::<16>(scales),
            _mm256_srai_epi32::<16>(scales),
        );
        Self {
            pairs: [of_half(scales, 0), of_half(scales, 1)],
            floats: [
                _mm256_cvtepi32_ps(_mm256_srai_epi32::<16>(first)),
                _mm256_cvtepi32_ps(last),
            ],
            scales,
            offsets: _mm256_mullo_epi16(scales, offset),
        }
    }
}

/// One of both scales of each run, twice.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn of_half(scales: __m256i, half: usize) -> __m256i {
    const ORDER: [[i8; 32]; 2] = {
        let mut order = [[0; 32]; 2];
        let mut i = 0;
        while i < 64 {
            order[i / 32][i % 32] = (i % 16 / 4 * 4 + i / 32 * 2 + i % 2) as i8;
            i += 1;
        }
        order
    };
    _mm256_shuffle_epi8(scales, load_i8(&ORDER[half]))
}

/// Sums of odd runs, whose codes are `by` bits up.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn odd_down(v: __m256i, by: i32) -> __m256i {
    if by == 0 {
        return v;
    }
    _mm256_srav_epi32(v, _mm256_setr_epi32(0, by, 0, by, 0, by, 0, by))
}

/// The same times 2^16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn odd_down_to_upper(v: __m256i, by: i32) -> __m256i {
    if by == 0 {
        return _mm256_slli_epi32::<16>(v);
    }
    let odd = 16 - by;
    _mm256_sllv_epi32(v, _mm256_setr_epi32(16, odd, 16, odd, 16, odd, 16, odd))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_sums(part: &ActRuns) -> __m256i {
    // SAFETY: reads the 32 bytes of the array.
    unsafe { _mm256_loadu_si256(part.sums.as_ptr().cast()) }
}

/// `offset` times one of both sums of each run.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn half_offset(part: &ActRuns, offset: i16, half: usize) -> __m256i {
    let factor = i32::from(offset).cast_unsigned() & 0xffff;
    let factor = (factor << (16 * half)).cast_signed();
    _mm256_madd_epi16(load_sums(part), _mm256_set1_epi32(factor))
}

/// [`Products`] from the integers that `$dots` gives for each group and activation row: of
/// whole runs, or with [`Scales::Floats`] of their first and their last halves.
macro_rules! products {
    ($name:ident, $features:literal, $wide:literal, $dots:ident $(, $product:ident)?) => {
        impl Products for $name {
            #[inline(never)]
            #[target_feature(enable = $features)]
            unsafe fn add<F: Group<BYTES>, const BYTES: usize>(
                w: &[u8],
                acts: &[ActRuns],
                rows: usize,
                groups: Range<usize>,
                sums: &mut [Sixteen; FEW],
            ) {
                let (whole, rest) = w.as_chunks::<BYTES>();
                let sums = &mut sums[..rows];
                let mut parts = acts[groups.start * rows..].chunks_exact(rows);
                let mut g = groups.start;
                let mut last = [[0; BYTES]];
                let mut now = &whole[g..groups.end.min(whole.len())];
                // `step` is called at one place, so that it is inlined.
                loop {
                    for (group, parts) in now.iter().zip(&mut parts) {
                        prefetch(group.as_ptr_range());
                        step::<F, BYTES>(group, parts, sums, g % 2);
                        g += 1;
                    }
                    if g != whole.len() || g == groups.end || rest.is_empty() {
                        break;
                    }
                    // As if the row went on with blocks of zeros.
                    last[0][..rest.len()].copy_from_slice(rest);
                    now = &last;
                }

                /// Adds a group against the activations of each row to lanes `8 * eight` and on.
                #[inline]
                #[target_feature(enable = $features)]
                fn step<F: Group<BYTES>, const BYTES: usize>(
                    group: &[u8; BYTES],
                    parts: &[ActRuns],
                    sums: &mut [Sixteen],
                    eight: usize,
                ) {
                    // SAFETY: this function has the features.
                    let (mut w, head) = unsafe { (F::words::<$wide>(group), F::head(group)) };
                    let factors = Factors::new::<F>(&head);
                    if $wide && F::SIGNED {
                        for w in &mut w {
                            *w = _mm256_xor_si256(*w, _mm256_set1_epi8(-128));
                        }
                    }
                    for (part, sums) in parts.iter().zip(sums) {
                        let [n, last] = $dots::<F>(&w, &factors, part, F::ODD[usize::from($wide)]);
                        let lane = &mut sums.0.as_chunks_mut::<8>().0[eight];
                        let mut sum = load_ps(lane);
                        let d = load_ps(&part.d);
                        sum = _mm256_fmadd_ps(n, _mm256_mul_ps(head.d, d), sum);
                        if F::SCALES == Scales::Floats {
                            sum = _mm256_fmadd_ps(last, _mm256_mul_ps(head.last, d), sum);
                        }
                        match F::MINIMA {
                            0 => {}
                            1 => sum = _mm256_fnmadd_ps(head.minima[0], load_ps(&part.scaled), sum),
                            _ => {
                                let (a, b) = (&part.scaled_firsts, &part.scaled_lasts);
                                sum = _mm256_fnmadd_ps(head.minima[0], load_ps(a), sum);
                                sum = _mm256_fnmadd_ps(head.minima[1], load_ps(b), sum);
                            }
                        }
                        store_ps(lane, sum);
                    }
                }
            }
        }

        $(
            #[inline]
            #[target_feature(enable = $features)]
            fn $dots<F: Form>(
                w: &[__m256i; 8],
                factors: &Factors,
                part: &ActRuns,
                odd: i32,
            ) -> [__m256; 2] {
                let zero = _mm256_setzero_si256();
                let mut halves = [zero; 2];
                let scaled = F::SCALES == Scales::Halves && const { scaled_in_words::<F>() };
                if F::SIGNED {
                    // SAFETY: reads the 32 bytes of the array.
                    halves[0] = unsafe { _mm256_loadu_si256(part.offset.as_ptr().cast()) };
                } else if F::OFFSET != 0 && F::SCALES == Scales::Run {
                    halves[0] = _mm256_madd_epi16(load_sums(part), factors.offsets);
                } else if F::OFFSET != 0 && !scaled {
                    halves[0] = half_offset(part, -F::OFFSET, 0);
                    halves[1] = half_offset(part, -F::OFFSET, 1);
                }
                for half in 0..2 {
                    for k in 4 * half..4 * half + 4 {
                        halves[half] = $product(halves[half], w[k], load_i8(&part.words[k]));
                    }
                }
                if F::SCALES == Scales::Run {
                    let n = odd_down(_mm256_add_epi32(halves[0], halves[1]), odd);
                    return [_mm256_cvtepi32_ps(n), _mm256_setzero_ps()];
                }
                if scaled {
                    let first = odd_down(halves[0], odd);
                    let last = odd_down_to_upper(halves[1], odd);
                    let both = _mm256_blend_epi16::<0b1010_1010>(first, last);
                    let mut n = _mm256_madd_epi16(both, factors.scales);
                    if F::OFFSET != 0 {
                        let offset = _mm256_madd_epi16(load_sums(part), factors.offsets);
                        n = _mm256_add_epi32(n, offset);
                    }
                    return [_mm256_cvtepi32_ps(n), _mm256_setzero_ps()];
                }
                let floats = [_mm256_cvtepi32_ps(halves[0]), _mm256_cvtepi32_ps(halves[1])];
                if F::SCALES == Scales::Floats {
                    return floats;
                }
                // All are integers below 2^24, so nothing is rounded.
                let n = _mm256_mul_ps(floats[0], factors.floats[0]);
                [_mm256_fmadd_ps(floats[1], factors.floats[1], n), _mm256_setzero_ps()]
            }
        )?
    };
}

/// Whether sums of sixteen products fit 16 bits.
const fn scaled_in_words<F: Form>() -> bool {
    F::MAX as i32 * 16 * 127 <= i16::MAX as i32
}

/// AVX2 alone: sums of two products in 16 bits.
pub(in crate::dot) struct Words;

products!(Words, "avx2,fma,f16c", false, dots_of_words);

/// AVX-VNNI: sums of four products.
pub(in crate::dot) struct Vnni;

products!(
    Vnni,
    "avx2,fma,f16c,avxvnni",
    true,
    dots_of_vnni,
    _mm256_dpbusd_avx_epi32
);

/// The same of AVX-512.
pub(in crate::dot) struct Evex;

products!(
    Evex,
    "avx2,fma,f16c,avx512vl,avx512vnni",
    true,
    dots_of_evex,
    _mm256_dpbusd_epi32
);

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dots_of_words<F: Form>(
    w: &[__m256i; 8],
    factors: &Factors,
    part: &ActRuns,
    odd: i32,
) -> [__m256; 2] {
    // Pairs' sums are added in 16 bits for as long as they fit, and to a half's end where
    // halves differ.
    let depth = depth::<F>(odd);
    let mut dots = [_mm256_setzero_si256(); 2];
    let mut pairs = _mm256_setzero_si256();
    for k in 0..8 {
        let (w, mut x) = (w[k], load_i8(&part.words[k]));
        let product = if F::SIGNED {
            x = _mm256_sign_epi8(x, w);
            _mm256_maddubs_epi16(_mm256_abs_epi8(w), x)
        } else {
            _mm256_maddubs_epi16(w, x)
        };
        pairs = if k % depth == 0 {
            product
        } else {
            _mm256_add_epi16(pairs, product)
        };
        if k % depth == depth - 1 {
            let half = k / 4;
            let to = if F::SCALES == Scales::Floats { half } else { 0 };
            let more = _mm256_madd_epi16(pairs, factors.pairs[half]);
            dots[to] = _mm256_add_epi32(dots[to], more);
        }
    }
    for dots in &mut dots {
        *dots = odd_down(*dots, odd);
    }
    if F::OFFSET != 0 && F::SCALES == Scales::Floats {
        dots[0] = _mm256_add_epi32(dots[0], half_offset(part, -F::OFFSET, 0));
        dots[1] = _mm256_add_epi32(dots[1], half_offset(part, -F::OFFSET, 1));
    } else if F::OFFSET != 0 {
        let offset = _mm256_madd_epi16(load_sums(part), factors.offsets);
        dots[0] = _mm256_add_epi32(dots[0], offset);
    }
    [_mm256_cvtepi32_ps(dots[0]), _mm256_cvtepi32_ps(dots[1])]
}

/// How many sums of two products are added in 16 bits.
const fn depth<F: Form>(odd: i32) -> usize {
    let most = match i16::MAX as i32 / (2 * 127 * ((F::MAX as i32) << odd)) {
        0 | 1 => 1,
        2 | 3 => 2,
        4..8 => 4,
        _ => 8,
    };
    match F::SCALES {
        Scales::Run => most,
        _ if most < 4 => most,
        _ => 4,
    }
}
