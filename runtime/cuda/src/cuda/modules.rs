//! Machine code, and launches of it.

use std::ffi::{CString, c_int, c_void};
use std::ptr;
use std::sync::{PoisonError, RwLock};

use cudarc::driver::sys::{self, CUfunction, CUfunction_attribute_enum as Attribute, CUmodule};

use super::library::check;
use crate::driver::{
    Card, DriverError, Extent, FunctionId, Image, MOST_SHARED, ModuleId, Signature,
};

/// Loads that of a module's images which runs on the card: of the same major compute capability,
/// and the highest minor one that is not above the card's.
pub fn load(card: &Card, module: &'static str, images: &[Image]) -> Result<ModuleId, DriverError> {
    let (major, minor) = card.capability;
    let has = 10 * major + minor;
    let own = images.iter().filter(|image| image.module == module);
    let fits = |image: &&Image| image.capability / 10 == major && image.capability <= has;
    let Some(image) = own
        .clone()
        .filter(fits)
        .max_by_key(|image| image.capability)
    else {
        let compiled: Vec<String> = own
            .map(|image| format!("{}.{}", image.capability / 10, image.capability % 10))
            .collect();
        return Err(DriverError::NoImage {
            card: card.name.clone(),
            major,
            minor,
            compiled: compiled.join(", "),
        });
    };
    let mut loaded: CUmodule = ptr::null_mut();
    // SAFETY: the image is a whole ELF file, which says its own length.
    let code = unsafe { sys::cuModuleLoadData(&mut loaded, image.bytes.as_ptr().cast()) };
    check(code, || format!("loading of the kernels in {module}"))?;
    Ok(ModuleId(loaded as u64))
}

/// The kernels that have been asked for. A [`FunctionId`] is a place in this list.
#[derive(Debug, Default)]
pub struct Functions(RwLock<Vec<Function>>);

#[derive(Debug, Clone, Copy)]
struct Function {
    handle: CUfunction,
    signature: Signature,
}

// SAFETY: a handle of the driver's, which any thread may use.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Functions {
    /// A kernel of a module.
    ///
    /// Asking for an attribute makes the driver load it now, even where it loads lazily.
    pub fn find(&self, module: ModuleId, signature: &Signature) -> Result<FunctionId, DriverError> {
        let call = || format!("loading of {}", signature.name);
        let refused = |why: &str| DriverError::Refused {
            call: call(),
            why: why.to_owned(),
        };
        let name = CString::new(signature.name).map_err(|_| refused("a name with a zero byte"))?;
        let mut handle: CUfunction = ptr::null_mut();
        // SAFETY: the module is of `load`, and the name a C string.
        let done =
            unsafe { sys::cuModuleGetFunction(&mut handle, module.0 as CUmodule, name.as_ptr()) };
        check(done, call)?;
        let mut registers: c_int = 0;
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS;
        // SAFETY: it writes one number.
        let done = unsafe { sys::cuFuncGetAttribute(&mut registers, attribute, handle) };
        check(done, call)?;
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function was just found.
        let done = unsafe { sys::cuFuncSetAttribute(handle, attribute, MOST_SHARED as c_int) };
        check(done, call)?;
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.push(Function {
            handle,
            signature: *signature,
        });
        Ok(FunctionId(all.len() as u64 - 1))
    }

    /// Launches a kernel. The bytes of its arguments are handed over with their length, so that
    /// the driver never reads beyond them.
    ///
    /// # Safety
    /// See `Driver::launch`.
    pub unsafe fn launch(
        &self,
        function: FunctionId,
        extent: Extent,
        args: &[u8],
        stream: sys::CUstream,
    ) -> Result<(), DriverError> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let found = usize::try_from(function.0).ok().and_then(|i| all.get(i));
        let Some(Function { handle, signature }) = found.copied() else {
            return Err(DriverError::Refused {
                call: "launch of a kernel".to_owned(),
                why: "it is not of this card".to_owned(),
            });
        };
        drop(all);
        let call = || format!("launch of {}", signature.name);
        let refused = |why: String| DriverError::Refused { call: call(), why };
        extent.check().map_err(refused)?;
        if args.len() != signature.args_size {
            let takes = signature.args_size;
            return Err(refused(format!(
                "it takes {takes} bytes of arguments, not {}",
                args.len()
            )));
        }
        let mut bytes = args.len();
        let mut extra: [*mut c_void; 5] = [
            sys::CU_LAUNCH_PARAM_BUFFER_POINTER_AS_INT as usize as *mut c_void,
            args.as_ptr().cast_mut().cast(),
            sys::CU_LAUNCH_PARAM_BUFFER_SIZE_AS_INT as usize as *mut c_void,
            (&raw mut bytes).cast(),
            sys::CU_LAUNCH_PARAM_END_AS_INT as usize as *mut c_void,
        ];
        let [gx, gy, gz] = extent.grid;
        let [bx, by, bz] = extent.block;
        // SAFETY: the function is of `find`; the list of extra options has its end, and what it
        // points to is there during the call. The caller answers for what the kernel does.
        let done = unsafe {
            sys::cuLaunchKernel(
                handle,
                gx,
                gy,
                gz,
                bx,
                by,
                bz,
                extent.shared,
                stream,
                ptr::null_mut(),
                extra.as_mut_ptr(),
            )
        };
        check(done, call)
    }
}
