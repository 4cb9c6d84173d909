//! Arguments of `rows.cu`.

use crate::kernel_args;

kernel_args! {
    /// `y[i] += x[i]`. One thread for each value, in blocks of any size.
    Add ["add"] {
        /// Pointer to `count` f32.
        y: u64,
        /// Pointer to `count` f32.
        x: u64,
        /// Values of each.
        count: u64,
    }
}
