//! Arguments of kernels, field by field as the structs in `kernels/`.
//!
//! A `u64` that is called a pointer is an address in the memory that kernels see; where one may
//! be missing, it is 0. No struct has padding, which [`kernel_args!`](crate::kernel_args) checks;
//! that both sides have the same size is checked where kernels are compiled.

mod attend;
mod cache;
mod choose;
mod copy;
mod embed;
mod engram;
mod experts;
mod functions;
mod hyper;
mod index;
mod pool;
mod primitives;
mod product;
mod rows;

pub use attend::Attend;
pub use cache::{Pages, PushRows, ReadRows, RoundIndex, RowFormat};
pub use choose::BestToken;
pub use copy::{AddToParts, GatherRows};
pub use embed::Embed;
pub use engram::Engram;
pub use experts::{Combine, GroupPairs, Route};
pub use functions::{Angles, InverseRms, MapFunction};
pub use hyper::{HcCollapse, HcExpand, HcFirstStream, HcHead, HcMix, Site};
pub use index::{Among, IndexBlocks, IndexScores, Select};
pub use pool::{Pool, PoolKeep, Tokens};
pub use primitives::{PrimitiveHalves, PrimitiveProduct, PrimitiveWords};
pub use product::{
    Decode, MM_INPUTS, MM_ROWS, MM_SHARED_BYTES, MM_THREADS, MMQ_INPUTS, MMQ_ROWS, MMQ_THREADS,
    MMV_DECODED_BYTES, MMV_ROWS, MMV_THREADS, OrderInt8, OrderedRows, Product, ProductF32,
    ProductI8, ProductMany, mm_f, mmq_i8, mmq_shared_bytes, mmv_f, mmv_i8, places_of_row,
    places_of_turn,
};
pub use rows::{Add, Int8Rows, Quantise, RmsNorm, Rope, Swiglu};

/// Threads of a block of a kernel that works on rows: one for each lane of a sum in 256 lanes.
pub const ROW_THREADS: u32 = 256;

/// Bytes of shared memory that a sum in 256 lanes takes.
pub const SUM_BYTES: u32 = 1024;

/// What a kernel takes. Made by [`kernel_args!`](crate::kernel_args).
pub trait Args: Copy + Field {
    /// The kernels that take it, by the names in their sources.
    const KERNELS: &'static [&'static str];

    /// The bytes of the struct.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size_of::<Self>());
        self.put(&mut bytes);
        bytes
    }
}

/// What arguments are made of, down to numbers.
pub trait Field {
    /// Bit `i` is set if the 8 bytes from byte `8 i` on can be an address.
    const ADDRESSES: u64;

    /// Appends its bytes.
    fn put(&self, out: &mut Vec<u8>);
}

macro_rules! numbers {
    ($($type:ty: $addresses:literal),+) => {$(
        impl Field for $type {
            const ADDRESSES: u64 = $addresses;

            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_ne_bytes());
            }
        }
    )+};
}

// Addresses are `u64`; a signed number is none.
numbers!(u32: 0, i32: 0, f32: 0, i64: 0, u64: 1);

impl<T: Field, const N: usize> Field for [T; N] {
    const ADDRESSES: u64 = {
        let mut all = 0;
        let mut i = 0;
        while i < N {
            all |= shifted(T::ADDRESSES, i * size_of::<T>());
            i += 1;
        }
        all
    };

    fn put(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|field| field.put(out));
    }
}

/// The addresses of a field that begins at this byte.
#[doc(hidden)]
pub const fn shifted(addresses: u64, offset: usize) -> u64 {
    if addresses == 0 {
        return 0;
    }
    assert!(offset.is_multiple_of(8) && offset < 512);
    addresses << (offset / 8)
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
        AddToParts,
        Angles,
        Attend,
        BestToken,
        Combine,
        Decode,
        Embed,
        Engram,
        GatherRows,
        GroupPairs,
        HcCollapse,
        HcExpand,
        HcFirstStream,
        HcHead,
        HcMix,
        IndexBlocks,
        IndexScores,
        InverseRms,
        MapFunction,
        OrderInt8,
        Pool,
        PoolKeep,
        PrimitiveHalves,
        PrimitiveProduct,
        PrimitiveWords,
        ProductF32,
        ProductI8,
        ProductMany,
        PushRows,
        Quantise,
        ReadRows,
        RmsNorm,
        Rope,
        RoundIndex,
        Route,
        Select,
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

        impl $crate::args::Field for $name {
            const ADDRESSES: u64 = 0 $(| $crate::args::shifted(
                <$type as $crate::args::Field>::ADDRESSES,
                std::mem::offset_of!($name, $field),
            ))+;

            fn put(&self, out: &mut Vec<u8>) {
                $($crate::args::Field::put(&self.$field, out);)+
            }
        }

        const _: () = assert!(
            size_of::<$name>() == 0 $(+ size_of::<$type>())+,
            "arguments without padding"
        );
    };
}
