//! Tables of bytes in registers, and matrices of bits.

use std::arch::x86_64::*;

use super::registers::{load_64, load_ps};

/// The matrix that `gf2p8affineqb` needs to add up, without carry, the columns of
/// the bits that are set.
pub(super) const fn affine(columns: [u8; 8]) -> i64 {
    let mut rows = [0u8; 8];
    let mut i = 0;
    while i < 64 {
        let (bit, column) = (i / 8, i % 8);
        rows[7 - bit] |= (columns[column] >> bit & 1) << column;
        i += 1;
    }
    i64::from_le_bytes(rows)
}

/// Byte `k` is bit `k`, in each 64 bits: it turns the rows of an 8 by 8 matrix of
/// bits to columns, the first to the highest bit.
pub(super) const EACH_BIT: i64 = i64::from_le_bytes([1, 2, 4, 8, 16, 32, 64, 128]);

/// Eight signs of seven bits: the eighth makes their number even.
pub(super) const EIGHT_SIGNS: i64 = affine([0x81, 0x82, 0x84, 0x88, 0x90, 0xa0, 0xc0, 0]);

/// Bytes of a table of `N`: `128 << HIGH`. The lower seven bits of an index are in its byte of
/// `index`, whose eighth is ignored, the others from the eighth on in `high`.
///
/// Gathers are slow, so the table is looked up in registers.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
pub(super) fn look_up<const N: usize, const HIGH: usize>(
    table: &[u8; N],
    index: __m512i,
    high: [__mmask64; HIGH],
) -> __m512i {
    const { assert!(N == 128 << HIGH && HIGH <= 3) };
    let mut parts = [_mm512_setzero_si512(); 8];
    for i in 0..N / 128 {
        let (first, last) = (load_64(table, 128 * i), load_64(table, 128 * i + 64));
        parts[i] = _mm512_permutex2var_epi8(first, index, last);
    }
    for b in 0..HIGH {
        for i in 0..(N / 128) >> (b + 1) {
            parts[i] = _mm512_mask_blend_epi8(high[b], parts[2 * i], parts[2 * i + 1]);
        }
    }
    parts[0]
}

/// Odd numbers times a power of two by their upper bits: `(2 s + 1) by`.
pub(super) const fn odd_numbers(by: f32) -> [f32; 16] {
    let mut numbers = [0.0; 16];
    let mut i = 0;
    while i < 16 {
        numbers[i] = (2 * i + 1) as f32 * by;
        i += 1;
    }
    numbers
}

/// Sixteen numbers of a table by the lower four bits of each index.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")]
pub(super) fn numbers(table: &[f32; 16], index: __m512i) -> __m512 {
    _mm512_permutexvar_ps(index, load_ps(table))
}
