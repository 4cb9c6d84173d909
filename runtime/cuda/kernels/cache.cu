// Rows into caches and back, and the rounding of index queries.

#include "cache.cuh"
#include "rows.cuh"

struct PushRows {
    const f32 *x;
    const f32 *gain;
    f32 *normed;
    const f32 *cosines;
    const f32 *sines;
    Pages to;
    RowFormat format;
    u32 first;
    u32 pairs;
    u32 hadamard;
    f32 eps;
};

// Row block_x() of x, [rows][width], becomes row first + block_x() of a cache: with gains it is
// normalised, and kept in `normed` if there is room for it; with tables of angles, [rows][pairs],
// its last channels are rotated; and it is transformed if asked.
KERNEL_THREADS(push_rows, PushRows, ROW_THREADS) {
    u32 width = args.format.width;
    f32 *lanes = shared<f32>(0);
    f32 *row = shared<f32>(SUM_BYTES);
    const f32 *x = args.x + u64(block_x()) * width;
    f32 r = args.gain ? inverse_rms(x, width, args.eps, lanes) : 0.0f;
    for (u32 c = thread_x(); c < width; c += ROW_THREADS) {
        f32 value = args.gain ? mul_ff(mul_ff(x[c], r), args.gain[c]) : x[c];
        row[c] = value;
        if (args.normed) {
            args.normed[u64(block_x()) * width + c] = value;
        }
    }
    sync();
    u32 angles = block_x() * args.pairs;
    for (u32 pair = thread_x(); args.cosines && pair < args.pairs; pair += ROW_THREADS) {
        f32 *at = row + width - 2 * (args.pairs - pair);
        f32 c = args.cosines[angles + pair], s = args.sines[angles + pair];
        f32 a = at[0], b = at[1];
        at[0] = add_ff(mul_ff(a, c), -mul_ff(b, s));
        at[1] = add_ff(mul_ff(a, s), mul_ff(b, c));
    }
    sync();
    if (args.hadamard) {
        if (warp() == 0) {
            hadamard(row, width);
        }
        sync();
    }
    encode_row(row, args.format, row_at(args.to, args.format, args.first + block_x()));
}

struct ReadRows {
    f32 *y;
    const u32 *which;
    Pages from;
    RowFormat format;
    u32 first;
    u32 rows;
};

// Rows of a cache as f32, [rows][width]: those whose numbers `which` has, or those from `first`
// on. A thread for each channel of each row.
KERNEL(read_rows, ReadRows) {
    u32 i = block_x() * threads_x() + thread_x();
    u32 row = i / args.format.width, c = i - row * args.format.width;
    if (row >= args.rows) {
        return;
    }
    u32 n = args.which ? args.which[row] : args.first + row;
    args.y[i] = decode_channel(row_at(args.from, args.format, n), args.format, c);
}

struct RoundIndex {
    f32 *y;
    i8 *doubled;
    f32 *scales;
    const f32 *x;
    u32 rows;
    u32 width;
    u32 hadamard;
    u32 unused;
};

// Rows of `width` channels, whole blocks of 32, transformed if asked and rounded to e2m1 as index
// keys are: as f32 to `y`, which may be x, or as twice the values and a scale for each block. A
// warp for each row, and width f32 of shared memory for each warp.
KERNEL_THREADS(round_index, RoundIndex, ROW_THREADS) {
    u32 width = args.width;
    u32 row = block_x() * (threads_x() / 32) + warp();
    if (row >= args.rows) {
        return;
    }
    f32 *v = shared<f32>(0) + warp() * width;
    for (u32 c = lane(); c < width; c += 32) {
        v[c] = args.x[u64(row) * width + c];
    }
    sync_warp(FULL_MASK);
    if (args.hadamard) {
        hadamard(v, width);
    }
    for (u32 c = lane(); c < width; c += 32) {
        u64 at = u64(row) * width + c;
        u32 scale = e2m1_block_scale(block_largest(magnitude_bits(v[c]), 32));
        u32 code = e2m1_code(mul_ff(v[c], inverse_e8m0(scale)));
        if (args.y) {
            args.y[at] = mul_ff(e2m1_value(code), e8m0_value(scale));
        }
        if (args.doubled) {
            args.doubled[at] = i8(e2m1_doubled_signed(code));
            if (lane() == 0) {
                args.scales[at / 32] = e8m0_value(scale);
            }
        }
    }
}
