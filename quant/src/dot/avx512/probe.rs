//! See [`crate::dot::probe`].

use std::arch::x86_64::*;

use crate::dot::probe::{Probe, SCALAR, SUMS};

pub(super) const PROBE: Probe = Probe {
    read: |bytes| {
        // SAFETY: as in `int8`.
        unsafe { read(bytes) }
    },
    int8: |rounds| {
        // SAFETY: as in `int8`.
        unsafe { int8(rounds) }
    },
    f32: |rounds| {
        // SAFETY: as in `int8`.
        unsafe { f32(rounds) }
    },
};

#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn read(bytes: &[u8]) -> u64 {
    let mut sums = [_mm512_setzero_si512(); 4];
    let (blocks, rest) = bytes.as_chunks::<256>();
    for block in blocks {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = _mm512_xor_si512(*sum, super::registers::load_64(block, 64 * i));
        }
    }
    let a = _mm512_xor_si512(sums[0], sums[1]);
    let b = _mm512_xor_si512(sums[2], sums[3]);
    let sum = _mm512_reduce_add_epi64(_mm512_xor_si512(a, b));
    sum.cast_unsigned().wrapping_add((SCALAR.read)(rest))
}

#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn int8(rounds: usize) -> u64 {
    let x = std::hint::black_box(_mm512_set1_epi8(3));
    let mut sums = [_mm512_setzero_si512(); SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, x, x);
        }
    }
    std::hint::black_box(sums);
    (rounds * SUMS * 128) as u64
}

#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512vnni")]
fn f32(rounds: usize) -> u64 {
    let x = std::hint::black_box(_mm512_set1_ps(0.5));
    let mut sums = [x; SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(x, *sum, x);
        }
    }
    std::hint::black_box(sums);
    (rounds * SUMS * 32) as u64
}
