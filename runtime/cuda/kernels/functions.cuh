// Functions of one f32: docs/arithmetic.md, section 2, operation for operation. Without
// branches, so that no lane waits for another.

#pragma once

#include "seam.cuh"

#define INFINITE float_of(0x7f800000)

// Horner's rule by fma.
FN f32 polynomial4(f32 x, u32 c0, u32 c1, u32 c2, u32 c3) {
    f32 v = fma_ff(float_of(c3), x, float_of(c2));
    v = fma_ff(v, x, float_of(c1));
    return fma_ff(v, x, float_of(c0));
}
FN f32 polynomial5(f32 x, u32 c0, u32 c1, u32 c2, u32 c3, u32 c4) {
    f32 v = fma_ff(float_of(c4), x, float_of(c3));
    v = fma_ff(v, x, float_of(c2));
    v = fma_ff(v, x, float_of(c1));
    return fma_ff(v, x, float_of(c0));
}

// 2^k for -126 <= k <= 127; any bits beyond.
FN f32 power_of_two(u32 k) { return float_of((k + 127u) << 23); }

FN f32 exp_ff(f32 x) {
    const f32 shift = 12582912.0f;
    f32 u = fma_ff(x, float_of(0x3fb8aa3b), shift);
    f32 n = add_ff(u, -shift);
    f32 r = fma_ff(n, -float_of(0x3f317200), x);
    r = fma_ff(n, -float_of(0x35bfbe8e), r);
    f32 q = polynomial5(r, 0x3efffffe, 0x3e2aaa46, 0x3d2aac2c, 0x3c091ef0, 0x3ab563a5);
    f32 p = add_ff(1.0f, fma_ff(mul_ff(r, r), q, r));
    u32 k = bits_of(u) - bits_of(shift);
    u32 h = u32(i32(k) >> 1);
    f32 value = mul_ff(mul_ff(p, power_of_two(h)), power_of_two(k - h));
    value = x > float_of(0x42b17217) ? INFINITE : value;
    return x < -87.0f ? 0.0f : value;
}

FN f32 sigmoid(f32 x) {
    f32 value = div_ff(1.0f, add_ff(1.0f, exp_ff(-x)));
    return x < -87.0f ? 0.0f : value;
}

FN f32 silu(f32 x) { return div_ff(x, add_ff(1.0f, exp_ff(-x))); }

// For 0 <= e <= 1.
FN f32 log1p_ff(f32 e) {
    f32 d = add_ff(2.0f, e);
    f32 s = div_ff(e, d);
    f32 t = fma_ff(-s, d, e);
    f32 w = div_ff(add_ff(t, -mul_ff(s, add_ff(e, -add_ff(d, -2.0f)))), d);
    f32 z = mul_ff(s, s);
    f32 series = polynomial5(z, 0x3f2aaaac, 0x3ecccb6d, 0x3e92825e, 0x3e5b9a27, 0x3e7833ab);
    f32 v = fma_ff(2.0f, w, mul_ff(mul_ff(s, z), series));
    return fma_ff(2.0f, s, v);
}

FN f32 softplus(f32 x) {
    f32 e = exp_ff(-float_of(bits_of(x) & 0x7fffffff));
    f32 value = add_ff(x > 0.0f ? x : 0.0f, log1p_ff(e));
    return x < -20.0f ? e : value;
}

// The router's score.
FN f32 sqrt_softplus(f32 x) {
    f32 root = sqrt_ff(softplus(x));
    return x < -20.0f ? exp_ff(mul_ff(0.5f, x)) : root;
}

FN f32 inverse_sqrt(f32 x) { return div_ff(1.0f, sqrt_ff(x)); }

struct CosineSine {
    f32 cosine, sine;
};

// Of `phase` / 2^64 turns.
FN CosineSine cosine_and_sine(u64 phase) {
    u32 k = u32((phase + (1ull << 61)) >> 62);
    i64 i = i64(phase - (u64(k) << 62));
    f32 t = mul_ff(l2f(i), float_of(0x20800000)); // 2^-62
    f32 z = mul_ff(t, t);
    f32 low = fma_ff(z, polynomial4(z, 0xbf255de7, 0x3da335c1, 0xbb995a2c, 0x39232d8b),
                     float_of(0xb33bbd2e));
    f32 s = fma_ff(t, float_of(0x3fc90fdb), mul_ff(t, low));
    f32 c = fma_ff(z, polynomial4(z, 0xbf9de9e6, 0x3e81e0dc, 0xbcaadbe7, 0x3a6b4254), 1.0f);
    // Quarters one and three exchange the two; two and three change the sine's sign, one and
    // two the cosine's.
    f32 sine = k & 1 ? c : s;
    f32 cosine = k & 1 ? s : c;
    u32 sine_sign = k >> 1 << 31;
    u32 cosine_sign = (k + 1) >> 1 << 31;
    return {float_of(bits_of(cosine) ^ cosine_sign), float_of(bits_of(sine) ^ sine_sign)};
}
