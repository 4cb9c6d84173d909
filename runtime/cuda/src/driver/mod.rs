//! What the engine needs of a card: some forty calls, with two implementations.
//!
//! [`Driver`] is CUDA's driver API, narrowed: NVIDIA's own (with the feature `cuda`, the module
//! `cuda`), and a stand-in for tests that runs the same kernels on the CPU (`tests/cuda-shim`).
//! Handles are plain numbers. What owns them, and gives back what it owns, is in
//! [`crate::owned`]; that is what other code is written with.
//!
//! # Order
//!
//! Work is put into *streams*. A stream does its work in order; two streams order nothing between
//! them, unless one waits for an *event* that the other recorded. The host knows of work's end by
//! waiting for a stream or an event, or by reading a flag in mapped memory that a kernel wrote.
//!
//! # Threads
//!
//! One thread per card makes its calls: that is how calls are ordered, and how a capture stays
//! free of what others do. It is a rule of use, not of soundness: any thread may call at any
//! time, an implementation makes its context current on the calling thread where it must, and
//! guards what the driver does not (graphs).
//!
//! # What is unsafe
//!
//! Those calls that let a card touch memory by address: launches, copies, fills, waits for a
//! value, and giving memory back. No check can be complete: a kernel's arguments hold addresses
//! that only the kernel understands, and work that is queued uses memory long after the call.
//! So the trait marks them `unsafe` and names what the caller must know, and the layer above
//! checks all that can be checked (lengths, owners, life times) for copies, which leaves launches
//! as the unsafe thing that they are.

#![allow(unsafe_code)] // Declares calls that are unsafe; see above.

mod any;
mod error;

use std::fmt::Debug;
use std::ptr::NonNull;

pub use any::AnyDriver;
pub use error::{DriverError, code};

/// Most shared memory that a launch may ask for, in bytes: what a block has on sm_89 and sm_120.
pub const MOST_SHARED: u32 = 99 * 1024;
/// Most threads of a block.
pub const MOST_THREADS: u32 = 1024;

macro_rules! handles {
    ($($(#[$about:meta])* $name:ident,)+) => {$(
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(
            /// The implementation's number or address of it; nobody else can know what it means.
            pub u64,
        );
    )+};
}

handles! {
    /// A queue of work.
    StreamId,
    /// A point in a stream that others can wait for.
    EventId,
    /// Loaded machine code.
    ModuleId,
    /// A kernel of a module.
    FunctionId,
    /// Work that was captured instead of done.
    GraphId,
    /// The same, ready to be launched.
    ExecId,
}

/// An address in a card's memory, or of host memory as the card sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// The address `bytes` further on.
    pub fn offset(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// Pinned host memory that the card reads and writes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostMemory {
    /// Where the host finds it.
    pub host: NonNull<u8>,
    /// Where the card finds it.
    pub device: DevicePtr,
}

/// What is known of a card, none of which changes while it is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Its number among the cards of the machine.
    pub ordinal: u32,
    /// As the driver names it.
    pub name: String,
    /// Compute capability: 12 and 0 for sm_120.
    pub capability: (u32, u32),
    /// Version of CUDA that the driver supports: 12 and 8.
    pub cuda: (u32, u32),
    /// Domain, bus and device on PCI: `0000:01:00.0`.
    pub pci: String,
    /// Bytes of memory.
    pub memory: u64,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Clock of the multiprocessors at best, kHz.
    pub clock_khz: u32,
    /// Clock of the memory at best, kHz.
    pub memory_clock_khz: u32,
    /// Bits that memory is read at once.
    pub memory_bus_bits: u32,
    /// Bytes of the second-level cache.
    pub l2_bytes: u32,
    /// Bytes of shared memory that a block can ask for.
    pub shared_bytes: u32,
    /// Copies that run beside kernels: 1 in one direction at a time, 2 in both.
    pub copy_engines: u32,
    /// Whether a watchdog ends kernels that take seconds, as on a card that drives a display.
    pub watchdog: bool,
    /// Whether memory that others allocated can be registered.
    pub can_register: bool,
    /// Whether a stream can wait for a value in memory.
    pub can_wait_value: bool,
}

/// Bytes of a card's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Not taken by any process.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// Machine code of one source file for one architecture.
#[derive(Debug, Clone, Copy)]
pub struct Image {
    /// The file's name, without its ending.
    pub module: &'static str,
    /// Compute capability: 120 for 12.0.
    pub capability: u32,
    /// The cubin.
    pub bytes: &'static [u8],
}

/// What a kernel is, for [`Driver::function`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// Its name.
    pub name: &'static str,
    /// Bytes of the struct that it takes.
    pub args_size: usize,
    /// Which parts of the struct can be addresses: bit `i` stands for the 8 bytes from byte
    /// `8 i` on.
    pub addresses: u64,
}

/// How many blocks and threads a launch has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Bytes of shared memory of a block, all of it dynamic. At most [`MOST_SHARED`].
    pub shared: u32,
}

impl Extent {
    /// A row of blocks of `threads` threads, without shared memory.
    pub fn row(blocks: u32, threads: u32) -> Self {
        Self::grid([blocks, 1, 1], threads)
    }

    /// A grid of blocks of `threads` threads, without shared memory.
    pub fn grid(grid: [u32; 3], threads: u32) -> Self {
        Self {
            grid,
            block: [threads, 1, 1],
            shared: 0,
        }
    }

    /// The same with so many bytes of shared memory.
    pub fn with_shared(self, shared: u32) -> Self {
        Self { shared, ..self }
    }

    /// Why no card takes a launch of this extent.
    ///
    /// # Errors
    /// If a number is zero or beyond what sm_89 has.
    pub fn check(&self) -> Result<(), String> {
        let [x, y, z] = self.grid;
        if x == 0 || y == 0 || z == 0 || x > i32::MAX as u32 || y > 65535 || z > 65535 {
            return Err(format!(
                "a grid of {x} x {y} x {z} blocks; at least 1, at most 65535 in y and z"
            ));
        }
        let threads = self.block.iter().map(|n| u64::from(*n)).product::<u64>();
        if threads == 0 || threads > u64::from(MOST_THREADS) || !threads.is_multiple_of(32) {
            return Err(format!(
                "blocks of {threads} threads; whole warps of 32, at most {MOST_THREADS}"
            ));
        }
        if self.shared > MOST_SHARED {
            return Err(format!(
                "{} bytes of shared memory; at most {MOST_SHARED}",
                self.shared
            ));
        }
        Ok(())
    }
}

/// How an event is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EventUse {
    /// Whether [`Driver::elapsed`] is asked for it. Costs time at each record.
    pub timing: bool,
    /// Whether a thread that waits for it sleeps. Otherwise it spins, which is faster by some
    /// microseconds and takes a core.
    pub sleeps: bool,
}

/// Opens cards. See the module's text.
pub trait Platform: Debug {
    /// An open card.
    type Driver: Driver;

    /// How many cards there are.
    ///
    /// # Errors
    /// [`DriverError::Absent`] without a driver; if it does not start.
    fn count(&self) -> Result<u32, DriverError>;

    /// Takes a card into use.
    ///
    /// # Errors
    /// If there is no such card, or it does not come up.
    fn open(&self, ordinal: u32) -> Result<Self::Driver, DriverError>;
}

/// A card in use. See the module's text for order, threads and what is unsafe.
///
/// Every call fails with the card's error once the card has one that is
/// [fatal](DriverError::is_fatal), and that can be of any kernel that ran before. Handles are of
/// the card that gave them; those of another card, or given back, are an error if the
/// implementation can see it.
pub trait Driver: Send + Sync + Debug + 'static {
    // ── The card ────────────────────────────────────────────────────────────────────────────

    /// What is known of the card.
    fn card(&self) -> &Card;

    /// Memory that is free now, for this process and all others.
    ///
    /// # Errors
    /// See the trait's text.
    fn memory(&self) -> Result<Memory, DriverError>;

    /// Waits for all work of all streams.
    ///
    /// # Errors
    /// If a kernel failed.
    fn synchronize(&self) -> Result<(), DriverError>;

    /// Forgets an error of an earlier call that concerned that call alone, such as refused
    /// memory, so that no later call reports it again; waits for all work, and says whether the
    /// card still works.
    ///
    /// # Errors
    /// If the error is fatal: no card forgets such a one.
    fn clear_error(&self) -> Result<(), DriverError>;

    /// To be called in a loop that waits for a kernel to write into mapped memory. It lets the
    /// CPU rest for some nanoseconds; where kernels run on the same CPU, it gives them time.
    ///
    /// # Errors
    /// If a kernel failed: the value would never come. Not every implementation looks.
    fn pause(&self) -> Result<(), DriverError>;

    // ── Modules ─────────────────────────────────────────────────────────────────────────────

    /// Loads that of `images` which is for this card. All of its code is on the card after this
    /// and [`Self::function`]: nothing is loaded later.
    ///
    /// # Errors
    /// [`DriverError::NoImage`]; if memory is short.
    fn load(&self, module: &'static str, images: &[Image]) -> Result<ModuleId, DriverError>;

    /// Gives a module back. None of its kernels may be running or be launched again; a card
    /// reports that if it happens.
    ///
    /// # Errors
    /// See the trait's text.
    fn unload(&self, module: ModuleId) -> Result<(), DriverError>;

    /// A kernel of a module, ready to be launched with up to [`MOST_SHARED`] bytes.
    ///
    /// # Errors
    /// If the module has none of that name, or it takes other arguments.
    fn function(&self, module: ModuleId, kernel: &Signature) -> Result<FunctionId, DriverError>;

    /// Queues a kernel. The arguments are copied.
    ///
    /// # Errors
    /// If the extent is not one that cards have, or `args` has another size than the kernel's
    /// signature. That a kernel fails is told by a later call.
    ///
    /// # Safety
    /// `args` must be the struct that the kernel takes, and with it the kernel must touch only
    /// memory that is there until the work is done, and that nobody else touches meanwhile
    /// unless both only read or use atomic operations.
    unsafe fn launch(
        &self,
        function: FunctionId,
        extent: Extent,
        args: &[u8],
        stream: StreamId,
    ) -> Result<(), DriverError>;

    // ── Streams and events ──────────────────────────────────────────────────────────────────

    /// A new stream, which waits for no other.
    ///
    /// # Errors
    /// See the trait's text.
    fn stream_create(&self) -> Result<StreamId, DriverError>;

    /// Gives a stream back. What is queued in it is still done.
    ///
    /// # Errors
    /// See the trait's text.
    fn stream_destroy(&self, stream: StreamId) -> Result<(), DriverError>;

    /// Waits for all work of a stream.
    ///
    /// # Errors
    /// If a kernel failed, or the stream is being captured.
    fn stream_synchronize(&self, stream: StreamId) -> Result<(), DriverError>;

    /// Whether all work of a stream is done.
    ///
    /// # Errors
    /// As [`Self::stream_synchronize`].
    fn stream_query(&self, stream: StreamId) -> Result<bool, DriverError>;

    /// Lets what is queued in `stream` from now on wait for the latest record of `event`, or
    /// for nothing if it was never recorded.
    ///
    /// # Errors
    /// See the trait's text; while capturing, if the record is not part of the capture.
    fn stream_wait_event(&self, stream: StreamId, event: EventId) -> Result<(), DriverError>;

    /// Lets what is queued in `stream` from now on wait until the word at `address` is `value`
    /// or beyond it (their difference, as a signed number, is not negative).
    ///
    /// # Errors
    /// If [`Card::can_wait_value`] does not hold.
    ///
    /// # Safety
    /// The word must be there until the wait has ended.
    unsafe fn stream_wait_value(
        &self,
        stream: StreamId,
        address: DevicePtr,
        value: u32,
    ) -> Result<(), DriverError>;

    /// A new event.
    ///
    /// # Errors
    /// See the trait's text.
    fn event_create(&self, usage: EventUse) -> Result<EventId, DriverError>;

    /// Gives an event back. Waits for it that are queued stay.
    ///
    /// # Errors
    /// See the trait's text.
    fn event_destroy(&self, event: EventId) -> Result<(), DriverError>;

    /// Puts the event behind all that is queued in the stream. The record before counts no more.
    ///
    /// # Errors
    /// See the trait's text.
    fn event_record(&self, event: EventId, stream: StreamId) -> Result<(), DriverError>;

    /// Whether the latest record has been reached, or there is none.
    ///
    /// # Errors
    /// If a kernel failed; if the record was captured.
    fn event_query(&self, event: EventId) -> Result<bool, DriverError>;

    /// Waits for the latest record.
    ///
    /// # Errors
    /// As [`Self::event_query`].
    fn event_synchronize(&self, event: EventId) -> Result<(), DriverError>;

    /// Milliseconds between two records that have been reached.
    ///
    /// # Errors
    /// If one has not, or was not made for timing.
    fn elapsed(&self, start: EventId, end: EventId) -> Result<f32, DriverError>;

    // ── Graphs ──────────────────────────────────────────────────────────────────────────────

    /// From now on work that this thread puts into the stream is kept instead of done, also that
    /// of other streams that wait for an event recorded in it. Arguments, addresses and lengths
    /// are those at the time of the call; a graph never looks at the caller's variables again.
    ///
    /// # Errors
    /// If the stream is being captured already.
    fn begin_capture(&self, stream: StreamId) -> Result<(), DriverError>;

    /// Ends a capture where it began, on the same thread.
    ///
    /// # Errors
    /// If a call in between spoilt it, which ends it as well.
    fn end_capture(&self, stream: StreamId) -> Result<GraphId, DriverError>;

    /// Prepares a graph for launching.
    ///
    /// # Errors
    /// If memory is short.
    fn instantiate(&self, graph: GraphId) -> Result<ExecId, DriverError>;

    /// Gives a captured graph back. What was made of it stays.
    ///
    /// # Errors
    /// See the trait's text.
    fn graph_destroy(&self, graph: GraphId) -> Result<(), DriverError>;

    /// Gives a prepared graph back. It must not be running.
    ///
    /// # Errors
    /// See the trait's text.
    fn exec_destroy(&self, exec: ExecId) -> Result<(), DriverError>;

    /// Queues all of a graph's work. A graph runs once at a time: a second launch waits.
    ///
    /// # Errors
    /// If the stream is being captured.
    ///
    /// # Safety
    /// What was promised for each of its launches and copies when they were captured must hold
    /// now, and until the work is done.
    unsafe fn graph_launch(&self, exec: ExecId, stream: StreamId) -> Result<(), DriverError>;

    // ── Memory ──────────────────────────────────────────────────────────────────────────────

    /// Memory of the card, aligned to 256 bytes. It holds anything.
    ///
    /// # Errors
    /// [out of memory](DriverError::is_out_of_memory); if `bytes` is zero, or a stream of this
    /// thread is being captured.
    fn allocate(&self, bytes: usize) -> Result<DevicePtr, DriverError>;

    /// Gives the memory back.
    ///
    /// # Errors
    /// If nothing was allocated at `address`.
    ///
    /// # Safety
    /// No work that is queued, and no graph that is launched again, may use it.
    unsafe fn free(&self, address: DevicePtr) -> Result<(), DriverError>;

    /// Pinned memory of the host. It holds anything.
    ///
    /// # Errors
    /// [out of memory](DriverError::is_out_of_memory) where the system grants no more of it,
    /// which on Windows and under WSL is soon.
    fn host_allocate(&self, bytes: usize) -> Result<HostMemory, DriverError>;

    /// Gives the memory back.
    ///
    /// # Errors
    /// If nothing was allocated there.
    ///
    /// # Safety
    /// Neither the host nor any queued work may use it.
    unsafe fn host_free(&self, memory: HostMemory) -> Result<(), DriverError>;

    /// Pins memory of the host that is there already, and returns where the card finds it.
    ///
    /// # Errors
    /// Where the system does not grant it. It is not pinned then, and [`Self::clear_error`]
    /// should follow.
    ///
    /// # Safety
    /// The bytes must be there, and stay where they are until [`Self::host_unregister`]; while
    /// work uses them, nobody else may, unless both only read.
    unsafe fn host_register(
        &self,
        start: NonNull<u8>,
        bytes: usize,
    ) -> Result<DevicePtr, DriverError>;

    /// Ends that.
    ///
    /// # Errors
    /// If no such memory is registered.
    ///
    /// # Safety
    /// No queued work may use it.
    unsafe fn host_unregister(&self, start: NonNull<u8>) -> Result<(), DriverError>;

    /// Queues a copy to the card. From memory that is not pinned, it is done before this
    /// returns, after all that is queued in the stream.
    ///
    /// # Errors
    /// See the trait's text.
    ///
    /// # Safety
    /// Both sides must have so many bytes until the copy is done, and those of the host must not
    /// change meanwhile.
    unsafe fn copy_to_device(
        &self,
        to: DevicePtr,
        from: NonNull<u8>,
        bytes: usize,
        stream: StreamId,
    ) -> Result<(), DriverError>;

    /// Queues a copy to the host. To memory that is not pinned, it is done before this returns.
    ///
    /// # Errors
    /// See the trait's text.
    ///
    /// # Safety
    /// Both sides must have so many bytes until the copy is done, and nobody may look at those of
    /// the host meanwhile.
    unsafe fn copy_to_host(
        &self,
        to: NonNull<u8>,
        from: DevicePtr,
        bytes: usize,
        stream: StreamId,
    ) -> Result<(), DriverError>;

    /// Queues a copy within the card. Both sides must not overlap.
    ///
    /// # Errors
    /// See the trait's text.
    ///
    /// # Safety
    /// Both sides must have so many bytes until the copy is done, and nobody else may use them
    /// meanwhile, unless both only read.
    unsafe fn copy(
        &self,
        to: DevicePtr,
        from: DevicePtr,
        bytes: usize,
        stream: StreamId,
    ) -> Result<(), DriverError>;

    /// Queues setting bytes of the card's memory to `value`.
    ///
    /// # Errors
    /// See the trait's text.
    ///
    /// # Safety
    /// There must be so many bytes until it is done, and nobody else may use them meanwhile.
    unsafe fn fill(
        &self,
        to: DevicePtr,
        value: u8,
        bytes: usize,
        stream: StreamId,
    ) -> Result<(), DriverError>;
}
