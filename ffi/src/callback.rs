//! Functions of the caller that the library calls back.
//!
//! Their type allows unwinding, so that a Rust caller's panic becomes a status. An
//! exception of C++ ends the process: the header forbids it, and `v4.hpp` catches it.

use std::ffi::{c_char, c_void};

use crate::layout::c_struct;

/// Told how far something is.
pub type v4_progress_fn =
    Option<unsafe extern "C-unwind" fn(user: *mut c_void, done: u64, total: u64) -> i32>;

c_struct! {
    /// Logits of one position.
    v4_logits, first 24, { size: u32, position: u32, logits: *const f32, count: usize, }
}

/// Takes one position's logits.
pub type v4_logits_fn =
    Option<unsafe extern "C-unwind" fn(user: *mut c_void, logits: *const v4_logits) -> i32>;

c_struct! {
    /// A token of an answer.
    v4_token, first 24, { size: u32, id: u32, text: *const c_char, length: usize, }
}

/// Takes a token.
pub type v4_token_fn =
    Option<unsafe extern "C-unwind" fn(user: *mut c_void, token: *const v4_token) -> i32>;

c_struct! {
    /// An event of the output parser.
    v4_event, first 32, {
        size: u32,
        kind: i32,
        text: *const c_char,
        length: usize,
        name: *const c_char,
    }
}

/// Takes an event.
pub type v4_event_fn =
    Option<unsafe extern "C-unwind" fn(user: *mut c_void, event: *const v4_event) -> i32>;

/// `V4_NO_TOKEN`.
pub(crate) const NO_TOKEN: u32 = u32::MAX;
