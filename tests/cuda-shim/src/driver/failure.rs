//! Errors as CUDA would report them, with more to say.

use std::ffi::c_int;

use v4_cuda::driver::{DriverError, code};

/// A code and what was wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub code: c_int,
    pub text: String,
}

impl Failure {
    pub fn new(code: c_int, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { code, text }
    }

    /// A wrong argument.
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::new(code::INVALID_VALUE, text)
    }

    /// The error of a call.
    pub fn of(self, call: impl Into<String>) -> DriverError {
        DriverError::Failed {
            call: call.into(),
            code: self.code,
            name: name(self.code).to_owned(),
            text: self.text,
        }
    }
}

/// CUDA's name of a code.
fn name(number: c_int) -> &'static str {
    match number {
        code::INVALID_VALUE => "CUDA_ERROR_INVALID_VALUE",
        code::OUT_OF_MEMORY => "CUDA_ERROR_OUT_OF_MEMORY",
        code::INVALID_DEVICE => "CUDA_ERROR_INVALID_DEVICE",
        code::INVALID_HANDLE => "CUDA_ERROR_INVALID_HANDLE",
        code::ILLEGAL_STATE => "CUDA_ERROR_ILLEGAL_STATE",
        code::NOT_READY => "CUDA_ERROR_NOT_READY",
        code::NOT_FOUND => "CUDA_ERROR_NOT_FOUND",
        code::ILLEGAL_ADDRESS => "CUDA_ERROR_ILLEGAL_ADDRESS",
        code::LAUNCH_OUT_OF_RESOURCES => "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
        code::HOST_MEMORY_ALREADY_REGISTERED => "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
        code::HOST_MEMORY_NOT_REGISTERED => "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
        code::LAUNCH_FAILED => "CUDA_ERROR_LAUNCH_FAILED",
        code::NOT_SUPPORTED => "CUDA_ERROR_NOT_SUPPORTED",
        code::STREAM_CAPTURE_UNSUPPORTED => "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
        code::STREAM_CAPTURE_INVALIDATED => "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
        code::STREAM_CAPTURE_UNMATCHED => "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED",
        code::STREAM_CAPTURE_WRONG_THREAD => "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
        code::STREAM_CAPTURE_UNJOINED => "CUDA_ERROR_STREAM_CAPTURE_UNJOINED",
        code::STREAM_CAPTURE_ISOLATION => "CUDA_ERROR_STREAM_CAPTURE_ISOLATION",
        _ => "CUDA_ERROR_UNKNOWN",
    }
}
