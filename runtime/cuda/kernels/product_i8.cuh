// Products with activations in int8: docs/arithmetic.md, section 4.

#pragma once

#include "formats.cuh"
#include "product.cuh"

// Strides of x count blocks of 32 values.
struct ProductI8 {
    Product product;
    Int8Rows x;
    const u32 *codebook;
};

FN i32 first_sum(u32 sums) { return i16(sums & 0xffff); }
FN i32 last_sum(u32 sums) { return i16(sums >> 16); }

// Adds a block's integer sums of both halves to a lane.
template <class Format>
FN f32 add_sums(const Run &run, i32 first, i32 last, f32 d, f32 sum) {
    if (Format::SCALING == BY_RUN) {
        return fma_ff(i2f(first + last), mul_ff(run.d[0], d), sum);
    }
    if (Format::SCALING == BY_HALF) {
        return fma_ff(i2f(first * run.scale[0] + last * run.scale[1]), mul_ff(run.d[0], d), sum);
    }
    sum = fma_ff(i2f(first), mul_ff(run.d[0], d), sum);
    return fma_ff(i2f(last), mul_ff(run.d[1], d), sum);
}

// Adds what minima make of the sums of a block's activations.
template <class Format> FN f32 add_minima(const Run &run, u32 sums, f32 d, f32 sum) {
    if (Format::MINIMA == MINIMUM_OF_RUN) {
        return fma_ff(run.min[0], mul_ff(i2f(first_sum(sums) + last_sum(sums)), d), sum);
    }
    if (Format::MINIMA == MINIMA_OF_HALVES) {
        sum = fma_ff(run.min[0], mul_ff(i2f(first_sum(sums)), d), sum);
        return fma_ff(run.min[1], mul_ff(i2f(last_sum(sums)), d), sum);
    }
    return sum;
}
