// Rows of a table, decoded, to all streams of a token.

#include "numbers.cuh"

// Numbers of types, as in GGUF files.
#define TYPE_F32 0u
#define TYPE_F16 1u
#define TYPE_Q8_0 8u
#define TYPE_BF16 30u
#define TYPE_MXFP4 39u

FN u32 two_bytes(const u8 *at) { return at[0] | u32(at[1]) << 8; }

// Value c of a row of weights.
FN f32 weight_value(const u8 *row, u32 type, u32 c) {
    switch (type) {
    case TYPE_F32:
        return reinterpret_cast<const f32 *>(row)[c];
    case TYPE_F16:
        return f16_value(two_bytes(row + 2 * c));
    case TYPE_BF16:
        return bf16_value(two_bytes(row + 2 * c));
    case TYPE_Q8_0: {
        const u8 *block = row + c / 32 * 34;
        return mul_ff(i2f(i8(block[2 + c % 32])), f16_value(two_bytes(block)));
    }
    case TYPE_MXFP4: {
        const u8 *block = row + c / 32 * 17;
        u32 code = block[1 + c % 16] >> (c % 32 / 16 * 4) & 15u;
        return mul_ff(e2m1_value(code), e8m0_value(block[0]));
    }
    default:
        return NOT_A_NUMBER;
    }
}

struct Embed {
    f32 *h;
    const u8 *table;
    const u32 *ids;
    u64 row_bytes;
    u32 width;
    u32 streams;
    u32 type;
    u32 unused;
};

// Row ids[block_x()] of the table, to each of the `streams` parts of row block_x() of h.
KERNEL_THREADS(embed, Embed, 256) {
    const u8 *row = args.table + args.ids[block_x()] * args.row_bytes;
    f32 *h = args.h + u64(block_x()) * args.streams * args.width;
    for (u32 c = thread_x(); c < args.width; c += threads_x()) {
        f32 value = weight_value(row, args.type, c);
        for (u32 stream = 0; stream < args.streams; stream++) {
            h[u64(stream) * args.width + c] = value;
        }
    }
}
