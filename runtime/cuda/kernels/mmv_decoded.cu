// Products of a few rows in float32, for weights of other types: with exact precision.

#include "formats_any.cuh"
#include "mmv_f.cuh"

#define MOST 8u
// Words of a run in shared memory: one more than its integers, so that threads that write runs
// write to different banks, and its scales and minima.
#define RUN_WORDS 9u
#define WARP_WORDS (32u * (RUN_WORDS + 4u))

// Each thread of a warp takes a run apart, then all multiply run by run.
KERNEL_BLOCKS(mmv_decoded, ProductF32, MMV_THREADS, 2) {
    const Product &product = args.product;
    Part part;
    if (!part_of(product, part)) {
        return;
    }
    u32 *q = shared<u32>(0) + warp() * WARP_WORDS;
    f32 *scales = reinterpret_cast<f32 *>(q + 32 * RUN_WORDS);
    u32 runs = product.columns / 32;
    Inputs<MOST> inputs;
    for (u32 item = 0; item < part.count; item += MOST) {
        find_inputs(args, part, item, inputs);
        u32 row = block_x() * (MMV_THREADS / 32) + warp();
        for (; row < product.rows; row += blocks_x() * (MMV_THREADS / 32)) {
            const u8 *w = part.w + u64(row) * args.row_bytes;
            clear(inputs);
            for (u32 first = 0; first < runs; first += 32) {
                if (first + lane() < runs) {
                    Decoded run;
                    decode_run_of(args.type, w, first + lane(), args.codebook, run);
                    put_decoded(run, q + lane() * RUN_WORDS, scales + 4 * lane());
                }
                sync_warp(FULL_MASK);
                u32 count = runs - first < 32 ? runs - first : 32;
                for (u32 number = 0; number < count; number++) {
                    f32 weight = decoded_at(q + number * RUN_WORDS, scales + 4 * number, args.type,
                                            lane());
                    u32 i = 32 * (first + number) + lane();
                    add_weight(weight, i, part.count - item, inputs);
                }
                sync_warp(FULL_MASK);
            }
            store_sums(args, part, item, row, inputs);
        }
    }
}
