//! Bit layouts used by several versions of a kernel (`spec/gguf.md` section 7).

use crate::tables::even_signs;

/// `2^(e - 128)` for the E8M0 byte `e` of an MXFP4 block, the scale of doubled
/// E2M1 values. The first two are subnormal; 255 is NaN.
pub(super) static MXFP4_SCALE: [f32; 256] = {
    let mut table = [f32::NAN; 256];
    let mut e = 0;
    while e < 255 {
        table[e] = f32::from_bits(if e < 2 {
            0x0020_0000 << e
        } else {
            (e as u32 - 1) << 23
        });
        e += 1;
    }
    table
};

/// The little-endian words of the twelve bytes from `at` on.
#[inline(always)]
fn words<const N: usize>(block: &[u8; N], at: usize) -> [u32; 3] {
    let word =
        |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    [word(at), word(at + 4), word(at + 8)]
}

#[inline(always)]
fn join(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// The eight scales and the eight minima (6 bits each) of a Q4_K or Q5_K block, one
/// per byte from the lowest up.
#[inline(always)]
pub(super) fn q4_k_scales<const N: usize>(block: &[u8; N]) -> (u64, u64) {
    let [a, b, c] = words(block, 4);
    let top = |x: u32| (x >> 2) & 0x3030_3030;
    (
        join(a & 0x3f3f_3f3f, (c & 0x0f0f_0f0f) | top(a)),
        join(b & 0x3f3f_3f3f, ((c >> 4) & 0x0f0f_0f0f) | top(b)),
    )
}

/// The sixteen scales (6 bits, still offset by 32) of a Q3_K block, one per byte
/// from the lowest of the first number up.
#[inline(always)]
pub(super) fn q3_k_scales(block: &[u8; 110]) -> [u64; 2] {
    let [a, b, c] = words(block, 96);
    let low = |x: u32| x & 0x0f0f_0f0f;
    let top = |x: u32| x & 0x3030_3030;
    [
        join(low(a) | top(c << 4), low(b) | top(c << 2)),
        join(low(a >> 4) | top(c), low(b >> 4) | top(c >> 2)),
    ]
}

/// The signs of eight values of IQ2_XXS by their 7-bit index: bytes 1 and -1.
pub(super) static IQ2_XXS_SIGNS: [[u8; 8]; 128] = {
    let mut table = [[1; 8]; 128];
    let mut i = 0;
    while i < 8 * 128 {
        if even_signs(i as u32 / 8) >> (i % 8) & 1 == 1 {
            table[i / 8][i % 8] = 0xff;
        }
        i += 1;
    }
    table
};
