// Weights of any type with blocks, decoded: for products in float32.

#pragma once

#include "formats_iq.cuh"
#include "formats_k.cuh"

// A run of 32 weights, all but the last step.
struct Decoded {
    u32 q[8];
    f32 scale[2];
    f32 min[2];
};

// What integers are multiplied by before their scale: those of e2m1 are twice the value, and half
// a scale may be subnormal where the scale is not.
FN f32 factor_of(u32 type) { return type == 39 ? 0.5f : 1.0f; }

// The weight. Both products are exact.
FN f32 decoded(i32 q, f32 factor, f32 scale, f32 min) {
    return add_ff(mul_ff(mul_ff(i2f(q), factor), scale), min);
}

template <class Format>
FN void decode_run(const u8 *row, u32 number, const u32 *book, Decoded &to) {
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
FN void decode_run_of(u32 type, const u8 *row, u32 number, const u32 *book, Decoded &to) {
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
    default:
        decode_run<Mxfp4>(row, number, book, to);
        to.scale[0] = to.scale[1] = e8m0_value(row[u64(number) * Mxfp4::BYTES]);
    }
}
