//! Statuses, and their names.

use std::ffi::CStr;

/// `v4_status`.
pub type v4_status = i32;

macro_rules! statuses {
    ($($name:ident = $number:literal, $c:literal;)*) => {
        /// What a call can return, as the header has it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(i32)]
        #[allow(missing_docs)] // said in the header
        pub enum Status {
            $($name = $number,)*
        }

        impl Status {
            /// Every status with its name in C.
            pub const ALL: &[(Status, &CStr)] = &[$((Status::$name, $c),)*];
        }
    };
}

statuses! {
    Ok = 0, c"V4_OK";
    Cancelled = 1, c"V4_CANCELLED";
    InvalidArgument = 2, c"V4_INVALID_ARGUMENT";
    InvalidUtf8 = 3, c"V4_INVALID_UTF8";
    Busy = 4, c"V4_BUSY";
    BufferTooSmall = 5, c"V4_BUFFER_TOO_SMALL";
    Unsupported = 6, c"V4_UNSUPPORTED";
    Io = 7, c"V4_IO";
    BadModel = 8, c"V4_BAD_MODEL";
    FileLost = 9, c"V4_FILE_LOST";
    NoMemory = 10, c"V4_NO_MEMORY";
    ContextFull = 11, c"V4_CONTEXT_FULL";
    BadToken = 12, c"V4_BAD_TOKEN";
    NoLogits = 13, c"V4_NO_LOGITS";
    BadSessionFile = 14, c"V4_BAD_SESSION_FILE";
    BadRequest = 15, c"V4_BAD_REQUEST";
    Ended = 16, c"V4_ENDED";
    NoThreads = 17, c"V4_NO_THREADS";
    NotFinite = 18, c"V4_NOT_FINITE";
    Internal = 19, c"V4_INTERNAL";
    Untrusted = 20, c"V4_UNTRUSTED";
    Altered = 21, c"V4_ALTERED";
    BadAdapter = 22, c"V4_BAD_ADAPTER";
}

impl Status {
    /// The name of a number.
    pub(crate) fn name(number: v4_status) -> &'static CStr {
        let known = Self::ALL.iter().find(|(s, _)| *s as v4_status == number);
        known.map_or(c"unknown status", |(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_name_and_others_none() {
        for (status, name) in Status::ALL {
            assert_eq!(Status::name(*status as v4_status), *name);
        }
        assert_eq!(Status::name(-1), c"unknown status");
    }
}
