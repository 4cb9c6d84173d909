// Hyper-connections: mixes, collapses, expansions.

#include "hyper.cuh"
#include "quantise.cuh"

struct HcMix {
    f32 *mix;
    const f32 *h;
    Site site;
    u64 width;
};

// The mix of row block_x(), (2 + s) s values, from its raw products and the inverse RMS of its
// streams, `width` values together. The mix may take the products' place.
KERNEL_THREADS(hc_mix, HcMix, ROW_THREADS) {
    const Site &site = args.site;
    u32 s = site.streams, mixes = (2 + s) * s, i = thread_x();
    u32 width = u32(args.width);
    f32 *lanes = shared<f32>(0);
    f32 r = inverse_rms(args.h + u64(block_x()) * width, width, site.norm_eps, lanes);
    const f32 *m = site.products + u64(block_x()) * mixes;
    f32 *out = args.mix + u64(block_x()) * mixes;
    // Thread i has value i of pre and post, and value i of comb; of four streams, both halves of
    // the first warp have comb. Nobody else reads a product that a thread overwrites.
    f32 own = 0.0f, comb = 0.0f;
    if (i < 2 * s) {
        own = sigmoid(fma_ff(mul_ff(m[i], r), site.scale[i / s], site.base[i]));
        own = i < s ? add_ff(own, site.eps) : mul_ff(2.0f, own);
    }
    if (s == 4 ? i < 32 : i < s * s) {
        u32 at = 2 * s + (s == 4 ? i % 16 : i);
        comb = fma_ff(mul_ff(m[at], r), site.scale[2], site.base[at]);
    }
    if (s == 4) {
        if (warp() == 0) {
            comb = sinkhorn_of_four(comb, site.iterations, site.eps);
        }
    } else {
        comb = sinkhorn(comb, s, site.iterations, site.eps, lanes);
    }
    if (i < 2 * s) {
        out[i] = own;
    }
    if (i < s * s) {
        out[2 * s + i] = comb;
    }
}

struct HcFirstStream {
    f32 *mix;
    u32 rows;
    u32 streams;
};

// Rows of `streams` values that collapse to the first stream.
KERNEL(hc_first_stream, HcFirstStream) {
    u32 i = block_x() * threads_x() + thread_x();
    if (i < args.rows * args.streams) {
        args.mix[i] = i % args.streams == 0 ? 1.0f : 0.0f;
    }
}

// sum_i pre_i h_i of channel c, over up to `most` streams, which lie `width` apart.
template <u32 most>
FN f32 collapsed(const f32 *h, const f32 *pre, u32 streams, u32 width, u32 c) {
    f32 x = 0.0f;
    UNROLL for (u32 i = 0; i < most; i++) {
        x = i < streams ? fma_ff(pre[i], h[u64(i) * width + c], x) : x;
    }
    return x;
}

// use(c, collapse) for every channel of this thread's lane.
template <class Use>
FN void collapse_row(const f32 *h, const f32 *pre, u32 streams, u32 width, Use use) {
    if (streams <= 4) {
        auto load = [&](u32 c) { return collapsed<4>(h, pre, streams, width, c); };
        each_of_lane<4>(width, load, use);
    } else {
        auto load = [&](u32 c) { return collapsed<MAX_STREAMS>(h, pre, streams, width, c); };
        each_of_lane<1>(width, load, use);
    }
}

struct HcCollapse {
    f32 *x;
    const f32 *h;
    const f32 *mix;
    const f32 *gain;
    Int8Rows to;
    u32 width;
    u32 streams;
    u32 mix_stride;
    f32 eps;
};

// Row block_x() of the collapse: pre are the first values of row block_x() of `mix`, of
// `mix_stride` values. With gains it is normalised, and if there is room for it rounded to int8.
KERNEL_THREADS(hc_collapse, HcCollapse, ROW_THREADS) {
    u32 width = args.width;
    const f32 *h = args.h + u64(block_x()) * args.streams * width;
    const f32 *pre = args.mix + u64(block_x()) * args.mix_stride;
    u64 start = u64(block_x()) * width;
    f32 squares = 0.0f;
    collapse_row(h, pre, args.streams, width, [&](u32 c, f32 x) {
        squares = fma_ff(x, x, squares);
        args.x[start + c] = x;
    });
    if (!args.gain) {
        return;
    }
    f32 r = inverse_rms_of(squares, width, args.eps, shared<f32>(0));
    auto norm = [&](u32 c) { return mul_ff(mul_ff(args.x[start + c], r), args.gain[c]); };
    each_of_lane<4>(width, norm, [&](u32 c, f32 x) {
        args.x[start + c] = x;
        if (args.to.q) {
            quantise_block(x, args.to, (start + c) / 32);
        }
    });
}

struct HcExpand {
    f32 *h;
    const f32 *y;
    const f32 *mix;
    u32 rows;
    u32 width;
    u32 streams;
    u32 unused;
};

// All streams of one channel, of which there are up to `most`.
template <u32 most>
FN void expand_channel(f32 *h, f32 y, const f32 *mix, u32 streams, u32 width) {
    const f32 *post = mix + streams, *comb = post + streams;
    f32 old[most];
    UNROLL for (u32 j = 0; j < most; j++) {
        old[j] = j < streams ? h[u64(j) * width] : 0.0f;
    }
    for (u32 k = 0; k < streams; k++) {
        f32 sum = mul_ff(post[k], y);
        UNROLL for (u32 j = 0; j < most; j++) {
            sum = j < streams ? fma_ff(comb[j * streams + k], old[j], sum) : sum;
        }
        h[u64(k) * width] = sum;
    }
}

// h_k = post_k y + sum_j comb[j][k] h_j. A thread for each channel of each row.
KERNEL_THREADS(hc_expand, HcExpand, ROW_THREADS) {
    u64 i = u64(block_x()) * threads_x() + thread_x();
    u32 width = args.width, streams = args.streams;
    if (i >= u64(args.rows) * width) {
        return;
    }
    u32 row = u32(i / width), c = u32(i - u64(row) * width);
    f32 *h = args.h + u64(row) * streams * width + c;
    const f32 *mix = args.mix + u64(row) * (2 + streams) * streams;
    if (streams <= 4) {
        expand_channel<4>(h, args.y[i], mix, streams, width);
    } else {
        expand_channel<MAX_STREAMS>(h, args.y[i], mix, streams, width);
    }
}

struct HcHead {
    f32 *x;
    const f32 *h;
    Site site;
    u64 width;
};

// The final collapse of row block_x(), by weights of its own: s raw products a row, one scale.
KERNEL_THREADS(hc_head, HcHead, ROW_THREADS) {
    const Site &site = args.site;
    u32 s = site.streams, width = u32(args.width);
    f32 *lanes = shared<f32>(0);
    f32 *pre = shared<f32>(SUM_BYTES);
    const f32 *h = args.h + u64(block_x()) * s * width;
    f32 r = inverse_rms(h, s * width, site.norm_eps, lanes);
    if (thread_x() < s) {
        f32 m = site.products[u64(block_x()) * s + thread_x()];
        f32 v = fma_ff(mul_ff(m, r), site.scale[0], site.base[thread_x()]);
        pre[thread_x()] = add_ff(sigmoid(v), site.eps);
    }
    sync();
    f32 *out = args.x + u64(block_x()) * width;
    collapse_row(h, pre, s, width, [&](u32 c, f32 x) { out[c] = x; });
}
