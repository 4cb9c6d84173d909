// Products of weights and a few rows of activations in float32: every weight is read once and
// meets them all. A warp for each row of weights: a thread has a lane of the sum.

#pragma once

#include "product_f32.cuh"

#define MMV_THREADS 256u

// Weights that a thread loads at a time; those of two bytes, with one row of activations, more at
// a time, and the next ones while these are added. Matrices of few rows have few warps, which have
// nothing else to do while they wait.
#define AT_ONCE 8u
#define AT_ONCE_ALONE 32u

// The end of a sum in 32 lanes: every lane gets it.
FN f32 sum_of_lanes(f32 lane_sum) {
    f32 sum = add_ff(lane_sum, shfl_xor(FULL_MASK, lane_sum, 8));
    sum = add_ff(sum, shfl_xor(FULL_MASK, sum, 16));
    for (u32 half = 4; half > 0; half /= 2) {
        sum = add_ff(sum, shfl_xor(FULL_MASK, sum, half));
    }
    return sum;
}

// The rows of x that meet weights at the same time, and their sums.
template <u32 most> struct Inputs {
    const f32 *x[most];
    f32 sums[most];
};

template <u32 most>
FN void find_inputs(const ProductF32 &args, const Part &part, u32 item, Inputs<most> &inputs) {
    UNROLL for (u32 t = 0; t < most; t++) {
        u32 pair = pair_of(args.product, part, item + t);
        inputs.x[t] = args.x + x_of(args.product, part, pair);
    }
}
template <u32 most> FN void clear(Inputs<most> &inputs) {
    UNROLL for (u32 t = 0; t < most; t++) { inputs.sums[t] = 0.0f; }
}
// Weight i meets value i of each row.
template <u32 most> FN void add_weight(f32 w, u32 i, u32 count, Inputs<most> &inputs) {
    UNROLL for (u32 t = 0; t < most; t++) {
        if (t < count) {
            inputs.sums[t] = fma_ff(w, inputs.x[t][i], inputs.sums[t]);
        }
    }
}
// Weights i, i + 32, ... up to `end`, whole batches. Returns the number of the next one.
template <class Float>
FN u32 add_batches(const typename Float::Code *w, u32 i, u32 end, Inputs<1> &inputs) {
    typename Float::Code codes[AT_ONCE_ALONE], next[AT_ONCE_ALONE];
    auto load = [&](typename Float::Code (&to)[AT_ONCE_ALONE], u32 from) {
        if (from < end) {
            UNROLL for (u32 j = 0; j < AT_ONCE_ALONE; j++) { to[j] = w[from + 32 * j]; }
        }
    };
    load(codes, i);
    ROLLED for (; i < end; i += 32 * AT_ONCE_ALONE) {
        load(next, i + 32 * AT_ONCE_ALONE);
        UNROLL for (u32 j = 0; j < AT_ONCE_ALONE; j++) {
            add_weight(Float::value(codes[j]), i + 32 * j, 1, inputs);
            codes[j] = next[j];
        }
    }
    return i;
}
template <u32 most>
FN void store_sums(const ProductF32 &args, const Part &part, u32 item, u32 row,
                   const Inputs<most> &inputs) {
    UNROLL for (u32 t = 0; t < most; t++) {
        if (item + t < part.count) {
            f32 sum = sum_of_lanes(inputs.sums[t]);
            if (lane() == 0) {
                u64 pair = pair_of(args.product, part, item + t);
                store_result(args, part.y + pair * args.product.y_stride + row, sum);
            }
        }
    }
}

// Weights that are floats.
template <class Float, u32 most> FN void mmv_f(const ProductF32 &args) {
    Part part;
    if (!part_of(args.product, part)) {
        return;
    }
    Inputs<most> inputs;
    for (u32 item = 0; item < part.count; item += most) {
        find_inputs(args, part, item, inputs);
        u32 row = block_x() * (MMV_THREADS / 32) + warp();
        for (; row < args.product.rows; row += blocks_x() * (MMV_THREADS / 32)) {
            auto *w = reinterpret_cast<const typename Float::Code *>(
                part.w + u64(row) * args.row_bytes);
            clear(inputs);
            // Several loads at a time, without a question between them.
            u32 i = lane();
            if constexpr (most == 1 && sizeof(typename Float::Code) == 2) {
                const u32 batch = 32 * AT_ONCE_ALONE;
                i = add_batches<Float>(w, i, args.product.columns / batch * batch, inputs);
            }
            u32 whole = args.product.columns / (32 * AT_ONCE) * (32 * AT_ONCE);
            for (; i < whole; i += 32 * AT_ONCE) {
                typename Float::Code codes[AT_ONCE];
                UNROLL for (u32 j = 0; j < AT_ONCE; j++) { codes[j] = w[i + 32 * j]; }
                UNROLL for (u32 j = 0; j < AT_ONCE; j++) {
                    add_weight(Float::value(codes[j]), i + 32 * j, part.count - item, inputs);
                }
            }
            ROLLED for (; i < args.product.columns; i += 32) {
                add_weight(Float::value(w[i]), i, part.count - item, inputs);
            }
            store_sums(args, part, item, row, inputs);
        }
    }
}
