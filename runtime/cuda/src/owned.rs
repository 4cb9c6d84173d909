//! Owners of what a card lends: streams, events, graphs, and memory whose copies are checked.
//!
//! Each gives back what it owns when it is dropped; memory only after all work of the card is
//! done, so that nothing queued uses what is gone. Dropping memory is therefore not for the
//! middle of a token, nor for a capture.
//!
//! Errors while giving back are not reported: they are those of a card that is lost, which every
//! other call reports as well.
//!
//! # What is safe here
//!
//! Copies: both sides have owners, lengths are checked, and the host's side is either a slice
//! that is waited for, or a [`PinnedBuffer`], which lends its bytes in safe code only as atomic
//! words. What a card's memory holds is plain bytes to the host, so two copies at once are a
//! wrong result at worst. Launches stay unsafe: what a kernel does with its addresses is known
//! to nobody but the kernel.

#![allow(unsafe_code)] // Calls of `Driver` that touch memory, each with its bounds checked.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use crate::driver::{
    DevicePtr, Driver, DriverError, EventId, EventUse, ExecId, HostMemory, StreamId,
};

/// A queue of work.
#[derive(Debug)]
pub struct Stream<D: Driver> {
    driver: Arc<D>,
    id: StreamId,
}

impl<D: Driver> Stream<D> {
    /// A new one.
    ///
    /// # Errors
    /// See [`Driver::stream_create`].
    pub fn new(driver: &Arc<D>) -> Result<Self, DriverError> {
        let id = driver.stream_create()?;
        let driver = Arc::clone(driver);
        Ok(Self { driver, id })
    }

    /// The card.
    pub fn driver(&self) -> &Arc<D> {
        &self.driver
    }

    /// Its handle.
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Waits for all its work.
    ///
    /// # Errors
    /// See [`Driver::stream_synchronize`].
    pub fn synchronize(&self) -> Result<(), DriverError> {
        self.driver.stream_synchronize(self.id)
    }

    /// Whether all its work is done.
    ///
    /// # Errors
    /// See [`Driver::stream_query`].
    pub fn is_idle(&self) -> Result<bool, DriverError> {
        self.driver.stream_query(self.id)
    }

    /// Lets all work that follows wait for the latest record of the event.
    ///
    /// # Errors
    /// See [`Driver::stream_wait_event`].
    pub fn wait(&self, event: &Event<D>) -> Result<(), DriverError> {
        self.driver.stream_wait_event(self.id, event.id)
    }

    /// Makes a graph of the work that `queue` puts into this stream, and into others that wait
    /// for it, instead of doing it.
    ///
    /// # Errors
    /// That of `queue`; see [`Driver::end_capture`] and [`Driver::instantiate`].
    pub fn capture(
        &self,
        queue: impl FnOnce() -> Result<(), DriverError>,
    ) -> Result<Graph<D>, DriverError> {
        self.driver.begin_capture(self.id)?;
        let queued = queue();
        // Ended in any case, or the stream could not be used any more.
        let graph = self.driver.end_capture(self.id);
        queued?;
        let graph = graph?;
        let id = self.driver.instantiate(graph);
        self.driver.graph_destroy(graph)?;
        let driver = Arc::clone(&self.driver);
        Ok(Graph { driver, id: id? })
    }
}

impl<D: Driver> Drop for Stream<D> {
    fn drop(&mut self) {
        let _ = self.driver.stream_destroy(self.id);
    }
}

/// A point in a stream.
#[derive(Debug)]
pub struct Event<D: Driver> {
    driver: Arc<D>,
    id: EventId,
}

impl<D: Driver> Event<D> {
    /// A new one, which counts as reached.
    ///
    /// # Errors
    /// See [`Driver::event_create`].
    pub fn new(driver: &Arc<D>, usage: EventUse) -> Result<Self, DriverError> {
        let id = driver.event_create(usage)?;
        let driver = Arc::clone(driver);
        Ok(Self { driver, id })
    }

    /// Its handle.
    pub fn id(&self) -> EventId {
        self.id
    }

    /// Puts it behind all work of the stream so far.
    ///
    /// # Errors
    /// See [`Driver::event_record`].
    pub fn record(&self, stream: &Stream<D>) -> Result<(), DriverError> {
        self.driver.event_record(self.id, stream.id)
    }

    /// Whether it has been reached.
    ///
    /// # Errors
    /// See [`Driver::event_query`].
    pub fn is_reached(&self) -> Result<bool, DriverError> {
        self.driver.event_query(self.id)
    }

    /// Waits until it is reached.
    ///
    /// # Errors
    /// See [`Driver::event_synchronize`].
    pub fn synchronize(&self) -> Result<(), DriverError> {
        self.driver.event_synchronize(self.id)
    }

    /// Milliseconds since `start`, both reached.
    ///
    /// # Errors
    /// See [`Driver::elapsed`].
    pub fn since(&self, start: &Self) -> Result<f32, DriverError> {
        self.driver.elapsed(start.id, self.id)
    }
}

impl<D: Driver> Drop for Event<D> {
    fn drop(&mut self) {
        let _ = self.driver.event_destroy(self.id);
    }
}

/// Work that is launched as a whole.
#[derive(Debug)]
pub struct Graph<D: Driver> {
    driver: Arc<D>,
    id: ExecId,
}

impl<D: Driver> Graph<D> {
    /// Queues all of it.
    ///
    /// # Errors
    /// See [`Driver::graph_launch`].
    ///
    /// # Safety
    /// See [`Driver::graph_launch`].
    pub unsafe fn launch(&self, stream: &Stream<D>) -> Result<(), DriverError> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.driver.graph_launch(self.id, stream.id) }
    }
}

impl<D: Driver> Drop for Graph<D> {
    fn drop(&mut self) {
        // It must not be running.
        let _ = self.driver.synchronize();
        let _ = self.driver.exec_destroy(self.id);
    }
}

/// Memory of the card.
#[derive(Debug)]
pub struct DeviceBuffer<D: Driver> {
    driver: Arc<D>,
    start: DevicePtr,
    bytes: usize,
}

impl<D: Driver> DeviceBuffer<D> {
    /// So many bytes, which hold anything. None at all take nothing.
    ///
    /// # Errors
    /// See [`Driver::allocate`].
    pub fn new(driver: &Arc<D>, bytes: usize) -> Result<Self, DriverError> {
        let start = match bytes {
            0 => DevicePtr(0),
            _ => driver.allocate(bytes)?,
        };
        let driver = Arc::clone(driver);
        Ok(Self {
            driver,
            start,
            bytes,
        })
    }

    /// Its first byte.
    pub fn start(&self) -> DevicePtr {
        self.start
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Copies `from` to byte `at` and those that follow, after all work of the stream, and waits
    /// for it.
    ///
    /// # Errors
    /// If it does not fit; see [`Driver::copy_to_device`].
    pub fn write(&self, stream: &Stream<D>, at: usize, from: &[u8]) -> Result<(), DriverError> {
        let to = self.part("write to the card", at, from.len())?;
        if from.is_empty() {
            return Ok(());
        }
        let start = NonNull::from_ref(from).cast();
        // SAFETY: both sides have so many bytes. The slice is borrowed until the stream has been
        // waited for, which is needed where the slice is pinned.
        unsafe {
            self.driver
                .copy_to_device(to, start, from.len(), stream.id)?
        };
        stream.synchronize()
    }

    /// Copies bytes from `at` on to `to`, after all work of the stream, and waits for it.
    ///
    /// # Errors
    /// If there are not so many; see [`Driver::copy_to_host`].
    pub fn read(&self, stream: &Stream<D>, at: usize, to: &mut [u8]) -> Result<(), DriverError> {
        let from = self.part("read from the card", at, to.len())?;
        if to.is_empty() {
            return Ok(());
        }
        let bytes = to.len();
        let start = NonNull::from_mut(to).cast();
        // SAFETY: as in `write`.
        unsafe { self.driver.copy_to_host(start, from, bytes, stream.id)? };
        stream.synchronize()
    }

    /// Queues a copy of a part of pinned memory to byte `at` and those that follow. Whoever
    /// writes that part before the copy is done changes what is copied.
    ///
    /// # Errors
    /// If it does not fit; see [`Driver::copy_to_device`].
    pub fn write_from(
        &self,
        stream: &Stream<D>,
        at: usize,
        from: &PinnedBuffer<D>,
        part: Range<usize>,
    ) -> Result<(), DriverError> {
        let to = self.part("copy to the card", at, part.len())?;
        let start = from.part("copy to the card", &part)?;
        if part.is_empty() {
            return Ok(());
        }
        // SAFETY: both sides have so many bytes, and both owners wait for the card before they
        // give them back.
        unsafe { self.driver.copy_to_device(to, start, part.len(), stream.id) }
    }

    /// Queues a copy of bytes from `at` on to a part of pinned memory.
    ///
    /// # Errors
    /// If there are not so many; see [`Driver::copy_to_host`].
    pub fn read_into(
        &self,
        stream: &Stream<D>,
        at: usize,
        to: &PinnedBuffer<D>,
        part: Range<usize>,
    ) -> Result<(), DriverError> {
        let from = self.part("copy from the card", at, part.len())?;
        let start = to.part("copy from the card", &part)?;
        if part.is_empty() {
            return Ok(());
        }
        // SAFETY: as in `write_from`.
        unsafe { self.driver.copy_to_host(start, from, part.len(), stream.id) }
    }

    /// Queues a copy of a part of another buffer to byte `at` and those that follow.
    ///
    /// # Errors
    /// If it does not fit, or both are the same bytes; see [`Driver::copy`].
    pub fn copy_from(
        &self,
        stream: &Stream<D>,
        at: usize,
        from: &Self,
        part: Range<usize>,
    ) -> Result<(), DriverError> {
        let call = "copy on the card";
        let to = self.part(call, at, part.len())?;
        let start = from.part(call, part.start, part.len())?;
        if part.is_empty() {
            return Ok(());
        }
        let bytes = part.len() as u64;
        if to.0 < start.0 + bytes && start.0 < to.0 + bytes {
            return Err(refused(call, "both sides overlap"));
        }
        // SAFETY: both sides have so many bytes, and don't overlap; see `write_from`.
        unsafe { self.driver.copy(to, start, part.len(), stream.id) }
    }

    /// Queues setting all bytes of a part.
    ///
    /// # Errors
    /// If there are not so many; see [`Driver::fill`].
    pub fn fill(
        &self,
        stream: &Stream<D>,
        part: Range<usize>,
        value: u8,
    ) -> Result<(), DriverError> {
        let to = self.part("fill", part.start, part.len())?;
        if part.is_empty() {
            return Ok(());
        }
        // SAFETY: there are so many bytes; see `write_from`.
        unsafe { self.driver.fill(to, value, part.len(), stream.id) }
    }

    fn part(&self, call: &str, at: usize, bytes: usize) -> Result<DevicePtr, DriverError> {
        if at.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            return Err(beyond(call, at, bytes, self.bytes));
        }
        Ok(self.start.offset(at))
    }
}

impl<D: Driver> Drop for DeviceBuffer<D> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let _ = self.driver.synchronize();
            // SAFETY: all work is done, and launching what uses it again is unsafe.
            let _ = unsafe { self.driver.free(self.start) };
        }
    }
}

/// Pinned memory of the host, which the card can reach as well.
#[derive(Debug)]
pub struct PinnedBuffer<D: Driver> {
    driver: Arc<D>,
    memory: HostMemory,
    bytes: usize,
}

// SAFETY: it owns its memory, which any thread may use; `Driver`s are for all threads.
unsafe impl<D: Driver> Send for PinnedBuffer<D> {}
// SAFETY: as above; shared, it lends its bytes only as atomic words or by unsafe calls.
unsafe impl<D: Driver> Sync for PinnedBuffer<D> {}

impl<D: Driver> PinnedBuffer<D> {
    /// So many zeros.
    ///
    /// # Errors
    /// See [`Driver::host_allocate`].
    pub fn new(driver: &Arc<D>, bytes: usize) -> Result<Self, DriverError> {
        let memory = driver.host_allocate(bytes)?;
        // SAFETY: so many bytes were allocated, and nobody else knows of them.
        unsafe { memory.host.write_bytes(0, bytes) };
        let driver = Arc::clone(driver);
        Ok(Self {
            driver,
            memory,
            bytes,
        })
    }

    /// Where the card finds its first byte.
    pub fn device(&self) -> DevicePtr {
        self.memory.device
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Its whole words, for flags and whatever else the card writes meanwhile.
    pub fn words(&self) -> &[AtomicU32] {
        let start = self.memory.host.cast();
        // SAFETY: so many words are there as long as this is borrowed, aligned as pages are, and
        // written since `new`. In safe code they are only reached as atomics.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), self.bytes / 4) }
    }

    /// Its bytes.
    ///
    /// # Safety
    /// Nobody may write them meanwhile: no queued work, and no thread through
    /// [`Self::words`].
    pub unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: there are so many, and by the caller's promise they don't change.
        unsafe { std::slice::from_raw_parts(self.memory.host.as_ptr(), self.bytes) }
    }

    /// Its bytes, to be written.
    ///
    /// # Safety
    /// No queued work may use them meanwhile.
    pub unsafe fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: there are so many, and by the caller's promise nobody else uses them.
        unsafe { std::slice::from_raw_parts_mut(self.memory.host.as_ptr(), self.bytes) }
    }

    fn part(&self, call: &str, part: &Range<usize>) -> Result<NonNull<u8>, DriverError> {
        if part.start > part.end || part.end > self.bytes {
            return Err(beyond(call, part.start, part.len(), self.bytes));
        }
        // SAFETY: within the allocation.
        Ok(unsafe { self.memory.host.add(part.start) })
    }
}

impl<D: Driver> Drop for PinnedBuffer<D> {
    fn drop(&mut self) {
        // A card that is lost does not use memory any more, so an error is as good as an end.
        let _ = self.driver.synchronize();
        // SAFETY: all work is done, and launching what uses it again is unsafe.
        let _ = unsafe { self.driver.host_free(self.memory) };
    }
}

/// Host memory of somebody else, pinned as long as this lives.
#[derive(Debug)]
pub struct Registration<D: Driver> {
    driver: Arc<D>,
    start: NonNull<u8>,
    device: DevicePtr,
}

// SAFETY: it only remembers the address; `Driver`s are for all threads.
unsafe impl<D: Driver> Send for Registration<D> {}
// SAFETY: as above.
unsafe impl<D: Driver> Sync for Registration<D> {}

impl<D: Driver> Registration<D> {
    /// Pins `bytes` bytes from `start` on.
    ///
    /// # Errors
    /// Where the system does not grant it; see [`Driver::host_register`].
    ///
    /// # Safety
    /// See [`Driver::host_register`]; this must be dropped before the memory goes.
    pub unsafe fn new(
        driver: &Arc<D>,
        start: NonNull<u8>,
        bytes: usize,
    ) -> Result<Self, DriverError> {
        // SAFETY: the caller's promise is the same.
        let device = unsafe { driver.host_register(start, bytes)? };
        let driver = Arc::clone(driver);
        Ok(Self {
            driver,
            start,
            device,
        })
    }

    /// Where the card finds the first byte.
    pub fn device(&self) -> DevicePtr {
        self.device
    }
}

impl<D: Driver> Drop for Registration<D> {
    fn drop(&mut self) {
        let _ = self.driver.synchronize();
        // SAFETY: all work is done, and launching what uses it again is unsafe.
        let _ = unsafe { self.driver.host_unregister(self.start) };
    }
}

fn beyond(call: &str, at: usize, bytes: usize, len: usize) -> DriverError {
    refused(
        call,
        &format!("{bytes} bytes from byte {at} on, in a buffer of {len}"),
    )
}

fn refused(call: &str, why: &str) -> DriverError {
    DriverError::Refused {
        call: call.to_owned(),
        why: why.to_owned(),
    }
}
