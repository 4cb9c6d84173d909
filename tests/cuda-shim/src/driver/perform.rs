//! Doing what was queued.

use std::ffi::c_int;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use v4_cuda::driver::code;

use super::Inner;
use super::arena::Place;
use super::failure::Failure;
use super::host::Kind;
use super::state::{Function, Work};
use crate::run::{Order, Shape};

/// Where addresses can be. Numbers below are sizes and counts; above, nothing of a process is.
const ADDRESSES: Range<u64> = 1 << 40..1 << 47;

unsafe extern "C" {
    fn shim_trap_arm();
    fn shim_trap_disarm() -> c_int;
}

impl Inner {
    /// Does work that is ready, `number` of the kernels so far. The card's memory must be open.
    pub(super) fn perform(&self, work: &Work, number: u64) -> Result<(), Failure> {
        match work {
            Work::Kernel {
                function,
                extent,
                args,
            } => {
                self.check_addresses(function, args)
                    .map_err(|why| Failure::new(code::ILLEGAL_ADDRESS, why.text))?;
                let shape = Shape {
                    grid: extent.grid,
                    block: extent.block,
                    shared_bytes: extent.shared,
                };
                self.run(function, shape, args, number)?;
                if self.state().faults.alters == Some(function.kernel.name()) {
                    self.alter(args);
                }
                Ok(())
            }
            Work::ToDevice { to, from, bytes } => {
                self.check_device(*to, *bytes)?;
                self.check_pinned(*from, *bytes)?;
                copy(*to, *from, *bytes);
                Ok(())
            }
            Work::ToHost { to, from, bytes } => {
                self.check_device(*from, *bytes)?;
                self.check_pinned(*to, *bytes)?;
                copy(*to, *from, *bytes);
                Ok(())
            }
            Work::Within { to, from, bytes } => {
                self.check_device(*to, *bytes)?;
                self.check_device(*from, *bytes)?;
                copy(*to, *from, *bytes);
                Ok(())
            }
            Work::Fill { to, value, bytes } => {
                self.check_device(*to, *bytes)?;
                // SAFETY: so many bytes of a live allocation, and memory is open.
                unsafe { (*to as *mut u8).write_bytes(*value, *bytes) };
                Ok(())
            }
            Work::Reach(_) | Work::Await(_) | Work::AwaitValue { .. } | Work::Graph { .. } => {
                Ok(())
            }
        }
    }

    /// Flips a bit of the value that the first address of the arguments names.
    fn alter(&self, args: &[u8]) {
        let words = args.as_chunks::<8>().0.iter();
        let mut addresses = words.map(|word| u64::from_ne_bytes(*word) as usize);
        let live = |address: &usize| matches!(self.arena.place(*address), Place::Live(n) if n > 0);
        if let Some(address) = addresses.find(live) {
            // SAFETY: a byte of a live allocation, and memory is open.
            unsafe { *(address as *mut u8) ^= 4 };
        }
    }

    fn run(
        &self,
        function: &Function,
        shape: Shape,
        args: &[u8],
        number: u64,
    ) -> Result<(), Failure> {
        let order = match self.options.order {
            Order::Random(seed) => Order::Random(seed ^ number.wrapping_mul(0x9e37_79b9)),
            order => order,
        };
        // SAFETY: faults of this thread's fibers until `disarm` are taken for the kernel's.
        unsafe { shim_trap_arm() };
        // SAFETY: the addresses in the arguments have been looked up: they are memory of this
        // card, or pinned; the rest is the promise of whoever launched it.
        let done = unsafe { function.kernel.run_bytes(shape, args, order) };
        // SAFETY: it was armed on this thread.
        let trapped = unsafe { shim_trap_disarm() } != 0;
        if let Err(error) = done {
            let code = match trapped {
                true => code::ILLEGAL_ADDRESS,
                false => code::LAUNCH_FAILED,
            };
            return Err(Failure::new(code, error.0));
        }
        match self.arena.damage().or_else(|| self.host.damage()) {
            Some(where_to) => Err(Failure::new(
                code::ILLEGAL_ADDRESS,
                format!("kernel {} wrote {where_to}", function.kernel.name()),
            )),
            None => Ok(()),
        }
    }

    /// Looks up everything in the arguments that may be an address.
    pub(super) fn check_addresses(&self, function: &Function, args: &[u8]) -> Result<(), Failure> {
        let can_be = |word: &usize| function.signature.addresses >> word & 1 == 1;
        for offset in (0..args.len() / 8).filter(can_be).map(|word| 8 * word) {
            let bytes = args[offset..offset + 8].try_into().expect("eight bytes");
            let address = u64::from_ne_bytes(bytes);
            if !ADDRESSES.contains(&address) {
                continue;
            }
            let wrong = match self.arena.place(address as usize) {
                Place::Live(_) => continue,
                Place::Dead => "memory that was given back",
                Place::Nothing => "outside of every allocation",
                Place::Elsewhere => match self.host.kind(address as usize, 0) {
                    Kind::Pinned | Kind::Partly => continue,
                    Kind::Dead => "pinned memory that was given back",
                    Kind::Pageable => "no address of this card",
                },
            };
            let name = function.kernel.name();
            return Err(Failure::invalid(format!(
                "kernel {name}: {address:#x}, at byte {offset} of its arguments, is {wrong}"
            )));
        }
        Ok(())
    }

    /// Whether so many bytes from the address on are of one live allocation, or of pinned
    /// memory.
    pub(super) fn check_device(&self, address: usize, bytes: usize) -> Result<(), Failure> {
        let wrong = match self.arena.place(address) {
            Place::Live(left) if bytes <= left => return Ok(()),
            Place::Live(left) => format!("the allocation ends after {left}"),
            Place::Dead => "it was given back".to_owned(),
            Place::Nothing => "it is outside of every allocation".to_owned(),
            Place::Elsewhere => match self.host.kind(address, bytes) {
                Kind::Pinned => return Ok(()),
                Kind::Partly => "pinned memory ends within".to_owned(),
                Kind::Dead => "it is pinned memory that was given back".to_owned(),
                Kind::Pageable => "it is no memory of this card".to_owned(),
            },
        };
        Err(Failure::invalid(format!(
            "{bytes} bytes of the card's memory at {address:#x}: {wrong}"
        )))
    }

    fn check_pinned(&self, address: usize, bytes: usize) -> Result<(), Failure> {
        match self.host.kind(address, bytes) {
            Kind::Pinned => Ok(()),
            _ => Err(Failure::new(
                code::ILLEGAL_ADDRESS,
                format!("{bytes} bytes of host memory at {address:#x} are not pinned any more"),
            )),
        }
    }

    /// The word at an address, which another thread may be writing.
    pub(super) fn word(&self, address: usize) -> u32 {
        if self.check_device(address, 4).is_err() {
            return 0;
        }
        // SAFETY: four bytes that are there, aligned (checked at the call), read as an atomic.
        unsafe { AtomicU32::from_ptr(address as *mut u32) }.load(Ordering::Acquire)
    }
}

/// Copies bytes, which the host may be writing meanwhile: that is what it asked for.
fn copy(to: usize, from: usize, bytes: usize) {
    // SAFETY: both sides have been looked up: they have so many bytes, and memory is open. They
    // may overlap.
    unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
}
