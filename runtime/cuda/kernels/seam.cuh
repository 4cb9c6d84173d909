// What kernels are written in: the only header they include, besides our own next to it.
//
// NVIDIA's compiler finds a card's instructions here, the host's compiler plain C++
// (`seam_host.h` of tests/cuda-shim), with the same names. A kernel is written as
//
//     struct Scale { f32 *x; f32 factor; u32 count; };
//     KERNEL(scale, Scale) { ... args.x ... }
//
// and takes that one struct by value. Sums and products are separate operations (-fmad=false)
// and flush subnormals (-ftz=true); what is fused says so by fma_ff.

#pragma once

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef short i16;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long long u64;
typedef long long i64;
typedef float f32;

// All lanes of a warp.
#define FULL_MASK 0xffffffffu

#if defined(__CUDACC__)
#include "seam_device.cuh"
#else
#include "seam_host.h"
#endif
