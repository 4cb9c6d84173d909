// Products of a few rows in float32.

#include "mmv_f.cuh"

KERNEL_BLOCKS(mmv_f32_1, ProductF32, MMV_THREADS, 3) { mmv_f<F32, 1>(args); }
KERNEL_BLOCKS(mmv_f32_8, ProductF32, MMV_THREADS, 3) { mmv_f<F32, 8>(args); }
KERNEL_BLOCKS(mmv_f16_1, ProductF32, MMV_THREADS, 2) { mmv_f<F16, 1>(args); }
KERNEL_BLOCKS(mmv_f16_8, ProductF32, MMV_THREADS, 3) { mmv_f<F16, 8>(args); }
KERNEL_BLOCKS(mmv_bf16_1, ProductF32, MMV_THREADS, 2) { mmv_f<Bf16, 1>(args); }
KERNEL_BLOCKS(mmv_bf16_8, ProductF32, MMV_THREADS, 3) { mmv_f<Bf16, 8>(args); }
