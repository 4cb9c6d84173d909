//! Products of weights of all types with a few rows of activations and with many, as the backend
//! makes them.

use v4_cuda::Driver;
use v4_cuda::args::MMQ_INPUTS;
use v4_quant::GgmlType;

use super::activations::put;
use super::data::{Fill, activations, bytes, noise, tensor};
use super::results::Results;
use super::{Case, CheckScope, Items};
use crate::compute::backend::cpu::Precision;
use crate::compute::backend::{Backend, LowRank, WeightRows};
use crate::error::EngineError;

/// Types whose rows can have any number of values.
pub(super) const FLOATS: [GgmlType; 3] = [GgmlType::F32, GgmlType::F16, GgmlType::BF16];

/// Columns of the matrices of V4-Flash, V4-Pro and V4.1.
pub(super) const WIDTHS: [usize; 11] = [
    512, 1024, 1280, 1536, 2048, 2304, 3072, 4096, 5120, 7168, 8192,
];
/// Of those that only the output projection of V4-Pro and the mixes of streams have.
const WIDEST: [usize; 3] = [16_384, 20_480, 28_672];

/// Types that products with a card have kernels for.
pub(super) fn types() -> impl Iterator<Item = GgmlType> {
    let int8 = |ty: &GgmlType| v4_cuda::args::mmv_i8(*ty, 1).is_some();
    let all = GgmlType::ALL.iter().copied();
    all.filter(move |ty| FLOATS.contains(ty) || int8(ty))
}

pub(super) fn add<D: Driver>(items: &mut Items<D>, scope: CheckScope) {
    for ty in types() {
        for (precision, name) in [(Precision::Fast, ""), (Precision::Exact, ", exact")] {
            // In float32 both precisions are one.
            if precision == Precision::Fast || !FLOATS.contains(&ty) {
                let what = format!("products of {ty}{name}");
                items.case(
                    what,
                    precision,
                    Products {
                        ty,
                        shapes: shapes(ty, scope, precision),
                        // A few, and more than a product takes at a time.
                        tokens: &[1, 11],
                    },
                );
            }
        }
        let least = ty.block_values().max(32);
        let mut tiled = vec![
            Shape::new(70, 5 * least),
            Shape {
                groups: 2,
                ..Shape::new(38, 2 * least)
            },
        ];
        if scope == CheckScope::Full {
            tiled.extend(WIDTHS.map(|columns| Shape::new(21, columns)));
        }
        items.case(
            format!("products of {ty}, many tokens"),
            Precision::Fast,
            Products {
                ty,
                shapes: tiled,
                // Less than a tile, and more.
                tokens: match scope {
                    CheckScope::Small => &[33],
                    CheckScope::Full => &[40, MMQ_INPUTS as usize + 1],
                },
            },
        );
    }
    items.case("low-rank adapters", Precision::Fast, LowRanks(scope));
}

/// A product.
#[derive(Debug, Clone, Copy)]
struct Shape {
    groups: usize,
    rows: usize,
    columns: usize,
    fill: Fill,
}

impl Shape {
    fn new(rows: usize, columns: usize) -> Self {
        Self {
            groups: 1,
            rows,
            columns,
            fill: Fill::Modest,
        }
    }
}

fn shapes(ty: GgmlType, scope: CheckScope, precision: Precision) -> Vec<Shape> {
    // The least width, or an odd one; any bytes; and groups.
    let least = ty.block_values().max(32);
    let odd = if FLOATS.contains(&ty) { 37 } else { least };
    let mut shapes = vec![
        Shape::new(19, odd),
        Shape {
            fill: Fill::Any,
            ..Shape::new(9, 4 * least)
        },
        Shape {
            groups: 3,
            ..Shape::new(3 * 17, 2 * least)
        },
    ];
    if scope == CheckScope::Small {
        if precision == Precision::Exact {
            shapes.truncate(1);
        }
        return shapes;
    }
    let widest = FLOATS.contains(&ty) || matches!(ty, GgmlType::Q8_0 | GgmlType::MXFP4);
    let widths: Vec<usize> = match precision {
        Precision::Fast if widest => WIDTHS.into_iter().chain(WIDEST).collect(),
        Precision::Fast => WIDTHS.to_vec(),
        Precision::Exact => vec![1024, 2304, 7168],
    };
    shapes.extend(widths.into_iter().map(|columns| Shape::new(21, columns)));
    // The groups of the output projection.
    shapes.push(Shape {
        groups: 8,
        ..Shape::new(8 * 11, 4096)
    });
    if matches!(ty, GgmlType::Q8_0 | GgmlType::F32) && precision == Precision::Fast {
        // More rows than blocks of threads take at once.
        shapes.push(Shape::new(16 * 4096 + 35, 32));
    }
    shapes
}

struct Products {
    ty: GgmlType,
    shapes: Vec<Shape>,
    tokens: &'static [usize],
}

impl Case for Products {
    fn run<B: Backend>(&self, b: &B, out: &mut Results<'_>) -> Result<(), EngineError> {
        for (i, shape) in self.shapes.iter().enumerate() {
            let Shape {
                groups,
                rows,
                columns,
                fill,
            } = *shape;
            let w = b.load(&tensor(self.ty, fill, [1, rows, columns], 40 + i as u32)?)?;
            for &tokens in self.tokens {
                if tokens > 1 && rows > 1 << 15 {
                    continue;
                }
                let x = activations(tokens * groups * columns, 41);
                let (x, mut y) = (put(b, &x, groups * columns), B::Buf::default());
                b.matmul_grouped(&w, groups, &x, &mut y);
                let kind = if fill == Fill::Any {
                    " of any bytes"
                } else {
                    ""
                };
                let name = format!(
                    "{groups} x {} rows of {columns} {}{kind}, {tokens} tokens",
                    rows / groups,
                    self.ty
                );
                out.buf(b, name, &y);
            }
        }
        Ok(())
    }
}

struct LowRanks(CheckScope);

impl Case for LowRanks {
    fn run<B: Backend>(&self, b: &B, out: &mut Results<'_>) -> Result<(), EngineError> {
        let shapes: &[[usize; 4]] = match self.0 {
            CheckScope::Small => &[[3, 40, 24, 2]],
            CheckScope::Full => &[[3, 40, 24, 2], [16, 4096, 512, 8], [64, 7168, 1536, 1]],
        };
        for &[rank, inputs, outputs, groups] in shapes {
            let [a, c] = [noise(rank * inputs, 42), noise(outputs * rank, 43)].map(|v| bytes(&v));
            let rows = |cols, data| WeightRows {
                ty: GgmlType::F32,
                cols,
                data,
            };
            let w = LowRank {
                a: rows(inputs, &a),
                b: rows(rank, &c),
                groups,
                scale: 0.7,
            };
            for tokens in [5, 19] {
                let x = put(b, &noise(tokens * groups * inputs, 44), groups * inputs);
                let mut y = put(b, &noise(tokens * outputs, 45), outputs);
                b.add_low_rank(w, &x, &mut y);
                let shape = format!("{inputs} to {outputs} in {groups} groups");
                out.buf(b, format!("rank {rank}, {shape}, {tokens} tokens"), &y);
            }
        }
        Ok(())
    }
}
