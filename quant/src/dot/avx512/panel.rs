//! Sixteen weight rows taken apart, and activations laid out, for products with many
//! activation rows. See [`crate::dot::panel`].

use std::arch::x86_64::*;

use super::group::{Apart, GROUP, Minima, pad};
use super::transpose::{transpose, transpose_words};
use crate::dot::act::ActRow;
use crate::dot::avx2::{Form, prefetch_next};
use crate::dot::panel::{self, Order, WORDS};
use crate::dot::scratch::{Line, Sixteen};

/// Weight rows of a panel.
const ROWS: usize = 16;

/// Activation rows of a tile: as many as registers allow.
pub(super) const TILE: usize = 12;

#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn store(line: &mut Line, v: __m512i) {
    // SAFETY: writes the 64 bytes of the line.
    unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), v) }
}

/// Takes up to sixteen rows apart.
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
pub(super) fn fill<F: Apart<BYTES>, const BYTES: usize>(
    w: &[u8],
    bytes: usize,
    order: &Order,
    weights: &mut [Line],
    floats: &mut [Sixteen],
) {
    let (n, weights) = (order.blocks(), weights.as_chunks_mut::<8>().0);
    let empty = [0; BYTES];
    let mut padded = [[0; BYTES]; ROWS];
    let mut lines = [[Line([0; 64]); 8]; GROUP];
    let mut scales = [Line([0; 64]); ROWS];
    let mut minima = [[Line([0; 64]); ROWS]; 2];
    for g in 0..n.div_ceil(GROUP) {
        let mut groups = [&empty; ROWS];
        let whole = n >= (g + 1) * GROUP;
        for ((group, padded), row) in groups
            .iter_mut()
            .zip(&mut padded)
            .zip(w.chunks_exact(bytes))
        {
            if whole {
                *group = &row.as_chunks::<BYTES>().0[g];
                prefetch_next(*group, ROWS * bytes);
            } else {
                *padded = pad(&row[g * BYTES..]);
                *group = padded;
            }
        }
        // SAFETY: this function has the features.
        unsafe { F::interleave(groups, &mut lines) };
        for (r, group) in groups.iter().enumerate() {
            // SAFETY: this function has the features.
            let (scale, minimum) = unsafe { (F::scales(group), F::minima(group)) };
            store(&mut scales[r], _mm512_castps_si512(scale));
            match minimum {
                Minima::None => {}
                Minima::Block(min) => store(&mut minima[0][r], _mm512_castps_si512(min)),
                Minima::Halves(first, last) => {
                    store(&mut minima[0][r], _mm512_castps_si512(first));
                    store(&mut minima[1][r], _mm512_castps_si512(last));
                }
            }
        }
        for (i, lines) in lines.iter().enumerate().take(n - g * GROUP) {
            weights[order.place(g * GROUP + i)] = *lines;
        }
        let mut to_rows = |from: &[Line; ROWS], k: usize| {
            for s in 0..4 {
                let block = g * GROUP + 4 * s;
                for (i, v) in transpose(from, s).into_iter().enumerate() {
                    if block + i < n {
                        let to =
                            &mut floats[order.place(block + i) * (1 + <F as Form>::MINIMA) + k];
                        // SAFETY: writes the 64 bytes of the sixteen.
                        unsafe { _mm512_store_ps(to.0.as_mut_ptr(), _mm512_castsi512_ps(v)) };
                    }
                }
            }
        };
        to_rows(&scales, 0);
        for k in 0..<F as Form>::MINIMA {
            to_rows(&minima[k], 1 + k);
        }
    }
}

/// See [`crate::dot::kernels::Pack`].
pub(super) fn pack(acts: &[ActRow<'_>], packed: &mut [u32]) {
    panel::pack(acts, TILE, WORDS, packed, |acts, b, words| {
        // SAFETY: this function is got from `KERNELS`, see there.
        unsafe { pack_values(acts, b, words) }
    });
}

#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
fn pack_values(acts: &[ActRow<'_>], b: usize, words: &mut [u32]) {
    let size = acts.len();
    let zeros = [0u8; 16];
    for half in 0..2 {
        let mut rows = [&zeros; 16];
        for (row, act) in rows.iter_mut().zip(acts) {
            let q = &act.q[32 * b + 16 * half..][..16];
            // SAFETY: sixteen bytes, whose sign does not matter here.
            *row = unsafe { &*q.as_ptr().cast() };
        }
        for (k, v) in transpose_words(rows).into_iter().enumerate() {
            let mut lanes = [0u32; 16];
            // SAFETY: writes the 64 bytes of the array.
            unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), v) };
            words[(4 * half + k) * size..][..size].copy_from_slice(&lanes[..size]);
        }
    }
}
