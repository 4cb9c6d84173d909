//! Products of weights and activations.

use std::sync::Arc;

use v4_cuda::Driver;
use v4_cuda::args::{
    Int8Rows, MMV_DECODED_BYTES, MMV_THREADS, Product, ProductF32, ProductI8, Quantise, ROW_THREADS,
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

/// Rows of weights that a block of threads takes at a time, in int8 and in float32.
const INT8_ROWS: usize = 16;
const FLOAT_ROWS: usize = 8;
/// Blocks of threads of a part at most; each goes on with further rows.
const MOST_BLOCKS: usize = 4096;

/// Rows of activations, rounded to int8 if weights want that.
#[derive(Debug)]
pub(super) struct Activations<D: Driver> {
    start: u64,
    int8: Option<(Space<D>, Int8Rows)>,
}

impl<D: Driver> Activations<D> {
    /// In float32, at that address.
    pub(super) fn floats(start: u64) -> Self {
        Self { start, int8: None }
    }

    /// Rounded already; there are no others.
    pub(super) fn rounded((space, rows): (Space<D>, Int8Rows)) -> Self {
        Self {
            start: 0,
            int8: Some((space, rows)),
        }
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
struct Rows {
    ty: GgmlType,
    start: u64,
    cols: usize,
    row_bytes: usize,
    codebook: u64,
}

impl<D: Driver> Device<D> {
    /// Whether products with this type take activations in int8.
    pub(super) fn is_int8(&self, ty: GgmlType, precision: Precision) -> bool {
        precision == Precision::Fast && self.kernels().few_int8(ty, 1).is_some()
    }
}

/// Activations for weights of these types.
pub(super) fn activations<D: Driver>(
    device: &Arc<Device<D>>,
    precision: Precision,
    x: &Buf<D>,
    types: &[GgmlType],
) -> Result<Activations<D>, CardError> {
    let int8 = if types.iter().any(|&ty| device.is_int8(ty, precision)) {
        let room = int8_room(device, x.len())?;
        let args = Quantise {
            to: room.1,
            x: x.start(),
            blocks: x.len() as u64 / 32,
        };
        let extent = threads_for(x.len(), ROW_THREADS);
        device.launch(&device.kernels().rows.quantise, extent, &args)?;
        Some(room)
    } else {
        None
    };
    Ok(Activations {
        start: x.start(),
        int8,
    })
}

/// Multiplies every part of a matrix with its activations.
pub(super) fn multiply<D: Driver>(
    device: &Device<D>,
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
    match &x.int8 {
        Some((_, int8)) if device.is_int8(rows.ty, precision) => {
            int8_product(device, rows, *int8, layout)
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

/// The part of the arguments that all products have; `unit` values make up one in which strides
/// of activations are counted.
fn product_args(w: Rows, layout: &Layout, unit: usize) -> Product {
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
        x_part: (layout.x_part / unit) as u32,
        x_stride: (layout.x_stride / unit) as u32,
        rows: layout.rows as u32,
        columns: w.cols as u32,
        inputs: layout.inputs as u32,
        inputs_of_x: lists.map_or(1, |lists| lists.inputs_of_x) as u32,
    }
}

fn extent(layout: &Layout, rows_at_a_time: usize) -> Extent {
    let blocks = layout.rows.div_ceil(rows_at_a_time).min(MOST_BLOCKS);
    let blocks = if layout.inputs == 0 { 0 } else { blocks };
    Extent::grid([blocks as u32, layout.parts as u32, 1], MMV_THREADS)
}

fn int8_product<D: Driver>(
    device: &Device<D>,
    w: Rows,
    x: Int8Rows,
    layout: &Layout,
) -> Result<(), CardError> {
    let Some(kernel) = device.kernels().few_int8(w.ty, layout.inputs) else {
        return Err(CardError::NoKernel {
            what: format!("products of {} in int8", w.ty),
        });
    };
    let args = ProductI8 {
        product: product_args(w, layout, 32),
        x,
        codebook: w.codebook,
    };
    let book = v4_quant::codebook(w.ty).len() as u32;
    let extent = extent(layout, INT8_ROWS).with_shared(book);
    device.launch(kernel, extent, &args)
}

fn float_product<D: Driver>(
    device: &Device<D>,
    w: Rows,
    x: u64,
    layout: &Layout,
    extra: Extra,
) -> Result<(), CardError> {
    let args = ProductF32 {
        product: product_args(w, layout, 1),
        x,
        codebook: w.codebook,
        ty: w.ty.id(),
        row_bytes: w.row_bytes as u32,
        scale: extra.scale,
        adds: u32::from(extra.adds),
    };
    let float = matches!(w.ty, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16);
    let shared = if float { 0 } else { MMV_DECODED_BYTES };
    let kernel = device.kernels().few_floats(w.ty, layout.inputs);
    let extent = extent(layout, FLOAT_ROWS).with_shared(shared);
    device.launch(kernel, extent, &args)
}

/// `y = x w^T` in `groups` parts, see `Backend::matmul_grouped`; y has its shape and memory.
pub(super) fn grouped<D: Driver>(
    device: &Device<D>,
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
        lists: None,
    };
    let added = Extra {
        scale: 1.0,
        adds: true,
    };
    float_product(device, b, inner.start(), &second, added)
}
