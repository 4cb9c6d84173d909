// Weights of hyper-connections: docs/arithmetic.md, section 3.

#pragma once

#include "rows.cuh"

// Streams that a model may have.
#define MAX_STREAMS 16u

struct Site {
    const f32 *products;
    const f32 *base;
    const f32 *scale;
    u32 streams;
    u32 iterations;
    f32 eps;
    f32 norm_eps;
};

// Sums over 4 neighbours of a matrix of 4 x 4 in the lanes of each half warp: along rows with
// `near` 1, along columns with 4.
FN f32 sum_of_four(f32 v, u32 near) {
    v = add_ff(v, shfl_xor(FULL_MASK, v, 2 * near));
    return add_ff(v, shfl_xor(FULL_MASK, v, near));
}

FN f32 max_of_four(f32 v) {
    for (u32 bit = 2; bit > 0; bit /= 2) {
        f32 other = shfl_xor(FULL_MASK, v, bit);
        v = other > v ? other : v;
    }
    return v;
}

// Sinkhorn's iterations on a matrix of 4 x 4, value (j, k) in lane 4 j + k of each half warp.
FN f32 sinkhorn_of_four(f32 v, u32 iterations, f32 eps) {
    f32 e = exp_ff(add_ff(v, -max_of_four(v)));
    v = add_ff(div_ff(e, sum_of_four(e, 1)), eps);
    v = div_ff(v, add_ff(sum_of_four(v, 4), eps));
    for (u32 i = 1; i < iterations; i++) {
        v = div_ff(v, add_ff(sum_of_four(v, 1), eps));
        v = div_ff(v, add_ff(sum_of_four(v, 4), eps));
    }
    return v;
}

// The same for any number of streams: thread s j + k has value (j, k), and others join in.
// `comb` is room for s x s values in shared memory.
FN f32 sinkhorn(f32 v, u32 s, u32 iterations, f32 eps, f32 *comb) {
    u32 i = thread_x(), row = i / s, column = i % s;
    bool mine = i < s * s;
    auto exchange = [&] {
        sync();
        if (mine) {
            comb[i] = v;
        }
        sync();
    };
    auto by_columns = [&] {
        exchange();
        v = mine ? div_ff(v, add_ff(tree_of_few(comb + column, s, s), eps)) : v;
    };
    exchange();
    if (mine) {
        f32 largest = comb[row * s];
        for (u32 k = 1; k < s; k++) {
            f32 other = comb[row * s + k];
            largest = other > largest ? other : largest;
        }
        v = exp_ff(add_ff(v, -largest));
    }
    exchange();
    v = mine ? add_ff(div_ff(v, tree_of_few(comb + row * s, 1, s)), eps) : v;
    by_columns();
    for (u32 n = 1; n < iterations; n++) {
        exchange();
        v = mine ? div_ff(v, add_ff(tree_of_few(comb + row * s, 1, s), eps)) : v;
        by_columns();
    }
    return v;
}
