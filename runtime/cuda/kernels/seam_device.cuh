// The card's half of seam.cuh. The host's half, with the same names, says what each must do.

#pragma once

// Device functions are inlined: a call would spill the caller's registers.
#define FN static __device__ __forceinline__

// A kernel for blocks of up to 1024 threads, or of up to `threads`, which leaves each more
// registers.
#define KERNEL_THREADS(name, Args, threads)                                                        \
    extern "C" __global__ void __launch_bounds__(threads) name(const Args args)
// The same, with registers for so many blocks at a time on a multiprocessor.
#define KERNEL_BLOCKS(name, Args, threads, blocks)                                                 \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const Args args)
#define KERNEL(name, Args) KERNEL_THREADS(name, Args, 1024)

// Before a loop of a known length whose variables index registers.
#define UNROLL _Pragma("unroll")
// Before one that is better left as it is.
#define ROLLED _Pragma("unroll 1")

// A table of constants that all kernels of a file read.
#define CONSTANT static __constant__

FN u32 thread_x() { return threadIdx.x; }
FN u32 threads_x() { return blockDim.x; }
FN u32 block_x() { return blockIdx.x; }
FN u32 block_y() { return blockIdx.y; }
FN u32 block_z() { return blockIdx.z; }
FN u32 blocks_x() { return gridDim.x; }
FN u32 blocks_y() { return gridDim.y; }
FN u32 blocks_z() { return gridDim.z; }
FN u32 lane() { return threadIdx.x & 31u; }
FN u32 warp() { return threadIdx.x >> 5; }

// Shared memory from a byte on, all of it dynamic.
template <class T> FN T *shared(u32 offset) {
    extern __shared__ __align__(128) unsigned char shared_memory[];
    return reinterpret_cast<T *>(shared_memory + offset);
}

// An address as one of device memory, which the compiler does not know of numbers.
FN const u8 *global_at(u64 address) {
    auto *at = reinterpret_cast<const u8 *>(address);
    __builtin_assume(__isGlobal(at));
    return at;
}

FN void sync() { __syncthreads(); }
FN void sync_warp(u32 mask) { __syncwarp(mask); }
template <class T> FN T shfl(u32 mask, T value, u32 source) {
    return __shfl_sync(mask, value, int(source));
}
template <class T> FN T shfl_xor(u32 mask, T value, u32 bits) {
    return __shfl_xor_sync(mask, value, int(bits));
}
template <class T> FN T shfl_down(u32 mask, T value, u32 by) {
    return __shfl_down_sync(mask, value, by);
}
FN u32 ballot(u32 mask, bool holds) { return __ballot_sync(mask, holds); }

FN i32 dp4a(u32 a, u32 b, i32 c) { return __dp4a(int(a), int(b), c); }
FN u32 byte_perm(u32 low, u32 high, u32 select) { return __byte_perm(low, high, select); }
FN u32 clz(u32 x) { return u32(__clz(int(x))); }
FN u32 popc(u32 x) { return u32(__popc(x)); }

FN u32 shared_address(const void *p) { return u32(__cvta_generic_to_shared(p)); }

FN void ldmatrix_x4(u32 (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
FN void ldmatrix_x4_trans(u32 (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
FN void mma_s8_16832(i32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// d = start + a b, the same start everywhere.
FN void mma_s8_16832_from(i32 start, i32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(start));
}
FN void mma_s8_16816_from(i32 start, i32 (&d)[4], u32 a0, u32 a1, u32 b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 "
                 "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%7,%7,%7};"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(a0), "r"(a1), "r"(b), "r"(start));
}

FN void cp_async16(void *to_shared, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
                 :
                 : "r"(shared_address(to_shared)), "l"(__cvta_generic_to_global(from))
                 : "memory");
}
FN void cp_async16_or_zero(void *to_shared, const void *from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(to_shared)), "l"(__cvta_generic_to_global(from)),
                   "r"(valid ? 16 : 0)
                 : "memory");
}
FN void cp_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int groups> FN void cp_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

FN f32 fma_ff(f32 a, f32 b, f32 c) { return __fmaf_rn(a, b, c); }
FN f32 mul_ff(f32 a, f32 b) { return __fmul_rn(a, b); }
FN f32 add_ff(f32 a, f32 b) { return __fadd_rn(a, b); }
FN f32 div_ff(f32 a, f32 b) { return __fdiv_rn(a, b); }
FN f32 sqrt_ff(f32 a) { return __fsqrt_rn(a); }
FN f32 i2f(i32 a) { return __int2float_rn(a); }
FN f32 u2f(u32 a) { return __uint2float_rn(a); }
FN f32 l2f(i64 a) { return __ll2float_rn(a); }
FN i32 f2i_rn(f32 a) { return __float2int_rn(a); }
FN u32 bits_of(f32 a) { return __float_as_uint(a); }
FN f32 float_of(u32 a) { return __uint_as_float(a); }

FN u32 ld_acquire_sys(const u32 *p) {
    u32 value;
    asm volatile("ld.acquire.sys.u32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
    return value;
}
FN void st_release_sys(u32 *p, u32 value) {
    asm volatile("st.release.sys.u32 [%0], %1;" ::"l"(p), "r"(value) : "memory");
}
FN u32 atomic_add_u32(u32 *p, u32 value) { return atomicAdd(p, value); }
