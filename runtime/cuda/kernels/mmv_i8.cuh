// Products of weights and a few rows of activations in int8: every weight is read once and meets
// them all.

#pragma once

#include "product_i8.cuh"

// Threads of a block.
#define MMV_THREADS 256u

// Adds the product of a run and a block of x to the lane.
template <class Format>
FN f32 add_run(const Run &run, const Int8Rows &x, u32 block, f32 sum) {
    auto *vectors = reinterpret_cast<const Words4 *>(x.q) + u64(2) * block;
    Words4 front = vectors[0], back = vectors[1];
    f32 d = x.d[block];
    i32 first = 0, last = 0;
    UNROLL for (u32 i = 0; i < 4; i++) {
        first = dp4a(run.q[i], front.word[i], first);
        last = dp4a(run.q[4 + i], back.word[i], last);
    }
    sum = add_sums<Format>(run, first, last, d, sum);
    return Format::MINIMA == NO_MINIMA ? sum : add_minima<Format>(run, x.sums[block], d, sum);
}

// Half a warp for each row of weights: thread l has lane l of the sum, which takes the blocks l,
// l + 16, and so on. `most` rows of x at a time, for more of them weights are read again.
template <class Format, u32 most> FN void mmv_i8(const ProductI8 &args) {
    const Product &product = args.product;
    Part part;
    if (!part_of(product, part)) {
        return;
    }
    const u32 *book = load_codebook<Format>(args.codebook);
    u32 blocks = product.columns / 32, l = lane() % 16;
    u64 row_bytes = u64(blocks / Format::RUNS) * Format::BYTES;
    for (u32 item = 0; item < part.count; item += most) {
        u32 x[most];
        UNROLL for (u32 t = 0; t < most; t++) {
            x[t] = x_of(product, part, pair_of(product, part, item + t));
        }
        u32 count = part.count - item;
        // Both halves of a warp stay together, so the last row may be computed twice.
        u32 pair_of_rows = block_x() * (MMV_THREADS / 32) + warp();
        for (; 2 * pair_of_rows < product.rows; pair_of_rows += blocks_x() * (MMV_THREADS / 32)) {
            u32 row = 2 * pair_of_rows + lane() / 16;
            bool valid = row < product.rows;
            const u8 *w = part.w + (valid ? row : row - 1) * row_bytes;
            f32 sums[most];
            UNROLL for (u32 t = 0; t < most; t++) { sums[t] = 0.0f; }
            for (u32 b = l; b < blocks; b += 16) {
                u32 raw[Format::WORDS];
                Run run;
                load_run<Format>(w, b, raw);
                unpack_run<Format>(raw, b, book, run);
                UNROLL for (u32 t = 0; t < most; t++) {
                    if (t < count) {
                        sums[t] = add_run<Format>(run, args.x, x[t] + b, sums[t]);
                    }
                }
            }
            UNROLL for (u32 t = 0; t < most; t++) {
                if (t < count) {
                    f32 sum = sums[t];
                    UNROLL for (u32 half = 8; half > 0; half /= 2) {
                        sum = add_ff(sum, shfl_xor(FULL_MASK, sum, half));
                    }
                    if (valid && l == 0) {
                        u32 pair = pair_of(product, part, item + t);
                        part.y[u64(pair) * product.y_stride + row] = sum;
                    }
                }
            }
        }
    }
}

// The kernels of a format, for one row of activations and for up to eight.
#define MMV_I8(name, Format)                                                                       \
    KERNEL_BLOCKS(mmv_i8_##name##_1, ProductI8, MMV_THREADS, 4) { mmv_i8<Format, 1>(args); }       \
    KERNEL_BLOCKS(mmv_i8_##name##_8, ProductI8, MMV_THREADS, 3) { mmv_i8<Format, 8>(args); }
