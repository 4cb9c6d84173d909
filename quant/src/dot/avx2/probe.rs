//! See [`crate::dot::probe`].

use std::arch::x86_64::*;

use crate::dot::probe::{Probe, SCALAR, SUMS};

pub(in crate::dot) const PROBE: Probe = Probe {
    read: |bytes| {
        // SAFETY: as in `entry`.
        unsafe { read(bytes) }
    },
    int8: |rounds| {
        // SAFETY: as in `entry`.
        unsafe { int8(rounds) }
    },
    f32: |rounds| {
        // SAFETY: as in `entry`.
        unsafe { f32(rounds) }
    },
};

#[target_feature(enable = "avx2,fma,f16c")]
fn read(bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<128>();
    let mut sums = [_mm256_setzero_si256(); 4];
    for block in blocks {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = _mm256_xor_si256(*sum, super::registers::load_32(block, 32 * i));
        }
    }
    let (a, b) = (
        _mm256_xor_si256(sums[0], sums[1]),
        _mm256_xor_si256(sums[2], sums[3]),
    );
    let all = _mm256_xor_si256(a, b);
    let half = _mm_xor_si128(
        _mm256_castsi256_si128(all),
        _mm256_extracti128_si256::<1>(all),
    );
    let sum = _mm_extract_epi64::<0>(half) ^ _mm_extract_epi64::<1>(half);
    sum.cast_unsigned().wrapping_add((SCALAR.read)(rest))
}

#[target_feature(enable = "avx2,fma,f16c")]
fn int8(rounds: usize) -> u64 {
    let ones = _mm256_set1_epi16(1);
    let x = std::hint::black_box(_mm256_set1_epi8(3));
    let mut sums = [_mm256_setzero_si256(); SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            // The sum is part of the product, so that no product can be shared.
            let pairs = _mm256_maddubs_epi16(x, *sum);
            *sum = _mm256_madd_epi16(pairs, ones);
        }
    }
    std::hint::black_box(sums);
    (rounds * SUMS * 64) as u64
}

#[target_feature(enable = "avx2,fma,f16c")]
fn f32(rounds: usize) -> u64 {
    let x = std::hint::black_box(_mm256_set1_ps(0.5));
    let mut sums = [x; SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(x, *sum, x);
        }
    }
    std::hint::black_box(sums);
    (rounds * SUMS * 16) as u64
}
