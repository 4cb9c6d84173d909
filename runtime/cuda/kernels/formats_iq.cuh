// Formats whose values are entries of a codebook.

#pragma once

#include "formats.cuh"

// Magnitudes, none of them zero, with four signs.
FN u32 with_signs(u32 magnitudes, u32 signs) {
    u32 ones = spread_bits(signs);
    // Two's complement: no byte carries, as none is zero.
    return (magnitudes ^ ones * 255u) + ones;
}
// Eight signs of a number of seven bits: the eighth makes the count of negative values even.
FN u32 even_signs(u32 index) {
    u32 seven = index & 127u;
    return seven | (popc(seven) & 1u) << 7;
}
// Eight values of an entry.
FN void put_eight(const u32 *book, u32 entry, u32 signs, u32 *q) {
    Words2 magnitudes = *reinterpret_cast<const Words2 *>(book + 2 * entry);
    q[0] = with_signs(magnitudes.word[0], signs);
    q[1] = with_signs(magnitudes.word[1], signs >> 4);
}

struct Iq2Xxs {
    static constexpr u32 BYTES = 66, RUNS = 8, BOOK = 256 * 8, WORDS = 5;
    static constexpr Scaling SCALING = BY_RUN;
    static constexpr Minima MINIMA = NO_MINIMA;

    FN void load(const u8 *block, u32 number, u32 (&raw)[WORDS]) {
        load_words<2>(block + 2 + 8 * number, raw);
        raw[3] = u16_at(block);
        raw[4] = misalignment(block + 2);
    }
    FN void unpack(const u32 (&raw)[WORDS], u32, const u32 *book, Run &run) {
        u32 words[2];
        align_words<2>(raw, raw[4], words);
        u32 tail = words[1];
        // d (0.5 + s) / 4 is (d / 8) (2 s + 1).
        run.d[0] = mul_ff(mul_ff(f16_value(raw[3]), 0.125f), u2f(2 * (tail >> 28) + 1));
        UNROLL for (u32 i = 0; i < 4; i++) {
            put_eight(book, words[0] >> 8 * i & 255u, even_signs(tail >> 7 * i), run.q + 2 * i);
        }
    }
};

// The scales 2 s + 1 of a run's halves, from a byte with both s.
FN void odd_scales(u32 byte, Run &run) {
    run.scale[0] = i32(2 * (byte & 15u) + 1);
    run.scale[1] = i32(2 * (byte >> 4) + 1);
}

struct Iq2Xs {
    static constexpr u32 BYTES = 74, RUNS = 8, BOOK = 512 * 8, WORDS = 6;
    static constexpr Scaling SCALING = BY_HALF;
    static constexpr Minima MINIMA = NO_MINIMA;

    FN void load(const u8 *block, u32 number, u32 (&raw)[WORDS]) {
        load_words<2>(block + 2 + 8 * number, raw);
        raw[3] = u16_at(block);
        raw[4] = misalignment(block + 2);
        raw[5] = block[66 + number];
    }
    FN void unpack(const u32 (&raw)[WORDS], u32, const u32 *book, Run &run) {
        u32 words[2];
        align_words<2>(raw, raw[4], words);
        run.d[0] = mul_ff(f16_value(raw[3]), 0.125f);
        odd_scales(raw[5], run);
        UNROLL for (u32 i = 0; i < 4; i++) {
            u32 code = words[i / 2] >> 16 * (i % 2) & 0xffff;
            put_eight(book, code & 511u, even_signs(code >> 9), run.q + 2 * i);
        }
    }
};

struct Iq2S {
    static constexpr u32 BYTES = 82, RUNS = 8, BOOK = 1024 * 8, WORDS = 8;
    static constexpr Scaling SCALING = BY_HALF;
    static constexpr Minima MINIMA = NO_MINIMA;

    FN void load(const u8 *block, u32 number, u32 (&raw)[WORDS]) {
        load_words<1>(block + 2 + 4 * number, raw);
        load_words<1>(block + 34 + 4 * number, raw + 2);
        raw[4] = u16_at(block);
        raw[5] = misalignment(block + 2);
        raw[6] = block[66 + number];
        raw[7] = block[74 + number];
    }
    FN void unpack(const u32 (&raw)[WORDS], u32, const u32 *book, Run &run) {
        u32 entries[1], signs[1];
        align_words<1>(raw, raw[5], entries);
        align_words<1>(raw + 2, raw[5], signs);
        run.d[0] = mul_ff(f16_value(raw[4]), 0.125f);
        odd_scales(raw[7], run);
        UNROLL for (u32 i = 0; i < 4; i++) {
            u32 entry = (entries[0] >> 8 * i & 255u) | (raw[6] >> 2 * i & 3u) << 8;
            put_eight(book, entry, signs[0] >> 8 * i, run.q + 2 * i);
        }
    }
};

struct Iq3Xxs {
    static constexpr u32 BYTES = 98, RUNS = 8, BOOK = 256 * 4, WORDS = 7;
    static constexpr Scaling SCALING = BY_RUN;
    static constexpr Minima MINIMA = NO_MINIMA;

    FN void load(const u8 *block, u32 number, u32 (&raw)[WORDS]) {
        load_words<2>(block + 2 + 8 * number, raw);
        load_words<1>(block + 66 + 4 * number, raw + 3);
        raw[5] = u16_at(block);
        raw[6] = misalignment(block + 2);
    }
    FN void unpack(const u32 (&raw)[WORDS], u32, const u32 *book, Run &run) {
        u32 entries[2], tail[1];
        align_words<2>(raw, raw[6], entries);
        align_words<1>(raw + 3, raw[6], tail);
        // d (0.5 + s) / 2 is (d / 4) (2 s + 1).
        run.d[0] = mul_ff(mul_ff(f16_value(raw[5]), 0.25f), u2f(2 * (tail[0] >> 28) + 1));
        UNROLL for (u32 i = 0; i < 8; i++) {
            u32 signs = even_signs(tail[0] >> 7 * (i / 2)) >> 4 * (i % 2);
            run.q[i] = with_signs(book[entries[i / 4] >> 8 * (i % 4) & 255u], signs);
        }
    }
};

struct Iq3S {
    static constexpr u32 BYTES = 110, RUNS = 8, BOOK = 512 * 4, WORDS = 9;
    static constexpr Scaling SCALING = BY_RUN;
    static constexpr Minima MINIMA = NO_MINIMA;

    FN void load(const u8 *block, u32 number, u32 (&raw)[WORDS]) {
        load_words<2>(block + 2 + 8 * number, raw);
        load_words<1>(block + 74 + 4 * number, raw + 3);
        raw[5] = u16_at(block);
        raw[6] = misalignment(block + 2);
        raw[7] = block[66 + number];
        raw[8] = block[106 + number / 2];
    }
    FN void unpack(const u32 (&raw)[WORDS], u32 number, const u32 *book, Run &run) {
        u32 entries[2], signs[1];
        align_words<2>(raw, raw[6], entries);
        align_words<1>(raw + 3, raw[6], signs);
        u32 scale = raw[8] >> 4 * (number % 2) & 15u;
        run.d[0] = mul_ff(f16_value(raw[5]), u2f(2 * scale + 1));
        UNROLL for (u32 i = 0; i < 8; i++) {
            u32 entry = (entries[i / 4] >> 8 * (i % 4) & 255u) | (raw[7] >> i & 1u) << 8;
            run.q[i] = with_signs(book[entry], signs[0] >> 4 * i);
        }
    }
};

// Eight times the values of an entry, an eighth more or less each. The codebook's are one too
// high.
FN void put_eighths(const u32 *book, u32 entry, bool less, u32 *q) {
    Words2 values = *reinterpret_cast<const Words2 *>(book + 2 * entry);
    q[0] = bytes_less(values.word[0] << 3, less ? 9 : 7);
    q[1] = bytes_less(values.word[1] << 3, less ? 9 : 7);
}

struct Iq1S {
    static constexpr u32 BYTES = 50, RUNS = 8, BOOK = 2048 * 8, WORDS = 5;
    static constexpr Scaling SCALING = BY_RUN;
    static constexpr Minima MINIMA = NO_MINIMA;

    FN void load(const u8 *block, u32 number, u32 (&raw)[WORDS]) {
        load_words<1>(block + 2 + 4 * number, raw);
        raw[2] = u16_at(block);
        raw[3] = misalignment(block + 2);
        raw[4] = u16_at(block + 34 + 2 * number);
    }
    FN void unpack(const u32 (&raw)[WORDS], u32, const u32 *book, Run &run) {
        u32 entries[1];
        align_words<1>(raw, raw[3], entries);
        u32 high = raw[4];
        run.d[0] = mul_ff(mul_ff(f16_value(raw[2]), 0.125f), u2f(2 * (high >> 12 & 7u) + 1));
        UNROLL for (u32 i = 0; i < 4; i++) {
            u32 entry = (entries[0] >> 8 * i & 255u) | (high >> 3 * i & 7u) << 8;
            put_eighths(book, entry, high >> 15 != 0, run.q + 2 * i);
        }
    }
};

struct Iq1M {
    static constexpr u32 BYTES = 56, RUNS = 8, BOOK = 2048 * 8, WORDS = 4;
    static constexpr Scaling SCALING = BY_HALF;
    static constexpr Minima MINIMA = NO_MINIMA;

    FN void load(const u8 *block, u32 number, u32 (&raw)[WORDS]) {
        raw[0] = u32_at(block + 4 * number);
        raw[1] = u16_at(block + 32 + 2 * number);
        Words2 tail = *reinterpret_cast<const Words2 *>(block + 48);
        raw[2] = tail.word[0];
        raw[3] = tail.word[1];
    }
    FN void unpack(const u32 (&raw)[WORDS], u32 number, const u32 *book, Run &run) {
        // A quarter of an f16 in each of four halves of words; below them scales of three bits.
        u32 a = raw[2], b = raw[3];
        u32 d = (a >> 12 & 0xfu) | (a >> 24 & 0xf0u) | (b >> 4 & 0xf00u) | (b >> 16 & 0xf000u);
        run.d[0] = mul_ff(f16_value(d), 0.125f);
        u32 scales = (number < 4 ? a : b) >> (16 * (number / 2 % 2) + 6 * (number % 2));
        run.scale[0] = i32(2 * (scales & 7u) + 1);
        run.scale[1] = i32(2 * (scales >> 3 & 7u) + 1);
        UNROLL for (u32 i = 0; i < 4; i++) {
            u32 bits = raw[1] >> 4 * i;
            u32 entry = (raw[0] >> 8 * i & 255u) | (bits & 7u) << 8;
            put_eighths(book, entry, bits & 8u, run.q + 2 * i);
        }
    }
};
