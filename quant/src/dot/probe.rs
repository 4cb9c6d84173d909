//! Loops that measure the peak rate of an instruction set, to see how close the kernels
//! come to it.

use super::Kernels;

/// Loops of one instruction set. What they return must be used, or a compiler may
/// leave them out.
#[derive(Clone, Copy)]
pub(super) struct Probe {
    /// Reads all bytes and returns something that depends on them.
    pub read: fn(bytes: &[u8]) -> u64,
    /// Multiplies and adds int8 in registers; returns the number of operations.
    pub int8: fn(rounds: usize) -> u64,
    /// Multiplies and adds f32 in registers; returns the number of operations.
    pub f32: fn(rounds: usize) -> u64,
}

impl Kernels {
    /// Reads all bytes as fast as this instruction set can, for measuring a
    /// memory's bandwidth. The result depends on every byte.
    #[must_use]
    pub fn probe_read(&self, bytes: &[u8]) -> u64 {
        (self.probe.read)(bytes)
    }

    /// Does nothing but int8 dot products on registers, with the best instruction
    /// that the kernels use; returns the number of operations, two per product.
    #[must_use]
    pub fn probe_int8(&self, rounds: usize) -> u64 {
        (self.probe.int8)(rounds)
    }

    /// The same with f32 multiplications and additions.
    #[must_use]
    pub fn probe_f32(&self, rounds: usize) -> u64 {
        (self.probe.f32)(rounds)
    }
}

/// Independent sums of a loop: enough to hide the latency of an instruction.
pub(super) const SUMS: usize = 12;

/// The portable loops.
pub(super) const SCALAR: Probe = Probe {
    read: |bytes| {
        let (lines, rest) = bytes.as_chunks::<8>();
        let sum = lines.iter().fold(0u64, |sum, line| {
            sum.wrapping_add(u64::from_le_bytes(*line))
        });
        rest.iter()
            .fold(sum, |sum, &b| sum.wrapping_add(u64::from(b)))
    },
    int8: |rounds| {
        let (mut sums, x) = ([1i32; SUMS], std::hint::black_box(3i32));
        for _ in 0..rounds {
            // The sum is a factor, so that rounds cannot be taken together.
            for sum in &mut sums {
                *sum = sum.wrapping_mul(x).wrapping_add(x);
            }
        }
        std::hint::black_box(sums);
        (rounds * SUMS * 2) as u64
    },
    f32: |rounds| {
        let (mut sums, x) = ([1f32; SUMS], std::hint::black_box(0.5f32));
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = x.mul_add(*sum, x);
            }
        }
        std::hint::black_box(sums);
        (rounds * SUMS * 2) as u64
    },
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Else a compiler could leave reading out, or a probe could.
    #[test]
    fn what_is_read_depends_on_every_byte() {
        let all = [Some(Kernels::scalar()), Kernels::avx2(), Kernels::avx512()];
        for kernels in all.into_iter().flatten() {
            for len in [0, 7, 8, 100, 127, 128, 300, 512, 777] {
                let mut bytes: Vec<u8> = (0..len).map(|i| (i * 37) as u8).collect();
                let before = kernels.probe_read(&bytes);
                for i in 0..len {
                    bytes[i] ^= 0x10;
                    assert_ne!(kernels.probe_read(&bytes), before, "{kernels:?}, byte {i}");
                    bytes[i] ^= 0x10;
                }
            }
        }
    }
}
