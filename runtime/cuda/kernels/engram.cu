// Engram values join the streams. docs/arithmetic.md, section 3.

#include "rows.cuh"

struct Engram {
    f32 *h;
    const f32 *kv;
    const f32 *gain;
    u32 width;
    u32 streams;
    f32 eps;
    u32 unused;
};

// Stream block_x() % streams of token block_x() / streams. A token's row of kv is a key for each
// stream and then the value.
KERNEL_THREADS(engram, Engram, ROW_THREADS) {
    u32 width = args.width, streams = args.streams;
    u32 token = block_x() / streams, stream = block_x() - token * streams;
    f32 *h = args.h + u64(block_x()) * width;
    const f32 *kv = args.kv + u64(token) * (streams + 1) * width;
    const f32 *key = kv + u64(stream) * width, *value = kv + u64(streams) * width;
    const f32 *gain = args.gain + u64(stream) * width;
    f32 dot = 0.0f, h_squares = 0.0f, key_squares = 0.0f;
    for (u32 i = thread_x(); i < width; i += ROW_THREADS) {
        dot = fma_ff(mul_ff(h[i], gain[i]), key[i], dot);
        h_squares = fma_ff(h[i], h[i], h_squares);
        key_squares = fma_ff(key[i], key[i], key_squares);
    }
    f32 d = tree_of_block(dot, shared<f32>(0));
    f32 h_rms = inverse_rms_of(h_squares, width, args.eps, shared<f32>(SUM_BYTES));
    f32 key_rms = inverse_rms_of(key_squares, width, args.eps, shared<f32>(2 * SUM_BYTES));
    f32 t = div_ff(mul_ff(mul_ff(d, h_rms), key_rms), sqrt_ff(u2f(width)));
    f32 size = float_of(bits_of(t) & 0x7fffffff);
    f32 a = sqrt_ff(size > 1e-6f ? size : 1e-6f);
    a = float_of(bits_of(a) | (bits_of(t) & 0x80000000));
    a = t == 0.0f ? 0.0f : a;
    // What is no number stays so.
    f32 gate = sigmoid(t != t ? t : a);
    for (u32 i = thread_x(); i < width; i += ROW_THREADS) {
        h[i] = fma_ff(gate, value[i], h[i]);
    }
}
