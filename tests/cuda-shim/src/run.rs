//! Kernels of this program, and their launch.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;

use v4_cuda::args::Args;

/// Mirrors `shim_kernel` of `shim/shim.h`.
#[repr(C)]
struct RawKernel {
    name: *const c_char,
    entry: Option<unsafe extern "C" fn(*const c_void)>,
    args_size: usize,
}

/// Mirrors `shim_order`.
#[repr(C)]
struct RawOrder {
    kind: c_int,
    seed: u64,
}

unsafe extern "C" {
    fn shim_kernels(count: *mut usize) -> *const RawKernel;
    fn shim_run(
        kernel: *const RawKernel,
        grid: *const u32,
        block: *const u32,
        shared_bytes: u32,
        args: *const c_void,
        order: *const RawOrder,
        error: *mut c_char,
        error_len: usize,
    ) -> c_int;
    fn shim_flush() -> u32;
    fn shim_restore(mode: u32);
    fn shim_poison(start: *mut c_void, bytes: usize);
    fn shim_unpoison(start: *mut c_void, bytes: usize);
}

/// Bytes that kernels must not touch, which ends the process in a build with the address
/// sanitizer.
///
/// # Safety
/// They must be the caller's, and made usable again before they are freed.
pub(crate) unsafe fn forbid(start: *mut u8, bytes: usize) {
    // SAFETY: this changes what the sanitizer knows of the caller's memory, not the memory.
    unsafe { shim_poison(start.cast(), bytes) };
}

/// Takes back what [`forbid`] did.
///
/// # Safety
/// The bytes must be the caller's.
pub(crate) unsafe fn allow(start: *mut u8, bytes: usize) {
    // SAFETY: as above.
    unsafe { shim_unpoison(start.cast(), bytes) };
}

/// Runs `f` in the mode of kernels and of the engine's workers: subnormal results and arguments
/// are zeros.
pub fn flushed<R>(f: impl FnOnce() -> R) -> R {
    /// Back to the mode before, also by way of a panic.
    struct Restore(u32);

    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: the mode that this thread had.
            unsafe { shim_restore(self.0) };
        }
    }

    // SAFETY: the compiler takes for granted that operations on floats give what IEEE 754 says;
    // in this mode some give zero instead, which is also a value of their type.
    let _restore = Restore(unsafe { shim_flush() });
    f()
}

/// In which order the threads of a block run, and the blocks of a grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// From the first to the last.
    Forward,
    /// From the last to the first.
    Reversed,
    /// By a seed, anew in every round. Half of the asynchronous copies happen at once.
    Random(u64),
}

impl Order {
    fn raw(self) -> RawOrder {
        let (kind, seed) = match self {
            Self::Forward => (0, 0),
            Self::Reversed => (1, 0),
            Self::Random(seed) => (2, seed),
        };
        RawOrder { kind, seed }
    }
}

/// How many threads a launch has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z. Those in x are whole warps; y and z are 1.
    pub block: [u32; 3],
    /// Bytes of shared memory of a block, at most 99 KiB.
    pub shared_bytes: u32,
}

impl Shape {
    /// A row of blocks without shared memory.
    pub fn row(blocks: u32, threads: u32) -> Self {
        Self {
            grid: [blocks, 1, 1],
            block: [threads, 1, 1],
            shared_bytes: 0,
        }
    }

    /// The same with so many bytes of shared memory.
    pub fn with_shared(self, shared_bytes: u32) -> Self {
        Self {
            shared_bytes,
            ..self
        }
    }
}

/// A launch that a card would have got wrong: the kernel, the block, the thread, and what it did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LaunchError(pub String);

/// A kernel of this program.
#[derive(Clone, Copy)]
pub struct Kernel(&'static RawKernel);

// SAFETY: the table is constant once the program has started.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

impl Kernel {
    /// The kernel of this name.
    pub fn named(name: &str) -> Option<Self> {
        kernels().into_iter().find(|kernel| kernel.name() == name)
    }

    /// Its name in the source.
    pub fn name(&self) -> &'static str {
        // SAFETY: names are string literals of the C++ side.
        let name = unsafe { CStr::from_ptr(self.0.name) };
        name.to_str().expect("names of kernels are C++ identifiers")
    }

    /// Bytes of its arguments.
    pub fn args_size(&self) -> usize {
        self.0.args_size
    }

    /// Runs it to its end with arguments as bytes.
    ///
    /// # Errors
    /// If the bytes are not as many as it takes, the shape is one that cards don't have, or a
    /// thread breaks a rule.
    ///
    /// # Safety
    /// Every address in the arguments must be one that the kernel may read or write as it does
    /// with these arguments, and nobody else meanwhile.
    pub unsafe fn run_bytes(
        &self,
        shape: Shape,
        args: &[u8],
        order: Order,
    ) -> Result<(), LaunchError> {
        if args.len() != self.args_size() {
            let (name, takes, given) = (self.name(), self.args_size(), args.len());
            return Err(LaunchError(format!(
                "kernel {name} takes {takes} bytes of arguments, and was given {given}"
            )));
        }
        // Structs of arguments hold addresses: aligned as those.
        let mut aligned = vec![0u64; args.len().div_ceil(8).max(1)];
        bytemuck::cast_slice_mut(&mut aligned)[..args.len()].copy_from_slice(args);
        let mut error = [0u8; 512];
        let order = order.raw();
        // SAFETY: the kernel is of the table, both arrays have three numbers, the arguments have
        // the size that the kernel takes, and the error's length is its own. The caller answers
        // for what the kernel does with the addresses in the arguments.
        let code = unsafe {
            shim_run(
                self.0,
                shape.grid.as_ptr(),
                shape.block.as_ptr(),
                shape.shared_bytes,
                aligned.as_ptr().cast(),
                &order,
                error.as_mut_ptr().cast(),
                error.len(),
            )
        };
        if code == 0 {
            return Ok(());
        }
        let end = error.iter().position(|b| *b == 0).unwrap_or(error.len());
        Err(LaunchError(
            String::from_utf8_lossy(&error[..end]).into_owned(),
        ))
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// As [`Kernel::run_bytes`], and if it isn't one of the kernels that take these arguments.
    ///
    /// # Safety
    /// As for [`Kernel::run_bytes`].
    pub unsafe fn run<A: Args>(
        &self,
        shape: Shape,
        args: &A,
        order: Order,
    ) -> Result<(), LaunchError> {
        if !A::KERNELS.contains(&self.name()) {
            let name = self.name();
            return Err(LaunchError(format!(
                "kernel {name} takes other arguments than these"
            )));
        }
        let start = std::ptr::from_ref(args).cast::<u8>();
        // SAFETY: the struct is there for this call, and has no padding (see `kernel_args!`).
        let bytes = unsafe { std::slice::from_raw_parts(start, size_of::<A>()) };
        // SAFETY: the caller's promise is the same.
        unsafe { self.run_bytes(shape, bytes, order) }
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kernel").field(&self.name()).finish()
    }
}

/// All kernels of this program, those of `faults` as well.
pub fn kernels() -> Vec<Kernel> {
    let mut count = 0;
    // SAFETY: it writes the count, and returns a table of so many that never changes.
    let table: &'static [RawKernel] = unsafe {
        let first = shim_kernels(&mut count);
        std::slice::from_raw_parts(first, count)
    };
    table.iter().map(Kernel).collect()
}
