//! Transposes words of sixteen rows.

use std::arch::x86_64::*;

use crate::dot::scratch::Line;

/// Words `4s..4s + 4` of sixteen lines: vector `q` has word `4s + q` of each.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn transpose(lines: &[Line; 16], s: usize) -> [__m512i; 4] {
    let mut rows = [&[0; 16]; 16];
    for (row, line) in rows.iter_mut().zip(lines) {
        *row = &line.0.as_chunks().0[s & 3];
    }
    transpose_words(rows)
}

/// Vector `q` has word `q` of each of sixteen rows of four words.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn transpose_words(rows: [&[u8; 16]; 16]) -> [__m512i; 4] {
    let mut z = [_mm512_setzero_si512(); 4];
    for p in 0..4 {
        // SAFETY: reads the sixteen bytes of each row.
        let load = |r: usize| unsafe { _mm_loadu_si128(rows[r].as_ptr().cast()) };
        // Broadcasts under a mask need no shuffle.
        let v = _mm512_broadcast_i32x4(load(p));
        let v = _mm512_mask_broadcast_i32x4(v, 0x00f0, load(4 + p));
        let v = _mm512_mask_broadcast_i32x4(v, 0x0f00, load(8 + p));
        z[p] = _mm512_mask_broadcast_i32x4(v, 0xf000, load(12 + p));
    }
    let (a, b) = (
        _mm512_unpacklo_epi32(z[0], z[1]),
        _mm512_unpackhi_epi32(z[0], z[1]),
    );
    let (c, d) = (
        _mm512_unpacklo_epi32(z[2], z[3]),
        _mm512_unpackhi_epi32(z[2], z[3]),
    );
    [
        _mm512_unpacklo_epi64(a, c),
        _mm512_unpackhi_epi64(a, c),
        _mm512_unpacklo_epi64(b, d),
        _mm512_unpackhi_epi64(b, d),
    ]
}
