// Operations on rows of activations: sums, norms, rotations, SwiGLU, rounding to int8.

#include "quantise.cuh"

struct Add {
    f32 *y;
    const f32 *x;
    u64 count;
};

// y += x.
KERNEL(add, Add) {
    u64 i = u64(block_x()) * threads_x() + thread_x();
    if (i < args.count) {
        args.y[i] = add_ff(args.y[i], args.x[i]);
    }
}

struct Quantise {
    Int8Rows to;
    const f32 *x;
    u64 blocks;
};

// A warp for each block of 32 values.
KERNEL_THREADS(quantise, Quantise, ROW_THREADS) {
    u64 block = (u64(block_x()) * threads_x() + thread_x()) / 32;
    if (block < args.blocks) {
        quantise_block(args.x[block * 32 + lane()], args.to, block);
    }
}

struct RmsNorm {
    f32 *y;
    const f32 *x;
    const f32 *gain;
    Int8Rows to;
    u32 width;
    f32 eps;
};

// The norm of row block_x(), with or without gains, to `y`, which may be x. Rounded to int8 as
// well if there is room for it: then rows are whole blocks.
KERNEL_THREADS(rms_norm, RmsNorm, ROW_THREADS) {
    u64 start = u64(block_x()) * args.width;
    f32 r = inverse_rms(args.x + start, args.width, args.eps, shared<f32>(0));
    auto norm = [&](u32 i) {
        f32 value = mul_ff(args.x[start + i], r);
        return args.gain ? mul_ff(value, args.gain[i]) : value;
    };
    each_of_lane<4>(args.width, norm, [&](u32 i, f32 value) {
        args.y[start + i] = value;
        if (args.to.q) {
            quantise_block(value, args.to, (start + i) / 32);
        }
    });
}

struct Rope {
    f32 *x;
    const f32 *cosines;
    const f32 *sines;
    u32 rows;
    u32 parts;
    u32 width;
    u32 pairs;
    u32 first;
    u32 inverse;
};

// Rotates the last pairs of each of the `parts` parts of `width` channels of every row; row r by
// row first + r of the tables, [rows][pairs]. A thread for each pair.
KERNEL(rope, Rope) {
    u32 i = block_x() * threads_x() + thread_x();
    u32 part = i / args.pairs, pair = i - part * args.pairs;
    u32 row = part / args.parts;
    if (row >= args.rows) {
        return;
    }
    u64 angle = u64(args.first + row) * args.pairs + pair;
    f32 *x = args.x + u64(part + 1) * args.width - 2 * (args.pairs - pair);
    f32 c = args.cosines[angle], s = args.sines[angle];
    s = args.inverse ? -s : s;
    f32 a = x[0], b = x[1];
    x[0] = add_ff(mul_ff(a, c), -mul_ff(b, s));
    x[1] = add_ff(mul_ff(a, s), mul_ff(b, c));
}

FN f32 swiglu_value(f32 gate, f32 up, f32 limit) {
    // Both keep a NaN.
    f32 g = gate > limit ? limit : gate;
    f32 u = up > limit ? limit : up;
    u = u < -limit ? -limit : u;
    return mul_ff(silu(g), u);
}

struct Swiglu {
    f32 *y;
    const f32 *gate;
    const f32 *up;
    const f32 *weights;
    Int8Rows to;
    u64 count;
    u32 width;
    f32 limit;
};

// y = SwiGLU of gate and up, times the row's weight if there are weights; y may be gate, or not
// be there. Rounded to int8 as well if there is room for it: then rows are whole blocks. A thread
// for each value, in whole warps.
KERNEL_THREADS(swiglu, Swiglu, ROW_THREADS) {
    u64 i = u64(block_x()) * threads_x() + thread_x();
    if (i >= args.count) {
        return;
    }
    f32 value = swiglu_value(args.gate[i], args.up[i], args.limit);
    value = args.weights ? mul_ff(value, args.weights[i / args.width]) : value;
    if (args.y) {
        args.y[i] = value;
    }
    if (args.to.q) {
        quantise_block(value, args.to, i / 32);
    }
}
