//! Operations on rows of activations.

use std::sync::Arc;

use v4_cuda::Driver;
use v4_cuda::args::{AddToParts, GatherRows, Quantise, ROW_THREADS};
use v4_cuda::driver::Extent;
use v4_quant::GgmlType;
use v4_quant::dot::{ActQ8, Kernels};

use super::super::device::{Device, threads_for};
use super::super::products::int8_room;
use super::super::space::{Space, bits};
use super::data::{Fill, Random, activations, noise, tensor};
use super::functions::read;
use super::results::Results;
use super::{Bare, Case, CheckScope, Items};
use crate::compute::arithmetic::Rope;
use crate::compute::backend::Backend;
use crate::compute::backend::cpu::Precision;
use crate::error::{CardError, EngineError};
use crate::model::Yarn;

pub(super) fn add<D: Driver>(items: &mut Items<D>, scope: CheckScope) {
    let (widths, blocks): (&'static [usize], &'static [usize]) = match scope {
        CheckScope::Small => (&[64, 96], &[1, 37]),
        CheckScope::Full => (
            &[
                64, 96, 512, 1024, 1280, 1536, 2048, 2304, 3072, 4096, 5120, 7168,
            ],
            &[1, 7, 37, 224, 1024],
        ),
    };
    items.bare("rounding to int8", Int8(blocks));
    items.bare("copies of rows", Copies(widths));
    items.case("norms", Precision::Fast, Norms(widths));
    items.case("SwiGLU and sums", Precision::Fast, Gates(widths));
    let heads: &'static [[usize; 3]] = match scope {
        CheckScope::Small => &[[3, 64, 32]],
        CheckScope::Full => &[
            [3, 64, 32],
            [1, 512, 64],
            [64, 512, 64],
            [128, 512, 64],
            [64, 128, 64],
        ],
    };
    items.case("rotations", Precision::Fast, Rotations(heads));
    items.case(
        "rounding of index queries",
        Precision::Fast,
        Rounding(heads),
    );
    items.case("embeddings", Precision::Fast, Embeddings(scope));
}

/// A matrix with these values.
pub(super) fn put<B: Backend>(b: &B, values: &[f32], columns: usize) -> B::Buf {
    let mut x = B::Buf::default();
    b.write(values, columns, &mut x);
    x
}

/// Rows of so many blocks of 32 values.
struct Int8(&'static [usize]);

const ROWS: usize = 5;

impl Bare for Int8 {
    fn on_cpu(&self, out: &mut Results<'_>) -> Result<(), EngineError> {
        for &blocks in self.0 {
            let x = activations(ROWS * 32 * blocks, 21);
            // Widths are whole blocks, which is all that can be wrong.
            let rows = ActQ8::quantize(Kernels::detect(), &x, ROWS, 32 * blocks);
            let Ok(rows) = rows else { continue };
            let rows = || (0..ROWS).map(|i| rows.row(i));
            let integers: Vec<u8> = rows()
                .flat_map(|row| row.q())
                .map(|q| q.cast_unsigned())
                .collect();
            let scales: Vec<f32> = rows().flat_map(|row| row.d()).copied().collect();
            let sums: Vec<u8> = rows()
                .flat_map(|row| row.sums())
                .flat_map(|s| s.to_le_bytes())
                .collect();
            let name = format!("{ROWS} rows of {} values", 32 * blocks);
            out.bytes(format!("integers of {name}"), &integers);
            out.floats(format!("scales of {name}"), &scales);
            out.bytes(format!("sums of {name}"), &sums);
        }
        Ok(())
    }

    fn on_card<D: Driver>(
        &self,
        device: &Arc<Device<D>>,
        out: &mut Results<'_>,
    ) -> Result<(), CardError> {
        for &blocks in self.0 {
            let values = ROWS * 32 * blocks;
            let x = Space::of(device, &mut bits(&activations(values, 21)))?;
            let (space, rows) = int8_room(device, values)?;
            let args = Quantise {
                to: rows,
                x: x.start(),
                blocks: (ROWS * blocks) as u64,
            };
            let extent = threads_for(values, ROW_THREADS);
            device.launch(&device.kernels().rows.quantise, extent, &args)?;
            let words = space.words(0, (values + 8 * ROWS * blocks) / 4)?;
            let (integers, others) = words.split_at(values / 4);
            let (scales, sums) = others.split_at(ROWS * blocks);
            let scales: Vec<f32> = scales.iter().map(|word| f32::from_bits(*word)).collect();
            let name = format!("{ROWS} rows of {} values", 32 * blocks);
            out.words(format!("integers of {name}"), integers.to_vec());
            out.floats(format!("scales of {name}"), &scales);
            out.words(format!("sums of {name}"), sums.to_vec());
        }
        Ok(())
    }
}

/// Rows gathered by number, and added to all streams.
struct Copies(&'static [usize]);

/// Rows to gather from, those that are gathered, and how many numbers mean the same row.
const FROM: usize = 11;
const GATHERED: usize = 18;
const SHARED_BY: usize = 2;
const STREAMS: usize = 4;

impl Copies {
    fn which() -> Vec<u32> {
        let mut random = Random::new(22);
        (0..GATHERED)
            .map(|_| random.below(FROM * SHARED_BY) as u32)
            .collect()
    }
}

impl Bare for Copies {
    fn on_cpu(&self, out: &mut Results<'_>) -> Result<(), EngineError> {
        for &width in self.0 {
            let from = noise(FROM * width, 23);
            let of = |i: u32| &from[i as usize / SHARED_BY * width..][..width];
            let gathered: Vec<f32> = Self::which().into_iter().flat_map(of).copied().collect();
            out.floats(format!("rows of {width} gathered"), &gathered);
            let mut y = noise(FROM * STREAMS * width, 24);
            for (part, y) in y.chunks_mut(width).enumerate() {
                let x = &from[part / STREAMS * width..][..width];
                y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
            }
            out.floats(format!("rows of {width} added to all streams"), &y);
        }
        Ok(())
    }

    fn on_card<D: Driver>(
        &self,
        device: &Arc<Device<D>>,
        out: &mut Results<'_>,
    ) -> Result<(), CardError> {
        let kernels = &device.kernels().copy;
        for &width in self.0 {
            let from = Space::of(device, &mut bits(&noise(FROM * width, 23)))?;
            let which = Space::of(device, &mut Self::which().into_iter())?;
            let to = Space::new(device, 4 * GATHERED * width)?;
            let args = GatherRows {
                to: to.start(),
                from: from.start(),
                which: which.start(),
                words: width as u32,
                shared_by: SHARED_BY as u32,
            };
            let extent = Extent::row(GATHERED as u32, ROW_THREADS);
            device.launch(&kernels.gather_rows, extent, &args)?;
            out.floats(
                format!("rows of {width} gathered"),
                &read(&to, GATHERED * width)?,
            );
            let values = FROM * STREAMS * width;
            let y = Space::of(device, &mut bits(&noise(values, 24)))?;
            let args = AddToParts {
                y: y.start(),
                x: from.start(),
                rows: FROM as u32,
                parts: STREAMS as u32,
                width: width as u32,
                unused: 0,
            };
            let extent = threads_for(values, ROW_THREADS);
            device.launch(&kernels.add_to_parts, extent, &args)?;
            out.floats(
                format!("rows of {width} added to all streams"),
                &read(&y, values)?,
            );
        }
        Ok(())
    }
}

struct Norms(&'static [usize]);

impl Case for Norms {
    fn run<B: Backend>(&self, b: &B, out: &mut Results<'_>) -> Result<(), EngineError> {
        for &width in self.0 {
            for (rows, parts) in [(1, 1), (5, 3)] {
                let values = activations(rows * parts * width, 25);
                let gain = b.vector(noise(width, 26));
                for (gain, name) in [(Some(&gain), "with gains"), (None, "without gains")] {
                    let mut x = put(b, &values, parts * width);
                    b.rms_norm(&mut x, width, gain, 1e-6);
                    out.buf(b, format!("{rows} rows of {parts} x {width}, {name}"), &x);
                }
            }
        }
        Ok(())
    }
}

struct Gates(&'static [usize]);

impl Case for Gates {
    fn run<B: Backend>(&self, b: &B, out: &mut Results<'_>) -> Result<(), EngineError> {
        for &width in self.0 {
            let rows = 3;
            let wide =
                |seed| -> Vec<f32> { noise(rows * width, seed).iter().map(|v| 30.0 * v).collect() };
            let (mut gate, up) = (put(b, &wide(27), width), put(b, &wide(28), width));
            b.swiglu(&mut gate, &up, 10.0);
            out.buf(b, format!("SwiGLU of {rows} rows of {width}"), &gate);
            b.add(&up, &mut gate);
            out.buf(b, format!("sum of {rows} rows of {width}"), &gate);
        }
        Ok(())
    }
}

/// Heads, their channels, and those of them that are rotated.
struct Rotations(&'static [[usize; 3]]);

impl Case for Rotations {
    fn run<B: Backend>(&self, b: &B, out: &mut Results<'_>) -> Result<(), EngineError> {
        let yarn = Yarn {
            factor: 16.0,
            original_context: 65_536.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
        };
        for &[heads, width, rotated] in self.0 {
            let rows = 4;
            let rope = Rope::new(rotated, 160_000.0, Some(yarn));
            let mut angles = b.angles(&rope, &mut (1_048_000..1_048_000 + rows as u64 + 1));
            b.drop_first_angles(&mut angles, 1);
            let mut x = put(b, &noise(rows * heads * width, 29), heads * width);
            for inverse in [false, true] {
                b.rope(&mut x, width, &angles, inverse);
                let name = format!("{rows} rows of {heads} x {width}, inverse {inverse}");
                out.buf(b, name, &x);
            }
        }
        Ok(())
    }
}

struct Rounding(&'static [[usize; 3]]);

impl Case for Rounding {
    fn run<B: Backend>(&self, b: &B, out: &mut Results<'_>) -> Result<(), EngineError> {
        for &[heads, width, _] in self.0 {
            for hadamard in [false, true] {
                let mut x = put(b, &activations(3 * heads * width, 30), heads * width);
                b.round_index(&mut x, width, hadamard);
                out.buf(
                    b,
                    format!("3 rows of {heads} x {width}, Hadamard {hadamard}"),
                    &x,
                );
            }
        }
        Ok(())
    }
}

struct Embeddings(CheckScope);

impl Case for Embeddings {
    fn run<B: Backend>(&self, b: &B, out: &mut Results<'_>) -> Result<(), EngineError> {
        let widths: &[usize] = match self.0 {
            CheckScope::Small => &[256],
            CheckScope::Full => &[256, 4096, 5120, 7168],
        };
        for &width in widths {
            let table = tensor(GgmlType::Q4_K, Fill::Modest, [1, 9, width], 31)?;
            let table = b.load_rows(&table)?;
            let mut h = B::Buf::default();
            b.embed(&table, &[8, 0, 3, 3, 1], STREAMS, &mut h)?;
            out.buf(b, format!("5 rows of {STREAMS} x {width}"), &h);
            b.drop_first_rows(&mut h, 2);
            let mut others = B::Buf::default();
            b.take_rows(&h, 1..3, &mut others);
            b.append_rows(&h, &mut others);
            out.buf(
                b,
                format!("5 rows of {STREAMS} x {width} put together"),
                &others,
            );
        }
        Ok(())
    }
}
