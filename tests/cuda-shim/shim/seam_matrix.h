// ldmatrix and mma, with the maps from lanes to elements that the PTX ISA gives for
// .m8n8.x4.b16 and .m16n8k32.s8.

#pragma once

struct Rows {
    const u16 *row;
    u32 *result;
};

// Lane l gives row l % 8 of matrix l / 8. It gets of each matrix the elements 2 (l % 4) and
// 2 (l % 4) + 1 of row l / 4; transposed, those of column l / 4.
template <bool transposed> FN int load_matrices(void *const *requests, u32) {
    auto row = [&](u32 matrix, u32 r) {
        return static_cast<Rows *>(requests[8 * matrix + r])->row;
    };
    for (u32 l = 0; l < 32; l++) {
        u32 *result = static_cast<Rows *>(requests[l])->result;
        u32 major = l / 4, minor = 2 * (l % 4);
        for (u32 m = 0; m < 4; m++) {
            u16 low = transposed ? row(m, minor)[major] : row(m, major)[minor];
            u16 high = transposed ? row(m, minor + 1)[major] : row(m, major)[minor + 1];
            result[m] = u32(high) << 16 | low;
        }
    }
    return -1;
}

template <bool transposed>
FN void ldmatrix(u32 (&r)[4], const void *row, const char *what, const char *file, int line) {
    const unsigned char *byte = static_cast<const unsigned char *>(row);
    const unsigned char *start = shim::now.shared;
    if (reinterpret_cast<size_t>(row) % 16 != 0 || byte < start ||
        byte + 16 > start + shim::now.shared_bytes) {
        shim::fail("%s: a row that is not 16 aligned bytes of shared memory", what);
    }
    Rows request = {static_cast<const u16 *>(row), r};
    shim::wait_for_lanes(FULL_MASK, {what, file, line}, load_matrices<transposed>, &request);
}

// Loads four matrices of 8 rows of 16 bytes.
FN void ldmatrix_x4(u32 (&r)[4], const void *row, HERE) {
    ldmatrix<false>(r, row, "ldmatrix_x4", file, line);
}
FN void ldmatrix_x4_trans(u32 (&r)[4], const void *row, HERE) {
    ldmatrix<true>(r, row, "ldmatrix_x4_trans", file, line);
}

struct Fragments {
    i32 *d;
    const u32 *a, *b;
};

// With g = l / 4 and t = l % 4, byte e of register i of lane l is
//   a: row g + 8 (i % 2), column 4 t + e + 16 (i / 2)
//   b: row 4 t + e + 16 i, column g
// and register i of d is row g + 8 (i / 2), column 2 t + i % 2.
FN int multiply_fragments(void *const *requests, u32) {
    i8 a[16][32], b[32][8];
    for (u32 l = 0; l < 32; l++) {
        auto *from = static_cast<Fragments *>(requests[l]);
        u32 g = l / 4, t = l % 4;
        for (u32 e = 0; e < 4; e++) {
            for (u32 i = 0; i < 4; i++) {
                a[g + 8 * (i % 2)][4 * t + e + 16 * (i / 2)] = i8(from->a[i] >> 8 * e);
            }
            for (u32 i = 0; i < 2; i++) {
                b[4 * t + e + 16 * i][g] = i8(from->b[i] >> 8 * e);
            }
        }
    }
    for (u32 l = 0; l < 32; l++) {
        auto *to = static_cast<Fragments *>(requests[l]);
        for (u32 i = 0; i < 4; i++) {
            u32 row = l / 4 + 8 * (i / 2), column = 2 * (l % 4) + i % 2;
            u32 sum = u32(to->d[i]);
            for (u32 k = 0; k < 32; k++) {
                sum += u32(i32(a[row][k]) * i32(b[k][column]));
            }
            to->d[i] = i32(sum);
        }
    }
    return -1;
}

// d += a b, of signed bytes: 16 rows of 32 times 32 rows of 8.
FN void mma_s8_16832(i32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2], HERE) {
    Fragments request = {d, a, b};
    shim::wait_for_lanes(FULL_MASK, {"mma_s8_16832", file, line}, multiply_fragments, &request);
}
// The same with one number to start from everywhere.
FN void mma_s8_16832_from(i32 start, i32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2], HERE) {
    for (u32 i = 0; i < 4; i++) {
        d[i] = start;
    }
    Fragments request = {d, a, b};
    shim::wait_for_lanes(FULL_MASK, {"mma_s8_16832_from", file, line}, multiply_fragments,
                         &request);
}
// The same with 16 columns of a and rows of b: registers and maps are those of the first half.
FN void mma_s8_16816_from(i32 start, i32 (&d)[4], u32 a0, u32 a1, u32 b, HERE) {
    for (u32 i = 0; i < 4; i++) {
        d[i] = start;
    }
    const u32 front[4] = {a0, a1, 0, 0}, of_b[2] = {b, 0};
    Fragments request = {d, front, of_b};
    shim::wait_for_lanes(FULL_MASK, {"mma_s8_16816_from", file, line}, multiply_fragments,
                         &request);
}
