//! IQ2_XXS: 256 values in 8 runs of 32, each four groups of 8: a group is an
//! entry of a codebook of 256 with 8 signs of which an even number is negative.
//!
//! Bytes: f16 d; for each run 4 entries, then a u32: 4 x 7 bits of signs and 4
//! bits `s` of scale, `d * (0.5 + s) / 4`.

use half::f16;

use super::iq_decode::signed_group;
use super::scale::f16_at;
use super::search::{SMALLEST, each};
use crate::tables::{IQ2_XXS_GRID, even_signs};

const VALUES: usize = 256;
const BYTES: usize = 66;
const RUNS: usize = 8;
const GROUPS: usize = 4;
const ENTRIES: usize = 256;

#[inline(always)]
pub fn decode(block: &[u8; BYTES], out: &mut [f32; VALUES]) {
    let d = f16_at(block, 0);
    for (run, out) in block[2..]
        .as_chunks::<8>()
        .0
        .iter()
        .zip(out.chunks_exact_mut(32))
    {
        let tail = u32::from_le_bytes([run[4], run[5], run[6], run[7]]);
        let scale = d * (0.5 + (tail >> 28) as f32) * 0.25;
        for (group, out) in out.chunks_exact_mut(8).enumerate() {
            let grid = &IQ2_XXS_GRID[usize::from(run[group])];
            signed_group(out, grid, even_signs(tail >> (7 * group)), scale);
        }
    }
}

/// The codebook by place in the group, so that entries are side by side.
static GRID: [[f32; ENTRIES]; 8] = transposed(false);
/// The squares of [`GRID`].
static SQUARES: [[f32; ENTRIES]; 8] = transposed(true);

const fn transposed(square: bool) -> [[f32; ENTRIES]; 8] {
    let mut out = [[0.0; ENTRIES]; 8];
    let mut i = 0;
    while i < 8 * ENTRIES {
        let level = IQ2_XXS_GRID[i / 8][i % 8] as f32;
        out[i % 8][i / 8] = if square { level * level } else { level };
        i += 1;
    }
    out
}

/// What a group's error needs to know of each entry: for scale `s` the error
/// is a constant plus `s * (s * squares - products)`, with the signs that are
/// best for that entry.
#[derive(Clone, Copy)]
struct Group {
    products: [f32; ENTRIES],
    squares: [f32; ENTRIES],
}

const EMPTY: Group = Group {
    products: [0.0; ENTRIES],
    squares: [0.0; ENTRIES],
};

impl Group {
    /// Signs follow the values; where an odd number is negative one sign must
    /// be wrong, and each entry takes the place where that costs it least.
    #[inline(always)]
    fn fill(&mut self, x: &[f32; 8], weights: &[f32; 8]) {
        let wx: [f32; 8] = each(|i| weights[i] * x[i].abs());
        let flip = if negatives(x).count_ones() % 2 == 1 {
            4.0
        } else {
            0.0
        };
        for (entry, out) in self.products.iter_mut().enumerate() {
            let (mut all, mut least) = (0.0, f32::INFINITY);
            for i in 0..8 {
                let product = wx[i] * GRID[i][entry];
                all += product;
                least = if product < least { product } else { least };
            }
            *out = 2.0 * all - flip * least;
        }
        for (entry, out) in self.squares.iter_mut().enumerate() {
            let mut square = 0.0;
            for i in 0..8 {
                square += weights[i] * SQUARES[i][entry];
            }
            *out = square;
        }
    }

    /// The entry with the least error at this scale (the first among equals),
    /// and that error less its constant.
    #[inline(always)]
    fn best(&self, scale: f32) -> (f32, usize) {
        let errors: [f32; ENTRIES] = each(|i| scale * self.squares[i] - self.products[i]);
        let mut lanes = [f32::INFINITY; 16];
        for errors in errors.as_chunks::<16>().0 {
            for (least, &error) in lanes.iter_mut().zip(errors) {
                *least = if error < *least { error } else { *least };
            }
        }
        let mut least = f32::INFINITY;
        for lane in lanes {
            least = if lane < least { lane } else { least };
        }
        let mut entry = 0;
        for (step, errors) in errors.as_chunks::<16>().0.iter().enumerate() {
            if errors
                .iter()
                .fold(false, |any, &error| any | (error == least))
            {
                entry = step * 16 + errors.iter().position(|&e| e == least).unwrap_or(0);
                break;
            }
        }
        (least * scale, entry)
    }
}

/// The signs of 8 values as bits.
#[inline(always)]
fn negatives(x: &[f32; 8]) -> u8 {
    (0..8).fold(0, |bits, i| bits | u8::from(x[i] < 0.0) << i)
}

/// One run's choice at one scale.
#[derive(Clone, Copy)]
struct Choice {
    error: f32,
    entries: [u8; GROUPS],
    /// Sums over the groups, as in [`Group`].
    product: f32,
    square: f32,
}

#[inline(always)]
fn choose(groups: &[Group; GROUPS], scale: f32) -> Choice {
    let mut choice = Choice {
        error: 0.0,
        entries: [0; GROUPS],
        product: 0.0,
        square: 0.0,
    };
    for (group, chosen) in groups.iter().zip(&mut choice.entries) {
        let (error, entry) = group.best(scale);
        choice.error += error;
        choice.product += group.products[entry];
        choice.square += group.squares[entry];
        *chosen = entry as u8;
    }
    choice
}

const TRIALS: usize = 8;
const FIRST_TRIAL: f32 = 0.75;
const TRIAL_STEP: f32 = 0.07;
/// The scale that suits normally distributed values, over their RMS.
const USUAL_SCALE: f32 = 1.0 / 22.0;

/// The real scale with the least error of one run.
#[inline(always)]
fn run_scale(x: &[f32; 32], weights: &[f32; 32], groups: &[Group; GROUPS]) -> f32 {
    let (mut square, mut weight, mut largest) = (0.0f32, 0.0f32, 0.0f32);
    for (&x, &w) in x.iter().zip(weights) {
        square += w * x * x;
        weight += w;
        largest = largest.max(x.abs());
    }
    if largest < SMALLEST {
        return 0.0;
    }
    let usual = (square / weight).sqrt() * USUAL_SCALE;
    let mut best = (f32::INFINITY, 0.0);
    for trial in 0..TRIALS {
        let mut scale = usual * (FIRST_TRIAL + trial as f32 * TRIAL_STEP);
        let choice = choose(groups, scale);
        // The best scale for these entries, and its error.
        scale = choice.product / (2.0 * choice.square);
        let error = -0.5 * scale * choice.product;
        if scale > 0.0 && error < best.0 {
            best = (error, scale);
        }
    }
    best.1
}

/// For every group the best of all entries and signs is taken at each scale
/// tried; scales of runs, `d` and entries are improved in turn.
#[inline(always)]
pub fn encode(x: &[f32; VALUES], weights: &[f32; VALUES], block: &mut [u8; BYTES]) {
    let mut groups = [[EMPTY; GROUPS]; RUNS];
    let mut wanted = [0.0f32; RUNS];
    for run in 0..RUNS {
        let x: &[f32; 32] = &x.as_chunks().0[run];
        let weights: &[f32; 32] = &weights.as_chunks().0[run];
        for (i, group) in groups[run].iter_mut().enumerate() {
            group.fill(&x.as_chunks().0[i], &weights.as_chunks().0[i]);
        }
        wanted[run] = run_scale(x, weights, &groups[run]);
    }
    let largest = wanted.iter().fold(0.0f32, |l, &s| l.max(s));

    let mut least = f32::INFINITY;
    let mut d = largest * 4.0 / 15.5;
    for _pass in 0..2 {
        let rounded = f16::from_f32(d);
        let d_now = rounded.to_f32();
        let mut chosen = [(0u32, [0u8; GROUPS]); RUNS];
        let (mut error, mut product, mut square) = (0.0, 0.0, 0.0);
        for run in 0..RUNS {
            let middle = if d_now > 0.0 {
                super::search::nearest(4.0 * wanted[run] / d_now - 0.5, 0.0, 15.0) as i32
            } else {
                0
            };
            let mut best: Option<(Choice, u32, f32)> = None;
            for s in [middle, middle - 1, middle + 1] {
                if !(0..16).contains(&s) {
                    continue;
                }
                let factor = (0.5 + s as f32) * 0.25;
                let choice = choose(&groups[run], d_now * factor);
                if best.is_none_or(|best| choice.error < best.0.error) {
                    best = Some((choice, s as u32, factor));
                }
            }
            if let Some((choice, s, factor)) = best {
                error += choice.error;
                product += factor * choice.product;
                square += factor * factor * choice.square;
                chosen[run] = (s, choice.entries);
            }
        }
        if error < least {
            least = error;
            write(x, weights, rounded, &chosen, block);
        }
        if square > 0.0 && product > 0.0 {
            d = product / (2.0 * square);
        }
    }
}

#[inline(always)]
fn write(
    x: &[f32; VALUES],
    weights: &[f32; VALUES],
    d: f16,
    chosen: &[(u32, [u8; GROUPS]); RUNS],
    block: &mut [u8; BYTES],
) {
    block[..2].copy_from_slice(&d.to_le_bytes());
    for (run, &(s, entries)) in chosen.iter().enumerate() {
        let mut tail = s << 28;
        for (i, &entry) in entries.iter().enumerate() {
            let at = run * GROUPS + i;
            let (x, weights) = (&x.as_chunks().0[at], &weights.as_chunks().0[at]);
            tail |= u32::from(signs(x, weights, entry) & 127) << (7 * i);
        }
        let bytes = &mut block[2 + 8 * run..][..8];
        bytes[..4].copy_from_slice(&entries);
        bytes[4..].copy_from_slice(&tail.to_le_bytes());
    }
}

/// The best signs with an even number of negative ones.
#[inline(always)]
fn signs(x: &[f32; 8], weights: &[f32; 8], entry: u8) -> u8 {
    let signs = negatives(x);
    if signs.count_ones().is_multiple_of(2) {
        return signs;
    }
    let grid = &IQ2_XXS_GRID[usize::from(entry)];
    let mut least = (f32::INFINITY, 0);
    for (i, &level) in grid.iter().enumerate() {
        let cost = weights[i] * x[i].abs() * f32::from(level);
        if cost < least.0 {
            least = (cost, i);
        }
    }
    signs ^ 1 << least.1
}
