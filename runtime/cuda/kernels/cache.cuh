// Rows of caches as bytes, the same as on the host: they go into session files. A row is its
// codes (e2m1: two a byte, the even channel in the low half), then a scale a block, then the
// bf16 channels. docs/arithmetic.md, section 5.

#pragma once

#include "numbers.cuh"

#define ROW_F32 0u
// e4m3 in blocks of 64 with e8m0 scales; the last `tail` channels in bf16.
#define ROW_E4M3_64 1u
// e4m3 in blocks of 32 with e8m0 scales.
#define ROW_E4M3_32 2u
// e2m1 in blocks of 32 with e8m0 scales.
#define ROW_E2M1_32 3u
// e2m1 in blocks of 16 with e4m3 scales.
#define ROW_E2M1_16 4u

// How rows are stored.
struct RowFormat {
    u32 kind;
    u32 width;
    u32 tail;
    // Bytes from one row to the next, a multiple of 4 where rows are f32.
    u32 stride;
};

// Where rows are: row n in page n / page_rows, which is the `% pages`-th of the table.
struct Pages {
    u8 *const *table;
    u32 page_rows;
    u32 pages;
};

FN u8 *row_at(const Pages &in, const RowFormat &format, u32 n) {
    u32 page = n / in.page_rows;
    return in.table[page % in.pages] + u64(n - page * in.page_rows) * format.stride;
}

FN u32 e4m3_block_scale(u32 largest) {
    f32 a = float_of(largest);
    return e8m0_at_least(div_ff(a > 1e-4f ? a : 1e-4f, 448.0f));
}
FN u32 e2m1_block_scale(u32 largest) {
    const f32 least = float_of(0x01c00000); // 6 * 2^-126
    f32 a = float_of(largest);
    return e8m0_at_least(div_ff(a > least ? a : least, 6.0f));
}
FN u32 e2m1_block_scale_e4m3(u32 largest) {
    f32 a = float_of(largest);
    f32 scale = div_ff(a > 6.0f / 512.0f ? a : 6.0f / 512.0f, 6.0f);
    return largest < 0x7f800000 ? e4m3_code(scale) : 127u;
}
// One over a scale.
FN f32 inverse_e8m0(u32 code) { return code == 255 ? NOT_A_NUMBER : e8m0_value(254 - code); }

// The largest magnitude of the lanes of a block, infinite if a value isn't finite.
FN u32 block_largest(u32 bits, u32 lanes) {
    u32 largest = largest_of_lanes(bits, lanes);
    return largest > 0x7f800000 ? 0x7f800000 : largest;
}

// Codes of two neighbours in a byte, which the even lane writes.
FN void store_halves(u8 *codes, u32 channel, u32 code, bool there) {
    u32 next = shfl_down(FULL_MASK, code, 1);
    if (there && channel % 2 == 0) {
        codes[channel / 2] = u8(code | next << 4);
    }
}

// Stores a row of f32, of which all threads of the block see all values.
FN void encode_row(const f32 *row, const RowFormat &format, u8 *out) {
    u32 rounded = format.width - format.tail, warps = threads_x() / 32;
    u8 *tail = out;
    if (format.kind == ROW_F32) {
        for (u32 i = thread_x(); i < format.width; i += threads_x()) {
            reinterpret_cast<f32 *>(out)[i] = row[i];
        }
        return;
    } else if (format.kind == ROW_E4M3_64) {
        for (u32 block = warp(); block < rounded / 64; block += warps) {
            u32 low = block * 64 + lane(), high = low + 32;
            u32 a = magnitude_bits(row[low]), b = magnitude_bits(row[high]);
            u32 scale = e4m3_block_scale(block_largest(a > b ? a : b, 32));
            f32 inverse = inverse_e8m0(scale);
            out[low] = u8(e4m3_code(mul_ff(row[low], inverse)));
            out[high] = u8(e4m3_code(mul_ff(row[high], inverse)));
            if (lane() == 0) {
                out[rounded + block] = u8(scale);
            }
        }
        tail = out + rounded + rounded / 64;
    } else if (format.kind == ROW_E4M3_32) {
        for (u32 block = warp(); block < rounded / 32; block += warps) {
            u32 c = block * 32 + lane();
            u32 scale = e4m3_block_scale(block_largest(magnitude_bits(row[c]), 32));
            out[c] = u8(e4m3_code(mul_ff(row[c], inverse_e8m0(scale))));
            if (lane() == 0) {
                out[rounded + block] = u8(scale);
            }
        }
        tail = out + rounded + rounded / 32;
    } else if (format.kind == ROW_E2M1_32) {
        for (u32 block = warp(); block < rounded / 32; block += warps) {
            u32 c = block * 32 + lane();
            u32 scale = e2m1_block_scale(block_largest(magnitude_bits(row[c]), 32));
            store_halves(out, c, e2m1_code(mul_ff(row[c], inverse_e8m0(scale))), true);
            if (lane() == 0) {
                out[rounded / 2 + block] = u8(scale);
            }
        }
        tail = out + rounded / 2 + rounded / 32;
    } else {
        // Two blocks a warp, the last of which may be one.
        for (u32 start = warp() * 32; start < rounded; start += warps * 32) {
            u32 c = start + lane();
            bool there = c < rounded;
            f32 x = there ? row[c] : 0.0f;
            u32 scale = e2m1_block_scale_e4m3(block_largest(magnitude_bits(x), 16));
            store_halves(out, c, e2m1_code(div_ff(x, e4m3_value(scale))), there);
            if (there && lane() % 16 == 0) {
                out[rounded / 2 + c / 16] = u8(scale);
            }
        }
        tail = out + rounded / 2 + rounded / 16;
    }
    for (u32 i = thread_x(); i < format.tail; i += threads_x()) {
        u32 code = bf16_code(row[rounded + i]);
        tail[2 * i] = u8(code);
        tail[2 * i + 1] = u8(code >> 8);
    }
}

// Channel c of a stored row.
FN f32 decode_channel(const u8 *row, const RowFormat &format, u32 c) {
    if (format.kind == ROW_F32) {
        return reinterpret_cast<const f32 *>(row)[c];
    }
    u32 rounded = format.width - format.tail;
    bool halves = format.kind == ROW_E2M1_32 || format.kind == ROW_E2M1_16;
    u32 block = format.kind == ROW_E4M3_64 ? 64 : format.kind == ROW_E2M1_16 ? 16 : 32;
    const u8 *scales = row + (halves ? rounded / 2 : rounded);
    if (c >= rounded) {
        const u8 *code = scales + rounded / block + 2 * (c - rounded);
        return bf16_value(code[0] | u32(code[1]) << 8);
    }
    u32 scale = scales[c / block];
    if (halves) {
        u32 code = row[c / 2] >> (c % 2 * 4) & 15u;
        return mul_ff(e2m1_value(code),
                      format.kind == ROW_E2M1_16 ? e4m3_value(scale) : e8m0_value(scale));
    }
    return mul_ff(e4m3_value(row[c]), e8m0_value(scale));
}

// The Walsh-Hadamard transform of `width` values in shared memory, a power of two, by the lanes
// of a warp. Others may read them after the next sync.
FN void hadamard(f32 *v, u32 width) {
    for (u32 half = 1; half < width; half *= 2) {
        for (u32 i = lane(); i < width / 2; i += 32) {
            u32 low = (i & ~(half - 1)) * 2 + (i & (half - 1));
            f32 a = v[low], b = v[low + half];
            v[low] = add_ff(a, b);
            v[low + half] = add_ff(a, -b);
        }
        sync_warp(FULL_MASK);
    }
    f32 scale = div_ff(1.0f, sqrt_ff(u2f(width)));
    for (u32 i = lane(); i < width; i += 32) {
        v[i] = mul_ff(v[i], scale);
    }
    sync_warp(FULL_MASK);
}
