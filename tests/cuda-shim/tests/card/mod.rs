//! A shim with a stream and kernels, for the tests of the driver.

#![allow(dead_code)] // Every test program uses some of it.
#![allow(unsafe_code)] // Launches.

use std::sync::Arc;

use v4_cuda::args::{Add, Args, Field};
use v4_cuda::driver::{DevicePtr, Driver, DriverError, Extent, FunctionId, ModuleId, Signature};
use v4_cuda::kernel_args;
use v4_cuda::kernels::Kernels;
use v4_cuda::owned::{DeviceBuffer, PinnedBuffer, Stream};
use v4_cuda_shim::driver::Schedule;
use v4_cuda_shim::{Shim, ShimOptions};

kernel_args! {
    /// Mirrors `faults/driver.cu`.
    Access ["fault_write_at", "fault_read_at", "fault_write_through", "fault_release"] {
        /// Pointer to words.
        out: u64,
        /// Pointer to words.
        input: u64,
        /// Which word.
        at: i64,
        /// What is written.
        value: u32,
        /// Nothing.
        unused: u32,
    }
}

/// Options for each way of doing work late or early.
pub fn every_schedule() -> Vec<ShimOptions> {
    let with = |schedule| ShimOptions {
        schedule,
        ..ShimOptions::default()
    };
    let mut all = vec![with(Schedule::Eager), with(Schedule::Late)];
    all.extend((0..10).map(ShimOptions::random));
    all.extend((0..5).map(ShimOptions::threaded));
    all
}

/// Options with work done late.
pub fn late() -> ShimOptions {
    ShimOptions::default()
}

/// A card with all kernels and one stream.
pub struct Rig {
    pub kernels: Kernels<Shim>,
    pub stream: Stream<Shim>,
    /// The module with the kernels of `faults/`.
    pub faults: ModuleId,
    pub shim: Arc<Shim>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        // A card that has failed gives nothing back, and nobody asks for it.
        let _ = self.shim.unload(self.faults);
    }
}

impl Rig {
    pub fn new(options: ShimOptions) -> Self {
        let shim = Arc::new(Shim::new(options));
        Self {
            kernels: Kernels::load(&shim).unwrap(),
            stream: Stream::new(&shim).unwrap(),
            faults: shim.load("faults", &[]).unwrap(),
            shim,
        }
    }

    pub fn stream(&self) -> Stream<Shim> {
        Stream::new(&self.shim).unwrap()
    }

    /// A buffer with these values.
    pub fn put(&self, values: &[f32]) -> DeviceBuffer<Shim> {
        let buffer = self.space(values.len());
        buffer.write(&self.stream, 0, &bytes(values)).unwrap();
        buffer
    }

    /// A buffer that nobody has written.
    pub fn space(&self, len: usize) -> DeviceBuffer<Shim> {
        DeviceBuffer::new(&self.shim, 4 * len).unwrap()
    }

    pub fn pinned(&self, len: usize) -> PinnedBuffer<Shim> {
        PinnedBuffer::new(&self.shim, 4 * len).unwrap()
    }

    /// What a buffer holds, after the work of the rig's stream.
    pub fn get(&self, buffer: &DeviceBuffer<Shim>) -> Vec<f32> {
        self.try_get(buffer).unwrap()
    }

    pub fn try_get(&self, buffer: &DeviceBuffer<Shim>) -> Result<Vec<f32>, DriverError> {
        let mut bytes = vec![0; buffer.len()];
        buffer.read(&self.stream, 0, &mut bytes)?;
        Ok(floats(&bytes))
    }

    /// Queues `y += x`.
    pub fn add(
        &self,
        stream: &Stream<Shim>,
        y: &DeviceBuffer<Shim>,
        x: &DeviceBuffer<Shim>,
    ) -> Result<(), DriverError> {
        let args = Add {
            y: y.start().0,
            x: x.start().0,
            count: y.len() as u64 / 4,
        };
        let blocks = (args.count as u32).div_ceil(64);
        // SAFETY: both are owned, and as long as the count says; tests that drop one mean it.
        unsafe {
            self.kernels
                .rows
                .add
                .launch(stream, Extent::row(blocks, 64), &args)
        }
    }

    /// A kernel of `faults/driver.cu`.
    pub fn fault(&self, name: &'static str) -> FunctionId {
        let signature = Signature {
            name,
            args_size: size_of::<Access>(),
            addresses: Access::ADDRESSES,
        };
        self.shim.function(self.faults, &signature).unwrap()
    }

    /// Runs such a kernel to its end.
    pub fn run_fault(&self, name: &'static str, args: Access) -> Result<(), DriverError> {
        let function = self.fault(name);
        // SAFETY: that these arguments are wrong is what is tested, and the shim catches it.
        unsafe { self.launch(function, &args)? };
        self.stream.synchronize()
    }

    /// Queues a kernel by its handle.
    ///
    /// # Safety
    /// See `Driver::launch`.
    pub unsafe fn launch<A: Args>(
        &self,
        function: FunctionId,
        args: &A,
    ) -> Result<(), DriverError> {
        let extent = Extent::row(1, 32);
        // SAFETY: the caller's promise is the same.
        unsafe {
            self.shim
                .launch(function, extent, &args.bytes(), self.stream.id())
        }
    }
}

pub fn access(out: DevicePtr, input: DevicePtr, at: i64) -> Access {
    Access {
        out: out.0,
        input: input.0,
        at,
        value: 7,
        unused: 0,
    }
}

pub fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_ne_bytes()).collect()
}

pub fn floats(bytes: &[u8]) -> Vec<f32> {
    let words = bytes.chunks_exact(4);
    words
        .map(|word| f32::from_ne_bytes(word.try_into().unwrap()))
        .collect()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Whether the running test cannot go on: a build with sanitizers ends the process where a kernel
/// writes what it may not, before the shim sees it.
pub fn is_sanitized() -> bool {
    let sanitized = option_env!("V4_SHIM_SANITIZE").is_some();
    if sanitized {
        println!("left to the sanitizer");
    }
    sanitized
}

/// That a call failed, and what it says.
#[track_caller]
pub fn assert_says<T: std::fmt::Debug>(result: Result<T, DriverError>, words: &[&str]) {
    let text = result.expect_err("it must fail").to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}
