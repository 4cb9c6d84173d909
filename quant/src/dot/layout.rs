//! Bit layouts that several versions of a kernel need (`spec/gguf.md` section 7).

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

/// Twice the value of each E2M1 code.
pub(super) const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The eight scales and eight minima (6 bits each) of a Q4_K or Q5_K block, one
/// byte each, from the block's 12 packed bytes.
#[inline(always)]
pub(super) fn q4_k_scales(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let word = |i: usize| u32::from_le_bytes([0, 1, 2, 3].map(|k| packed[4 * i + k]));
    let (a, b, c) = (word(0), word(1), word(2));
    let join = |low: u32, high: u32| (u64::from(high) << 32 | u64::from(low)).to_le_bytes();
    let top = |x: u32| (x >> 2) & 0x3030_3030;
    (
        join(a & 0x3f3f_3f3f, (c & 0x0f0f_0f0f) | top(a)),
        join(b & 0x3f3f_3f3f, ((c >> 4) & 0x0f0f_0f0f) | top(b)),
    )
}

/// The sixteen scales (6 bits, still offset by 32) of a Q3_K block, one byte each,
/// from the block's 12 packed bytes.
#[inline(always)]
pub(super) fn q3_k_scales(packed: &[u8; 12]) -> [u8; 16] {
    let word = |i: usize| u32::from_le_bytes([0, 1, 2, 3].map(|k| packed[4 * i + k]));
    let (a, b, c) = (word(0), word(1), word(2));
    let words = [
        (a & 0x0f0f_0f0f) | ((c << 4) & 0x3030_3030),
        (b & 0x0f0f_0f0f) | ((c << 2) & 0x3030_3030),
        ((a >> 4) & 0x0f0f_0f0f) | (c & 0x3030_3030),
        ((b >> 4) & 0x0f0f_0f0f) | ((c >> 2) & 0x3030_3030),
    ];
    let mut out = [0; 16];
    for (chunk, word) in out.chunks_exact_mut(4).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    out
}
