//! Memory of the card, and pinned memory of the host.

use std::ffi::c_void;
use std::ptr::{self, NonNull};

use cudarc::driver::sys;

use super::library::check;
use crate::driver::{DevicePtr, DriverError, HostMemory};

/// See `Driver::allocate`.
pub fn allocate(bytes: usize) -> Result<DevicePtr, DriverError> {
    let mut start = 0;
    // SAFETY: it writes one address.
    let done = unsafe { sys::cuMemAlloc_v2(&mut start, bytes) };
    check(done, || format!("allocation of {bytes} bytes on the card"))?;
    Ok(DevicePtr(start))
}

/// See `Driver::host_allocate`.
pub fn host_allocate(bytes: usize) -> Result<HostMemory, DriverError> {
    let call = || format!("allocation of {bytes} bytes of pinned memory");
    let mut start: *mut c_void = ptr::null_mut();
    let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
    // SAFETY: it writes one address.
    let done = unsafe { sys::cuMemHostAlloc(&mut start, bytes, flags) };
    check(done, call)?;
    let Some(host) = NonNull::new(start.cast()) else {
        return Err(DriverError::Refused {
            call: call(),
            why: "the driver returned no address".to_owned(),
        });
    };
    let device = device_address(host).inspect_err(|_| {
        // SAFETY: just allocated, and nobody knows of it.
        let _ = unsafe { sys::cuMemFreeHost(start) };
    })?;
    Ok(HostMemory { host, device })
}

/// See `Driver::host_register`.
///
/// # Safety
/// The same as there.
pub unsafe fn host_register(start: NonNull<u8>, bytes: usize) -> Result<DevicePtr, DriverError> {
    let flags = sys::CU_MEMHOSTREGISTER_PORTABLE | sys::CU_MEMHOSTREGISTER_DEVICEMAP;
    // SAFETY: the caller keeps the bytes where they are.
    let done = unsafe { sys::cuMemHostRegister_v2(start.as_ptr().cast(), bytes, flags) };
    check(done, || format!("pinning of {bytes} bytes"))?;
    device_address(start).inspect_err(|_| {
        // SAFETY: just registered, and not used yet.
        let _ = unsafe { sys::cuMemHostUnregister(start.as_ptr().cast()) };
    })
}

/// Where the card finds pinned memory.
fn device_address(host: NonNull<u8>) -> Result<DevicePtr, DriverError> {
    let mut device = 0;
    // SAFETY: it writes one address; the memory is pinned.
    let found = unsafe { sys::cuMemHostGetDevicePointer_v2(&mut device, host.as_ptr().cast(), 0) };
    check(found, || "address of pinned memory on the card".to_owned())?;
    Ok(DevicePtr(device))
}
