//! Host memory that the card can reach.

use std::collections::BTreeMap;
use std::ptr::{self, NonNull};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::mm::{
    Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect, munmap,
};
use v4_cuda::driver::code;

use super::failure::Failure;
use super::poison;
use crate::run::{allow, forbid};

const PAGE: usize = 4096;

/// Pinned memory, of our own and of others.
#[derive(Debug, Default)]
pub struct Host(Mutex<Regions>);

#[derive(Debug, Default)]
struct Regions {
    /// By their start.
    live: BTreeMap<usize, Region>,
    /// Of our own, given back: they keep their addresses, and fault.
    dead: BTreeMap<usize, Region>,
    pinned: u64,
}

#[derive(Debug, Clone, Copy)]
struct Region {
    bytes: usize,
    /// Whole pages, with the one behind them that always faults. None for memory of others.
    mapped: Option<usize>,
}

/// What kind of memory some bytes of the host are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// All of them are pinned.
    Pinned,
    /// None of them.
    Pageable,
    /// Some of them.
    Partly,
    /// They were, and have been given back.
    Dead,
}

impl Host {
    fn regions(&self) -> MutexGuard<'_, Regions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pinned memory full of poison.
    pub fn allocate(&self, bytes: usize, limit: u64) -> Result<NonNull<u8>, Failure> {
        if bytes == 0 {
            return Err(Failure::invalid("no bytes at all"));
        }
        let mut regions = self.regions();
        regions.check_limit(bytes, limit)?;
        let mapped = bytes.next_multiple_of(PAGE) + PAGE;
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: new addresses, which nothing uses.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), mapped, flags, MapFlags::PRIVATE) };
        let start = start.map_err(|error| Failure::new(code::OUT_OF_MEMORY, error.to_string()))?;
        let at = start as usize;
        let guard = (at + mapped - PAGE) as *mut _;
        // SAFETY: the last page, just mapped.
        unsafe { mprotect(guard, PAGE, MprotectFlags::empty()) }.expect("a page of our own");
        // SAFETY: all other pages.
        unsafe { poison::fill(at..at + mapped - PAGE) };
        // SAFETY: the rest of the last page; allowed again before it is unmapped.
        unsafe { forbid((at + bytes) as *mut u8, mapped - PAGE - bytes) };
        let mapped = Some(mapped);
        regions.live.insert(at, Region { bytes, mapped });
        regions.pinned += bytes as u64;
        Ok(NonNull::new(start.cast()).expect("an address"))
    }

    /// Takes it back.
    pub fn free(&self, start: usize) -> Result<(), Failure> {
        let mut regions = self.regions();
        let Some(region) = regions.live.get(&start).copied() else {
            return Err(Failure::invalid(match regions.dead.contains_key(&start) {
                true => "pinned memory that was given back before",
                false => "not the start of pinned memory",
            }));
        };
        let Some(mapped) = region.mapped else {
            return Err(Failure::invalid(
                "memory that was registered, not allocated",
            ));
        };
        let damaged = region.damage(start);
        regions.live.remove(&start);
        regions.dead.insert(start, region);
        regions.pinned -= region.bytes as u64;
        // SAFETY: nobody uses it, by the caller's promise; whoever does is meant to fault.
        let dropped = unsafe { madvise(start as *mut _, mapped - PAGE, Advice::LinuxDontNeed) };
        dropped.expect("pages of our own");
        // SAFETY: as above.
        let closed = unsafe { mprotect(start as *mut _, mapped - PAGE, MprotectFlags::empty()) };
        closed.expect("pages of our own");
        match damaged {
            Some(what) => Err(Failure::new(code::ILLEGAL_ADDRESS, what)),
            None => Ok(()),
        }
    }

    /// Pins memory of others.
    pub fn register(&self, start: usize, bytes: usize, limit: u64) -> Result<(), Failure> {
        if bytes == 0 {
            return Err(Failure::invalid("no bytes at all"));
        }
        let mut regions = self.regions();
        if regions.kind(start, bytes) != Kind::Pageable {
            let text = "some of it is pinned already";
            return Err(Failure::new(code::HOST_MEMORY_ALREADY_REGISTERED, text));
        }
        regions.check_limit(bytes, limit)?;
        let mapped = None;
        regions.live.insert(start, Region { bytes, mapped });
        regions.pinned += bytes as u64;
        Ok(())
    }

    /// Ends that.
    pub fn unregister(&self, start: usize) -> Result<(), Failure> {
        let mut regions = self.regions();
        match regions.live.get(&start) {
            Some(Region {
                mapped: None,
                bytes,
            }) => {
                regions.pinned -= *bytes as u64;
                regions.live.remove(&start);
                Ok(())
            }
            _ => Err(Failure::new(
                code::HOST_MEMORY_NOT_REGISTERED,
                "not the start of registered memory",
            )),
        }
    }

    /// What kind of memory these bytes are.
    pub fn kind(&self, start: usize, bytes: usize) -> Kind {
        self.regions().kind(start, bytes)
    }

    /// Says where pinned memory was written beyond its end, if it was.
    pub fn damage(&self) -> Option<String> {
        let regions = self.regions();
        let mut live = regions.live.iter();
        live.find_map(|(start, region)| region.damage(*start))
    }

    /// Describes what is still pinned.
    pub fn leaks(&self) -> Vec<String> {
        let regions = self.regions();
        let live = regions.live.values();
        live.map(|region| match region.mapped {
            Some(_) => format!("{} bytes of pinned memory", region.bytes),
            None => format!("the registration of {} bytes", region.bytes),
        })
        .collect()
    }
}

impl Regions {
    fn check_limit(&self, bytes: usize, limit: u64) -> Result<(), Failure> {
        let all = self.pinned + bytes as u64;
        if all <= limit {
            return Ok(());
        }
        let text = format!("{all} bytes would be pinned; the limit is {limit}");
        Err(Failure::new(code::OUT_OF_MEMORY, text))
    }

    fn kind(&self, start: usize, bytes: usize) -> Kind {
        let end = start.saturating_add(bytes);
        let meets = |regions: &BTreeMap<usize, Region>| {
            let found = regions
                .range(..end.max(start.saturating_add(1)))
                .next_back();
            let found = found.map(|(at, region)| (*at, at + region.bytes));
            found.filter(|(_, last)| *last > start)
        };
        match meets(&self.live) {
            Some((first, last)) if first <= start && end <= last => Kind::Pinned,
            Some(_) => Kind::Partly,
            None if meets(&self.dead).is_some() => Kind::Dead,
            None => Kind::Pageable,
        }
    }
}

impl Region {
    fn damage(&self, start: usize) -> Option<String> {
        let end = start + self.bytes;
        let last = start + self.mapped? - PAGE;
        // SAFETY: the rest of the last page, which is mapped and belongs to nobody.
        let at = unsafe { poison::first_change(end..last) }?;
        let (beyond, bytes) = (at - end, self.bytes);
        Some(format!(
            "{beyond} bytes beyond the end of {bytes} bytes of pinned memory"
        ))
    }
}

impl Drop for Regions {
    fn drop(&mut self) {
        for (start, region) in self.live.iter().chain(&self.dead) {
            if let Some(mapped) = region.mapped {
                let rest = mapped - PAGE - region.bytes;
                // SAFETY: forbidden by `allocate`.
                unsafe { allow((start + region.bytes) as *mut u8, rest) };
                // SAFETY: mapped by `allocate`, and the card is gone.
                let _ = unsafe { munmap(*start as *mut _, mapped) };
            }
        }
    }
}
