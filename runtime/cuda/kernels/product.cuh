// What products of weights and activations have in common.

#pragma once

#include "quantise.cuh"

// Matrices of `rows` rows of weights. Block (., y, z) of a grid multiplies matrix z of part y;
// see Product in src/args/product.rs.
struct Product {
    f32 *y;
    const u8 *w;
    const u64 *weights;
    const u32 *starts;
    const u32 *pairs;
    u64 w_part;
    u64 w_matrix;
    u64 y_matrix;
    u32 y_part;
    u32 y_stride;
    u32 x_part;
    u32 x_stride;
    u32 rows;
    u32 columns;
    u32 inputs;
    u32 inputs_of_x;
};

// What this block multiplies.
struct Part {
    const u8 *w;
    f32 *y;
    u32 x; // where a row of x begins, less that of row 0
    u32 first;
    u32 count;
};

// False if there is nothing to do.
FN bool part_of(const Product &product, Part &part) {
    u32 index = block_y();
    part.first = product.starts ? product.starts[index] : 0;
    part.count = product.starts ? product.starts[index + 1] - part.first : product.inputs;
    u64 w = product.weights ? product.weights[index]
                            : reinterpret_cast<u64>(product.w) + index * product.w_part;
    part.w = global_at(w) + block_z() * product.w_matrix;
    part.y = product.y + u64(index) * product.y_part + block_z() * product.y_matrix;
    part.x = index * product.x_part;
    return w != 0 && part.count != 0;
}

// Which row of y is number `item` of the part's, at most the last one.
FN u32 pair_of(const Product &product, const Part &part, u32 item) {
    item = part.first + (item < part.count ? item : part.count - 1);
    return product.pairs ? product.pairs[item] : item;
}
// Where the row of x begins that such a row of y is a product of, in what x_stride counts.
FN u32 x_of(const Product &product, const Part &part, u32 pair) {
    return part.x + pair / product.inputs_of_x * product.x_stride;
}
