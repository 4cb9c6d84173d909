//! Loops that measure the peak rate of an instruction set, to see how close the kernels
//! come to it.

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
    use crate::dot::Kernels;

    /// Else a compiler could leave reading out, or a probe could.
    #[test]
    fn what_is_read_depends_on_every_byte() {
        for kernels in Kernels::all() {
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
