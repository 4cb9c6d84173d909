// Rows by their numbers. Rows that follow each other are copied without a kernel.

#include "seam.cuh"

struct GatherRows {
    u32 *to;
    const u32 *from;
    const u32 *which;
    u32 words;
    u32 shared_by;
};

// Row block_x() of `to`, of `words` words: row which[block_x()] / shared_by of `from`.
KERNEL(gather_rows, GatherRows) {
    u32 *to = args.to + u64(block_x()) * args.words;
    const u32 *from = args.from + u64(args.which[block_x()] / args.shared_by) * args.words;
    for (u32 i = thread_x(); i < args.words; i += threads_x()) {
        to[i] = from[i];
    }
}

struct AddToParts {
    f32 *y;
    const f32 *x;
    u32 rows;
    u32 parts;
    u32 width;
    u32 unused;
};

// Adds row r of x to each of the `parts` parts of row r of y. A thread for each value of y.
KERNEL(add_to_parts, AddToParts) {
    u64 i = u64(block_x()) * threads_x() + thread_x();
    u64 part = i / args.width, row = part / args.parts;
    if (row < args.rows) {
        args.y[i] = add_ff(args.y[i], args.x[row * args.width + (i - part * args.width)]);
    }
}
