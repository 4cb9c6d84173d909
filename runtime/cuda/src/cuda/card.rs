//! What the driver knows about a card.

use std::ffi::{CStr, c_int};

use cudarc::driver::sys::{self, CUdevice, CUdevice_attribute_enum as Attribute};

use super::library::check;
use crate::driver::{Card, DriverError};

/// Describes a card.
///
/// # Errors
/// If the driver does not answer.
pub fn describe(ordinal: u32, device: CUdevice) -> Result<Card, DriverError> {
    let call = || format!("description of card {ordinal}");
    let attribute = |which: Attribute| -> Result<u32, DriverError> {
        let mut value: c_int = 0;
        // SAFETY: it writes one number.
        let done = unsafe { sys::cuDeviceGetAttribute(&mut value, which, device) };
        check(done, call)?;
        Ok(u32::try_from(value).unwrap_or(0))
    };
    let mut name = [0u8; 256];
    // SAFETY: it writes at most so many bytes, with a zero at the end.
    let done =
        unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as c_int, device) };
    check(done, call)?;
    let mut pci = [0u8; 64];
    // SAFETY: as above.
    let done =
        unsafe { sys::cuDeviceGetPCIBusId(pci.as_mut_ptr().cast(), pci.len() as c_int, device) };
    check(done, call)?;
    let mut memory = 0;
    // SAFETY: it writes one number.
    let done = unsafe { sys::cuDeviceTotalMem_v2(&mut memory, device) };
    check(done, call)?;
    let mut version: c_int = 0;
    // SAFETY: as above.
    let done = unsafe { sys::cuDriverGetVersion(&mut version) };
    check(done, call)?;
    let version = u32::try_from(version).unwrap_or(0);
    Ok(Card {
        ordinal,
        name: text(&name),
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        cuda: (version / 1000, version % 1000 / 10),
        pci: text(&pci),
        memory: memory as u64,
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        clock_khz: attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?,
        memory_clock_khz: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?,
        memory_bus_bits: attribute(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?,
        l2_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
        shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        copy_engines: attribute(Attribute::CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT)?,
        watchdog: attribute(Attribute::CU_DEVICE_ATTRIBUTE_KERNEL_EXEC_TIMEOUT)? != 0,
        can_register: attribute(Attribute::CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED)? != 0,
        // Waits of both widths came with the same version of this interface; Windows has none.
        can_wait_value: attribute(Attribute::CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS)?
            != 0,
    })
}

/// A C string in a buffer.
fn text(bytes: &[u8]) -> String {
    let text = CStr::from_bytes_until_nul(bytes).unwrap_or_default();
    text.to_string_lossy().trim().to_owned()
}
