//! Products of weights of all types with many rows of activations, and the decoding of weights.

use std::sync::Arc;

use v4_cuda::Driver;
use v4_cuda::args::{
    Decode, MM_INPUTS, MM_ROWS, MM_SHARED_BYTES, MM_THREADS, MMQ_INPUTS, MMQ_ROWS, MMQ_THREADS,
    MMV_DECODED_BYTES, MMV_THREADS, OrderInt8, OrderedRows, Product, ProductF32, ProductMany,
    Quantise, ROW_THREADS, mmq_shared_bytes, places_of_row,
};
use v4_cuda::driver::Extent;
use v4_quant::GgmlType;

use super::super::device::{Device, threads_for};
use super::super::products::int8_room;
use super::super::space::{Space, bits};
use super::activations::put;
use super::data::{Fill, activations, tensor, weights};
use super::functions::read;
use super::products::{FLOATS, WIDTHS, types};
use super::results::Results;
use super::{Bare, CheckScope, Items};
use crate::compute::backend::Backend;
use crate::compute::backend::cpu::{Cpu, Precision};
use crate::error::{CardError, EngineError};

pub(super) fn add<D: Driver>(items: &mut Items<D>, scope: CheckScope) {
    for ty in types() {
        let least = ty.block_values().max(32);
        let mut shapes = vec![[19, 2 * least, 9], [70, 5 * least, 33]];
        if scope == CheckScope::Full {
            shapes.push([MMQ_ROWS as usize + 1, 3 * least, MMQ_INPUTS as usize + 1]);
            shapes.extend(WIDTHS.map(|columns| [21, columns, 40]));
        }
        items.bare(
            format!("products of {ty}, many tokens"),
            Many { ty, shapes },
        );
        if !FLOATS.contains(&ty) {
            items.bare(format!("decoding of {ty}"), Decoding(ty, scope));
        }
    }
}

/// Rows, columns and tokens.
struct Many {
    ty: GgmlType,
    shapes: Vec<[usize; 3]>,
}

impl Many {
    fn name(&self, [rows, columns, tokens]: [usize; 3]) -> String {
        format!("{rows} rows of {columns} {}, {tokens} tokens", self.ty)
    }
}

/// A launch, and the memory that it uses.
pub(super) struct Ready<D: Driver> {
    args: Ask,
    extent: Extent,
    _held: Vec<Space<D>>,
}

/// Arguments of either kind.
enum Ask {
    Int8(ProductMany),
    Floats(ProductF32),
}

impl<D: Driver> Ready<D> {
    /// The product of weights of a type with rows of activations that are the host's, up to its
    /// last launch.
    pub(super) fn new(
        device: &Arc<Device<D>>,
        ty: GgmlType,
        product: Product,
        x: &[f32],
    ) -> Result<Self, CardError> {
        match FLOATS.contains(&ty) {
            true => Self::floats(device, ty, product, x),
            false => Self::int8(device, ty, product, x),
        }
    }

    /// Rounds, and puts into order.
    fn int8(
        device: &Arc<Device<D>>,
        ty: GgmlType,
        product: Product,
        x: &[f32],
    ) -> Result<Self, CardError> {
        let blocks = product.columns / 32;
        let floats = Space::of(device, &mut bits(x))?;
        let (room, from) = int8_room(device, x.len())?;
        let args = Quantise {
            to: from,
            x: floats.start(),
            blocks: x.len() as u64 / 32,
        };
        let extent = threads_for(x.len(), ROW_THREADS);
        device.launch(&device.kernels().rows.quantise, extent, &args)?;
        let places = product.inputs as usize * places_of_row(blocks) as usize;
        let ordered = Space::new(device, 48 * places)?;
        let part = |i: usize| ordered.start() + (i * places) as u64;
        let to = OrderedRows {
            q: part(0),
            d: part(32),
            sums: part(36),
            first_sums: part(40),
            last_sums: part(44),
        };
        let args = OrderInt8 {
            to,
            x: from,
            places: places as u64,
            blocks,
            unused: 0,
        };
        let extent = threads_for(places, ROW_THREADS);
        device.launch(&device.kernels().ordered.order_int8, extent, &args)?;
        let args = ProductMany {
            product: Product {
                x_stride: places_of_row(blocks),
                ..product
            },
            x: to,
            codebook: device.codebook(ty)?,
        };
        let tiles = product.rows.div_ceil(MMQ_ROWS) * product.inputs.div_ceil(MMQ_INPUTS);
        Ok(Self {
            args: Ask::Int8(args),
            extent: Extent::row(tiles, MMQ_THREADS).with_shared(mmq_shared_bytes(ty)),
            _held: vec![room, ordered],
        })
    }

    fn floats(
        device: &Arc<Device<D>>,
        ty: GgmlType,
        product: Product,
        x: &[f32],
    ) -> Result<Self, CardError> {
        let x = Space::of(device, &mut bits(x))?;
        let args = ProductF32 {
            product: Product {
                x_stride: product.columns,
                ..product
            },
            x: x.start(),
            codebook: 0,
            ty: ty.id(),
            row_bytes: product.columns * ty.block_bytes() as u32,
            scale: 1.0,
            adds: 0,
        };
        let tiles = product.rows.div_ceil(MM_ROWS) * product.inputs.div_ceil(MM_INPUTS);
        Ok(Self {
            args: Ask::Floats(args),
            extent: Extent::row(tiles, MM_THREADS).with_shared(MM_SHARED_BYTES),
            _held: vec![x],
        })
    }

    /// Queues the product.
    pub(super) fn launch(&self, device: &Device<D>, ty: GgmlType) -> Result<(), CardError> {
        let missing = || CardError::NoKernel {
            what: format!("products of many rows of {ty}"),
        };
        let kernels = device.kernels();
        match &self.args {
            Ask::Int8(args) => {
                let kernel = kernels.many_int8(ty).ok_or_else(missing)?;
                device.launch(kernel, self.extent, args)
            }
            Ask::Floats(args) => {
                let kernel = kernels.many_floats(ty).ok_or_else(missing)?;
                device.launch(kernel, self.extent, args)
            }
        }
    }
}

/// One matrix at `w` and `inputs` rows of activations, one after the other.
pub(super) fn plain(y: u64, w: u64, [rows, columns, inputs]: [usize; 3]) -> Product {
    Product {
        y,
        w,
        weights: 0,
        starts: 0,
        pairs: 0,
        w_part: 0,
        w_matrix: 0,
        y_matrix: 0,
        y_part: 0,
        y_stride: rows as u32,
        x_part: 0,
        x_stride: 0,
        rows: rows as u32,
        columns: columns as u32,
        inputs: inputs as u32,
        inputs_of_x: 1,
    }
}

impl Bare for Many {
    fn on_cpu(&self, out: &mut Results<'_>) -> Result<(), EngineError> {
        let cpu = Cpu::new(Precision::Fast);
        for (i, &[rows, columns, tokens]) in self.shapes.iter().enumerate() {
            let w = tensor(self.ty, Fill::Modest, [1, rows, columns], 50 + i as u32)?;
            let x = put(&cpu, &activations(tokens * columns, 51), columns);
            let mut y = Default::default();
            cpu.matmul(&cpu.load(&w)?, &x, &mut y);
            out.buf(&cpu, self.name([rows, columns, tokens]), &y);
        }
        Ok(())
    }

    fn on_card<D: Driver>(
        &self,
        device: &Arc<Device<D>>,
        out: &mut Results<'_>,
    ) -> Result<(), CardError> {
        for (i, &[rows, columns, tokens]) in self.shapes.iter().enumerate() {
            let bytes = weights(self.ty, Fill::Modest, rows * columns, 50 + i as u32);
            let w = device.put(&bytes)?;
            let x = activations(tokens * columns, 51);
            let y = Space::new(device, 4 * rows * tokens)?;
            let product = plain(y.start(), w.start().0, [rows, columns, tokens]);
            Ready::new(device, self.ty, product, &x)?.launch(device, self.ty)?;
            out.floats(
                self.name([rows, columns, tokens]),
                &read(&y, rows * tokens)?,
            );
        }
        Ok(())
    }
}

/// Weights of a type, decoded.
struct Decoding(GgmlType, CheckScope);

impl Decoding {
    fn values(&self) -> usize {
        match self.1 {
            CheckScope::Small => 256 * 5,
            CheckScope::Full => 256 * 137,
        }
    }

    fn fills() -> [(Fill, &'static str); 2] {
        [(Fill::Modest, "modest weights"), (Fill::Any, "any bytes")]
    }
}

impl Bare for Decoding {
    fn on_cpu(&self, out: &mut Results<'_>) -> Result<(), EngineError> {
        for (fill, name) in Self::fills() {
            let mut y = vec![0.0; self.values()];
            // Types and lengths are those that can be decoded; otherwise zeros are wrong.
            let _ = v4_quant::decode_row(self.0, &weights(self.0, fill, y.len(), 60), &mut y);
            out.floats(format!("{} values of {name}", y.len()), &y);
        }
        Ok(())
    }

    fn on_card<D: Driver>(
        &self,
        device: &Arc<Device<D>>,
        out: &mut Results<'_>,
    ) -> Result<(), CardError> {
        for (fill, name) in Self::fills() {
            let values = self.values();
            let w = device.put(&weights(self.0, fill, values, 60))?;
            let y = Space::new(device, 4 * values)?;
            let args = Decode {
                y: y.start(),
                w: w.start().0,
                codebook: device.codebook(self.0)?,
                runs: values as u64 / 32,
                ty: self.0.id(),
                unused: 0,
            };
            let extent = threads_for(values / 32, MMV_THREADS).with_shared(MMV_DECODED_BYTES);
            device.launch(&device.kernels().decode.decode, extent, &args)?;
            out.floats(format!("{values} values of {name}"), &read(&y, values)?);
        }
        Ok(())
    }
}
