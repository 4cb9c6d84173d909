// The functions that other kernels compute with, by themselves: to compare a card's bits with a
// CPU's. And the tables of angles.

#include "rows.cuh"

struct MapFunction {
    f32 *y;
    const f32 *x;
    u32 count;
    u32 which;
};

// y = f(x), by number.
KERNEL(map_function, MapFunction) {
    u32 i = block_x() * threads_x() + thread_x();
    if (i >= args.count) {
        return;
    }
    f32 x = args.x[i], y = 0.0f;
    switch (args.which) {
    case 0:
        y = exp_ff(x);
        break;
    case 1:
        y = sigmoid(x);
        break;
    case 2:
        y = silu(x);
        break;
    case 3:
        y = log1p_ff(x);
        break;
    case 4:
        y = softplus(x);
        break;
    case 5:
        y = sqrt_softplus(x);
        break;
    case 6:
        y = inverse_sqrt(x);
        break;
    }
    args.y[i] = y;
}

struct Angles {
    f32 *cosines;
    f32 *sines;
    const u64 *frequencies;
    const u64 *positions;
    u32 pairs;
    u32 rows;
};

// Cosines and sines, [rows][pairs], of positions times frequencies in units of 2^-64 turns.
KERNEL(angles, Angles) {
    u32 i = block_x() * threads_x() + thread_x();
    if (i >= args.rows * args.pairs) {
        return;
    }
    u32 row = i / args.pairs;
    CosineSine of = cosine_and_sine(args.positions[row] * args.frequencies[i - row * args.pairs]);
    args.cosines[i] = of.cosine;
    args.sines[i] = of.sine;
}

struct InverseRms {
    f32 *y;
    const f32 *x;
    u32 width;
    f32 eps;
};

// The inverse RMS of row block_x().
KERNEL_THREADS(inverse_rms_rows, InverseRms, ROW_THREADS) {
    const f32 *x = args.x + u64(block_x()) * args.width;
    f32 r = inverse_rms(x, args.width, args.eps, shared<f32>(0));
    if (thread_x() == 0) {
        args.y[block_x()] = r;
    }
}
