//! A card with one stream: launches, copies, and the first thing that went wrong.

#![allow(unsafe_code)] // Launches, see `Device::launch`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use v4_cuda::args::Args;
use v4_cuda::driver::{Driver, DriverError, Extent};
use v4_cuda::kernels::{Kernel, Kernels};
use v4_cuda::owned::{DeviceBuffer, Stream};
use v4_files::ByteSize;
use v4_quant::GgmlType;

use super::spare::Spare;
use super::staging::Staging;
use crate::error::CardError;

/// Queries of a launch at most: what CUDA allows a grid to have in y and z.
pub(super) const MOST_QUERIES: usize = 65_535;

/// What all that is on a card has in common.
#[derive(Debug)]
pub(super) struct Device<D: Driver> {
    // In the order in which they are given back.
    spare: Spare<D>,
    staging: Mutex<Staging<D>>,
    codebooks: Mutex<Vec<(GgmlType, DeviceBuffer<D>)>>,
    kernels: Kernels<D>,
    stream: Stream<D>,
    driver: Arc<D>,
    has_failed: AtomicBool,
    fault: Mutex<Option<CardError>>,
}

impl<D: Driver> Device<D> {
    pub(super) fn new(driver: &Arc<D>) -> Result<Self, CardError> {
        Ok(Self {
            spare: Spare::new(),
            staging: Mutex::new(Staging::new(driver)?),
            codebooks: Mutex::default(),
            kernels: Kernels::load(driver)?,
            stream: Stream::new(driver)?,
            driver: Arc::clone(driver),
            has_failed: AtomicBool::new(false),
            fault: Mutex::default(),
        })
    }

    pub(super) fn driver(&self) -> &Arc<D> {
        &self.driver
    }

    pub(super) fn kernels(&self) -> &Kernels<D> {
        &self.kernels
    }

    pub(super) fn stream(&self) -> &Stream<D> {
        &self.stream
    }

    /// What went wrong first, if anything did.
    pub(super) fn fault(&self) -> Option<CardError> {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.clone()
    }

    /// Does something, unless something went wrong before. What goes wrong is kept, and nothing
    /// is done any more.
    pub(super) fn run(&self, operation: impl FnOnce() -> Result<(), CardError>) {
        self.get((), operation);
    }

    /// The same for what has a result; `otherwise` if there is none.
    pub(super) fn get<T>(
        &self,
        otherwise: T,
        operation: impl FnOnce() -> Result<T, CardError>,
    ) -> T {
        if self.has_failed.load(Ordering::Acquire) {
            return otherwise;
        }
        match operation() {
            Ok(result) => result,
            Err(error) => {
                let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
                fault.get_or_insert(error);
                self.has_failed.store(true, Ordering::Release);
                otherwise
            }
        }
    }

    /// Queues a kernel, unless there is nothing to do for it: then a number of the grid is 0.
    ///
    /// Safe code of this backend must hand over what the kernel may use: addresses of buffers
    /// that are as long as the arguments say. They stay as long as work uses them, because
    /// buffers are given back to [`Self::spare`], or else after all work was waited for.
    pub(super) fn launch<A: Args>(
        &self,
        kernel: &Kernel<A>,
        extent: Extent,
        args: &A,
    ) -> Result<(), CardError> {
        if extent.grid.contains(&0) {
            return Ok(());
        }
        // SAFETY: see above.
        unsafe { kernel.launch(&self.stream, extent, args)? };
        Ok(())
    }

    /// Memory of at least so many bytes, which hold anything.
    pub(super) fn take(&self, bytes: usize) -> Result<DeviceBuffer<D>, CardError> {
        if let Some(buffer) = self.spare.take(bytes) {
            // As new memory does in tests, it holds what nobody should read.
            if cfg!(test) {
                buffer.fill(&self.stream, 0..buffer.len(), 0xff)?;
            }
            return Ok(buffer);
        }
        self.allocate(Spare::<D>::size(bytes))
    }

    /// New memory.
    fn allocate(&self, bytes: usize) -> Result<DeviceBuffer<D>, CardError> {
        let short = |error: &DriverError| error.is_out_of_memory();
        let mut buffer = DeviceBuffer::new(&self.driver, bytes);
        if buffer.as_ref().is_err_and(short) {
            self.driver.clear_error()?;
            // What was kept may be what is missing.
            if self.spare.clear() {
                buffer = DeviceBuffer::new(&self.driver, bytes);
            }
        }
        match buffer {
            Err(error) if short(&error) => {
                self.driver.clear_error()?;
                let memory = self.driver.memory()?;
                Err(CardError::Memory {
                    card: self.driver.card().name.clone(),
                    asked: ByteSize(bytes as u64),
                    free: ByteSize(memory.free),
                    total: ByteSize(memory.total),
                })
            }
            buffer => Ok(buffer?),
        }
    }

    /// Gives memory of [`Self::take`] back.
    pub(super) fn give(&self, buffer: DeviceBuffer<D>) {
        self.spare.give(buffer);
    }

    /// Gives what is kept for later uses back to the driver.
    pub(super) fn trim(&self) {
        self.spare.clear();
    }

    /// Memory with these bytes, up to a multiple of 16, for weights: it is not used again.
    pub(super) fn put(&self, bytes: &[u8]) -> Result<DeviceBuffer<D>, CardError> {
        let size = bytes.len().next_multiple_of(16);
        let buffer = self.allocate(size)?;
        buffer.write(&self.stream, 0, bytes)?;
        Ok(buffer)
    }

    /// Queues a copy of words to byte `at` of a buffer and those that follow.
    pub(super) fn upload(
        &self,
        to: &DeviceBuffer<D>,
        at: usize,
        words: &mut dyn ExactSizeIterator<Item = u32>,
    ) -> Result<(), CardError> {
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(staging.copy(&self.stream, to, at, words)?)
    }

    /// Words of a buffer from byte `at` on, after all work.
    pub(super) fn words(
        &self,
        from: &DeviceBuffer<D>,
        at: usize,
        count: usize,
    ) -> Result<Vec<u32>, CardError> {
        let mut bytes = vec![0; 4 * count];
        from.read(&self.stream, at, &mut bytes)?;
        let words = bytes.as_chunks::<4>().0.iter();
        Ok(words.map(|word| u32::from_le_bytes(*word)).collect())
    }

    /// Where a type's codebook is; 0 if it has none.
    pub(super) fn codebook(&self, ty: GgmlType) -> Result<u64, CardError> {
        let bytes = v4_quant::codebook(ty);
        if bytes.is_empty() {
            return Ok(0);
        }
        let mut codebooks = self
            .codebooks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((_, buffer)) = codebooks.iter().find(|(of, _)| *of == ty) {
            return Ok(buffer.start().0);
        }
        let buffer = self.put(bytes)?;
        let start = buffer.start().0;
        codebooks.push((ty, buffer));
        Ok(start)
    }
}

/// As many blocks of `threads` threads as have a thread for each of `count` things.
pub(super) fn threads_for(count: usize, threads: u32) -> Extent {
    Extent::row(count.div_ceil(threads as usize) as u32, threads)
}
