//! Byte counts in human-readable form.

use std::fmt;

/// A number of bytes, printed in the form of command-line options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// The number of MiB, rounded up, as `--memory` takes it: `1300M`.
    #[must_use]
    pub fn as_option(self) -> String {
        format!("{}M", self.0.div_ceil(1 << 20))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        f.pad(&match self.0 {
            0..0x400 => format!("{} B", self.0),
            0x400..0x10_0000 => format!("{:.1} KiB", bytes / 1024.0),
            0x10_0000..0x4000_0000 => format!("{:.1} MiB", bytes / 1_048_576.0),
            _ => format!("{:.2} GiB", bytes / 1_073_741_824.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_printed_in_units_of_1024() {
        let printed = [0, 1023, 1024, 3 << 20, 7 << 29].map(|n| ByteSize(n).to_string());
        assert_eq!(printed, ["0 B", "1023 B", "1.0 KiB", "3.0 MiB", "3.50 GiB"]);
        assert_eq!(ByteSize((1 << 30) + 1).as_option(), "1025M");
    }
}
