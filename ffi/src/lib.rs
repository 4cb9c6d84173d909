//! The C interface over `Engine` and `Session`.
//!
//! What it promises is written in `include/v4.h`; this crate keeps it. Each exported
//! function is one call of `guard::guard`, which turns errors and panics into a
//! status. Pointers from C are only touched in `pointer` and [`layout`], where they
//! are checked as far as they can be: for NULL, alignment and absurd lengths.
//!
//! The tests compare this crate with the header: names, prototypes, and the size and
//! place of every field.

// Types are named as in C. What callers must see to is in the header, once.
#![allow(non_camel_case_types, unsafe_code, clippy::missing_safety_doc)]

mod callback;
mod cancel;
mod chat;
mod decoder;
mod drafts;
mod engine;
mod failure;
mod generate;
mod guard;
mod handle;
pub mod layout;
mod log;
mod parser;
mod pointer;
mod sampler;
mod session;
mod session_file;
pub mod status;
mod timeline;
mod tokenizer;

pub use callback::*;
pub use cancel::*;
pub use chat::*;
pub use decoder::*;
pub use engine::*;
pub use generate::*;
pub use log::*;
pub use parser::*;
pub use sampler::*;
pub use session::*;
pub use session_file::*;
pub use timeline::*;
pub use tokenizer::*;

use std::ffi::{CStr, c_char, c_void};

use status::{Status, v4_status};

/// The first number of the interface's version.
pub const ABI_MAJOR: u32 = 1;
/// The second.
pub const ABI_MINOR: u32 = 3;

/// See `v4.h`.
#[unsafe(no_mangle)]
pub extern "C" fn v4_abi_version() -> u32 {
    ABI_MAJOR << 16 | ABI_MINOR
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub extern "C" fn v4_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => c"",
        };
    VERSION.as_ptr()
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub extern "C" fn v4_status_name(status: v4_status) -> *const c_char {
    Status::name(status).as_ptr()
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub extern "C" fn v4_last_error() -> *const c_char {
    guard::last_error()
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_set_log(log: v4_log_fn, user: *mut c_void, level: i32) -> v4_status {
    guard::guard(|| log::set(log, user, level))
}
