// What Rust calls, see src/run.rs, and C, see stand-in/libcuda.c.

#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct shim_kernel {
    const char *name;
    void (*entry)(const void *args);
    size_t args_size;
};

// All kernels of the program, in no order.
const struct shim_kernel *shim_kernels(size_t *count);

// In which order the threads of a block run, and blocks.
struct shim_order {
    int kind; // 0 forward, 1 reversed, 2 random
    uint64_t seed;
};

// Runs a kernel to its end. Returns 0, or 1 with a message in `error`.
int shim_run(const struct shim_kernel *kernel, const uint32_t grid[3], const uint32_t block[3],
             uint32_t shared_bytes, const void *args, const struct shim_order *order, char *error,
             size_t error_len);

// Makes this thread flush subnormals as kernels do. Returns what to give back.
uint32_t shim_flush(void);
void shim_restore(uint32_t mode);

// With the address sanitizer, kernels must not touch these bytes, or may again.
void shim_poison(void *start, size_t bytes);
void shim_unpoison(void *start, size_t bytes);

#ifdef __cplusplus
}
#endif
