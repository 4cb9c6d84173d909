// Registers of a matrix product that are not where the instruction expects them.

#include "fault.cuh"

// out (16 x 8) = a (16 x 32) b (32 x 8); `in` has the bytes of a row by row, then b column by
// column. With the fault, two registers of a are exchanged.
KERNEL(fault_fragment, Fault) {
    const u32 *a = args.in, *b = args.in + 128;
    u32 g = lane() / 4, t = lane() % 4;
    u32 below = a[8 * (g + 8) + t], right = a[8 * g + t + 4];
    u32 as[4] = {a[8 * g + t], args.faulty ? right : below, args.faulty ? below : right,
                 a[8 * (g + 8) + t + 4]};
    u32 bs[2] = {b[8 * g + t], b[8 * g + t + 4]};
    i32 d[4] = {0, 0, 0, 0};
    mma_s8_16832(d, as, bs);
    for (u32 i = 0; i < 4; i++) {
        args.out[8 * (g + 8 * (i / 2)) + 2 * t + i % 2] = u32(d[i]);
    }
}

// The same by ldmatrix; with the fault, b is loaded transposed.
KERNEL(fault_load_matrix, Fault) {
    u32 *stage = shared<u32>(0);
    for (u32 i = thread_x(); i < 192; i += threads_x()) {
        stage[i] = args.in[i];
    }
    sync();
    // Four matrices of 8 rows of 16 bytes: the upper left of a, the lower left, both rights.
    u32 as[4], bs[4];
    u32 row = lane() % 16, half = lane() / 16;
    ldmatrix_x4(as, stage + 8 * row + 4 * half);
    // Of b, the two halves of k; the last two matrices are not used.
    u32 *column = stage + 128 + 8 * (lane() % 8) + 4 * (lane() / 8 % 2);
    if (args.faulty) {
        ldmatrix_x4_trans(bs, column);
    } else {
        ldmatrix_x4(bs, column);
    }
    u32 used[2] = {bs[0], bs[1]};
    i32 d[4] = {0, 0, 0, 0};
    mma_s8_16832(d, as, used);
    u32 g = lane() / 4, t = lane() % 4;
    for (u32 i = 0; i < 4; i++) {
        args.out[8 * (g + 8 * (i / 2)) + 2 * t + i % 2] = u32(d[i]);
    }
}
