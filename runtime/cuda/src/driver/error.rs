//! Why a call to a card failed.

use std::ffi::c_int;

/// Codes of the driver API that callers tell apart.
pub mod code {
    use std::ffi::c_int;

    /// An argument is not one that the call takes.
    pub const INVALID_VALUE: c_int = 1;
    /// Not so much memory is free.
    pub const OUT_OF_MEMORY: c_int = 2;
    /// The library has been shut down.
    pub const DEINITIALIZED: c_int = 4;
    /// The library is that of the toolkit, for linking only.
    pub const STUB_LIBRARY: c_int = 34;
    /// There is no card.
    pub const NO_DEVICE: c_int = 100;
    /// There is no such card.
    pub const INVALID_DEVICE: c_int = 101;
    /// The image is not for this card.
    pub const NO_BINARY_FOR_GPU: c_int = 209;
    /// The image is damaged.
    pub const INVALID_IMAGE: c_int = 200;
    /// A call of the operating system failed.
    pub const OPERATING_SYSTEM: c_int = 304;
    /// The handle is not one, or not one any more.
    pub const INVALID_HANDLE: c_int = 400;
    /// The object is not in the state that the call needs.
    pub const ILLEGAL_STATE: c_int = 401;
    /// No function of that name.
    pub const NOT_FOUND: c_int = 500;
    /// The work is still being done. Queries turn this into `false`.
    pub const NOT_READY: c_int = 600;
    /// A kernel read or wrote where nothing is.
    pub const ILLEGAL_ADDRESS: c_int = 700;
    /// A launch asks for more than there is.
    pub const LAUNCH_OUT_OF_RESOURCES: c_int = 701;
    /// Memory that is registered already.
    pub const HOST_MEMORY_ALREADY_REGISTERED: c_int = 712;
    /// Memory that is not registered.
    pub const HOST_MEMORY_NOT_REGISTERED: c_int = 713;
    /// A kernel failed.
    pub const LAUNCH_FAILED: c_int = 719;
    /// The call is not for this system.
    pub const NOT_SUPPORTED: c_int = 801;
    /// Something that cards of servers need does not run yet.
    pub const SYSTEM_NOT_READY: c_int = 802;
    /// The library and the kernel module are of different versions.
    pub const SYSTEM_DRIVER_MISMATCH: c_int = 803;
    /// Not while a stream is captured.
    pub const STREAM_CAPTURE_UNSUPPORTED: c_int = 900;
    /// The capture was spoilt by an earlier call.
    pub const STREAM_CAPTURE_INVALIDATED: c_int = 901;
    /// The capture did not begin in this stream.
    pub const STREAM_CAPTURE_UNMATCHED: c_int = 903;
    /// A captured stream was not joined to the one where the capture began.
    pub const STREAM_CAPTURE_UNJOINED: c_int = 904;
    /// A captured stream may not wait for what is outside of the capture.
    pub const STREAM_CAPTURE_ISOLATION: c_int = 905;
    /// The capture did not begin on this thread.
    pub const STREAM_CAPTURE_WRONG_THREAD: c_int = 908;
    /// Nobody knows.
    pub const UNKNOWN: c_int = 999;
}

/// Why a call to a card failed. Each message names the call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// There is no CUDA driver on this machine.
    #[error(
        "there is no NVIDIA driver on this machine (libcuda.so.1 was not found): install one, \
         version 525 or newer (570 or newer for RTX 50 cards), or run without a card"
    )]
    Absent,
    /// The driver is older than what we call.
    #[error("the NVIDIA driver has no {symbol}: install version 525 or newer")]
    TooOld {
        /// The first function that is missing.
        symbol: &'static str,
    },
    /// The driver is of a CUDA version that kernels of ours do not run with.
    #[error(
        "the NVIDIA driver supports CUDA {}.{} only: install version 525 or newer (570 or newer \
         for RTX 50 cards)",
        has.0,
        has.1
    )]
    OldVersion {
        /// The version of CUDA that it supports.
        has: (u32, u32),
    },
    /// The driver has no card that it can use.
    #[error(
        "the NVIDIA driver finds no card: see what nvidia-smi says; a container must be given its \
         cards, a service access to /dev/nvidia*, and CUDA_VISIBLE_DEVICES can hide them"
    )]
    NoCard,
    /// The library and the kernel module of the driver differ.
    #[error(
        "the NVIDIA driver's library and its kernel module are of different versions: restart the \
         machine after the driver was updated; in a container the library must be the host's"
    )]
    OtherModule,
    /// The driver does not start.
    #[error("the NVIDIA driver does not start ({name}, CUDA error {code}): {remedy}")]
    NotStarted {
        /// The code, see [`code`].
        code: c_int,
        /// CUDA's name of the code.
        name: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A call of the driver API failed.
    #[error("{call}: {text} ({name}, CUDA error {code})")]
    Failed {
        /// Our name of the call, with what it was about: `launch of rms_norm`.
        call: String,
        /// The code, see [`code`].
        code: c_int,
        /// CUDA's name of the code.
        name: String,
        /// What CUDA says about it.
        text: String,
    },
    /// No machine code of ours runs on this card.
    #[error(
        "the kernels are compiled for compute capability {compiled}, this card ({card}) has \
         {major}.{minor}"
    )]
    NoImage {
        /// Name of the card.
        card: String,
        /// Compute capability of the card, before the point.
        major: u32,
        /// After it.
        minor: u32,
        /// Those that there are images for.
        compiled: String,
    },
    /// The call cannot be right, whatever the card says.
    #[error("{call}: {why}")]
    Refused {
        /// As above.
        call: String,
        /// What is wrong.
        why: String,
    },
}

impl DriverError {
    /// Says of an error of the driver's start what is missing.
    #[must_use]
    pub fn of_start(self) -> Self {
        let Self::Failed { code, name, .. } = self else {
            return self;
        };
        let remedy = match code {
            code::NO_DEVICE => return Self::NoCard,
            code::SYSTEM_DRIVER_MISMATCH => return Self::OtherModule,
            code::STUB_LIBRARY => {
                "the library found is the toolkit's stub: put the driver's libcuda.so.1 before it"
            }
            code::OPERATING_SYSTEM => {
                "the system refuses a call: a sandbox or seccomp filter may forbid memfd_create"
            }
            code::SYSTEM_NOT_READY => "nvidia-fabricmanager must run first, see its log",
            code::UNKNOWN => {
                "the kernel module nvidia-uvm is not loaded, or /dev/nvidia-uvm cannot be opened: \
                 run nvidia-modprobe -u -c 0, or restart after the system slept"
            }
            _ => "see what nvidia-smi and the kernel's log say",
        };
        Self::NotStarted { code, name, remedy }
    }

    /// The code of CUDA, where it is one of CUDA's errors.
    pub fn code(&self) -> Option<c_int> {
        match self {
            Self::Failed { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether memory was short: of the card, or pinned memory of the host.
    pub fn is_out_of_memory(&self) -> bool {
        self.code() == Some(code::OUT_OF_MEMORY)
    }

    /// Whether every later call fails as well, and the process must start anew to use the card
    /// again. Errors of kernels are such; errors of arguments and of memory are not.
    pub fn is_fatal(&self) -> bool {
        matches!(
            self.code(),
            // Uncorrectable memory, illegal addresses and instructions, timeouts of the
            // watchdog, traps, hardware stacks, failed launches; a device that is gone.
            Some(4 | 46 | 214 | 220 | 700 | 702 | 710 | 714..=721 | 999)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_fails_says_what_is_missing() {
        for (code, word) in [
            (code::NO_DEVICE, "no card"),
            (code::SYSTEM_DRIVER_MISMATCH, "different versions"),
            (code::UNKNOWN, "nvidia-modprobe"),
            (code::OPERATING_SYSTEM, "memfd_create"),
            (code::STUB_LIBRARY, "stub"),
            (code::SYSTEM_NOT_READY, "fabricmanager"),
            (7, "CUDA error 7"),
        ] {
            let error = DriverError::Failed {
                call: "start of the NVIDIA driver".to_owned(),
                code,
                name: "CUDA_ERROR".to_owned(),
                text: String::new(),
            };
            let text = error.of_start().to_string();
            assert!(text.contains(word), "{text}");
        }
    }
}
