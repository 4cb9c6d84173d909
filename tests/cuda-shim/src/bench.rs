//! Memory for kernels on trial.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::marker::PhantomData;

use bytemuck::{AnyBitPattern, NoUninit};
use v4_cuda::args::Args;

use crate::run::{Kernel, LaunchError, Order, Shape, allow, forbid};

/// Bytes before and after every region, which nobody may write.
const RED_ZONE: usize = 1024;
/// Regions are aligned as a card's allocations are.
const ALIGNMENT: usize = 256;
/// NaNs, as f32 and as both halves, and no two neighbouring bytes the same.
const POISON: [u8; 4] = 0xffa5_ffa5u32.to_le_bytes();

/// Why a launch on a [`Bench`] failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BenchError {
    /// A thread broke a rule.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// There is no kernel of this name.
    #[error("no kernel {0}")]
    Unknown(String),
    /// A kernel wrote outside of the region with this number, in order of creation.
    #[error("kernel {kernel} wrote outside of region {region}")]
    Outside {
        /// Which kernel.
        kernel: &'static str,
        /// Which region.
        region: usize,
    },
}

/// Values in the memory of a [`Bench`].
#[derive(Debug)]
pub struct Region<T> {
    index: usize,
    address: u64,
    len: usize,
    values: PhantomData<T>,
}

impl<T> Clone for Region<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Region<T> {}

impl<T> Region<T> {
    /// Its address, for arguments of kernels.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The address of value `index`, which may be the one past the last.
    pub fn at(&self, index: usize) -> u64 {
        assert!(index <= self.len, "beyond the region");
        self.address + (index * size_of::<T>()) as u64
    }

    /// How many values it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Memory for kernels on trial, and the order in which their threads run.
///
/// Launches are safe to call as far as kernels keep to their regions: one that does not may
/// write anywhere, which is what red zones and the build with sanitizers are there to find.
pub struct Bench {
    order: Order,
    regions: Vec<Allocation>,
}

impl Bench {
    /// Without any memory yet.
    pub fn new(order: Order) -> Self {
        Self {
            order,
            regions: Vec::new(),
        }
    }

    /// A bench for each order that a test should try: forward, reversed, and two at random.
    pub fn of_each_order() -> impl Iterator<Item = Self> {
        let orders = [
            Order::Forward,
            Order::Reversed,
            Order::Random(1),
            Order::Random(2),
        ];
        orders.into_iter().map(Self::new)
    }

    /// The order of threads.
    pub fn order(&self) -> Order {
        self.order
    }

    /// A region with these values.
    pub fn put<T: NoUninit>(&mut self, values: &[T]) -> Region<T> {
        let region = self.region(values.len());
        let bytes = bytemuck::cast_slice(values);
        self.regions[region.index].write(bytes);
        region
    }

    /// A region of `len` values that are NaNs, or what else the poison means.
    pub fn space<T: AnyBitPattern>(&mut self, len: usize) -> Region<T> {
        self.region(len)
    }

    /// What the region holds now.
    pub fn get<T: AnyBitPattern + NoUninit>(&self, region: Region<T>) -> Vec<T> {
        let bytes = self.regions[region.index].read();
        let mut values = vec![T::zeroed(); region.len];
        bytemuck::cast_slice_mut(&mut values).copy_from_slice(&bytes);
        values
    }

    /// Overwrites the region.
    pub fn set<T: NoUninit>(&mut self, region: Region<T>, values: &[T]) {
        assert_eq!(values.len(), region.len, "as many values as there were");
        self.regions[region.index].write(bytemuck::cast_slice(values));
    }

    /// Runs a kernel to its end.
    ///
    /// # Errors
    /// If there is no such kernel, a thread breaks a rule, or anything was written next to a
    /// region.
    pub fn launch<A: Args>(
        &mut self,
        name: &str,
        shape: Shape,
        args: &A,
    ) -> Result<(), BenchError> {
        let kernel = Kernel::named(name).ok_or_else(|| BenchError::Unknown(name.to_owned()))?;
        // SAFETY: by this type's contract, the addresses in the arguments are those of regions,
        // which are this bench's own; nothing else refers to their memory.
        unsafe { kernel.run(shape, args, self.order) }?;
        match self.regions.iter().position(|region| !region.is_whole()) {
            Some(region) => Err(BenchError::Outside {
                kernel: kernel.name(),
                region,
            }),
            None => Ok(()),
        }
    }

    fn region<T>(&mut self, len: usize) -> Region<T> {
        let allocation = Allocation::new(len * size_of::<T>());
        let region = Region {
            index: self.regions.len(),
            address: allocation.inner() as u64,
            len,
            values: PhantomData,
        };
        self.regions.push(allocation);
        region
    }
}

/// Bytes between two red zones, all poison at first.
struct Allocation {
    start: *mut u8,
    bytes: usize,
}

impl Allocation {
    fn new(bytes: usize) -> Self {
        let layout = Self::layout(bytes);
        // SAFETY: the red zones make the size positive.
        let start = unsafe { alloc(layout) };
        if start.is_null() {
            handle_alloc_error(layout);
        }
        for at in (0..layout.size()).step_by(POISON.len()) {
            // SAFETY: within the allocation, whose size is a multiple of the poison's.
            unsafe { start.add(at).cast::<[u8; 4]>().write(POISON) };
        }
        let this = Self { start, bytes };
        for (start, bytes) in this.red_zones() {
            // SAFETY: a part of the allocation; `drop` takes it back.
            unsafe { forbid(start, bytes) };
        }
        this
    }

    fn layout(bytes: usize) -> Layout {
        let size = RED_ZONE + bytes.next_multiple_of(POISON.len()) + RED_ZONE;
        Layout::from_size_align(size, ALIGNMENT).expect("a small region")
    }

    fn inner(&self) -> *mut u8 {
        // SAFETY: the red zone before it is part of the allocation.
        unsafe { self.start.add(RED_ZONE) }
    }

    /// Start and length of what lies before and after the bytes.
    fn red_zones(&self) -> [(*mut u8, usize); 2] {
        let after = RED_ZONE + self.bytes;
        let rest = Self::layout(self.bytes).size() - after;
        // SAFETY: within the allocation.
        [
            (self.start, RED_ZONE),
            (unsafe { self.start.add(after) }, rest),
        ]
    }

    fn write(&mut self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.bytes);
        // SAFETY: so many bytes follow, and the slice is not part of the allocation, whose
        // memory is never lent out.
        unsafe {
            self.inner()
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
        };
    }

    fn read(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes];
        // SAFETY: as many bytes as there are between the red zones, all of them written.
        unsafe {
            bytes
                .as_mut_ptr()
                .copy_from_nonoverlapping(self.inner(), self.bytes)
        };
        bytes
    }

    /// Whether the red zones are as they were.
    fn is_whole(&self) -> bool {
        let whole = |(start, bytes): (*mut u8, usize)| {
            // SAFETY: a part of the allocation.
            unsafe { allow(start, bytes) };
            // SAFETY: as above, all of it written when it was made.
            let zone = unsafe { std::slice::from_raw_parts(start, bytes) };
            // The allocation is aligned, so that a place's poison is known from its address.
            let at = (start as usize) % POISON.len();
            let (head, rest) = zone.split_at((POISON.len() - at) % POISON.len());
            let whole = head == &POISON[at..][..head.len()]
                && rest.as_chunks().0.iter().all(|word| *word == POISON);
            // SAFETY: as above; `drop` takes it back.
            unsafe { forbid(start, bytes) };
            whole
        };
        self.red_zones().into_iter().all(whole)
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        for (start, bytes) in self.red_zones() {
            // SAFETY: a part of the allocation.
            unsafe { allow(start, bytes) };
        }
        // SAFETY: allocated with the same layout.
        unsafe { dealloc(self.start, Self::layout(self.bytes)) };
    }
}
