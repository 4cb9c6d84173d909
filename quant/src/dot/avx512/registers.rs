//! Loading and summing registers.

use std::arch::x86_64::*;

use crate::dot::avx2;

/// Lanes `l` and `l + 8` added, then the eight as the tree.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn sum16(v: __m512) -> f32 {
    let eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
    avx2::sum8(eight)
}

/// The 32 lanes of a float sum added: lane `l` of eight is
/// `(l + (l + 8)) + ((l + 16) + (l + 24))`, then the tree.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn sum32(v: [__m512; 2]) -> f32 {
    let half = |v: __m512| _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
    avx2::sum8(_mm256_add_ps(half(v[0]), half(v[1])))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn load_ps(v: &[f32; 16]) -> __m512 {
    // SAFETY: reads the 64 bytes of `v`.
    unsafe { _mm512_loadu_ps(v.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn store_ps(to: &mut [f32; 16], v: __m512) {
    // SAFETY: writes the 64 bytes of `to`.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn load_lanes(lanes: &[i32; 16]) -> __m512i {
    // SAFETY: reads the 64 bytes of the array.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}

/// The 64 bytes from `at` on.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn load_64<const N: usize>(bytes: &[u8; N], at: usize) -> __m512i {
    let v = &bytes[at..at + 64];
    // SAFETY: reads the 64 bytes of `v`.
    unsafe { _mm512_loadu_si512(v.as_ptr().cast()) }
}

/// The same of signed bytes.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn load_i8<const N: usize>(values: &[i8; N], at: usize) -> __m512i {
    let v = &values[at..at + 64];
    // SAFETY: reads the 64 bytes of `v`.
    unsafe { _mm512_loadu_si512(v.as_ptr().cast()) }
}

/// The eight bytes from `at` on, the first the lowest.
#[inline(always)]
pub(super) fn word_64<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// Asks for the memory that comes a little after these bytes of a row, of which
/// `left` remain with them. The row that follows in its stream begins `skip` bytes
/// after this row's end.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn prefetch_stream<T>(bytes: std::ops::Range<*const T>, left: usize, skip: usize) {
    const AHEAD: usize = 512;
    let mut line = bytes.start.cast::<i8>().wrapping_add(AHEAD);
    let mut end = bytes.end.cast::<i8>().wrapping_add(AHEAD);
    if AHEAD >= left {
        line = line.wrapping_add(skip);
        end = end.wrapping_add(skip);
    }
    while line < end {
        _mm_prefetch::<_MM_HINT_T0>(line);
        line = line.wrapping_add(64);
    }
}

/// See [`avx2::prefetch`]: line by line, so that this is no loop wherever the block comes from.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn prefetch<const N: usize>(block: &[u8; N]) {
    for at in (0..N).step_by(64) {
        let line = block.as_ptr().wrapping_add(at);
        avx2::prefetch(line..line.wrapping_add(1));
    }
}
