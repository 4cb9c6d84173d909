// Products of weights and many rows of activations in float32. A block of threads multiplies a
// tile of TILE_ROWS rows of weights and TILE_INPUTS rows of activations. Warp l of eight has the
// lanes l, l + 8, l + 16 and l + 24 of each sum, one after the other: so values are visited in
// four passes, in pass p those of lanes 8 p to 8 p + 7. Two times eight warps have half of the
// inputs each.

#include "product_f32.cuh"

#define MM_THREADS 512u
#define TILE_ROWS 32u
#define TILE_INPUTS 64u
#define LANES 8u
// Groups of 32 values that are loaded at a time.
#define GROUPS 4u

// A thread's results: 8 rows and 4 inputs.
#define OWN_ROWS 8u
#define OWN_INPUTS 4u
typedef f32 Sums[OWN_INPUTS][OWN_ROWS];

// One of two stages in shared memory: [group][lane][row], then [group][lane][input].
struct Stage {
    f32 w[GROUPS][LANES][TILE_ROWS];
    f32 x[GROUPS][LANES][TILE_INPUTS];
};
// Beyond the stages: sums of the first two passes, and some of the third, which registers have no
// room for. Later sums of lanes: [lane][half of the inputs][result][thread].
#define SUMS (OWN_ROWS * OWN_INPUTS)
#define SPARE u32(2 * sizeof(Stage))
#define IN_REGISTERS 28u
static_assert(LANES / 2 * 2 * 32 <= MM_THREADS, "room for four lanes");

// Eight neighbouring codes of a row from `at` on, as far as there are `count`; else `none`.
template <class Code>
FN void load_eight(const Code *row, u32 at, u32 count, bool aligned, Code none, Code (&codes)[8]) {
    if (aligned && at + 8 <= count) {
        constexpr u32 VECTORS = u32(sizeof(Code)) / 2;
        auto *from = reinterpret_cast<const Words4 *>(row + at);
        UNROLL for (u32 v = 0; v < VECTORS; v++) {
            Words4 vector = from[v];
            UNROLL for (u32 i = 0; i < 8 / VECTORS; i++) {
                if constexpr (sizeof(Code) == 4) {
                    codes[4 * v + i] = float_of(vector.word[i]);
                } else {
                    codes[i] = Code(vector.word[i / 2] >> 16 * (i % 2));
                }
            }
        }
    } else {
        UNROLL for (u32 i = 0; i < 8; i++) { codes[i] = at + i < count ? row[at + i] : none; }
    }
}

// What a thread loads of each stage, eight values of a group: of an input, the last threads of a
// row of weights, or nothing.
struct Loads {
    const u8 *row;
    bool aligned;
    u32 columns;

    static constexpr u32 OF_X = TILE_INPUTS * GROUPS;
    static constexpr u32 OF_W = TILE_ROWS * GROUPS;
    static_assert(OF_X + OF_W <= MM_THREADS, "a piece a thread");
};

template <class Float>
FN void load_stage(const Loads &loads, u32 pass, u32 first, f32 (&values)[8]) {
    u32 thread = thread_x();
    if (thread < Loads::OF_X) {
        u32 at = 32 * (first + thread / TILE_INPUTS) + 8 * pass;
        auto *x = reinterpret_cast<const f32 *>(loads.row);
        load_eight(x, at, loads.columns, loads.aligned, 0.0f, values);
    } else if (thread < Loads::OF_X + Loads::OF_W) {
        u32 at = 32 * (first + (thread - Loads::OF_X) / TILE_ROWS) + 8 * pass;
        // Beyond the last value there is -0 times 0, which added to any sum leaves it as it is.
        typedef typename Float::Code Code;
        auto *w = reinterpret_cast<const Code *>(loads.row);
        Code codes[8];
        load_eight(w, at, loads.columns, loads.aligned, Code(Float::MINUS_ZERO), codes);
        UNROLL for (u32 i = 0; i < 8; i++) { values[i] = Float::value(codes[i]); }
    }
}
template <class Float> FN void store_stage(const f32 (&values)[8], Stage &stage) {
    u32 thread = thread_x();
    if (thread < Loads::OF_X) {
        UNROLL for (u32 l = 0; l < LANES; l++) {
            stage.x[thread / TILE_INPUTS][l][thread % TILE_INPUTS] = values[l];
        }
    } else if (thread < Loads::OF_X + Loads::OF_W) {
        thread -= Loads::OF_X;
        UNROLL for (u32 l = 0; l < LANES; l++) {
            stage.w[thread / TILE_ROWS][l][thread % TILE_ROWS] = values[l];
        }
    }
}

FN void add_stage(const Stage &stage, u32 l, u32 row, u32 input, Sums &sums) {
    UNROLL for (u32 group = 0; group < GROUPS; group++) {
        auto *ws = reinterpret_cast<const Words4 *>(&stage.w[group][l][row]);
        Words4 x = *reinterpret_cast<const Words4 *>(&stage.x[group][l][input]);
        UNROLL for (u32 v = 0; v < OWN_ROWS / 4; v++) {
            Words4 w = ws[v];
            UNROLL for (u32 t = 0; t < OWN_INPUTS; t++) {
                UNROLL for (u32 r = 0; r < 4; r++) {
                    sums[t][4 * v + r] =
                        fma_ff(float_of(w.word[r]), float_of(x.word[t]), sums[t][4 * v + r]);
                }
            }
        }
    }
}

// Calls use(result, its number).
template <class Use> FN void for_each(Sums &sums, Use use) {
    UNROLL for (u32 t = 0; t < OWN_INPUTS; t++) {
        UNROLL for (u32 r = 0; r < OWN_ROWS; r++) { use(sums[t][r], t * OWN_ROWS + r); }
    }
}
FN void clear(Sums &sums) {
    for_each(sums, [](f32 &sum, u32) { sum = 0.0f; });
}
// The tree over eight lanes: those of warp 0 of each half get the results.
FN void add_lanes(u32 l, u32 half, Sums &sums) {
    f32 *all = shared<f32>(SPARE) + lane();
    UNROLL for (u32 lanes = LANES / 2; lanes > 0; lanes /= 2) {
        f32 *own = all + (l % lanes * 2 + half) * (SUMS * 32);
        sync();
        if (l >= lanes && l < 2 * lanes) {
            for_each(sums, [&](f32 &sum, u32 i) { own[32 * i] = sum; });
        }
        sync();
        if (l < lanes) {
            for_each(sums, [&](f32 &sum, u32 i) { sum = add_ff(sum, own[32 * i]); });
        }
    }
}

template <class Float>
FN void multiply_tile(const ProductF32 &args, const Part &part, u32 first_row, u32 first_input) {
    const Product &product = args.product;
    u32 columns = product.columns;
    u32 last = product.rows - 1;
    Loads loads = {};
    u32 of_x = thread_x() % TILE_INPUTS, of_w = first_row + thread_x() % TILE_ROWS;
    auto *x = args.x + x_of(product, part, pair_of(product, part, first_input + of_x));
    const u8 *w = part.w + u64(of_w < last ? of_w : last) * args.row_bytes;
    loads.row = thread_x() < Loads::OF_X ? reinterpret_cast<const u8 *>(x) : w;
    loads.aligned = reinterpret_cast<u64>(loads.row) % 16 == 0;
    loads.columns = columns;

    u32 l = warp() % LANES, half = warp() / LANES;
    u32 row = lane() % 4 * OWN_ROWS, input = half * 32 + lane() / 4 * OWN_INPUTS;
    u32 stages = ((columns + 31) / 32 + GROUPS - 1) / GROUPS;
    Stage *stage = shared<Stage>(0);
    f32 *spare = shared<f32>(SPARE) + thread_x();
    f32 values[8] = {};
    load_stage<Float>(loads, 0, 0, values);
    store_stage<Float>(values, stage[0]);
    // Of the pass, and of the third one.
    Sums sums, third;
    u32 place = 0;
    for (u32 pass = 0; pass < 4; pass++) {
        clear(sums);
        for (u32 s = 0; s < stages; s++) {
            u32 next_pass = s + 1 < stages ? pass : pass + 1;
            u32 next = s + 1 < stages ? s + 1 : 0;
            sync();
            if (next_pass < 4) {
                load_stage<Float>(loads, next_pass, next * GROUPS, values);
            }
            add_stage(stage[place], l, row, input, sums);
            place = 1 - place;
            if (next_pass < 4) {
                store_stage<Float>(values, stage[place]);
            }
        }
        // What a thread leaves in the spare places it reads itself.
        for_each(sums, [&](f32 &sum, u32 i) {
            f32 *first = spare + MM_THREADS * i;
            f32 &of_third = i < IN_REGISTERS ? third[i / OWN_ROWS][i % OWN_ROWS]
                                             : first[MM_THREADS * (SUMS - IN_REGISTERS)];
            if (pass == 0) {
                *first = sum;
            } else if (pass == 1) {
                *first = add_ff(*first, sum);
            } else if (pass == 2) {
                of_third = sum;
            } else {
                sum = add_ff(*first, add_ff(of_third, sum));
            }
        });
    }
    add_lanes(l, half, sums);
    if (l == 0) {
        for_each(sums, [&](f32 &sum, u32 i) {
            u32 r = first_row + row + i % OWN_ROWS, t = first_input + input + i / OWN_ROWS;
            if (r < product.rows && t < part.count) {
                u64 pair = pair_of(product, part, t);
                store_result(args, part.y + pair * product.y_stride + r, sum);
            }
        });
    }
}

template <class Float> FN void mm_f(const ProductF32 &args) {
    Part part;
    if (!part_of(args.product, part)) {
        return;
    }
    u32 tiles = (args.product.rows + TILE_ROWS - 1) / TILE_ROWS;
    u32 inputs = (part.count + TILE_INPUTS - 1) / TILE_INPUTS;
    for (u32 tile = block_x(); tile < tiles * inputs; tile += blocks_x()) {
        multiply_tile<Float>(args, part, tile % tiles * TILE_ROWS, tile / tiles * TILE_INPUTS);
        // Others still read sums of lanes.
        sync();
    }
}

KERNEL_BLOCKS(mm_f32, ProductF32, MM_THREADS, 1) { mm_f<F32>(args); }
KERNEL_BLOCKS(mm_f16, ProductF32, MM_THREADS, 1) { mm_f<F16>(args); }
KERNEL_BLOCKS(mm_bf16, ProductF32, MM_THREADS, 1) { mm_f<Bf16>(args); }
