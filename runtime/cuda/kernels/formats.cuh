// Blocks of weights as they lie in files, taken apart run by run: docs/arithmetic.md, section 4.
//
// A run is 32 neighbouring values of a row, which meet one block of activations. A format has
//
//     BYTES    of a block
//     RUNS     of a block
//     BOOK     bytes of its codebook, 0 if it has none
//     SCALING  how a run is scaled
//     MINIMA   of a run
//     WORDS    that a run is read as
//     load     reads run `number` of a block
//     unpack   takes it apart; `book` is the codebook in shared memory
//
// Loads are apart, so that others' work can be done while they are under way. Blocks are read as
// the aligned words that they touch, so up to three bytes before and after a row are read as
// well. No address is asked to be more aligned than a block's size makes it.

#pragma once

#include "numbers.cuh"
#include "vectors.cuh"

enum Scaling {
    BY_RUN,   // d[0] for all 32 values
    BY_HALF,  // d[0], and an integer scale for each 16
    BY_FLOATS // d[0] for the first 16 and d[1] for the last: two sums
};
enum Minima { NO_MINIMA, MINIMUM_OF_RUN, MINIMA_OF_HALVES };

struct Run {
    u32 q[8]; // 32 signed bytes
    f32 d[2];
    i32 scale[2];
    f32 min[2]; // what is added, with the sign that it is added with
};

FN u32 u16_at(const u8 *at) { return *reinterpret_cast<const u16 *>(at); }
FN u32 u32_at(const u8 *at) { return *reinterpret_cast<const u32 *>(at); }
FN f32 f16_at(const u8 *at) { return f16_value(u16_at(at)); }
FN const u32 *words_at(const u8 *at) { return reinterpret_cast<const u32 *>(at); }

// What lies before the aligned word that has the byte: how many bytes of it.
FN u32 misalignment(const u8 *at) { return u32(reinterpret_cast<u64>(at)) & 3u; }
// The aligned word that has the byte.
FN const u32 *word_of(const u8 *at) { return words_at(at - misalignment(at)); }
// Four bytes of high:low from byte `by` (0 to 4) on.
FN u32 shifted(u32 low, u32 high, u32 by) { return byte_perm(low, high, 0x3210u + 0x1111u * by); }

// The `count + 1` aligned words that have `count` words from any address on.
template <u32 count> FN void load_words(const u8 *at, u32 *words) {
    const u32 *from = word_of(at);
    UNROLL for (u32 i = 0; i < count; i++) { words[i] = from[i]; }
    // An aligned row ends with the last word but one.
    words[count] = from[misalignment(at) != 0 ? count : count - 1];
}
// The words from byte `by` of those on.
template <u32 count> FN void align_words(const u32 *words, u32 by, u32 *aligned) {
    UNROLL for (u32 i = 0; i < count; i++) { aligned[i] = shifted(words[i], words[i + 1], by); }
}
template <u32 count> FN void copy_words(const u32 *from, u32 *to) {
    UNROLL for (u32 i = 0; i < count; i++) { to[i] = from[i]; }
}

// Each byte, below 128, less a number of at most 128: as four signed bytes.
FN u32 bytes_less(u32 bytes, u32 by) {
    return ((bytes | 0x80808080u) - by * 0x01010101u) ^ 0x80808080u;
}
// Bit i of four to the lowest of byte i.
FN u32 spread_bits(u32 bits) { return (bits & 15u) * 0x00204081u & 0x01010101u; }

// Sixteen signed bytes that codes of four bits choose from.
struct Levels {
    u32 word[4];
};

// The levels of eight codes: those in low halves of bytes, then those in high halves.
FN void look_up(const Levels &levels, u32 codes, u32 &lows, u32 &highs) {
    u32 low_bits = codes & 0x77777777u;
    // Chooses between the levels of codes below 8 and the others.
    u32 top_bits = (codes & 0x88888888u) >> 1 | 0x32103210u;
    u32 pairs[2];
    UNROLL for (u32 i = 0; i < 2; i++) {
        u32 below = byte_perm(levels.word[0], levels.word[1], low_bits >> 16 * i);
        u32 above = byte_perm(levels.word[2], levels.word[3], low_bits >> 16 * i);
        pairs[i] = byte_perm(below, above, top_bits >> 16 * i);
    }
    lows = byte_perm(pairs[0], pairs[1], 0x6420);
    highs = byte_perm(pairs[0], pairs[1], 0x7531);
}

// The same of 32 codes: first those in low halves.
FN void look_up_run(const Levels &levels, const u32 *codes, u32 (&q)[8]) {
    UNROLL for (u32 i = 0; i < 4; i++) { look_up(levels, codes[i], q[i], q[4 + i]); }
}

// Twice the values of e2m1. What decodes MXFP4 tells the negative zero from the other one: it is
// -128 there, which no other code is.
#define E2M1_ZERO 0u
#define E2M1_MINUS_ZERO 0x80u
template <u32 minus_zero> FN Levels e2m1_levels() {
    return {{0x03020100, 0x0c080604, 0xfdfeff00 | minus_zero, 0xf4f8fafc}};
}
// Those of IQ4_NL and IQ4_XS: -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89,
// 113.
FN Levels iq4_levels() { return {{0xbfad9881, 0xf6eaddcf, 0x26190d01, 0x71594535}}; }

struct Q8_0 {
    static constexpr u32 BYTES = 34, RUNS = 1, BOOK = 0, WORDS = 10;
    static constexpr Scaling SCALING = BY_RUN;
    static constexpr Minima MINIMA = NO_MINIMA;

    FN void load(const u8 *block, u32, u32 (&raw)[WORDS]) {
        // Blocks begin at even addresses, so these nine words end with the block.
        copy_words<9>(word_of(block), raw);
        raw[9] = misalignment(block);
    }
    FN void unpack(const u32 (&raw)[WORDS], u32, const u32 *, Run &run) {
        run.d[0] = f16_value(raw[0] >> 8 * raw[9] & 0xffff);
        align_words<8>(raw, raw[9] + 2, run.q);
    }
};

template <u32 minus_zero> struct Mxfp4Of {
    static constexpr u32 BYTES = 17, RUNS = 1, BOOK = 0, WORDS = 6;
    static constexpr Scaling SCALING = BY_RUN;
    static constexpr Minima MINIMA = NO_MINIMA;

    FN void load(const u8 *block, u32, u32 (&raw)[WORDS]) {
        // 17 bytes are in five words, wherever they begin.
        copy_words<5>(word_of(block), raw);
        raw[5] = misalignment(block);
    }
    FN void unpack(const u32 (&raw)[WORDS], u32, const u32 *, Run &run) {
        u32 code = raw[0] >> 8 * raw[5] & 255u;
        // Half of the scale; subnormal ones count as zero.
        run.d[0] = code == 255 ? NOT_A_NUMBER : float_of(code < 2 ? 0u : (code - 1) << 23);
        u32 codes[4];
        align_words<4>(raw, raw[5] + 1, codes);
        look_up_run(e2m1_levels<minus_zero>(), codes, run.q);
    }
};
typedef Mxfp4Of<E2M1_ZERO> Mxfp4;

// Sixteen bytes of codes: those in low halves first.
FN void nibbles(const u32 *codes, u32 (&q)[8]) {
    UNROLL for (u32 i = 0; i < 4; i++) {
        q[i] = codes[i] & 0x0f0f0f0f;
        q[4 + i] = codes[i] >> 4 & 0x0f0f0f0f;
    }
}
// The same with a fifth bit.
FN void fifths(const u32 *codes, u32 bits, u32 (&q)[8]) {
    nibbles(codes, q);
    UNROLL for (u32 i = 0; i < 8; i++) { q[i] |= spread_bits(bits >> 4 * i) << 4; }
}
FN void less(u32 (&q)[8], u32 by) {
    UNROLL for (u32 i = 0; i < 8; i++) { q[i] = bytes_less(q[i], by); }
}

struct Q4_0 {
    static constexpr u32 BYTES = 18, RUNS = 1, BOOK = 0, WORDS = 7;
    static constexpr Scaling SCALING = BY_RUN;
    static constexpr Minima MINIMA = NO_MINIMA;

    FN void load(const u8 *block, u32, u32 (&raw)[WORDS]) {
        raw[5] = u16_at(block);
        raw[6] = misalignment(block + 2);
        load_words<4>(block + 2, raw);
    }
    FN void unpack(const u32 (&raw)[WORDS], u32, const u32 *, Run &run) {
        run.d[0] = f16_value(raw[5]);
        u32 codes[4];
        align_words<4>(raw, raw[6], codes);
        nibbles(codes, run.q);
        less(run.q, 8);
    }
};

struct Q4_1 {
    static constexpr u32 BYTES = 20, RUNS = 1, BOOK = 0, WORDS = 5;
    static constexpr Scaling SCALING = BY_RUN;
    static constexpr Minima MINIMA = MINIMUM_OF_RUN;

    FN void load(const u8 *block, u32, u32 (&raw)[WORDS]) {
        copy_words<5>(words_at(block), raw);
    }
    FN void unpack(const u32 (&raw)[WORDS], u32, const u32 *, Run &run) {
        run.d[0] = f16_value(raw[0] & 0xffff);
        run.min[0] = f16_value(raw[0] >> 16);
        nibbles(raw + 1, run.q);
    }
};

struct Q5_0 {
    static constexpr u32 BYTES = 22, RUNS = 1, BOOK = 0, WORDS = 8;
    static constexpr Scaling SCALING = BY_RUN;
    static constexpr Minima MINIMA = NO_MINIMA;

    FN void load(const u8 *block, u32, u32 (&raw)[WORDS]) {
        raw[6] = u16_at(block);
        raw[7] = misalignment(block + 2);
        load_words<5>(block + 2, raw);
    }
    FN void unpack(const u32 (&raw)[WORDS], u32, const u32 *, Run &run) {
        run.d[0] = f16_value(raw[6]);
        u32 words[5];
        align_words<5>(raw, raw[7], words);
        fifths(words + 1, words[0], run.q);
        less(run.q, 16);
    }
};

struct Q5_1 {
    static constexpr u32 BYTES = 24, RUNS = 1, BOOK = 0, WORDS = 6;
    static constexpr Scaling SCALING = BY_RUN;
    static constexpr Minima MINIMA = MINIMUM_OF_RUN;

    FN void load(const u8 *block, u32, u32 (&raw)[WORDS]) {
        copy_words<6>(words_at(block), raw);
    }
    FN void unpack(const u32 (&raw)[WORDS], u32, const u32 *, Run &run) {
        run.d[0] = f16_value(raw[0] & 0xffff);
        run.min[0] = f16_value(raw[0] >> 16);
        fifths(raw + 2, raw[1], run.q);
    }
};

struct Iq4Nl {
    static constexpr u32 BYTES = 18, RUNS = 1, BOOK = 0, WORDS = 7;
    static constexpr Scaling SCALING = BY_RUN;
    static constexpr Minima MINIMA = NO_MINIMA;

    FN void load(const u8 *block, u32, u32 (&raw)[WORDS]) {
        raw[5] = u16_at(block);
        raw[6] = misalignment(block + 2);
        load_words<4>(block + 2, raw);
    }
    FN void unpack(const u32 (&raw)[WORDS], u32, const u32 *, Run &run) {
        run.d[0] = f16_value(raw[5]);
        u32 codes[4];
        align_words<4>(raw, raw[6], codes);
        look_up_run(iq4_levels(), codes, run.q);
    }
};

// Half of an e4m3 scale without its sign. As in ggml the code of NaN is zero, and that with a
// sign 480, halved.
FN f32 nvfp4_scale(u32 code) {
    u32 rest = code & 127u;
    f32 value =
        rest < 8 ? mul_ff(u2f(rest), 1.0f / 1024.0f) : float_of((rest << 20) + (119u << 23));
    return code == 127 ? 0.0f : value;
}

struct Nvfp4 {
    static constexpr u32 BYTES = 36, RUNS = 2, BOOK = 0, WORDS = 5;
    static constexpr Scaling SCALING = BY_FLOATS;
    static constexpr Minima MINIMA = NO_MINIMA;

    FN void load(const u8 *block, u32 number, u32 (&raw)[WORDS]) {
        copy_words<4>(words_at(block + 4 + 16 * number), raw);
        raw[4] = u32_at(block) >> 16 * number;
    }
    FN void unpack(const u32 (&raw)[WORDS], u32, const u32 *, Run &run) {
        UNROLL for (u32 half = 0; half < 2; half++) {
            run.d[half] = nvfp4_scale(raw[4] >> 8 * half & 255u);
            UNROLL for (u32 i = 0; i < 2; i++) {
                u32 *q = run.q + 4 * half + i;
                look_up(e2m1_levels<E2M1_ZERO>(), raw[2 * half + i], q[0], q[2]);
            }
        }
    }
};

// Run `number` of a row.
template <class Format>
FN void load_run(const u8 *row, u64 number, u32 (&raw)[Format::WORDS]) {
    const u8 *block = row + number / Format::RUNS * Format::BYTES;
    Format::load(block, u32(number % Format::RUNS), raw);
}
template <class Format>
FN void unpack_run(const u32 (&raw)[Format::WORDS], u64 number, const u32 *book, Run &run) {
    Format::unpack(raw, u32(number % Format::RUNS), book, run);
}

// The codebook in shared memory, from byte 0 on.
template <class Format> FN const u32 *load_codebook([[maybe_unused]] const u32 *codebook) {
    if constexpr (Format::BOOK == 0) {
        return nullptr;
    } else {
        auto *to = shared<Words4>(0);
        auto *from = reinterpret_cast<const Words4 *>(codebook);
        for (u32 i = thread_x(); i < Format::BOOK / sizeof(Words4); i += threads_x()) {
            to[i] = from[i];
        }
        sync();
        return shared<u32>(0);
    }
}
