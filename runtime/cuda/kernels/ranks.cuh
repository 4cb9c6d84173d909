// Floats in an order by their bits, in which NaNs have a place as well: those without a sign
// above all, those with one below.

#pragma once

#include "seam.cuh"

// A number that is larger for what is larger.
FN u32 rank_of_float(f32 x) {
    u32 bits = bits_of(x);
    return bits >> 31 ? ~bits : bits | 0x80000000;
}
FN f32 float_of_rank(u32 rank) { return float_of(rank >> 31 ? rank & 0x7fffffff : ~rank); }
