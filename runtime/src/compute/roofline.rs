//! Measures the machine's best rates with the engine's threads and instructions.

use std::hint::black_box;
use std::time::{Duration, Instant};

use v4_quant::dot::Kernels;

use crate::compute::workers::Workers;
use crate::error::EngineError;

/// Measured roofline of a machine, all threads together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Roofline {
    /// Bytes per second read from memory.
    pub read_bytes: f64,
    /// int8 operations per second, in registers.
    pub int8_operations: f64,
    /// f32 operations per second, in registers.
    pub f32_operations: f64,
}

/// Bytes that all threads together read in a pass: beyond the caches of common
/// machines.
const BUFFER: usize = 1 << 30;

/// Passes and runs of each loop, of which the best counts.
const RUNS: usize = 4;

impl Roofline {
    /// Measures them with that many threads, or one per core, without a model; see
    /// [`Engine::roofline`](crate::Engine::roofline).
    ///
    /// # Errors
    /// If the threads cannot be started.
    pub fn of_machine(threads: Option<usize>, memory: u64) -> Result<Option<Self>, EngineError> {
        let workers = Workers::start(threads, false)?;
        Ok(Self::measure(&workers, Kernels::detect(), memory))
    }

    /// Measures them in a second or two, with a buffer of at most `memory` bytes.
    /// `None` if that is too little to be beyond caches.
    pub(crate) fn measure(workers: &Workers, kernels: &Kernels, memory: u64) -> Option<Self> {
        let bytes = BUFFER.min(usize::try_from(memory).unwrap_or(usize::MAX));
        if bytes < BUFFER / 2 {
            return None;
        }
        let threads = workers.threads();
        // Written by the threads that read it.
        let mut buffer: Vec<u8> = Vec::with_capacity(bytes);
        buffer.resize(bytes, 1);
        let part = bytes.div_ceil(threads);
        let read_bytes = best(|| {
            let start = Instant::now();
            workers.each(|i| {
                let from = (i * part).min(bytes);
                black_box(kernels.probe_read(&buffer[from..bytes.min(from + part)]));
            });
            bytes as f64 / start.elapsed().as_secs_f64()
        });
        drop(buffer);
        let rate = |run: fn(&Kernels, usize) -> u64| {
            best(|| {
                let start = Instant::now();
                let counts = workers.each(|_| {
                    let mut done = 0;
                    while start.elapsed() < Duration::from_millis(60) {
                        done += run(kernels, 1 << 14);
                    }
                    done
                });
                counts.iter().sum::<u64>() as f64 / start.elapsed().as_secs_f64()
            })
        };
        Some(Self {
            read_bytes,
            int8_operations: rate(Kernels::probe_int8),
            f32_operations: rate(Kernels::probe_f32),
        })
    }
}

fn best(mut run: impl FnMut() -> f64) -> f64 {
    (0..RUNS).map(|_| run()).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roofline_are_positive_and_too_little_memory_is_told() {
        let workers = Workers::start(Some(2), false).unwrap();
        let measured = Roofline::measure(&workers, Kernels::detect(), 1 << 30).unwrap();
        assert!(measured.read_bytes > 1e8);
        assert!(measured.int8_operations > 1e7 && measured.f32_operations > 1e7);
        assert_eq!(
            Roofline::measure(&workers, Kernels::detect(), 1 << 20),
            None
        );
    }
}
