//! A card that notes which kernels run and how much memory is taken.

#![allow(unsafe_code)] // A driver's calls are unsafe to make; they are passed on as they are.

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use v4_cuda::driver::{
    Card, DevicePtr, Driver, DriverError, EventId, EventUse, ExecId, Extent, FunctionId, GraphId,
    HostMemory, Image, Memory, ModuleId, Signature, StreamId,
};

/// What was noted.
#[derive(Debug, Default)]
pub(super) struct Log(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    names: HashMap<FunctionId, &'static str>,
    /// Each kernel once, in the order of first launches.
    launched: Vec<&'static str>,
    allocated: HashMap<DevicePtr, usize>,
    taken: usize,
    peak: usize,
}

impl Log {
    fn with<T>(&self, note: impl FnOnce(&mut Noted) -> T) -> T {
        note(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The kernels that were launched since the last call.
    pub(super) fn take(&self) -> Vec<&'static str> {
        self.with(|noted| std::mem::take(&mut noted.launched))
    }

    /// Most bytes of the card's memory that were taken at once.
    pub(super) fn peak(&self) -> usize {
        self.with(|noted| noted.peak)
    }
}

/// Another card's driver, whose launches and allocations are noted.
#[derive(Debug)]
pub(super) struct Watched<D: Driver> {
    inner: Arc<D>,
    log: Log,
}

impl<D: Driver> Watched<D> {
    pub(super) fn new(inner: &Arc<D>) -> Self {
        Self {
            inner: Arc::clone(inner),
            log: Log::default(),
        }
    }

    pub(super) fn log(&self) -> &Log {
        &self.log
    }
}

/// Calls that are passed on.
macro_rules! passed_on {
    ($($(#[$unsafety:tt])? $name:ident($($arg:ident: $type:ty),*) -> $result:ty;)+) => {$(
        passed_on!(@ $($unsafety)? $name($($arg: $type),*) -> $result);
    )+};
    (@ $name:ident($($arg:ident: $type:ty),*) -> $result:ty) => {
        fn $name(&self, $($arg: $type),*) -> $result {
            self.inner.$name($($arg),*)
        }
    };
    (@ unsafe_call $name:ident($($arg:ident: $type:ty),*) -> $result:ty) => {
        unsafe fn $name(&self, $($arg: $type),*) -> $result {
            // SAFETY: the caller's promise is the same.
            unsafe { self.inner.$name($($arg),*) }
        }
    };
}

impl<D: Driver> Driver for Watched<D> {
    fn function(&self, module: ModuleId, kernel: &Signature) -> Result<FunctionId, DriverError> {
        let function = self.inner.function(module, kernel)?;
        self.log
            .with(|noted| noted.names.insert(function, kernel.name));
        Ok(function)
    }

    unsafe fn launch(
        &self,
        function: FunctionId,
        extent: Extent,
        args: &[u8],
        stream: StreamId,
    ) -> Result<(), DriverError> {
        self.log.with(|noted| {
            let name = noted.names.get(&function).copied().unwrap_or("a kernel");
            if !noted.launched.contains(&name) {
                noted.launched.push(name);
            }
        });
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.launch(function, extent, args, stream) }
    }

    fn allocate(&self, bytes: usize) -> Result<DevicePtr, DriverError> {
        let start = self.inner.allocate(bytes)?;
        self.log.with(|noted| {
            noted.allocated.insert(start, bytes);
            noted.taken += bytes;
            noted.peak = noted.peak.max(noted.taken);
        });
        Ok(start)
    }

    unsafe fn free(&self, address: DevicePtr) -> Result<(), DriverError> {
        self.log.with(|noted| {
            let bytes = noted.allocated.remove(&address).unwrap_or(0);
            noted.taken -= bytes;
        });
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.free(address) }
    }

    passed_on! {
        card() -> &Card;
        memory() -> Result<Memory, DriverError>;
        synchronize() -> Result<(), DriverError>;
        clear_error() -> Result<(), DriverError>;
        pause() -> Result<(), DriverError>;
        load(module: &'static str, images: &[Image]) -> Result<ModuleId, DriverError>;
        unload(module: ModuleId) -> Result<(), DriverError>;
        stream_create() -> Result<StreamId, DriverError>;
        stream_destroy(stream: StreamId) -> Result<(), DriverError>;
        stream_synchronize(stream: StreamId) -> Result<(), DriverError>;
        stream_query(stream: StreamId) -> Result<bool, DriverError>;
        stream_wait_event(stream: StreamId, event: EventId) -> Result<(), DriverError>;
        #[unsafe_call]
        stream_wait_value(stream: StreamId, address: DevicePtr, value: u32)
            -> Result<(), DriverError>;
        event_create(usage: EventUse) -> Result<EventId, DriverError>;
        event_destroy(event: EventId) -> Result<(), DriverError>;
        event_record(event: EventId, stream: StreamId) -> Result<(), DriverError>;
        event_query(event: EventId) -> Result<bool, DriverError>;
        event_synchronize(event: EventId) -> Result<(), DriverError>;
        elapsed(start: EventId, end: EventId) -> Result<f32, DriverError>;
        begin_capture(stream: StreamId) -> Result<(), DriverError>;
        end_capture(stream: StreamId) -> Result<GraphId, DriverError>;
        instantiate(graph: GraphId) -> Result<ExecId, DriverError>;
        graph_destroy(graph: GraphId) -> Result<(), DriverError>;
        exec_destroy(exec: ExecId) -> Result<(), DriverError>;
        #[unsafe_call]
        graph_launch(exec: ExecId, stream: StreamId) -> Result<(), DriverError>;
        host_allocate(bytes: usize) -> Result<HostMemory, DriverError>;
        #[unsafe_call]
        host_free(memory: HostMemory) -> Result<(), DriverError>;
        #[unsafe_call]
        host_register(start: NonNull<u8>, bytes: usize) -> Result<DevicePtr, DriverError>;
        #[unsafe_call]
        host_unregister(start: NonNull<u8>) -> Result<(), DriverError>;
        #[unsafe_call]
        copy_to_device(to: DevicePtr, from: NonNull<u8>, bytes: usize, stream: StreamId)
            -> Result<(), DriverError>;
        #[unsafe_call]
        copy_to_host(to: NonNull<u8>, from: DevicePtr, bytes: usize, stream: StreamId)
            -> Result<(), DriverError>;
        #[unsafe_call]
        copy(to: DevicePtr, from: DevicePtr, bytes: usize, stream: StreamId)
            -> Result<(), DriverError>;
        #[unsafe_call]
        fill(to: DevicePtr, value: u8, bytes: usize, stream: StreamId)
            -> Result<(), DriverError>;
    }
}
