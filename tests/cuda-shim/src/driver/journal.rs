//! What streams were asked to do.

use std::fmt;

use v4_cuda::driver::Extent;

/// Something that a stream was asked to do: a line of a list of launches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A kernel, by its name.
    Kernel {
        /// Its name in the source.
        name: String,
        /// Its blocks, threads and shared memory.
        extent: Extent,
    },
    /// A copy of so many bytes from the host.
    ToDevice(usize),
    /// A copy of so many bytes to the host.
    ToHost(usize),
    /// A copy of so many bytes within the card's memory.
    Within(usize),
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel { name, extent } => {
                let [x, y, z] = extent.grid;
                let [threads, ..] = extent.block;
                write!(f, "{name} {x},{y},{z} {threads} {}", extent.shared)
            }
            Self::ToDevice(bytes) => write!(f, "to-card {bytes}"),
            Self::ToHost(bytes) => write!(f, "to-host {bytes}"),
            Self::Within(bytes) => write!(f, "within-card {bytes}"),
        }
    }
}
