//! Converts ids to text as they arrive.

use std::ffi::c_char;

use v4_tokenizer::{DecodeStream, Tokenizer};

use crate::engine::v4_engine;
use crate::failure::Outcome;
use crate::guard::guard;
use crate::handle::Exclusive;
use crate::pointer::{self, Out};
use crate::status::v4_status;

/// Text that is lent to the caller, with a NUL behind it.
#[derive(Debug, Default)]
pub(crate) struct Lent(Vec<u8>);

impl Lent {
    /// Replaces the text; pointers to the one before are void.
    pub fn lend(&mut self, text: &str) -> (*const c_char, usize) {
        self.0.clear();
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        (self.0.as_ptr().cast(), text.len())
    }
}

#[derive(Debug)]
struct Inner {
    tokenizer: Tokenizer,
    stream: DecodeStream,
    text: Lent,
}

/// A decoder.
#[derive(Debug)]
pub struct v4_decoder {
    inner: Exclusive<Inner>,
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_decoder_open(
    engine: *const v4_engine,
    decoder: *mut *mut v4_decoder,
) -> v4_status {
    guard(|| {
        // SAFETY: the header's rules for handles.
        let engine = unsafe { pointer::handle(engine, "engine") }?;
        let make = || {
            let tokenizer = engine.engine.tokenizer().clone();
            Ok(v4_decoder {
                inner: Exclusive::new(Inner {
                    stream: tokenizer.decode_stream(),
                    tokenizer,
                    text: Lent::default(),
                }),
            })
        };
        // SAFETY: the header's rules for pointers.
        unsafe { pointer::open(decoder, "decoder", make) }
    })
}

/// Lends what `step` makes of a decoder.
///
/// # Safety
/// The header's rules for handles and pointers.
unsafe fn lend(
    decoder: *mut v4_decoder,
    text: *mut *const c_char,
    length: *mut usize,
    step: impl FnOnce(&mut Inner) -> Outcome<String>,
) -> Outcome {
    // SAFETY: the caller's.
    let decoder = unsafe { pointer::handle(decoder, "decoder") }?;
    // SAFETY: the caller's.
    let (text, length) = unsafe { (Out::new(text, "text")?, Out::new(length, "length")?) };
    let mut inner = decoder.inner.take("decoder")?;
    let piece = step(&mut inner)?;
    let (start, len) = inner.text.lend(&piece);
    text.set(start);
    length.set(len);
    Ok(())
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_decoder_push(
    decoder: *mut v4_decoder,
    id: u32,
    text: *mut *const c_char,
    length: *mut usize,
) -> v4_status {
    let push = |inner: &mut Inner| Ok(inner.stream.push(id)?);
    // SAFETY: the header's rules for handles and pointers.
    guard(|| unsafe { lend(decoder, text, length, push) })
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_decoder_finish(
    decoder: *mut v4_decoder,
    text: *mut *const c_char,
    length: *mut usize,
) -> v4_status {
    let finish = |inner: &mut Inner| {
        let fresh = inner.tokenizer.decode_stream();
        Ok(std::mem::replace(&mut inner.stream, fresh).finish())
    };
    // SAFETY: the header's rules for handles and pointers.
    guard(|| unsafe { lend(decoder, text, length, finish) })
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_decoder_close(decoder: *mut v4_decoder) -> v4_status {
    // SAFETY: the header's rules for handles.
    guard(|| unsafe { pointer::close_idle(decoder, "decoder", |d| &d.inner) })
}
