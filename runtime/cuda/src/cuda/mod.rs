//! NVIDIA's driver, loaded when the first card is asked for.
//!
//! Only the bindings of `cudarc` are used, function by function. The functions are those that
//! drivers of CUDA 12.0 have (525 and newer): `library.rs` lists them, and each is looked
//! for before the first call, since a binding panics where its function is missing.
//!
//! A card's primary context is used, so that other users of the card in this process, if there
//! are any, share it. It is made current on a thread when the thread first calls.

#![allow(unsafe_code)] // The driver API is C.

mod card;
mod library;
mod memory;
mod modules;

use std::cell::Cell;
use std::ffi::{c_int, c_uint};
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use cudarc::driver::sys::{self, CUcontext, CUdevice, CUevent, CUgraph, CUgraphExec, CUstream};

use crate::driver::{
    Card, DevicePtr, Driver, DriverError, EventId, EventUse, ExecId, Extent, FunctionId, GraphId,
    HostMemory, Image, Memory, ModuleId, Platform, Signature, StreamId,
};
use library::check;
use modules::Functions;

/// NVIDIA's driver on this machine.
#[derive(Debug, Clone, Copy)]
pub struct Cuda(());

impl Cuda {
    /// Loads the library.
    ///
    /// # Errors
    /// [`DriverError::Absent`], [`DriverError::TooOld`], [`DriverError::OldVersion`], or why the
    /// driver does not start: [`DriverError::NoCard`], [`DriverError::OtherModule`],
    /// [`DriverError::NotStarted`].
    pub fn new() -> Result<Self, DriverError> {
        library::open()?;
        library::check_version()?;
        // SAFETY: any thread may call it, as often as it wants.
        let done = unsafe { sys::cuInit(0) };
        let started = check(done, || "start of the NVIDIA driver".to_owned());
        started.map_err(DriverError::of_start)?;
        Ok(Self(()))
    }
}

impl Platform for Cuda {
    type Driver = CudaDriver;

    fn count(&self) -> Result<u32, DriverError> {
        let mut count: c_int = 0;
        // SAFETY: it writes one number.
        let done = unsafe { sys::cuDeviceGetCount(&mut count) };
        check(done, || "count of cards".to_owned())?;
        Ok(u32::try_from(count).unwrap_or(0))
    }

    fn open(&self, ordinal: u32) -> Result<CudaDriver, DriverError> {
        let call = || format!("opening card {ordinal}");
        let mut device: CUdevice = 0;
        let number = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
        // SAFETY: it writes one number.
        let done = unsafe { sys::cuDeviceGet(&mut device, number) };
        check(done, call)?;
        let card = card::describe(ordinal, device)?;
        // Threads that wait sleep instead of spinning on a core that experts are computed on.
        // Where waiting must be fast, a flag in mapped memory is read.
        let flags = sys::CUctx_flags::CU_CTX_SCHED_BLOCKING_SYNC as c_uint;
        // SAFETY: the device is one.
        let done = unsafe { sys::cuDevicePrimaryCtxSetFlags_v2(device, flags) };
        check(done, call)?;
        let mut context: CUcontext = ptr::null_mut();
        // SAFETY: the device is one; it is released in `drop`.
        let done = unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, device) };
        check(done, call)?;
        Ok(CudaDriver {
            card,
            device,
            context,
            number: OPENED.fetch_add(1, Ordering::Relaxed) + 1,
            functions: Functions::default(),
            graphs: Mutex::new(()),
        })
    }
}

/// A card in use.
pub struct CudaDriver {
    card: Card,
    device: CUdevice,
    context: CUcontext,
    /// Differs for all that were ever opened, also where a context gets the address of a former
    /// one.
    number: u64,
    functions: Functions,
    /// Held while a graph is touched: the driver does not guard graphs itself.
    graphs: Mutex<()>,
}

// SAFETY: the driver API may be called from any thread, and from several at once, except on one
// graph, which `graphs` sees to. The context is made current on the calling thread by each call.
unsafe impl Send for CudaDriver {}
// SAFETY: as above.
unsafe impl Sync for CudaDriver {}

impl fmt::Debug for CudaDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaDriver")
            .field("card", &self.card)
            .finish_non_exhaustive()
    }
}

impl Drop for CudaDriver {
    fn drop(&mut self) {
        // SAFETY: it was retained once. Errors are those of a card that is lost.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// How many cards have been opened.
static OPENED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The number of the [`CudaDriver`] whose context was made current on the thread last.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

impl CudaDriver {
    /// Makes the card's context current on this thread. Every call needs it.
    fn enter(&self) -> Result<(), DriverError> {
        if CURRENT.get() == self.number {
            return Ok(());
        }
        // SAFETY: the context is retained as long as `self` is there.
        let done = unsafe { sys::cuCtxSetCurrent(self.context) };
        check(done, || {
            format!("use of card {} by another thread", self.card.ordinal)
        })?;
        CURRENT.set(self.number);
        Ok(())
    }

    /// Makes one call: `call` names it if it fails.
    fn call(
        &self,
        call: &'static str,
        function: impl FnOnce() -> sys::CUresult,
    ) -> Result<(), DriverError> {
        self.enter()?;
        check(function(), || call.to_owned())
    }

    /// The same for one that touches a graph.
    fn graph_call(
        &self,
        call: &'static str,
        function: impl FnOnce() -> sys::CUresult,
    ) -> Result<(), DriverError> {
        let _guard = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        self.call(call, function)
    }

    /// Makes a call that asks whether work is done.
    fn query(
        &self,
        call: &'static str,
        function: impl FnOnce() -> sys::CUresult,
    ) -> Result<bool, DriverError> {
        match self.call(call, function) {
            Ok(()) => Ok(true),
            Err(error) if error.code() == Some(crate::driver::code::NOT_READY) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn stream(id: StreamId) -> CUstream {
    id.0 as CUstream
}

fn event(id: EventId) -> CUevent {
    id.0 as CUevent
}

fn graph(id: GraphId) -> CUgraph {
    id.0 as CUgraph
}

fn exec(id: ExecId) -> CUgraphExec {
    id.0 as CUgraphExec
}

impl Driver for CudaDriver {
    fn card(&self) -> &Card {
        &self.card
    }

    fn memory(&self) -> Result<Memory, DriverError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: it writes two numbers.
        self.call("question for free memory", || unsafe {
            sys::cuMemGetInfo_v2(&mut free, &mut total)
        })?;
        Ok(Memory {
            free: free as u64,
            total: total as u64,
        })
    }

    fn synchronize(&self) -> Result<(), DriverError> {
        // SAFETY: it takes nothing.
        self.call("wait for the card", || unsafe { sys::cuCtxSynchronize() })
    }

    fn clear_error(&self) -> Result<(), DriverError> {
        // The driver API keeps errors of a context that is broken only; those of single calls
        // are not kept in the first place. (The runtime API, which is not used, does keep them.)
        self.synchronize()
    }

    fn pause(&self) -> Result<(), DriverError> {
        std::hint::spin_loop();
        Ok(())
    }

    fn load(&self, module: &'static str, images: &[Image]) -> Result<ModuleId, DriverError> {
        self.enter()?;
        modules::load(&self.card, module, images)
    }

    fn unload(&self, module: ModuleId) -> Result<(), DriverError> {
        // SAFETY: the handle is of `load`; another would be an error of the driver's.
        self.call("unloading a module", || unsafe {
            sys::cuModuleUnload(module.0 as sys::CUmodule)
        })
    }

    fn function(&self, module: ModuleId, kernel: &Signature) -> Result<FunctionId, DriverError> {
        self.enter()?;
        self.functions.find(module, kernel)
    }

    unsafe fn launch(
        &self,
        function: FunctionId,
        extent: Extent,
        args: &[u8],
        stream: StreamId,
    ) -> Result<(), DriverError> {
        self.enter()?;
        // SAFETY: the caller's promise is the same.
        unsafe {
            self.functions
                .launch(function, extent, args, self::stream(stream))
        }
    }

    fn stream_create(&self) -> Result<StreamId, DriverError> {
        let mut created: CUstream = ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as c_uint;
        // SAFETY: it writes one handle.
        self.call("new stream", || unsafe {
            sys::cuStreamCreate(&mut created, flags)
        })?;
        Ok(StreamId(created as u64))
    }

    fn stream_destroy(&self, stream: StreamId) -> Result<(), DriverError> {
        // SAFETY: the handle is of `stream_create`.
        self.call("end of a stream", || unsafe {
            sys::cuStreamDestroy_v2(self::stream(stream))
        })
    }

    fn stream_synchronize(&self, stream: StreamId) -> Result<(), DriverError> {
        // SAFETY: as above.
        self.call("wait for a stream", || unsafe {
            sys::cuStreamSynchronize(self::stream(stream))
        })
    }

    fn stream_query(&self, stream: StreamId) -> Result<bool, DriverError> {
        // SAFETY: as above.
        self.query("question whether a stream is done", || unsafe {
            sys::cuStreamQuery(self::stream(stream))
        })
    }

    fn stream_wait_event(&self, stream: StreamId, event: EventId) -> Result<(), DriverError> {
        // SAFETY: the handles are of `stream_create` and `event_create`.
        self.call("wait of a stream for an event", || unsafe {
            sys::cuStreamWaitEvent(self::stream(stream), self::event(event), 0)
        })
    }

    unsafe fn stream_wait_value(
        &self,
        stream: StreamId,
        address: DevicePtr,
        value: u32,
    ) -> Result<(), DriverError> {
        let flags = sys::CUstreamWaitValue_flags::CU_STREAM_WAIT_VALUE_GEQ as c_uint;
        // SAFETY: the caller keeps the word.
        self.call("wait of a stream for a value", || unsafe {
            sys::cuStreamWaitValue32_v2(self::stream(stream), address.0, value, flags)
        })
    }

    fn event_create(&self, usage: EventUse) -> Result<EventId, DriverError> {
        let mut flags = 0;
        if !usage.timing {
            flags |= sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as c_uint;
        }
        if usage.sleeps {
            flags |= sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC as c_uint;
        }
        let mut created: CUevent = ptr::null_mut();
        // SAFETY: it writes one handle.
        self.call("new event", || unsafe {
            sys::cuEventCreate(&mut created, flags)
        })?;
        Ok(EventId(created as u64))
    }

    fn event_destroy(&self, event: EventId) -> Result<(), DriverError> {
        // SAFETY: the handle is of `event_create`.
        self.call("end of an event", || unsafe {
            sys::cuEventDestroy_v2(self::event(event))
        })
    }

    fn event_record(&self, event: EventId, stream: StreamId) -> Result<(), DriverError> {
        // SAFETY: the handles are of `event_create` and `stream_create`.
        self.call("record of an event", || unsafe {
            sys::cuEventRecord(self::event(event), self::stream(stream))
        })
    }

    fn event_query(&self, event: EventId) -> Result<bool, DriverError> {
        // SAFETY: the handle is of `event_create`.
        self.query("question whether an event is reached", || unsafe {
            sys::cuEventQuery(self::event(event))
        })
    }

    fn event_synchronize(&self, event: EventId) -> Result<(), DriverError> {
        // SAFETY: as above.
        self.call("wait for an event", || unsafe {
            sys::cuEventSynchronize(self::event(event))
        })
    }

    fn elapsed(&self, start: EventId, end: EventId) -> Result<f32, DriverError> {
        let mut milliseconds = 0.0;
        // SAFETY: it writes one number; the handles are of `event_create`.
        self.call("time between events", || unsafe {
            sys::cuEventElapsedTime(&mut milliseconds, event(start), event(end))
        })?;
        Ok(milliseconds)
    }

    fn begin_capture(&self, stream: StreamId) -> Result<(), DriverError> {
        // Calls of other threads don't spoil the capture; allocations of this one do.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the handle is of `stream_create`.
        self.graph_call("begin of a capture", || unsafe {
            sys::cuStreamBeginCapture_v2(self::stream(stream), mode)
        })
    }

    fn end_capture(&self, stream: StreamId) -> Result<GraphId, DriverError> {
        let mut captured: CUgraph = ptr::null_mut();
        // SAFETY: it writes one handle.
        self.graph_call("end of a capture", || unsafe {
            sys::cuStreamEndCapture(self::stream(stream), &mut captured)
        })?;
        Ok(GraphId(captured as u64))
    }

    fn instantiate(&self, graph: GraphId) -> Result<ExecId, DriverError> {
        let mut made: CUgraphExec = ptr::null_mut();
        // SAFETY: it writes one handle; the graph is of `end_capture`.
        self.graph_call("instantiation of a graph", || unsafe {
            sys::cuGraphInstantiateWithFlags(&mut made, self::graph(graph), 0)
        })?;
        Ok(ExecId(made as u64))
    }

    fn graph_destroy(&self, graph: GraphId) -> Result<(), DriverError> {
        // SAFETY: the handle is of `end_capture`.
        self.graph_call("end of a captured graph", || unsafe {
            sys::cuGraphDestroy(self::graph(graph))
        })
    }

    fn exec_destroy(&self, exec: ExecId) -> Result<(), DriverError> {
        // SAFETY: the handle is of `instantiate`.
        self.graph_call("end of a graph", || unsafe {
            sys::cuGraphExecDestroy(self::exec(exec))
        })
    }

    unsafe fn graph_launch(&self, exec: ExecId, stream: StreamId) -> Result<(), DriverError> {
        // SAFETY: the handles are of `instantiate` and `stream_create`; the caller answers for
        // what is in the graph.
        self.graph_call("launch of a graph", || unsafe {
            sys::cuGraphLaunch(self::exec(exec), self::stream(stream))
        })
    }

    fn allocate(&self, bytes: usize) -> Result<DevicePtr, DriverError> {
        self.enter()?;
        memory::allocate(bytes)
    }

    unsafe fn free(&self, address: DevicePtr) -> Result<(), DriverError> {
        // SAFETY: the caller's promise: nothing uses it.
        self.call("giving back memory of the card", || unsafe {
            sys::cuMemFree_v2(address.0)
        })
    }

    fn host_allocate(&self, bytes: usize) -> Result<HostMemory, DriverError> {
        self.enter()?;
        memory::host_allocate(bytes)
    }

    unsafe fn host_free(&self, memory: HostMemory) -> Result<(), DriverError> {
        // SAFETY: the caller's promise: nobody uses it.
        self.call("giving back pinned memory", || unsafe {
            sys::cuMemFreeHost(memory.host.as_ptr().cast())
        })
    }

    unsafe fn host_register(
        &self,
        start: NonNull<u8>,
        bytes: usize,
    ) -> Result<DevicePtr, DriverError> {
        self.enter()?;
        // SAFETY: the caller's promise is the same.
        unsafe { memory::host_register(start, bytes) }
    }

    unsafe fn host_unregister(&self, start: NonNull<u8>) -> Result<(), DriverError> {
        // SAFETY: the caller's promise: no work uses it.
        self.call("unpinning of memory", || unsafe {
            sys::cuMemHostUnregister(start.as_ptr().cast())
        })
    }

    unsafe fn copy_to_device(
        &self,
        to: DevicePtr,
        from: NonNull<u8>,
        bytes: usize,
        stream: StreamId,
    ) -> Result<(), DriverError> {
        // SAFETY: the caller's promise: both sides have so many bytes until it is done.
        self.call("copy to the card", || unsafe {
            sys::cuMemcpyHtoDAsync_v2(to.0, from.as_ptr().cast(), bytes, self::stream(stream))
        })
    }

    unsafe fn copy_to_host(
        &self,
        to: NonNull<u8>,
        from: DevicePtr,
        bytes: usize,
        stream: StreamId,
    ) -> Result<(), DriverError> {
        // SAFETY: as above.
        self.call("copy from the card", || unsafe {
            sys::cuMemcpyDtoHAsync_v2(to.as_ptr().cast(), from.0, bytes, self::stream(stream))
        })
    }

    unsafe fn copy(
        &self,
        to: DevicePtr,
        from: DevicePtr,
        bytes: usize,
        stream: StreamId,
    ) -> Result<(), DriverError> {
        // SAFETY: as above.
        self.call("copy on the card", || unsafe {
            sys::cuMemcpyDtoDAsync_v2(to.0, from.0, bytes, self::stream(stream))
        })
    }

    unsafe fn fill(
        &self,
        to: DevicePtr,
        value: u8,
        bytes: usize,
        stream: StreamId,
    ) -> Result<(), DriverError> {
        // SAFETY: as above.
        self.call("fill on the card", || unsafe {
            sys::cuMemsetD8Async(to.0, value, bytes, self::stream(stream))
        })
    }
}
