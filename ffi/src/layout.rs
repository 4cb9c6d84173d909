//! Structs that carry their size and may grow at the end.

use crate::failure::{Failure, Outcome};
use crate::status::Status;

/// A struct of the header.
///
/// # Safety
/// `repr(C)`, begins with its size as `u32`, has no padding, and every field takes any
/// bits, all zero among them.
pub unsafe trait Sized32: Copy {
    /// Bytes of its first version: no caller has less.
    const FIRST: usize;
    /// Its name in C.
    const NAME: &str;
    /// Name, offset and size of every field.
    const FIELDS: &[(&str, usize, usize)];
}

/// A struct as C has it, with what [`Sized32`] asks for.
macro_rules! c_struct {
    (
        $(#[$meta:meta])*
        $name:ident, first $first:literal, { $($field:ident: $ty:ty,)* }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy)]
        #[repr(C)]
        #[allow(missing_docs)] // said in the header
        pub struct $name {
            $(pub $field: $ty,)*
        }

        // SAFETY: `repr(C)`; the assertion below excludes padding, and fields are
        // numbers, pointers and optional functions.
        unsafe impl $crate::layout::Sized32 for $name {
            const FIRST: usize = $first;
            const NAME: &str = stringify!($name);
            const FIELDS: &[(&str, usize, usize)] = &[
                $((stringify!($field), std::mem::offset_of!($name, $field), size_of::<$ty>()),)*
            ];
        }

        const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$ty>())*, "padding");
        const _: () = assert!(size_of::<$name>() >= $first, "smaller than its first version");
    };
}
pub(crate) use c_struct;

/// The bytes that a caller's struct says it has.
///
/// # Safety
/// `pointer` is NULL or a struct that begins with its size.
unsafe fn size_of_caller<T: Sized32>(pointer: *const T) -> Outcome<usize> {
    let name = T::NAME;
    if pointer.is_null() {
        return Err(Failure::argument(format!("{name} is NULL")));
    }
    if !pointer.is_aligned() {
        return Err(Failure::argument(format!("{name} is not aligned")));
    }
    /// No version will be larger; what is was never set.
    const MOST: usize = 4096;
    // SAFETY: not NULL and aligned, and begins with its size.
    let size = unsafe { pointer.cast::<u32>().read() } as usize;
    if size < T::FIRST || size > MOST || !size.is_multiple_of(4) {
        return Err(Failure::argument(format!(
            "{name}.size is {size}; set it to sizeof({name}), which is {} here",
            size_of::<T>()
        )));
    }
    Ok(size)
}

/// Reads an input; defaults for NULL, and for fields that the caller does not know.
///
/// # Safety
/// `pointer` is NULL or points to as many bytes as its size says.
pub(crate) unsafe fn read<T: Sized32>(pointer: *const T) -> Outcome<T> {
    // SAFETY: `Sized32` allows zeros.
    let mut value: T = unsafe { std::mem::zeroed() };
    if pointer.is_null() {
        return Ok(value);
    }
    // SAFETY: the caller's.
    let size = unsafe { size_of_caller(pointer) }?;
    let known = size.min(size_of::<T>());
    let bytes = pointer.cast::<u8>();
    // SAFETY: the caller has `size` bytes, and `value` has `known`.
    unsafe { bytes.copy_to_nonoverlapping((&raw mut value).cast(), known) };
    // SAFETY: the rest of the caller's `size` bytes.
    let rest = unsafe { std::slice::from_raw_parts(bytes.add(known), size - known) };
    if rest.iter().any(|&b| b != 0) {
        return Err(Failure::new(
            Status::Unsupported,
            format!(
                "{} sets a field that this version of the library does not know",
                T::NAME
            ),
        ));
    }
    Ok(value)
}

/// Where an output goes, checked before any work is done.
pub(crate) struct Filled<T> {
    pointer: *mut T,
    size: usize,
}

impl<T: Sized32> Filled<T> {
    /// # Safety
    /// `pointer` is NULL or points to as many bytes as its size says, until the call
    /// ends.
    pub unsafe fn new(pointer: *mut T) -> Outcome<Self> {
        // SAFETY: the caller's.
        let size = unsafe { size_of_caller(pointer) }?;
        Ok(Self { pointer, size })
    }

    /// The same where NULL is allowed.
    ///
    /// # Safety
    /// As there.
    pub unsafe fn or_null(pointer: *mut T) -> Outcome<Option<Self>> {
        if pointer.is_null() {
            return Ok(None);
        }
        // SAFETY: the caller's.
        unsafe { Self::new(pointer) }.map(Some)
    }

    /// Writes what the caller knows; fields that only the caller knows become zero. The
    /// size stays.
    pub fn set(&self, value: &T) {
        let known = self.size.min(size_of::<T>());
        let (from, to) = ((&raw const *value).cast::<u8>(), self.pointer.cast::<u8>());
        let skip = size_of::<u32>();
        // SAFETY: both have `known` bytes, which are more than the size's own.
        unsafe {
            to.add(skip)
                .copy_from_nonoverlapping(from.add(skip), known - skip)
        };
        // SAFETY: the rest of the caller's `size` bytes.
        unsafe { to.add(known).write_bytes(0, self.size - known) };
    }
}

/// The size of a struct, as the struct has it.
pub(crate) const fn size32<T>() -> u32 {
    size_of::<T>() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    c_struct! {
        /// As of today.
        sample, first 8, { size: u32, a: u32, b: u64, }
    }

    fn failed(outcome: Outcome<sample>) -> Status {
        outcome.map(|_| ()).unwrap_err().status
    }

    #[repr(C, align(8))]
    struct Words([u32; 6]);

    /// SAFETY of the tests: `Words` has as many bytes as any size that they write.
    fn read_words(words: [u32; 6]) -> Outcome<sample> {
        let words = Words(words);
        // SAFETY: see above.
        unsafe { read((&raw const words).cast()) }
    }

    #[test]
    fn inputs_of_any_size() {
        let at = |words| read_words(words).map(|s| (s.a, s.b)).unwrap();
        assert_eq!(at([8, 7, 9, 9, 9, 9]), (7, 0));
        assert_eq!(at([12, 7, 1, 9, 9, 9]), (7, 1));
        assert_eq!(at([16, 7, 1, 2, 9, 9]), (7, 2 << 32 | 1));
        assert_eq!(at([24, 7, 1, 2, 0, 0]), (7, 2 << 32 | 1));
        assert_eq!(failed(read_words([24, 7, 1, 2, 0, 5])), Status::Unsupported);
        for size in [0, 4, 7, 9, u32::MAX] {
            let words = [size, 0, 0, 0, 0, 0];
            assert_eq!(failed(read_words(words)), Status::InvalidArgument, "{size}");
        }
    }

    #[test]
    fn outputs_of_any_size() {
        let value = sample {
            size: 99,
            a: 1,
            b: 3 << 32 | 2,
        };
        let fill = |size| {
            let mut words = Words([size, 9, 9, 9, 9, 9]);
            // SAFETY: see above.
            let out = unsafe { Filled::new((&raw mut words).cast::<sample>()) };
            out.unwrap().set(&value);
            words.0
        };
        assert_eq!(fill(8), [8, 1, 9, 9, 9, 9]);
        assert_eq!(fill(16), [16, 1, 2, 3, 9, 9]);
        assert_eq!(fill(24), [24, 1, 2, 3, 0, 0]);
    }

    #[test]
    fn null_is_all_defaults_and_no_output() {
        // SAFETY: NULL is allowed.
        let value = unsafe { read(std::ptr::null::<sample>()) }.unwrap();
        assert_eq!((value.a, value.b), (0, 0));
        // SAFETY: as above.
        assert!(unsafe { Filled::new(std::ptr::null_mut::<sample>()) }.is_err());
        // SAFETY: as above.
        let none = unsafe { Filled::or_null(std::ptr::null_mut::<sample>()) };
        assert!(none.is_ok_and(|none| none.is_none()));
    }
}
