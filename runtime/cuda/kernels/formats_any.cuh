// Weights of any type with blocks, decoded: for products in float32.

#pragma once

#include "formats_iq.cuh"
#include "formats_k.cuh"

// MXFP4 in GGUF files.
#define TYPE_MXFP4 39u

// A run of 32 weights, all but the last step.
struct Decoded {
    u32 q[8];
    f32 scale[2];
    f32 min[2];
};

// The weight. Both products are exact. Integers of MXFP4 are twice the value, as half of its
// scale may be subnormal, and have a negative zero.
FN f32 decoded(u32 type, i32 q, f32 scale, f32 min) {
    f32 value = i2f(q);
    if (type == TYPE_MXFP4) {
        value = q == -128 ? -0.0f : mul_ff(value, 0.5f);
    }
    return add_ff(mul_ff(value, scale), min);
}

template <class Format>
FN void decode_run(const u8 *row, u64 number, const u32 *book, Decoded &to) {
    u32 raw[Format::WORDS];
    Run run;
    load_run<Format>(row, number, raw);
    unpack_run<Format>(raw, number, book, run);
    UNROLL for (u32 i = 0; i < 8; i++) { to.q[i] = run.q[i]; }
    UNROLL for (u32 half = 0; half < 2; half++) {
        f32 scale = Format::SCALING == BY_FLOATS ? run.d[half] : run.d[0];
        to.scale[half] =
            Format::SCALING == BY_HALF ? mul_ff(scale, i2f(run.scale[half])) : scale;
        // A sum with -0 changes nothing.
        to.min[half] = Format::MINIMA == NO_MINIMA        ? -0.0f
                       : Format::MINIMA == MINIMUM_OF_RUN ? run.min[0]
                                                          : run.min[half];
    }
}

// Run `number` of a row of weights, by the type's number in GGUF files.
FN void decode_run_of(u32 type, const u8 *row, u64 number, const u32 *book, Decoded &to) {
    switch (type) {
    case 2: return decode_run<Q4_0>(row, number, book, to);
    case 3: return decode_run<Q4_1>(row, number, book, to);
    case 6: return decode_run<Q5_0>(row, number, book, to);
    case 7: return decode_run<Q5_1>(row, number, book, to);
    case 8: return decode_run<Q8_0>(row, number, book, to);
    case 10: return decode_run<Q2_K>(row, number, book, to);
    case 11: return decode_run<Q3_K>(row, number, book, to);
    case 12: return decode_run<Q4_K>(row, number, book, to);
    case 13: return decode_run<Q5_K>(row, number, book, to);
    case 14: return decode_run<Q6_K>(row, number, book, to);
    case 16: return decode_run<Iq2Xxs>(row, number, book, to);
    case 17: return decode_run<Iq2Xs>(row, number, book, to);
    case 18: return decode_run<Iq3Xxs>(row, number, book, to);
    case 19: return decode_run<Iq1S>(row, number, book, to);
    case 20: return decode_run<Iq4Nl>(row, number, book, to);
    case 21: return decode_run<Iq3S>(row, number, book, to);
    case 22: return decode_run<Iq2S>(row, number, book, to);
    case 23: return decode_run<Iq4Xs>(row, number, book, to);
    case 29: return decode_run<Iq1M>(row, number, book, to);
    case 40: return decode_run<Nvfp4>(row, number, book, to);
    case TYPE_MXFP4:
        decode_run<Mxfp4Of<E2M1_MINUS_ZERO>>(row, number, book, to);
        to.scale[0] = to.scale[1] = e8m0_value(row[number * Mxfp4::BYTES]);
    }
}

// A run for all threads of a warp: eight words, and four floats.
FN void put_decoded(const Decoded &run, u32 *q, f32 *scales) {
    UNROLL for (u32 i = 0; i < 8; i++) { q[i] = run.q[i]; }
    UNROLL for (u32 half = 0; half < 2; half++) {
        scales[half] = run.scale[half];
        scales[2 + half] = run.min[half];
    }
}
// Weight i of it.
FN f32 decoded_at(const u32 *q, const f32 *scales, u32 type, u32 i) {
    return decoded(type, i8(q[i / 4] >> 8 * (i % 4)), scales[i / 16], scales[2 + i / 16]);
}
