// Products of weights and many rows of activations in int8. Blocks of threads multiply tiles of
// TILE_ROWS rows of weights and TILE_INPUTS rows of activations, stage by stage: STAGE_BLOCKS
// blocks of one lane of the sum. While a stage is multiplied, the next one's activations are
// copied and its weights are loaded, which are then taken apart into shared memory.

#pragma once

#include "formats.cuh"
#include "ordered.cuh"
#include "product.cuh"

#define MMQ_THREADS 256u
#define TILE_ROWS 64u
#define TILE_INPUTS 128u

// A warp multiplies 32 rows and 32 inputs: 2 by 4 fragments.
#define ROW_FRAGMENTS 2u
#define INPUT_FRAGMENTS 4u
#define FRAGMENTS (ROW_FRAGMENTS * INPUT_FRAGMENTS)

// Strides of x count places.
struct ProductMany {
    Product product;
    OrderedRows x;
    const u32 *codebook;
};

// 1.5 * 2^23: the bits of this and a small integer, added, are those of their sum.
#define FLOAT_ZERO 0x4b400000
FN f32 float_of_sum(i32 bits) { return add_ff(float_of(u32(bits)), -12582912.0f); }

// One of two stages in shared memory. Integers are in rows of 32 bytes; neighbouring groups of
// four rows have their halves in different order, so that eight rows' halves are in all banks.
template <class Format> struct Stage {
    static constexpr u32 SCALES = Format::SCALING == BY_RUN    ? 1
                                  : Format::SCALING == BY_HALF ? 3
                                                               : 2;
    static constexpr u32 MINIMA = Format::MINIMA == NO_MINIMA        ? 0
                                  : Format::MINIMA == MINIMUM_OF_RUN ? 1
                                                                     : 2;
    static constexpr u32 W = 0;
    static constexpr u32 X = W + STAGE_BLOCKS * TILE_ROWS * 32;
    // Scales, then minima, each [block][row].
    static constexpr u32 W_SCALES = X + STAGE_BLOCKS * TILE_INPUTS * 32;
    // Scales, then sums, each [input][block].
    static constexpr u32 X_SCALES =
        W_SCALES + (SCALES + MINIMA) * STAGE_BLOCKS * TILE_ROWS * u32(sizeof(f32));
    static constexpr u32 BYTES =
        X_SCALES + (1 + MINIMA) * STAGE_BLOCKS * TILE_INPUTS * u32(sizeof(f32));
};

// What a block of threads keeps in shared memory: the codebook, the tile's inputs (where each
// begins in x; its row of y, NO_PAIR beyond the last one), two stages, and what registers have no
// room for: of some fragments, the sums of four lanes that wait for others. Where halves have
// scales, registers have room for three fragments.
template <class Format> struct Memory {
    static constexpr u32 PLACES = Format::BOOK;
    static constexpr u32 PAIRS = PLACES + TILE_INPUTS * u32(sizeof(u32));
    static constexpr u32 FIRST = PAIRS + TILE_INPUTS * u32(sizeof(u32));
    static constexpr u32 SECOND = FIRST + Stage<Format>::BYTES;
    static constexpr u32 SPARE = SECOND + Stage<Format>::BYTES;
    static constexpr u32 IN_REGISTERS = Format::SCALING == BY_RUN ? FRAGMENTS : 3;
};
#define NO_PAIR 0xffffffffu

// Where half of a row of 32 bytes is.
FN u32 half_at(u32 row, u32 half) { return row * 32 + (half ^ (row >> 2 & 1u)) * 16; }

// Which stage of a row is next.
struct Step {
    u32 turn;
    u32 first; // block of the turn
    u32 count; // of blocks
};
FN void clip(Step &step, u32 blocks) {
    u32 of_turn = blocks_of_turn(blocks, step.turn);
    while (step.turn < 16 && step.first >= of_turn) {
        step.turn += 1;
        step.first = 0;
        of_turn = blocks_of_turn(blocks, step.turn);
    }
    u32 rest = of_turn - step.first;
    step.count = rest < STAGE_BLOCKS ? rest : STAGE_BLOCKS;
}

// Copies a stage's activations.
template <class Format> FN void copy_inputs(const OrderedRows &x, u32 place, u32 to) {
    typedef Stage<Format> At;
    const u32 *rows = shared<u32>(Memory<Format>::PLACES);
    UNROLL for (u32 i = 0; i < STAGE_BLOCKS * TILE_INPUTS * 2 / MMQ_THREADS; i++) {
        u32 piece = i * MMQ_THREADS + thread_x();
        u32 input = piece / (2 * STAGE_BLOCKS), part = piece % (2 * STAGE_BLOCKS);
        u32 at = part / 2 * (TILE_INPUTS * 32) + half_at(input, part % 2);
        cp_async16(shared<u8>(to + At::X + at), x.q + u64(rows[input] + place) * 32 + part * 16);
    }
    UNROLL for (u32 i = 0; i < (1 + At::MINIMA) * TILE_INPUTS; i += MMQ_THREADS) {
        u32 kind = (i + thread_x()) / TILE_INPUTS, input = (i + thread_x()) % TILE_INPUTS;
        if (kind < 1 + At::MINIMA) {
            const f32 *from = kind == 0                           ? x.d
                              : Format::MINIMA == MINIMUM_OF_RUN ? x.sums
                              : kind == 1                         ? x.first_sums
                                                                  : x.last_sums;
            u32 at = (kind * TILE_INPUTS + input) * (STAGE_BLOCKS * u32(sizeof(f32)));
            cp_async16(shared<u8>(to + At::X_SCALES + at), from + rows[input] + place);
        }
    }
}

// Stores a run of weights, taken apart, as block `block` of row `row` of a stage.
template <class Format> FN void store_run(const Run &run, u32 block, u32 row, u32 to) {
    typedef Stage<Format> At;
    u32 w = to + At::W + block * (TILE_ROWS * 32);
    UNROLL for (u32 half = 0; half < 2; half++) {
        Words4 vector;
        UNROLL for (u32 i = 0; i < 4; i++) { vector.word[i] = run.q[4 * half + i]; }
        *shared<Words4>(w + half_at(row, half)) = vector;
    }
    f32 *scales = shared<f32>(to + At::W_SCALES) + block * TILE_ROWS + row;
    scales[0] = run.d[0];
    if (Format::SCALING == BY_HALF) {
        scales[1 * STAGE_BLOCKS * TILE_ROWS] = i2f(run.scale[0]);
        scales[2 * STAGE_BLOCKS * TILE_ROWS] = i2f(run.scale[1]);
    }
    if (Format::SCALING == BY_FLOATS) {
        scales[1 * STAGE_BLOCKS * TILE_ROWS] = run.d[1];
    }
    UNROLL for (u32 i = 0; i != At::MINIMA; i++) {
        scales[(At::SCALES + i) * STAGE_BLOCKS * TILE_ROWS] = run.min[i];
    }
}

typedef f32 Sums[FRAGMENTS][4];

// What a thread needs of the rows' block: of rows g and g + 8 of a fragment.
template <class Format> struct RowScales {
    f32 value[Stage<Format>::SCALES + Stage<Format>::MINIMA][2];
};

// Adds the products of a fragment of rows, `a`, and one of inputs, `b`. `x` is the inputs' scale
// of the block, and beyond it their sums.
template <class Format>
FN void add_fragment(const u32 (&a)[4], const u32 (&b)[2], const RowScales<Format> &rows,
                     const f32 *x, f32 (&sums)[4]) {
    typedef Stage<Format> At;
    i32 first[4], last[4];
    if (Format::SCALING == BY_RUN) {
        mma_s8_16832_from(FLOAT_ZERO, first, a, b);
    } else {
        mma_s8_16816_from(FLOAT_ZERO, first, a[0], a[1], b[0]);
        mma_s8_16816_from(FLOAT_ZERO, last, a[2], a[3], b[1]);
    }
    UNROLL for (u32 i = 0; i < 4; i++) {
        u32 row = i / 2;
        const f32 *of_input = x + i % 2 * STAGE_BLOCKS;
        f32 n = float_of_sum(first[i]);
        if (Format::SCALING == BY_HALF) {
            // All of these are integers below 2^24. The sum with 0 keeps zeros positive.
            f32 tail = fma_ff(float_of_sum(last[i]), rows.value[2][row], 0.0f);
            n = fma_ff(n, rows.value[1][row], tail);
        }
        sums[i] = fma_ff(n, mul_ff(rows.value[0][row], of_input[0]), sums[i]);
        if (Format::SCALING == BY_FLOATS) {
            f32 scale = mul_ff(rows.value[1][row], of_input[0]);
            sums[i] = fma_ff(float_of_sum(last[i]), scale, sums[i]);
        }
        UNROLL for (u32 m = 0; m != At::MINIMA; m++) {
            f32 sum = of_input[(m + 1) * TILE_INPUTS * STAGE_BLOCKS];
            sums[i] = fma_ff(rows.value[At::SCALES + m][row], sum, sums[i]);
        }
    }
}

// Loads a fragment of the rows of a block, from row `row` on.
template <class Format>
FN void load_rows(u32 stage, u32 block, u32 row, u32 (&a)[4], RowScales<Format> &rows) {
    typedef Stage<Format> At;
    u32 w = stage + At::W + block * (TILE_ROWS * 32);
    ldmatrix_x4(a, shared<u8>(w + half_at(row + lane() % 16, lane() / 16)));
    const f32 *scales =
        shared<f32>(stage + At::W_SCALES) + block * TILE_ROWS + row + lane() / 4;
    UNROLL for (u32 kind = 0; kind < At::SCALES + At::MINIMA; kind++) {
        UNROLL for (u32 r = 0; r < 2; r++) {
            rows.value[kind][r] = scales[kind * (STAGE_BLOCKS * TILE_ROWS) + 8 * r];
        }
    }
}

// Adds block `block` of a stage, for the warp's rows and inputs.
template <class Format> FN void add_block(u32 stage, u32 block, u32 row, u32 input, Sums &sums) {
    typedef Stage<Format> At;
    u32 a[ROW_FRAGMENTS][4];
    RowScales<Format> rows[ROW_FRAGMENTS];
    UNROLL for (u32 m = 0; m < ROW_FRAGMENTS; m++) {
        load_rows(stage, block, row + 16 * m, a[m], rows[m]);
    }
    UNROLL for (u32 pair = 0; pair < INPUT_FRAGMENTS / 2; pair++) {
        u32 both[4];
        u32 x = stage + At::X + block * (TILE_INPUTS * 32);
        u32 of_lane = input + 16 * pair + lane() % 8 + lane() / 16 * 8;
        ldmatrix_x4(both, shared<u8>(x + half_at(of_lane, lane() / 8 % 2)));
        UNROLL for (u32 n = 0; n < 2; n++) {
            u32 b[2] = {both[2 * n], both[2 * n + 1]};
            u32 of_thread = input + 16 * pair + 8 * n + lane() % 4 * 2;
            const f32 *scales =
                shared<f32>(stage + At::X_SCALES) + of_thread * STAGE_BLOCKS + block;
            UNROLL for (u32 m = 0; m < ROW_FRAGMENTS; m++) {
                add_fragment<Format>(a[m], b, rows[m], scales,
                                     sums[m * INPUT_FRAGMENTS + 2 * pair + n]);
            }
        }
    }
}

// The first `count` fragments.
template <u32 count> FN void add_sums(const Sums &first, Sums &sums) {
    UNROLL for (u32 f = 0; f < count; f++) {
        UNROLL for (u32 i = 0; i < 4; i++) { sums[f][i] = add_ff(first[f][i], sums[f][i]); }
    }
}
template <u32 count> FN void copy_sums(const Sums &from, Sums &to) {
    UNROLL for (u32 f = 0; f < count; f++) {
        UNROLL for (u32 i = 0; i < 4; i++) { to[f][i] = from[f][i]; }
    }
}
FN void clear_sums(Sums &sums) {
    UNROLL for (u32 f = 0; f < FRAGMENTS; f++) {
        UNROLL for (u32 i = 0; i < 4; i++) { sums[f][i] = 0.0f; }
    }
}

// Sums that wait for another of their level of the tree. Those of the first eight turns wait in y,
// as registers are few: what a thread writes there it reads itself.
struct Waiting {
    Sums level[3];
};

// Calls use(fragment, number, place in y) for each result of a thread that is there. `row` and
// `input` are the warp's first ones in the tile.
template <class Format, class Use>
FN void for_each_result(const Product &product, const Part &part, u32 first_row, u32 row,
                        u32 input, Use use) {
    const u32 *pairs = shared<u32>(Memory<Format>::PAIRS) + input + lane() % 4 * 2;
    UNROLL for (u32 n = 0; n < INPUT_FRAGMENTS; n++) {
        UNROLL for (u32 c = 0; c < 2; c++) {
            u32 pair = pairs[8 * n + c];
            f32 *y = part.y + u64(pair) * product.y_stride;
            UNROLL for (u32 r = 0; r < 2 * ROW_FRAGMENTS; r++) {
                u32 place = first_row + row + 8 * r + lane() / 4;
                if (pair != NO_PAIR && place < product.rows) {
                    use(r / 2 * INPUT_FRAGMENTS + n, r % 2 * 2 + c, y + place);
                }
            }
        }
    }
}

// Where a thread's sums of four lanes wait that are not in registers: calls use(fragment, number,
// place).
template <class Format, class Use> FN void for_each_spare(Use use) {
    typedef Memory<Format> At;
    f32 *spare = shared<f32>(At::FIRST) + (At::SPARE - At::FIRST) / sizeof(f32) + thread_x();
    UNROLL for (u32 f = At::IN_REGISTERS; f < FRAGMENTS; f++) {
        UNROLL for (u32 i = 0; i < 4; i++) {
            use(f, i, spare + ((f - At::IN_REGISTERS) * 4 + i) * MMQ_THREADS);
        }
    }
}

// The end of a turn: adds its lane's sums to those that waited for them. True where they are to
// be added to those in y, or to wait there.
template <class Format> FN bool end_turn(u32 turn, Waiting &waiting, Sums &sums) {
    constexpr u32 IN_REGISTERS = Memory<Format>::IN_REGISTERS;
    if (!(turn & 1)) {
        copy_sums<FRAGMENTS>(sums, waiting.level[0]);
        return false;
    }
    add_sums<FRAGMENTS>(waiting.level[0], sums);
    if (!(turn & 2)) {
        copy_sums<FRAGMENTS>(sums, waiting.level[1]);
        return false;
    }
    add_sums<FRAGMENTS>(waiting.level[1], sums);
    if (!(turn & 4)) {
        copy_sums<IN_REGISTERS>(sums, waiting.level[2]);
        for_each_spare<Format>([&](u32 f, u32 i, f32 *spare) { *spare = sums[f][i]; });
        return false;
    }
    add_sums<IN_REGISTERS>(waiting.level[2], sums);
    for_each_spare<Format>(
        [&](u32 f, u32 i, const f32 *spare) { sums[f][i] = add_ff(*spare, sums[f][i]); });
    return true;
}

// One tile: rows from `first_row` and the part's inputs from `first_input` on.
template <class Format>
FN void multiply_tile(const ProductMany &args, const Part &part, u32 first_row, u32 first_input) {
    typedef Memory<Format> At;
    const Product &product = args.product;
    u32 blocks = product.columns / 32, of_turn = places_of_turn(blocks);
    if (thread_x() < TILE_INPUTS) {
        u32 item = first_input + thread_x();
        u32 pair = pair_of(product, part, item);
        shared<u32>(At::PLACES)[thread_x()] = x_of(product, part, pair);
        shared<u32>(At::PAIRS)[thread_x()] = item < part.count ? pair : NO_PAIR;
    }
    sync();
    // The weights that this thread loads: a row's, of one block of each stage.
    u32 own_row = thread_x() % TILE_ROWS, own_block = thread_x() / TILE_ROWS;
    u32 last = product.rows - 1;
    u32 w_row = first_row + own_row < last ? first_row + own_row : last;
    const u8 *w = part.w + u64(w_row) * (u64(blocks / Format::RUNS) * Format::BYTES);

    // The rows and inputs that this warp multiplies.
    u32 row = warp() % 2 * 32, input = warp() / 2 * 32;
    bool idle = first_row + row > last || first_input + input >= part.count;

    Sums sums;
    Waiting waiting;
    Step step = {0, 0, 0}, next = {0, 0, 0};
    clip(next, blocks);
    u32 at = At::FIRST, turn = 0;
    clear_sums(sums);
    // The first round only loads.
    while (true) {
        cp_wait<0>();
        sync();
        u32 to = At::FIRST + At::SECOND - at;
        bool more = next.turn < 16;
        u32 raw[Format::WORDS] = {}, own_number = 0;
        if (more) {
            copy_inputs<Format>(args.x, next.turn * of_turn + next.first, to);
            cp_commit();
            // Where there are fewer blocks, the first one once more, which nobody reads.
            u32 of_stage = own_block < next.count ? own_block : 0;
            own_number = lane_of_turn(next.turn) + 16 * (next.first + of_stage);
            load_run<Format>(w, own_number, raw);
        }
        if (!idle) {
            for (u32 block = 0; block < step.count; block++) {
                add_block<Format>(at, block, row, input, sums);
            }
        }
        // Turns that are over, among them those without blocks.
        for (; turn < next.turn; turn++) {
            if (end_turn<Format>(turn, waiting, sums)) {
                bool adds = turn == 15;
                for_each_result<Format>(product, part, first_row, row, input,
                                        [&](u32 f, u32 i, f32 *y) {
                                            *y = adds ? add_ff(*y, sums[f][i]) : sums[f][i];
                                        });
            }
            clear_sums(sums);
        }
        if (!more) {
            break;
        }
        Run run;
        unpack_run<Format>(raw, own_number, shared<u32>(0), run);
        store_run<Format>(run, own_block, own_row, to);
        at = to;
        step = next;
        next.first += STAGE_BLOCKS;
        clip(next, blocks);
    }
}

template <class Format> FN void mmq_i8(const ProductMany &args) {
    Part part;
    if (!part_of(args.product, part)) {
        return;
    }
    load_codebook<Format>(args.codebook);
    u32 tiles = (args.product.rows + TILE_ROWS - 1) / TILE_ROWS;
    u32 inputs = (part.count + TILE_INPUTS - 1) / TILE_INPUTS;
    for (u32 tile = block_x(); tile < tiles * inputs; tile += blocks_x()) {
        multiply_tile<Format>(args, part, tile % tiles * TILE_ROWS, tile / tiles * TILE_INPUTS);
        // Others still read the tile's inputs and the last stage.
        sync();
    }
}

// The kernel of a format.
#define MMQ_I8(name, Format)                                                                       \
    KERNEL_BLOCKS(mmq_i8_##name, ProductMany, MMQ_THREADS, 1) { mmq_i8<Format>(args); }
