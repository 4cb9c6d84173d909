// Words that are loaded and stored at once.

#pragma once

#include "seam.cuh"

struct alignas(16) Words4 {
    u32 word[4];
};
struct alignas(8) Words2 {
    u32 word[2];
};
