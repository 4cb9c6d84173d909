//! Text to ids and back.

use std::ffi::c_char;

use v4_tokenizer::Marks;

use crate::engine::v4_engine;
use crate::failure::{Failure, Outcome};
use crate::guard::guard;
use crate::pointer::{self, MOST_TEXT, Out};
use crate::status::{Status, v4_status};

const MARKS: u32 = 1;
const BOS: u32 = 2;
const UTF8: u32 = 1;

/// Refuses flags that are not `known`.
pub(crate) fn check_flags(flags: u32, known: u32) -> Outcome {
    if flags & !known != 0 {
        return Err(Failure::new(
            Status::Unsupported,
            format!(
                "this version of the library does not know the flags {:#x}",
                flags & !known
            ),
        ));
    }
    Ok(())
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_tokenizer_encode(
    engine: *const v4_engine,
    text: *const c_char,
    length: usize,
    flags: u32,
    ids: *mut u32,
    capacity: usize,
    count: *mut usize,
) -> v4_status {
    guard(|| {
        // SAFETY: the header's rules for handles.
        let tokenizer = unsafe { pointer::handle(engine, "engine") }?
            .engine
            .tokenizer();
        // SAFETY: the header's rules for pointers.
        let text = unsafe { pointer::text(text, length, MOST_TEXT, "text") }?;
        // SAFETY: as above.
        let count = unsafe { Out::new(count, "count") }?;
        check_flags(flags, MARKS | BOS)?;
        let marks = match flags & MARKS {
            0 => Marks::Plain,
            _ => Marks::Parse,
        };
        let mut encoded = Vec::new();
        if flags & BOS != 0 {
            let bos = tokenizer.bos().ok_or_else(|| {
                Failure::argument(
                    "the model has no begin-of-sentence token; leave out V4_ENCODE_BOS",
                )
            })?;
            encoded.push(bos);
        }
        encoded.extend(tokenizer.encode(text, marks)?);
        count.set(encoded.len());
        // SAFETY: as above.
        unsafe { pointer::fill(&encoded, ids, capacity, "ids") }
    })
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_tokenizer_decode(
    engine: *const v4_engine,
    ids: *const u32,
    count: usize,
    flags: u32,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> v4_status {
    guard(|| {
        // SAFETY: the header's rules for handles.
        let tokenizer = unsafe { pointer::handle(engine, "engine") }?
            .engine
            .tokenizer();
        // SAFETY: the header's rules for pointers.
        let ids = unsafe { pointer::slice(ids, count, "ids") }?;
        // SAFETY: as above.
        let length = unsafe { Out::new(length, "length") }?;
        check_flags(flags, UTF8)?;
        // A token's bytes have a bound, but their sum must have one too.
        let total: usize = ids
            .iter()
            .map(|&id| tokenizer.token_bytes(id).map_or(0, <[u8]>::len))
            .sum();
        if total > MOST_TEXT {
            return Err(Failure::argument(format!(
                "the ids stand for {total} bytes; at most {MOST_TEXT} can be decoded at once"
            )));
        }
        let mut bytes = match flags & UTF8 {
            0 => tokenizer.decode(ids)?,
            _ => tokenizer.decode_text(ids)?.into_bytes(),
        };
        length.set(bytes.len());
        bytes.push(0);
        // SAFETY: as above.
        unsafe { pointer::fill(&bytes, buffer.cast(), capacity, "buffer") }
    })
}
