//! The card's memory: addresses that only kernels and copies can use.
//!
//! A large range of addresses is reserved. What is allocated in it becomes accessible while the
//! shim does work, and only then: the host's code, which is not to touch it, faults at any other
//! time. (More than 16 MiB, or than 64 pieces, stay accessible: closing takes a time that grows with
//! them.) Between allocations lie red zones that are checked after every kernel. What was given back
//! is never used again: its pages fault, and the rest is watched like a red zone.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::mm::{
    Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect, munmap,
};

use super::poison;
use crate::run::{allow, forbid};

const PAGE: usize = 4096;
/// Bytes around each allocation that nobody may write.
const RED_ZONE: usize = 512;
/// What a card aligns allocations to.
const ALIGNMENT: usize = 256;
/// More than so many bytes are not closed.
const MOST_CLOSED: usize = 16 << 20;
/// The same of pieces: each is a call of the system.
const MOST_SPANS: usize = 64;
/// Addresses are not used twice, so there must be many more than bytes.
const RESERVED: usize = 1 << 38;

/// The memory of one card.
pub struct Arena {
    base: usize,
    layout: Mutex<Layout>,
}

#[derive(Default)]
struct Layout {
    /// Bytes of the range that have been given out, red zones and all.
    top: usize,
    /// How many need the memory open.
    users: usize,
    /// Whether it is.
    is_open: bool,
    /// Whole pages that are accessible while it is open, in order.
    spans: Vec<Range<usize>>,
    /// Allocations by their start: their bytes.
    live: BTreeMap<usize, usize>,
    /// Those given back.
    dead: BTreeMap<usize, usize>,
    zones: Vec<Zone>,
    used: u64,
}

/// Bytes that must stay poison.
struct Zone {
    bytes: Range<usize>,
    /// Start and length of the allocation that they surround.
    of: (usize, usize),
}

/// What lies at an address.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// So many bytes from there on belong to an allocation.
    Live(usize),
    /// Memory that was given back.
    Dead,
    /// Never allocated, or a red zone.
    Nothing,
    /// Not the memory of this card.
    Elsewhere,
}

impl Arena {
    /// A card's memory, all of it free.
    pub fn new() -> Self {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: new addresses, which nothing uses.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), RESERVED, ProtFlags::empty(), flags) };
        let base = base.expect("addresses are free") as usize;
        let layout = Mutex::new(Layout::default());
        Self { base, layout }
    }

    fn layout(&self) -> MutexGuard<'_, Layout> {
        self.layout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that are allocated.
    pub fn used(&self) -> u64 {
        self.layout().used
    }

    /// Makes the memory accessible until what it returns is dropped.
    pub fn open(&self) -> Open<'_> {
        let mut layout = self.layout();
        layout.users += 1;
        if !layout.is_open {
            layout.is_open = true;
            let spans = layout.spans.iter();
            spans.for_each(|span| protect(span, MprotectFlags::READ | MprotectFlags::WRITE));
        }
        Open(self)
    }

    /// Bytes full of poison.
    pub fn allocate(&self, bytes: usize) -> Option<usize> {
        let _open = self.open();
        let mut layout = self.layout();
        let start = (self.base + layout.top + RED_ZONE).next_multiple_of(ALIGNMENT);
        let end = start.checked_add(bytes)?;
        if end.checked_add(RED_ZONE + PAGE)? > self.base + RESERVED {
            return None;
        }
        let all = start - RED_ZONE..end + RED_ZONE;
        layout.top = all.end - self.base;
        layout.used += bytes.next_multiple_of(ALIGNMENT) as u64;
        layout.live.insert(start, bytes);
        let pages = all.start / PAGE * PAGE..all.end.next_multiple_of(PAGE);
        // The first page may be accessible already.
        protect(&pages, MprotectFlags::READ | MprotectFlags::WRITE);
        match layout.spans.last_mut() {
            Some(last) if last.end >= pages.start => last.end = pages.end,
            _ => layout.spans.push(pages),
        }
        // SAFETY: in whole pages that were just made accessible, and nobody's yet.
        unsafe { poison::fill(all.clone()) };
        let of = (start, bytes);
        layout.watch(all.start..start, of);
        layout.watch(end..all.end, of);
        Some(start)
    }

    /// Takes an allocation back, or says why it can't.
    pub fn free(&self, start: usize) -> Result<(), &'static str> {
        let _open = self.open();
        let mut layout = self.layout();
        let Some(bytes) = layout.live.remove(&start) else {
            return Err(match layout.dead.contains_key(&start) {
                true => "memory that was given back before",
                false => "not the start of an allocation",
            });
        };
        layout.used -= bytes.next_multiple_of(ALIGNMENT) as u64;
        layout.dead.insert(start, bytes);
        let end = start + bytes;
        let pages = start.next_multiple_of(PAGE)..end / PAGE * PAGE;
        let rests = match pages.is_empty() {
            true => [start..end, end..end],
            false => {
                layout.close_for_good(&pages);
                [start..pages.start, pages.end..end]
            }
        };
        for rest in rests {
            // SAFETY: of an allocation that nobody uses any more, and open.
            unsafe { poison::fill(rest.clone()) };
            layout.watch(rest, (start, bytes));
        }
        Ok(())
    }

    /// What lies at an address.
    pub fn place(&self, address: usize) -> Place {
        if !(self.base..self.base + RESERVED).contains(&address) {
            return Place::Elsewhere;
        }
        let layout = self.layout();
        let before = |map: &BTreeMap<usize, usize>| {
            let found = map.range(..=address).next_back();
            found.map(|(start, bytes)| start + bytes)
        };
        match (before(&layout.live), before(&layout.dead)) {
            (Some(end), _) if address <= end => Place::Live(end - address),
            (_, Some(end)) if address < end => Place::Dead,
            _ => Place::Nothing,
        }
    }

    /// Says which allocation was written beyond, if any was.
    pub fn damage(&self) -> Option<String> {
        let _open = self.open();
        let layout = self.layout();
        let damaged = layout.zones.iter().find_map(|zone| {
            // SAFETY: zones lie in the pages of `spans`, which are open, and belong to nobody.
            let at = unsafe { poison::first_change(zone.bytes.clone()) }?;
            Some((zone, at))
        });
        let (zone, at) = damaged?;
        let (start, bytes) = zone.of;
        Some(if at < start {
            format!("{} bytes before an allocation of {bytes} bytes", start - at)
        } else if at >= start + bytes {
            let beyond = at - start - bytes;
            format!("{beyond} bytes beyond the end of an allocation of {bytes} bytes")
        } else {
            let into = at - start;
            format!("byte {into} of an allocation of {bytes} bytes that was given back")
        })
    }

    /// Describes what is still allocated.
    pub fn leaks(&self) -> Vec<String> {
        let layout = self.layout();
        let sizes = layout.live.values();
        sizes
            .map(|bytes| format!("{bytes} bytes of the card's memory"))
            .collect()
    }
}

impl Layout {
    /// Nobody may write these bytes, which are poison, from now on.
    fn watch(&mut self, bytes: Range<usize>, of: (usize, usize)) {
        // SAFETY: they are the arena's, which allows them again before it gives them back.
        unsafe { forbid(bytes.start as *mut u8, bytes.len()) };
        self.zones.push(Zone { bytes, of });
    }

    /// Makes pages that are accessible fault from now on.
    fn close_for_good(&mut self, pages: &Range<usize>) {
        // SAFETY: of an allocation that was given back; the shim's own users of memory look up
        // whether it is live.
        let dropped = unsafe {
            madvise(
                pages.start as *mut _,
                pages.end - pages.start,
                Advice::LinuxDontNeed,
            )
        };
        dropped.expect("pages of our own");
        protect(pages, MprotectFlags::empty());
        let spans = std::mem::take(&mut self.spans);
        for span in spans {
            let below = span.start..span.end.min(pages.start);
            let above = span.start.max(pages.end)..span.end;
            self.spans
                .extend([below, above].into_iter().filter(|part| !part.is_empty()));
        }
    }
}

fn protect(pages: &Range<usize>, flags: MprotectFlags) {
    // SAFETY: pages of an arena. While they are taken away, nothing of the shim's uses them, and
    // whoever else does is meant to fault.
    let done = unsafe { mprotect(pages.start as *mut _, pages.end - pages.start, flags) };
    done.expect("pages of our own");
}

impl Drop for Arena {
    fn drop(&mut self) {
        for zone in &self.layout().zones {
            // SAFETY: they were forbidden by `watch`.
            unsafe { allow(zone.bytes.start as *mut u8, zone.bytes.len()) };
        }
        // SAFETY: reserved in `new`; nobody opens it any more.
        let _ = unsafe { munmap(self.base as *mut _, RESERVED) };
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena")
            .field("used", &self.used())
            .finish_non_exhaustive()
    }
}

/// The memory is accessible as long as this lives.
#[derive(Debug)]
pub struct Open<'a>(&'a Arena);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let mut layout = self.0.layout();
        layout.users -= 1;
        let bytes: usize = layout.spans.iter().map(ExactSizeIterator::len).sum();
        let little = bytes <= MOST_CLOSED && layout.spans.len() <= MOST_SPANS;
        if layout.users == 0 && little {
            layout.is_open = false;
            let spans = layout.spans.iter();
            spans.for_each(|span| protect(span, MprotectFlags::empty()));
        }
    }
}
