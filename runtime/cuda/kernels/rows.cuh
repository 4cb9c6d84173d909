// What blocks of 256 threads compute of a row: docs/arithmetic.md, sections 1 and 3.

#pragma once

#include "functions.cuh"

// Threads of a block that works on rows: one for each lane of a sum in 256 lanes.
#define ROW_THREADS 256u
// Bytes of shared memory that a sum in 256 lanes takes.
#define SUM_BYTES 1024u

// The tree over 32 lanes of a warp: every lane gets the sum.
FN f32 tree_of_warp(f32 lane_sum) {
    for (u32 half = 16; half > 0; half /= 2) {
        lane_sum = add_ff(lane_sum, shfl_xor(FULL_MASK, lane_sum, half));
    }
    return lane_sum;
}

// The tree over the lanes of a sum, one a thread: every thread gets the sum. `lanes` is room for
// 256 of them in shared memory, which others may use again after the next sync.
FN f32 tree_of_block(f32 lane_sum, f32 *lanes) {
    lanes[thread_x()] = lane_sum;
    sync();
    // Lanes l, l + 32, ..., in the order in which three halvings add them.
    const f32 *at = lanes + lane();
    f32 even = add_ff(add_ff(at[0], at[128]), add_ff(at[64], at[192]));
    f32 odd = add_ff(add_ff(at[32], at[160]), add_ff(at[96], at[224]));
    return tree_of_warp(add_ff(even, odd));
}

// The inverse RMS of `count` values from their squares' lane.
FN f32 inverse_rms_of(f32 squares, u32 count, f32 eps, f32 *lanes) {
    f32 sum = tree_of_block(squares, lanes);
    return inverse_sqrt(add_ff(div_ff(sum, u2f(count)), eps));
}

// use(i, load(i)) for every `i` of this thread's lane, rising. Of `batch` neighbours all are
// loaded before the first is used: a block alone waits for memory, not for arithmetic.
template <u32 batch, class Load, class Use> FN void each_of_lane(u32 count, Load load, Use use) {
    for (u32 start = thread_x(); start < count; start += batch * ROW_THREADS) {
        f32 values[batch];
        UNROLL for (u32 k = 0; k < batch; k++) {
            u32 i = start + k * ROW_THREADS;
            values[k] = i < count ? load(i) : 0.0f;
        }
        UNROLL for (u32 k = 0; k < batch; k++) {
            u32 i = start + k * ROW_THREADS;
            if (i < count) {
                use(i, values[k]);
            }
        }
    }
}

// The inverse RMS of a row.
FN f32 inverse_rms(const f32 *x, u32 count, f32 eps, f32 *lanes) {
    f32 squares = 0.0f;
    each_of_lane<8>(
        count, [&](u32 i) { return x[i]; },
        [&](u32, f32 value) { squares = fma_ff(value, value, squares); });
    return inverse_rms_of(squares, count, eps, lanes);
}

// The tree over 4, 8 or 16 values, of which `used` are there and the others zero.
FN f32 tree_of_few(const f32 *values, u32 stride, u32 used) {
    f32 lanes[16];
    UNROLL for (u32 i = 0; i < 16; i++) {
        lanes[i] = i < used ? values[i * stride] : 0.0f;
    }
    UNROLL for (u32 half = 8; half > 0; half /= 2) {
        UNROLL for (u32 i = 0; i < half; i++) {
            lanes[i] = add_ff(lanes[i], lanes[i + half]);
        }
    }
    return lanes[0];
}
