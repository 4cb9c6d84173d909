//! Rows of caches in their formats, and compressors.

use std::sync::Arc;

use v4_cuda::Driver;
use v4_cuda::args::{ROW_THREADS, ReadRows};

use super::super::buf::Buf;
use super::super::device::{Device, threads_for};
use super::super::rows::Rows;
use super::super::space::Space;
use super::activations::put;
use super::data::{activations, noise};
use super::functions::read;
use super::results::Results;
use super::{Bare, Case, CheckScope, Items};
use crate::compute::backend::cpu::Precision;
use crate::compute::backend::{Backend, PoolSpec};
use crate::compute::cache_rows::{HostRows, RowFormat};
use crate::error::{CardError, EngineError};

/// All formats, and the widths that models have rows of.
const FORMATS: [(RowFormat, &str, usize); 5] = [
    (RowFormat::F32, "f32", 512),
    (RowFormat::Fp8Tail { tail: 64 }, "fp8 with a tail", 512),
    (RowFormat::Fp8, "fp8", 512),
    (RowFormat::Fp4, "fp4", 128),
    (RowFormat::Fp4E4m3, "fp4 with e4m3 scales", 512),
];

pub(super) fn add<D: Driver>(items: &mut Items<D>, scope: CheckScope) {
    for (format, name, width) in FORMATS {
        let widths = match scope {
            CheckScope::Small => vec![128],
            CheckScope::Full => vec![128, width],
        };
        items.bare(
            format!("decoded cache rows in {name}"),
            Reading { format, width },
        );
        items.case(
            format!("cache rows in {name}"),
            Precision::Fast,
            Stores { format, widths },
        );
    }
    let mut specs = vec![(2, 32, false), (4, 32, true)];
    if scope == CheckScope::Full {
        specs.extend([
            (4, 512, true),
            (4, 128, true),
            (128, 512, false),
            (2, 512, false),
            (1, 512, false),
        ]);
    }
    items.case("compressors", Precision::Fast, Compressors(specs));
}

/// Rows that are stored and decoded, by their numbers.
struct Reading {
    format: RowFormat,
    width: usize,
}

const STORED: usize = 70;
const WHICH: [u32; 5] = [69, 0, 64, 3, 3];

impl Bare for Reading {
    fn on_cpu(&self, out: &mut Results<'_>) -> Result<(), EngineError> {
        let mut rows = HostRows::new(self.format, self.width);
        let x = activations(STORED * self.width, 86);
        x.chunks(self.width).for_each(|row| rows.push(row));
        let mut found = vec![0.0; WHICH.len() * self.width];
        for (row, which) in found.chunks_mut(self.width).zip(WHICH) {
            rows.read(which as usize, row);
        }
        out.floats(format!("{} rows of {}", WHICH.len(), self.width), &found);
        Ok(())
    }

    fn on_card<D: Driver>(
        &self,
        device: &Arc<Device<D>>,
        out: &mut Results<'_>,
    ) -> Result<(), CardError> {
        let mut x = Buf::default();
        x.reshape(STORED, self.width);
        x.write(device, &activations(STORED * self.width, 86))?;
        let mut rows = Rows::new(device, self.format, self.width);
        rows.push(&x);
        let values = WHICH.len() * self.width;
        let y = Space::new(device, 4 * values)?;
        let which = Space::of(device, &mut WHICH.into_iter())?;
        let args = ReadRows {
            y: y.start(),
            which: which.start(),
            from: rows.places(),
            format: rows.stored(),
            first: 0,
            rows: WHICH.len() as u32,
        };
        let kernel = &device.kernels().cache.read_rows;
        device.launch(kernel, threads_for(values, ROW_THREADS), &args)?;
        out.floats(
            format!("{} rows of {}", WHICH.len(), self.width),
            &read(&y, values)?,
        );
        Ok(())
    }
}

struct Stores {
    format: RowFormat,
    widths: Vec<usize>,
}

impl Case for Stores {
    fn run<B: Backend>(&self, b: &B, out: &mut Results<'_>) -> Result<(), EngineError> {
        for &width in &self.widths {
            let mut rows = b.rows(self.format, width);
            // One, and more than a page.
            for (n, seed) in [(1, 80), (300, 81)] {
                b.push_rows(&mut rows, &put(b, &activations(n * width, seed), width));
            }
            let mut bytes = Vec::new();
            b.export_rows(&rows, 0..b.rows_len(&rows), &mut bytes);
            out.bytes(format!("{} rows of {width}", b.rows_len(&rows)), &bytes);
            b.keep_last_rows(&mut rows, 130);
            b.truncate_rows(&mut rows, 280);
            b.push_rows(&mut rows, &put(b, &noise(7 * width, 82), width));
            let mut bytes = Vec::new();
            b.export_rows(&rows, b.first_row(&rows)..b.rows_len(&rows), &mut bytes);
            out.bytes(format!("rows of {width} after others were dropped"), &bytes);
        }
        Ok(())
    }
}

/// Tokens of an entry, channels, and whether entries overlap.
struct Compressors(Vec<(usize, usize, bool)>);

impl Case for Compressors {
    fn run<B: Backend>(&self, b: &B, out: &mut Results<'_>) -> Result<(), EngineError> {
        for &(ratio, width, overlap) in &self.0 {
            let spec = PoolSpec {
                ratio,
                width,
                overlap,
            };
            let channels = width * if overlap { 2 } else { 1 };
            let ape = b.vector(noise(ratio * channels, 83));
            let mut pending = b.pending(spec);
            let mut entries = B::Buf::default();
            for (i, n) in [1, ratio, 2 * ratio + 1, 3].into_iter().enumerate() {
                let seed = 84 + 2 * i as u32;
                let kv = put(b, &noise(n * channels, seed), channels);
                let gate = put(b, &noise(n * channels, seed + 1), channels);
                b.pool(
                    &mut pending,
                    &kv,
                    &gate,
                    (i != 2).then_some(&ape),
                    &mut entries,
                );
                let name = format!("{n} tokens, {ratio} to an entry of {width}, overlap {overlap}");
                out.buf(b, name, &entries);
                b.settle_pending(&mut pending, usize::MAX);
            }
            let mut state = Vec::new();
            b.export_pending(&pending, usize::MAX, &mut state);
            out.bytes(format!("what is left of {ratio} x {width}"), &state);
        }
        Ok(())
    }
}
