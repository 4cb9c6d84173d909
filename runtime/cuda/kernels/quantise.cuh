// Activations in int8: docs/arithmetic.md, section 4.

#pragma once

#include "numbers.cuh"
#include "rows.cuh"

// Rows of activations in blocks of 32: `q` row by row, one byte each, so that four neighbours
// are a word of dp4a and a register of mma; `d` the scale of each block; `sums` in each block's
// word the sum of the first 16 integers (low half) and of the last 16, as signed 16-bit numbers.
struct Int8Rows {
    i8 *q;
    f32 *d;
    u32 *sums;
};

// Rounds a block, a value a lane.
FN void quantise_block(f32 x, const Int8Rows &to, u64 block) {
    // As integers: a NaN is the largest of all.
    u32 largest = largest_of_lanes(magnitude_bits(x), 32);
    f32 a = float_of(largest);
    bool finite = largest < 0x7f800000;
    bool zero = !finite || largest < 0x0d800000; // 2^-100
    i32 q = f2i_rn(mul_ff(x, div_ff(127.0f, a)));
    q = q > 127 ? 127 : q;
    q = q < -127 ? -127 : q;
    q = zero ? 0 : q;
    f32 d = zero ? 0.0f : div_ff(a, 127.0f);
    d = finite ? d : NOT_A_NUMBER;
    i32 sum = q;
    for (u32 half = 8; half > 0; half /= 2) {
        sum += shfl_xor(FULL_MASK, sum, half);
    }
    i32 last = shfl_down(FULL_MASK, sum, 16);
    to.q[block * 32 + lane()] = i8(q);
    if (lane() == 0) {
        to.d[block] = d;
        to.sums[block] = (u32(sum) & 0xffff) | u32(last) << 16;
    }
}
