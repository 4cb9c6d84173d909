// Small number formats by integer code: a card's own conversions have other rules for NaNs and
// for what is too large. docs/arithmetic.md, section 5.

#pragma once

#include "seam.cuh"

#define NOT_A_NUMBER float_of(0x7fc00000)

FN u32 magnitude_bits(f32 x) { return bits_of(x) & 0x7fffffff; }
FN f32 magnitude(f32 x) { return float_of(magnitude_bits(x)); }
// Whether it is neither infinite nor a NaN.
FN bool is_finite(f32 x) { return magnitude_bits(x) < 0x7f800000; }

// 2^(code - 127). Code 255 is a NaN, code 0 a subnormal, which is taken for zero.
FN f32 e8m0_value(u32 code) {
    return code == 255 ? NOT_A_NUMBER : float_of(code == 0 ? 0x00400000u : code << 23);
}
// The smallest power of two that is at least x, which isn't negative.
FN u32 e8m0_at_least(f32 x) {
    u32 bits = magnitude_bits(x);
    u32 code = (bits >> 23) + ((bits & 0x7fffff) != 0);
    code = bits <= 0x00400000u ? 0 : code;
    return bits >= 0x7f800000u ? 255 : code;
}

// Four bits of exponent and three of mantissa, no infinities.
FN f32 e4m3_value(u32 code) {
    u32 rest = code & 127u;
    // Below 8, multiples of 2^-9.
    f32 value = rest < 8 ? mul_ff(u2f(rest), 1.0f / 512.0f) : float_of((rest << 20) + (120u << 23));
    value = rest == 127 ? NOT_A_NUMBER : value;
    return float_of(bits_of(value) | (code & 128u) << 24);
}
// The nearest code, ties to even, at most 448 in magnitude.
FN u32 e4m3_code(f32 x) {
    u32 sign = bits_of(x) >> 31 << 7;
    u32 bits = magnitude_bits(x);
    if (bits > 0x7f800000) {
        return sign | 127u;
    }
    bits = bits > 0x43e00000 ? 0x43e00000 : bits; // 448
    u32 code;
    if (bits < 0x3c800000) { // 2^-6
        code = u32(f2i_rn(mul_ff(float_of(bits), 512.0f)));
    } else {
        code = ((bits + 0x7ffff + (bits >> 20 & 1)) >> 20) - (120u << 3);
    }
    return sign | code;
}

// Twice the value, without its sign.
FN u32 e2m1_doubled(u32 code) { return byte_perm(0x03020100, 0x0c080604, code & 7u) & 255u; }
// Twice the value.
FN i32 e2m1_doubled_signed(u32 code) {
    i32 doubled = i32(e2m1_doubled(code));
    return code & 8u ? -doubled : doubled;
}
FN f32 e2m1_value(u32 code) {
    f32 value = mul_ff(u2f(e2m1_doubled(code)), 0.5f);
    return float_of(bits_of(value) | (code & 8u) << 28);
}
// The nearest code, ties to the even one, at most 6 in magnitude.
FN u32 e2m1_code(f32 x) {
    f32 a = magnitude(x);
    // How many midpoints are below; a midpoint goes to the even code.
    u32 code = u32(a > 0.25f) + u32(a >= 0.75f) + u32(a > 1.25f) + u32(a >= 1.75f) +
               u32(a > 2.5f) + u32(a >= 3.5f) + u32(a > 5.0f);
    return bits_of(x) >> 31 << 3 | code;
}

FN f32 bf16_value(u32 code) { return float_of(code << 16); }
// Ties to even.
FN u32 bf16_code(f32 x) {
    u32 bits = bits_of(x);
    if (magnitude_bits(x) > 0x7f800000) {
        return bits >> 16 | 0x40u;
    }
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

FN f32 f16_value(u32 code) {
    u32 sign = (code & 0x8000u) << 16;
    u32 exponent = code >> 10 & 31u, mantissa = code & 1023u;
    u32 bits = (exponent + 112u) << 23 | mantissa << 13;
    bits = exponent == 31 ? 0x7f800000 | mantissa << 13 : bits;
    bits = exponent == 0 ? bits_of(mul_ff(u2f(mantissa), float_of(0x33800000))) : bits; // 2^-24
    return float_of(sign | bits);
}

// The largest of what each group of `lanes` lanes, a power of two, has.
FN u32 largest_of_lanes(u32 bits, u32 lanes) {
    for (u32 half = lanes / 2; half > 0; half /= 2) {
        u32 other = shfl_xor(FULL_MASK, bits, half);
        bits = other > bits ? other : bits;
    }
    return bits;
}
