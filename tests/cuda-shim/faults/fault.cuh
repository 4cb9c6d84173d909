// What all kernels of this folder take. Each is right, and with `faulty` has one fault of a kind
// that a card may hide.

#pragma once

#include "seam.cuh"

struct Fault {
    u32 *out;
    const u32 *in;
    u32 count;
    u32 faulty;
};
