//! Products with many activation rows: eight or sixteen weight rows are taken apart once for
//! all of them. See [`crate::dot::panel`].

use std::arch::x86_64::*;

use super::group::{Group, RUNS, Scales, pad};
use super::registers::{load_ps, store_ps};
use crate::dot::act::{ActRow, ActRows};
use crate::dot::panel::{self, FEW, LANES, WORDS, place, tiles};
use crate::dot::rows::shape;
use crate::dot::scratch::{Line, Scratch, Sixteen};

/// How an instruction set computes the lanes of a tile.
pub(in crate::dot) trait Lanes {
    /// Weight rows of a panel: 8 or 16.
    const ROWS: usize;
    /// Activation rows of a tile: as many as registers allow.
    const TILE: usize;
    /// Whether signed weights are wanted with 128 added.
    const FLIP: bool;
    /// Whether the integer scales of halves are wanted as floats.
    const FLOATS: bool;

    /// `sums[lane * size + t]` gets the lane of row `t` of the tile's `size` rows, for the
    /// panel's rows.
    ///
    /// # Safety
    /// The CPU must have what the instruction set needs.
    unsafe fn tile<F: Group<BYTES>, const BYTES: usize>(
        size: usize,
        panel: &Panel<'_>,
        tile: &[u32],
        sums: &mut [Sixteen],
    );
}

/// A panel: for each block eight vectors of weights, and what goes with them.
pub(in crate::dot) struct Panel<'a> {
    /// Of 16 rows, line `k` has values `4k..4k + 4` of each row; of 8 rows, it has two such
    /// vectors.
    pub weights: &'a [Line],
    /// [`vectors`] of each block; of 8 rows, two in each sixteen.
    pub floats: &'a [Sixteen],
}

/// Vectors of floats, or integers of that size, that go with a block: the scale, the minima;
/// then, where halves have their own, their scales and what makes up for the offset.
pub(in crate::dot) const fn vectors<F: Group<BYTES>, L: Lanes, const BYTES: usize>() -> usize {
    let halves = match F::SCALES {
        Scales::Run => 0,
        Scales::Halves if L::FLOATS => 2,
        Scales::Halves => 2 + (F::OFFSET != 0) as usize,
        Scales::Floats => 1,
    };
    1 + F::MINIMA + halves
}

/// Sixteens of them.
pub(in crate::dot) const fn sixteens<F: Group<BYTES>, L: Lanes, const BYTES: usize>() -> usize {
    vectors::<F, L, BYTES>().div_ceil(16 / L::ROWS)
}

/// See [`crate::dot::kernels::Pack`].
pub(super) fn pack<L: Lanes>(acts: &[ActRow<'_>], packed: &mut Vec<u32>) {
    panel::pack(acts, L::TILE, packed, panel::words_one_by_one);
}

/// Whether rows of that length were packed for many.
pub(in crate::dot) fn packed(acts: &ActRows<'_>, n: usize) -> bool {
    acts.len() > FEW && acts.packed.len() == acts.len() * n * WORDS
}

/// See [`crate::dot::MatmulI8`]; all rows have `n` blocks, and the activations are packed.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::dot) fn matmul<F: Group<BYTES>, const BYTES: usize, L: Lanes>(
    w: &[u8],
    acts: &ActRows<'_>,
    n: usize,
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    let inputs = acts.rows.len();
    let (rows, bytes) = shape(w, inputs, out);
    if n == 0 {
        return out.fill(0.0);
    }
    let panels = rows.div_ceil(L::ROWS);
    let (lines, floats) = (n * L::ROWS / 2, n * const { sixteens::<F, L, BYTES>() });
    let Scratch {
        weights,
        scales,
        sums,
        ..
    } = scratch;
    weights.resize(panels * lines, Line([0; 64]));
    scales.resize(panels * floats, Sixteen([0.0; 16]));
    sums.resize(LANES * L::TILE, Sixteen([0.0; 16]));
    let parts = weights.chunks_mut(lines).zip(scales.chunks_mut(floats));
    for (w, (lines, floats)) in w.chunks(L::ROWS * bytes).zip(parts) {
        for eight in 0..L::ROWS / 8 {
            // Where rows are missing, they are taken for zeros.
            let from = (eight * 8 * bytes).min(w.len());
            fill::<F, BYTES, L>(&w[from..], bytes, n, eight, lines, floats);
        }
    }
    for tile in tiles(inputs, L::TILE) {
        let (first, size) = (tile.start, tile.len());
        let words = &acts.packed[first * n * WORDS..tile.end * n * WORDS];
        let parts = weights.chunks(lines).zip(scales.chunks(floats));
        for (p, (weights, floats)) in parts.take(panels).enumerate() {
            // SAFETY: an `L` is only named in tables that are got where the CPU has it.
            unsafe { L::tile::<F, BYTES>(size, &Panel { weights, floats }, words, sums) };
            let count = L::ROWS.min(rows - p * L::ROWS);
            for t in 0..size {
                let to = (first + t) * rows + p * L::ROWS;
                for (eight, to) in out[to..to + count].chunks_mut(8).enumerate() {
                    let mut lanes = [0.0; 8];
                    store_ps(&mut lanes, total(sums, t, size, eight));
                    to.copy_from_slice(&lanes[..to.len()]);
                }
            }
        }
    }
}

/// Eight rows of eight integers, transposed.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
    let mut pairs = [_mm256_setzero_si256(); 8];
    for i in 0..4 {
        pairs[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // Each 128 bits have a column of four rows: columns k and k + 4.
    let mut fours = [_mm256_setzero_si256(); 8];
    for i in 0..2 {
        for k in 0..2 {
            let (a, b) = (pairs[4 * i + k], pairs[4 * i + 2 + k]);
            fours[4 * i + 2 * k] = _mm256_unpacklo_epi64(a, b);
            fours[4 * i + 2 * k + 1] = _mm256_unpackhi_epi64(a, b);
        }
    }
    let mut columns = [_mm256_setzero_si256(); 8];
    for k in 0..4 {
        columns[k] = _mm256_permute2x128_si256::<0x20>(fours[k], fours[4 + k]);
        columns[4 + k] = _mm256_permute2x128_si256::<0x31>(fours[k], fours[4 + k]);
    }
    columns
}

/// Takes up to eight rows of `n` blocks apart, into the first or the second half of a panel
/// of sixteen.
#[target_feature(enable = "avx2,fma,f16c")]
fn fill<F: Group<BYTES>, const BYTES: usize, L: Lanes>(
    w: &[u8],
    bytes: usize,
    n: usize,
    eight: usize,
    weights: &mut [Line],
    floats: &mut [Sixteen],
) {
    let flip = _mm256_set1_epi8(if L::FLIP && F::SIGNED { -128 } else { 0 });
    let empty = [0; BYTES];
    let mut padded = [[0; BYTES]; 8];
    for g in 0..n.div_ceil(RUNS) {
        let mut groups = [&empty; 8];
        let whole = n >= (g + 1) * RUNS;
        let rows = w.chunks_exact(bytes);
        for ((group, padded), row) in groups.iter_mut().zip(&mut padded).zip(rows) {
            if whole {
                *group = &row.as_chunks::<BYTES>().0[g];
            } else {
                *padded = pad(&row[g * BYTES..]);
                *group = padded;
            }
        }
        for h in 0..2 {
            let mut runs = [[_mm256_setzero_si256(); 8]; 4];
            for r in 0..8 {
                // SAFETY: this function has the features.
                let quad = unsafe { F::quad(groups[r], h) };
                for k in 0..4 {
                    runs[k][r] = _mm256_xor_si256(quad[k], flip);
                }
            }
            for (k, rows) in runs.into_iter().enumerate() {
                let b = g * RUNS + 4 * h + k;
                if b < n {
                    let lines = &mut weights[place(b, n) * L::ROWS / 2..][..L::ROWS / 2];
                    for (i, v) in transpose(rows).into_iter().enumerate() {
                        let (line, half) = half_of::<L>(i, eight);
                        let to = &mut lines[line].0.as_chunks_mut::<32>().0[half];
                        // SAFETY: writes the 32 bytes of `to`.
                        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), v) };
                    }
                }
            }
        }
        fill_floats::<F, BYTES, L>(groups, g, n, eight, floats);
    }
}

/// Where vector `i` of a block is: two vectors of eight rows share one of sixteen.
#[inline(always)]
fn half_of<L: Lanes>(i: usize, eight: usize) -> (usize, usize) {
    if L::ROWS == 8 {
        (i / 2, i % 2)
    } else {
        (i, eight)
    }
}

/// Scales and minima of a group of eight rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fill_floats<F: Group<BYTES>, const BYTES: usize, L: Lanes>(
    groups: [&[u8; BYTES]; 8],
    g: usize,
    n: usize,
    eight: usize,
    floats: &mut [Sixteen],
) {
    let mut rows = [[_mm256_setzero_si256(); 8]; 6];
    for r in 0..8 {
        // SAFETY: this function has the features.
        let head = unsafe { F::head(groups[r]) };
        rows[0][r] = _mm256_castps_si256(head.d);
        for k in 0..F::MINIMA {
            rows[1 + k][r] = _mm256_castps_si256(head.minima[k]);
        }
        match F::SCALES {
            Scales::Run => {}
            Scales::Floats => rows[1 + F::MINIMA][r] = _mm256_castps_si256(head.last),
            Scales::Halves if L::FLOATS => {
                let first = _mm256_srai_epi32::<16>(_mm256_slli_epi32::<16>(head.scales));
                let last = _mm256_srai_epi32::<16>(head.scales);
                rows[1 + F::MINIMA][r] = _mm256_castps_si256(_mm256_cvtepi32_ps(first));
                rows[2 + F::MINIMA][r] = _mm256_castps_si256(_mm256_cvtepi32_ps(last));
            }
            Scales::Halves => {
                // A run's two scales are in its 32 bits; each is wanted twice.
                let first = _mm256_blend_epi16::<0b1010_1010>(
                    head.scales,
                    _mm256_slli_epi32::<16>(head.scales),
                );
                let last = _mm256_blend_epi16::<0b0101_0101>(
                    head.scales,
                    _mm256_srli_epi32::<16>(head.scales),
                );
                rows[1 + F::MINIMA][r] = first;
                rows[2 + F::MINIMA][r] = last;
                if F::OFFSET != 0 {
                    rows[3 + F::MINIMA][r] =
                        _mm256_mullo_epi16(head.scales, _mm256_set1_epi16(-F::OFFSET));
                }
            }
        }
    }
    for i in 0..const { vectors::<F, L, BYTES>() } {
        for (run, v) in transpose(rows[i]).into_iter().enumerate() {
            let b = g * RUNS + run;
            if b < n {
                let each = const { sixteens::<F, L, BYTES>() };
                let (at, half) = half_of::<L>(i, eight);
                let to = &mut floats[place(b, n) * each + at].0.as_chunks_mut().0[half];
                store_ps(to, _mm256_castsi256_ps(v));
            }
        }
    }
}

/// Row `t`'s lanes added, for eight of the panel's rows: `l` and `l + 8`, then the tree.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn total(sums: &[Sixteen], t: usize, size: usize, half: usize) -> __m256 {
    let lane = |l: usize| load_ps(&sums[l * size + t].0.as_chunks().0[half]);
    let eight = |l: usize| _mm256_add_ps(lane(l), lane(l + 8));
    let four = |l: usize| _mm256_add_ps(eight(l), eight(l + 4));
    let two = |l: usize| _mm256_add_ps(four(l), four(l + 2));
    _mm256_add_ps(two(0), two(1))
}
