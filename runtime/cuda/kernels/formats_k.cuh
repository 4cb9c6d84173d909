// Formats with blocks of 256 values that have integer scales.

#pragma once

#include "formats.cuh"

FN void load_vector(const u8 *at, u32 *words) {
    Words4 vector = *reinterpret_cast<const Words4 *>(at);
    UNROLL for (u32 i = 0; i < 4; i++) { words[i] = vector.word[i]; }
}
FN void load_pair(const u8 *at, u32 *words) {
    Words2 pair = *reinterpret_cast<const Words2 *>(at);
    words[0] = pair.word[0];
    words[1] = pair.word[1];
}

// The header of Q4_K and Q5_K: the scale and the minimum of a run.
FN void q4_k_header(const u32 *word, u32 number, Run &run) {
    u32 at = number % 4 * 8;
    u32 a = word[1] >> at, b = word[2] >> at, c = word[3] >> at;
    u32 scale = number < 4 ? a & 63u : (c & 15u) | (a >> 2 & 0x30u);
    u32 min = number < 4 ? b & 63u : (c >> 4 & 15u) | (b >> 2 & 0x30u);
    run.d[0] = mul_ff(f16_value(word[0] & 0xffff), u2f(scale));
    run.min[0] = mul_ff(-f16_value(word[0] >> 16), u2f(min));
}

struct Q4_K {
    static constexpr u32 BYTES = 144, RUNS = 8, BOOK = 0, WORDS = 12;
    static constexpr Scaling SCALING = BY_RUN;
    static constexpr Minima MINIMA = MINIMUM_OF_RUN;

    FN void load(const u8 *block, u32 number, u32 (&raw)[WORDS]) {
        const u8 *codes = block + 16 + number / 2 * 32;
        load_vector(block, raw);
        load_vector(codes, raw + 4);
        load_vector(codes + 16, raw + 8);
    }
    FN void unpack(const u32 (&raw)[WORDS], u32 number, const u32 *, Run &run) {
        q4_k_header(raw, number, run);
        u32 by = number % 2 * 4;
        UNROLL for (u32 i = 0; i < 8; i++) { run.q[i] = raw[4 + i] >> by & 0x0f0f0f0f; }
    }
};

struct Q5_K {
    static constexpr u32 BYTES = 176, RUNS = 8, BOOK = 0, WORDS = 20;
    static constexpr Scaling SCALING = BY_RUN;
    static constexpr Minima MINIMA = MINIMUM_OF_RUN;

    FN void load(const u8 *block, u32 number, u32 (&raw)[WORDS]) {
        const u8 *codes = block + 48 + number / 2 * 32;
        load_vector(block, raw);
        load_vector(codes, raw + 4);
        load_vector(codes + 16, raw + 8);
        load_vector(block + 16, raw + 12);
        load_vector(block + 32, raw + 16);
    }
    FN void unpack(const u32 (&raw)[WORDS], u32 number, const u32 *, Run &run) {
        q4_k_header(raw, number, run);
        u32 by = number % 2 * 4;
        UNROLL for (u32 i = 0; i < 8; i++) {
            u32 fifths = raw[12 + i] >> number & 0x01010101;
            run.q[i] = (raw[4 + i] >> by & 0x0f0f0f0f) | fifths << 4;
        }
    }
};

struct Q6_K {
    static constexpr u32 BYTES = 210, RUNS = 8, BOOK = 0, WORDS = 21;
    static constexpr Scaling SCALING = BY_HALF;
    static constexpr Minima MINIMA = NO_MINIMA;

    FN void load(const u8 *block, u32 number, u32 (&raw)[WORDS]) {
        u32 half = number / 4, part = number % 4;
        load_words<8>(block + 64 * half + 32 * (part % 2), raw);
        load_words<8>(block + 128 + 32 * half, raw + 9);
        raw[18] = u16_at(block + 192 + 2 * number);
        raw[19] = u16_at(block + 208);
        raw[20] = misalignment(block);
    }
    FN void unpack(const u32 (&raw)[WORDS], u32 number, const u32 *, Run &run) {
        u32 part = number % 4;
        u32 high[8];
        align_words<8>(raw, raw[20], run.q);
        align_words<8>(raw + 9, raw[20], high);
        UNROLL for (u32 i = 0; i < 8; i++) {
            u32 code = (run.q[i] >> part / 2 * 4 & 0x0f0f0f0f) |
                       (high[i] >> 2 * part & 0x03030303) << 4;
            run.q[i] = bytes_less(code, 32);
        }
        run.scale[0] = i8(raw[18]);
        run.scale[1] = i8(raw[18] >> 8);
        run.d[0] = f16_value(raw[19]);
    }
};

struct Q2_K {
    static constexpr u32 BYTES = 84, RUNS = 8, BOOK = 0, WORDS = 10;
    static constexpr Scaling SCALING = BY_HALF;
    static constexpr Minima MINIMA = MINIMA_OF_HALVES;

    FN void load(const u8 *block, u32 number, u32 (&raw)[WORDS]) {
        copy_words<8>(words_at(block + 16 + number / 4 * 32), raw);
        raw[8] = u16_at(block + 2 * number);
        raw[9] = u32_at(block + 80);
    }
    FN void unpack(const u32 (&raw)[WORDS], u32 number, const u32 *, Run &run) {
        u32 by = number % 4 * 2;
        UNROLL for (u32 i = 0; i < 8; i++) { run.q[i] = raw[i] >> by & 0x03030303; }
        f32 dmin = -f16_value(raw[9] >> 16);
        run.d[0] = f16_value(raw[9] & 0xffff);
        UNROLL for (u32 half = 0; half < 2; half++) {
            run.scale[half] = i32(raw[8] >> 8 * half & 15u);
            run.min[half] = mul_ff(dmin, u2f(raw[8] >> (8 * half + 4) & 15u));
        }
    }
};

struct Q3_K {
    static constexpr u32 BYTES = 110, RUNS = 8, BOOK = 0, WORDS = 22;
    static constexpr Scaling SCALING = BY_HALF;
    static constexpr Minima MINIMA = NO_MINIMA;

    FN void load(const u8 *block, u32 number, u32 (&raw)[WORDS]) {
        load_words<8>(block + 32 + number / 4 * 32, raw);
        load_words<8>(block, raw + 9);
        // Two of sixteen scales: four low bits in one place, two high bits in another.
        u32 at = 96 + number % 2 * 2;
        raw[18] = u16_at(block + at + number / 2 % 2 * 4);
        raw[19] = u16_at(block + at + 8);
        raw[20] = u16_at(block + 108);
        raw[21] = misalignment(block);
    }
    FN void unpack(const u32 (&raw)[WORDS], u32 number, const u32 *, Run &run) {
        u32 high[8];
        align_words<8>(raw, raw[21], run.q);
        align_words<8>(raw + 9, raw[21], high);
        u32 by = number % 4 * 2;
        UNROLL for (u32 i = 0; i < 8; i++) {
            u32 code = (run.q[i] >> by & 0x03030303) | (high[i] >> number & 0x01010101) << 2;
            run.q[i] = bytes_less(code, 4);
        }
        u32 lows = raw[18] >> number / 4 * 4, tops = raw[19] >> 2 * (number / 2);
        u32 scales = (lows & 0x0f0f) | (tops & 0x0303) << 4;
        run.scale[0] = i32(scales & 255u) - 32;
        run.scale[1] = i32(scales >> 8) - 32;
        run.d[0] = f16_value(raw[20]);
    }
};

struct Iq4Xs {
    static constexpr u32 BYTES = 136, RUNS = 8, BOOK = 0, WORDS = 6;
    static constexpr Scaling SCALING = BY_RUN;
    static constexpr Minima MINIMA = NO_MINIMA;

    FN void load(const u8 *block, u32 number, u32 (&raw)[WORDS]) {
        load_pair(block + 8 + 16 * number, raw);
        load_pair(block + 16 + 16 * number, raw + 2);
        load_pair(block, raw + 4);
    }
    FN void unpack(const u32 (&raw)[WORDS], u32 number, const u32 *, Run &run) {
        look_up_run(iq4_levels(), raw, run.q);
        u32 low = raw[5] >> 4 * number & 15u;
        u32 top = raw[4] >> (16 + 2 * number) & 3u;
        run.d[0] = mul_ff(f16_value(raw[4] & 0xffff), i2f(i32(low | top << 4) - 32));
    }
};
