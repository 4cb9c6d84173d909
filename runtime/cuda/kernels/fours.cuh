// Stored rows four channels at a time: a load each, and a store of 16 bytes. Blocks, codes and
// tails of all formats are whole fours.

#pragma once

#include "cache.cuh"

struct alignas(16) Four {
    f32 v[4];
};
struct alignas(16) FourWords {
    u32 w[4];
};

FN Four load_four(const f32 *at) { return *reinterpret_cast<const Four *>(at); }

// Where the parts of a row are, in bytes from its start.
struct RowLayout {
    u32 kind;
    u32 rounded; // channels before the tail
    u32 block;
    u32 scales;
    u32 tail;
};

FN RowLayout layout_of(const RowFormat &format) {
    u32 kind = format.kind, rounded = format.width - format.tail;
    bool halves = kind == ROW_E2M1_32 || kind == ROW_E2M1_16;
    u32 block = kind == ROW_E4M3_64 ? 64 : kind == ROW_E2M1_16 ? 16 : 32;
    u32 scales = halves ? rounded / 2 : rounded;
    return {kind, kind == ROW_F32 ? format.width : rounded, block, scales,
            scales + rounded / block};
}

// One of two, field by field: a choice between addresses would put both in memory.
FN RowLayout one_of(bool first, const RowLayout &a, const RowLayout &b) {
    return {first ? a.kind : b.kind, first ? a.rounded : b.rounded, first ? a.block : b.block,
            first ? a.scales : b.scales, first ? a.tail : b.tail};
}

// What is stored of four channels.
struct RawFour {
    u32 words[4];
    u32 scale;
};

// Loads channels c to c + 3 of a row, whose start and length in memory are multiples of 4 (of 16
// where it is f32).
FN RawFour load_raw(const u8 *row, const RowLayout &layout, u32 c) {
    RawFour raw = {{0, 0, 0, 0}, 0};
    if (layout.kind == ROW_F32) {
        FourWords four = *reinterpret_cast<const FourWords *>(row + 4 * c);
        UNROLL for (u32 i = 0; i < 4; i++) {
            raw.words[i] = four.w[i];
        }
    } else if (c >= layout.rounded) {
        // Eight bytes that may begin anywhere, out of the words around them.
        u32 at = layout.tail + 2 * (c - layout.rounded), skip = at % 4;
        const u32 *words = reinterpret_cast<const u32 *>(row + (at - skip));
        u32 last = skip == 0 ? 0 : words[2];
        u32 select = 0x3210 + skip * 0x1111;
        raw.words[0] = byte_perm(words[0], words[1], select);
        raw.words[1] = byte_perm(words[1], last, select);
    } else {
        raw.scale = row[layout.scales + c / layout.block];
        if (layout.kind == ROW_E2M1_32 || layout.kind == ROW_E2M1_16) {
            raw.words[0] = *reinterpret_cast<const u16 *>(row + c / 2);
        } else {
            raw.words[0] = *reinterpret_cast<const u32 *>(row + c);
        }
    }
    return raw;
}

// The values of what was loaded of channels from c on.
FN Four decode_raw(const RawFour &raw, const RowLayout &layout, u32 c) {
    Four four;
    if (layout.kind == ROW_F32) {
        UNROLL for (u32 i = 0; i < 4; i++) {
            four.v[i] = float_of(raw.words[i]);
        }
    } else if (c >= layout.rounded) {
        UNROLL for (u32 i = 0; i < 4; i++) {
            four.v[i] = bf16_value(raw.words[i / 2] >> i % 2 * 16 & 0xffff);
        }
    } else if (layout.kind == ROW_E2M1_32 || layout.kind == ROW_E2M1_16) {
        f32 scale = layout.kind == ROW_E2M1_16 ? e4m3_value(raw.scale) : e8m0_value(raw.scale);
        UNROLL for (u32 i = 0; i < 4; i++) {
            four.v[i] = mul_ff(e2m1_value(raw.words[0] >> 4 * i & 15u), scale);
        }
    } else {
        f32 scale = e8m0_value(raw.scale);
        UNROLL for (u32 i = 0; i < 4; i++) {
            four.v[i] = mul_ff(e4m3_value(raw.words[0] >> 8 * i & 255u), scale);
        }
    }
    return four;
}
