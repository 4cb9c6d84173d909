//! Quantises activations.

use std::arch::x86_64::*;

use super::registers::load_ps;
use crate::dot::scalar::scales;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn quantize(x: &[[f32; 32]], q: &mut [[i8; 32]], d: &mut [f32], sums: &mut [[i16; 2]]) {
    let magnitude = _mm256_set1_epi32(0x7fff_ffff);
    for (((x, q), d), sums) in x.iter().zip(q).zip(d).zip(sums) {
        let (x, _) = x.as_chunks::<8>();
        let x = [
            load_ps(&x[0]),
            load_ps(&x[1]),
            load_ps(&x[2]),
            load_ps(&x[3]),
        ];
        let [a, b, c, e] = x.map(|v| _mm256_and_si256(_mm256_castps_si256(v), magnitude));
        let max = _mm256_max_epi32(_mm256_max_epi32(a, b), _mm256_max_epi32(c, e));
        let max = _mm_max_epi32(
            _mm256_castsi256_si128(max),
            _mm256_extracti128_si256::<1>(max),
        );
        let max = _mm_max_epi32(max, _mm_shuffle_epi32::<0b01_00_11_10>(max));
        let max = _mm_max_epi32(max, _mm_shuffle_epi32::<0b10_11_00_01>(max));
        let scale;
        (*d, scale) = scales(f32::from_bits(_mm_cvtsi128_si32(max).cast_unsigned()));
        if scale == 0.0 {
            *q = [0; 32];
            *sums = [0; 2];
            continue;
        }
        // The products are within 127 and a rounding error: no clamp is needed.
        let scale = _mm256_set1_ps(scale);
        let [a, b, c, e] = x.map(|v| _mm256_cvtps_epi32(_mm256_mul_ps(v, scale)));
        let packed = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, e));
        // Packing works per 128 bits; put the groups of four in order.
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        let packed = _mm256_permutevar8x32_epi32(packed, order);
        // SAFETY: writes the 32 bytes of `q`.
        unsafe { _mm256_storeu_si256(q.as_mut_ptr().cast(), packed) };
        let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), packed);
        let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        let fours = _mm256_hadd_epi32(fours, fours);
        let sum = _mm256_hadd_epi32(fours, fours);
        *sums = [
            _mm256_extract_epi32::<0>(sum) as i16,
            _mm256_extract_epi32::<4>(sum) as i16,
        ];
    }
}
