//! The functions that kernels compute with, by themselves.

use std::sync::Arc;

use v4_cuda::Driver;
use v4_cuda::args::{Angles, InverseRms, MapFunction, ROW_THREADS, SUM_BYTES};
use v4_cuda::driver::Extent;

use super::super::device::{Device, threads_for};
use super::super::space::{Space, bits};
use super::data::{Random, noise};
use super::results::Results;
use super::{Bare, CheckScope, Items};
use crate::compute::arithmetic::{functions as cpu, rows};
use crate::error::{CardError, EngineError};

pub(super) fn add<D: Driver>(items: &mut Items<D>, scope: CheckScope) {
    items.bare(
        "functions",
        Functions {
            step: if scope == CheckScope::Full { 13 } else { 19 },
        },
    );
    items.bare("angles", OfPositions);
    let widths: &'static [usize] = match scope {
        CheckScope::Small => &[1, 33, 257],
        CheckScope::Full => &[
            1, 31, 33, 255, 257, 512, 1536, 4096, 7168, 16384, 20480, 28672,
        ],
    };
    items.bare("sums of squares", Norms(widths));
}

type Function = fn(f32) -> f32;

/// By the numbers that `map_function` has for them.
const ALL: [(&str, Function); 7] = [
    ("exp", cpu::exp),
    ("sigmoid", cpu::sigmoid),
    ("silu", cpu::silu),
    ("log1p", cpu::log1p),
    ("softplus", cpu::softplus),
    ("sqrt_softplus", cpu::sqrt_softplus),
    ("inverse_sqrt", cpu::inverse_sqrt),
];

struct Functions {
    /// Low bits of an f32 of which only a few patterns are tried.
    step: u32,
}

impl Functions {
    /// Every sign, exponent and leading bits, and what lies around the functions' bounds.
    fn inputs(&self, name: &str) -> Vec<f32> {
        let patterns = [0, 0x0a5, 0x7ff];
        let high = 0..1u32 << (32 - self.step);
        let all = high.flat_map(|high| patterns.map(|low| f32::from_bits(high << self.step | low)));
        let bounds = [
            0.0f32,
            1.0,
            -87.0,
            87.0,
            -88.0,
            88.0,
            88.722_84,
            -20.0,
            20.0,
            1e-37,
            -1e-37,
            f32::MAX,
            f32::MIN_POSITIVE,
        ];
        let around = bounds.into_iter().flat_map(|x| {
            let near = move |i| f32::from_bits(x.to_bits().wrapping_add(i).wrapping_sub(32));
            (0..64).map(near)
        });
        let all = all.chain(around);
        match name {
            // Defined there alone.
            "log1p" => all.filter(|x| (0.0..=1.0).contains(x)).collect(),
            _ => all.collect(),
        }
    }
}

impl Bare for Functions {
    fn on_cpu(&self, out: &mut Results<'_>) -> Result<(), EngineError> {
        for (name, function) in ALL {
            let values: Vec<f32> = self.inputs(name).into_iter().map(function).collect();
            out.floats(name, &values);
        }
        Ok(())
    }

    fn on_card<D: Driver>(
        &self,
        device: &Arc<Device<D>>,
        out: &mut Results<'_>,
    ) -> Result<(), CardError> {
        for (which, (name, _)) in ALL.into_iter().enumerate() {
            let inputs = self.inputs(name);
            let x = Space::of(device, &mut bits(&inputs))?;
            let y = Space::new(device, 4 * inputs.len())?;
            let args = MapFunction {
                y: y.start(),
                x: x.start(),
                count: inputs.len() as u32,
                which: which as u32,
            };
            let kernel = &device.kernels().functions.map_function;
            device.launch(kernel, threads_for(inputs.len(), ROW_THREADS), &args)?;
            out.floats(name, &read(&y, inputs.len())?);
        }
        Ok(())
    }
}

/// Values of a space.
pub(super) fn read<D: Driver>(space: &Space<D>, count: usize) -> Result<Vec<f32>, CardError> {
    Ok(space
        .words(0, count)?
        .into_iter()
        .map(f32::from_bits)
        .collect())
}

/// Cosines and sines in units of 2^-64 turns.
struct OfPositions;

const POSITIONS: [u64; 4] = [0, 1, 3, 1_048_575];

impl OfPositions {
    fn frequencies() -> Vec<u64> {
        let mut random = Random::new(8);
        let near = (0..64).flat_map(|k| [1u64 << k, (1u64 << k).wrapping_neg(), (1u64 << k) - 1]);
        let spread = (0..4000).map(|_| u64::from(random.word()) << 32 | u64::from(random.word()));
        near.chain(spread).collect()
    }
}

impl Bare for OfPositions {
    fn on_cpu(&self, out: &mut Results<'_>) -> Result<(), EngineError> {
        let frequencies = Self::frequencies();
        let of = |p: &u64| {
            let phases = frequencies.iter().map(|f| p.wrapping_mul(*f));
            phases.map(cpu::sin_cos_turns).collect::<Vec<_>>()
        };
        let all: Vec<(f32, f32)> = POSITIONS.iter().flat_map(of).collect();
        let (sines, cosines): (Vec<f32>, Vec<f32>) = all.into_iter().unzip();
        out.floats("cosines", &cosines);
        out.floats("sines", &sines);
        Ok(())
    }

    fn on_card<D: Driver>(
        &self,
        device: &Arc<Device<D>>,
        out: &mut Results<'_>,
    ) -> Result<(), CardError> {
        let halves = |numbers: &[u64]| {
            let words: Vec<u32> = numbers
                .iter()
                .flat_map(|n| [*n as u32, (n >> 32) as u32])
                .collect();
            Space::of(device, &mut words.into_iter())
        };
        let frequencies = Self::frequencies();
        let count = frequencies.len() * POSITIONS.len();
        let (cosines, sines) = (
            Space::new(device, 4 * count)?,
            Space::new(device, 4 * count)?,
        );
        let (of, positions) = (halves(&frequencies)?, halves(&POSITIONS)?);
        let args = Angles {
            cosines: cosines.start(),
            sines: sines.start(),
            frequencies: of.start(),
            positions: positions.start(),
            pairs: frequencies.len() as u32,
            rows: POSITIONS.len() as u32,
        };
        let kernel = &device.kernels().functions.angles;
        device.launch(kernel, threads_for(count, ROW_THREADS), &args)?;
        out.floats("cosines", &read(&cosines, count)?);
        out.floats("sines", &read(&sines, count)?);
        Ok(())
    }
}

/// Inverse root mean squares of rows of these widths.
struct Norms(&'static [usize]);

const ROWS: usize = 3;
const EPS: f32 = 1e-6;

impl Bare for Norms {
    fn on_cpu(&self, out: &mut Results<'_>) -> Result<(), EngineError> {
        for &width in self.0 {
            let x = noise(ROWS * width, 9);
            let all: Vec<f32> = x
                .chunks(width)
                .map(|row| rows::inverse_rms(row, EPS))
                .collect();
            out.floats(format!("rows of {width}"), &all);
        }
        Ok(())
    }

    fn on_card<D: Driver>(
        &self,
        device: &Arc<Device<D>>,
        out: &mut Results<'_>,
    ) -> Result<(), CardError> {
        for &width in self.0 {
            let x = Space::of(device, &mut bits(&noise(ROWS * width, 9)))?;
            let y = Space::new(device, 4 * ROWS)?;
            let args = InverseRms {
                y: y.start(),
                x: x.start(),
                width: width as u32,
                eps: EPS,
            };
            let extent = Extent::row(ROWS as u32, ROW_THREADS).with_shared(SUM_BYTES);
            device.launch(&device.kernels().functions.inverse_rms_rows, extent, &args)?;
            out.floats(format!("rows of {width}"), &read(&y, ROWS)?);
        }
        Ok(())
    }
}
