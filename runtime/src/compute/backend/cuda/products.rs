//! Products of weights and activations.

use std::cell::OnceCell;
use std::sync::Arc;

use v4_cuda::Driver;
use v4_cuda::args::{
    Int8Rows, MM_INPUTS, MM_ROWS, MM_SHARED_BYTES, MM_THREADS, MMQ_INPUTS, MMQ_ROWS, MMQ_THREADS,
    MMV_DECODED_BYTES, MMV_THREADS, OrderInt8, OrderedRows, Product, ProductF32, ProductI8,
    ProductMany, Quantise, ROW_THREADS, mmq_shared_bytes, places_of_row,
};
use v4_cuda::driver::Extent;
use v4_quant::GgmlType;

use super::buf::Buf;
use super::device::{Device, threads_for};
use super::space::Space;
use super::weights::Weight;
use crate::compute::backend::cpu::Precision;
use crate::compute::backend::{LowRank, WeightRows};
use crate::error::CardError;

/// Rows of weights that a block of threads takes at a time, in int8 and in float32, where rows of
/// activations are few.
const INT8_ROWS: usize = 16;
const FLOAT_ROWS: usize = 8;
/// Blocks of threads of a part at most; each goes on with further rows.
const MOST_BLOCKS: usize = 4096;
/// From so many rows of activations of a part on, products are made tile by tile: few rows read
/// the weights once for every 8. An estimate, which no card has confirmed; bits are the same.
const MANY: usize = 17;

/// Rows of activations, rounded to int8 if weights want that.
#[derive(Debug)]
pub(super) struct Activations<D: Driver> {
    start: u64,
    /// Values of all rows, and of one as products take them.
    len: usize,
    columns: usize,
    int8: Option<(Space<D>, Int8Rows)>,
    /// The same as products of many rows visit them, once one was asked for.
    ordered: OnceCell<(Space<D>, OrderedRows)>,
}

impl<D: Driver> Activations<D> {
    /// `len` values in float32 at that address, in rows of `columns`.
    pub(super) fn floats(start: u64, len: usize, columns: usize) -> Self {
        Self {
            start,
            len,
            columns,
            int8: None,
            ordered: OnceCell::new(),
        }
    }

    /// The same, rounded already; there are no others.
    pub(super) fn rounded(room: (Space<D>, Int8Rows), len: usize, columns: usize) -> Self {
        Self {
            int8: Some(room),
            ..Self::floats(0, len, columns)
        }
    }

    /// The rows in int8 as products of many rows visit them.
    fn ordered(&self, device: &Arc<Device<D>>, x: Int8Rows) -> Result<OrderedRows, CardError> {
        if let Some((_, rows)) = self.ordered.get() {
            return Ok(*rows);
        }
        let blocks = (self.columns / 32) as u32;
        let places = self.len / self.columns.max(1) * places_of_row(blocks) as usize;
        let space = Space::new(device, (32 + 4 * 4) * places)?;
        let floats = |number: usize| space.start() + ((32 + 4 * number) * places) as u64;
        let rows = OrderedRows {
            q: space.start(),
            d: floats(0),
            sums: floats(1),
            first_sums: floats(2),
            last_sums: floats(3),
        };
        let args = OrderInt8 {
            to: rows,
            x,
            places: places as u64,
            blocks,
            unused: 0,
        };
        let extent = threads_for(places, ROW_THREADS);
        device.launch(&device.kernels().ordered.order_int8, extent, &args)?;
        Ok(self.ordered.get_or_init(|| (space, rows)).1)
    }
}

/// Room for so many values in int8, whole blocks of 32.
pub(super) fn int8_room<D: Driver>(
    device: &Arc<Device<D>>,
    values: usize,
) -> Result<(Space<D>, Int8Rows), CardError> {
    let blocks = values / 32;
    let space = Space::new(device, values + 8 * blocks)?;
    let rows = Int8Rows {
        q: space.start(),
        d: space.start() + values as u64,
        sums: space.start() + (values + 4 * blocks) as u64,
    };
    Ok((space, rows))
}

/// Parts of a product whose inputs are listed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lists {
    /// Address of where each part's list begins.
    pub starts: u64,
    /// Address of the lists.
    pub pairs: u64,
    /// Rows of y that each row of x has.
    pub inputs_of_x: usize,
    /// Address of the addresses of the parts' matrices, or 0 if these follow each other.
    pub matrices: u64,
}

/// Where a product's operands are. Strides count values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// Address of the results.
    pub y: u64,
    /// From the results of a part to those of the next one.
    pub y_part: usize,
    /// From row to row of them.
    pub y_stride: usize,
    /// From the activations of a part to those of the next one.
    pub x_part: usize,
    /// From row to row of them.
    pub x_stride: usize,
    /// Parts.
    pub parts: usize,
    /// Rows of weights of a part.
    pub rows: usize,
    /// Rows of activations that a part has, at most where they are listed.
    pub inputs: usize,
    /// Rows that a part has on average.
    pub usual: usize,
    /// Their lists, if they are not the same for all parts.
    pub lists: Option<Lists>,
}

/// What a product in float32 does besides.
#[derive(Debug, Clone, Copy)]
struct Extra {
    scale: f32,
    adds: bool,
}

/// Weights on the card, wherever they come from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    pub ty: GgmlType,
    /// Address of the first row.
    pub start: u64,
    pub cols: usize,
    pub row_bytes: usize,
    /// Address of the type's codebook, or 0.
    pub codebook: u64,
}

impl<D: Driver> Device<D> {
    /// Whether products with this type take activations in int8.
    pub(super) fn is_int8(&self, ty: GgmlType, precision: Precision) -> bool {
        precision == Precision::Fast && self.kernels().few_int8(ty, 1).is_some()
    }
}

/// Activations for weights of these types, in rows of `columns`.
pub(super) fn activations<D: Driver>(
    device: &Arc<Device<D>>,
    precision: Precision,
    x: &Buf<D>,
    columns: usize,
    types: &[GgmlType],
) -> Result<Activations<D>, CardError> {
    let floats = Activations::floats(x.start(), x.len(), columns);
    if !types.iter().any(|&ty| device.is_int8(ty, precision)) {
        return Ok(floats);
    }
    let room = int8_room(device, x.len())?;
    let args = Quantise {
        to: room.1,
        x: x.start(),
        blocks: x.len() as u64 / 32,
    };
    let extent = threads_for(x.len(), ROW_THREADS);
    device.launch(&device.kernels().rows.quantise, extent, &args)?;
    Ok(Activations {
        int8: Some(room),
        ..floats
    })
}

/// Multiplies every part of a matrix with its activations.
pub(super) fn multiply<D: Driver>(
    device: &Arc<Device<D>>,
    precision: Precision,
    w: &Weight<D>,
    x: &Activations<D>,
    layout: &Layout,
) -> Result<(), CardError> {
    let tensor = w.tensor();
    let rows = Rows {
        ty: tensor.ty(),
        start: w.start()?,
        cols: tensor.cols(),
        row_bytes: tensor.row_bytes(),
        codebook: w.codebook(),
    };
    multiply_rows(device, precision, rows, x, layout)
}

/// The same with weights that need not be a model's.
pub(super) fn multiply_rows<D: Driver>(
    device: &Arc<Device<D>>,
    precision: Precision,
    rows: Rows,
    x: &Activations<D>,
    layout: &Layout,
) -> Result<(), CardError> {
    match &x.int8 {
        Some((_, int8)) if device.is_int8(rows.ty, precision) => {
            int8_product(device, rows, x, *int8, layout)
        }
        _ => {
            let extra = Extra {
                scale: 1.0,
                adds: false,
            };
            float_product(device, rows, x.start, layout, extra)
        }
    }
}

/// The part of the arguments that all products have. `strides` are those of activations, to the
/// next part and to the next row, in whatever the kernel counts.
fn product_args(w: Rows, layout: &Layout, strides: [usize; 2]) -> Product {
    let lists = layout.lists;
    Product {
        y: layout.y,
        w: w.start,
        weights: lists.map_or(0, |lists| lists.matrices),
        starts: lists.map_or(0, |lists| lists.starts),
        pairs: lists.map_or(0, |lists| lists.pairs),
        w_part: (layout.rows * w.row_bytes) as u64,
        w_matrix: 0,
        y_matrix: 0,
        y_part: layout.y_part as u32,
        y_stride: layout.y_stride as u32,
        x_part: strides[0] as u32,
        x_stride: strides[1] as u32,
        rows: layout.rows as u32,
        columns: w.cols as u32,
        inputs: layout.inputs as u32,
        inputs_of_x: lists.map_or(1, |lists| lists.inputs_of_x) as u32,
    }
}

/// Blocks for each part and `rows_at_a_time` rows of weights.
fn few(layout: &Layout, rows_at_a_time: usize) -> Extent {
    blocks(layout, layout.rows.div_ceil(rows_at_a_time), MMV_THREADS)
}

/// Blocks for each part and each tile of `rows` rows of weights and `inputs` rows of activations.
fn tiles(layout: &Layout, rows: u32, inputs: u32, threads: u32) -> Extent {
    // Parts that have more rows than most are multiplied by blocks that take several tiles.
    let usual = layout.inputs.min(match layout.lists {
        Some(_) => 2 * layout.usual,
        None => layout.usual,
    });
    let of_rows = layout.rows.div_ceil(rows as usize);
    blocks(layout, of_rows * usual.div_ceil(inputs as usize), threads)
}

fn blocks(layout: &Layout, of_part: usize, threads: u32) -> Extent {
    let blocks = if layout.inputs == 0 { 0 } else { of_part };
    let blocks = blocks.min(MOST_BLOCKS) as u32;
    Extent::grid([blocks, layout.parts as u32, 1], threads)
}

fn int8_product<D: Driver>(
    device: &Arc<Device<D>>,
    w: Rows,
    acts: &Activations<D>,
    x: Int8Rows,
    layout: &Layout,
) -> Result<(), CardError> {
    let none = || CardError::NoKernel {
        what: format!("products of {} in int8", w.ty),
    };
    let strides = [layout.x_part, layout.x_stride];
    if layout.usual < MANY {
        let kernel = device.kernels().few_int8(w.ty, layout.inputs);
        let args = ProductI8 {
            product: product_args(w, layout, strides.map(|values| values / 32)),
            x,
            codebook: w.codebook,
        };
        let book = v4_quant::codebook(w.ty).len() as u32;
        let extent = few(layout, INT8_ROWS).with_shared(book);
        return device.launch(kernel.ok_or_else(none)?, extent, &args);
    }
    let kernel = device.kernels().many_int8(w.ty).ok_or_else(none)?;
    let places = places_of_row((acts.columns / 32) as u32) as usize;
    let args = ProductMany {
        product: product_args(
            w,
            layout,
            strides.map(|values| values / acts.columns * places),
        ),
        x: acts.ordered(device, x)?,
        codebook: w.codebook,
    };
    let extent = tiles(layout, MMQ_ROWS, MMQ_INPUTS, MMQ_THREADS);
    device.launch(kernel, extent.with_shared(mmq_shared_bytes(w.ty)), &args)
}

fn float_product<D: Driver>(
    device: &Device<D>,
    w: Rows,
    x: u64,
    layout: &Layout,
    extra: Extra,
) -> Result<(), CardError> {
    let args = ProductF32 {
        product: product_args(w, layout, [layout.x_part, layout.x_stride]),
        x,
        codebook: w.codebook,
        ty: w.ty.id(),
        row_bytes: w.row_bytes as u32,
        scale: extra.scale,
        adds: u32::from(extra.adds),
    };
    if layout.usual >= MANY
        && let Some(kernel) = device.kernels().many_floats(w.ty)
    {
        let extent = tiles(layout, MM_ROWS, MM_INPUTS, MM_THREADS);
        return device.launch(kernel, extent.with_shared(MM_SHARED_BYTES), &args);
    }
    let float = matches!(w.ty, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16);
    let shared = if float { 0 } else { MMV_DECODED_BYTES };
    let kernel = device.kernels().few_floats(w.ty, layout.inputs);
    let extent = few(layout, FLOAT_ROWS).with_shared(shared);
    device.launch(kernel, extent, &args)
}

/// `y = x w^T` in `groups` parts, see `Backend::matmul_grouped`; y has its shape and memory.
pub(super) fn grouped<D: Driver>(
    device: &Arc<Device<D>>,
    precision: Precision,
    w: &Weight<D>,
    groups: usize,
    x: &Activations<D>,
    y: (u64, usize),
) -> Result<(), CardError> {
    let (n, k) = (w.tensor().rows(), w.tensor().cols());
    let layout = Layout {
        y: y.0,
        y_part: n / groups,
        y_stride: n,
        x_part: k,
        x_stride: groups * k,
        parts: groups,
        rows: n / groups,
        inputs: y.1,
        usual: y.1,
        lists: None,
    };
    multiply(device, precision, w, x, &layout)
}

/// `y += scale (x a^T) b^T`, group by group.
pub(super) fn add_low_rank<D: Driver>(
    device: &Arc<Device<D>>,
    w: LowRank<'_>,
    x: &Buf<D>,
    y: &Buf<D>,
) -> Result<(), CardError> {
    let (rank, n, m) = (w.a.count(), y.cols(), x.rows() * w.groups);
    let inner = Space::new(device, 4 * m * rank)?;
    let mut spaces = Vec::new();
    let mut put = |of: WeightRows<'_>| {
        let space = Space::new(device, of.data.len().next_multiple_of(16))?;
        space.write(0, of.data)?;
        let rows = Rows {
            ty: of.ty,
            start: space.start(),
            cols: of.cols,
            row_bytes: of.row_bytes(),
            codebook: device.codebook(of.ty)?,
        };
        spaces.push(space);
        Ok::<_, CardError>(rows)
    };
    let (a, b) = (put(w.a)?, put(w.b)?);
    let first = Layout {
        y: inner.start(),
        y_part: 0,
        y_stride: rank,
        x_part: 0,
        x_stride: w.a.cols,
        parts: 1,
        rows: rank,
        inputs: m,
        usual: m,
        lists: None,
    };
    let scaled = Extra {
        scale: w.scale,
        adds: false,
    };
    float_product(device, a, x.start(), &first, scaled)?;
    let second = Layout {
        y: y.start(),
        y_part: n / w.groups,
        y_stride: n,
        x_part: rank,
        x_stride: w.groups * rank,
        parts: w.groups,
        rows: n / w.groups,
        inputs: x.rows(),
        usual: x.rows(),
        lists: None,
    };
    let added = Extra {
        scale: 1.0,
        adds: true,
    };
    float_product(device, b, inner.start(), &second, added)
}
