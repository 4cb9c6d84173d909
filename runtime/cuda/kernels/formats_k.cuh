// Formats with blocks of 256 values that have integer scales.

#pragma once

#include "formats.cuh"

FN void load_vector(const u8 *at, u32 *words) {
    Words4 vector = *reinterpret_cast<const Words4 *>(at);
    UNROLL for (u32 i = 0; i < 4; i++) { words[i] = vector.word[i]; }
}

// The header of Q4_K and Q5_K: the scale and the minimum of a run.
FN void q4_k_header(const u8 *block, u32 number, Run &run) {
    u32 word[4];
    load_vector(block, word);
    u32 at = number % 4 * 8;
    u32 a = word[1] >> at, b = word[2] >> at, c = word[3] >> at;
    u32 scale = number < 4 ? a & 63u : (c & 15u) | (a >> 2 & 0x30u);
    u32 min = number < 4 ? b & 63u : (c >> 4 & 15u) | (b >> 2 & 0x30u);
    run.d[0] = mul_ff(f16_value(word[0] & 0xffff), u2f(scale));
    run.min[0] = mul_ff(-f16_value(word[0] >> 16), u2f(min));
}

struct Q4_K {
    static constexpr u32 BYTES = 144, RUNS = 8, BOOK = 0;
    static constexpr Scaling SCALING = BY_RUN;
    static constexpr Minima MINIMA = MINIMUM_OF_RUN;

    FN void unpack(const u8 *block, u32 number, const u32 *, Run &run) {
        q4_k_header(block, number, run);
        const u8 *codes = block + 16 + number / 2 * 32;
        load_vector(codes, run.q);
        load_vector(codes + 16, run.q + 4);
        u32 by = number % 2 * 4;
        UNROLL for (u32 i = 0; i < 8; i++) { run.q[i] = run.q[i] >> by & 0x0f0f0f0f; }
    }
};

struct Q5_K {
    static constexpr u32 BYTES = 176, RUNS = 8, BOOK = 0;
    static constexpr Scaling SCALING = BY_RUN;
    static constexpr Minima MINIMA = MINIMUM_OF_RUN;

    FN void unpack(const u8 *block, u32 number, const u32 *, Run &run) {
        q4_k_header(block, number, run);
        const u8 *codes = block + 48 + number / 2 * 32;
        u32 high[8];
        load_vector(block + 16, high);
        load_vector(block + 32, high + 4);
        load_vector(codes, run.q);
        load_vector(codes + 16, run.q + 4);
        u32 by = number % 2 * 4;
        UNROLL for (u32 i = 0; i < 8; i++) {
            run.q[i] = (run.q[i] >> by & 0x0f0f0f0f) | (high[i] >> number & 0x01010101) << 4;
        }
    }
};

struct Q6_K {
    static constexpr u32 BYTES = 210, RUNS = 8, BOOK = 0;
    static constexpr Scaling SCALING = BY_HALF;
    static constexpr Minima MINIMA = NO_MINIMA;

    FN void unpack(const u8 *block, u32 number, const u32 *, Run &run) {
        u32 half = number / 4, part = number % 4;
        u32 high[8];
        load_words(block + 64 * half + 32 * (part % 2), run.q);
        load_words(block + 128 + 32 * half, high);
        UNROLL for (u32 i = 0; i < 8; i++) {
            u32 code = (run.q[i] >> part / 2 * 4 & 0x0f0f0f0f) |
                       (high[i] >> 2 * part & 0x03030303) << 4;
            run.q[i] = bytes_less(code, 32);
        }
        u32 scales = u16_at(block + 192 + 2 * number);
        run.scale[0] = i8(scales);
        run.scale[1] = i8(scales >> 8);
        run.d[0] = f16_at(block + 208);
    }
};

struct Q2_K {
    static constexpr u32 BYTES = 84, RUNS = 8, BOOK = 0;
    static constexpr Scaling SCALING = BY_HALF;
    static constexpr Minima MINIMA = MINIMA_OF_HALVES;

    FN void unpack(const u8 *block, u32 number, const u32 *, Run &run) {
        const u32 *codes = words_at(block + 16 + number / 4 * 32);
        u32 by = number % 4 * 2;
        UNROLL for (u32 i = 0; i < 8; i++) { run.q[i] = codes[i] >> by & 0x03030303; }
        u32 scales = u16_at(block + 2 * number);
        u32 both = u32_at(block + 80);
        f32 dmin = -f16_value(both >> 16);
        run.d[0] = f16_value(both & 0xffff);
        UNROLL for (u32 half = 0; half < 2; half++) {
            run.scale[half] = i32(scales >> 8 * half & 15u);
            run.min[half] = mul_ff(dmin, u2f(scales >> (8 * half + 4) & 15u));
        }
    }
};

struct Q3_K {
    static constexpr u32 BYTES = 110, RUNS = 8, BOOK = 0;
    static constexpr Scaling SCALING = BY_HALF;
    static constexpr Minima MINIMA = NO_MINIMA;

    FN void unpack(const u8 *block, u32 number, const u32 *, Run &run) {
        u32 high[8];
        load_words(block + 32 + number / 4 * 32, run.q);
        load_words(block, high);
        u32 by = number % 4 * 2;
        UNROLL for (u32 i = 0; i < 8; i++) {
            u32 code = (run.q[i] >> by & 0x03030303) | (high[i] >> number & 0x01010101) << 2;
            run.q[i] = bytes_less(code, 4);
        }
        // Two of sixteen scales: four low bits in one place, two high bits in another.
        u32 four = number / 2, at = 96 + number % 2 * 2;
        u32 lows = u16_at(block + at + four % 2 * 4) >> four / 2 * 4;
        u32 tops = u16_at(block + at + 8) >> 2 * four;
        u32 scales = (lows & 0x0f0f) | (tops & 0x0303) << 4;
        run.scale[0] = i32(scales & 255u) - 32;
        run.scale[1] = i32(scales >> 8) - 32;
        run.d[0] = f16_at(block + 108);
    }
};

struct Iq4Xs {
    static constexpr u32 BYTES = 136, RUNS = 8, BOOK = 0;
    static constexpr Scaling SCALING = BY_RUN;
    static constexpr Minima MINIMA = NO_MINIMA;

    FN void unpack(const u8 *block, u32 number, const u32 *, Run &run) {
        Words2 head = *reinterpret_cast<const Words2 *>(block);
        auto *pairs = reinterpret_cast<const Words2 *>(block + 8 + 16 * number);
        Words2 first = pairs[0], last = pairs[1];
        u32 codes[4] = {first.word[0], first.word[1], last.word[0], last.word[1]};
        look_up_run(iq4_levels(), codes, run.q);
        u32 low = head.word[1] >> 4 * number & 15u;
        u32 top = head.word[0] >> (16 + 2 * number) & 3u;
        run.d[0] = mul_ff(f16_value(head.word[0] & 0xffff), i2f(i32(low | top << 4) - 32));
    }
};
