//! Loading, storing and summing registers.

use std::arch::x86_64::*;

/// The eight lanes added as the tree.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::dot) fn sum8(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_ps(v: &[f32; 8]) -> __m256 {
    // SAFETY: reads the 32 bytes of `v`.
    unsafe { _mm256_loadu_ps(v.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store_ps(to: &mut [f32; 8], v: __m256) {
    // SAFETY: writes the 32 bytes of `to`.
    unsafe { _mm256_storeu_ps(to.as_mut_ptr(), v) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_i8(v: &[i8; 32]) -> __m256i {
    // SAFETY: reads the 32 bytes of `v`.
    unsafe { _mm256_loadu_si256(v.as_ptr().cast()) }
}

/// The 32 bytes from `at` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_32<const N: usize>(bytes: &[u8; N], at: usize) -> __m256i {
    let v = &bytes[at..at + 32];
    // SAFETY: reads the 32 bytes of `v`.
    unsafe { _mm256_loadu_si256(v.as_ptr().cast()) }
}

/// The 16 bytes from `at` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_16<const N: usize>(bytes: &[u8; N], at: usize) -> __m128i {
    let v = &bytes[at..at + 16];
    // SAFETY: reads the 16 bytes of `v`.
    unsafe { _mm_loadu_si128(v.as_ptr().cast()) }
}

/// The f16 at `at`, in all lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn f16_at<const N: usize>(bytes: &[u8; N], at: usize) -> __m256 {
    _mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes([
        bytes[at],
        bytes[at + 1],
    ])))
}

/// The f16 at `at` and the one after it, each in all lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn two_f16<const N: usize>(bytes: &[u8; N], at: usize) -> (__m256, __m256) {
    let both = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    let both = _mm256_cvtph_ps(_mm_set1_epi32(i32::from_le_bytes(both)));
    (_mm256_moveldup_ps(both), _mm256_movehdup_ps(both))
}

/// Asks for the memory that comes some way after these bytes of a row: the
/// processor's own prefetching stops at each page, and a product has too many
/// instructions per byte to be far ahead by itself. What is far goes to the second
/// level first, whose queue to memory is longer.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::dot) fn prefetch<T>(bytes: std::ops::Range<*const T>) {
    const NEAR: usize = 2 << 10;
    const FAR: usize = 8 << 10;
    let start = bytes.start.cast::<i8>();
    // Of a block's bytes the number is known, so that this is not a loop.
    let len = bytes.end.addr() - bytes.start.addr();
    for line in (0..len).step_by(64) {
        _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line + NEAR));
        _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(line + FAR));
    }
}
