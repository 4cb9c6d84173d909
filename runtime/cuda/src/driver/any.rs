//! A driver of any kind.

#![allow(unsafe_code)] // Hands calls on that are unsafe.

use std::ptr::NonNull;
use std::sync::Arc;

use super::{
    Card, DevicePtr, Driver, DriverError, EventId, EventUse, ExecId, Extent, FunctionId, GraphId,
    HostMemory, Image, Memory, ModuleId, Signature, StreamId,
};

/// A card in use, whoever drives it, so that what is built upon it has no parameter for that.
/// Copies are of the same card.
#[derive(Debug, Clone)]
pub struct AnyDriver(Arc<dyn Driver>);

impl AnyDriver {
    /// The card that `driver` drives.
    pub fn new(driver: impl Driver) -> Self {
        Self(Arc::new(driver))
    }
}

impl<D: Driver> From<Arc<D>> for AnyDriver {
    fn from(driver: Arc<D>) -> Self {
        Self(driver)
    }
}

/// Hands calls on: first those that are safe.
macro_rules! hand_on {
    (
        $(fn $name:ident($($arg:ident: $ty:ty),*) -> $returned:ty;)+
        unsafe
        $(fn $danger:ident($($with:ident: $of:ty),*) -> $done:ty;)+
    ) => {
        $(fn $name(&self, $($arg: $ty),*) -> $returned {
            self.0.$name($($arg),*)
        })+
        $(unsafe fn $danger(&self, $($with: $of),*) -> $done {
            // SAFETY: the caller's promise is the same.
            unsafe { self.0.$danger($($with),*) }
        })+
    };
}

type Result<T> = std::result::Result<T, DriverError>;

impl Driver for AnyDriver {
    hand_on! {
        fn card() -> &Card;
        fn memory() -> Result<Memory>;
        fn synchronize() -> Result<()>;
        fn clear_error() -> Result<()>;
        fn pause() -> Result<()>;
        fn load(module: &'static str, images: &[Image]) -> Result<ModuleId>;
        fn unload(module: ModuleId) -> Result<()>;
        fn function(module: ModuleId, kernel: &Signature) -> Result<FunctionId>;
        fn stream_create() -> Result<StreamId>;
        fn stream_destroy(stream: StreamId) -> Result<()>;
        fn stream_synchronize(stream: StreamId) -> Result<()>;
        fn stream_query(stream: StreamId) -> Result<bool>;
        fn stream_wait_event(stream: StreamId, event: EventId) -> Result<()>;
        fn event_create(usage: EventUse) -> Result<EventId>;
        fn event_destroy(event: EventId) -> Result<()>;
        fn event_record(event: EventId, stream: StreamId) -> Result<()>;
        fn event_query(event: EventId) -> Result<bool>;
        fn event_synchronize(event: EventId) -> Result<()>;
        fn elapsed(start: EventId, end: EventId) -> Result<f32>;
        fn begin_capture(stream: StreamId) -> Result<()>;
        fn end_capture(stream: StreamId) -> Result<GraphId>;
        fn instantiate(graph: GraphId) -> Result<ExecId>;
        fn graph_destroy(graph: GraphId) -> Result<()>;
        fn exec_destroy(exec: ExecId) -> Result<()>;
        fn allocate(bytes: usize) -> Result<DevicePtr>;
        fn host_allocate(bytes: usize) -> Result<HostMemory>;

        unsafe

        fn launch(
            function: FunctionId, extent: Extent, args: &[u8], stream: StreamId
        ) -> Result<()>;
        fn stream_wait_value(stream: StreamId, address: DevicePtr, value: u32) -> Result<()>;
        fn graph_launch(exec: ExecId, stream: StreamId) -> Result<()>;
        fn free(address: DevicePtr) -> Result<()>;
        fn host_free(memory: HostMemory) -> Result<()>;
        fn host_register(start: NonNull<u8>, bytes: usize) -> Result<DevicePtr>;
        fn host_unregister(start: NonNull<u8>) -> Result<()>;
        fn copy_to_device(
            to: DevicePtr, from: NonNull<u8>, bytes: usize, stream: StreamId
        ) -> Result<()>;
        fn copy_to_host(
            to: NonNull<u8>, from: DevicePtr, bytes: usize, stream: StreamId
        ) -> Result<()>;
        fn copy(to: DevicePtr, from: DevicePtr, bytes: usize, stream: StreamId) -> Result<()>;
        fn fill(to: DevicePtr, value: u8, bytes: usize, stream: StreamId) -> Result<()>;
    }
}
