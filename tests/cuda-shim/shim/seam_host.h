// The host's half of seam.cuh: what each name does, in plain C++. Kernels see nothing of the
// machine below it.

#pragma once

#include <string.h>

#include "machine.h"
#include "registry.h"

#define FN static inline __attribute__((unused))

#define KERNEL_THREADS(name, Args, most)                                                           \
    static void name##_kernel(const Args &args);                                                   \
    static void name##_entry(const void *args) {                                                   \
        if (shim::now.threads > (most)) {                                                          \
            shim::fail("blocks of %u threads, made for %u", shim::now.threads, unsigned(most));    \
        }                                                                                          \
        name##_kernel(*static_cast<const Args *>(args));                                           \
    }                                                                                              \
    static shim::Registered name##_registered(#name, name##_entry, sizeof(Args));                  \
    static void name##_kernel([[maybe_unused]] const Args &args)
#define KERNEL_BLOCKS(name, Args, most, blocks) KERNEL_THREADS(name, Args, most)
#define KERNEL(name, Args) KERNEL_THREADS(name, Args, 1024)

#define UNROLL
#define ROLLED
#define CONSTANT static constexpr

// The place in the kernel from which a function is called.
#define HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

FN u32 thread_x() { return shim::now.thread; }
FN u32 threads_x() { return shim::now.threads; }
FN u32 block_x() { return shim::now.block[0]; }
FN u32 block_y() { return shim::now.block[1]; }
FN u32 block_z() { return shim::now.block[2]; }
FN u32 blocks_x() { return shim::now.blocks[0]; }
FN u32 blocks_y() { return shim::now.blocks[1]; }
FN u32 blocks_z() { return shim::now.blocks[2]; }
FN u32 lane() { return thread_x() & 31u; }
FN u32 warp() { return thread_x() >> 5; }

// Shared memory from a byte on. It starts as NaNs, and what lies around it is watched.
template <class T> FN T *shared(u32 offset) {
    if (offset % alignof(T) != 0 || offset >= shim::now.shared_bytes) {
        shim::fail("shared memory from byte %u on: misaligned, or beyond the launch's %u bytes",
                   offset, shim::now.shared_bytes);
    }
    return reinterpret_cast<T *>(shim::now.shared + offset);
}

// A number as an address of device memory, whatever memory that is here.
FN const u8 *global_at(u64 address) { return reinterpret_cast<const u8 *>(address); }

// All threads of the block come here, and go on when the last one has.
FN void sync(HERE) { shim::wait_for_block({"sync", file, line}); }

// The same for the lanes of a mask.
FN void sync_warp(u32 mask, HERE) {
    auto nothing = [](void *const *, u32) { return -1; };
    shim::wait_for_lanes(mask, {"sync_warp", file, line}, nothing, nullptr);
}

template <class T> struct Shuffle {
    T value;
    u32 source;
    T result;
};

// Each lane of the mask gets the value of its source, which must be in the mask as well.
template <class T> FN int shuffle_lanes(void *const *requests, u32 mask) {
    for (u32 l = 0; l < 32; l++) {
        if (!(mask >> l & 1)) {
            continue;
        }
        auto *to = static_cast<Shuffle<T> *>(requests[l]);
        if (!(mask >> to->source & 1)) {
            return int(l);
        }
        to->result = static_cast<Shuffle<T> *>(requests[to->source])->value;
    }
    return -1;
}
template <class T> FN T shuffle(u32 mask, T value, u32 source, shim::Site site) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a register or two");
    Shuffle<T> request = {value, source, value};
    shim::wait_for_lanes(mask, site, shuffle_lanes<T>, &request);
    return request.result;
}

// The value of lane `source`.
template <class T> FN T shfl(u32 mask, T value, u32 source, HERE) {
    return shuffle(mask, value, source & 31u, {"shfl", file, line});
}
// That of the lane whose number differs in `bits`.
template <class T> FN T shfl_xor(u32 mask, T value, u32 bits, HERE) {
    return shuffle(mask, value, (lane() ^ bits) & 31u, {"shfl_xor", file, line});
}
// That of the lane `by` above; the own one where there is none.
template <class T> FN T shfl_down(u32 mask, T value, u32 by, HERE) {
    u32 source = lane() + by > 31 ? lane() : lane() + by;
    return shuffle(mask, value, source, {"shfl_down", file, line});
}

// A bit for each lane of the mask: whether it holds there.
FN u32 ballot(u32 mask, bool holds, HERE) {
    struct Vote {
        bool holds;
        u32 result;
    } vote = {holds, 0};
    auto count = [](void *const *requests, u32 all) {
        u32 result = 0;
        for (u32 l = 0; l < 32; l++) {
            if (all >> l & 1 && static_cast<Vote *>(requests[l])->holds) {
                result |= 1u << l;
            }
        }
        for (u32 l = 0; l < 32; l++) {
            if (all >> l & 1) {
                static_cast<Vote *>(requests[l])->result = result;
            }
        }
        return -1;
    };
    shim::wait_for_lanes(mask, {"ballot", file, line}, count, &vote);
    return vote.result;
}

// c plus the products of four pairs of signed bytes.
FN i32 dp4a(u32 a, u32 b, i32 c) {
    u32 sum = u32(c);
    for (u32 i = 0; i < 4; i++) {
        sum += u32(i32(i8(a >> 8 * i)) * i32(i8(b >> 8 * i)));
    }
    return i32(sum);
}
// Byte i of the result is byte `select >> 4 i & 7` of high:low; with bit 3, eight times its sign.
FN u32 byte_perm(u32 low, u32 high, u32 select) {
    u64 bytes = u64(high) << 32 | low;
    u32 result = 0;
    for (u32 i = 0; i < 4; i++) {
        u32 code = select >> 4 * i & 15u;
        u32 byte = u32(bytes >> 8 * (code & 7u)) & 255u;
        if (code & 8u) {
            byte = byte & 128u ? 255u : 0u;
        }
        result |= byte << 8 * i;
    }
    return result;
}
FN u32 clz(u32 x) { return x == 0 ? 32u : u32(__builtin_clz(x)); }
FN u32 popc(u32 x) { return u32(__builtin_popcount(x)); }

#include "seam_matrix.h"

// Copies 16 bytes to shared memory, of the group that cp_commit ends. They are there after the
// wait for it; until then the place holds NaNs.
FN void cp_async16(void *to_shared, const void *from) { shim::copy_later(to_shared, from); }
// Writes zeros instead, without reading, where not valid.
FN void cp_async16_or_zero(void *to_shared, const void *from, bool valid) {
    shim::copy_later(to_shared, valid ? from : nullptr);
}
FN void cp_commit() { shim::end_group(); }
// Waits for the thread's own groups but the last so many.
template <int groups> FN void cp_wait() { shim::wait_for_groups(groups); }

// IEEE operations, none fused but fma.
FN f32 fma_ff(f32 a, f32 b, f32 c) { return __builtin_fmaf(a, b, c); }
FN f32 mul_ff(f32 a, f32 b) { return a * b; }
FN f32 add_ff(f32 a, f32 b) { return a + b; }
FN f32 div_ff(f32 a, f32 b) { return a / b; }
FN f32 sqrt_ff(f32 a) { return __builtin_sqrtf(a); }
FN f32 i2f(i32 a) { return f32(a); }
FN f32 u2f(u32 a) { return f32(a); }
FN f32 l2f(i64 a) { return f32(a); }
// To the nearest integer, ties to even; the nearest there is where there is none, 0 for NaN.
FN i32 f2i_rn(f32 a) {
    if (a != a) {
        return 0;
    }
    if (a >= 2147483648.0f) {
        return 2147483647;
    }
    return a < -2147483648.0f ? -2147483647 - 1 : i32(__builtin_rintf(a));
}
FN u32 bits_of(f32 a) {
    u32 bits;
    memcpy(&bits, &a, 4);
    return bits;
}
FN f32 float_of(u32 a) {
    f32 value;
    memcpy(&value, &a, 4);
    return value;
}

// Words that the host or another card reads and writes meanwhile.
FN u32 ld_acquire_sys(const u32 *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
FN void st_release_sys(u32 *p, u32 value) { __atomic_store_n(p, value, __ATOMIC_RELEASE); }
// Returns what was there before.
FN u32 atomic_add_u32(u32 *p, u32 value) { return __atomic_fetch_add(p, value, __ATOMIC_RELAXED); }
