//! Arguments of kernels, field by field as the structs in `kernels/`.
//!
//! A `u64` that is called a pointer is an address in the memory that kernels see. No struct has
//! padding, which [`kernel_args!`] checks; that both sides have the same size is checked where
//! kernels are compiled.

mod functions;
mod rows;

pub use functions::{Angles, InverseRms, MapFunction};
pub use rows::Add;

/// What a kernel takes.
pub trait Args: Copy {
    /// The kernels that take it, by the names in their sources.
    const KERNELS: &'static [&'static str];
}

/// The bytes that each kernel takes.
pub fn sizes() -> Vec<(&'static str, usize)> {
    fn of<A: Args>() -> impl Iterator<Item = (&'static str, usize)> {
        A::KERNELS.iter().map(|kernel| (*kernel, size_of::<A>()))
    }
    let mut all = Vec::new();
    all.extend(of::<Add>());
    all.extend(of::<Angles>());
    all.extend(of::<InverseRms>());
    all.extend(of::<MapFunction>());
    all
}

/// Declares a struct of arguments for the kernels named in brackets.
///
/// It is `repr(C)`, and without padding: bytes that nobody wrote would make two equal launches
/// differ.
#[macro_export]
macro_rules! kernel_args {
    ($(#[$about:meta])* $name:ident [$($kernel:literal),+ $(,)?]
     { $($(#[$doc:meta])* $field:ident: $type:ty,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq)]
        #[repr(C)]
        pub struct $name { $($(#[$doc])* pub $field: $type,)+ }

        impl $crate::args::Args for $name {
            const KERNELS: &'static [&'static str] = &[$($kernel),+];
        }

        const _: () = assert!(
            size_of::<$name>() == 0 $(+ size_of::<$type>())+,
            "arguments without padding"
        );
    };
}
