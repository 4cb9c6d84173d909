//! The library itself: whether it is there, what it must have, and what its codes mean.

use std::ffi::{CStr, c_char, c_int};
use std::ptr;

use cudarc::driver::sys;

use crate::driver::DriverError;

/// Every function that this module's siblings call. All are in drivers of CUDA 12.0.
pub const SYMBOLS: &[&str] = &[
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetPCIBusId",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxSetFlags_v2",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime",
    "cuEventQuery",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemHostGetDevicePointer_v2",
    "cuMemHostRegister_v2",
    "cuMemHostUnregister",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamQuery",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuStreamWaitValue32_v2",
];

/// Loads the library and looks for all of [`SYMBOLS`].
///
/// # Errors
/// [`DriverError::Absent`] or [`DriverError::TooOld`].
pub fn open() -> Result<(), DriverError> {
    // SAFETY: loading the NVIDIA driver's library runs its initialisers, which is what whoever
    // asks for a card wants. Without this question `culib` would panic where there is none.
    if !unsafe { sys::is_culib_present() } {
        return Err(DriverError::Absent);
    }
    // SAFETY: the library is there.
    let library = unsafe { sys::culib() };
    for symbol in SYMBOLS {
        // SAFETY: the address is only looked for, not used.
        let found = unsafe { library.get::<*const ()>(symbol.as_bytes()) };
        if found.is_err() {
            return Err(DriverError::TooOld { symbol });
        }
    }
    Ok(())
}

/// The first version of CUDA whose drivers run our kernels.
const LEAST_VERSION: c_int = 12_000;

/// Asks the library, which is open, for its version.
///
/// # Errors
/// [`DriverError::OldVersion`].
pub fn check_version() -> Result<(), DriverError> {
    let mut version: c_int = 0;
    // SAFETY: it writes one number; it may be called before anything else.
    let done = unsafe { sys::cuDriverGetVersion(&mut version) };
    check(done, || "version of the NVIDIA driver".to_owned())?;
    if version >= LEAST_VERSION {
        return Ok(());
    }
    let version = u32::try_from(version).unwrap_or(0);
    Err(DriverError::OldVersion {
        has: (version / 1000, version % 1000 / 10),
    })
}

/// Makes an error of a code, with the name of the call that returned it.
///
/// A code that the bindings don't know (of a newer driver) is no value of their type. Nothing is
/// done with it here but comparing it and handing it back to the driver as a number.
pub fn check(code: sys::CUresult, call: impl FnOnce() -> String) -> Result<(), DriverError> {
    if code == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    Err(DriverError::Failed {
        call: call(),
        code: code as c_int,
        name: words(code, sys::cuGetErrorName).unwrap_or_else(|| "unknown".to_owned()),
        text: words(code, sys::cuGetErrorString).unwrap_or_else(|| "no description".to_owned()),
    })
}

/// What the driver says about a code.
fn words(
    code: sys::CUresult,
    of: unsafe fn(sys::CUresult, *mut *const c_char) -> sys::CUresult,
) -> Option<String> {
    let mut text: *const c_char = ptr::null();
    // SAFETY: it writes one address: that of a constant string, or null.
    let found = unsafe { of(code, &mut text) };
    if found != sys::CUresult::CUDA_SUCCESS || text.is_null() {
        return None;
    }
    // SAFETY: a constant C string of the driver's.
    let text = unsafe { CStr::from_ptr(text) };
    Some(text.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_that_is_called_is_looked_for() {
        let sources = [
            include_str!("card.rs"),
            include_str!("library.rs"),
            include_str!("memory.rs"),
            include_str!("mod.rs"),
            include_str!("modules.rs"),
        ];
        let mut called: Vec<&str> = sources
            .iter()
            .flat_map(|source| source.split("sys::cu").skip(1))
            .map(|rest| {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
                &rest[..end.unwrap_or(rest.len())]
            })
            .filter(|name| name.starts_with(char::is_uppercase))
            .collect();
        called.sort_unstable();
        called.dedup();
        let mut looked_for: Vec<&str> = SYMBOLS.iter().map(|name| &name[2..]).collect();
        looked_for.sort_unstable();
        assert_eq!(called, looked_for);
    }

    #[test]
    fn a_machine_without_a_driver_says_so() {
        // With a driver the question is how it starts, which is for the tests with a card.
        match crate::cuda::Cuda::new() {
            Err(error @ DriverError::Absent) => {
                let text = error.to_string();
                assert!(text.contains("libcuda.so.1"), "{text}");
            }
            Ok(_) | Err(_) => assert!(open().is_ok()),
        }
    }
}
