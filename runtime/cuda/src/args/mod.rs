//! Arguments of kernels, field by field as the structs in `kernels/`.
//!
//! A `u64` that is called a pointer is an address in the memory that kernels see; where one may
//! be missing, it is 0. No struct has padding, which [`kernel_args!`](crate::kernel_args) checks;
//! that both sides have the same size is checked where kernels are compiled.

mod cache;
mod embed;
mod engram;
mod functions;
mod hyper;
mod pool;
mod primitives;
mod rows;

pub use cache::{Pages, PushRows, ReadRows, RoundIndex, RowFormat};
pub use embed::Embed;
pub use engram::Engram;
pub use functions::{Angles, InverseRms, MapFunction};
pub use hyper::{HcCollapse, HcExpand, HcFirstStream, HcHead, HcMix, Site};
pub use pool::{Pool, PoolKeep, Tokens};
pub use primitives::{PrimitiveProduct, PrimitiveWords};
pub use rows::{Add, Combine, Int8Rows, Quantise, RmsNorm, Rope, Swiglu};

/// Threads of a block of a kernel that works on rows: one for each lane of a sum in 256 lanes.
pub const ROW_THREADS: u32 = 256;

/// Bytes of shared memory that a sum in 256 lanes takes.
pub const SUM_BYTES: u32 = 1024;

/// What a kernel takes.
pub trait Args: Copy {
    /// The kernels that take it, by the names in their sources.
    const KERNELS: &'static [&'static str];
}

/// The bytes that each kernel takes.
pub fn sizes() -> Vec<(&'static str, usize)> {
    macro_rules! all {
        ($($args:ty),+ $(,)?) => {
            [$((<$args>::KERNELS, size_of::<$args>())),+]
        };
    }
    let all = all![
        Add,
        Angles,
        Combine,
        Embed,
        Engram,
        HcCollapse,
        HcExpand,
        HcFirstStream,
        HcHead,
        HcMix,
        InverseRms,
        MapFunction,
        Pool,
        PoolKeep,
        PrimitiveProduct,
        PrimitiveWords,
        PushRows,
        Quantise,
        ReadRows,
        RmsNorm,
        Rope,
        RoundIndex,
        Swiglu,
    ];
    let each = |(kernels, size): (&'static [&'static str], usize)| {
        kernels.iter().map(move |kernel| (*kernel, size))
    };
    all.into_iter().flat_map(each).collect()
}

/// Declares a struct of arguments for the kernels named in brackets, or without them a part of
/// such structs.
///
/// It is `repr(C)`, and without padding: bytes that nobody wrote would make two equal launches
/// differ.
#[macro_export]
macro_rules! kernel_args {
    ($(#[$about:meta])* $name:ident [$($kernel:literal),+ $(,)?] { $($fields:tt)* }) => {
        $crate::kernel_args! { $(#[$about])* $name { $($fields)* } }

        impl $crate::args::Args for $name {
            const KERNELS: &'static [&'static str] = &[$($kernel),+];
        }
    };
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq)]
        #[repr(C)]
        pub struct $name { $($(#[$doc])* pub $field: $type,)+ }

        const _: () = assert!(
            size_of::<$name>() == 0 $(+ size_of::<$type>())+,
            "arguments without padding"
        );
    };
}
