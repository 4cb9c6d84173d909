// What seam.cuh offers, by itself: on a card these show that its instructions do what kernels
// were proved with.

#include "seam.cuh"

struct PrimitiveWords {
    u32 *y;
    const u32 *a;
    const u32 *b;
    const u32 *c;
    u32 count;
    u32 which;
};

// y = f(a, b, c) of words, f32 or integers, by number. A thread for each, in whole warps; those of
// a warp work together from number 32 on.
KERNEL(primitive_words, PrimitiveWords) {
    u32 i = block_x() * threads_x() + thread_x();
    if (i >= args.count) {
        return;
    }
    u32 a = args.a[i], b = args.b[i], c = args.c[i], y = 0;
    switch (args.which) {
    case 0:
        y = u32(dp4a(a, b, i32(c)));
        break;
    case 1:
        y = byte_perm(a, b, c);
        break;
    case 2:
        y = clz(a);
        break;
    case 3:
        y = popc(a);
        break;
    case 4:
        y = bits_of(fma_ff(float_of(a), float_of(b), float_of(c)));
        break;
    case 5:
        y = bits_of(mul_ff(float_of(a), float_of(b)));
        break;
    case 6:
        y = bits_of(add_ff(float_of(a), float_of(b)));
        break;
    case 7:
        y = bits_of(div_ff(float_of(a), float_of(b)));
        break;
    case 8:
        y = bits_of(sqrt_ff(float_of(a)));
        break;
    case 9:
        y = bits_of(i2f(i32(a)));
        break;
    case 10:
        y = bits_of(u2f(a));
        break;
    case 11:
        y = bits_of(l2f(i64(u64(a) << 32 | b)));
        break;
    case 12:
        y = u32(f2i_rn(float_of(a)));
        break;
    case 13:
        // Comparisons, of NaNs as well.
        y = u32(float_of(a) > float_of(b)) | u32(float_of(a) == float_of(b)) << 1 |
            u32(float_of(a) >= float_of(b)) << 2 | u32(float_of(a) != float_of(b)) << 3;
        break;
    case 32:
        y = shfl(FULL_MASK, a, b);
        break;
    case 33:
        y = shfl_xor(FULL_MASK, a, 5);
        break;
    case 34:
        y = shfl_down(FULL_MASK, a, 7);
        break;
    case 35:
        y = ballot(FULL_MASK, a % 3 == 0);
        break;
    case 36:
        // The two halves of a warp, each by itself.
        if (lane() < 16) {
            y = shfl(0xffffu, a, b % 16);
        } else {
            y = ballot(0xffff0000u, a % 3 == 0);
        }
        break;
    case 37: {
        u64 wide = shfl_xor(FULL_MASK, u64(a) << 32 | b, 1);
        y = u32(wide >> 32) ^ u32(wide);
        break;
    }
    }
    args.y[i] = y;
}

struct PrimitiveProduct {
    i32 *y;
    const i8 *a;
    const i8 *b;
    u16 *transposed;
    const u32 *c;
    u32 *counter;
};

// y = a b + c, by one warp: a is 16 rows of 32 bytes, b 8 columns of 32, c and y are 16 x 8. Both
// come by asynchronous copies, in two groups, and ldmatrix; column 5 of b is left out. `transposed`
// gets a's bytes as four matrices of 8 x 8 16-bit numbers, each transposed.
KERNEL_THREADS(primitive_product, PrimitiveProduct, 32) {
    u8 *as = shared<u8>(0), *bs = shared<u8>(512);
    // 16 bytes a lane: lane l has half l % 2 of row l / 2.
    cp_async16(as + 16 * lane(), args.a + 16 * lane());
    cp_commit();
    if (lane() < 16) {
        cp_async16_or_zero(bs + 16 * lane(), args.b + 16 * lane(), lane() / 2 != 5);
    }
    cp_commit();
    cp_wait<1>();
    sync_warp(FULL_MASK);
    u32 a[4], b[4], flipped[4];
    ldmatrix_x4(a, as + 32 * (lane() % 16) + 16 * (lane() / 16));
    ldmatrix_x4_trans(flipped, as + 16 * lane());
    cp_wait<0>();
    sync_warp(FULL_MASK);
    // The two halves of k; the last two matrices repeat them.
    ldmatrix_x4(b, bs + 32 * (lane() % 8) + 16 * (lane() / 8 % 2));
    u32 halves[2] = {b[0], b[1]};
    i32 d[4];
    u32 g = lane() / 4, t = lane() % 4;
    for (u32 i = 0; i < 4; i++) {
        d[i] = i32(args.c[8 * (g + 8 * (i / 2)) + 2 * t + i % 2]);
    }
    mma_s8_16832(d, a, halves);
    for (u32 i = 0; i < 4; i++) {
        args.y[8 * (g + 8 * (i / 2)) + 2 * t + i % 2] = d[i];
        args.transposed[64 * i + 8 * g + 2 * t] = u16(flipped[i]);
        args.transposed[64 * i + 8 * g + 2 * t + 1] = u16(flipped[i] >> 16);
    }
    // Every lane counts, and the first one says when.
    atomic_add_u32(args.counter, lane());
    if (lane() == 0) {
        st_release_sys(args.counter + 1, ld_acquire_sys(args.counter + 1) + 1);
    }
}

struct PrimitiveHalves {
    i32 *y;
    const i8 *a;
    const i8 *b;
    i32 start;
    u32 unused;
};

// By one warp, of the same a and b in plain memory: start + a b, then the same of the first half of
// columns and rows, and of the last.
KERNEL_THREADS(primitive_halves, PrimitiveHalves, 32) {
    u32 g = lane() / 4, t = lane() % 4;
    u32 a[4], b[2];
    for (u32 i = 0; i < 4; i++) {
        u32 row = g + 8 * (i % 2);
        a[i] = *reinterpret_cast<const u32 *>(args.a + 32 * row + 4 * t + 16 * (i / 2));
    }
    for (u32 i = 0; i < 2; i++) {
        b[i] = *reinterpret_cast<const u32 *>(args.b + 32 * g + 4 * t + 16 * i);
    }
    i32 whole[4], first[4], last[4];
    mma_s8_16832_from(args.start, whole, a, b);
    mma_s8_16816_from(args.start, first, a[0], a[1], b[0]);
    mma_s8_16816_from(args.start, last, a[2], a[3], b[1]);
    for (u32 i = 0; i < 4; i++) {
        u32 at = 8 * (g + 8 * (i / 2)) + 2 * t + i % 2;
        args.y[at] = whole[i];
        args.y[128 + at] = first[i];
        args.y[256 + at] = last[i];
    }
}
