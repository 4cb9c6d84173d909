//! Pointers from C: checked as far as possible, then converted to safe Rust types.

use std::ffi::{CStr, OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::failure::{Failure, Outcome};
use crate::handle::Exclusive;
use crate::status::Status;

/// Longest text, in bytes.
pub(crate) const MOST_TEXT: usize = 1 << 30;
/// Most tokens or numbers in an array.
const MOST_ELEMENTS: usize = 1 << 28;
/// Longest path, in bytes; the system's own limit is lower.
pub(crate) const MOST_PATH: usize = 1 << 16;
/// `V4_STRLEN`.
pub(crate) const STRLEN: usize = usize::MAX;

/// A caller's pointer that is handed back to the caller's function as it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct User(pub *mut c_void);

// SAFETY: never dereferenced here; the header says on which threads it is handed back.
unsafe impl Send for User {}
// SAFETY: as above.
unsafe impl Sync for User {}

fn check<T>(pointer: *const T, name: &str) -> Outcome {
    if pointer.is_null() {
        return Err(Failure::argument(format!("{name} is NULL")));
    }
    if !pointer.is_aligned() {
        return Err(Failure::argument(format!(
            "{name} is not aligned to {} bytes",
            align_of::<T>()
        )));
    }
    Ok(())
}

/// What a handle points to.
///
/// # Safety
/// NULL, or a handle of the type that is open for as long as the result is used.
pub(crate) unsafe fn handle<'a, T>(pointer: *const T, name: &str) -> Outcome<&'a T> {
    check(pointer, name)?;
    // SAFETY: not NULL and aligned; the caller sees to the rest.
    Ok(unsafe { &*pointer })
}

/// Makes a handle and puts it where the caller wants it.
///
/// # Safety
/// `out` is NULL or can be written to.
pub(crate) unsafe fn open<T>(
    out: *mut *mut T,
    name: &str,
    make: impl FnOnce() -> Outcome<T>,
) -> Outcome {
    check(out, name)?;
    let made = Box::new(make()?);
    // SAFETY: not NULL and aligned; the caller sees to the rest.
    unsafe { out.write(Box::into_raw(made)) };
    Ok(())
}

/// Takes a handle back; `None` for NULL.
///
/// # Safety
/// NULL, or a handle that [`open`] made and that nobody uses any more.
pub(crate) unsafe fn close<T>(pointer: *mut T) -> Option<Box<T>> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: comes from `Box::into_raw`, and this is its last use.
    Some(unsafe { Box::from_raw(pointer) })
}

/// Closes a handle, unless a call uses it.
///
/// # Safety
/// As [`close`].
pub(crate) unsafe fn close_idle<T, I>(
    pointer: *mut T,
    name: &str,
    inner: impl FnOnce(&T) -> &Exclusive<I>,
) -> Outcome {
    if pointer.is_null() {
        return Ok(());
    }
    // SAFETY: the caller's.
    inner(unsafe { handle(pointer, name) }?).check_idle(name)?;
    // SAFETY: the caller's.
    drop(unsafe { close(pointer) });
    Ok(())
}

/// Where a result goes.
#[derive(Debug)]
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// # Safety
    /// `pointer` is NULL or can be written to until the call ends.
    pub unsafe fn new(pointer: *mut T, name: &str) -> Outcome<Self> {
        check(pointer, name)?;
        Ok(Self(pointer))
    }

    /// # Safety
    /// `pointer` is NULL or can be written to until the call ends.
    pub unsafe fn or_null(pointer: *mut T, name: &str) -> Outcome<Option<Self>> {
        if pointer.is_null() {
            return Ok(None);
        }
        // SAFETY: the caller's.
        unsafe { Self::new(pointer, name) }.map(Some)
    }

    pub fn set(&self, value: T) {
        // SAFETY: checked in `new`, whose caller sees to the rest.
        unsafe { self.0.write(value) };
    }
}

/// An array that is read.
///
/// # Safety
/// `pointer` is NULL or has `count` elements that last as long as the result is used.
pub(crate) unsafe fn slice<'a, T>(pointer: *const T, count: usize, name: &str) -> Outcome<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    check(pointer, name)?;
    if count > MOST_ELEMENTS {
        return Err(Failure::argument(format!(
            "{name} has {count} elements; the limit is {MOST_ELEMENTS}"
        )));
    }
    // SAFETY: not NULL, aligned and not longer than the address space; the caller
    // sees to the rest.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// Writes all of `values` to an array of `capacity` elements, or none of them.
///
/// # Safety
/// `pointer` is NULL or has room for `capacity` elements.
pub(crate) unsafe fn fill<T: Copy>(
    values: &[T],
    pointer: *mut T,
    capacity: usize,
    name: &str,
) -> Outcome {
    if values.len() > capacity {
        return Err(Failure::new(
            Status::BufferTooSmall,
            format!(
                "{name} has room for {capacity}, but {} are needed",
                values.len()
            ),
        ));
    }
    if values.is_empty() {
        return Ok(());
    }
    check(pointer, name)?;
    // SAFETY: not NULL and aligned, with room for more; `values` is memory of ours.
    unsafe { pointer.copy_from_nonoverlapping(values.as_ptr(), values.len()) };
    Ok(())
}

/// Bytes with their length, or with a NUL at their end.
///
/// # Safety
/// `pointer` is NULL or has `length` bytes, or a NUL at its end for `V4_STRLEN`.
pub(crate) unsafe fn bytes<'a>(
    pointer: *const c_char,
    length: usize,
    most: usize,
    name: &str,
) -> Outcome<&'a [u8]> {
    if length == 0 {
        return Ok(&[]);
    }
    check(pointer, name)?;
    let bytes = if length == STRLEN {
        // SAFETY: not NULL, and the caller sees to the NUL.
        unsafe { CStr::from_ptr(pointer) }.to_bytes()
    } else if length > most {
        &[]
    } else {
        // SAFETY: not NULL and not longer than the address space; the caller sees to
        // the rest.
        unsafe { std::slice::from_raw_parts(pointer.cast(), length) }
    };
    if bytes.len() > most || length != STRLEN && length > most {
        return Err(Failure::argument(format!("{name} exceeds {most} bytes")));
    }
    Ok(bytes)
}

/// The same that is UTF-8.
///
/// # Safety
/// As there.
pub(crate) unsafe fn text<'a>(
    pointer: *const c_char,
    length: usize,
    most: usize,
    name: &str,
) -> Outcome<&'a str> {
    // SAFETY: the caller's.
    let bytes = unsafe { bytes(pointer, length, most, name) }?;
    std::str::from_utf8(bytes).map_err(|e| {
        let at = e.valid_up_to();
        Failure::new(
            Status::InvalidUtf8,
            format!("{name}: byte {at} is not UTF-8"),
        )
    })
}

/// Copies of texts with a NUL at their ends, none of them empty. `name` is that of one.
///
/// # Safety
/// `pointer` is NULL or has `count` pointers, each NULL or to a text with a NUL at its end.
pub(crate) unsafe fn texts(
    pointer: *const *const c_char,
    count: usize,
    most: usize,
    longest: usize,
    name: &str,
) -> Outcome<Vec<String>> {
    if count > most {
        return Err(Failure::argument(format!(
            "{count} {name}s given; the limit is {most}"
        )));
    }
    // SAFETY: the caller's.
    let texts = unsafe { slice(pointer, count, name) }?;
    let text = |&one: &*const c_char| {
        // SAFETY: the caller's.
        match unsafe { text(one, STRLEN, longest, name) }? {
            "" => Err(Failure::argument(format!("a {name} is empty"))),
            text => Ok(text.to_owned()),
        }
    };
    texts.iter().map(text).collect()
}

/// A path.
///
/// # Safety
/// `pointer` is NULL or has a NUL at its end.
pub(crate) unsafe fn path<'a>(pointer: *const c_char, name: &str) -> Outcome<&'a Path> {
    // SAFETY: the caller's.
    let bytes = unsafe { bytes(pointer, STRLEN, MOST_PATH, name) }?;
    if bytes.is_empty() {
        return Err(Failure::argument(format!("{name} is empty")));
    }
    Ok(Path::new(OsStr::from_bytes(bytes)))
}
