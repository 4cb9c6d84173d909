//! The token of the highest logit.

use std::sync::Arc;

use v4_cuda::Driver;
use v4_cuda::args::BestToken;
use v4_cuda::driver::Extent;

use super::super::device::Device;
use super::super::space::{Space, bits};
use super::data::noise;
use super::functions::read;
use super::results::Results;
use super::{Bare, CheckScope, Items};
use crate::error::{CardError, EngineError};

pub(super) fn add<D: Driver>(items: &mut Items<D>, scope: CheckScope) {
    let counts: &'static [usize] = match scope {
        CheckScope::Small => &[1, 1000],
        CheckScope::Full => &[1, 1000, 129_280],
    };
    items.bare("the best token", Best(counts));
}

/// Rows of so many logits.
struct Best(&'static [usize]);

const ROWS: usize = 3;
const THREADS: u32 = 1024;

impl Best {
    /// Logits, and what is added to them. The highest is there twice.
    fn operands(count: usize) -> [Vec<f32>; 2] {
        let mut logits = noise(ROWS * count, 140);
        for (row, logits) in logits.chunks_mut(count).enumerate() {
            logits[count / 3] = 2.0 + row as f32;
            logits[count - 1] = logits[count / 3];
        }
        [logits, noise(ROWS * count, 141)]
    }
}

impl Bare for Best {
    fn on_cpu(&self, out: &mut Results<'_>) -> Result<(), EngineError> {
        for &count in self.0 {
            let [logits, added] = Self::operands(count);
            let sums: Vec<f32> = logits.iter().zip(&added).map(|(a, b)| a + b).collect();
            for (name, all) in [("alone", &logits), ("with others added", &sums)] {
                let best = all.chunks(count).map(|row| {
                    let each = row.iter().copied().enumerate();
                    each.fold((0, f32::NEG_INFINITY), |best, (i, value)| {
                        if value > best.1 { (i, value) } else { best }
                    })
                });
                let (tokens, values): (Vec<usize>, Vec<f32>) = best.unzip();
                let tokens = tokens.into_iter().map(|t| t as u32).collect();
                out.words(format!("tokens of {count} logits, {name}"), tokens);
                out.floats(format!("the highest of {count} logits, {name}"), &values);
            }
        }
        Ok(())
    }

    fn on_card<D: Driver>(
        &self,
        device: &Arc<Device<D>>,
        out: &mut Results<'_>,
    ) -> Result<(), CardError> {
        for &count in self.0 {
            let [logits, added] = Self::operands(count);
            let logits = Space::of(device, &mut bits(&logits))?;
            let added = Space::of(device, &mut bits(&added))?;
            let (tokens, values) = (Space::new(device, 4 * ROWS)?, Space::new(device, 4 * ROWS)?);
            for (name, added) in [("alone", 0), ("with others added", added.start())] {
                let args = BestToken {
                    tokens: tokens.start(),
                    values: values.start(),
                    logits: logits.start(),
                    added,
                    count: count as u32,
                    unused: 0,
                };
                let extent = Extent::row(ROWS as u32, THREADS).with_shared(BestToken::SHARED_BYTES);
                device.launch(&device.kernels().choose.best_token, extent, &args)?;
                out.words(
                    format!("tokens of {count} logits, {name}"),
                    tokens.words(0, ROWS)?,
                );
                out.floats(
                    format!("the highest of {count} logits, {name}"),
                    &read(&values, ROWS)?,
                );
            }
        }
        Ok(())
    }
}
