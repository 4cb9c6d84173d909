// Weights of types with blocks, decoded: for products of many rows in float32.

#include "formats_any.cuh"

struct Decode {
    f32 *y;
    const u8 *w;
    const u32 *codebook;
    u64 runs;
    u32 type;
    u32 unused;
};

// Threads of a block, each of which takes a run of 32 weights apart; together they write.
#define DECODE_THREADS 256u
#define RUN_WORDS 9u

KERNEL_THREADS(decode, Decode, DECODE_THREADS) {
    u64 first = u64(block_x()) * DECODE_THREADS + warp() * 32;
    u32 *q = shared<u32>(0) + warp() * (32 * (RUN_WORDS + 4));
    f32 *scales = reinterpret_cast<f32 *>(q + 32 * RUN_WORDS);
    if (first + lane() < args.runs) {
        Decoded run;
        decode_run_of(args.type, args.w, first + lane(), args.codebook, run);
        put_decoded(run, q + lane() * RUN_WORDS, scales + 4 * lane());
    }
    sync_warp(FULL_MASK);
    for (u32 number = 0; number < 32 && first + number < args.runs; number++) {
        args.y[32 * (first + number) + lane()] =
            decoded_at(q + number * RUN_WORDS, scales + 4 * number, args.type, lane());
    }
}
