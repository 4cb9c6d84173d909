// Products with activations in float32: docs/arithmetic.md, section 4.

#pragma once

#include "product.cuh"
#include "vectors.cuh"

// Strides of x count values. Results are multiplied by `scale`, and added to what is in y where
// `adds` says so.
struct ProductF32 {
    Product product;
    const f32 *x;
    const u32 *codebook;
    u32 type;
    u32 row_bytes;
    f32 scale;
    u32 adds;
};

struct F32 {
    typedef f32 Code;
    static constexpr f32 MINUS_ZERO = -0.0f;
    FN f32 value(f32 code) { return code; }
};
struct F16 {
    typedef u16 Code;
    static constexpr u16 MINUS_ZERO = 0x8000;
    FN f32 value(u16 code) { return f16_value(code); }
};
struct Bf16 {
    typedef u16 Code;
    static constexpr u16 MINUS_ZERO = 0x8000;
    FN f32 value(u16 code) { return bf16_value(code); }
};

FN void store_result(const ProductF32 &args, f32 *y, f32 sum) {
    f32 value = mul_ff(sum, args.scale);
    *y = args.adds ? add_ff(*y, value) : value;
}
